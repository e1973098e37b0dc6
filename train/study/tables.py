"""All results as rows with the paper's numbers beside them, and the lines that say how they were made."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qctrun.runtime.json_files import json_text
from qctrun.runtime.measuring.metrics import STATISTICS
from qctrun.train.study.over_folds import (
    SHARE,
    Place,
    Placed,
    Summary,
    by_place,
    paper_cell,
    paper_share,
    summary,
)
from qctrun.train.study.results import SPLITS, UNITS, Result

COLUMNS = {
    "split": "How training and test data are held apart: "
    + "; ".join(f"{k}: {v}" for k, v in SPLITS.items()),
    "filter": "raw, a filter, or the line that predicts from raw BMD.",
    "mas": "Tube current-time product, mAs.",
    "quantity": "Measured quantity.",
    "unit": "Of mean, half range and interval; 1 for a number without.",
    "threshold_mg_cm3": "Of TMD and BV/TV; empty for the others.",
    "statistic": "Which statistic; `statistics` says what each one means.",
    "mean": "Mean over the folds; over those with a value where others have only a bound.",
    "half_range": "Half of largest less smallest over the folds; empty with one.",
    "ci95_low": "Lower end of the 95 % bootstrap interval clustered by vertebra, mean over the folds.",
    "ci95_high": "Upper end.",
    "bound": "<= where the mean is one of upper bounds, else empty.",
    "folds": "Folds that the mean is over.",
    "points": "Data points of the smallest fold.",
    "clusters": "Vertebrae or donors of the smallest fold.",
    "paper_mean": "The paper's number, mean over its five folds; empty where it has none.",
    "paper_half_range": "Its half range.",
    "paper_bound": "<= where the paper prints an upper bound.",
}
"""Columns of the tidy table and what they mean."""

_LEFT_OUT = (
    "rms_cv_percent",
    "lsc",
    "degrees_of_freedom",
    "icc_2_1",
    "limit_low",
    "mean",
    "psnr_db",
    "intercept",
    "limit_high",
    "mean_truth",
    "sd_truth",
)
TIDY = (*(name for name in STATISTICS if name not in _LEFT_OUT), SHARE)
"""Statistics of the tidy table; those left out follow from others or are for precision studies of patients."""

_UNITS = {"psnr_paper": "ln units", "psnr_db": "dB", "degrees_of_freedom": "1", "icc_2_1": "1", "slope": "1"}


@dataclass(frozen=True, slots=True)
class Made:
    """How results were made, for the first lines of whatever shows them.

    Attributes
    ----------
    machine, recipe : str
        In words.
    folds : int
        That were trained in the paper's split.
    seconds : float
        That all trainings took together.
    notes : tuple of str
        What a reader must know, such as a reduced schedule.
    """

    machine: str
    recipe: str
    folds: int
    seconds: float
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """One line, and one for each note."""
        folds = "1 fold" if self.folds == 1 else f"{self.folds} folds"
        trained = f"{folds} of positions; {self.seconds:.0f} s of training"
        line = f"Made on {self.machine}; recipe {self.recipe}; {trained}."
        return "\n\n".join([line, *(f"**Note: {note}**" for note in self.notes)]) + "\n"


def tidy_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """One row for each split, tube current, quantity, threshold, filter and statistic that has a value."""
    placed = by_place(results)
    rows = []
    for where in placed:
        for statistic in TIDY:
            found = summary(placed, where, statistic)
            if found is not None:
                rows.append(_row(placed, where, statistic, found))
    return rows


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one kind as comma-separated text with a header, cells empty where there is nothing."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def tidy_dictionary() -> str:
    """What the columns and statistics of the tidy table mean, as JSON."""
    columns = {name: {"Description": text} for name, text in COLUMNS.items()}
    share = "RMSE as a percentage of that of the raw scans: ratio of the means over the folds."
    return json_text({**columns, "statistics": {name: STATISTICS.get(name, share) for name in TIDY}})


def _row(placed: Placed, where: Place, statistic: str, found: Summary) -> dict[str, Any]:
    paper = paper_cell(where, statistic)
    paper_mean = paper_share(where) if statistic == SHARE else paper and paper.mean
    low, high = found.ci95 or (None, None)
    return {
        "split": where.split,
        "filter": where.filter,
        "mas": where.mas,
        "quantity": where.quantity,
        "unit": _unit(statistic, where.quantity),
        "threshold_mg_cm3": where.threshold_mg_cm3,
        "statistic": statistic,
        "mean": found.mean,
        "half_range": found.half_range,
        "ci95_low": low,
        "ci95_high": high,
        "bound": "<=" if found.is_bound else "",
        "folds": found.folds,
        "points": min(one.points for one in placed[where].values()),
        "clusters": min(one.clusters for one in placed[where].values()),
        "paper_mean": paper_mean,
        "paper_half_range": paper and paper.half_range,
        "paper_bound": "<=" if paper and paper.is_bound else "",
    }


def _unit(statistic: str, quantity: str) -> str:
    if "percent" in statistic:
        return "%"
    return _UNITS.get(statistic, UNITS[quantity])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return format(value, ".5g") if isinstance(value, float) else str(value)
