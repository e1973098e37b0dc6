"""A precision study as a table, and how `qctrun metrics` is asked about it."""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

PATIENTS, VISITS = 15, 3
STUDY = ("metrics", "study.csv", "--subject", "patient", "--values", "bmd_mg_cm3")


def measured() -> tuple[Doubles, Doubles]:
    """BMD of each visit and patient, and the truth, as the table has them (two decimals)."""
    random = np.random.default_rng(0)
    truth = random.normal(110, 30, PATIENTS).round(2)
    return (truth + 1.5 + random.normal(0, 3, (VISITS, PATIENTS))).round(2), truth


def lines() -> list[str]:
    """A precision study: one row a patient and visit."""
    x, truth = measured()
    rows = [
        f"P{patient:02d},{visit + 1},{x[visit, patient]:.2f},{truth[patient]:.2f},L{patient % 5}"
        for patient in range(PATIENTS)
        for visit in range(VISITS)
    ]
    return ["patient,visit,bmd_mg_cm3,truth,level", *rows]


def values(rows: list[dict[str, str]], **where: str) -> dict[str, str]:
    """The value of each statistic in the rows where these columns say so."""
    chosen = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return {row["statistic"]: row["value"] for row in chosen}


def study() -> str:
    """The whole table as a file has it."""
    return "\n".join(lines()) + "\n"
