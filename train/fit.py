"""Training: Adam on a parameter loss, stopped early, resumed exactly after a kill."""

import csv
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import Progress
from qctrun.runtime.writing.files import replace_file
from qctrun.train.augment import drawn, turned_alike
from qctrun.train.checkpoint import CHECKPOINT, checkpoint_of, save_checkpoint
from qctrun.train.losses import Loss, loss_of, scales_of
from qctrun.train.network import NNSP, crop_halo
from qctrun.train.patches import Patches
from qctrun.train.recipe import Recipe
from qctrun.train.state import State, rate_at, started
from qctrun.train.team import Team, gathered

SCALE_BATCHES = 32
"""Unfiltered batches from which a_f is taken."""

VALIDATION_BATCH = 32
LOG = "log.csv"


def fit(
    recipe: Recipe,
    train: Patches,
    validation: Patches,
    out: Path,
    *,
    data: dict[str, list[str]] | None = None,
    watch: Patches | None = None,
    device: str = "auto",
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Progress | None = None,
) -> State:
    """Train a network, or go on with the checkpoint in `out`.

    Writes `checkpoint.pt` after every epoch (whole or not at all), and `log.csv` with a line an epoch. Each epoch
    draws from its own seed, so a run that was killed and resumed gives the same network as one that was not.

    Parameters
    ----------
    recipe : Recipe
        Network, loss and schedule.
    train, validation : Patches
        What is learnt from and what stops the training; a_f comes from `train`.
    out : Path
        Folder of the run.
    data : mapping of part to names of phantoms, optional
        A checkpoint of others is refused, because it has seen what this run may call unseen.
    watch : Patches, optional
        The log's column `watch_loss` is the loss on these; they decide nothing.
    device : str
        "cpu", "cuda", "cuda:N" or "auto", which takes CUDA where it is.
    report : callable, optional
        Told of each epoch's line in the log.
    progress : callable, optional
        Told (done, total) of the steps of each epoch.

    Raises
    ------
    InputError
        When a set of patches is empty, `out` holds a checkpoint of another recipe or other data, the loss is
        not finite, the truths of a step cannot be shared evenly by the processes, or there are no repetitions
        to take extra noise from.
    DeviceError
        When the device is not there.
    OutputError
        When the disk refuses; the checkpoint before is still there then.

    Notes
    -----
    Started by `torchrun`, every process calls this alike and gets the same state; the first one writes.
    """
    for part, patches in (("train on", train), ("validate with", validation)):
        if not len(patches):
            raise InputError("patches", wanted=f"some to {part}", got="none")
    watched = {"validation_loss": validation} | ({"watch_loss": watch} if watch is not None else {})
    data = data or {}
    team = gathered(device)
    train = train.to(team.device)
    out.mkdir(parents=True, exist_ok=True)
    run = _started(recipe, checkpoint_of(out / CHECKPOINT, recipe, data), train, team)
    state = run.state
    while state.epoch < recipe.epochs and not _finished(recipe, state):
        _one_epoch(run, train, watched, progress if team.leads else None)
        if team.leads:
            save_checkpoint(out / CHECKPOINT, recipe, data, state.parts())
            _log(out / LOG, state.lines)
            if report:
                report(state.lines[-1])
        team.wait()
    state.network.load_state_dict(state.best_weights)
    return state


def validation_loss(network: NNSP, loss: Loss, patches: Patches, *, team: Team | None = None) -> float:
    """Mean loss over all patches of a set, each in its first scan at each tube current, fp32.

    Each process of a team sees its share.
    """
    patches, pairs = patches.to(_place(network)), patches.pairs()
    mine = team.share(pairs) if team else pairs
    total = 0.0
    with torch.inference_mode(), tf32(allowed=False):
        for first in range(0, len(mine), VALIDATION_BATCH):
            chunk = mine[first : first + VALIDATION_BATCH]
            scan, truth = patches.batch(chunk)
            total += float(loss(network(scan), truth)) * len(chunk)
    return (team.total(total) if team else total) / len(pairs)


@dataclass(frozen=True)
class _Run:
    """What every step needs; `network` is the state's, joined with those of the team."""

    recipe: Recipe
    team: Team
    state: State
    loss: Loss
    network: nn.Module


def _started(recipe: Recipe, saved: dict[str, Any] | None, train: Patches, team: Team) -> _Run:
    if recipe.truths_per_step % team.size:
        wanted = f"a number divisible by the {team.size} processes"
        raise InputError("truths_per_step", wanted=wanted, got=str(recipe.truths_per_step))
    if recipe.extra_noise and not train.can_add_noise:
        mend = "take a recipe without extra_noise, or scan more often at the same tube current"
        raise InputError("extra_noise", wanted="three scans at one tube current", got="fewer", mend=mend)
    state = started(recipe, saved, team.device)
    loss = loss_of(recipe, team.device, train.spacing_mm)
    loss.scales = state.scales = state.scales or _unfiltered_scales(recipe, loss, train)
    return _Run(recipe, team, state, loss, team.joined(state.network))


