"""A tilted or uneven stack of slices onto an even, upright grid: one cubic spline through its own samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.stacks import SAME_PLACE_MM, SIDEWAYS_TOLERANCE_MM, Series, axes_of, is_even
from qctrun.runtime.volume import BoolArray, FloatArray, Grid, Unit

AIR_HU = -1000.0
LOWEST_HU = -1024.0
"""What lies below was never measured: it fills the corners around the scan circle."""
HOLE = 1.8
"""A gap so many times as wide as those around it is a place where slices are missing."""
MOST_SPREAD = 8.0
"""The widest gap over the new one; a grid of many more slices than were scanned would only claim detail."""
MOST_LEAN_DEG = 45.0
"""Gantries tilt by up to 30 degrees."""
MOST_GROWTH = 16.0
"""A grid of more than so many times the voxels of the stack would be air; tags that want it are wrong."""
MOST_NOISE_GAIN = 3.0
"""A spline through two slices that nearly touch swings; above this factor on noise it is not taken."""

_DEGREE = 3
_WHOLE_PX = 1e-6
_BLOCK_BYTES = 32 * 1024**2

FloatVector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Mending:
    """How a stack of parallel slices goes onto an even grid that stands upright on them.

    Attributes
    ----------
    grid : Grid
        What the mended volume lies on: the slices' own axes and pixels, and the normal.
    what : str
        What was wrong, in words, with its numbers.
    heights_mm : float array (slices,)
        Where the slices lie along the normal, from the first one on.
    corners_px : float array (slices, 2)
        Row and column of the grid, with fractions, where the first pixel of each slice lies.
    size : (int, int, int)
        Slices, rows, columns of the stack.
    gaps_mm : float array (slices - 1,)
        Between neighbouring slices, along the normal.
    noise_gain : float
        The largest factor on uncorrelated noise of the slices that the spline along the normal has at any
        slice of the grid; 1 where it only averages or takes slices as they are.
    """

    grid: Grid
    what: str
    heights_mm: FloatVector
    corners_px: FloatVector
    size: tuple[int, int, int]
    gaps_mm: FloatVector
    noise_gain: float

    @property
    def new_heights_mm(self) -> FloatVector:
        """Where the slices of the grid lie along the normal; the first and the last on those of the stack."""
        return np.linspace(0.0, float(self.heights_mm[-1]), self.grid.size[0])

    def record(self, outside: int) -> dict[str, Any]:
        """One entry of a volume's `resampling`; `outside` voxels of the grid were not scanned."""
        spacing = list(self.grid.spacing)
        return {
            "what": f"{self.what} mended",
            "interpolation": "cubic B-spline",
            "from_spacing_zyx_mm": [float(np.median(self.gaps_mm)), *spacing[1:]],
            "to_spacing_zyx_mm": spacing,
            "from_gaps_mm": [float(self.gaps_mm.min()), float(self.gaps_mm.max())],
            "noise_gain": round(self.noise_gain, 3),
            "voxels_outside": outside,
        }

    def warning(self, outside: int) -> str:
        """What a reader of the numbers should be told."""
        share = 100 * outside / np.prod(self.grid.size)
        least, most = self.gaps_mm.min(), self.gaps_mm.max()
        gaps = f"{least:.4g} mm" if most - least < SAME_PLACE_MM else f"{least:.4g} to {most:.4g} mm"
        noise = f"; noise up to {self.noise_gain:.2g} times as large" * (self.noise_gain > 1.05)
        return (
            f"{self.what} mended by one cubic B-spline resampling: {self.size[0]} slices with gaps of {gaps} "
            f"onto {self.grid.size[0]} at {self.grid.spacing[0]:.4g} mm; {share:.1f} % of the voxels lie "
            f"outside of what was scanned and hold air{noise}"
        )


