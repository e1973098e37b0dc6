"""Where to cut a box so that the boxes around what is needed in its parts cost less than the whole."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qctrun.runtime.volume import BoolArray

Ends = npt.NDArray[np.int64]
"""Low or high ends of boxes, (3, boxes)."""
Cost = Callable[[Ends, Ends], npt.NDArray[np.float64]]
Box = tuple[slice, ...]


def cut(need: BoolArray, cost: Cost) -> list[Box]:
    """Cut in two, and the parts again, as long as that makes it cheaper.

    Parameters
    ----------
    need : bool array (z, y, x)
        At least one is set.
    cost : callable(low, high)
        Of boxes, voxels (3, boxes); the high ends are not within.

    Returns
    -------
    list of boxes
        Tight around what is needed in them; all of it is in one of them, and none twice.
    """
    low, high = _extents(need, 0)
    return _cut(need, tuple(slice(*ends) for ends in zip(low.min(1), high.max(1), strict=True)), cost)


def _cut(need: BoolArray, box: Box, cost: Cost) -> list[Box]:
    """The same for a box that is tight."""
    start = np.array([[part.start] for part in box])
    least = cost(start, np.array([[part.stop] for part in box]))[0]
    best: list[Box] = []
    for axis in range(3):
        low, high = _extents(need[box], axis)
        # Of the planes up to each cut and of those beyond it, together.
        before = np.minimum.accumulate(low, 1)[:, :-1] + start, np.maximum.accumulate(high, 1)[:, :-1] + start
        beyond = (
            np.minimum.accumulate(low[:, ::-1], 1)[:, -2::-1] + start,
            np.maximum.accumulate(high[:, ::-1], 1)[:, -2::-1] + start,
        )
        both = cost(*before) + cost(*beyond)
        if both.size and both.min() < least:
            at = int(both.argmin())
            least = both[at]
            best = [
                tuple(slice(int(a), int(b)) for a, b in zip(ends[0][:, at], ends[1][:, at], strict=True))
                for ends in (before, beyond)
            ]
    return [piece for half in best for piece in _cut(need, half, cost)] or [box]


def _extents(need: BoolArray, axis: int) -> tuple[Ends, Ends]:
    """The box around what is needed in each plane across the axis; from beyond the high end to 0 where nothing is."""
    low, high = [], []
    for other in range(3):
        seen: BoolArray = np.any(need, axis=tuple({0, 1, 2} - {axis, other}))
        if other == axis:
            seen = np.diag(seen)
        elif other < axis:
            seen = seen.T
        found = seen.any(1)
        low.append(np.where(found, seen.argmax(1), seen.shape[1]))
        high.append(np.where(found, seen.shape[1] - seen[:, ::-1].argmax(1), 0))
    return np.array(low), np.array(high)
