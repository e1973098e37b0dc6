"""A whole training run: simulate, train or go on, score on unseen donors, and write down what was done."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qctrun.runtime.errors import InputError
from qctrun.runtime.json_files import json_text, read_json
from qctrun.runtime.volume import Progress
from qctrun.runtime.writing.files import writing
from qctrun.train.checkpoint import CHECKPOINT, checkpoint_of, replace_file
from qctrun.train.dataset import Split, planned, scans_at, simulate
from qctrun.train.evaluate import Score, as_rows, scores
from qctrun.train.fit import State, fit
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.patches import REPETITIONS, TUBE_CURRENTS_MAS, Patches
from qctrun.train.recipe import Recipe

NOTES = "training.json"
"""What a run says of itself, beside its checkpoint; the model card is made from it."""
SCORED_MAS = (100.0, 360.0)


@dataclass(frozen=True)
class Trained:
    """What came out of a run: where it stands and how it scores, on real donors and on random-field bone."""

    state: State
    scores: dict[str, list[Score]]


def run(
    recipe: Recipe,
    out: Path,
    *,
    microct: Path | None = None,
    fields: tuple[int, int, int] = (6, 1, 2),
    threads: int | None = None,
    simulated: Progress | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> Trained:
    """Train a network and score it; called again with the same `out`, it goes on where it was.

    Parameters
    ----------
    recipe : Recipe
        Network and schedule.
    out : Path
        Folder for `checkpoint.pt`, `log.csv` and `training.json`.
    microct : Path, optional
        Folder of the public L1 micro-CT cubes; without it only random-field bone is seen.
    fields : three ints
        Random-field vertebrae for training, validation and test.
    threads : int, optional
        CPU threads of torch; all when absent.
    simulated, report : callables, optional
        Told of each phantom (done, total) and of each epoch's line in the log.

    Raises
    ------
    UsageError, InputError, OutputError
        When there is nothing to train on, `out` holds a checkpoint of another recipe or of other data, or
        `out` is not writable.
    """
    if threads:
        torch.set_num_threads(threads)
    plan = planned(microct, fields)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    checkpoint_of(out / CHECKPOINT, recipe, plan.names())  # refuses before minutes of simulation
    split = simulate(plan, progress=simulated)
    state = fit(recipe, split.train, split.validation, out, data=plan.names(), report=report)
    found = _scores(state, split)
    replace_file(out / NOTES, json_text(_notes(recipe, split, state, found)).encode())
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
    if missing := sorted({"recipe", "donors", "patches", "epochs", "scores"} - set(notes)):
        raise InputError(str(path), wanted="what a training run writes", got=f"no {', '.join(missing)}")
    return notes


def _scores(state: State, split: Split) -> dict[str, list[Score]]:
    """Real donors and simulated ones apart: they are two different questions."""
    scans = {mas: scans_at(TUBE_CURRENTS_MAS, mas, REPETITIONS) for mas in SCORED_MAS}
    found = {}
    for kind, is_field in (("micro-CT donors", False), ("random-field vertebrae", True)):
        train, test = (_of_kind(patches, is_field) for patches in (split.train, split.test))
        if len(test):
            # The BMD line is fitted to the same kind of bone where there is some.
            fitted_to = train if len(train) else split.train
            found[kind] = scores(state.network, fitted_to, test, scans, PAPER_SPACING_MM)
    return found


def _of_kind(patches: Patches, is_field: bool) -> Patches:
    kept = [
        p for p in patches.positions if patches.phantoms[p[0]].donor.startswith("random-field") == is_field
    ]
    return Patches(patches.phantoms, kept)


def _notes(recipe: Recipe, split: Split, state: State, found: dict[str, list[Score]]) -> dict[str, Any]:
    return {
        "recipe": asdict(recipe),
        "donors": split.describe(),
        "patches": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "tube_currents_mas": TUBE_CURRENTS_MAS,
        "repetitions": REPETITIONS,
        "a_f": state.scales,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "steps": state.epoch * recipe.steps_per_epoch,
        "best_validation_loss": state.best_loss,
        "seconds": round(state.seconds),
        "machine": _machine(),
        "torch": torch.__version__,
        "scores": {kind: as_rows(rows) for kind, rows in found.items()},
    }


def _machine() -> str:
    """What computed, without naming a host."""
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores, {names[0] if names else platform.machine()}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
