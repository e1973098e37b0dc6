"""The study's networks: trained fold by fold, gone on with after a stop, and applied to whole volumes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from qctrun.runtime.digests import sha256_of
from qctrun.runtime.volume import FloatArray, Progress
from qctrun.train.checkpoint import CHECKPOINT, checkpoint_of, load_checkpoint, trained_network
from qctrun.train.dataset import Split
from qctrun.train.fit import tf32
from qctrun.train.network import NNSP
from qctrun.train.patches import Patches
from qctrun.train.recipe import Recipe
from qctrun.train.run import NOTES, read_notes
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
    recipe: Recipe,
    out: Path,
    names: dict[str, list[str]],
    split: Callable[[], Split],
    *,
    device: str = "auto",
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Train one network, or go on with it; done at once when it is finished.

    Parameters
    ----------
    recipe : Recipe
        Network, loss and schedule.
    out : Path
        Folder of the run.
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
    if not finished(recipe, out, names):
        data = split()
        watch = Patches(data.test.phantoms, data.test.positions[::WATCHED])
        train(recipe, out, data, watch=watch, device=device, report=report, progress=progress)


def finished(recipe: Recipe, out: Path, names: dict[str, list[str]]) -> bool:
    """Whether a run of this recipe on these data has come to its end and has written down its scores.

    Raises
    ------
    InputError
        When the folder holds a run of another recipe or of other data.
    """
    saved = checkpoint_of(out / CHECKPOINT, recipe, names)
    if saved is None:
        return False
    late = recipe.minutes is not None and saved["seconds"] > 60 * recipe.minutes
    impatient = saved["epoch"] - saved["best_epoch"] >= recipe.patience
    ended = late or impatient or saved["epoch"] >= recipe.epochs
    # A longer run that is killed before its scores leaves those of the shorter one.
    return ended and (out / NOTES).is_file() and bool(read_notes(out)["epochs"] == saved["epoch"])


def as_filter(name: str, out: Path, device: str = "cpu") -> Applied:
    """The best network of a run as a filter of whole volumes, known by the digest of its checkpoint."""
    _, network, _ = trained_network(out / CHECKPOINT)
    return Applied(name, sha256_of(out / CHECKPOINT), _whole(network, device))


def log_of(out: Path) -> dict[str, list[float]]:
    """The columns of a run's log, those that every epoch has."""
    _, saved = load_checkpoint(out / CHECKPOINT)
    lines = saved["lines"]
    return {name: [line[name] for line in lines] for name in lines[0] if all(name in line for line in lines)}


def _whole(network: NNSP, device: str) -> Filter:
    network = network.to(device)

    def apply(volume: FloatArray) -> FloatArray:
        with torch.inference_mode(), tf32(allowed=False):
            batch = torch.from_numpy(volume)[None, None].to(device)
            filtered: FloatArray = network(batch, same=True)[0, 0].cpu().numpy()
            return filtered

    return apply
