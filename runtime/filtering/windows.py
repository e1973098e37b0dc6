"""Overlapping windows that give, piece by piece, what one convolution of the whole volume would give.

The network pads every layer with zeros at the volume's border ("same" convolution). A window side that
lies on the border therefore uses the network's own padding, and an inner side is cut back by the halo, as
far as the zeros that the network puts there can reach. Padding the input instead would not be
equivalent: after the first layer the outside is ReLU(bias), not zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from qctrun.runtime.filtering.cuts import Ends, cut
from qctrun.runtime.volume import BoolArray

Box = tuple[slice, ...]
Triple = tuple[int, int, int]
Span = tuple[int, int]

FINER = (1, 2, 4, 8)
"""Where windows around a mask have one shape, the full size and these fractions are tried and the cheapest kept."""

SLICE_PRICE = 4000
"""As many voxels could be computed in the time that one slice of one more window costs, whose graph is opened."""


@dataclass(frozen=True, slots=True)
class Window:
    """One piece of work, as boxes (z, y, x).

    Attributes
    ----------
    take : box of the volume that goes into the network
    keep : box of the network's result that is right
    put : box of the volume that `keep` belongs to
    """

    take: Box
    keep: Box
    put: Box

    @property
    def voxels(self) -> int:
        """Voxels to compute, halo included."""
        return _voxels(self.take)


def plan(size: Triple, halo: Triple, limit: int) -> list[Window]:
    """Cover a whole volume with windows of one shape, with the least computing.

    Parameters
    ----------
    size : (z, y, x)
        Of the volume; any size, also one smaller than the halo.
    halo : (z, y, x)
        Voxels on each side that an output voxel depends on.
    limit : int
        Voxels of a window, halo included; the smallest useful window (2 halo + 1) is taken where it is less.
    """
    sides = _sides(size, halo, limit)
    spans = [_spans(n, side, h) for n, side, h in zip(size, sides, halo, strict=True)]
    return [_window(put, size, halo, sides) for put in product(*spans)]


def plan_needed(need: BoolArray, halo: Triple, limit: int, reach: Triple | None = None) -> list[Window]:
    """Cover the voxels that are needed, each window drawn tight around those in its part of the volume.

    Parameters
    ----------
    need : bool array (z, y, x)
        Voxels whose result is wanted.
    halo, limit
        As for `plan`.
    reach : (z, y, x), optional
        How far around what it keeps a window costs time; the halo when not given.
    """
    region = bounding_box(need)
    if region is None:
        return []
    boxes = [
        box for part in _tight_boxes(need, region, halo, limit) for box in _cut(need, part, reach or halo)
    ]
    return [_around(box, need.shape, halo) for box in boxes]


def plan_alike(need: BoolArray, halo: Triple, limit: int) -> list[Window]:
    """Cover the voxels that are needed with windows of one shape; parameters as for `plan_needed`."""
    region = bounding_box(need)
    if region is None:
        return []
    plans = []
    for finer in FINER:
        boxes = _tight_boxes(need, region, halo, limit // finer)
        plans.append(_alike([_around(box, need.shape, halo) for box in boxes], need.shape))
    return min(plans, key=lambda windows: sum(window.voxels for window in windows))


def _alike(windows: list[Window], size: Sequence[int]) -> list[Window]:
    """The same windows, all as large as the largest along each axis, and none beyond the volume."""
    sides = [max(window.take[axis].stop - window.take[axis].start for window in windows) for axis in range(3)]
    return [_widened(window, sides, size) for window in windows]


def grow(mask: BoolArray, margin: Triple) -> BoolArray:
    """The mask and all voxels at most `margin` voxels (z, y, x) away along each axis."""
    region = bounding_box(mask)
    grown = np.zeros_like(mask)
    if region is None:
        return grown
    near = tuple(
        slice(max(0, part.start - m), min(n, part.stop + m))
        for part, m, n in zip(region, margin, mask.shape, strict=True)
    )
    grown[near] = mask[near]
    for axis, m in enumerate(margin):
        _spread(np.moveaxis(grown[near], axis, 0), m)
    return grown


def bounding_box(mask: BoolArray) -> Box | None:
    """The smallest box around the voxels that are set; None when none is."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        # Only what the axes before have left is looked through.
        rest = mask[tuple(box)]
        found = np.flatnonzero(rest.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if found.size == 0:
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def _widened(window: Window, sides: list[int], size: Sequence[int]) -> Window:
    take, keep = [], []
    for old, put, side, n in zip(window.take, window.put, sides, size, strict=True):
        start = min(old.start, n - side)
        take.append(slice(start, start + side))
        keep.append(slice(put.start - start, put.stop - start))
    return Window(tuple(take), tuple(keep), window.put)


def _spread(mask: BoolArray, margin: int) -> None:
    """Set all that is at most `margin` away along the first axis, in place; each pass reaches twice as far."""
    margin, reached = min(margin, len(mask) - 1), 0
    while reached < margin:
        step = min(reached + 1, margin - reached)
        before = mask.copy(order="K")  # as it lies in memory, whichever axis comes first
        mask[step:] |= before[:-step]
        mask[:-step] |= before[step:]
        reached += step


def _around(put: Box, size: Sequence[int], halo: Triple) -> Window:
    """The window that is right there, and no larger."""
    return _window([(part.start, part.stop) for part in put], size, halo, (0, 0, 0))


def _cut(need: BoolArray, box: Box, reach: Triple) -> Iterator[Box]:
    """Boxes around what is needed in this one that together cost less time."""
    start, far, size = (np.reshape(row, (3, 1)) for row in ([part.start for part in box], reach, need.shape))

    def cost(low: Ends, high: Ends) -> npt.NDArray[np.float64]:
        taken = np.minimum(high + start + far, size) - np.maximum(low + start - far, 0)
        found: npt.NDArray[np.float64] = np.prod(taken, axis=0) + float(SLICE_PRICE) * taken[0]
        return found

    for place in cut(need[box], cost):
        yield tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, place, strict=True))


