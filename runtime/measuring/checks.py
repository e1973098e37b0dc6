"""What maps and parameters ask of their input before they measure anything."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError, UsageError
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
        When there is none, one is not a positive number, or one stands twice.
    """
    try:
        found = tuple(float(threshold) for threshold in thresholds)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(math.isfinite(t) and t > 0 for t in found):
        raise UsageError("thresholds", wanted="one or more positive numbers of mg/cm3", got=str(thresholds))
    if len(set(found)) < len(found):
        raise UsageError("thresholds", wanted="each one once", got=", ".join(f"{t:g}" for t in found))
    return found


def require_mask(mask: npt.NDArray[np.bool_], volume: Volume) -> None:
    """Refuse a mask that is not a True or False for each voxel of the volume, or that is all False.

    Raises
    ------
    InputError
        Naming the type or shape that was found.
    """
    if np.asarray(mask).dtype != np.bool_:
        raise InputError("mask", wanted="a bool array", got=str(np.asarray(mask).dtype), mend="say mask > 0")
    if np.shape(mask) != volume.array.shape:
        raise InputError("mask", wanted=f"the volume's shape {volume.array.shape}", got=str(np.shape(mask)))
    if not np.any(mask):
        raise InputError("mask", wanted="at least one voxel", got="none")
