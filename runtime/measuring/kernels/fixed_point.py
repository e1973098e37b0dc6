"""Densities and steps as whole numbers: how fine, about which centre, and how wide a sum must be.

The scales are constants, so a map is the same whatever the mask, the tiles or the number of threads. Centres and
widths are chosen from the data for speed only: a whole number that is taken off every voxel and put back after
the sum changes nothing, and a sum that fits into 32 bits is the same in 64.
"""

from dataclasses import dataclass

import numpy as np

from qctrun.runtime.errors import InputError

DENSITY_SCALE = 64.0
"""Quanta in 1 mg/cm3 of V: rounding moves a mean or an SD by at most 1/128 mg/cm3."""
STEP_SCALE = 2.0**23
"""Quanta in 1 of H_s: rounding moves a BV/TV by at most 6e-8."""
EXCESS_SCALE = 2.0**12
"""Quanta in 1 mg/cm3 of (V - t) H_s: at BV/TV = 1 % rounding moves a TMD by at most 0.012 mg/cm3."""
LIMIT_MG_CM3 = 65536.0
"""Beyond this a number is no density, and it need not fit."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is taken off every voxel before the sum, and the whole numbers that a disc's sum needs."""

    centre: int
    disc: type[np.signedinteger]


def density(low_mg_cm3: float, high_mg_cm3: float, voxels: int, disc_voxels: int) -> Quantity:
    """How to sum V (and its squares, which always need 64 bits) between two densities.

    Raises
    ------
    InputError
        When a value is no density, or when the sum of squares over the sphere would not fit.
    """
    largest = max(abs(low_mg_cm3), abs(high_mg_cm3))
    if largest > LIMIT_MG_CM3:
        raise InputError("density", wanted=f"at most {LIMIT_MG_CM3:g} mg/cm3 in size", got=f"{largest:g}")
    quantity = _quantity(low_mg_cm3 * DENSITY_SCALE, high_mg_cm3 * DENSITY_SCALE, disc_voxels)
    if voxels * _reach(low_mg_cm3 * DENSITY_SCALE, high_mg_cm3 * DENSITY_SCALE) ** 2 >= 2**63:
        raise InputError(
            "sphere",
            wanted=f"fewer voxels for densities from {low_mg_cm3:g} to {high_mg_cm3:g} mg/cm3",
            got=str(voxels),
            mend="ask for a smaller diameter or cut off the extreme values",
        )
    return quantity


def step(disc_voxels: int) -> Quantity:
    """How to sum H_s, which lies between 0 and 1."""
    return _quantity(0.0, STEP_SCALE, disc_voxels)


def excess(high_mg_cm3: float, threshold: float, disc_voxels: int) -> Quantity:
    """How to sum (V - t) H_s: from -2.79 mg/cm3, the least of x / (1 + exp(-x / 10)), to the densest voxel."""
    high = max(high_mg_cm3 - threshold, 0.0)
    return _quantity(-3.0 * EXCESS_SCALE, high * EXCESS_SCALE, disc_voxels)


def _quantity(low: float, high: float, disc_voxels: int) -> Quantity:
    fits = disc_voxels * _reach(low, high) < 2**31
    return Quantity(round((low + high) / 2), np.int32 if fits else np.int64)


def _reach(low: float, high: float) -> int:
    """The largest distance from the centre, both rounded."""
    return int((high - low) / 2) + 2