def _unfiltered_scales(recipe: Recipe, loss: Loss, train: Patches) -> dict[str, float]:
    rng = np.random.default_rng((recipe.seed, 0))
    batches = (
        train.batch(train.random_pairs(recipe.truths_per_step, recipe.scans_per_truth, rng))
        for _ in range(SCALE_BATCHES)
    )
    with torch.inference_mode(), tf32(allowed=False):
        return scales_of([loss.terms(crop_halo(scan), truth) for scan, truth in batches])


def _one_epoch(run: _Run, train: Patches, watched: dict[str, Patches], progress: Progress | None) -> None:
    """Train, validate, judge, and note it in the state's log."""
    began, state = time.monotonic(), run.state
    losses = {"train_loss": _trained(run, train, progress)}
    training_s = time.monotonic() - began
    for name, patches in watched.items():
        losses[name] = validation_loss(state.judged, run.loss, patches, team=run.team)
    state.epoch += 1
    epoch_s = run.team.leader_s(time.monotonic() - began)
    state.seconds += epoch_s
    state.judge(run.recipe, _finite(losses["validation_loss"]))
    state.lines.append(_line(run.recipe, state, losses, training_s, epoch_s))


def _trained(run: _Run, train: Patches, progress: Progress | None) -> float:
    """All steps of an epoch, drawn from its own seed; the mean loss."""
    recipe, done_before = run.recipe, run.state.epoch * run.recipe.steps_per_epoch
    rng = np.random.default_rng((recipe.seed, run.state.epoch + 1))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    total = 0.0
    for done in range(recipe.steps_per_epoch):
        pairs = train.random_pairs(recipe.truths_per_step, recipe.scans_per_truth, rng)
        symmetries = drawn(len(pairs), generator)
        scans, truths = train.batch(run.team.share(pairs))
        if recipe.extra_noise:
            shares = rng.uniform(0, recipe.extra_noise, len(pairs)).tolist()
            scans = scans + train.more_noise(run.team.share(pairs), run.team.share(shares))
        batch = turned_alike((scans, truths), run.team.share(symmetries))
        total += _step(run, batch, done_before + done)
        if progress:
            progress(done + 1, recipe.steps_per_epoch)
    return _finite(run.team.total(total)) / run.team.size / recipe.steps_per_epoch


def _step(run: _Run, batch: tuple[Tensor, ...], steps_before: int) -> float:
    (scan, truth), state, recipe = batch, run.state, run.recipe
    faster = recipe.precision == "tf32"
    half = torch.autocast(scan.device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    if recipe.rate == "cosine":
        state.optimizer.param_groups[0]["lr"] = rate_at(recipe, steps_before)
    with tf32(allowed=faster), half:
        output = run.network(scan.contiguous(memory_format=torch.channels_last_3d))
    with tf32(allowed=False):
        value = run.loss(output.float(), truth)
    state.optimizer.zero_grad()
    with tf32(allowed=faster):
        value.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.stepped(recipe, steps_before)
    return float(value.detach())


def _finite(loss: float) -> float:
    if not np.isfinite(loss):
        mend = "take a lower learning_rate in the recipe"
        raise InputError("training", wanted="a finite loss", got=str(loss), mend=mend)
    return loss


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Whether CUDA may round factors to ten bits; what was allowed before is allowed again after."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = allowed
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def _place(network: NNSP) -> str:
    return str(next(network.parameters()).device)


def _finished(recipe: Recipe, state: State) -> bool:
    late = recipe.minutes is not None and state.seconds > 60 * recipe.minutes
    return late or state.epoch - state.best_epoch >= recipe.patience


def _line(
    recipe: Recipe, state: State, losses: dict[str, float], training_s: float, epoch_s: float
) -> dict[str, float]:
    pairs = recipe.steps_per_epoch * recipe.truths_per_step * recipe.scans_per_truth
    return {
        "epoch": state.epoch,
        **losses,
        "best_validation_loss": state.best_loss,
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "pairs_per_second": pairs / training_s,
        "epoch_seconds": epoch_s,
        "seconds": state.seconds,
    }


def _log(path: Path, lines: list[dict[str, float]]) -> None:
    """The whole log anew: it never lags behind the checkpoint, and a column may come in later."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list({name: None for line in lines for name in line}))
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in line.items()} for line in lines)
    replace_file(path, text.getvalue().encode())
