"""The sphere N_d in mm as voxels: a stack of discs, each disc a stack of runs along x."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError

TIE_TOLERANCE = 1e-6
"""A voxel centre this far outside (relative to the radius) still lies on the surface: binary fractions are not mm."""


@dataclass(frozen=True, slots=True)
class Sphere:
    """The voxels whose centres lie within half a diameter of the centre voxel.

    Parameters
    ----------
    spacing_mm : (float, float, float)
        Voxel spacing along (z, y, x).
    diameter_mm : float
        Centres at exactly half of it belong to the sphere.

    Attributes
    ----------
    half_widths : int32 array (slices, rows)
        For each slice offset and each row offset the voxels on either side of the centre column;
        -1 where the sphere has no voxel in that row. Symmetric in both axes.

    Raises
    ------
    InputError
        When the diameter is not a positive number, or when only the centre voxel is inside (Eq. 9 is 0/0 then).
    """

    spacing_mm: tuple[float, float, float]
    diameter_mm: float
    half_widths: npt.NDArray[np.int32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.diameter_mm) and self.diameter_mm > 0):
            raise InputError("sphere diameter", wanted="a positive number of mm", got=f"{self.diameter_mm:g}")
        half_widths = _half_widths(self.spacing_mm, self.diameter_mm)
        half_widths.setflags(write=False)
        object.__setattr__(self, "half_widths", half_widths)
        if self.voxels == 1:
            raise InputError(
                "sphere diameter",
                wanted=f"more than one voxel on a grid of {self.spacing_text}",
                got=f"{self.diameter_mm:g} mm, which is one",
                mend=f"ask for {2 * min(self.spacing_mm):.3g} mm or more",
            )

    @property
    def voxels(self) -> int:
        """How many voxels it holds."""
        return int(np.sum(2 * self.half_widths[self.half_widths >= 0] + 1))

    @property
    def disc_voxels(self) -> int:
        """How many voxels its largest slice holds, the one through the centre."""
        centre = self.half_widths[self.half_size[0]]
        return int(np.sum(2 * centre[centre >= 0] + 1))

    @property
    def half_size(self) -> tuple[int, int, int]:
        """How far it reaches from the centre voxel along (z, y, x), voxels."""
        slices, rows = self.half_widths.shape
        return slices // 2, rows // 2, int(self.half_widths.max())

    @property
    def size(self) -> tuple[int, int, int]:
        """The box around it (z, y, x), voxels."""
        z, y, x = self.half_size
        return 2 * z + 1, 2 * y + 1, 2 * x + 1

    @property
    def slices(self) -> int:
        """How many slices it spans."""
        return self.size[0]

    @property
    def spacing_text(self) -> str:
        """The grid's spacing for people."""
        return " x ".join(f"{s:.4g}" for s in self.spacing_mm) + " mm (z, y, x)"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of its maps should be told."""
        if self.slices > 1:
            return ()
        lies = f"a sphere of {self.diameter_mm:g} mm lies in a single slice on {self.spacing_text}"
        return (f"{lies}: it is a disc, and its maps see nothing along z",)

    def mask(self) -> npt.NDArray[np.bool_]:
        """The sphere as a dense array (z, y, x) of its own `size`."""
        reach = self.half_size[2]
        columns = np.abs(np.arange(-reach, reach + 1))
        return columns <= self.half_widths[..., np.newaxis]


def _half_widths(spacing_mm: tuple[float, float, float], diameter_mm: float) -> npt.NDArray[np.int32]:
    radius = diameter_mm / 2 * (1 + TIE_TOLERANCE)
    half_z, half_y = (math.floor(radius / spacing) for spacing in spacing_mm[:2])
    z = np.arange(-half_z, half_z + 1)[:, np.newaxis] * spacing_mm[0]
    y = np.arange(-half_y, half_y + 1) * spacing_mm[1]
    left = radius**2 - z**2 - y**2
    reach = np.floor(np.sqrt(np.maximum(left, 0)) / spacing_mm[2])
    return np.where(left >= 0, reach, -1).astype(np.int32)
