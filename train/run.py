"""A whole training run: simulate, train or go on, score on what was never seen, and write down what was done."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qctrun.runtime.errors import InputError
from qctrun.runtime.json_files import json_text, read_json
from qctrun.runtime.volume import Progress
from qctrun.runtime.writing.files import replace_file, writing
from qctrun.train.checkpoint import CHECKPOINT, checkpoint_of
from qctrun.train.dataset import Split, planned, simulate
from qctrun.train.evaluate import Score, as_rows, scores
from qctrun.train.fit import fit
from qctrun.train.losses import sphere_mm
from qctrun.train.machine import cpu_words
from qctrun.train.patches import Patches
from qctrun.train.raster import REPETITIONS, TUBE_CURRENTS_MAS
from qctrun.train.recipe import Recipe
from qctrun.train.state import State
from qctrun.train.team import leads, processes

NOTES = "training.json"
"""What a run says of itself, beside its checkpoint; the model card is made from it."""
SCORED_MAS = (100.0, 360.0)
SIMULATED = ("random-field", "vertebra")
"""How the names of those begin who never lived."""
REAL_PAIRS = "real pairs"
"""What scores are called that come from scans of real scanners."""


@dataclass(frozen=True)
class Trained:
    """What came out of a run: where it stands and how it scores, on each kind of bone."""

    state: State
    scores: dict[str, list[Score]]


def simulated(
    recipe: Recipe,
    out: Path,
    *,
    microct: Path | None = None,
    fields: tuple[int, int, int] = (6, 1, 2),
    progress: Progress | None = None,
) -> Split:
    """Simulate the scans of a run, once it is known that the run can begin.

    Parameters
    ----------
    recipe, out
        As for `run`.
    microct : Path, optional
        Folder of the public L1 micro-CT cubes; without it only random-field bone is seen.
    fields : three ints
        Random-field vertebrae for training, validation and test.
    progress : callable, optional
        Told of each phantom (done, total).

    Raises
    ------
    UsageError, InputError, OutputError
        When there is nothing to train on, `out` holds a checkpoint of another recipe or of other data, or
        `out` is not writable.
    """
    plan = planned(microct, fields)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    checkpoint_of(out / CHECKPOINT, recipe, plan.names())  # refuses before minutes of simulation
    return simulate(plan, progress=progress)


def run(
    recipe: Recipe,
    out: Path,
    split: Split,
    *,
    watch: Patches | None = None,
    threads: int | None = None,
    device: str = "auto",
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a network and score it; called again with the same `out`, it goes on where it was.

    Of the processes of a team only the first scores and writes; the others get no scores.

    Parameters
    ----------
    recipe : Recipe
        Network and schedule.
    out : Path
        Folder for `checkpoint.pt`, `log.csv` and `training.json`.
    split : Split
        The patches of each part, as from `simulated` or `paired.split_pairs`.
    watch : Patches, optional
        A column of the log shows the loss on these; they decide nothing.
    threads : int, optional
        CPU threads of torch; all when absent.
    device : str
        "cpu", "cuda", "cuda:N" or "auto".
    report, progress : callables, optional
        Told of each epoch's line in the log, and (done, total) of the steps within each epoch.

    Raises
    ------
    UsageError, InputError, DeviceError, OutputError
        As `fit`.
    """
    if threads:
        torch.set_num_threads(threads)
    state = fit(
        recipe,
        split.train,
        split.validation,
        out,
        data=split.names,
        watch=watch,
        device=device,
        report=report,
        progress=progress,
    )
    if not leads():
        return Trained(state, {})
    machine = _machine(next(state.network.parameters()).device)
    state.network.to("cpu")
    found = _scores(recipe.loss.upper(), state, split)
    replace_file(out / NOTES, json_text(_notes(recipe, split, state, found, machine)).encode())
    return Trained(state, found)


def read_notes(out: Path) -> dict[str, Any]:
    """What a finished run wrote about itself.

    Raises
    ------
    InputError
        When the run has not finished, or the file is not what a run writes.
    """
    path = out / NOTES
    if not path.is_file():
        raise InputError(
            str(path), wanted="a finished training run", got="no such file", mend="type: qctrun train"
        )
    notes = read_json(path)
    if missing := sorted(
        {"recipe", "donors", "patches", "epochs", "seconds_per_epoch", "scores"} - set(notes)
    ):
        raise InputError(str(path), wanted="what a training run writes", got=f"no {', '.join(missing)}")
    return notes


def _scores(name: str, state: State, split: Split) -> dict[str, list[Score]]:
    """Real donors and simulated ones apart: they are two different questions."""
    if split.about:
        found = scores(state.network, split.train, split.test, split.test.currents_mas, name=name)
        return {REAL_PAIRS: found}
    return _simulated_scores(name, state, split)


def _simulated_scores(name: str, state: State, split: Split) -> dict[str, list[Score]]:
    found = {}
    for kind, is_field in (("micro-CT donors", False), ("random-field vertebrae", True)):
        train, test = (_of_kind(patches, is_field) for patches in (split.train, split.test))
        if len(test):
            # The BMD line is fitted to the same kind of bone where there is some.
            fitted_to = train if len(train) else split.train
            found[kind] = scores(state.network, fitted_to, test, SCORED_MAS, name=name)
    return found


def _of_kind(patches: Patches, is_field: bool) -> Patches:
    kept = [p for p in patches.positions if patches.phantoms[p[0]].donor.startswith(SIMULATED) == is_field]
    return Patches(patches.phantoms, kept)


def _notes(
    recipe: Recipe, split: Split, state: State, found: dict[str, list[Score]], machine: str
) -> dict[str, Any]:
    return {
        "recipe": asdict(recipe),
        "donors": split.describe(),
        "patches": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        **(split.about or {"tube_currents_mas": TUBE_CURRENTS_MAS, "repetitions": REPETITIONS}),
        "spacing_mm": split.train.spacing_mm,
        "sphere_mm": round(sphere_mm(split.train.spacing_mm), 2),
        "a_f": state.scales,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "steps": state.epoch * recipe.steps_per_epoch,
        "best_validation_loss": state.best_loss,
        "seconds": round(state.seconds),
        "seconds_per_epoch": _middle(state, "epoch_seconds"),
        "pairs_per_second": _middle(state, "pairs_per_second"),
        "machine": machine,
        "torch": torch.__version__,
        "scores": {kind: as_rows(rows) for kind, rows in found.items()},
    }


def _middle(state: State, clock: str) -> float:
    """The median over epochs: what else the machine did in some of them hardly counts."""
    return round(statistics.median(line[clock] for line in state.lines), 2)


def _machine(device: torch.device) -> str:
    """What computed, without naming a host."""
    if device.type == "cuda":
        return f"{processes()} x {torch.cuda.get_device_name(device)}"
    return cpu_words()
