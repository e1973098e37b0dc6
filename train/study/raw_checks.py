"""Whether the simulator's raw scans and truth are like the paper's, cell by cell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qctrun.runtime.measuring.reference import PaperCell, paper_value
from qctrun.train.study.over_folds import VOXEL_SD_MG_CM3, Place, Placed, by_place, paper_cell, place, summary
from qctrun.train.study.results import QUANTITIES, Result

RELATIVE = 0.10
"""Of SD, RMSE, AE, PE and of the truth's mean and SD."""
R2_POINTS = 5.0
OFFSET_LIMITS = {"TMD": 8.0, "BV/TV": 1.5}
"""Of dAvg, in mg/cm3 and in percentage points."""
_CHECKED = {"sd": "SD", "rmse": "RMSE", "ae_paper": "AE", "pe": "PE", "adj_r2_percent": "adj. R2"}


@dataclass(frozen=True, slots=True)
class Check:
    """One of the simulator's numbers beside the paper's.

    Attributes
    ----------
    name : str
        Tube current, quantity and statistic.
    ours : float or None
        None where it was not measured.
    paper : float
        As printed.
    limit : (low, high)
        Where ours may lie.
    met : bool
        It lies there, and is a bound where the paper prints one, and only there.
    ours_is_bound, paper_is_bound : bool
        The number is an upper bound.
    """

    name: str
    ours: float | None
    paper: float
    limit: tuple[float, float]
    met: bool
    ours_is_bound: bool = False
    paper_is_bound: bool = False

    @property
    def used(self) -> float | None:
        """How far ours is from the paper, in parts of what is allowed."""
        return None if self.ours is None else (self.ours - self.paper) / (self.limit[1] - self.paper)


def raw_checks(
    results: Iterable[Result], truth: Mapping[str, tuple[float, float]], split: str = "positions"
) -> list[Check]:
    """Hold raw rows and truth of the simulator against Tables 1-3.

    Parameters
    ----------
    results : iterable of Result
        With the filter `raw` at 360 and 100 mAs, TMD and BV/TV at 225 mg/cm3; others are not looked at.
    truth : mapping of quantity to (mean, SD)
        Over all patches.
    split : str
        Whose results.

    Returns
    -------
    list of Check
        The truth, then 360 mAs, then 100 mAs, in the paper's order. A bound of the paper is met by a bound
        whose PE is as near as other cells have to be.
    """
    placed = by_place(one for one in results if one.filter == "raw" and one.split == split)
    checks = [check for quantity in QUANTITIES for check in _truth_checks(quantity, truth.get(quantity))]
    for mas in (360.0, 100.0):
        for quantity in QUANTITIES:
            checks += _row_checks(placed, place("raw", mas, quantity, split))
    return checks


def checks_text(checks: Sequence[Check]) -> str:
    """The checks aligned for a terminal, `!!` before those not met; `used` is the part of the limit that is used up."""
    head = ("", "cell", "ours", "paper", "used", "limit")
    lines = [head, *(_line(check) for check in checks)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligns = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.ljust)
    text = [
        "  ".join(
            align(cell, width) for align, cell, width in zip(aligns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    met = sum(check.met for check in checks)
    return "\n".join([*text, f"{met} of {len(checks)} met"]) + "\n"


def check_rows(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as rows of a table."""
    return [
        {
            "cell": check.name,
            "ours": check.ours,
            "ours_bound": "<=" * check.ours_is_bound,
            "paper": check.paper,
            "paper_bound": "<=" * check.paper_is_bound,
            "used": check.used,
            "limit_low": check.limit[0],
            "limit_high": check.limit[1],
            "met": "yes" if check.met else "no",
        }
        for check in checks
    ]


def _truth_checks(quantity: str, found: tuple[float, float] | None) -> list[Check]:
    mean = paper_value(3, quantity, "truth", "mean").mean
    sd = VOXEL_SD_MG_CM3 if quantity == "voxel" else paper_value(3, quantity, "truth", "SD").mean
    ours = found or (None, None)
    papers = {"mean": mean, "SD": sd}
    return [
        _check(f"truth {quantity} {name}", value, paper, RELATIVE * paper)
        for (name, paper), value in zip(papers.items(), ours, strict=True)
    ]


def _row_checks(placed: Placed, where: Place) -> list[Check]:
    title = f"{where.mas:g} mAs {where.quantity}"
    checks = []
    if where.quantity in OFFSET_LIMITS:
        checks.append(_row_check(placed, where, "d_avg", f"{title} dAvg", OFFSET_LIMITS[where.quantity]))
    for statistic, name in _CHECKED.items():
        room = R2_POINTS if statistic == "adj_r2_percent" else None
        checks.append(_row_check(placed, where, statistic, f"{title} {name}", room))
    return checks


def _row_check(placed: Placed, where: Place, statistic: str, name: str, room: float | None) -> Check:
    paper, found = _printed(where, statistic), summary(placed, where, statistic)
    ours, is_bound = (found.mean, found.is_bound) if found else (None, False)
    near = _check(name, ours, paper.mean, RELATIVE * paper.mean if room is None else room)
    # Both bounds come from PE: where the paper prints one, PE says how near ours is.
    met = _row_check(placed, where, "pe", name, None).met if paper.is_bound else near.met
    return replace(
        near, met=met and is_bound == paper.is_bound, ours_is_bound=is_bound, paper_is_bound=paper.is_bound
    )


def _printed(where: Place, statistic: str) -> PaperCell:
    cell = paper_cell(where, statistic)
    if cell is None:
        raise KeyError((where, statistic))
    return cell


def _check(name: str, ours: float | None, paper: float, room: float) -> Check:
    low, high = paper - room, paper + room
    return Check(name, ours, paper, (low, high), ours is not None and low <= ours <= high)


def _line(check: Check) -> tuple[str, ...]:
    ours = "not measured" if check.ours is None else "<= " * check.ours_is_bound + f"{check.ours:.2f}"
    paper = "<= " * check.paper_is_bound + f"{check.paper:.2f}"
    limit = f"{check.limit[0]:.2f} to {check.limit[1]:.2f}" + ", a bound" * check.paper_is_bound
    used = "" if check.used is None else f"{check.used:+.2f}"
    return ("  " if check.met else "!!", check.name, ours, paper, used, limit)
