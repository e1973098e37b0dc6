"""What the position and orientation tags of a folder say, worked out with pydicom alone, and a judge of volumes.

Nothing here comes from qctrun, so that qctrun can be found wrong as well as the others.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from scipy.ndimage import map_coordinates

Array = npt.NDArray[np.float64]

NEAR_VOXELS = 0.1
"""A voxel lies where a pixel lies when it is no further off than this part of a voxel."""
SCANNED_HU = -1024.0
"""What lies below fills the corners around the scan circle; programs replace it."""
HOLE = 1.8
PLACED = 0.8
"""So many of the slices must fit best where the tags put them, and not beside."""
GOOD = ("right", "right, resampled")


@dataclass(frozen=True, eq=False)
class Plane:
    """One image of one file: where its pixels lie, and the values of some of them."""

    name: str
    series: str
    is_slice: bool
    shape: tuple[int, int]
    corner: Array | None
    down: Array | None
    across: Array | None
    pixels: npt.NDArray[np.intp]
    values: Array | None
    tolerance: float


@dataclass(frozen=True, eq=False)
class Made:
    """What a program made of a folder: numbers, and the 4 x 4 matrix from index to LPS millimetres."""

    array: npt.NDArray[np.generic]
    affine: Array

    def in_words(self) -> str:
        """Size and spacing, slices first where the axes are (x, y, z)."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        return f"{' x '.join(map(str, self.array.shape))}, {' x '.join(f'{mm:.4g}' for mm in spacing)} mm"


def planes_of(folder: Path) -> list[Plane]:
    """Every image with pixels in and below a folder."""
    found = []
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        try:
            dataset = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            continue
        if "PixelData" in dataset and "Rows" in dataset:
            found.append(_plane(dataset, path))
    return found


def stacks_of(planes: list[Plane]) -> list[list[Plane]]:
    """The images of one series and one size, sorted along the normal where they have one."""
    stacks: dict[tuple[object, ...], list[Plane]] = {}
    for plane in planes:
        lie = None if plane.down is None else tuple(np.round([*plane.down, *plane.across], 4))
        stacks.setdefault((plane.series, plane.shape, lie), []).append(plane)
    return [sorted(stack, key=lambda plane: _height(plane, stack[0])) for stack in stacks.values()]


def heights_of(stack: list[Plane]) -> Array:
    """Distances of the planes from the first one along their common normal, mm."""
    return np.array([_height(plane, stack[0]) for plane in stack])


def in_words(stack: list[Plane]) -> str:
    """What the tags say of one stack."""
    rows, columns = stack[0].shape
    said = f"{len(stack)} x {rows} x {columns}" + ("" if stack[0].is_slice else " (no CT slices)")
    if stack[0].down is None:
        return f"{said}, no geometry"
    if len(stack) == 1:
        return f"{said}, one position"
    gaps = np.diff(heights_of(stack))
    counted = [f"{gap:.3f} x{n}" for gap, n in Counter(np.round(gaps, 3)).most_common()]
    said += f", gaps {', '.join(counted[:4])}{', ...' * (len(counted) > 4)} mm"
    lean = _lean_mm(stack)
    angle = np.degrees(np.arctan2(lean, heights_of(stack)[-1]))
    return said + (f", leaning {angle:.1f} deg" if lean > 0.1 else "")


def is_sound(stack: list[Plane]) -> bool:
    """Whether CT slices lie even and straight, so that refusing them would be a fault, too."""
    if len(stack) < 2 or not stack[0].is_slice or stack[0].down is None:
        return False
    heights = heights_of(stack)
    even = np.linspace(0, heights[-1], len(heights))
    gap = heights[-1] / (len(heights) - 1)
    return bool(gap > 0.01 and np.abs(heights - even).max() <= 0.1 * gap and _lean_mm(stack) <= 0.1)


def judge(made: Made, stacks: list[list[Plane]]) -> str:
    """`right`, `right, resampled`, or what is wrong."""
    if any(_holds(made, stack) for stack in stacks):
        return "right"
    for stack in stacks:
        if len(stack) > 1 and stack[0].down is not None and _is_placed(made, stack):
            return "bridges a gap" if _has_hole(stack) else "right, resampled"
    return "wrong" if any(stack[0].down is not None for stack in stacks) else "makes geometry up"


