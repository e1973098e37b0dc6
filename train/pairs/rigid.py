"""A turn and a shift that take a point of the reference's world to the same point of the bone in a scan's world."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import IDENTITY

Points = npt.NDArray[np.float64]

ROTATION_TOLERANCE = 1e-6
"""How far M M' may be from the identity."""


@dataclass(frozen=True, slots=True)
class Rigid:
    """q = M p + offset: p in the reference's world, q in the scan's, both LPS, (x, y, z), mm.

    Attributes
    ----------
    matrix : nine floats
        M, row-major: a rotation. A 3 x 3 array is taken too.
    offset_mm : (float, float, float)

    Raises
    ------
    InputError
        When the matrix mirrors, stretches or is no matrix, or a number is not finite.
    """

    matrix: tuple[float, ...] = IDENTITY
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, np.float64).ravel()
        offset = np.asarray(self.offset_mm, np.float64).ravel()
        if matrix.size != 9 or offset.size != 3 or not np.isfinite([*matrix, *offset]).all():
            got = f"{matrix.size} and {offset.size} numbers"
            raise InputError("rigid transform", wanted="nine finite numbers and three", got=got)
        square = matrix.reshape(3, 3)
        if not np.allclose(square @ square.T, np.eye(3), rtol=0, atol=ROTATION_TOLERANCE):
            raise InputError("rigid transform", wanted="a rotation", got="a matrix that stretches")
        if np.linalg.det(square) < 0:
            raise InputError("rigid transform", wanted="a rotation", got="a mirror image")
        object.__setattr__(self, "matrix", tuple(matrix.tolist()))
        object.__setattr__(self, "offset_mm", tuple(offset.tolist()))

    @property
    def rotation(self) -> Points:
        """M as a 3 x 3 array."""
        return np.reshape(np.asarray(self.matrix), (3, 3))

    @property
    def angle_deg(self) -> float:
        """By how much it turns, about whatever axis."""
        # The skew part is exact where the trace is flat: tiny angles would else be lost in rounding.
        turn = self.rotation
        skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        return float(np.degrees(np.arctan2(np.linalg.norm(skew), np.trace(turn) - 1)))

    def points(self, points_mm: npt.ArrayLike) -> Points:
        """Where points (n, 3) go."""
        moved = np.asarray(points_mm, np.float64) @ self.rotation.T + np.asarray(self.offset_mm)
        return np.asarray(moved, np.float64)

    def inverse(self) -> Self:
        """From the scan's world to the reference's."""
        back = self.rotation.T
        return type(self)(tuple(back.ravel()), tuple(-back @ np.asarray(self.offset_mm)))

    def after(self, other: "Rigid") -> Self:
        """First the other, then this."""
        return type(self)(
            tuple((self.rotation @ other.rotation).ravel()), tuple(self.points([other.offset_mm])[0])
        )

    def as_dict(self) -> dict[str, list[float]]:
        """For JSON."""
        return {"matrix": list(self.matrix), "offset_mm": list(self.offset_mm)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises
        ------
        InputError
            When a key is missing or the numbers make no rigid transform.
        """
        try:
            return cls(tuple(told["matrix"]), tuple(told["offset_mm"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "rigid transform", wanted="matrix and offset_mm, in numbers", got=str(told)[:80]
            ) from error

    def to_sitk(self) -> Any:
        """The same as a SimpleITK transform, for a resampling of the scan onto the reference's grid."""
        import SimpleITK as sitk

        made = sitk.AffineTransform(3)
        made.SetMatrix(self.matrix)
        made.SetTranslation(self.offset_mm)
        return made

    @classmethod
    def from_sitk(cls, transform: Any) -> Self:
        """A SimpleITK transform that is rigid, whatever its class and its centre."""
        origin, *ends = (
            np.asarray(transform.TransformPoint(point))
            for point in np.vstack([np.zeros(3), np.eye(3)]).tolist()
        )
        # Differences of points carry rounding; the nearest rotation does not.
        left, _, right = np.linalg.svd(np.column_stack([end - origin for end in ends]))
        return cls(tuple((left @ right).ravel()), tuple(origin))


def distance(one: Rigid, other: Rigid, points_mm: npt.ArrayLike) -> tuple[float, float]:
    """How far two transforms put points (n, 3) of the reference apart: mean and largest, mm."""
    apart = np.linalg.norm(one.points(points_mm) - other.points(points_mm), axis=1)
    return float(apart.mean()), float(apart.max())


def angle_between(one: Rigid, other: Rigid) -> float:
    """The turn that is left between two transforms, degrees."""
    return one.inverse().after(other).angle_deg
