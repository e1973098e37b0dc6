"""What the rods measure: CT numbers slice by slice, and how much streaks disturb them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.finding import Rods
from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import FloatArray, Volume

Doubles = npt.NDArray[np.float64]

CORE = 2 / 3
"""Part of the radius inside which a rod is measured: away from the blurred edge."""
LEAST_PIXELS = 12
_TRIM = 0.1
_END_HU = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One rod.

    Attributes
    ----------
    hu : float
        Mean over the slices of their means, the highest and lowest tenth of the pixels left aside.
    sd_hu : float
        Standard deviation of the pixels in a slice, root of the mean square.
    slices_sd_hu : float
        Standard deviation of the slices' means.
    shading_hu : float
        Standard deviation of the plane through the pixels: what streaks and beam hardening do across the rod.
    slices_hu : float array (slice)
        The means.
    """

    hu: float
    sd_hu: float
    slices_sd_hu: float
    shading_hu: float
    slices_hu: Doubles

    @property
    def doubt_hu(self) -> float:
        """How far streaks may have pulled it: noise averages out over a rod, streaks do not."""
        return float(np.hypot(self.slices_sd_hu, self.shading_hu))


@dataclass(frozen=True, slots=True)
class Readings:
    """All rods, and the slices (first to last) in which they were measured."""

    rods: tuple[Reading, ...]
    first: int
    last: int

    @property
    def slices_hu(self) -> Doubles:
        """Means (rod, slice)."""
        return np.stack([rod.slices_hu for rod in self.rods])


def measure_rods(volume: Volume, rods: Rods) -> Readings:
    """Measure the rods in all slices in which they are; at the phantom's ends slices without it are dropped.

    Raises
    ------
    InputError
        When a rod reaches out of the picture or covers too few pixels.
    """
    per_slice = np.stack(
        [
            _slice(volume.array[z], volume.grid.spacing, rods, number)
            for number, z in enumerate(range(rods.first, rods.last + 1))
        ],
        axis=1,
    )  # (rod, slice, quantity)
    low, high = _whole(per_slice[..., 0])
    found = [_reading(rod[low:high], CORE * rods.radius_mm) for rod in per_slice]
    return Readings(tuple(found), rods.first + low, rods.first + high - 1)


def _slice(image: FloatArray, spacing: tuple[float, float, float], rods: Rods, number: int) -> Doubles:
    """Trimmed mean, variance and slopes along y and x (HU per mm) of every rod in a slice."""
    from scipy.stats import trim_mean

    found = []
    for rod in range(len(rods.columns)):
        values, y, x = _core(image, spacing, rods.columns[rod, number], rods.rows[rod, number], rods, rod)
        slopes = np.linalg.lstsq(np.stack([y, x, np.ones_like(x)], axis=1), values, rcond=None)[0][:2]
        found.append([trim_mean(values, _TRIM), values.var(ddof=1), *slopes])
    return np.array(found)


def _core(
    image: FloatArray, spacing: tuple[float, float, float], column: float, row: float, rods: Rods, rod: int
) -> tuple[Doubles, Doubles, Doubles]:
    """Pixels inside a rod and their places about its centre, mm."""
    reach = rods.radius_mm / np.asarray(spacing[1:])
    low, high = np.array([row, column]) - reach, np.array([row, column]) + reach
    if (low < 0).any() or (high > np.asarray(image.shape) - 1).any():
        got = f"one that reaches out of it, number {rod + 1} at column {column:.0f}, row {row:.0f}"
        raise InputError("rods", wanted="rods that lie wholly in the picture", got=got)
    (top, left), (bottom, right) = low.astype(int), high.astype(int) + 1
    y, x = np.mgrid[top : bottom + 1, left : right + 1]
    y, x = (y - row) * spacing[1], (x - column) * spacing[2]
    inside = np.hypot(y, x) <= CORE * rods.radius_mm
    if inside.sum() < LEAST_PIXELS:
        got = f"{int(inside.sum())} at a radius of {rods.radius_mm:.1f} mm"
        raise InputError("rods", wanted=f"{LEAST_PIXELS} pixels or more in each", got=got)
    values = image[top : bottom + 1, left : right + 1][inside].astype(np.float64)
    return values, y[inside], x[inside]


def _whole(means: Doubles) -> tuple[int, int]:
    """From where to where all rods read as in the middle of the phantom: beyond its ends is air or table."""
    middle = np.median(means, axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(means - middle), axis=1, keepdims=True)
    good = np.flatnonzero((np.abs(means - middle) <= np.maximum(_END_HU, 6 * spread)).all(axis=0))
    if good.size == 0:
        mend = "name the slices that the phantom lies in by --slices"
        raise InputError("rods", wanted="the same rods in all slices", got="none alike", mend=mend)
    return int(good[0]), int(good[-1]) + 1


def _reading(slices: Doubles, radius_mm: float) -> Reading:
    means, variances, slopes = slices[:, 0], slices[:, 1], slices[:, 2:].mean(axis=0)
    between = float(means.std(ddof=1)) if means.size > 1 else 0.0
    # A plane of slope g over a disc of radius R has the standard deviation g R / 2.
    shading = float(np.hypot(*slopes)) * radius_mm / 2
    return Reading(float(means.mean()), float(np.sqrt(variances.mean())), between, shading, means)