def _tight_boxes(need: BoolArray, region: Box, halo: Triple, limit: int) -> Iterator[Box]:
    """Parts of the region that with their halo are within the limit, each shrunk to what is needed in it."""
    size = need.shape
    spans = []
    reach = [_reach((part.start, part.stop), n, h) for part, n, h in zip(region, size, halo, strict=True)]
    sides = _sides([stop - start for start, stop in reach], halo, limit)
    for part, (first, end), side, h in zip(region, reach, sides, halo, strict=True):
        found = [(first + start, first + stop) for start, stop in _spans(end - first, side, h)]
        clipped = [(max(start, part.start), min(stop, part.stop)) for start, stop in found]
        spans.append([span for span in clipped if span[0] < span[1]])
    for put in product(*spans):
        box = tuple(slice(*span) for span in put)
        tight = bounding_box(need[box])
        if tight is not None:
            yield tuple(slice(b.start + t.start, b.start + t.stop) for b, t in zip(box, tight, strict=True))


def _window(put: Sequence[Span], size: Sequence[int], halo: Triple, sides: Sequence[int]) -> Window:
    take = []
    for span, n, h, side in zip(put, size, halo, sides, strict=True):
        start, stop = _reach(span, n, h)
        # The last window of an axis is moved inwards instead of being shorter: one shape for all.
        take.append((max(0, min(start, stop - side)), stop))
    return Window(
        take=tuple(slice(*span) for span in take),
        keep=tuple(slice(p[0] - t[0], p[1] - t[0]) for p, t in zip(put, take, strict=True)),
        put=tuple(slice(*span) for span in put),
    )


def _reach(span: Span, n: int, halo: int) -> Span:
    return max(0, span[0] - halo), min(n, span[1] + halo)


def _spans(n: int, side: int, halo: int) -> list[Span]:
    """What each window of an axis answers for: the first up to its inner cut, the last up to the border."""
    cuts = [0, *range(side - halo, n - halo, side - 2 * halo), n] if side < n else [0, n]
    return list(pairwise(cuts))


def _sides(size: Sequence[int], halo: Triple, limit: int) -> Triple:
    """Window sides whose product is within the limit and that compute the fewest voxels in total."""
    choices = [_choices(n, h) for n, h in zip(size, halo, strict=True)]
    sides = np.meshgrid(*(choice[0] for choice in choices), indexing="ij")
    counts = np.meshgrid(*(choice[1] for choice in choices), indexing="ij")
    voxels = np.prod(sides, axis=0)
    total = np.where(voxels <= limit, voxels * np.prod(counts, axis=0), np.inf)
    best = int(np.argmin(total if np.isfinite(total).any() else voxels))
    z, y, x = (int(side.flat[best]) for side in sides)
    return z, y, x


def _choices(n: int, halo: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sides worth trying along an axis of n voxels, with the number of windows that each takes."""
    most = max(1, n - 2 * halo)
    windows = np.arange(1, most + 1)
    sides = np.unique(-(-(n + 2 * halo * (windows - 1)) // windows))
    sides = sides[(sides > 2 * halo) | (sides == n)]
    counts = [len(_spans(n, int(side), halo)) for side in sides]
    return sides.astype(float), np.asarray(counts, float)


def _voxels(box: Box) -> int:
    return int(np.prod([part.stop - part.start for part in box]))
