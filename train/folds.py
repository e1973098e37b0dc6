"""Which patches train, validate and test, by number: held apart by position as in the paper, or by vertebra."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError, UsageError

FOLDS = 5
VALIDATION_SHARE = 0.1
FEWEST = 2
"""Patches that every part must have, or its loss says nothing."""

Numbers = npt.NDArray[np.intp]


class Parts(NamedTuple):
    """Numbers of the patches of each part, increasing; no patch is in two of them."""

    train: Numbers
    validation: Numbers
    test: Numbers


def by_position(count: int, fold: int, folds: int = FOLDS, *, seed: int = 0) -> Parts:
    """The paper's split: 70/10/20 % (for five folds) of all positions, drawn at random.

    Patches overlap, so the test shares tissue with the training; every vertebra is in every part.

    Parameters
    ----------
    count : int
        Positions in all vertebrae together.
    fold, folds : int
        Which fold, from 1 on, of how many; each position is in the test part of one of them.
    seed : int
        Of the order in which positions are dealt out.

    Raises
    ------
    UsageError
        When there is no such fold.
    InputError
        When there are too few positions for so many folds.
    """
    if folds < 2 or not 1 <= fold <= folds:
        wanted = "2 or more folds" if folds < 2 else f"a fold from 1 to {folds}"
        raise UsageError("folds", wanted=wanted, got=str(folds if folds < 2 else fold))
    order = np.random.default_rng((seed, count)).permutation(count)
    first, last = (round(count * edge / folds) for edge in (fold - 1, fold))
    rest = np.roll(order, -last)[: count - (last - first)]
    validation, train = np.split(rest, [round(VALIDATION_SHARE * count)])
    return _checked(train, validation, order[first:last])


def by_owner(owners: npt.ArrayLike, out: object, *, seed: int = 0) -> Parts:
    """Leave one vertebra out: its patches test, a tenth of the others validates, the rest trains.

    Parameters
    ----------
    owners : array (position)
        Whose patch each one is.
    out : one of the owners
        Who is left out.
    seed : int
        Of the draw of the validation.

    Raises
    ------
    InputError
        When nothing or too little is left in one of the parts.
    """
    own = np.asarray(owners) == out
    order = np.random.default_rng((seed, own.size)).permutation(np.flatnonzero(~own))
    validation, train = np.split(order, [round(VALIDATION_SHARE * order.size)])
    return _checked(train, validation, np.flatnonzero(own))


def _checked(train: Numbers, validation: Numbers, test: Numbers) -> Parts:
    parts = Parts(np.sort(train), np.sort(validation), np.sort(test))
    for name, numbers in parts._asdict().items():
        if numbers.size < FEWEST:
            wanted = f"{FEWEST} or more for {name}"
            mend = "take larger volumes, or more of them"
            raise InputError("positions", wanted=wanted, got=str(numbers.size), mend=mend)
    return parts
