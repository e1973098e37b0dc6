"""How a network is trained, as values: read from a small file, checked before anything is simulated."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from qctrun.runtime.errors import InputError

LOSS_WEIGHTS: dict[str, dict[str, float]] = {
    "nnsp": {"TMD": 0.64, "BVTV": 0.32, "BMD": 0.04},
    "nnbmd": {"voxel": 0.4, "BMD 0.516 mm": 0.1, "BMD 1.548 mm": 0.1, "SD 2.924 mm": 0.4},
}
"""w_f of both losses (method section 5): structure-preserving (Eq. 12), and plain denoising to compare with."""

LARGEST = 1e300
"""Beyond it a number of a recipe is taken for a slip; infinity and NaN are not below it either."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the paper's where it states them (method section 6).

    Not the paper's: an epoch that is a number of steps, each drawn with replacement, and the channels.

    Attributes
    ----------
    name : str
        What people call it; it decides nothing.
    loss : "nnsp" or "nnbmd"
        The structure-preserving loss, or plain denoising.
    weights : mapping of the loss's terms to w_f, optional
        The mixture; that of `LOSS_WEIGHTS` when absent.
    channels, residual
        The network, see `NNSP`.
    optimizer : "adam" or "muon"
        Adam as in the paper, or Muon for the weights of the hidden layers and Adam for the others.
    learning_rate : float
        The optimizer's rate, or the highest where it changes.
    rate : "constant", "halved" or "cosine"
        Constant as in the paper; halved when the validation loss has not improved for `patience` / 4 epochs;
        or rising for one epoch and then falling to zero along a cosine until the last of `epochs`.
    averaging : float
        Decay of the moving average of the weights that is validated and kept in place of them; 0 for none.
    keep : "best" or "last"
        Which epoch's weights are the result: those of the least validation loss, or the last ones, which suits
        a cosine whose validation data are few.
    extra_noise : float
        Every scan gets noise of up to this share of its own variance more: the difference of two other
        repetitions at its tube current. With 1 the noise of half the tube current is seen too. A scan that has
        not two others gets none.
    precision : "fp32", "tf32" or "bf16"
        Of the network's arithmetic in training. Losses are float32, and validation is fp32, always.
    truths_per_step, scans_per_truth : int
        A step sees this many true patches, each with this many of its scans; where it has fewer, they come again.
    steps_per_epoch, epochs, patience : int
        Training ends after `epochs`, or `patience` epochs after the best validation loss.
    minutes : float, optional
        Ends after the epoch in which this much time has passed.
    seed : int
        Start values, order of the patches and their symmetries all follow from it.

    Raises
    ------
    InputError
        When a value has the wrong type or is impossible.
    """

    name: str = "nnsp"
    loss: str = "nnsp"
    weights: dict[str, float] | None = field(default=None)
    channels: tuple[int, ...] = (32, 16, 8, 8, 16)
    residual: bool = False
    optimizer: str = "adam"
    learning_rate: float = 10**-3.5
    rate: str = "constant"
    averaging: float = 0.0
    keep: str = "best"
    extra_noise: float = 0.0
    precision: str = "fp32"
    truths_per_step: int = 16
    scans_per_truth: int = 4
    steps_per_epoch: int = 224
    epochs: int = 1000
    patience: int = 20
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for absent in (key for key in ("weights", "minutes") if values[key] is None):
            del values[absent]
        _check(values, f"recipe {self.name!r}")


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe that is shipped, by its name, or one's own, a TOML file whose keys are those of `Recipe`.

    What a file leaves out has its default; without a `name` it has that of the file.

    Raises
    ------
    InputError
        When there is no such recipe, the file cannot be read or is no TOML, a key is unknown, or a value has
        the wrong type or is impossible.
    """
    where = f"recipe {name_or_path}"
    try:
        values = tomllib.loads(recipe_text(name_or_path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(where, wanted="TOML", got=str(error)) from error
    values = {"name": Path(name_or_path).stem, **values}
    _check(values, where)
    return recipe_of(values)


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe with these values, read from a file: a list of channels is taken too."""
    channels = values.get("channels", Recipe.channels)
    return Recipe(**{**values, "channels": tuple(channels)})


def recipe_text(name_or_path: str | Path) -> str:
    """The text of a recipe's file, its comments included: a start for one's own.

    Raises
    ------
    InputError
        When there is no such recipe or it cannot be read.
    """
    shipped = _shipped().get(str(name_or_path))
    where = f"recipe {name_or_path}"
    try:
        return (shipped or Path(name_or_path)).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        names = ", ".join(sorted(_shipped()))
        raise InputError(where, wanted=f"{names} or a TOML file", got="no such recipe") from error
    except UnicodeDecodeError as error:
        raise InputError(where, wanted="a text file, UTF-8", got="other bytes") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(where, wanted="a file that can be read", got=reason) from error


def _shipped() -> dict[str, Traversable]:
    folder = resources.files("qctrun.train") / "recipes"
    return {path.name.removesuffix(".toml"): path for path in folder.iterdir() if path.name.endswith(".toml")}


Rule = tuple[str, Callable[[Any], bool]]


def _one_of(*names: str) -> Rule:
    return " or ".join(f'"{name}"' for name in names), lambda value: value in names


def _whole(least: int, most: int | None = None) -> Rule:
    words = f"a whole number from {least} " + ("on" if most is None else f"to {most}")
    return words, lambda value: type(value) is int and least <= value <= (math.inf if most is None else most)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _are_counts(value: object) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) == 5 and all(type(n) is int and n > 0 for n in value)
    )


def _are_shares(value: object) -> bool:
    return isinstance(value, dict) and all(_is_number(w) and w >= 0 for w in value.values())


_POSITIVE: Rule = ("a positive number", lambda value: _is_number(value) and value > 0)
_RULES: dict[str, Rule] = {
    "name": ("a text", lambda value: isinstance(value, str) and bool(value.strip())),
    "loss": _one_of(*LOSS_WEIGHTS),
    "weights": ("numbers from 0 on, by the names of the terms", _are_shares),
    "channels": ("five whole numbers from 1 on", _are_counts),
    "residual": ("true or false", lambda value: isinstance(value, bool)),
    "optimizer": _one_of("adam", "muon"),
    "learning_rate": _POSITIVE,
    "rate": _one_of("constant", "halved", "cosine"),
    "averaging": ("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1),
    "keep": _one_of("best", "last"),
    "extra_noise": ("a number from 0 on", lambda value: _is_number(value) and value >= 0),
    "precision": _one_of("fp32", "tf32", "bf16"),
    "truths_per_step": _whole(1),
    "scans_per_truth": _whole(1, 9),
    "steps_per_epoch": _whole(1),
    "epochs": _whole(1),
    "patience": _whole(1),
    "minutes": _POSITIVE,
    "seed": _whole(0, 2**63 - 1),
}


def _check(values: Mapping[str, Any], where: str) -> None:
    for key, value in values.items():
        if key not in _RULES:
            raise InputError(f"{where}, {key}", wanted=f"a key of {', '.join(_RULES)}", got="an unknown one")
        wanted, holds = _RULES[key]
        if not holds(value):
            raise InputError(f"{where}, {key}", wanted=wanted, got=" ".join(repr(value).split())[:80])
    if "weights" in values:
        _check_weights(values["weights"], LOSS_WEIGHTS[values.get("loss", "nnsp")], where)


def _check_weights(weights: Mapping[str, float], terms: Mapping[str, float], where: str) -> None:
    if unknown := [name for name in weights if name not in terms]:
        raise InputError(
            f"{where}, weights", wanted=f"terms of {', '.join(terms)}", got=repr(unknown[0])[:80]
        )
    if not sum(weights.values()) > 0:
        raise InputError(f"{where}, weights", wanted="one above 0", got=repr(dict(weights))[:80])
