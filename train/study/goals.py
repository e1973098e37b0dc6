"""What the tables must show, as data, and how far the results are from it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qctrun.runtime.measuring.reference import paper_value
from qctrun.train.study.measure import THRESHOLDS_MG_CM3
from qctrun.train.study.over_folds import (
    SHARE,
    STRUCTURE,
    UNTRAINED_MAS,
    Place,
    Placed,
    by_place,
    paper_cell,
    paper_share,
    place,
    rmse_ratio_percent,
    summary,
)
from qctrun.train.study.results import Result
from qctrun.train.study.tables import Made

COMPARED_MAS = (100.0, 360.0)

Found = list[tuple[str, float | None]]
"""Where, and the value there."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing that the tables must show.

    Attributes
    ----------
    name : str
        What is measured; all in percent.
    measure : callable
        From the results by place and the filter's name to what was found; the worst counts.
    paper : float, optional
        What the paper has.
    at_least, aim : float, float or None
        What has to be reached, and what should be.
    more_is_better : bool
        Else less is.
    strict : bool
        The limit itself is not enough.
    """

    name: str
    measure: Callable[[Placed, str], Found]
    paper: float | None
    at_least: float
    aim: float | None = None
    more_is_better: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal, what was found, where it was worst, and `aim`, `met`, `not met` or `not measured`."""

    goal: Goal
    ours: float | None
    where: str
    verdict: str


def goals() -> tuple[Goal, ...]:
    """The table of what must be shown."""
    return (
        _share_goal("TMD", 100.0, 17.2, 12.0),
        _share_goal("TMD", 360.0, 61.5, 45.0),
        _share_goal("BV/TV", 100.0, 12.2, 9.0),
        _share_goal("BV/TV", 360.0, 18.8, 14.0),
        _r2_goal(100.0, aim=60.0),
        _r2_goal(360.0, aim=75.0),
        _line_goal("TMD"),
        _line_goal("BV/TV"),
        _partial_r2_goal(),
        _share_goal("BMD", 100.0, 100.0, None),
        _share_goal("BMD", 360.0, 100.0, None),
        _less_dose_goal("TMD"),
        _less_dose_goal("BV/TV"),
        Goal(
            "TMD and BV/TV RMSE, % of raw, every threshold and tube current",
            _by_threshold,
            None,
            100.0,
            strict=True,
        ),
        Goal("TMD and BV/TV RMSE, % of raw, currents never trained on", _untrained, None, 100.0, strict=True),
        _nnbmd_goal(100.0),
        _nnbmd_goal(360.0),
        Goal(
            "TMD and BV/TV RMSE, % of raw: unseen donors, % of unseen simulated vertebrae, same network",
            _donors,
            None,
            125.0,
        ),
    )


def judged(results: Iterable[Result], filter_name: str = "NNSP") -> list[Judged]:
    """Every goal held against the results of one filter."""
    placed = by_place(results)
    return [_judged(goal, goal.measure(placed, filter_name)) for goal in goals()]


