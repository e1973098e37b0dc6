"""Laying a label map on the grid of a scan: turned, placed, or, only when asked, resampled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.images import NumberArray
from qctrun.runtime.volume import DIRECTION_TOLERANCE, Grid

LabelArray = npt.NDArray[np.int32]
Fit = Mapping[str, Any]

_SHARE_OF_VOXEL = 0.05
"""Spacings that agree to a micrometre may drift apart over many voxels, but by no more of one than this."""


def fitted(
    labels: LabelArray, own: Grid, grid: Grid, path: Path, *, resample: bool = False
) -> tuple[LabelArray, Fit, tuple[str, ...]]:
    """Lay labels on another grid.

    Parameters
    ----------
    labels : int32 array (z, y, x)
    own, grid : Grid
        Of the labels, and of the scan.
    path : Path
        What messages call the labels.
    resample : bool
        Take the nearest neighbour where nothing else helps.

    Returns
    -------
    labels
        int32 array of `grid.size`, C-contiguous.
    fit
        How it came there (`LabelMap.fit`).
    notes
        What is to be told of it.

    Raises
    ------
    InputError
        When the grids differ and `resample` is not set, or no label lies in the scan.
    """
    turned, place = turn(labels, own, grid)
    difference = grid.difference(place)
    if not difference:
        how = "as stored" if turned is labels else "axes turned"
        return np.ascontiguousarray(turned), {"fit": how}, ()
    if (offset := _offset(place, grid)) is not None:
        return _placed(turned, offset, grid, path)
    if resample:
        return _resampled(labels, own, grid, path)
    mend = "say --resample-labels (resample=True) for the nearest neighbour, or resample the mask to the scan's grid"
    raise InputError(
        f"{path}", wanted="the grid of the scan", got=f"scan against mask: {difference}", mend=mend
    )


def turn(numbers: NumberArray, grid: Grid, like: Grid) -> tuple[NumberArray, Grid]:
    """Permute and flip axes so that they run as those of another grid, where right angles allow it.

    Returns
    -------
    numbers, grid
        The same voxels at the same places; unchanged when no permutation brings the axes together.
    """
    axes = np.reshape(grid.direction, (3, 3))
    between = np.reshape(like.direction, (3, 3)).T @ axes
    signed = np.rint(between)
    straight = np.allclose(between, signed, rtol=0, atol=DIRECTION_TOLERANCE)
    if not straight or not np.array_equal(np.abs(signed).sum(axis=0), [1, 1, 1]):
        return numbers, grid
    if np.array_equal(signed, np.eye(3)):
        return numbers, grid
    # Axes here are (x, y, z); arrays run (z, y, x).
    sources = np.argmax(np.abs(signed), axis=1)
    signs = signed[np.arange(3), sources]
    order = tuple(2 - int(sources[axis]) for axis in (2, 1, 0))
    flipped = tuple(2 - axis for axis in range(3) if signs[axis] < 0)
    corner = [grid.size[2 - axis] - 1 if signed[:, axis].sum() < 0 else 0 for axis in (2, 1, 0)]
    origin = grid.world((corner[0], corner[1], corner[2]))
    turned = np.flip(np.transpose(numbers, order), flipped)
    spacing = tuple(grid.spacing[axis] for axis in order)
    direction = axes[:, sources] * signs
    return turned, Grid(
        (turned.shape[0], turned.shape[1], turned.shape[2]),
        (spacing[0], spacing[1], spacing[2]),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(direction.ravel().tolist()),
    )


def _offset(place: Grid, grid: Grid) -> tuple[int, int, int] | None:
    """Voxels (z, y, x) from the first of the scan to the first of the map, where that is a whole number."""
    axes, steps = np.reshape(grid.direction, (3, 3)), np.asarray(grid.spacing[::-1])
    found = np.rint(axes.T @ np.subtract(place.origin, grid.origin) / steps)[::-1]
    offset = (int(found[0]), int(found[1]), int(found[2]))
    moved = Grid(place.size, grid.spacing, tuple(grid.world(offset)), grid.direction)
    far = [size - 1 for size in place.size]
    corners = np.abs(moved.world((far[0], far[1], far[2])) - place.world((far[0], far[1], far[2])))
    return None if moved.difference(place) or corners.max() > _SHARE_OF_VOXEL * min(grid.spacing) else offset


def _placed(
    turned: NumberArray, offset: tuple[int, int, int], grid: Grid, path: Path
) -> tuple[LabelArray, Fit, tuple[str, ...]]:
    """Copy the voxels that the map and the scan share; what the map does not cover is background."""
    ends = [
        min(begin + size, most) for begin, size, most in zip(offset, turned.shape, grid.size, strict=True)
    ]
    begins = [max(begin, 0) for begin in offset]
    inside = tuple(slice(begin, max(end, begin)) for begin, end in zip(begins, ends, strict=True))
    shared = tuple(
        slice(part.start - begin, part.stop - begin) for part, begin in zip(inside, offset, strict=True)
    )
    labels = np.zeros(grid.size, np.int32)
    labels[inside] = turned[shared]
    _require_some(labels, path)
    notes = [
        f"{path.name} covers {turned.shape} voxels (z, y, x) of the scan's grid, from voxel {offset} on; it was "
        "placed there without interpolation, and the rest of the scan is background"
    ]
    if lost := int(np.count_nonzero(turned)) - int(np.count_nonzero(labels)):
        notes.append(f"{lost} voxels with a label in {path.name} lie outside of the scan and do not count")
    return labels, {"fit": "placed by whole voxels", "offset_zyx": list(offset)}, tuple(notes)


def _resampled(
    labels: LabelArray, own: Grid, grid: Grid, path: Path
) -> tuple[LabelArray, Fit, tuple[str, ...]]:
    """Give each voxel of the scan the label at its centre; labels too thin to be met there are kept (`_thin`)."""
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(own.spacing[::-1])
    image.SetOrigin(own.origin)
    image.SetDirection(own.direction)
    near = sitk.Resample(
        image,
        grid.size[::-1],
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        grid.origin,
        grid.spacing[::-1],
        grid.direction,
        0,
        sitk.sitkInt32,
    )
    found: LabelArray = sitk.GetArrayFromImage(near)
    before, after = _counts(labels), _counts(found)
    thin = [label for label in before if label not in after and _thin(labels, own, found, grid, label)]
    _require_some(found, path)
    fit = {
        "fit": "nearest neighbour",
        "interpolation": "nearest neighbour",
        "from_spacing_zyx_mm": list(own.spacing),
        "to_spacing_zyx_mm": list(grid.spacing),
    }
    volumes = {
        label: (before[label] * own.voxel_mm3, after.get(label, 0) * grid.voxel_mm3) for label in before
    }
    return found, fit, _said(volumes, thin, own, grid, path)


def _thin(labels: LabelArray, own: Grid, found: LabelArray, grid: Grid, label: int) -> bool:
    """Mark the voxels of the scan that hold a voxel centre of this label, where no other label is."""
    points = np.argwhere(labels == label)[:, ::-1] * np.asarray(own.spacing[::-1])
    world = np.asarray(own.origin) + points @ np.reshape(own.direction, (3, 3)).T
    steps = (world - np.asarray(grid.origin)) @ np.reshape(grid.direction, (3, 3))
    index = np.rint(steps / np.asarray(grid.spacing[::-1])).astype(int)[:, ::-1]
    index = index[((index >= 0) & (index < np.asarray(grid.size))).all(axis=1)]
    free = index[found[tuple(index.T)] == 0]
    found[tuple(free.T)] = label
    return bool(len(free))


def _said(
    volumes: Mapping[int, tuple[float, float]], thin: list[int], own: Grid, grid: Grid, path: Path
) -> tuple[str, ...]:
    worst = max(volumes, key=lambda label: abs(volumes[label][1] / volumes[label][0] - 1))
    was, now = volumes[worst]
    spacings = " to ".join(" x ".join(f"{mm:.4g}" for mm in each.spacing) for each in (own, grid))
    notes = [
        f"{path.name} was resampled to the scan's grid (nearest neighbour, {spacings} mm (z, y, x)); label {worst} "
        f"changes most in volume, from {was:.5g} to {now:.5g} mm3"
    ]
    gone = [label for label, (_, left) in volumes.items() if not left and label not in thin]
    if thin:
        listed = ", ".join(map(str, thin))
        notes.append(f"labels that no voxel centre of the scan meets, kept where they lie: {listed}")
    if gone:
        listed = ", ".join(map(str, gone))
        notes.append(f"labels of {path.name} without a voxel in the scan: {listed}")
    return tuple(notes)


def _counts(labels: LabelArray) -> dict[int, int]:
    values, counts = np.unique(labels[labels != 0], return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _require_some(labels: LabelArray, path: Path) -> None:
    if not labels.any():
        mend = "check that scan and mask belong together"
        raise InputError(f"{path}", wanted="labels inside of the scan", got="none there", mend=mend)
