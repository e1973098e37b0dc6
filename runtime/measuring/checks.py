"""What maps and parameters ask of their input before they measure anything."""

import math
from collections.abc import Sequence

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.measuring.kernels.fixed_point import LIMIT_MG_CM3
from qctrun.runtime.volume import Volume, require_finite


def require_density(volume: Volume) -> None:
    """Refuse a volume that is not finite calibrated density.

    Raises
    ------
    InputError
        When the unit is not mg/cm3 or a voxel is NaN or infinite.
    """
    if volume.unit != "mg/cm3":
        raise InputError(
            "unit", wanted="mg/cm3", got=volume.unit, mend="calibrate the volume before measuring it"
        )
    require_finite(volume.array, "volume")


def checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """The thresholds in mg/cm3 as floats, in the order given.

    Raises
    ------
    UsageError
        When there is none, one is not a positive number or larger than any density, or one stands twice.
    """
    try:
        found = () if isinstance(thresholds, str | bytes) else tuple(float(each) for each in thresholds)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(math.isfinite(t) and t > 0 for t in found):
        wanted, got = (
            "one or more positive numbers of mg/cm3 like (200, 225)",
            " ".join(repr(thresholds).split()),
        )
        raise UsageError("thresholds", wanted=wanted, got=got)
    if max(found) > LIMIT_MG_CM3:
        raise UsageError("thresholds", wanted=f"at most {LIMIT_MG_CM3:g} mg/cm3", got=f"{max(found):g}")
    if len(set(found)) < len(found):
        raise UsageError("thresholds", wanted="each one once", got=", ".join(f"{t:g}" for t in found))
    return found
