"""From one row of voxels to another by cubic B-splines, as small matrices that are applied axis by axis.

Onto closer voxels the spline is sampled, onto wider ones it is averaged over each voxel's width. Constant and affine
volumes stay what they are up to the faces, where the spline goes on as a straight line.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.volume import FloatArray

Matrix = npt.NDArray[np.float64]

INTERPOLATION = "cubic B-spline"
REACH = 12
"""So many voxels away a value's share is less than 2e-7 of that next to it: each voxel further leaves 0.27."""


@dataclass(frozen=True, slots=True)
class Line:
    """Voxels along an axis.

    Attributes
    ----------
    start_mm : float
        Centre of the first, from wherever all lines of an axis are measured.
    spacing_mm : float
        From centre to centre.
    count : int
        How many they are.
    """

    start_mm: float
    spacing_mm: float
    count: int

    @property
    def centres_mm(self) -> Matrix:
        """Where the voxels lie."""
        return np.asarray(self.start_mm + self.spacing_mm * np.arange(self.count), np.float64)

    def part(self, start: int, stop: int) -> "Line":
        """Some of the voxels."""
        return Line(self.start_mm + start * self.spacing_mm, self.spacing_mm, stop - start)


def weights(source: Line, target: Line) -> Matrix:
    """What each voxel of a line takes from each voxel of another that covers the same place.

    Returns
    -------
    float64 array (target voxels, source voxels)
        Rows of sum 1. Where the target's voxels are wider, rows are averages over a voxel's width: sampling there would
        take for the density of a voxel what its centre happens to hold.
    """
    if source == target:
        return np.eye(source.count)
    centres = (target.centres_mm - source.start_mm) / source.spacing_mm
    wide = target.spacing_mm / source.spacing_mm
    if source.count == 1:
        return np.ones((target.count, 1))
    from scipy.interpolate import make_interp_spline  # a scan that is not resampled does not wait for it

    spline = make_interp_spline(
        np.arange(source.count),
        np.eye(source.count),
        k=3 if source.count > 2 else 1,
        bc_type="natural" if source.count > 2 else None,
    )
    if wide <= 1:
        return _values(spline, centres, source.count)
    low, high = (_areas(spline, centres + side * wide / 2, source.count) for side in (-1, 1))
    return np.asarray((high - low) / wide, np.float64)


def resampled(array: FloatArray, rows: tuple[Matrix, Matrix, Matrix]) -> FloatArray:
    """An array (z, y, x) times a matrix of `weights` along each axis."""
    z, y, x = (matrix.astype(np.float32) for matrix in rows)
    # From the axis of the longest runs in memory to that of the shortest; each step is a product of matrices.
    wide: npt.NDArray[Any] = np.matmul(y, array @ x.T)
    return np.ascontiguousarray(np.tensordot(z, wide, axes=(1, 0)), np.float32)


def _values(spline: Any, at: Matrix, count: int) -> Matrix:
    """The spline, and straight lines beyond the first and the last voxel's centre."""
    inside = np.clip(at, 0, count - 1)
    return np.asarray(spline(inside) + (at - inside)[:, None] * spline.derivative()(inside))


def _areas(spline: Any, at: Matrix, count: int) -> Matrix:
    """The integral of the same from voxel 0 on."""
    inside = np.clip(at, 0, count - 1)
    beyond = (at - inside)[:, None]
    return np.asarray(
        spline.antiderivative()(inside)
        + beyond * spline(inside)
        + beyond**2 / 2 * spline.derivative()(inside)
    )
