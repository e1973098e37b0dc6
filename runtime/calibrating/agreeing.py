"""A line through many spheres of which some hold what is in one scan and not in the other: metal, cement, cortex."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.line import Line

Doubles = npt.NDArray[np.float64]

MOST_SD = 4.0
"""Spheres that are off the line by more, in robust standard deviations, are left out; noise makes 6 of 100,000."""
LEAST_SD_HU = 0.1
"""What is off by less than this is rounding."""
_ROUNDS = 20
_FIRST = 400
"""So many spheres, evenly over the mask, make the line to begin with: 80,000 pairs."""
_MAD_TO_SD = 1.4826


def agreeing(x: Doubles, y: Doubles, curved: Sequence[Doubles] = ()) -> npt.NDArray[np.bool_]:
    """Which spheres lie along one line.

    The start is the median slope of all pairs (Theil and Sen), which 29 % of any other spheres leave sound; a
    plain fit would lean towards a few with densities of metal. From there plain fits through what agrees, until
    nothing changes.

    Parameters
    ----------
    x, y : float array (sphere)
        Density of the reference, CT number of the scan.
    curved : float arrays (sphere)
        What else the scan may depend on, the curvatures of the reference.
    """
    from scipy.stats import theilslopes

    some = np.linspace(0, x.size - 1, min(x.size, _FIRST)).astype(int)
    gain = theilslopes(y[some], x[some])[0]
    columns = np.stack([x, *curved, np.ones(x.size)], axis=1)
    kept, off = np.zeros(x.size, bool), y - gain * x
    for _ in range(_ROUNDS):
        away = np.abs(off - np.median(off))
        near = away <= MOST_SD * max(LEAST_SD_HU, _MAD_TO_SD * float(np.median(away)))
        if (near == kept).all() or not np.ptp(x[near]):
            break
        kept = near
        off = y - columns @ np.linalg.lstsq(columns[kept], y[kept], rcond=None)[0]
    return kept if kept.any() else np.ones(x.size, bool)


def sharpened_line(
    x: Doubles, y: Doubles, curved: Sequence[Doubles], kept: npt.NDArray[np.bool_], independent: float
) -> tuple[Line, tuple[float, ...]]:
    """Least squares of y on x and on its curvatures.

    The curvatures take up that the scan is more blurred, or less, than the reference, so that the line is that of
    places where nothing changes. Neighbours share most of their spheres, so errors count spheres, not voxels.

    Parameters
    ----------
    x, y : float array (voxel)
        The spheres' means of reference and scan.
    curved : float arrays (voxel)
        The spheres' means of the reference's curvatures.
    kept : bool array (voxel)
        Which count.
    independent : float
        Spheres without common voxels.

    Returns
    -------
    Line
        Its residuals are those of all voxels.
    tuple of float
        By how much more the scan is blurred, as variance in mm2, one for each curvature; negative where it is sharper.
    """
    columns = np.stack([x, *curved], axis=1)
    middle, level = columns[kept].mean(axis=0), y[kept].mean()
    system = columns[kept] - middle
    fit = np.linalg.lstsq(system, y[kept] - level, rcond=None)[0]
    offset = float(level - middle @ fit)
    left = y - columns @ fit - offset
    free = max(independent - 1 - fit.size, 1.0)
    variance = float(left[kept] @ left[kept]) / kept.sum() * independent / free
    inverse = np.linalg.pinv(system.T @ system / kept.sum()) / independent
    around = middle @ inverse
    covariance = variance * np.array(
        [[inverse[0, 0], -around[0]], [-around[0], 1 / independent + around @ middle]]
    )
    gain = float(fit[0])
    blur = tuple(float(2 * each / gain) if gain else 0.0 for each in fit[1:])
    return Line(gain, offset, covariance, left, kept), blur
