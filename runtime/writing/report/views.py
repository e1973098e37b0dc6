"""Which planes of a volume are looked at, cut the way a radiologist holds them, in true millimetres."""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.volume import BoolArray, Grid

Picture = npt.NDArray[Any]
Box = tuple[slice, slice, slice]

_L, _P, _S = 0, 1, 2
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
_PLANES = {"axial": (_S, _P, _L), "sagittal": (_L, _S, _P), "coronal": (_P, _S, _L)}
"""The patient's axes along each plane's normal, along its height and along its width."""
_WRITTEN_COSINE = 0.3
"""From this on an edge of an oblique plane carries the letter of a second direction, too."""
_MARGIN_MM = (10.0, 30.0)
_FULL_SHARE = 0.8
_ALIKE = (0.75, 1.5)
"""Axial pictures are as high as the others where that changes them no more than this."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane of a volume on a picture.

    Attributes
    ----------
    name : "axial", "sagittal" or "coronal"
        Of an oblique grid the nearest.
    axis, index : int
        Array axis (z, y, x) that the plane stands on, and which slice of it.
    down, right : int
        Array axes that run along the picture's height and width.
    flips : (bool, bool)
        Whether the picture runs against them.
    crop : Box
        What of the volume is shown, along all three axes.
    spacing_mm : (float, float)
        Of the picture's rows and columns.
    field_mm : (float, float)
        Height and width of the field of view; what of it lies outside of the volume stays black.
    edges : (str, str, str, str)
        Where the left, right, upper and lower edge lie in the patient, in the letters R L A P S I.
    """

    name: str
    axis: int
    index: int
    down: int
    right: int
    flips: tuple[bool, bool]
    crop: Box
    spacing_mm: tuple[float, float]
    field_mm: tuple[float, float]
    edges: tuple[str, str, str, str]

    def cut(self, array: npt.NDArray[Any]) -> Picture:
        """The plane's picture out of an array (z, y, x) of the whole volume: a small copy."""
        where: list[Any] = list(self.crop)
        where[self.axis] = self.index
        flat = array[tuple(where)]
        upright: Picture = flat if self.down < self.right else flat.T
        return np.flip(upright, tuple(axis for axis in (0, 1) if self.flips[axis])).copy()


def planes_of(grid: Grid, mask: BoolArray | None, slices: int = 1) -> list[Plane]:
    """Choose the planes that show a mask best: axial ones from head to foot, a sagittal and a coronal one.

    Each runs through the mask's centre, or the nearest place to it where the mask fills at least 80 % of its
    largest section: the centre of two vertebrae lies in the disc between them. Several axial planes lie evenly
    between the mask's ends.

    Parameters
    ----------
    grid : Grid
        Of the volume.
    mask : bool array (z, y, x), optional
        What to look at; the whole volume without it.
    slices : int
        How many axial planes.
    """
    areas = [_areas(grid, mask, axis) for axis in range(3)]
    crop, extents_mm = _field(grid, areas)
    array_axes, _ = patient_axes(grid)
    wide = max(extents_mm[array_axes[_L]], extents_mm[array_axes[_P]])
    high = float(np.clip(extents_mm[array_axes[_S]], 0.5 * wide, 2.2 * wide))
    square = high if _ALIKE[0] <= high / wide <= _ALIKE[1] else wide  # then all three stand in one row
    planes = []
    for name in _PLANES:
        field_mm = (square if name == "axial" else high, wide)
        count = slices if name == "axial" else 1
        planes += [
            _plane(grid, name, index, crop, field_mm)
            for index in _indices(areas[array_axes[_PLANES[name][0]]], count)
        ]
    return sorted(planes, key=lambda plane: (list(_PLANES).index(plane.name), -_height(grid, plane)))


def patient_axes(grid: Grid) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For the patient's axes L, P and S: the nearest array axis, and 1 or -1 as it runs along or against it."""
    cosines = np.reshape(grid.direction, (3, 3))[:, ::-1]  # columns in the order of array axes
    best = max(permutations(range(3)), key=lambda order: sum(abs(cosines[i, order[i]]) for i in range(3)))
    signs = [1 if cosines[i, best[i]] >= 0 else -1 for i in range(3)]
    return (best[0], best[1], best[2]), (signs[0], signs[1], signs[2])


