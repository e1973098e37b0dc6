"""The paper's calibration: a scan's low-pass map against that of a calibrated reference scan of the same bone."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.agreeing import agreeing, sharpened_line
from qctrun.runtime.calibrating.agreement import GAINS_HU
from qctrun.runtime.calibrating.drift import AT_MG_CM3
from qctrun.runtime.calibrating.line import Line
from qctrun.runtime.calibrating.low_pass import RIM_MM, curvatures, sphere_means, without_rim
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.calibration import Calibration
from qctrun.runtime.reading.line_origin import origin_of
from qctrun.runtime.volume import BoolArray, Grid, Progress, Volume, as_mask

Doubles = npt.NDArray[np.float64]

DIAMETER_MM = 5.0
"""Of the spheres over which both scans are averaged (Thomsen et al., arXiv:2011.02382)."""
LEAST_SPHERES = 10
"""So many spheres must fit into the mask without sharing a voxel, by volume."""
ALIKE_MG_CM3 = 0.1
"""Densities that differ by less all over a mask are rounding."""
LEAST_R2 = 0.5
POOR_SLOPE = 0.05
"""A standard error of this share of the slope is told."""
GOOD_R2 = 0.9
"""Below, the two slopes between which the true one lies are 10 % apart and more, which is told."""
MANY_LEFT_OUT = 0.02
"""Part of the spheres that do not go with the others, above which it is told."""

_THIN = (
    f"the mask is too small to leave out its rim of {RIM_MM:g} mm, into which the cortex is blurred; it may make the "
    "slope wrong"
)


@dataclass(frozen=True, slots=True)
class ReferenceLine:
    """A calibration by a reference scan.

    Attributes
    ----------
    calibration : Calibration
        With its error.
    densities_mg_cm3, values_hu : float array (voxel)
        What was regressed: the spheres' means about the voxels of the mask.
    kept : bool array (voxel)
        Which of them the line rests on.
    """

    calibration: Calibration
    densities_mg_cm3: Doubles
    values_hu: Doubles
    kept: npt.NDArray[np.bool_]

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

    What lies outside of the mask does not come in, nor does the mask's rim, into which both scanners blur the cortex;
    spheres that do not go with the others, for the metal or cement in them, are left out.

    Parameters
    ----------
    scan : Volume
        HU; NaN where it does not reach.
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
    inside, rim_mm = _compared(scan, reference, mask)
    curved = curvatures(reference.array, inside, scan.grid)
    x, y, *curved_means = sphere_means(
        [reference.array, scan.array, *curved], inside, scan.grid, DIAMETER_MM, progress
    )
    if np.ptp(x) < ALIKE_MG_CM3:
        raise InputError("reference", wanted="densities that differ", got="the same everywhere in the mask")
    kept = agreeing(x, y, curved_means)
    spheres = _spheres(kept, scan.grid)
    line, blur = sharpened_line(x, y, curved_means, kept, min(spheres, kept.sum()))
    calibration = _calibration(line, x, y, spheres, reference)
    more = {"rim_mm": rim_mm, "blur_mm2": {"in_plane": blur[0], "axial": blur[1]}}
    error = {**(calibration.error or {}), **more}
    if mask is not None and not rim_mm:
        error["warnings"] = [*error["warnings"], _THIN]
    calibration = replace(calibration, error=error, measured_in=origin_of(scan))
    return ReferenceLine(calibration, x, y, kept)


def _compared(scan: Volume, reference: Volume, mask: npt.NDArray[Any] | None) -> tuple[BoolArray, float]:
    """The voxels that are compared, and how much of the mask's rim is not among them, mm."""
    reached = np.isfinite(scan.array) & np.isfinite(reference.array)
    whole = reached if mask is None else as_mask(mask, scan.grid) & reached
    if mask is not None:
        inner = without_rim(as_mask(mask, scan.grid), scan.grid) & reached
        if _spheres(inner, scan.grid) >= LEAST_SPHERES:
            return inner, RIM_MM
    if (spheres := _spheres(whole, scan.grid)) < LEAST_SPHERES:
        wanted = f"a mask of {LEAST_SPHERES} spheres of {DIAMETER_MM:g} mm or more"
        raise InputError("reference", wanted=wanted, got=f"one of {spheres:.1f}")
    return whole, 0.0


def _spheres(inside: BoolArray, grid: Grid) -> float:
    """How many spheres' volumes these voxels are."""
    return float(inside.sum() * grid.voxel_mm3 / (math.pi / 6 * DIAMETER_MM**3))


def _warnings(fits: float, line: Line, flattest: float) -> list[str]:
    told = []
    left_out = 1 - line.kept.mean()
    if left_out > MANY_LEFT_OUT:
        told.append(
            f"{100 * left_out:.0f} % of the mask does not go with the rest and was left out (metal, cement, cortex, a "
            "poor registration?): look at the picture"
        )
    if fits < GOOD_R2:
        reach = 2 * line.errors[0]  # the slopes of both ways are as uncertain as the scan is noisy
        told.append(
            f"the scan and its reference go together poorly (R2 {fits:.2f}), the slope may be anywhere from "
            f"{flattest - reach:.3f} to {line.slope + reach:.3f}: check the registration and the mask"
        )
    elif line.errors[0] > POOR_SLOPE * line.slope:
        told.append(
            f"the slope is {line.slope:.3f} +- {2 * line.errors[0]:.3f} (two standard errors): too little bone in the "
            "mask for a scan of this noise"
        )
    return told


def _calibration(line: Line, x: Doubles, y: Doubles, spheres: float, reference: Volume) -> Calibration:
    fits = float(np.corrcoef(x[line.kept], y[line.kept])[0, 1] ** 2)
    if not GAINS_HU[0] <= line.gain_hu <= GAINS_HU[1] or fits < LEAST_R2:
        got = f"{line.gain_hu:.2f} HU per mg/cm3 and R2 {fits:.2f}"
        wanted = f"{GAINS_HU[0]:g} to {GAINS_HU[1]:g} HU per mg/cm3 and R2 of {LEAST_R2:g} or more"
        raise InputError("reference", wanted=wanted, got=got, mend="check the registration, unit and mask")
    slope_se, intercept_se = line.errors
    flattest = float(np.polynomial.polynomial.polyfit(y[line.kept], x[line.kept], 1)[1])
    error = {
        "residual_mg_cm3": float(line.residuals_hu[line.kept].std() / line.gain_hu),
        "slope_se": slope_se,
        "intercept_se_mg_cm3": intercept_se,
        "at_mg_cm3": AT_MG_CM3,
        "density_se_mg_cm3": line.density_error(AT_MG_CM3),
        "r2": fits,
        "slope_bounds": [flattest, line.slope],
        "spheres": spheres,
        "voxels": int(line.kept.sum()),
        "left_out": float(1 - line.kept.mean()),
        "diameter_mm": DIAMETER_MM,
        "warnings": _warnings(fits, line, flattest),
    }
    material = reference.material or "HA"
    source = f"regression on a reference scan, spheres of {DIAMETER_MM:g} mm"
    return Calibration(line.slope, line.intercept, material, source, error=error)
