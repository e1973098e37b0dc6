"""Whether the line changes along the scan: tube, table and patient are not the same in every slice."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

AT_MG_CM3 = 150.0
"""The density at which drift and error are stated: that of trabecular bone."""
LIMIT_MG_CM3 = 3.0
"""A drift beyond this over the scan is warned of, when chance seldom makes it (p below 0.01)."""
_CHANCE = 0.01
_LEAST_SLICES = 5


@dataclass(frozen=True, slots=True)
class Drift:
    """How the lines of single slices change from the first to the last, by straight lines against z.

    Attributes
    ----------
    length_mm : float
        From the first slice to the last.
    at_mg_cm3, density_mg_cm3, density_se_mg_cm3, density_p : float
        By how much the density grows that the slices' own lines give to the CT number that is 150 mg/cm3 in the
        whole scan's line; standard error, and probability of such a change by chance.
    slope_change, slope_p, intercept_change_mg_cm3, intercept_p : float
        The same of the lines' slopes and intercepts.
    """

    length_mm: float
    at_mg_cm3: float
    density_mg_cm3: float
    density_se_mg_cm3: float
    density_p: float
    slope_change: float
    slope_p: float
    intercept_change_mg_cm3: float
    intercept_p: float

    @property
    def beyond_noise(self) -> bool:
        """Whether a reader of densities should be told."""
        return abs(self.density_mg_cm3) > LIMIT_MG_CM3 and self.density_p < _CHANCE

    def as_dict(self) -> dict[str, Any]:
        """In JSON's own types."""
        return asdict(self)


def slice_lines(densities: npt.ArrayLike, slices_hu: Doubles, sigma_hu: npt.ArrayLike) -> Doubles:
    """Gain (HU per mg/cm3) and offset (HU) of each slice (2, slice), from CT numbers (rod, slice)."""
    weights = 1 / np.asarray(sigma_hu, float)
    offsets, gains = np.polynomial.polynomial.polyfit(np.asarray(densities, float), slices_hu, 1, w=weights)
    return np.stack([gains, offsets])


def drift_of(gains: Doubles, offsets: Doubles, line: tuple[float, float], spacing_mm: float) -> Drift | None:
    """The drift of the slices' lines; None of fewer than five slices.

    Parameters
    ----------
    gains, offsets : float array (slice)
        HU = gain density + offset in tissue.
    line : (float, float)
        Slope and intercept of the whole scan's line, density = slope HU + intercept.
    spacing_mm : float
        Between slices.
    """
    from scipy.stats import linregress

    if gains.size < _LEAST_SLICES:
        return None
    z = np.arange(gains.size) * spacing_mm
    hu = (AT_MG_CM3 - line[1]) / line[0]
    fits = [linregress(z, values) for values in ((hu - offsets) / gains, 1 / gains, -offsets / gains)]
    (density, slope, intercept), length = fits, float(z[-1])
    return Drift(
        length,
        AT_MG_CM3,
        float(density.slope) * length,
        float(density.stderr) * length,
        float(density.pvalue),
        float(slope.slope) * length,
        float(slope.pvalue),
        float(intercept.slope) * length,
        float(intercept.pvalue),
    )
