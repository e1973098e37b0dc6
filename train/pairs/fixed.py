"""The reference of a specimen as what scans are laid over: read, averaged onto the study's grid, its mask peeled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.filtering.windows import bounding_box
from qctrun.runtime.measuring.peel import peel
from qctrun.runtime.reading import load_label_map, read_density
from qctrun.runtime.reading.fitting import fitted, turn
from qctrun.runtime.resampling import INTERPOLATION, Line, resampled, weights
from qctrun.runtime.volume import BoolArray, Grid, Volume, as_mask
from qctrun.train.pairs.choices import Specimen

_SAME = 1e-6
"""Faces of voxels that differ by less than this share of a voxel are one: spacings come rounded."""


@dataclass(frozen=True, slots=True, eq=False)
class Fixed:
    """A reference on the study's grid.

    Attributes
    ----------
    density : Volume
        mg/cm3, each voxel the mean of the reference over its width. The grid has the reference's axes and middle.
    mask : bool array (z, y, x)
        What counts of it: the voxels that lie wholly inside the peeled mask.
    facts : dict of JSON values
        What was done: `axes`, `from_spacing_zyx_mm`, `to_spacing_zyx_mm`, `size_zyx`, `peel_mm`, `pieces`, and the
        volumes `mask_mm3` (as given), `peeled_mm3` and `inside_mm3` (on the study's grid).
    """

    density: Volume
    mask: BoolArray
    facts: dict[str, Any]


def read_reference(specimen: Specimen) -> tuple[Volume, BoolArray]:
    """Read the reference of a specimen and its mask.

    Returns
    -------
    Volume
        mg/cm3, of a known material, on its native grid.
    bool array (z, y, x)
        Of the same grid.

    Raises
    ------
    InputError
        When the reference is no density, its material is not known or its axes are left-handed, or the mask is
        empty, holds several labels or lies on another grid than the reference or a part of it.
    """
    reference = read_density(specimen.reference, unit=specimen.unit, material=specimen.material)
    require_right_handed(reference.grid, str(specimen.reference))
    labels = load_label_map(specimen.mask)
    if len(labels.present) > 1:
        raise InputError(
            f"{specimen.mask}",
            wanted="one label, the bone that counts",
            got=f"labels {', '.join(map(str, labels.present[:8]))}",
            mend="write that label alone into a file, for example by qctrun peel --label-ids",
        )
    try:
        array, _, notes = fitted(labels.array, labels.grid, reference.grid, specimen.mask)
    except InputError as error:
        raise _elsewhere(specimen, labels.grid, reference.grid) from error
    return reference.warn(*notes), array != 0


def require_right_handed(grid: Grid, what: str) -> None:
    """Refuse a volume whose voxels are stored in left-handed order.

    Where its header is right it is no mirror image, but nobody can tell from the file whether it is.

    Raises
    ------
    InputError
    """
    if np.linalg.det(np.reshape(grid.direction, (3, 3))) < 0:
        raise InputError(
            what,
            wanted="right-handed axes",
            got="left-handed ones (dcm2niix writes such): bone or its mirror image, the file cannot tell",
            mend="give the scanner's own files, or see that left is left and write it anew with SimpleITK's "
            "DICOMOrient(image, 'LPS')",
        )


def fixed_volume(
    reference: Volume, mask: npt.NDArray[Any], spacing_mm: Sequence[float], peel_mm: float = 0.0
) -> Fixed:
    """Average a reference onto the grid of the study, and peel its mask.

    The axis of the array that runs nearest to the world's z, by the direction cosines, becomes axis 0, the one
    with the study's slices: voxels are reordered, each stays at its place in the world. The mask is peeled on the
    reference's own voxels, before anything is averaged.

    Parameters
    ----------
    reference : Volume
        mg/cm3.
    mask : bool or integer array (z, y, x)
        Of the reference's grid; what is not 0 counts.
    spacing_mm : (float, float, float)
        Of the study, (z, y, x).
    peel_mm : float
        How much of the mask's rim is taken off; 0 for none.

    Raises
    ------
    InputError
        When the reference is no density or left-handed, the mask is empty or of another shape, nothing of it is
        left after peeling, or no voxel of the study lies wholly inside.
    """
    if reference.unit != "mg/cm3":
        raise InputError("reference", wanted="density in mg/cm3", got=f"a volume in {reference.unit}")
    require_right_handed(reference.grid, "reference")
    told, inside = _upright(reference, as_mask(mask, reference.grid))
    peeled, pieces = _peeled(inside, told.grid.spacing, peel_mm)
    lines = _lines(told.grid, spacing_mm)
    grid = _grid_of(told.grid, lines)
    covered = _wholly_inside(peeled, lines)
    if not covered.any():
        raise InputError(
            "mask of the reference",
            wanted=f"at least one voxel of {_words(spacing_mm)} wholly inside",
            got="none" + f" after peeling {peel_mm:g} mm" * (peel_mm > 0),
            mend="peel less, or check that the mask is filled",
        )
    facts = {
        "axes": "turned" if told.grid != reference.grid else "as stored",
        "from_spacing_zyx_mm": list(told.grid.spacing),
        "to_spacing_zyx_mm": list(grid.spacing),
        "size_zyx": list(grid.size),
        "peel_mm": peel_mm,
        "pieces": pieces,
        "mask_mm3": float(inside.sum() * told.grid.voxel_mm3),
        "peeled_mm3": float(peeled.sum() * told.grid.voxel_mm3),
        "inside_mm3": float(covered.sum() * grid.voxel_mm3),
    }
    return Fixed(_averaged(told, grid, lines), covered, facts)


def _elsewhere(specimen: Specimen, own: Grid, grid: Grid) -> InputError:
    return InputError(
        f"{specimen.mask}",
        wanted=f"the grid of {specimen.reference.name}, or a part of it",
        got=f"reference against mask: {grid.difference(own)}",
        mend="draw the mask on the reference itself, or resample it there by the nearest neighbour",
    )


def _upright(reference: Volume, mask: BoolArray) -> tuple[Volume, BoolArray]:
    """Reference and mask with the cranio-caudal axis first."""
    axes = np.reshape(reference.grid.direction, (3, 3))
    # Columns are the image axes x, y, z; a cyclic order keeps their handedness.
    last = 2 - int(np.argmax(np.abs(axes[2, ::-1])))
    if last == 2:
        return reference, mask
    wanted = axes[:, [(last + 1) % 3, (last + 2) % 3, last]]
    like = Grid((1, 1, 1), (1.0, 1.0, 1.0), direction=tuple(wanted.ravel()))
    array, grid = turn(reference.array, reference.grid, like)
    turned = Volume(array, grid, reference.unit, reference.material, reference.provenance)
    words = f"the reference: its axis {2 - last} (of z, y, x = 0, 1, 2) runs cranio-caudally and was made the first"
    return turned.warn(words), np.ascontiguousarray(turn(mask, reference.grid, like)[0])


def _peeled(mask: BoolArray, spacing_mm: Sequence[float], mm: float) -> tuple[BoolArray, int]:
    """The inside of a mask, and into how many pieces it had fallen; only its bounding box is worked on."""
    if mm == 0:
        return mask, 1
    box = bounding_box(mask) or ()
    labels, found = peel(mask[box].astype(np.int32), spacing_mm, mm)
    inside = np.zeros_like(mask)
    inside[box] = labels != 0
    return inside, found[0].pieces


def _lines(grid: Grid, spacing_mm: Sequence[float]) -> list[tuple[Line, Line]]:
    """The voxels of the reference along (z, y, x), and as many of the study's as lie wholly in it, in its middle."""
    lines = []
    for count, own, wanted in zip(grid.size, grid.spacing, spacing_mm, strict=True):
        voxels = math.floor(count * own / wanted * (1 + _SAME))
        if voxels < 1:
            got = f"{count * own:.4g} mm in a direction"
            raise InputError("reference", wanted=f"room for voxels of {_words(spacing_mm)}", got=got)
        start = ((count - 1) * own - (voxels - 1) * wanted) / 2
        lines.append((Line(0.0, own, count), Line(start, wanted, voxels)))
    return lines


def _grid_of(own: Grid, lines: Sequence[tuple[Line, Line]]) -> Grid:
    size = [line.count for _, line in lines]
    spacing = [line.spacing_mm for _, line in lines]
    z, y, x = (line.start_mm / step for (_, line), step in zip(lines, own.spacing, strict=True))
    origin = own.world((z, y, x)).tolist()
    return Grid((size[0], size[1], size[2]), (spacing[0], spacing[1], spacing[2]), origin, own.direction)


def _averaged(reference: Volume, grid: Grid, lines: Sequence[tuple[Line, Line]]) -> Volume:
    z, y, x = (weights(own, wanted) for own, wanted in lines)
    step = {
        "what": "the reference averaged onto the study's grid",
        "interpolation": INTERPOLATION,
        "from_spacing_zyx_mm": list(reference.grid.spacing),
        "to_spacing_zyx_mm": list(grid.spacing),
    }
    before = reference.provenance.get("resampling") or ()
    provenance = {**reference.provenance, "resampling": [*before, step]}
    return Volume(resampled(reference.array, (z, y, x)), grid, reference.unit, reference.material, provenance)


def _wholly_inside(mask: BoolArray, lines: Sequence[tuple[Line, Line]]) -> BoolArray:
    """The study's voxels of which every voxel of the reference that they touch is in the mask, axis by axis."""
    for axis, (own, wanted) in enumerate(lines):
        faces = wanted.start_mm / own.spacing_mm + 0.5, wanted.spacing_mm / own.spacing_mm
        low = faces[0] + (np.arange(wanted.count) - 0.5) * faces[1]
        first = np.floor(low + _SAME).astype(int)
        last = np.ceil(low + faces[1] - _SAME).astype(int) - 1
        reached = [np.minimum(first + step, last) for step in range(int((last - first).max()) + 1)]
        mask = np.logical_and.reduce([np.take(mask, at, axis) for at in reached])
    return mask


def _words(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{mm:g}" for mm in spacing_mm) + " mm"
