"""The tables of a study: one row a scan, one row a specimen, and the same for a person at a terminal."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

COLUMNS = {
    "specimen": "Name of the specimen.",
    "donor": "Whose bone it is; patches of one donor are never split.",
    "tube_current_mas": "Tube current time product of the scan, mAs.",
    "repetition": "Which of the scans at this tube current.",
    "used": "true when the scan is in the dataset.",
    "accepted": "true when the study file keeps the scan although its registration is doubted.",
    "doubts": "Why the registration is doubted; empty when it is good.",
    "overlap": "Share of the reference's mask that the scan reaches, 0 to 1.",
    "metric": "Final value of the registration's metric.",
    "inverse_consistency_mm": "How far the same registration from a second start ends from the first.",
    "inverse_consistency_deg": "... and by how much it is turned against the first.",
    "local_shift_mm": "What shift local patches still have after registration.",
    "tilt_deg": "By how much the scan is turned against the reference.",
    "shift_mm": "How far the middle of the reference is moved.",
    "slope": "Density in mg/cm3 = slope times HU + intercept.",
    "slope_low": "Lower bound of the slope; n/a where it is not known.",
    "slope_high": "Upper bound of the slope.",
    "intercept_mg_cm3": "Intercept of that line.",
    "r2": "Share of the variance of the low-pass maps that the line explains.",
    "positions": "Patches that the scan gives to the dataset.",
}
"""Columns of `pairs.csv` in their order, and what they mean."""

POSITION_COLUMNS = ("specimen", "donor", "scans", "scans_used", "positions")

_SHORT = {
    "specimen": "specimen",
    "scan": "scan",
    "verdict": "verdict",
    "overlap": "overlap",
    "inverse_consistency_mm": "second start mm",
    "local_shift_mm": "local shift mm",
    "tilt_deg": "tilt deg",
    "slope": "slope",
    "r2": "R2",
}


def csv_text(rows: Sequence[Row], columns: Iterable[str] = COLUMNS) -> str:
    """Rows as comma-separated text with a header; `n/a` where a value is not known."""
    text, names = io.StringIO(), list(columns)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row[name], ".8g") for name in names} for row in rows)
    return text.getvalue()


def position_rows(rows: Iterable[Row]) -> list[Row]:
    """One row a specimen: how many scans it has, how many are used, and how many patches each of these gives."""
    found: dict[str, Row] = {}
    for row in rows:
        own = found.setdefault(
            row["specimen"],
            {
                "specimen": row["specimen"],
                "donor": row["donor"],
                "scans": 0,
                "scans_used": 0,
                "positions": 0,
            },
        )
        own["scans"] += 1
        own["scans_used"] += bool(row["used"])
        own["positions"] = max(own["positions"], row["positions"])
    return list(found.values())


def table_text(rows: Sequence[Row]) -> str:
    """What a person looks at first: scans with their verdicts, then the positions by specimen and by donor."""
    scans = [{**row, "scan": _scan(row), "verdict": verdict_of(row)} for row in rows]
    specimens = position_rows(rows)
    return (
        _aligned(scans, _SHORT)
        + "\n"
        + _aligned(specimens, {name: name.replace("_", " ") for name in POSITION_COLUMNS})
        + "\n"
        + _by_donor(specimens)
    )


def verdict_of(row: Row) -> str:
    """`good`, `DOUBTED, left out` or `doubted, accepted`."""
    if not row["doubts"]:
        return "good"
    return "doubted, accepted" if row["used"] else "DOUBTED, left out"


def _by_donor(specimens: Sequence[Row]) -> str:
    """Positions of each donor: what a split by donors has to deal out."""
    totals: dict[str, int] = {}
    for row in specimens:
        totals[row["donor"]] = totals.get(row["donor"], 0) + row["positions"]
    words = ", ".join(f"{donor} {count}" for donor, count in totals.items())
    return f"positions by donor: {words}; in all {sum(totals.values())}\n"


def _scan(row: Row) -> str:
    return f"{row['tube_current_mas']:g}mAs-{row['repetition']}"


def _aligned(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = [list(names.values()), *([_cell(row[name], ".3f") for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def _cell(value: Any, number: str) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return str(value).lower()
    return format(value, number) if isinstance(value, float) else str(value)
