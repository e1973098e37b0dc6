"""The study's results over folds: where a number stands, its mean and half range, and what the paper has there."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from qctrun.runtime.measuring.metrics import Metrics
from qctrun.runtime.measuring.precision import Interval
from qctrun.runtime.measuring.reference import PaperCell, paper_value
from qctrun.train.study.results import QUANTITIES, SPLITS, Result

THRESHOLD_MG_CM3 = 225.0
"""Of the paper's tables."""
VOXEL_SD_MG_CM3 = 127.05
"""Of the truth by all rows of Tables 1 and 2; the 118.57 of Table 3 contradicts them."""
STRUCTURE = ("TMD", "BV/TV")
"""The quantities that have a threshold."""
UNTRAINED_MAS = (50.0, 200.0)
"""Tube currents that no network was trained on."""
FILTERS = ("raw", "Gaussian", "NLM", "TV", "Wiener", "BM4D", "BM4D-PSD", "NNBMD", "NNSP", "BMD line")
"""Rows of every table, in this order; others follow."""
SHARE = "rmse_percent_of_raw"
"""RMSE as a percentage of that of the raw scans: ratio of the means over folds, as the paper's own numbers."""

_PAPER_NAMES = {
    "d_avg": "dAvg",
    "sd": "SD",
    "rmse": "RMSE",
    "ae_paper": "AE",
    "pe": "PE",
    "psnr_paper": "PSNR",
    "adj_r2_percent": "adjR2",
}
_PAPER_TABLES = {360.0: 1, 100.0: 2}


class Place(NamedTuple):
    """Where in the study a number stands; all but the fold."""

    split: str
    filter: str
    mas: float
    quantity: str
    threshold_mg_cm3: float | None


Placed = Mapping[Place, Mapping[int, Metrics]]
"""The metrics by place and fold."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One statistic over folds.

    Attributes
    ----------
    mean : float
        Over the folds with a value; over the bounds where there are only bounds.
    half_range : float, optional
        Half of largest less smallest; None with one fold.
    ci95 : (low, high), optional
        Mean of the folds' bootstrap intervals.
    is_bound : bool
        An upper bound: no fold had a value.
    folds : int
        How many the mean is over.
    bounds_left_out : int
        Folds that had a bound while others had a value.
    """

    mean: float
    half_range: float | None
    ci95: Interval | None
    is_bound: bool
    folds: int
    bounds_left_out: int = 0


def place(filter_name: str, mas: float, quantity: str, split: str = "positions") -> Place:
    """A place at the paper's threshold, which only TMD and BV/TV have."""
    threshold = THRESHOLD_MG_CM3 if quantity in STRUCTURE else None
    return Place(split, filter_name, mas, quantity, threshold)


def by_place(results: Iterable[Result]) -> dict[Place, dict[int, Metrics]]:
    """The results in the order of the tables: split, tube current, quantity, threshold, filter."""
    found: dict[Place, dict[int, Metrics]] = {}
    for one in results:
        where = Place(one.split, one.filter, one.mas, one.quantity, one.threshold_mg_cm3)
        found.setdefault(where, {})[one.fold] = one.metrics
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def summary(placed: Placed, where: Place, statistic: str) -> Summary | None:
    """A statistic of `STATISTICS`, or `SHARE`, over the folds; None where no fold has it."""
    if statistic == SHARE:
        return _share(placed, where, where._replace(filter="raw"))
    folds = [one for one in placed.get(where, {}).values() if getattr(one, statistic) is not None]
    exact = [one for one in folds if not getattr(getattr(one, statistic), "is_bound", False)]
    used = exact or folds
    if not used:
        return None
    values = [_number(one, statistic) for one in used]
    pairs = [one.intervals[statistic] for one in used if statistic in one.intervals]
    ci95 = (fmean(low for low, _ in pairs), fmean(high for _, high in pairs)) if pairs else None
    return Summary(fmean(values), half_range(values), ci95, not exact, len(used), len(folds) - len(used))


def half_range(values: Sequence[float]) -> float | None:
    """Half of largest less smallest, as the paper's tables have it; None for one value."""
    return (max(values) - min(values)) / 2 if len(values) > 1 else None


