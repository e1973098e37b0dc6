"""One recipe trained fold after fold, and what the folds say together."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Protocol

import torch

from qctrun.runtime.volume import Progress
from qctrun.runtime.writing.files import writing
from qctrun.train.dataset import Split
from qctrun.train.evaluate import Score, from_rows
from qctrun.train.recipe import Recipe
from qctrun.train.run import read_notes
from qctrun.train.study.networks import finished, trained
from qctrun.train.study.over_folds import half_range
from qctrun.train.team import leads


class Folded(Protocol):
    """Data in folds: the study's five vertebrae, or real pairs."""

    def names(self, split: str, fold: int) -> dict[str, list[str]]:
        """What a checkpoint is told of the data of a fold."""
        ...

    def patches(self, split: str, fold: int) -> Split:
        """The patches of a fold."""
        ...


def train_folds(
    recipe: Recipe,
    out: Path,
    data: Folded,
    split: str,
    folds: int,
    *,
    device: str = "auto",
    threads: int | None = None,
    say: Callable[[str], None],
    before: str = "",
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Progress | None = None,
) -> list[list[Score]]:
    """Train a network for each fold in `fold-1`, `fold-2` ... of `out`, or go on; finished folds are left alone.

    Parameters
    ----------
    recipe : Recipe
        Network, loss and schedule; the same for every fold.
    out : Path
        Folder of the folds' folders.
    data : Folded
        Asked for a fold's patches when it is to be trained.
    split : "positions", "vertebrae" or "donors"
        What the folds hold apart.
    folds : int
        Folds 1 to this are trained.
    device, report, progress
        As of `run.run`.
    threads : int, optional
        CPU threads of torch; all when absent.
    say : callable
        Told which fold comes.
    before : str
        Said first, where a fold is left to be trained.

    Returns
    -------
    list of list of Score
        The scores of each fold on its test positions; empty in all processes of a team but the first.

    Raises
    ------
    UsageError, InputError, DeviceError, OutputError
        As `run.run`; a fold's folder that holds another run is refused before anything is simulated.
    """
    if threads:
        torch.set_num_threads(threads)
    runs = {fold: out / f"fold-{fold}" for fold in range(1, folds + 1)}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    left = [fold for fold, at in runs.items() if not finished(recipe, at, data.names(split, fold))]
    if left and before:
        say(before)
    for fold in left:
        names, patches = data.names(split, fold), partial(data.patches, split, fold)
        say(f"fold {fold} of {folds}")
        trained(recipe, runs[fold], names, patches, device=device, report=report, progress=progress)
    return [_scores(at) for at in runs.values()] if leads() else []


def shares_text(folds: Sequence[Sequence[Score]]) -> str:
    """RMSE in percent of the raw scans', mean and half range over the folds, as a table for people."""
    placed: dict[tuple[float, str, str], list[Score]] = {}
    for row in (row for fold in folds for row in fold if row.filter != "raw"):
        placed.setdefault((row.mas, row.quantity, row.filter), []).append(row)
    # Not every donor was scanned at every tube current.
    lines = [
        f"{mas:5g} {quantity:>8} {name:>8} {_mean_and_half_range(rows)}"
        for (mas, quantity, name), rows in sorted(placed.items(), key=lambda item: item[0][0])
    ]
    return "\n".join(["{:>5} {:>8} {:>8} {:>9}".format("mAs", "quantity", "filter", "% of raw"), *lines])


def _mean_and_half_range(rows: Sequence[Score]) -> str:
    shares = [row.share_of_raw for row in rows]
    spread = half_range(shares)
    found = f"{fmean(shares):9.1f}" + ("" if spread is None else f" +- {spread:.1f}")
    return "      n/a" if "nan" in found else found


def _scores(out: Path) -> list[Score]:
    """All scores that a finished run has written down."""
    return [score for rows in read_notes(out)["scores"].values() for score in from_rows(rows)]
