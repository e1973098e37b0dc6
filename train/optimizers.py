"""What moves the weights: Adam as in the paper, or Muon for the hidden layers with Adam for the rest."""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn

from qctrun.train.network import NNSP
from qctrun.train.recipe import Recipe

ADAM_BETAS = (0.9, 0.999)


def optimizer_of(recipe: Recipe, network: NNSP) -> torch.optim.Optimizer:
    """The optimizer that a recipe names, for a network that already lies where it is trained."""
    if recipe.optimizer == "muon":
        return MuonWithAdam(network, recipe.learning_rate)
    return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=ADAM_BETAS)


class MuonWithAdam(torch.optim.Optimizer):
    """Muon for the weights of the hidden layers, each as a matrix (output channel, rest); Adam for all others.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes the singular values of a step alike.
    First and last layer have one channel on a side, and biases none: they are no matrices and stay with Adam.

    Parameters
    ----------
    network : NNSP
        With weights in channels-last format; it must stay where it is and in that format.
    learning_rate : float
        For both: Muon's steps are scaled to the size of Adam's.
    """

    def __init__(self, network: NNSP, learning_rate: float) -> None:
        super().__init__(network.parameters(), {"lr": learning_rate})
        hidden = [f"layers.{index}.weight" for index in range(1, len(network.layers) - 1)]
        self._weights = [network.get_parameter(name) for name in hidden]
        self._matrices = [nn.Parameter(_as_matrix(weight.detach())) for weight in self._weights]
        if any(m.data_ptr() != w.data_ptr() for m, w in zip(self._matrices, self._weights, strict=True)):
            raise ValueError("network: wanted weights in channels-last format, got copies of them")
        rest = [weight for name, weight in network.named_parameters() if name not in hidden]
        self._adam = torch.optim.Adam(rest, lr=learning_rate, betas=ADAM_BETAS)
        self._muon = torch.optim.Muon(
            self._matrices, lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move all weights once."""
        value = None if closure is None else closure()
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad)
        for part in (self._adam, self._muon):
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()
        return value

    def state_dict(self) -> dict[str, Any]:
        """The states of both, and the rate."""
        return {
            "lr": self.param_groups[0]["lr"],
            "adam": self._adam.state_dict(),
            "muon": self._muon.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.param_groups[0]["lr"] = state_dict["lr"]
        self._adam.load_state_dict(state_dict["adam"])
        self._muon.load_state_dict(state_dict["muon"])


def _as_matrix(weight: Tensor) -> Tensor:
    """(output channel, rest), in the order in which channels-last weights lie in memory: no copy of those."""
    return weight.permute(0, 2, 3, 4, 1).flatten(1)