def bounding_box(grid: Grid, mask: BoolArray | None) -> Box:
    """The smallest box (z, y, x) that holds a mask; all of the volume without one."""
    ends = [np.flatnonzero(_areas(grid, mask, axis))[[0, -1]] for axis in range(3)]
    z, y, x = (slice(int(first), int(last) + 1) for first, last in ends)
    return z, y, x


def _areas(grid: Grid, mask: BoolArray | None, axis: int) -> npt.NDArray[np.int64]:
    """How many voxels each slice along an axis holds."""
    if mask is None:
        return np.ones(grid.size[axis], np.int64)
    across = tuple(other for other in range(3) if other != axis)
    return np.asarray(np.count_nonzero(mask, axis=across), dtype=np.int64)


def _field(grid: Grid, areas: list[npt.NDArray[np.int64]]) -> tuple[Box, list[float]]:
    """What is shown of each array axis, and its length with a margin, mm."""
    ends = [np.flatnonzero(area)[[0, -1]] for area in areas]
    lengths = [(last - first + 1) * step for (first, last), step in zip(ends, grid.spacing, strict=True)]
    whole = all(last - first + 1 == size for (first, last), size in zip(ends, grid.size, strict=True))
    margin = 0.0 if whole else float(np.clip(0.25 * max(lengths), *_MARGIN_MM))
    extents = [float(length + 2 * margin) for length in lengths]
    # Every plane has room for the longest side, so that no picture shows less than its neighbours.
    room = max(extents)
    crop = []
    for (first, last), step, size in zip(ends, grid.spacing, grid.size, strict=True):
        middle, half = (first + last) / 2, room / step / 2
        crop.append(slice(max(0, int(middle - half)), min(size, int(np.ceil(middle + half)) + 1)))
    return (crop[0], crop[1], crop[2]), extents


def _indices(areas: npt.NDArray[np.int64], count: int) -> list[int]:
    inside = np.flatnonzero(areas)
    first, last = int(inside[0]), int(inside[-1])
    if count > 1:
        steps = first + (np.arange(count) + 0.5) * (last - first + 1) / count
        return sorted({int(step) for step in steps})
    good = np.flatnonzero(areas >= _FULL_SHARE * areas.max())
    return [int(good[np.argmin(np.abs(good - np.average(np.arange(len(areas)), weights=areas)))])]


def _plane(grid: Grid, name: str, index: int, crop: Box, field_mm: tuple[float, float]) -> Plane:
    array_axes, signs = patient_axes(grid)
    normal, height, width = _PLANES[name]
    down, right = array_axes[height], array_axes[width]
    downward = -signs[height] if height == _S else signs[height]  # the head is up
    cosines = np.reshape(grid.direction, (3, 3))[:, ::-1]
    to_right, to_bottom = signs[width] * cosines[:, right], downward * cosines[:, down]
    return Plane(
        name,
        array_axes[normal],
        index,
        down,
        right,
        (downward < 0, signs[width] < 0),
        crop,
        (grid.spacing[down], grid.spacing[right]),
        field_mm,
        (_letters(-to_right), _letters(to_right), _letters(-to_bottom), _letters(to_bottom)),
    )


def _letters(towards: npt.NDArray[np.float64]) -> str:
    """The letters of a direction (L, P, S), the strongest first."""
    order = np.argsort(-np.abs(towards), kind="stable")
    written = [axis for axis in order if abs(towards[axis]) > _WRITTEN_COSINE] or [order[0]]
    return "".join(_LETTERS[axis][int(towards[axis] > 0)] for axis in written)


def _height(grid: Grid, plane: Plane) -> float:
    """How far up in the patient a plane lies, along its normal."""
    _, signs = patient_axes(grid)
    return float(plane.index * signs[_PLANES[plane.name][0]])
