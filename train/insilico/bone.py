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

SLOW_MM = 14.0
"""Length over which bone changes its kind and density within a vertebra."""


@dataclass(frozen=True)
class Character:
    """What differs from one vertebra to the next in the random-field bone.

    Attributes
    ----------
    wavelength_mm : float
        Distance at which the structure repeats.
    balance : float
        Rods (positive) against plates (negative), about -2 to 2; varies by as much again within a vertebra.
    thickness : float
        Factor on all thicknesses.
    tissue_mg_cm3 : float
        Density of bone tissue, HA.
    """

    wavelength_mm: float = 1.42
    balance: float = 0.0
    thickness: float = 1.0
    tissue_mg_cm3: float = 1060.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Character":
        """One vertebra of a population (method section 9)."""
        return cls.at(*rng.standard_normal(4))

    @classmethod
    def at(cls, wavelength: float, balance: float, thickness: float, tissue: float) -> "Character":
        """The vertebra so many standard deviations from the mean in each property.

        Rod-like bone is the wider spaced one: the balance follows the wavelength with a correlation of 0.8.
        """
        return cls(
            wavelength_mm=max(1.0, 1.42 + 0.28 * wavelength),
            balance=0.8 * wavelength + 0.6 * balance,
            thickness=float(np.exp(0.03 * thickness)),
            tissue_mg_cm3=1060.0 + 20.0 * tissue,
        )


def random_field_bone(size: Size, character: Character, rng: np.random.Generator) -> FloatArray:
    """Plates {|g1| < c1} and rods {|g1| < c2 and |g2| < c2} with holes {g3 > c3}, on `FINE_SPACING_MM`.

    The three fields are independent. Their limits change slowly from place to place: plates turn into rods, and
    bone gets denser or sparser by the number of holes, mostly, and little by thickness.

    Returns
    -------
    float32 array (z, y, x)
        Occupancy, 0 to 1. The volume is periodic.
    """
    amplitude = _band(size, character.wavelength_mm)
    scale = np.exp(0.03 * _slow(size, rng)) * character.thickness
    first, second = (shaped_noise(size, amplitude, rng) / scale for _ in range(2))
    # All numbers here, in `Character.at` and in the phantom's marrow were fitted to the raw rows of the paper's
    # Tables 1-2 and to its Table 3, together with the scanner's (decision 6).
    balance = np.clip(character.balance + _slow(size, rng), -1.8, 1.8)
    plate, rod = 0.105 - 0.05 * balance, 0.31 + 0.055 * balance
    blur = np.pi * FINE_SPACING_MM[1] / character.wavelength_mm
    plates = _share_below(first, plate, blur)
    rods = _share_below(first, rod, blur) * _share_below(second, rod, blur)
    bone = 1 - (1 - plates) * (1 - rods)
    del first, second, plates, rods, balance, plate, rod, scale
    return bone * _without_holes(size, character.wavelength_mm, rng)


def _without_holes(size: Size, wavelength_mm: float, rng: np.random.Generator) -> FloatArray:
    """The share of each fine voxel that no hole takes; holes are half as close again as plates."""
    between_mm = 1.5 * wavelength_mm
    field = shaped_noise(size, _band(size, between_mm), rng)
    limit = 1.0 + 0.8 * _slow(size, rng)
    blur = np.pi * FINE_SPACING_MM[1] / between_mm
    return np.asarray(np.clip((limit - field) / (2 * blur) + 0.5, 0, 1), dtype=np.float32)


def _slow(size: Size, rng: np.random.Generator) -> FloatArray:
    return smooth_field(size, FINE_SPACING_MM, SLOW_MM, rng)


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


def _share_below(field: FloatArray, limit: FloatArray, blur: float) -> FloatArray:
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
