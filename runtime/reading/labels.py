"""Masks and label maps, on exactly the grid of the volume that they belong to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.images import NumberArray, load
from qctrun.runtime.reading.sources import opened_file
from qctrun.runtime.volume import DIRECTION_TOLERANCE, Grid

LabelArray = npt.NDArray[np.int32]


def read_labels(path: str | Path, grid: Grid, label_ids: Sequence[int] | None = None) -> LabelArray:
    """Read a map of whole numbers, 0 for background.

    A map whose axes are stored in another order or direction, but which covers the same voxels, is turned
    without any interpolation; every other map on another grid is refused.

    Parameters
    ----------
    path : str or Path
        NIfTI, MHA or NRRD file, or one inside of a zip (`scan.zip/mask.nii.gz`).
    grid : Grid
        Of the volume.
    label_ids : sequence of int, optional
        The labels to keep; the others become background.

    Returns
    -------
    int32 array (z, y, x)

    Raises
    ------
    InputError
        When the grids differ, the values are no labels, the map is empty or an asked label is not in it.
    """
    path = Path(path)
    with opened_file(path) as file:
        numbers, own, _ = load(file)
    numbers, turned = turn(numbers, own, grid)
    if difference := grid.difference(turned):
        mend = "resample the mask to the scan's grid"
        raise InputError(
            f"{path}", wanted="the grid of the scan", got=f"scan against mask: {difference}", mend=mend
        )
    labels = _whole_numbers(numbers, path)
    return labels if label_ids is None else _kept(labels, label_ids, path)


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


def _whole_numbers(numbers: NumberArray, path: Path) -> LabelArray:
    limits = np.iinfo(np.int32)
    with np.errstate(invalid="ignore"):
        labels = np.ascontiguousarray(numbers).astype(np.int32)
    if not np.array_equal(labels, numbers):
        wrong = numbers[labels != numbers][0]
        raise InputError(f"{path}", wanted=f"whole numbers up to {limits.max} as labels", got=f"{wrong}")
    if labels.min() < 0:
        raise InputError(f"{path}", wanted="labels of 0 (background) and above", got=f"{labels.min()}")
    if not labels.any():
        raise InputError(f"{path}", wanted="a mask with voxels in it", got="only background")
    return labels


def _kept(labels: LabelArray, label_ids: Sequence[int], path: Path) -> LabelArray:
    present = [int(label) for label in np.unique(labels) if label]
    absent = [label for label in label_ids if label not in present]
    if absent or not label_ids:
        wanted = f"label {', '.join(map(str, absent))}" if absent else "at least one label"
        raise InputError(f"{path}", wanted=wanted, got=f"a map of {', '.join(map(str, present))}")
    return np.where(np.isin(labels, label_ids), labels, np.int32(0))
