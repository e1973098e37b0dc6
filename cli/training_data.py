"""What `qctrun train` learns from: simulated scans, or real pairs; in one split, or in folds."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from qctrun.cli.call import Call

FOLDS = 5

_UNSEEN = {
    "positions": "positions never seen in training, in vertebrae that were",
    "vertebrae": "a vertebra never seen in training",
    "donors": "a donor never seen in training",
}


def require_one_split(split: str, folds: int | None, microct: Path | None, pairs: Path | None) -> None:
    """Refuse options that mean nothing for this way to split, or for these data.

    Raises
    ------
    UsageError
        Naming the first of them.
    """
    from qctrun.runtime.errors import UsageError

    if pairs is not None and split == "vertebrae":
        got = "--split vertebrae, which is of the study's five simulated ones"
        raise UsageError("--pairs", wanted="--split positions or donors", got=got)
    if pairs is None and folds is not None:
        _require_simulated_folds(split, folds)
    typed = click.get_current_context().get_parameter_source("fields") is not ParameterSource.DEFAULT
    for option, is_there in (("--microct", microct is not None), ("--fields", typed)):
        if is_there and (pairs is not None or split != "donors"):
            wanted = "simulated scans" if pairs is not None else "--split donors"
            got = (
                "--pairs" if pairs is not None else f"--split {split}, which is of the study's five vertebrae"
            )
            raise UsageError(option, wanted=wanted, got=got, mend=f"leave {option} away")


def split_of(
    call: Call, recipe: Any, out: Path, pairs: Path | None, microct: Path | None, fields: tuple[int, int, int]
) -> Any:
    """Donors held apart, simulated or read; refused before where the run cannot begin."""
    if pairs is not None:
        from qctrun.train.paired import donors_apart

        return donors_apart(recipe, out, pairs)
    from qctrun.train.run import simulated

    with call.progress("simulating scans") as progress:
        return simulated(recipe, out, microct=microct, fields=fields, progress=progress)


def folds_of(pairs: Path | None, split: str, folds: int | None) -> tuple[Any, int, str]:
    """The data in folds, how many of these are trained, and what is said before the first."""
    if pairs is None:
        from qctrun.train.study.data import Data

        return Data(None), folds or FOLDS, "simulating five vertebrae"
    from qctrun.train.paired import PairedFolds
    from qctrun.train.pairs.dataset import read_pairs

    data = PairedFolds(read_pairs(pairs))
    return data, data.require(split, folds), ""


def unseen_words(split: str, pairs: Path | None) -> str:
    """What a fold's test is."""
    return _UNSEEN[split].replace("vertebrae", "bones") if pairs is not None else _UNSEEN[split]


def measured_words(spacing_mm: tuple[float, float, float]) -> str:
    """How the scores were measured on a grid."""
    from qctrun.train.losses import sphere_mm

    return f"threshold 225 mg/cm3, spheres of {sphere_mm(spacing_mm):.3g} mm"


def _require_simulated_folds(split: str, folds: int) -> None:
    from qctrun.runtime.errors import UsageError

    if split == "donors":
        mend = "name one of them, or leave --folds away"
        raise UsageError("--folds", wanted="--split positions or vertebrae", got="--split donors", mend=mend)
    if folds > FOLDS:
        raise UsageError("--folds", wanted=f"at most {FOLDS}", got=str(folds))