def rmse_ratio_percent(placed: Placed, above: Place, below: Place) -> float | None:
    """Mean RMSE here over mean RMSE there, over the folds that both have."""
    found = _share(placed, above, below)
    return found.mean if found else None


def truth_of(results: Iterable[Result], split: str = "positions") -> dict[str, tuple[float, float]]:
    """Mean and SD of the truth by quantity, at the paper's threshold, over the test sets of all folds together."""
    placed = by_place(one for one in results if one.filter == "raw" and one.split == split)
    found = {}
    for quantity in QUANTITIES:
        # The truth is the same at every tube current.
        folds = next((placed[at] for at in placed if at == place("raw", at.mas, quantity, split)), {})
        parts = [(one.points, one.mean_truth, one.sd_truth) for one in folds.values()]
        known = [(n, m, sd) for n, m, sd in parts if m is not None and sd is not None]
        if known:
            found[quantity] = _pooled(known)
    return found


def threshold_shares(
    results: Iterable[Result], split: str = "positions"
) -> dict[tuple[str, float], dict[str, dict[float, float]]]:
    """`SHARE` by (quantity, mAs), filter and threshold, for all filters but raw."""
    placed = by_place(one for one in results if one.split == split and one.threshold_mg_cm3 is not None)
    found: dict[tuple[str, float], dict[str, dict[float, float]]] = {}
    for where in placed:
        share = summary(placed, where, SHARE)
        if share is not None and where.filter != "raw" and where.threshold_mg_cm3 is not None:
            by_filter = found.setdefault((where.quantity, where.mas), {})
            by_filter.setdefault(where.filter, {})[where.threshold_mg_cm3] = share.mean
    return found


def paper_cell(where: Place, statistic: str) -> PaperCell | None:
    """What the paper prints at this tube current, filter and threshold; None where nothing."""
    if where.threshold_mg_cm3 not in (None, THRESHOLD_MG_CM3):
        return None
    if statistic in ("mean_truth", "sd_truth"):
        return paper_value(3, where.quantity, "truth", "mean" if statistic == "mean_truth" else "SD")
    table, name = _PAPER_TABLES.get(where.mas), _PAPER_NAMES.get(statistic)
    if table is None or name is None:
        return None
    try:
        return paper_value(table, where.quantity, where.filter, name)
    except KeyError:
        return None


def paper_share(where: Place) -> float | None:
    """The paper's RMSE as a percentage of its raw RMSE."""
    cells = (paper_cell(where, "rmse"), paper_cell(where._replace(filter="raw"), "rmse"))
    return None if cells[0] is None or cells[1] is None else 100 * cells[0].mean / cells[1].mean


def _order(where: Place) -> tuple[Any, ...]:
    return (
        *_rank(where.split, tuple(SPLITS)),
        where.mas,
        *_rank(where.quantity, QUANTITIES),
        where.threshold_mg_cm3 or 0.0,
        *_rank(where.filter, FILTERS),
    )


def _rank(name: str, known: Sequence[str]) -> tuple[int, str]:
    return (known.index(name) if name in known else len(known), name)


def _number(one: Metrics, statistic: str) -> float:
    value = getattr(one, statistic)
    return float(getattr(value, "value", value))


def _share(placed: Placed, above: Place, below: Place) -> Summary | None:
    top, bottom = (_rmse(placed, one) for one in (above, below))
    common = sorted(top.keys() & bottom.keys())
    if not common:
        return None
    ratios = [100 * top[fold] / bottom[fold] for fold in common]
    mean = 100 * fmean(top[fold] for fold in common) / fmean(bottom[fold] for fold in common)
    return Summary(mean, half_range(ratios), None, False, len(common))


def _rmse(placed: Placed, where: Place) -> dict[int, float]:
    return {fold: one.rmse for fold, one in placed.get(where, {}).items() if one.rmse is not None}


def _pooled(parts: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Mean and SD of a whole from number, mean and SD (n - 1) of its parts."""
    points = sum(n for n, _, _ in parts)
    mean = sum(n * m for n, m, _ in parts) / points
    squares = sum((n - 1) * sd**2 + n * (m - mean) ** 2 for n, m, sd in parts)
    return mean, math.sqrt(squares / (points - 1))