@np.errstate(over="ignore", invalid="ignore")  # positions out of this world: what they give is refused below
def mending_of(series: Series, path: Path) -> Mending:
    """Plan how a stack that is no volume as it stands becomes one.

    The new slices lie between the first and the last one at even distances, the smallest that is not below
    the lower quartile of the gaps: as fine as a zone of thin slices, and never finer than the finest gap nor
    as fine as one stray pair. An even stack keeps its slices' own heights. Rows and columns keep their
    spacing and are extended by what the stack leans. `path` names the scan in messages.

    Raises
    ------
    InputError
        When something other than a constant tilt or uneven gaps stands against a volume, or slices are
        missing, repeat a place or nearly touch.
    """
    if not series.crooked:
        raise _unmendable(path, "; ".join(series.problems) or "an even, straight stack")
    axes = axes_of(series.orientation)
    positions = np.array([header.position for header in series.headers], dtype=np.float64)
    assert axes is not None  # a stack with slices in order has axes
    heights = (positions - positions[0]) @ axes[:, 2]
    sideways = (positions - positions[0]) @ axes[:, 1::-1]  # down the rows, along the columns
    gaps = np.diff(heights)
    if obstacle := _hole(gaps) or _uneven_lean(heights, sideways):
        raise _unmendable(path, obstacle)
    even, spacing_mm = is_even(heights), series.headers[0].pixel_spacing_mm
    assert spacing_mm is not None
    steps = len(gaps) if even else _steps(gaps)
    leaning = float(np.hypot(*sideways.T).max()) > SIDEWAYS_TOLERANCE_MM
    corners = sideways / np.asarray(spacing_mm) if leaning else np.zeros_like(sideways)
    first = np.floor(corners.min(axis=0) + _WHOLE_PX)
    size = np.array([steps + 1, *(np.ceil(corners.max(axis=0) - first - _WHOLE_PX) + series.size[1:])])
    if not (growth := np.prod(size) / np.prod(series.size)) <= MOST_GROWTH:
        raise _unmendable(path, f"a stack that leans over a field of {growth:.3g} times as many voxels")
    origin = positions[0] + axes[:, 1::-1] @ (first * spacing_mm)
    mending = Mending(
        Grid(tuple(size), (heights[-1] / steps, *spacing_mm), tuple(origin), tuple(axes.ravel())),
        _in_words(heights, sideways, leaning, even),
        np.linspace(0.0, heights[-1], len(heights)) if even else heights,
        corners - first,
        series.size,
        gaps,
        1.0 if even else _noise_gain(heights, steps),
    )
    if mending.noise_gain > MOST_NOISE_GAIN:
        got = f"slices {gaps.min():.3f} mm apart beside gaps of {gaps.max():.3f} mm"
        raise _unmendable(path, f"{got}: noise would grow {mending.noise_gain:.1f} times")
    return mending


def is_mendable(series: Series) -> bool:
    """Whether `mending_of` has a plan for this series."""
    try:
        mending_of(series, Path())
    except InputError:
        return False
    return True


def mended(array: FloatArray, mending: Mending, unit: Unit) -> tuple[FloatArray, int]:
    """Put the stack onto its grid.

    The value at a place of the grid is that of the tensor product of interpolating cubic splines through the
    samples at their own places: down the rows and along the columns of each slice, then along the normal
    through all slices (ends not-a-knot; fewer than four samples: the polynomial through them). Beyond its own
    edge, and around its scan circle, a slice goes on as its nearest pixel, so that no edge of the field rings
    into the body.

    Parameters
    ----------
    array : float32 array (slices, rows, columns)
        The stack in the order of its slices. In HU, what lies below -1024 counts as not scanned.

    Returns
    -------
    float32 array (z, y, x), int
        Of the grid's size, and how many of its voxels hold air because nothing was scanned there: outside of
        the leaning box of the stack, or nearest to a sample that was not scanned.
    """
    unscanned = array < LOWEST_HU if unit == "HU" else np.zeros(array.shape, np.bool_)
    upright = np.empty((len(array), *mending.grid.size[1:]), np.float32)
    for new, values, bare, corner in zip(upright, array, unscanned, mending.corners_px, strict=True):
        moved = _moved(_continued(values, bare), float(corner[0]), new.shape[0], axis=0)
        new[:] = _moved(moved, float(corner[1]), new.shape[1], axis=1)
    result = _along_normal(upright, mending)
    air = AIR_HU if unit == "HU" else float(array.min())
    return result, _clear_outside(result, unscanned, mending, air)


def _unmendable(path: Path, got: str) -> InputError:
    return InputError(
        f"{path} with --allow-resample",
        wanted="slices that only lean by one angle or have uneven gaps",
        got=got,
        mend="bring all slices of one volume",
    )


def _hole(gaps: FloatVector) -> str:
    """Where slices are missing: a gap much wider than the typical one of the five around it."""
    if gaps.min() < SAME_PLACE_MM:
        return "slices that repeat a position"
    if gaps.max() > MOST_SPREAD * _fine_mm(gaps):
        return f"gaps from {gaps.min():.3f} to {gaps.max():.3f} mm"
    for i, gap in enumerate(gaps):
        around = float(np.median(gaps[max(0, i - 2) : i + 3]))
        if gap > HOLE * around:
            return (
                f"a gap of {gap:.3f} mm after slice {i + 1} where others are {around:.3f} mm (missing slices)"
            )
    return ""


