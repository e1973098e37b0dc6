"""How much of the study is trained: which recipes, and how many folds of each split."""

from dataclasses import dataclass

from qctrun.runtime.errors import UsageError
from qctrun.train.folds import FOLDS
from qctrun.train.insilico.study import VERTEBRAE


@dataclass(frozen=True)
class Schedule:
    """What is trained.

    Attributes
    ----------
    name : str
        In the tables.
    nnsp, nnbmd : str
        Recipes (a shipped name or a file) for the study's vertebrae; NNBMD is trained in the paper's split only.
    donors : str
        Recipe of the network for real donors, which is the one to ship.
    folds : mapping of split to int
        How many folds of each are trained.
    note : str
        What a reader of the tables must know; empty for the whole of it.
    """

    name: str
    nnsp: str
    nnbmd: str
    donors: str
    folds: dict[str, int]
    note: str = ""


_ALL = {"positions": FOLDS, "vertebrae": VERTEBRAE, "donors": 1, "simulated": 1}

SCHEDULES = {
    "full": Schedule(
        "full",
        "nnsp-residual",
        "nnbmd-residual",
        "nnsp-residual",
        _ALL,
    ),
    "paper": Schedule("paper", "nnsp", "nnbmd", "nnsp", _ALL),
    "short": Schedule(
        "short",
        "nnsp-wide",
        "nnbmd-short",
        "nnsp-shipped",
        {"positions": 2, "vertebrae": 1, "donors": 1, "simulated": 1},
        "reduced schedule for two CPU cores: few folds and a small part of the paper's training steps.",
    ),
}


def schedule_of(name: str) -> Schedule:
    """A schedule by its name.

    Raises
    ------
    UsageError
        Listing the names, when there is no such one.
    """
    if name not in SCHEDULES:
        raise UsageError("schedule", wanted=" or ".join(SCHEDULES), got=name)
    return SCHEDULES[name]
