"""The line through rods of known density: robust, because streaks pull single rods, with its errors.

A rod's density is exact and its CT number is not. So CT numbers are regressed on densities, and the line is turned
round; the other way about, noise would flatten it.

Two things make it robust. Rods count the less, the more streaks are seen in them (shading across a rod, change from
slice to slice): evidence that does not depend on the line. And a rod that is off by more than its streaks explain is
left out, if the others then lie in line and no other choice does as well. With five or six rods, methods that look at
residuals alone (least trimmed squares, Theil-Sen, Huber) either keep a bad rod at the end of the row, which turns the
whole line, or take good rods for bad ones when two are pulled.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

TOLERANCE_HU = 5.0
"""How far a sound rod without streaks may lie from the line: its certificate, the scanner's own nonlinearity."""
CONFIDENCE = 0.99
"""Rods are in line when chance makes their weighted squares as large in 1 of 100 cases or more."""
WATER_DISPLACED = 0.2174
"""mg of water that 1 mg of dissolved K2HPO4 takes the place of (QCT PRO User Guide, Mindways)."""


@dataclass(frozen=True, slots=True)
class Line:
    """HU = gain * density + offset, and the rods it rests on.

    Attributes
    ----------
    gain_hu : float
        HU per mg/cm3.
    offset_hu : float
        HU at density 0.
    covariance : float array (2, 2)
        Of (gain, offset).
    residuals_hu : float array (rod)
        Every rod's CT number less the line's, also of rods left out.
    kept : bool array (rod)
        Which rods the line rests on.
    """

    gain_hu: float
    offset_hu: float
    covariance: Doubles
    residuals_hu: npt.NDArray[np.float64]
    kept: npt.NDArray[np.bool_]

    @property
    def slope(self) -> float:
        """mg/cm3 per HU."""
        return 1.0 / self.gain_hu

    @property
    def intercept(self) -> float:
        """mg/cm3 at 0 HU."""
        return -self.offset_hu / self.gain_hu

    @property
    def errors(self) -> tuple[float, float]:
        """Standard errors of slope and intercept, by the first derivatives of both."""
        gain, offset = self.gain_hu, self.offset_hu
        of_slope = np.array([-1 / gain**2, 0.0])
        of_intercept = np.array([offset / gain**2, -1 / gain])
        variances = [each @ self.covariance @ each for each in (of_slope, of_intercept)]
        return float(np.sqrt(variances[0])), float(np.sqrt(variances[1]))

    def density_error(self, density_mg_cm3: float) -> float:
        """Standard error of the density that the line gives to the CT number of this one."""
        at = np.array([density_mg_cm3, 1.0])
        return float(np.sqrt(at @ self.covariance @ at) / self.gain_hu)

    @property
    def pulled(self) -> npt.NDArray[np.bool_]:
        """Rods that are off the line by more than 2.5 tolerances, whether left out or let pass for their streaks."""
        return np.abs(self.residuals_hu) > 2.5 * TOLERANCE_HU

    @property
    def residual_mg_cm3(self) -> float:
        """Standard deviation of the kept rods about the line, as density; all count alike."""
        residuals = self.residuals_hu[self.kept]
        return float(np.sqrt(residuals @ residuals / max(residuals.size - 2, 1)) / self.gain_hu)


def robust_line(densities: npt.ArrayLike, values_hu: npt.ArrayLike, doubt_hu: npt.ArrayLike) -> Line:
    """Fit CT numbers on densities, each rod by how little streaks disturb it, without rods that are off.

    Parameters
    ----------
    densities : array-like (rod)
        mg/cm3, one a rod.
    values_hu : array-like (rod)
        Mean CT number of each rod, less what its water makes (`Phantom.water_hu`).
    doubt_hu : array-like (rod)
        How far streaks may have pulled each rod.

    Returns
    -------
    Line
        Its errors are what tolerance and doubt allow, or what the residuals show where that is more. Of five rods
        one may be left out, of six two; of fewer none, since none can be told to be wrong.
    """
    x, y = np.asarray(densities, float), np.asarray(values_hu, float)
    sigma = np.hypot(TOLERANCE_HU, np.asarray(doubt_hu, float))
    kept = _in_line(x, y, sigma)
    gain, offset, covariance, _ = _fit(x[kept], y[kept], sigma[kept])
    return Line(gain, offset, covariance, y - gain * x - offset, kept)


def plain_line(densities: npt.ArrayLike, values_hu: npt.ArrayLike) -> Line:
    """Ordinary least squares of CT numbers on densities over all rods, all alike."""
    x, y = np.asarray(densities, float), np.asarray(values_hu, float)
    gain, offset, covariance, _ = _fit(x, y, np.ones(x.size))
    return Line(gain, offset, covariance, y - gain * x - offset, np.ones(x.size, bool))


def in_tissue(line: Line) -> Line:
    """The line for tissue from one that was fitted to rods with water-equivalent densities (Mindways).

    Such a rod has CT number = water + sigma_ref density + beta_ref. In the body mineral takes the place of water: at
    density r there are 999.6 - 0.2174 r mg/cm3 of it. Put in, sigma_CT = sigma_ref - 0.2174 and beta_CT = beta_ref +
    999.6. The latter is in the line already, since it was fitted to CT numbers less (water - 999.6).
    """
    return replace(line, gain_hu=line.gain_hu - WATER_DISPLACED)


def r_squared(densities: npt.ArrayLike, values_hu: npt.ArrayLike) -> float:
    """Squared correlation of CT numbers with densities over all rods."""
    return float(np.corrcoef(np.asarray(densities, float), np.asarray(values_hu, float))[0, 1] ** 2)


def _in_line(x: Doubles, y: Doubles, sigma: Doubles) -> npt.NDArray[np.bool_]:
    """The rods that lie in line, with as few as can be left out; all where that cannot be told."""
    from scipy.stats import chi2

    for out in range(x.size // 3 + 1 if x.size > 4 else 1):
        sound = []
        for left in combinations(range(x.size), out):
            kept = np.ones(x.size, bool)
            kept[list(left)] = False
            if _fit(x[kept], y[kept], sigma[kept])[3] <= chi2.ppf(CONFIDENCE, x.size - out - 2):
                sound.append(kept)
        if sound:
            return sound[0] if len(sound) == 1 else np.ones(x.size, bool)
    return np.ones(x.size, bool)


def _fit(x: Doubles, y: Doubles, sigma: Doubles) -> tuple[float, float, Doubles, float]:
    """Weighted least squares: gain, offset, their covariance, and the sum of the weighted squares."""
    system = np.stack([x, np.ones_like(x)], axis=1) / sigma[:, None]
    gain, offset = np.linalg.lstsq(system, y / sigma, rcond=None)[0]
    squares = float(np.sum(((y - gain * x - offset) / sigma) ** 2))
    scale = max(1.0, squares / max(x.size - 2, 1))
    covariance = np.asarray(np.linalg.pinv(system.T @ system) * scale, np.float64)
    return float(gain), float(offset), covariance, squares