def _uneven_lean(heights: FloatVector, sideways: FloatVector) -> str:
    """Say where slices step sideways other than in proportion to their height, or by more than any gantry tilts."""
    share = heights / heights[-1]
    lean = share @ sideways / (share @ share)
    off = float(np.hypot(*(sideways - np.outer(share, lean)).T).max())
    if not off <= SIDEWAYS_TOLERANCE_MM:  # also where the numbers are too large to be subtracted
        return f"slices up to {off:.2f} mm beside a straight line"
    degrees = float(np.degrees(np.arctan2(np.hypot(*lean), heights[-1])))
    return "" if degrees <= MOST_LEAN_DEG else f"a lean of {degrees:.1f} deg"


def _steps(gaps: FloatVector) -> int:
    return max(1, int(np.floor(gaps.sum() / _fine_mm(gaps) * (1 + 1e-6))))


def _fine_mm(gaps: FloatVector) -> float:
    """The gap of the finer part of the stack: as wide as a quarter of all, whatever one stray pair does."""
    return float(np.quantile(gaps, 0.25, method="lower"))


def _in_words(heights: FloatVector, sideways: FloatVector, leaning: bool, even: bool) -> str:
    degrees = np.degrees(np.arctan2(np.hypot(*sideways[-1]), heights[-1]))
    return " and ".join([f"gantry tilt of {degrees:.1f} deg"] * leaning + ["uneven gaps"] * (not even))


def _noise_gain(heights: FloatVector, steps: int) -> float:
    """Root of the sum of squared weights of the slices, where it is largest: what white noise is multiplied by."""
    weights = _spline(heights, np.eye(len(heights)))(np.linspace(0.0, heights[-1], steps + 1))
    return float(np.sqrt((weights**2).sum(axis=1)).max())


def _spline(places: FloatVector, values: npt.NDArray[Any], axis: int = 0) -> Any:
    from scipy.interpolate import make_interp_spline  # a scan that needs no mending does not wait for it

    return make_interp_spline(places, values, k=min(_DEGREE, len(places) - 1), axis=axis)


def _continued(values: FloatArray, bare: BoolArray) -> FloatArray:
    """The slice with its nearest scanned pixel wherever nothing was scanned; the scan circle is no step then."""
    if not bare.any():
        return values
    if bare.all():
        return np.full_like(values, AIR_HU)
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(bare, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)], np.float32)


def _moved(values: npt.NDArray[Any], shift_px: float, size: int, axis: int) -> npt.NDArray[Any]:
    """The slice with its first pixel at `shift_px` of an axis of `size` pixels; beyond its ends, its end pixels."""
    wanted = np.clip(np.arange(size) - shift_px, 0, values.shape[axis] - 1)
    if np.abs(wanted - np.rint(wanted)).max() < _WHOLE_PX:
        return np.asarray(np.take(values, np.rint(wanted).astype(int), axis=axis))
    places = np.arange(values.shape[axis], dtype=np.float64)
    return np.asarray(_spline(places, values.astype(np.float64), axis)(wanted))


def _along_normal(upright: FloatArray, mending: Mending) -> FloatArray:
    """Slices at the grid's heights, a block of rows at a time; the very slices where the stack is even."""
    wanted = mending.new_heights_mm
    if np.array_equal(wanted, mending.heights_mm):
        return upright
    result = np.empty(mending.grid.size, np.float32)
    rows = max(1, _BLOCK_BYTES // (8 * upright[:, 0].size))
    for start in range(0, upright.shape[1], rows):
        block = upright[:, start : start + rows].astype(np.float64)
        result[:, start : start + rows] = _spline(mending.heights_mm, block)(wanted)
    return result


def _clear_outside(result: FloatArray, unscanned: BoolArray, mending: Mending, air: float) -> int:
    """Air into the voxels whose nearest sample, along the lean of the stack, is none or was not scanned."""
    count = 0
    for values, height in zip(result, mending.new_heights_mm, strict=True):
        nearest = int(np.argmin(np.abs(mending.heights_mm - height)))
        bare = np.ones(values.shape, np.bool_)
        held = [
            _nearest(np.interp(height, mending.heights_mm, mending.corners_px[:, axis]), new, old)
            for axis, (new, old) in enumerate(zip(values.shape, mending.size[1:], strict=True))
        ]
        (rows, row_pixels), (columns, column_pixels) = held
        bare[np.ix_(rows, columns)] = unscanned[nearest][np.ix_(row_pixels, column_pixels)]
        values[bare] = air
        count += int(bare.sum())
    return count


def _nearest(corner_px: float, size: int, pixels: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Which places of an axis of the grid lie on pixels of a slice that begins at `corner_px`, and on which."""
    pixel = np.rint(np.arange(size) - corner_px).astype(np.intp)
    places = np.flatnonzero((pixel >= 0) & (pixel < pixels))
    return places, pixel[places]
