"""What the study measures in a volume: voxels, and BMD, TMD and BV/TV of the spheres in the middles of its patches."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qctrun.runtime import Grid, Volume, local_maps
from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import FloatArray
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.raster import OUTPUT, PATCH, Corner, centre, corners, output_box

THRESHOLDS_MG_CM3 = tuple(float(t) for t in range(125, 326, 25))
TABLE_THRESHOLD_MG_CM3 = 225.0
LATTICE = 4
"""Of the voxels every fourth along each axis is looked at: neighbours hardly differ, and all of them are 6 million."""

MEASURED = {"measured": 1, "thresholds": THRESHOLDS_MG_CM3, "lattice": LATTICE}
"""What readings depend on beside the volume; the number grows when the measuring itself changes."""

Values = npt.NDArray[np.float32]
Readings = dict[str, Values]
"""`voxel` (voxel) and `BMD` (sphere) in mg/cm3; `TMD` (threshold, sphere) in mg/cm3; `BV/TV` (threshold, sphere), %."""


def readings(volume: FloatArray, thresholds_mg_cm3: Sequence[float] = THRESHOLDS_MG_CM3) -> Readings:
    """Measure a volume at the paper's raster, by the same code that measures a patient's scan.

    Parameters
    ----------
    volume : float32 array (z, y, x)
        mg/cm3, on the paper's grid; at least the size of a patch.
    thresholds_mg_cm3 : sequence of float
        Thresholds t of TMD and BV/TV (fuzzy step, spheres of 4.3 mm).
    """
    found = spheres(volume, corners(volume.shape), thresholds_mg_cm3)
    return {"voxel": volume[lattice(volume.shape)], **found}


def spheres(volume: FloatArray, where: Sequence[Corner], thresholds_mg_cm3: Sequence[float]) -> Readings:
    """BMD, TMD and BV/TV of the spheres in the middles of patches, given the patches' corners.

    Raises
    ------
    InputError
        When there is no patch, or one does not lie wholly inside.
    """
    _require_inside(volume.shape, where)
    middles = tuple(np.transpose([centre(corner) for corner in where]))
    wanted = np.zeros(volume.shape, bool)
    wanted[middles] = True
    grid = Grid(volume.shape, PAPER_SPACING_MM)
    maps = local_maps(Volume(volume, grid, "mg/cm3"), thresholds_mg_cm3, mask=wanted)
    return {
        "BMD": maps["BMD"].array[middles],
        "TMD": np.stack([maps["TMD", t].array[middles] for t in thresholds_mg_cm3]),
        "BV/TV": 100 * np.stack([maps["BVTV", t].array[middles] for t in thresholds_mg_cm3]),
    }


def lattice(shape: tuple[int, ...]) -> tuple[npt.NDArray[np.intp], ...]:
    """Indices (z, y, x) of the voxels that are looked at: inside every halo, on the raster of patches."""
    halo = [(p - o) // 2 for p, o in zip(PATCH, OUTPUT, strict=True)]
    axes = (range(h, n - h, LATTICE) for n, h in zip(shape, halo, strict=True))
    return tuple(index.ravel() for index in np.meshgrid(*axes, indexing="ij"))


def inside(shape: tuple[int, ...], where: Sequence[Corner]) -> npt.NDArray[np.bool_]:
    """Which voxels of the `lattice` lie in the output of one of these patches."""
    covered = np.zeros(shape, bool)
    for corner in where:
        covered[output_box(corner)] = True
    return covered[lattice(shape)]


def _require_inside(shape: tuple[int, ...], where: Sequence[Corner]) -> None:
    if not where:
        mend = f"take volumes of {PATCH} voxels or more"
        raise InputError("patches", wanted="one or more", got=f"none in a volume of {shape}", mend=mend)
    last = np.subtract(shape, PATCH)
    outside = [one for one in where if np.any(np.less(one, 0)) or np.any(np.greater(one, last))]
    if outside:
        wanted = f"corners of patches from 0 to {tuple(int(n) for n in last)}"
        raise InputError("position", wanted=wanted, got=f"{tuple(int(n) for n in outside[0])}")
