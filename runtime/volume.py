"""The two values that all rooms share: a `Grid` in space and a `Volume` of numbers on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError

Unit = Literal["HU", "mg/cm3", "1"]
Material = Literal["HA", "K2HPO4"]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

MapKey = str | tuple[str, float]
"""A local map: `"BMD"`, `"SD"`, `("BVTV", t)` or `("TMD", t)` with the threshold t in mg/cm3."""
Progress = Callable[[int, int], None]
"""Told (done, total) as long work proceeds."""

_Scalar = TypeVar("_Scalar", bound=np.generic)

UNITS: tuple[Unit, ...] = ("HU", "mg/cm3", "1")
MATERIALS: tuple[Material, ...] = ("HA", "K2HPO4")

POSITION_TOLERANCE_MM = 1e-3
"""Two grids are the same when spacings and corners agree to this."""
DIRECTION_TOLERANCE = 1e-4
"""... and when no direction cosine differs by more than this."""

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the voxels of a volume lie.

    Attributes
    ----------
    size : (int, int, int)
        Voxels along (z, y, x), as in `array.shape`. Any sequence of numbers is taken here and below, and kept
        as a tuple.
    spacing : (float, float, float)
        Distance of neighbouring voxel centres along (z, y, x), mm.
    origin : (float, float, float)
        World position (x, y, z) of the centre of voxel [0, 0, 0], mm, DICOM's patient axes (LPS).
    direction : nine floats
        Row-major 3 x 3 matrix as in SimpleITK: its columns are the world directions of the image axes x, y, z.
        A 3 x 3 array is taken too.

    Raises
    ------
    InputError
        When a size is no whole number from 1 on, a spacing is not a positive number, an origin is not finite
        or the axes are not perpendicular unit vectors.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY

    def __post_init__(self) -> None:
        size, spacing, origin = (_three(numbers) for numbers in (self.size, self.spacing, self.origin))
        if size is None or (size < 1).any() or (size != np.rint(size)).any():
            raise InputError(
                "size", wanted="three positive whole numbers of voxels (z, y, x)", got=_line(self.size)
            )
        if spacing is None or not (spacing > 0).all():
            raise InputError(
                "spacing", wanted="three positive numbers of mm (z, y, x)", got=_line(self.spacing)
            )
        if origin is None:
            raise InputError("origin", wanted="three finite numbers of mm (x, y, z)", got=_line(self.origin))
        axes = _finite(self.direction)
        axes = np.zeros((3, 3)) if axes is None or axes.shape not in ((9,), (3, 3)) else axes.reshape(3, 3)
        if not np.allclose(axes.T @ axes, np.eye(3), atol=DIRECTION_TOLERANCE):
            raise InputError("direction", wanted="three perpendicular unit axes", got=_line(self.direction))
        # Plain numbers in tuples, whatever came in: else equal grids would neither compare nor hash alike.
        object.__setattr__(self, "size", tuple(int(voxels) for voxels in size))
        object.__setattr__(self, "spacing", tuple(spacing.tolist()))
        object.__setattr__(self, "origin", tuple(origin.tolist()))
        object.__setattr__(self, "direction", tuple(axes.ravel().tolist()))

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel, mm3."""
        return float(np.prod(self.spacing))

    def difference(self, other: Self) -> str:
        """Say in words where the other grid differs; empty when both are the same within tolerance."""
        found = []
        if self.size != other.size:
            found.append(f"size {self.size} against {other.size}")
        if not np.allclose(self.spacing, other.spacing, rtol=0, atol=POSITION_TOLERANCE_MM):
            found.append(f"spacing {_numbers(self.spacing)} against {_numbers(other.spacing)} mm")
        if not np.allclose(self.direction, other.direction, rtol=0, atol=DIRECTION_TOLERANCE):
            found.append(f"direction {_numbers(self.direction)} against {_numbers(other.direction)}")
        if not np.allclose(self.origin, other.origin, rtol=0, atol=POSITION_TOLERANCE_MM):
            found.append(f"origin {_numbers(self.origin)} against {_numbers(other.origin)} mm")
        return "; ".join(found)

    def world(self, index_zyx: tuple[float, float, float]) -> npt.NDArray[np.float64]:
        """World position (x, y, z) in mm of a (possibly fractional) voxel index (z, y, x)."""
        steps = np.asarray(index_zyx[::-1], float) * np.asarray(self.spacing[::-1])
        return np.asarray(
            np.asarray(self.origin) + np.reshape(self.direction, (3, 3)) @ steps, dtype=np.float64
        )


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Numbers on a grid, with their unit and where they came from.

    Attributes
    ----------
    array : float32 array (z, y, x)
        The values. Converted to C-contiguous float32 when it is something else.
    grid : Grid
        Its `size` must be `array.shape`.
    unit : "HU", "mg/cm3" or "1"
        Hounsfield units, calibrated density, or a fraction.
    material : "HA" or "K2HPO4", optional
        What a density is a density of; the two scales differ and are never mixed silently.
    provenance : mapping of JSON values
        Who made it and how: `inputs`, `calibration`, `warnings` and whatever a room adds.

    Raises
    ------
    InputError
        When the array is not 3-D, its shape is not the grid's size, or unit or material is unknown.
    """

    array: FloatArray
    grid: Grid
    unit: Unit
    material: Material | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if np.ndim(self.array) != 3:
            raise InputError("volume", wanted="a 3-D array (z, y, x)", got=f"{np.ndim(self.array)}-D")
        if np.shape(self.array) != tuple(self.grid.size):
            raise InputError(
                "volume", wanted=f"the grid's size {self.grid.size}", got=f"shape {np.shape(self.array)}"
            )
        if self.unit not in UNITS:
            raise InputError("unit", wanted=" or ".join(UNITS), got=repr(self.unit))
        if self.material is not None and self.material not in MATERIALS:
            raise InputError("material", wanted=" or ".join(MATERIALS), got=repr(self.material))
        object.__setattr__(self, "array", np.ascontiguousarray(self.array, dtype=np.float32))

    def with_array(self, array: npt.NDArray[Any], **changes: Any) -> Self:
        """The same place with other numbers; `changes` go to unit, material or provenance."""
        return replace(self, array=array, **changes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the numbers should be told, in the order in which it was noticed."""
        return tuple(self.provenance.get("warnings", ()))

    def warn(self, *messages: str) -> Self:
        """The same volume with more to tell; what it tells already is not said twice."""
        told = tuple(dict.fromkeys((*self.warnings, *messages)))
        return replace(self, provenance={**self.provenance, "warnings": told})


