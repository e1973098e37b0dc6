"""Whether numbers that are said to be HU are: densities, and numbers with an offset, look much like them."""

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.agreement import OFFSETS_HU
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.calibration import Calibration
from qctrun.runtime.volume import Volume

UNITY = 0.07
"""A slope so near to 1 mg/cm3 per HU is that of densities, not of HU: those of HA are 0.7 to 0.9."""
UNITY_MG_CM3 = 25.0
"""... when the intercept is no further from 0 than this."""
SURE = 2.0
"""So many standard errors of the fit widen both: a small piece of bone gives slopes that are 10 % off."""
AIR_HU = (-1060.0, -940.0)
"""Scanners are kept within some tens of HU of -1000 in air."""
LOW_HU = -500.0
"""Below is only what holds gas, in HU; air as density, too: a line of 0.8 makes -800 of it."""
LEAST_SHARE = 0.002
"""So much of a scan has to be air, in blocks of some 256 voxels, that noise and edges are not taken for it."""
_BLOCK = (4, 8, 8)
_WHOLE_STUDY = "bring the scan as it came from the scanner"


def require_hu(scan: Volume, line: Calibration, where: str, *, measured: bool) -> list[str]:
    """Refuse or tell of a scan whose numbers are no HU.

    HU give slopes of 0.7 to 0.9 mg/cm3 HA per HU; densities give 1. The scales of K2HPO4 and of high tube voltages
    come near to 1 as well; then air decides, which is -1000 HU in HU alone. In a scan without air nobody can know.

    Parameters
    ----------
    scan : Volume
        As it was read.
    line : Calibration
        That was fitted to this scan, by its reference or by rods.
    where : str
        The scan's name in messages.
    measured : bool
        Whether this line is the one to use; when it only checks a line that was given, nothing is refused.

    Returns
    -------
    list of str
        What to tell.

    Raises
    ------
    InputError
        When the numbers are densities, or have another zero than HU.
    """
    offset = -line.intercept / line.slope
    if not OFFSETS_HU[0] <= offset <= OFFSETS_HU[1]:
        wanted = f"HU, in which density 0 reads {OFFSETS_HU[0]:g} to {OFFSETS_HU[1]:g}"
        return _told(where, wanted, f"{offset:.0f}", measured)
    if not _may_be_unity(line):
        return []
    found = f"{line.slope:.3f} mg/cm3 per unit {line.intercept:+.1f}"
    air, low = air_shares(scan)
    if air >= LEAST_SHARE:
        return []
    if low >= LEAST_SHARE:
        return _told(
            where, "HU", f"densities by the look of them ({found}; air does not read -1000)", measured
        )
    return [
        f"are these HU? Their line is {found}, as that of densities would be; no air in the scan tells more"
    ]


def air_shares(scan: Volume) -> tuple[float, float]:
    """The shares of a scan's blocks whose median is that of air in HU, and that is low without being so.

    Medians, since noise that is cut off at -1024 HU pulls means of air up by hundreds. Below -1060 lies what is
    outside of the scan's circle, which tells nothing.
    """
    medians = _block_medians(scan.array)
    air = (medians >= AIR_HU[0]) & (medians <= AIR_HU[1])
    low = (medians > AIR_HU[1]) & (medians < LOW_HU)
    return float(air.mean()), float(low.mean())


def _may_be_unity(line: Calibration) -> bool:
    error = line.error or {}
    slope, intercept = (SURE * (error.get(name) or 0.0) for name in ("slope_se", "intercept_se_mg_cm3"))
    return abs(line.slope - 1) <= max(UNITY, slope) and abs(line.intercept) <= max(UNITY_MG_CM3, intercept)


def _block_medians(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    block = [min(n, side) for n, side in zip(array.shape, _BLOCK, strict=True)]
    counts = [n // side for n, side in zip(array.shape, block, strict=True)]
    rows = []
    for z in range(counts[0]):  # a layer at a time: a whole scan would be copied twice
        layer = array[z * block[0] : (z + 1) * block[0], : counts[1] * block[1], : counts[2] * block[2]]
        parts = layer.reshape(block[0], counts[1], block[1], counts[2], block[2])
        rows.append(np.median(parts.transpose(1, 3, 0, 2, 4).reshape(counts[1], counts[2], -1), axis=-1))
    return np.stack(rows)


def _told(where: str, wanted: str, got: str, measured: bool) -> list[str]:
    if measured:
        raise InputError(where, wanted=wanted, got=got, mend=_WHOLE_STUDY)
    return [f"wanted {wanted}, got {got}"]
