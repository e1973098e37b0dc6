"""The paper's calibration: a scan's low-pass map against that of a calibrated reference scan of the same bone."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.agreement import GAINS_HU
from qctrun.runtime.calibrating.drift import AT_MG_CM3
from qctrun.runtime.calibrating.line import Line
from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring.maps import local_maps
from qctrun.runtime.reading.calibration import Calibration
from qctrun.runtime.reading.line_origin import origin_of
from qctrun.runtime.volume import BoolArray, FloatArray, Progress, Volume, as_mask

Doubles = npt.NDArray[np.float64]

DIAMETER_MM = 5.0
"""Of the spheres over which both scans are averaged (Thomsen et al., arXiv:2011.02382)."""
LEAST_SPHERES = 10
"""So many spheres must fit into the mask without sharing a voxel, by volume."""
LEAST_R2 = 0.5
GOOD_R2 = 0.9
"""Below, the two slopes between which the true one lies are 10 % apart and more, which is told."""


@dataclass(frozen=True, slots=True)
class ReferenceLine:
    """A calibration by a reference scan.

    Attributes
    ----------
    calibration : Calibration
        With its error.
    densities_mg_cm3, values_hu : float array (voxel)
        What was regressed: the spheres' means about the voxels of the mask.
    """

    calibration: Calibration
    densities_mg_cm3: Doubles
    values_hu: Doubles

    def as_dict(self) -> dict[str, Any]:
        """What `calibration.json` holds."""
        return self.calibration.as_dict()


def reference_line(
    scan: Volume,
    reference: Volume,
    mask: npt.NDArray[Any] | None = None,
    progress: Progress | None = None,
) -> ReferenceLine:
    """Fit the line that makes a scan as dense as its reference, at a resolution that both have.

    The scan is regressed on the reference, and the line turned round: the scan's noise, much the larger, then lies
    where regression allows for it, while the other way about it would flatten the line (regression dilution). What
    noise the reference has flattens it all the same; `slope_bounds` in the error holds the slopes of both ways,
    between which the true one lies.

    Parameters
    ----------
    scan : Volume
        HU.
    reference : Volume
        mg/cm3, registered to the scan and on its grid.
    mask : bool or integer array (z, y, x), optional
        About which voxels spheres are compared, and of which voxels they are means; all when None.

    Raises
    ------
    InputError
        When the grids differ, the mask is too small, or the two do not go together.
    """
    if difference := scan.grid.difference(reference.grid):
        mend = "register the reference to the scan and resample it onto the scan's grid"
        raise InputError("reference", wanted="the scan's grid", got=difference, mend=mend)
    if reference.material is None:
        raise InputError("reference", wanted="a density of HA or K2HPO4", got=f"one in {reference.unit}")
    inside = None if mask is None else as_mask(mask, scan.grid)
    density, values = (_low_pass(reference, each.array, inside, progress) for each in (reference, scan))
    both = np.isfinite(density) & np.isfinite(values)
    x, y = density[both].astype(np.float64), values[both].astype(np.float64)
    spheres = x.size * scan.grid.voxel_mm3 / (math.pi / 6 * DIAMETER_MM**3)
    if spheres < LEAST_SPHERES:
        wanted = f"a mask of {LEAST_SPHERES} spheres of {DIAMETER_MM:g} mm or more"
        raise InputError("reference", wanted=wanted, got=f"one of {spheres:.1f}")
    line = _line(x, y, min(spheres, x.size))
    calibration = _calibration(line, x, y, spheres, reference)
    return ReferenceLine(replace(calibration, measured_in=origin_of(scan)), x, y)


def _low_pass(
    reference: Volume, array: FloatArray, inside: BoolArray | None, progress: Progress | None
) -> FloatArray:
    """Means over that part of each sphere that is in the mask: a reference often ends, or is zero, outside of it."""

    def of_spheres(values: npt.ArrayLike) -> FloatArray:
        # Maps are made of densities; CT numbers and masks are averaged all the same.
        plain = reference.with_array(np.asarray(values, np.float32), provenance={})
        found = local_maps(plain, (200.0,), DIAMETER_MM, mask=inside, device="cpu", progress=progress)
        return found["BMD"].array

    if inside is None:
        return of_spheres(array)
    return of_spheres(np.where(inside, array, 0)) / of_spheres(inside)


def _line(x: Doubles, y: Doubles, independent: float) -> Line:
    """Least squares of y on x; neighbours share most of their spheres, so the errors count spheres, not voxels."""
    spread = np.sum((x - x.mean()) ** 2)
    if spread == 0:
        raise InputError("reference", wanted="densities that differ", got="the same everywhere in the mask")
    gain = float(np.sum((x - x.mean()) * (y - y.mean())) / spread)
    offset = float(y.mean() - gain * x.mean())
    left = y - gain * x - offset
    variance = float(left @ left) / x.size * independent / (independent - 2)
    of_mean, of_gain = variance / independent, variance / (spread / x.size * independent)
    covariance = np.array(
        [[of_gain, -x.mean() * of_gain], [-x.mean() * of_gain, of_mean + x.mean() ** 2 * of_gain]]
    )
    return Line(gain, offset, covariance, left, np.ones(x.size, bool))


def _warnings(fits: float, line: Line) -> list[str]:
    if fits >= GOOD_R2:
        return []
    return [
        f"the scan and its reference go together poorly (R2 {fits:.2f}), the slope may be anywhere from "
        f"{fits * line.slope:.3f} to {line.slope:.3f}: check the registration and the mask"
    ]


def _calibration(line: Line, x: Doubles, y: Doubles, spheres: float, reference: Volume) -> Calibration:
    fits = float(np.corrcoef(x, y)[0, 1] ** 2)
    if not GAINS_HU[0] <= line.gain_hu <= GAINS_HU[1] or fits < LEAST_R2:
        got = f"{line.gain_hu:.2f} HU per mg/cm3 and R2 {fits:.2f}"
        wanted = f"{GAINS_HU[0]:g} to {GAINS_HU[1]:g} HU per mg/cm3 and R2 of {LEAST_R2:g} or more"
        raise InputError("reference", wanted=wanted, got=got, mend="check the registration, unit and mask")
    slope_se, intercept_se = line.errors
    error = {
        "residual_mg_cm3": float(line.residuals_hu.std() / line.gain_hu),
        "slope_se": slope_se,
        "intercept_se_mg_cm3": intercept_se,
        "at_mg_cm3": AT_MG_CM3,
        "density_se_mg_cm3": line.density_error(AT_MG_CM3),
        "r2": fits,
        "slope_bounds": [fits * line.slope, line.slope],
        "spheres": spheres,
        "voxels": x.size,
        "diameter_mm": DIAMETER_MM,
        "warnings": _warnings(fits, line),
    }
    material = reference.material or "HA"
    source = f"regression on a reference scan, spheres of {DIAMETER_MM:g} mm"
    return Calibration(line.slope, line.intercept, material, source, error=error)
