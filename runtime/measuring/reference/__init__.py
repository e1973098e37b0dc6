"""The published numbers that reproductions are held against: Tables 1-3 of arXiv:2011.02382."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class PaperCell:
    """One cell of the paper's tables.

    Attributes
    ----------
    table : int
        1 at 360 mAs, 2 at 100 mAs, 3 the truth.
    mas : int or None
        Tube current-time product, mAs; None for the truth.
    quantity : str
        `voxel`, `BMD`, `TMD` or `BV/TV`; the last two at 225 mg/cm3.
    unit : str
        `mg/cm3`, `%` or `ln units`.
    filter : str
        `raw`, `BM4D`, `NNBMD`, `NNSP` or `truth`.
    statistic : str
        `dAvg`, `SD`, `RMSE`, `AE`, `PE`, `PSNR` or `adjR2`; `mean` or `SD` of the truth.
    mean, half_range : float, float or None
        Over the five folds. Table 3 has no ranges.
    is_bound : bool
        Printed as "<=": an upper bound.
    note : str
        What the printed number needs to be understood.
    """

    table: int
    mas: int | None
    quantity: str
    unit: str
    filter: str
    statistic: str
    mean: float
    half_range: float | None
    is_bound: bool
    note: str


@cache
def paper_tables() -> tuple[PaperCell, ...]:
    """All cells, in the paper's order."""
    text = (files(__name__) / "paper_tables.csv").read_text(encoding="utf-8")
    return tuple(_cell(row) for row in csv.DictReader(text.splitlines()))


def paper_value(table: int, quantity: str, filter_name: str, statistic: str) -> PaperCell:
    """The one cell of these coordinates.

    Raises
    ------
    KeyError
        When the paper prints no such cell.
    """
    wanted = (table, quantity, filter_name, statistic)
    for cell in paper_tables():
        if (cell.table, cell.quantity, cell.filter, cell.statistic) == wanted:
            return cell
    raise KeyError(wanted)


def _cell(row: dict[str, str]) -> PaperCell:
    number, _, words = row["table"].partition(":")
    return PaperCell(
        table=int(number),
        mas=int(words.split()[1]) if words.endswith("mAs") else None,
        quantity=row["quantity"],
        unit=row["unit"],
        filter=row["filter"],
        statistic=row["statistic"],
        mean=float(row["mean"]),
        half_range=float(row["half_range"]) if row["half_range"] else None,
        is_bound="upper bound" in row["note"],
        note=row["note"],
    )