def _plane(dataset: Dataset, path: Path) -> Plane:
    shape = (int(dataset.Rows), int(dataset.Columns))
    rows, columns = (np.unique(np.linspace(0, n - 1, 41).astype(np.intp)) for n in shape)
    pixels = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    tags = [dataset.get(name) for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")]
    corner = down = across = None
    if all(tags):
        corner = np.array(tags[0], float)
        row, column = np.reshape(tags[1], (2, 3)).astype(float)
        down, across = column * float(tags[2][0]), row * float(tags[2][1])
    slope = float(dataset.get("RescaleSlope") or 1)
    is_slice = (
        dataset.get("Modality") == "CT"
        and "LOCALIZER" not in dataset.get("ImageType", [])
        and not str(dataset.SOPClassUID).startswith("1.2.840.10008.5.1.4.1.1.7")
    )
    values = _values(dataset, pixels, slope)
    uid = str(dataset.get("SeriesInstanceUID"))
    return Plane(
        path.name, uid, is_slice, shape, corner, down, across, pixels, values, max(0.02, 0.51 * slope)
    )


def _values(dataset: Dataset, pixels: npt.NDArray[np.intp], slope: float) -> Array | None:
    """Rescaled values of some pixels; None where pydicom cannot decode them."""
    try:
        stored = dataset.pixel_array
    except Exception:  # whatever a decoder raises: these pixels are not looked at
        return None
    if stored.shape != (dataset.Rows, dataset.Columns):
        return None
    return stored[pixels[:, 0], pixels[:, 1]] * slope + float(dataset.get("RescaleIntercept") or 0)


def _height(plane: Plane, first: Plane) -> float:
    if plane.down is None or plane.across is None or plane.corner is None or first.corner is None:
        return 0.0
    normal = np.cross(plane.across, plane.down)
    return float((plane.corner - first.corner) @ normal / np.linalg.norm(normal))


def _lean_mm(stack: list[Plane]) -> float:
    steps = np.array([plane.corner - stack[0].corner for plane in stack])
    heights = heights_of(stack)
    return float(np.sqrt(np.maximum((steps**2).sum(axis=1) - heights**2, 0)).max())


def _has_hole(stack: list[Plane]) -> bool:
    gaps = np.diff(heights_of(stack))
    return bool(gaps.min() < 0.01 or gaps.max() > HOLE * np.median(gaps))


def _indices(made: Made, plane: Plane, shift: Array | float = 0.0) -> Array:
    """Where the sampled pixels of a plane lie in the volume, in voxels, (3, pixels)."""
    assert plane.corner is not None
    r, c = plane.pixels.T
    places = plane.corner[:, None] + np.outer(plane.down, r) + np.outer(plane.across, c)
    inverse = np.linalg.inv(made.affine)
    return np.asarray(inverse[:3, :3] @ (places + np.reshape(shift, (-1, 1))) + inverse[:3, 3:])


def _holds(made: Made, stack: list[Plane]) -> bool:
    """Whether every voxel is a pixel of the stack, at the pixel's place and of its value."""
    if stack[0].down is None:
        return False
    held = set()
    for plane in stack:
        index = _indices(made, plane)
        voxels = np.rint(index).astype(int)
        if np.abs(index - voxels).max() > NEAR_VOXELS or not _inside(made, voxels).all():
            continue
        found = made.array[tuple(voxels)].astype(float)
        if plane.values is None or _agree(found, plane):
            held.add(tuple(np.round(plane.corner, 3)))
    return len(held) * int(np.prod(stack[0].shape)) == made.array.size


def _agree(found: Array, plane: Plane) -> bool:
    assert plane.values is not None
    scanned = plane.values >= SCANNED_HU
    return bool(np.all(np.abs(found - plane.values)[scanned] <= plane.tolerance))


def _inside(made: Made, index: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    last = np.reshape(made.array.shape, (3, 1)) - 1
    return np.asarray(((index >= 0) & (index <= last)).all(axis=0))


def _is_placed(made: Made, stack: list[Plane]) -> bool:
    """Whether slices fit a resampled volume best where the tags put them: better than 1.5 pixels or half a gap off."""
    first, gap = stack[0], float(np.median(np.diff(heights_of(stack))))
    assert first.down is not None and first.across is not None
    normal = np.cross(first.across, first.down)
    ways = [1.5 * first.down, 1.5 * first.across, 0.5 * gap * normal / np.linalg.norm(normal)]
    fit = 0
    for plane in stack:
        here = _misfit(made, plane, np.zeros(3))
        beside = [_misfit(made, plane, sign * way) for way in ways for sign in (-1, 1)]
        fit += here < min(beside)
    return fit >= PLACED * len(stack)


def _misfit(made: Made, plane: Plane, shift: Array) -> float:
    """Mean difference between a plane and the volume; infinite where less than half of it lies in the volume."""
    if plane.values is None:
        return np.inf
    index = _indices(made, plane, shift)
    seen = _inside(made, np.rint(index)) & (plane.values >= SCANNED_HU)
    if seen.sum() < 0.5 * (plane.values >= SCANNED_HU).sum() or not seen.any():
        return np.inf
    found = map_coordinates(made.array, index[:, seen], order=1, mode="nearest", output=np.float64)
    return float(np.abs(found - plane.values[seen]).mean())
