"""Trabecular bone on a fine grid, as the share of each voxel that is bone (occupancy, 0 to 1).

Two sources: plates and rods from band-limited Gaussian random fields, and segmented micro-CT cubes of
real vertebrae.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from qctrun.train.insilico.fields import FloatArray, Size, frequencies, shaped_noise, smooth_field

FINE_SPACING_MM = (0.085, 0.086, 0.086)
"""Working grid (z, y, x); four by two by two of its voxels make one of the paper's (0.34 x 0.172 x 0.172 mm)."""

MICROCT_SPACING_MM = 0.05
"""True voxel size of the public L1 cubes, whose headers say 1.0."""


@dataclass(frozen=True)
class Character:
    """What differs from one vertebra to the next in the random-field bone.

    Attributes
    ----------
    wavelength_mm : float
        Distance at which the structure repeats.
    balance : float
        Rods (positive) against plates (negative), about -1.6 to 1.6.
    thickness : float
        Factor on all thicknesses.
    tissue_mg_cm3 : float
        Density of bone tissue, HA.
    """

    wavelength_mm: float = 1.55
    balance: float = 0.0
    thickness: float = 1.0
    tissue_mg_cm3: float = 1060.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Character":
        """One vertebra of a population (method section 9)."""
        return cls(
            wavelength_mm=max(1.2, rng.normal(1.62, 0.28)),
            balance=float(np.clip(rng.normal(), -1.6, 1.6)),
            thickness=float(np.sqrt(rng.lognormal(0.0, 0.2))),
            tissue_mg_cm3=rng.normal(1060.0, 50.0),
        )


def random_field_bone(size: Size, character: Character, rng: np.random.Generator) -> FloatArray:
    """Plates {|g1| < c1} and rods {|g1| < c2 and |g2| < c2} of two random fields, on `FINE_SPACING_MM`.

    Returns
    -------
    float32 array (z, y, x)
        Occupancy, 0 to 1. The volume is periodic.
    """
    amplitude = _band(size, character.wavelength_mm)
    scale = np.exp(0.11 * smooth_field(size, FINE_SPACING_MM, 14.0, rng)) * character.thickness
    first, second = (shaped_noise(size, amplitude, rng) / scale for _ in range(2))
    # Half widths of plates and rods, and the mean wavelength in `Character.draw`, were fitted to the mean BMD, TMD
    # and BV/TV of the paper's Table 3 (0.085, 0.24 and 1.55 mm gave 102 and 314 mg/cm3 and 13 %).
    plate, rod = 0.095 - 0.03 * character.balance, 0.265 + 0.05 * character.balance
    blur = np.pi * FINE_SPACING_MM[1] / character.wavelength_mm
    plates = _share_below(first, plate, blur)
    rods = _share_below(first, rod, blur) * _share_below(second, rod, blur)
    return 1 - (1 - plates) * (1 - rods)


def microct_bone(path: Path) -> FloatArray:
    """A segmented micro-CT cube (0.05 mm, array axis 0 cranio-caudal), resampled onto `FINE_SPACING_MM`.

    Returns
    -------
    float32 array (z, y, x)
        Occupancy, 0 to 1, of the cube's size rounded down to whole voxels of the paper's grid.
    """
    bone = sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
    return _resampled(bone.astype(np.float32))


def _band(size: Size, wavelength_mm: float) -> FloatArray:
    """A shell of frequencies around 1 / wavelength, 30 % wide, stretched 1.2 along the vertebra's axis."""
    z, y, x = frequencies(size, FINE_SPACING_MM)
    radius = np.sqrt((1.2 * z) ** 2 + y**2 + x**2) * wavelength_mm
    return np.asarray(np.exp(-0.5 * ((radius - 1) / 0.3) ** 2), dtype=np.float32)


def _share_below(field: FloatArray, limit: float, blur: float) -> FloatArray:
    """The share of [field - blur, field + blur] inside [-limit, limit]: the occupancy of a thin sheet in a voxel.

    `blur` is how much the field typically changes over half a voxel.
    """
    upper = np.minimum(field + blur, limit)
    lower = np.maximum(field - blur, -limit)
    return np.asarray(np.maximum(upper - lower, 0) / (2 * blur), dtype=np.float32)


def _resampled(cube: npt.NDArray[np.float32]) -> FloatArray:
    """Linear sampling after a blur of 0.4 fine voxels, which keeps thin struts from falling between samples."""
    blocks = [
        int(n * MICROCT_SPACING_MM / (d * f)) * f
        for n, d, f in zip(cube.shape, FINE_SPACING_MM, (4, 2, 2), strict=True)
    ]
    smooth = ndimage.gaussian_filter(cube, 0.4 * FINE_SPACING_MM[1] / MICROCT_SPACING_MM, mode="nearest")
    steps = [d / MICROCT_SPACING_MM for d in FINE_SPACING_MM]
    first = [(s - 1) / 2 for s in steps]
    found = ndimage.affine_transform(smooth, steps, first, output_shape=blocks, order=1, mode="nearest")
    return np.asarray(found, dtype=np.float32)
