"""The inside of a mask: what is left when a rim of a given thickness in mm is taken off every label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.volume import BoolArray, FloatArray

Keep = Literal["largest", "all"]
KEEP: tuple[Keep, ...] = ("largest", "all")

TOLERANCE_MM = 1e-4
"""A distance counts as MM when no more than this is missing: spacings come rounded."""

LabelArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Peeled:
    """What became of a label; volumes in mm3.

    Attributes
    ----------
    label : int
    before_mm3 : float
        As it came.
    filled_mm3 : float
        Holes that were filled before peeling.
    after_mm3 : float
        What is left.
    pieces : int
        Into how many pieces the rest had fallen, before the largest was kept.
    largest_mm : float or None
        Of a label that has gone: the thickest rim, rounded down to 0.01 mm, that leaves something of it.
    at_border : bool
        Whether the label touches the border of the image, beyond which it may go on.
    """

    label: int
    before_mm3: float
    filled_mm3: float
    after_mm3: float
    pieces: int
    largest_mm: float | None
    at_border: bool


def peel(
    labels: LabelArray,
    spacing_mm: Sequence[float],
    mm: float,
    *,
    only: Sequence[int] | None = None,
    keep: Keep = "largest",
) -> tuple[LabelArray, list[Peeled]]:
    """Take a rim off every label.

    A voxel stays when its centre lies at least `mm` from the surface of its label (`depth_mm`). Another label is
    outside as the background is, so neighbours are peeled against each other; so is all that lies beyond the
    border of the image, where nobody knows what there is.

    First, holes are filled that the label encloses on all sides (no way out over faces of voxels), that hold
    background alone and are no larger than a sphere of radius `mm`; each hole by itself. Larger ones stay open and
    are peeled from within.

    Parameters
    ----------
    labels : int32 array (z, y, x)
        0 for background.
    spacing_mm : three floats
        Along (z, y, x).
    mm : float
        Thickness of the rim, above 0.
    only : sequence of int, optional
        The labels to peel; the others are only what those are peeled against.
    keep : "largest" or "all"
        Of a label that falls apart only the largest piece (voxels joined over faces; of equal ones the first), or
        all.

    Returns
    -------
    labels : int32 array (z, y, x)
        The inside of each label.
    peeled : list of Peeled
        In rising order of the labels; of one that has gone `after_mm3` is 0.

    Raises
    ------
    UsageError
        When `mm` is not above 0.
    InputError
        When nothing is left at all, or nothing of a label in `only`; it names the largest rim that leaves something.
    """
    if not (math.isfinite(mm) and mm > 0):
        raise UsageError("mm", wanted="a rim above 0 mm", got=f"{mm}")
    present = np.unique(labels[labels != 0])
    # Ranks, because the boxes are listed up to the largest number, and a label may be a very large one.
    boxes = ndimage.find_objects(np.searchsorted(present, labels, side="right"))
    inside, found = np.zeros_like(labels), []
    for label, box in zip(present.tolist(), boxes, strict=True):
        if only is None or label in only:
            rest, facts = _peel_one(labels[box], label, spacing_mm, mm, keep)
            inside[box][rest] = label
            found.append(replace(facts, at_border=_at_border(box, labels.shape)))
    gone = [one for one in found if one.largest_mm is not None]
    if gone and (only is not None or not inside.any()):
        raise _nothing_left(gone, mm)
    return inside, found


def depth_mm(inside: BoolArray, spacing_mm: Sequence[float], limit_mm: float) -> FloatArray:
    """How deep each voxel lies: from its centre to the nearest point of the surface of what is inside.

    The surface is taken at the centres of the faces between a voxel inside and one outside: half a voxel off the
    last centre. So a flat rim comes off exactly, and a slanted one is not thickened by the corners of its
    steps. The square of a distance is a sum over the axes, so the nearest face is found axis by axis, as in the
    separable distance transforms, but only as far as the limit.

    Parameters
    ----------
    inside : bool array (z, y, x)
        What lies beyond the array is outside.
    spacing_mm : three floats
        Along (z, y, x).
    limit_mm : float
        Depths from here on are infinite.

    Returns
    -------
    float32 array (z, y, x)
        mm; 0 outside.
    """
    squares = np.full(inside.shape, np.inf, np.float32)
    for axis in range(3):
        np.minimum(squares, _to_faces(inside, axis, spacing_mm, limit_mm), out=squares)
    depth: FloatArray = np.sqrt(squares)
    depth[depth >= limit_mm] = np.inf
    depth[~inside] = 0
    return depth


def _to_faces(inside: BoolArray, axis: int, spacing_mm: Sequence[float], limit_mm: float) -> FloatArray:
    """Squared distance of every voxel to the nearest face across this axis, mm2."""
    lines = np.pad(np.moveaxis(inside, axis, 0), ((1, 1), (0, 0), (0, 0)))
    faces = np.where(lines[1:] != lines[:-1], np.float32(0), np.float32(np.inf))
    count, spacing = len(faces) - 1, spacing_mm[axis]
    squares = np.full((count, *faces.shape[1:]), np.inf, np.float32)
    for steps in range(min(math.ceil(limit_mm / spacing), count)):
        far = np.float32(((steps + 0.5) * spacing) ** 2)
        np.minimum(squares[steps:], faces[: count - steps] + far, out=squares[steps:])
        np.minimum(squares[: count - steps], faces[1 + steps :] + far, out=squares[: count - steps])
    squares = np.moveaxis(squares, 0, axis)
    for other in {0, 1, 2} - {axis}:
        squares = _nearest_along(squares, other, spacing_mm[other], limit_mm)
    return squares


def _nearest_along(squares: FloatArray, axis: int, spacing_mm: float, limit_mm: float) -> FloatArray:
    lines = np.moveaxis(squares, axis, 0)
    nearest = lines.copy()
    for steps in range(1, min(math.ceil(limit_mm / spacing_mm), len(lines) - 1) + 1):
        far = np.float32((steps * spacing_mm) ** 2)
        np.minimum(nearest[steps:], lines[:-steps] + far, out=nearest[steps:])
        np.minimum(nearest[:-steps], lines[steps:] + far, out=nearest[:-steps])
    return np.moveaxis(nearest, 0, axis)


def _peel_one(
    labels: LabelArray, label: int, spacing_mm: Sequence[float], mm: float, keep: Keep
) -> tuple[BoolArray, Peeled]:
    """Peel a label in its own box."""
    voxel_mm3 = math.prod(spacing_mm)
    whole = labels == label
    filled = whole | _small_holes(whole, labels != 0, 4 / 3 * math.pi * mm**3 / voxel_mm3)
    # The limit lies a little beyond the rim, so that what is as deep as the rim is finite.
    depth = depth_mm(filled, spacing_mm, mm + 2 * TOLERANCE_MM)
    rest = depth >= mm - TOLERANCE_MM
    parts, pieces = ndimage.label(rest)
    if keep == "largest" and pieces > 1:
        rest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return rest, Peeled(
        label=label,
        before_mm3=int(whole.sum()) * voxel_mm3,
        filled_mm3=int(filled.sum() - whole.sum()) * voxel_mm3,
        after_mm3=int(rest.sum()) * voxel_mm3,
        pieces=pieces,
        largest_mm=None if pieces else math.floor(round(float(depth.max()), 4) * 100) / 100,
        at_border=False,
    )


def _small_holes(whole: BoolArray, taken: BoolArray, most_voxels: float) -> BoolArray:
    """The holes of a label that hold no other one and have no more voxels than this."""
    holes, count = ndimage.label(ndimage.binary_fill_holes(whole) & ~whole)
    sizes = np.bincount(holes.ravel(), minlength=count + 1)
    small = sizes <= most_voxels
    small[0] = False
    small[np.unique(holes[taken & ~whole])] = False
    filled: BoolArray = small[holes]
    return filled


def _at_border(box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    return any(part.start == 0 or part.stop == size for part, size in zip(box, shape, strict=True))


def _nothing_left(gone: Sequence[Peeled], mm: float) -> InputError:
    deepest = max(gone, key=lambda one: one.largest_mm or 0)
    what = f"label {deepest.label}" if len(gone) == 1 else f"{len(gone)} labels"
    most = ", ".join(f"{one.label}: {one.largest_mm:g}" for one in gone[:8])
    more = ", ..." * (len(gone) > 8)
    return InputError(
        f"peeling {mm:g} mm off {what}",
        wanted="something left",
        got="nothing",
        mend=f"take at most (label: mm) {most}{more}",
    )
