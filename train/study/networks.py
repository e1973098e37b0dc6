"""The study's networks: trained fold by fold, gone on with after a stop, and applied to whole volumes."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from qctrun.runtime.digests import sha256_of
from qctrun.runtime.volume import FloatArray, Progress
from qctrun.train.checkpoint import CHECKPOINT, checkpoint_of, trained_network
from qctrun.train.dataset import Split
from qctrun.train.fit import LOG
from qctrun.train.network import NNSP
from qctrun.train.patches import Patches
from qctrun.train.recipe import Recipe
from qctrun.train.run import NOTES
from qctrun.train.run import run as train
from qctrun.train.study.subjects import Applied, Filter

WATCHED = 4
"""Of the test patches every fourth gives the test curve of the log, which decides nothing."""


@dataclass(frozen=True)
class Run:
    """A training of the study.

    Attributes
    ----------
    recipe : Recipe
        Network, loss and schedule.
    split : str
        As in `results.SPLITS`.
    fold : int
        From 1 on.
    """

    recipe: Recipe
    split: str
    fold: int

    @property
    def folder(self) -> str:
        """Name of its folder in the study's working folder."""
        return f"{self.recipe.name}-{self.split}-{self.fold}"


def trained(
    run: Run,
    work: Path,
    names: dict[str, list[str]],
    split: Callable[[], Split],
    *,
    device: str = "auto",
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train one network, or go on with it; the folder of the run, at once when it is finished.

    Parameters
    ----------
    run : Run
        What is trained.
    work : Path
        The run's folder is made in it.
    names : mapping of part to names
        What the data are called; a checkpoint of others is refused.
    split : callable
        Simulates the data; not called for a run that is finished.
    device, report, progress
        As of `run.run`.

    Raises
    ------
    InputError, OutputError, DeviceError
        As `run.run`.
    """
    out = work / run.folder
    if not (finished(run.recipe, out, names) and (out / NOTES).is_file()):
        data = split()
        watch = Patches(data.test.phantoms, data.test.positions[::WATCHED])
        train(run.recipe, out, data, watch=watch, device=device, report=report, progress=progress)
    return out


def finished(recipe: Recipe, out: Path, names: dict[str, list[str]]) -> bool:
    """Whether a run of this recipe on these data has come to its end.

    Raises
    ------
    InputError
        When the folder holds a run of another recipe or of other data.
    """
    saved = checkpoint_of(out / CHECKPOINT, recipe, names)
    if saved is None:
        return False
    patient = saved["epoch"] - saved["best_epoch"] < recipe.patience
    return bool(saved["epoch"] >= recipe.epochs or not patient)


def as_filter(name: str, out: Path, device: str = "cpu") -> Applied:
    """The best network of a run as a filter of whole volumes, known by the digest of its checkpoint."""
    _, network, _ = trained_network(out / CHECKPOINT)
    return Applied(name, sha256_of(out / CHECKPOINT), _whole(network, device))


def log_of(out: Path) -> dict[str, list[float]]:
    """The columns of a run's log."""
    with (out / LOG).open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {
        name: [float(line[name]) for line in lines] for name in lines[0] if all(line[name] for line in lines)
    }


def _whole(network: NNSP, device: str) -> Filter:
    network = network.to(device)

    def apply(volume: FloatArray) -> FloatArray:
        with torch.inference_mode():
            batch = torch.from_numpy(volume)[None, None].to(device)
            filtered: FloatArray = network(batch, same=True)[0, 0].cpu().numpy()
            return filtered

    return apply
