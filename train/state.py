"""A training run between two steps: network, optimizer, rate and averaged weights, and what a checkpoint keeps."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from qctrun.train.checkpoint import KEPT
from qctrun.train.network import NNSP
from qctrun.train.optimizers import optimizer_of
from qctrun.train.recipe import Recipe


@dataclass
class State:
    """A run between two epochs: all that a checkpoint holds.

    Attributes
    ----------
    network : NNSP
        What the optimizer moves; after `fit` it has the best weights.
    averaged : NNSP, optional
        The moving average of its weights, where the recipe has one.
    schedule : ReduceLROnPlateau, optional
        Where the recipe halves its rate.
    scales : mapping of the loss's terms to a_f
        From unfiltered training data.
    lines : list of dict
        The log, a line an epoch.
    """

    network: NNSP
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.ReduceLROnPlateau | None
    averaged: NNSP | None
    scales: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    lines: list[dict[str, float]] = field(default_factory=list)

    @property
    def judged(self) -> NNSP:
        """The network that is validated and kept: the averaged one where there is one."""
        return self.averaged or self.network

    def stepped(self, recipe: Recipe, steps_before: int) -> None:
        """Move the average after a step; in the beginning it forgets faster, for the first weights are chance."""
        if self.averaged is None:
            return
        decay = min(recipe.averaging, (1 + steps_before) / (10 + steps_before))
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.network.parameters(), strict=True)
            for average, weight in pairs:
                average.lerp_(weight, 1 - decay)

    def judge(self, recipe: Recipe, loss: float) -> None:
        """Keep the weights when no epoch before had a validation loss as low, or always where the last ones count."""
        if self.schedule:
            self.schedule.step(loss)
        better = loss < self.best_loss
        if better:
            self.best_loss, self.best_epoch = loss, self.epoch
        if better or recipe.keep == "last":
            self.best_weights = {name: value.clone() for name, value in self.judged.state_dict().items()}

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "weights": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule and self.schedule.state_dict(),
            "averaged": self.averaged and self.averaged.state_dict(),
            **{name: getattr(self, name) for name in KEPT},
        }


def started(recipe: Recipe, saved: dict[str, Any] | None, device: str) -> State:
    """A run at its start, or where a checkpoint has left it."""
    torch.manual_seed(recipe.seed)
    network = NNSP(recipe.channels, residual=recipe.residual)
    network.start_alive()
    network.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = optimizer_of(recipe, network)
    averaged = copy.deepcopy(network).requires_grad_(False) if recipe.averaging else None
    state = State(network, optimizer, _halving(recipe, optimizer), averaged)
    if saved is not None:
        _go_on(state, saved)
    return state


def rate_at(recipe: Recipe, step: int) -> float:
    """The cosine's learning rate at a step, counted from 0: it rises over the first epoch, then falls to zero."""
    rising, total = recipe.steps_per_epoch, recipe.steps_per_epoch * recipe.epochs
    if step < rising:
        return recipe.learning_rate * (step + 1) / rising
    return recipe.learning_rate * (1 + math.cos(math.pi * (step + 1 - rising) / (total - rising))) / 2


def _halving(
    recipe: Recipe, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
    if recipe.rate != "halved":
        return None
    patience = max(1, recipe.patience // 4)
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)


def _go_on(state: State, saved: dict[str, Any]) -> None:
    state.network.load_state_dict(saved["weights"])
    state.optimizer.load_state_dict(saved["optimizer"])
    if state.schedule:
        state.schedule.load_state_dict(saved["schedule"])
    if state.averaged:
        state.averaged.load_state_dict(saved["averaged"])
    for name in KEPT:
        setattr(state, name, saved[name])
