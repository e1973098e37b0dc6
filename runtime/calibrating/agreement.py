"""Whether CT numbers can be those of a phantom's rods: in order, in line, and as steep as X-rays make them."""

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.line import plain_line, r_squared
from qctrun.runtime.calibrating.phantoms import Phantom

GAINS_HU = (0.8, 2.6)
"""HU per mg/cm3 that tubes of 70 to 150 kVp make of HA and K2HPO4; others are no calibration rods."""
OFFSETS_HU = (-200.0, 200.0)
"""HU of a rod of density 0, its water taken for water."""
LEAST_R2 = 0.98


def disagreement(phantom: Phantom, rods_hu: npt.ArrayLike) -> str:
    """Say why these cannot be the CT numbers of the rods, in the phantom's order; empty when they can."""
    hu, densities = np.asarray(rods_hu, float), np.asarray(phantom.densities_mg_cm3)
    above_water = hu - np.asarray(phantom.water_hu)
    line = plain_line(densities, above_water)
    if not GAINS_HU[0] <= line.gain_hu <= GAINS_HU[1]:
        return f"{line.gain_hu:.2f} HU per mg/cm3, outside of {GAINS_HU[0]:g} to {GAINS_HU[1]:g}"
    if not OFFSETS_HU[0] <= line.offset_hu <= OFFSETS_HU[1]:
        return f"{line.offset_hu:.0f} HU at density 0"
    expected = line.gain_hu * densities + phantom.water_hu
    if not np.all(np.diff(hu[np.argsort(expected)]) > 0):
        return "CT numbers that do not rise with the densities"
    fits = r_squared(densities, above_water)
    return "" if fits >= LEAST_R2 else f"CT numbers that are not in line with the densities (R2 {fits:.3f})"
