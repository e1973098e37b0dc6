"""What a scan is regressed on: means over spheres in a mask without its rim, of densities and their curvature."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from qctrun.runtime.filtering.windows import bounding_box
from qctrun.runtime.measuring.maps import local_maps
from qctrun.runtime.measuring.sphere import Sphere
from qctrun.runtime.volume import BoolArray, FloatArray, Grid, Progress, Volume

Doubles = npt.NDArray[np.float64]

RIM_MM = 1.0
"""Clinical scanners blur by some 0.3 mm (Gaussian): a millimetre away from the cortex nothing is left of it."""


def without_rim(inside: BoolArray, grid: Grid) -> BoolArray:
    """The voxels (z, y, x) of a mask that lie `RIM_MM` or more from what is outside of it.

    Beyond the faces of the volume bone may go on as inside, so nothing is taken off there.
    """
    box = bounding_box(inside)
    if box is None:
        return inside
    # One voxel more, where there is one: else all round the box would be a face.
    wide = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
    part = inside[wide]
    if part.all():
        return inside
    left = np.zeros_like(inside)
    left[wide] = ndimage.distance_transform_edt(part, sampling=grid.spacing) > RIM_MM
    return left


def sphere_means(
    arrays: Sequence[FloatArray],
    inside: BoolArray,
    grid: Grid,
    diameter_mm: float,
    progress: Progress | None = None,
) -> list[Doubles]:
    """Means over that part of each sphere which lies in the mask, about each of its voxels.

    Of the part, because a reference is often zero outside of its mask, and because what lies there, cortex or metal,
    is not to be compared.

    Parameters
    ----------
    arrays : float arrays (z, y, x)
        Finite in the mask.
    inside : bool array (z, y, x)
    diameter_mm : float

    Returns
    -------
    list of float arrays (voxel)
        Of each array, in the order of the mask's voxels.
    """
    sides = Sphere(grid.spacing, diameter_mm).half_size
    box = bounding_box(inside) or ()
    # Room for whole spheres all round: about voxels at the faces of a volume there are no maps.
    mask = np.pad(inside[box], [(n, n) for n in sides])
    size = (mask.shape[0], mask.shape[1], mask.shape[2])
    there = Grid(size, grid.spacing)

    def sums(values: npt.NDArray[np.generic]) -> Doubles:
        within = np.zeros(size, np.float32)
        within[mask] = values[inside]
        # Maps are made of densities; CT numbers, curvatures and masks are averaged all the same.
        plain = Volume(within, there, "mg/cm3", "HA")
        found = local_maps(plain, (200.0,), diameter_mm, mask=mask, device="cpu", progress=progress)
        return found["BMD"].array[mask].astype(np.float64)

    shares = sums(inside)
    return [sums(array) / shares for array in arrays]


def curvatures(density: FloatArray, inside: BoolArray, grid: Grid) -> tuple[FloatArray, FloatArray]:
    """Second derivatives in plane and along z, per mm2, of what lies in a mask; nothing flows over its border.

    A scan that blurs more than its reference by a variance of v mm2 shows density + v/2 times this, to first order;
    a shift that differs from place to place does the same.
    """
    z, y, x = (_curvature(density, inside, axis, step_mm) for axis, step_mm in enumerate(grid.spacing))
    return y + x, z


def _curvature(density: FloatArray, inside: BoolArray, axis: int, step_mm: float) -> FloatArray:
    found = np.zeros_like(density)
    values, out = np.moveaxis(density, axis, 0), np.moveaxis(found, axis, 0)
    mask = np.moveaxis(inside, axis, 0)
    with np.errstate(invalid="ignore"):  # NaN outside of the mask
        steps = np.where(mask[1:] & mask[:-1], values[1:] - values[:-1], 0) / np.float32(step_mm**2)
    out[:-1] += steps
    out[1:] -= steps
    return found
