"""Training: Adam on the parameter loss, stopped early, resumed exactly after a kill."""

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qctrun.runtime.errors import InputError
from qctrun.runtime.writing.files import writing
from qctrun.train.augment import augmented
from qctrun.train.checkpoint import CHECKPOINT, KEPT, checkpoint_of, save_checkpoint
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.losses import ParameterLoss, PatchSphere, scales_of
from qctrun.train.network import NNSP, crop_halo
from qctrun.train.patches import Patches
from qctrun.train.recipe import Recipe

SCALE_BATCHES = 32
"""Unfiltered batches from which a_f is taken."""


@dataclass
class State:
    """A run between two epochs: all that a checkpoint holds."""

    network: NNSP
    optimizer: torch.optim.Adam
    schedule: torch.optim.lr_scheduler.ReduceLROnPlateau
    scales: dict[str, float]
    epoch: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)


def fit(
    recipe: Recipe,
    train: Patches,
    validation: Patches,
    out: Path,
    *,
    data: dict[str, list[str]] | None = None,
    validation_scans: Sequence[int] = (0, 3, 6),
    report: Callable[[dict[str, float]], None] | None = None,
) -> State:
    """Train a network, or go on with the checkpoint in `out`.

    Writes `checkpoint.pt` after every epoch (whole or not at all) and a line to `log.csv`. Each epoch draws from
    its own seed, so a run that was killed and resumed gives the same network as one that was not.

    `data` names the phantoms of each part; a checkpoint of others is refused, because it has seen what this
    run may call unseen.

    Raises
    ------
    InputError
        When a set of patches is empty, `out` holds a checkpoint of another recipe or other data, or the loss
        is not finite.
    """
    for part, patches in (("train on", train), ("validate with", validation)):
        if not len(patches):
            raise InputError("patches", wanted=f"some to {part}", got="none")
    out.mkdir(parents=True, exist_ok=True)
    loss = ParameterLoss(PatchSphere(PAPER_SPACING_MM))
    data = data or {}
    state = _start(recipe, checkpoint_of(out / CHECKPOINT, recipe, data), loss, train)
    loss.scales = state.scales
    while state.epoch < recipe.epochs and not _finished(recipe, state):
        began = time.monotonic()
        train_loss = _epoch(recipe, state, loss, train)
        valid_loss = validation_loss(state.network, loss, validation, validation_scans)
        state.epoch += 1
        state.seconds += time.monotonic() - began
        state.schedule.step(valid_loss)
        if valid_loss < state.best_loss:
            state.best_loss, state.best_epoch = valid_loss, state.epoch
            state.best_weights = {name: value.clone() for name, value in state.network.state_dict().items()}
        line = _line(state, train_loss, valid_loss)
        save_checkpoint(out / CHECKPOINT, recipe, data, _parts(state))
        _log(out / "log.csv", line)
        if report:
            report(line)
    state.network.load_state_dict(state.best_weights)
    return state


def validation_loss(
    network: NNSP, loss: ParameterLoss, patches: Patches, scans: Sequence[int], batch: int = 32
) -> float:
    """Mean loss over all patches of a set with each of these scans."""
    pairs = list(patches.pairs(scans))
    total = 0.0
    with torch.inference_mode():
        for first in range(0, len(pairs), batch):
            chunk = pairs[first : first + batch]
            scan, truth = patches.batch(chunk)
            total += float(loss(network(scan), truth)) * len(chunk)
    return total / len(pairs)


def _start(recipe: Recipe, saved: dict[str, Any] | None, loss: ParameterLoss, train: Patches) -> State:
    torch.manual_seed(recipe.seed)
    network = NNSP(recipe.channels, residual=recipe.residual)
    network.start_alive()
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=max(1, recipe.patience // 4)
    )
    if saved is None:
        return State(network, optimizer, schedule, _unfiltered_scales(recipe, loss, train))
    network.load_state_dict(saved["weights"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    return State(network, optimizer, schedule, **{name: saved[name] for name in KEPT})


def _parts(state: State) -> dict[str, Any]:
    return {
        "weights": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        **{name: getattr(state, name) for name in KEPT},
    }


def _unfiltered_scales(recipe: Recipe, loss: ParameterLoss, train: Patches) -> dict[str, float]:
    rng = np.random.default_rng((recipe.seed, 0))
    batches = (
        train.batch(train.random_pairs(recipe.truths_per_step, recipe.scans_per_truth, rng))
        for _ in range(SCALE_BATCHES)
    )
    return scales_of([loss.terms(crop_halo(scan), truth) for scan, truth in batches])


def _epoch(recipe: Recipe, state: State, loss: ParameterLoss, train: Patches) -> float:
    rng = np.random.default_rng((recipe.seed, state.epoch + 1))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    total = 0.0
    for _ in range(recipe.steps_per_epoch):
        pairs = train.random_pairs(recipe.truths_per_step, recipe.scans_per_truth, rng)
        scan, truth = augmented(train.batch(pairs), generator)
        value = loss(state.network(scan.contiguous(memory_format=torch.channels_last_3d)), truth)
        state.optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        total += float(value.detach())
    if not np.isfinite(total):
        raise InputError("training", wanted="a finite loss", got=str(total), mend="lower --learning-rate")
    return total / recipe.steps_per_epoch


def _finished(recipe: Recipe, state: State) -> bool:
    late = recipe.minutes is not None and state.seconds > 60 * recipe.minutes
    return late or state.epoch - state.best_epoch >= recipe.patience


def _line(state: State, train_loss: float, valid_loss: float) -> dict[str, float]:
    return {
        "epoch": state.epoch,
        "train_loss": train_loss,
        "validation_loss": valid_loss,
        "best_validation_loss": state.best_loss,
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "seconds": state.seconds,
    }


def _log(path: Path, line: dict[str, float]) -> None:
    fresh = not path.exists()
    with writing(path), path.open("a", newline="") as file:
        writer = csv.DictWriter(file, line)
        if fresh:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" for name, value in line.items()})