def require_finite(array: npt.NDArray[_Scalar], what: str) -> None:
    """Refuse NaN and infinity, which would spread through every sum.

    Raises
    ------
    InputError
        Naming how many voxels are concerned and the first of them (z, y, x).
    """
    bad = ~np.isfinite(array)
    if bad.any():
        raise not_finite(what, int(bad.sum()), tuple(int(i) for i in np.argwhere(bad)[0]))


def not_finite(what: str, count: int, first: tuple[int, ...]) -> InputError:
    """The refusal of so many voxels of NaN or infinity, the first of them at (z, y, x)."""
    voxels = "1 voxel" if count == 1 else f"{count} voxels"
    return InputError(
        what,
        wanted="finite numbers",
        got=f"{voxels} of NaN or infinity, the first at (z, y, x) = {first}",
        mend="replace them before by numbers that stand for what lies there, air for example",
    )


def as_mask(mask: npt.NDArray[Any], grid: Grid) -> BoolArray:
    """Take an array as a mask of a grid: the voxels where it is not 0.

    Parameters
    ----------
    mask : bool or integer array (z, y, x)
        Of the grid's size. Fractions are refused: what half a voxel means is not for this package to say.

    Returns
    -------
    bool array (z, y, x)
        The mask itself where it is bool.

    Raises
    ------
    InputError
        When the shape is another, the values are neither bool nor whole numbers, or no voxel is left.
    """
    array = np.asarray(mask)
    if array.shape != tuple(grid.size):
        raise InputError("mask", wanted=f"the volume's shape {grid.size}", got=f"shape {array.shape}")
    if array.dtype != np.bool_ and not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            "mask", wanted="bool or whole numbers", got=f"an array of {array.dtype}", mend="say mask > 0"
        )
    inside: BoolArray = array.astype(np.bool_, copy=False)
    if not inside.any():
        raise InputError("mask", wanted="at least one voxel", got="an empty mask")
    return inside


def _finite(values: Any) -> npt.NDArray[np.float64] | None:
    """Any finite real numbers as an array; None when there is something else among them."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unequal length
        return None
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)


def _three(values: Any) -> npt.NDArray[np.float64] | None:
    array = _finite(values)
    return array if array is not None and array.shape == (3,) else None


def _line(value: Any) -> str:
    return " ".join(repr(value).split())


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.5g}" for value in values) + ")"