def goal_rows(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """The goals as rows of a table; numbers in percent."""
    return [
        {
            "goal": one.goal.name,
            "paper": one.goal.paper,
            "at_least": one.goal.at_least,
            "aim": one.goal.aim,
            "ours": one.ours,
            "worst_at": one.where,
            "verdict": one.verdict,
        }
        for one in found
    ]


def goals_markdown(found: Sequence[Judged], made: Made) -> str:
    """The goals as a table, after how they were made."""
    lines = [
        "# What the tables must show\n",
        made.markdown(),
        "All numbers in percent. Simulated bone in the paper's split where nothing else is said; TMD and BV/TV at "
        "225 mg/cm³ where no threshold is named. Where a goal spans several places the worst one counts.\n",
        "| goal | paper | at least | aim | ours | worst at | verdict |",
        "|---|--:|--:|--:|--:|---|---|",
        *(_line(one) for one in found),
    ]
    return "\n".join(lines) + "\n"


def _share_goal(quantity: str, mas: float, at_least: float, aim: float | None) -> Goal:
    paper = paper_share(place("NNSP", mas, quantity))
    return Goal(
        f"{quantity} RMSE, % of raw, {mas:g} mAs",
        lambda placed, name: [("", _mean(placed, place(name, mas, quantity), SHARE))],
        paper,
        at_least,
        paper if aim is None else aim,
    )


def _r2_goal(mas: float, aim: float) -> Goal:
    paper = paper_value(1 if mas == 360.0 else 2, "TMD", "NNSP", "adjR2").mean
    return Goal(
        f"R² of TMD, {mas:g} mAs",
        lambda placed, name: [("", _mean(placed, place(name, mas, "TMD"), "adj_r2_percent"))],
        paper,
        paper,
        aim,
        more_is_better=True,
    )


def _line_goal(quantity: str) -> Goal:
    def measure(placed: Placed, name: str) -> Found:
        places = [place(name, mas, quantity, "donors") for mas in _currents(placed, name, "donors")]
        return [
            (f"{at.mas:g} mAs", rmse_ratio_percent(placed, at, at._replace(filter="BMD line")))
            for at in places
        ]

    name = f"{quantity} RMSE, % of the BMD line's, unseen donors, every tube current"
    return Goal(name, measure, None, 100.0, 50.0, strict=True)


def _partial_r2_goal() -> Goal:
    def measure(placed: Placed, name: str) -> Found:
        return [
            (f"{mas:g} mAs", _mean(placed, place(name, mas, "TMD", "donors"), "partial_r2_percent"))
            for mas in _currents(placed, name, "donors")
        ]

    name = "partial R² of TMD given raw BMD, unseen donors, every tube current"
    return Goal(name, measure, None, 20.0, 50.0, more_is_better=True, strict=True)


def _less_dose_goal(quantity: str) -> Goal:
    def measure(placed: Placed, name: str) -> Found:
        return [("", rmse_ratio_percent(placed, place(name, 100.0, quantity), place("raw", 360.0, quantity)))]

    paper = _paper_ratio(place("NNSP", 100.0, quantity), place("raw", 360.0, quantity))
    return Goal(f"{quantity} RMSE at 100 mAs, % of raw at 360 mAs", measure, paper, 100.0, strict=True)


def _nnbmd_goal(mas: float) -> Goal:
    def measure(placed: Placed, name: str) -> Found:
        return [("", rmse_ratio_percent(placed, place(name, mas, "TMD"), place("NNBMD", mas, "TMD")))]

    paper = _paper_ratio(place("NNSP", mas, "TMD"), place("NNBMD", mas, "TMD"))
    return Goal(f"TMD RMSE, % of NNBMD's, {mas:g} mAs", measure, paper, 100.0, strict=True)


def _by_threshold(placed: Placed, name: str) -> Found:
    """At every threshold and tube current of training, in the paper's split."""
    currents = [mas for mas in _currents(placed, name, "positions") if mas not in UNTRAINED_MAS]
    places = [
        Place("positions", name, mas, quantity, threshold)
        for quantity in STRUCTURE
        for threshold in THRESHOLDS_MG_CM3
        for mas in currents
    ]
    return [
        (f"{at.quantity}, {at.threshold_mg_cm3:g} mg/cm³, {at.mas:g} mAs", _mean(placed, at, SHARE))
        for at in places
    ]


def _untrained(placed: Placed, name: str) -> Found:
    places = [place(name, mas, quantity) for quantity in STRUCTURE for mas in UNTRAINED_MAS]
    return [(f"{at.quantity}, {at.mas:g} mAs", _mean(placed, at, SHARE)) for at in places]


def _donors(placed: Placed, name: str) -> Found:
    found: Found = []
    for quantity in STRUCTURE:
        for mas in COMPARED_MAS:
            simulated, donors = (
                _mean(placed, place(name, mas, quantity, split), SHARE) for split in ("simulated", "donors")
            )
            ratio = None if simulated is None or donors is None else 100 * donors / simulated
            found.append((f"{quantity}, {mas:g} mAs", ratio))
    return found


def _currents(placed: Placed, name: str, split: str) -> list[float]:
    return sorted({at.mas for at in placed if at.filter == name and at.split == split})


def _mean(placed: Placed, where: Place, statistic: str) -> float | None:
    found = summary(placed, where, statistic)
    return found.mean if found else None


def _paper_ratio(above: Place, below: Place) -> float | None:
    top, bottom = (paper_cell(one, "rmse") for one in (above, below))
    return None if top is None or bottom is None else 100 * top.mean / bottom.mean


def _judged(goal: Goal, found: Found) -> Judged:
    values = [(value, where) for where, value in found if value is not None]
    if not values or len(values) < len(found):
        return Judged(goal, None, "", "not measured")
    worst, where = (min if goal.more_is_better else max)(values)
    if goal.aim is not None and _reached(goal, worst, goal.aim):
        return Judged(goal, worst, where, "aim")
    return Judged(goal, worst, where, "met" if _reached(goal, worst, goal.at_least) else "not met")


def _reached(goal: Goal, value: float, limit: float) -> bool:
    if value == limit:
        return not goal.strict
    return (value > limit) == goal.more_is_better


def _line(one: Judged) -> str:
    sign = (">" if one.goal.more_is_better else "<") if one.goal.strict else ""
    sign = sign or ("≥" if one.goal.more_is_better else "≤")
    limits = ["–" if limit is None else f"{sign} {limit:.1f}" for limit in (one.goal.at_least, one.goal.aim)]
    numbers = ["–" if value is None else f"{value:.1f}" for value in (one.goal.paper, one.ours)]
    verdict = f"**{one.verdict}**" if one.verdict == "not met" else one.verdict
    cells = [one.goal.name, numbers[0], *limits, numbers[1], one.where, verdict]
    return "| " + " | ".join(cells) + " |"
