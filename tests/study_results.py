"""Results of a study that was never run: the paper's own numbers, or such with a few moved."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qctrun.runtime.measuring.metrics import AccuracyError, Metrics
from qctrun.runtime.measuring.reference import paper_value
from qctrun.train.study.results import QUANTITIES, Result

PAPER_FILTERS = ("raw", "BM4D", "NNBMD", "NNSP")
SD_TRUTH = {"voxel": 127.05, "BMD": 35.14, "TMD": 29.73, "BV/TV": 6.93}
MEAN_TRUTH = {"voxel": 115.9, "BMD": 115.9, "TMD": 334.54, "BV/TV": 17.3}
TRUTH = {quantity: (MEAN_TRUTH[quantity], SD_TRUTH[quantity]) for quantity in QUANTITIES}
_TABLES = {360.0: 1, 100.0: 2}


def result(
    filter_name: str,
    mas: float,
    quantity: str,
    fold: int = 1,
    split: str = "positions",
    threshold_mg_cm3: float | None = 225.0,
    points: int = 400,
    clusters: int = 5,
    **statistics: Any,
) -> Result:
    """One result with these statistics and no others; voxel and BMD have no threshold."""
    found = Metrics(points, 3, clusters, 0, **statistics)
    threshold = threshold_mg_cm3 if quantity in ("TMD", "BV/TV") else None
    return Result(split, fold, filter_name, mas, quantity, threshold, found)


def paper_result(filter_name: str, mas: float, quantity: str, fold: int = 1) -> Result:
    """What the paper prints in this row."""

    def cell(name: str) -> Any:
        return paper_value(_TABLES[mas], quantity, filter_name, name)

    statistics = {
        "mean_truth": MEAN_TRUTH[quantity],
        "sd_truth": SD_TRUTH[quantity],
        "d_avg": cell("dAvg").mean,
        "sd": cell("SD").mean,
        "rmse": cell("RMSE").mean,
        "ae_paper": AccuracyError(cell("AE").mean, cell("AE").is_bound),
        "pe": cell("PE").mean,
        "psnr_paper": cell("PSNR").mean,
        "psnr_db": cell("PSNR").mean / math.log(10),
        "adj_r2_percent": cell("adjR2").mean,
    }
    return result(filter_name, mas, quantity, fold, **statistics)


def paper_results(filters: Iterable[str] = PAPER_FILTERS) -> list[Result]:
    """Tables 1 and 2 as the results of one fold."""
    return [
        paper_result(name, mas, quantity) for mas in _TABLES for quantity in QUANTITIES for name in filters
    ]


def moved(
    results: Iterable[Result], filter_name: str, mas: float, quantity: str, **statistics: Any
) -> list[Result]:
    """The same with other statistics in one row."""
    row = (filter_name, mas, quantity)
    return [
        replace(one, metrics=replace(one.metrics, **statistics))
        if (one.filter, one.mas, one.quantity) == row
        else one
        for one in results
    ]
