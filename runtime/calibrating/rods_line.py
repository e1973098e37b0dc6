"""From rods that were measured to the scan's calibration, its error, and what to tell of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.agreement import disagreement
from qctrun.runtime.calibrating.drift import AT_MG_CM3, Drift, drift_of, slice_lines
from qctrun.runtime.calibrating.finding import Rods
from qctrun.runtime.calibrating.line import (
    TOLERANCE_HU,
    WATER_DISPLACED,
    Line,
    in_tissue,
    plain_line,
    r_squared,
    robust_line,
)
from qctrun.runtime.calibrating.measure import Readings, measure_rods
from qctrun.runtime.calibrating.phantoms import Phantom, shipped
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.calibration import Calibration
from qctrun.runtime.reading.line_origin import origin_of
from qctrun.runtime.volume import Volume

Doubles = npt.NDArray[np.float64]

_SHOWN_MG_CM3 = (0.0, 300.0)
"""Over these densities, those of trabecular bone, two lines are compared."""
_TELLING_MG_CM3 = 5.0
_TELLING_HU = 60.0
_TELLING_SHADING_HU = 40.0
"""Noise makes less, even in one slice; a measured circle that reaches over the edge of a rod makes more."""


@dataclass(frozen=True, slots=True)
class RodsLine:
    """A calibration by rods and all that led to it.

    Attributes
    ----------
    calibration : Calibration
        With its error.
    phantom : Phantom
    rods : Rods
        Where they are.
    readings : Readings
        What they measure.
    line : Line
        The robust line, in tissue. `residuals_hu` and `kept` are of the rods.
    drift : Drift, optional
        Along the scan, where there are slices enough.
    slice_slopes, slice_intercepts : float array (slice)
        Of the slices' own lines, density = slope HU + intercept.
    """

    calibration: Calibration
    phantom: Phantom
    rods: Rods
    readings: Readings
    line: Line
    drift: Drift | None
    slice_slopes: Doubles
    slice_intercepts: Doubles

    def rows(self) -> list[dict[str, Any]]:
        """One row a rod, in JSON's own types."""
        middle = (self.readings.first + self.readings.last) // 2 - self.rods.first
        return [
            {
                "density_mg_cm3": density,
                **(
                    {}
                    if self.phantom.water_mg_cm3 is None
                    else {"water_mg_cm3": self.phantom.water_mg_cm3[k]}
                ),
                "column": round(float(self.rods.columns[k, middle]), 2),
                "row": round(float(self.rods.rows[k, middle]), 2),
                "hu": round(rod.hu, 3),
                "sd_hu": round(rod.sd_hu, 3),
                "slices_sd_hu": round(rod.slices_sd_hu, 3),
                "shading_hu": round(rod.shading_hu, 3),
                "residual_mg_cm3": round(float(self.line.residuals_hu[k] / self.line.gain_hu), 3),
                "used": bool(self.line.kept[k]),
            }
            for k, (density, rod) in enumerate(
                zip(self.phantom.densities_mg_cm3, self.readings.rods, strict=True)
            )
        ]

    def as_dict(self) -> dict[str, Any]:
        """What `calibration.json` holds."""
        phantom, readings = self.phantom, self.readings
        return {
            **self.calibration.as_dict(),
            "phantom": {
                "name": phantom.name,
                "title": phantom.title,
                "serial": phantom.serial,
                "source": phantom.source,
            },
            "rods": self.rows(),
            "rod_diameter_mm": round(2 * self.rods.radius_mm, 2),
            "slices": [readings.first, readings.last],
        }


def rods_line(volume: Volume, phantom: Phantom, rods: Rods) -> RodsLine:
    """Measure rods and fit the scan's line to them.

    Parameters
    ----------
    volume : Volume
        HU.
    phantom : Phantom
    rods : Rods
        In the phantom's order: found (`find_rods`) or given (`placed_rods`).

    Raises
    ------
    InputError
        When the CT numbers cannot be those of the phantom.
    """
    readings = measure_rods(volume, rods)
    values = [rod.hu for rod in readings.rods]
    if why := disagreement(phantom, values):
        listed = ", ".join(f"{value:.0f}" for value in values)
        wanted = f"CT numbers of {phantom.name}, whose rods hold {_listed(phantom.densities_mg_cm3)} mg/cm3"
        mend = "check the phantom's name and the order of the rods"
        raise InputError("rods", wanted=wanted, got=f"{listed} HU: {why}", mend=mend)
    doubt = [rod.doubt_hu for rod in readings.rods]
    above_water = np.array(values) - phantom.water_hu
    line = robust_line(phantom.densities_mg_cm3, above_water, doubt)
    plain = plain_line(phantom.densities_mg_cm3, above_water)
    slices = readings.slices_hu - np.array(phantom.water_hu)[:, None]
    gains, offsets = _of_slices(phantom, slices, doubt, line)
    if phantom.water_mg_cm3 is not None:
        line, plain = in_tissue(line), in_tissue(plain)
        gains = gains - WATER_DISPLACED
    drift = drift_of(gains, offsets, (line.slope, line.intercept), volume.grid.spacing[0])
    error = _error(phantom, readings, line, plain, drift, r_squared(phantom.densities_mg_cm3, above_water))
    if rods.how == "given":
        error["warnings"] += _beside(phantom, readings)
    used = f"{int(line.kept.sum())} of {phantom.rods} rods"
    source = f"phantom {phantom.name}: {used}, {rods.how}, slices {readings.first} to {readings.last}"
    calibration = Calibration(
        line.slope, line.intercept, phantom.material, source, error=error, measured_in=origin_of(volume)
    )
    return RodsLine(calibration, phantom, rods, readings, line, drift, 1 / gains, -offsets / gains)


def _of_slices(phantom: Phantom, slices: Doubles, doubt: list[float], line: Line) -> Doubles:
    """Gains and offsets of the slices' own lines through the rods that were kept."""
    densities, sigma = np.array(phantom.densities_mg_cm3), np.hypot(TOLERANCE_HU, doubt)
    return slice_lines(densities[line.kept], slices[line.kept], sigma[line.kept])


def _error(
    phantom: Phantom, readings: Readings, line: Line, plain: Line, drift: Drift | None, fits: float
) -> dict[str, Any]:
    slope_se, intercept_se = line.errors
    rods = [
        {
            "density_mg_cm3": density,
            "hu": rod.hu,
            "residual_mg_cm3": float(residual / line.gain_hu),
            "used": bool(kept),
        }
        for density, rod, residual, kept in zip(
            phantom.densities_mg_cm3, readings.rods, line.residuals_hu, line.kept, strict=True
        )
    ]
    return {
        "residual_mg_cm3": line.residual_mg_cm3,
        "slope_se": slope_se,
        "intercept_se_mg_cm3": intercept_se,
        "at_mg_cm3": AT_MG_CM3,
        "density_se_mg_cm3": line.density_error(AT_MG_CM3),
        "r2": fits,
        "rods": rods,
        "all_rods": {"slope": plain.slope, "intercept": plain.intercept},
        "drift": None if drift is None else drift.as_dict(),
        "warnings": _warnings(phantom, line, plain, drift),
    }


def _warnings(phantom: Phantom, line: Line, plain: Line, drift: Drift | None) -> list[str]:
    told = []
    if phantom.serial is not None and _as_shipped(phantom):
        told.append(
            f"the densities are those of {phantom.name} with serial {phantom.serial}; unless that is yours, put "
            "those of your phantom's certificate into a copy of its file"
        )
    if not line.kept.all():
        off = _off(phantom, line, ~line.kept)
        told.append(f"rods that are off the line by more than streaks explain were left out: {off}")
    if (line.pulled & line.kept).any():
        off = _off(phantom, line, line.pulled & line.kept)
        told.append(f"streaks pull rods, which therefore count less: {off}")
    apart = _apart(line, plain)
    if abs(apart) > _TELLING_MG_CM3:
        low, high = _SHOWN_MG_CM3
        told.append(
            f"a plain fit through all rods would differ by up to {abs(apart):.0f} mg/cm3 between {low:g} and "
            f"{high:g} mg/cm3; look at the picture"
        )
    if abs(line.offset_hu) > _TELLING_HU:
        told.append(
            f"density 0 reads {line.offset_hu:.0f} HU, where water reads 0: is it this phantom, and is the scan sound?"
        )
    if drift is not None and drift.beyond_noise:
        told.append(
            f"the line drifts along the scan: by {drift.density_mg_cm3:+.1f} mg/cm3 at "
            f"{drift.at_mg_cm3:g} mg/cm3 over {drift.length_mm:.0f} mm"
        )
    return told


def _beside(phantom: Phantom, readings: Readings) -> list[str]:
    """Rods that were measured beside their places all read too near to what is around: in line, but on a wrong one."""
    changing = [
        f"{density:g} by {rod.shading_hu:.0f} HU (SD)"
        for density, rod in zip(phantom.densities_mg_cm3, readings.rods, strict=True)
        if rod.shading_hu > _TELLING_SHADING_HU
    ]
    words = "CT numbers change across rods, so their centres are given wrong or streaks run over them: "
    return [words + ", ".join(changing)] if changing else []


def _as_shipped(phantom: Phantom) -> bool:
    """Whether the densities are those that came with the package, not those of a certificate of one's own."""
    known = shipped().get(phantom.name)
    return known is not None and known.densities_mg_cm3 == phantom.densities_mg_cm3


def _off(phantom: Phantom, line: Line, which: npt.NDArray[np.bool_]) -> str:
    off = [
        f"{density:g} by {residual / line.gain_hu:+.0f} mg/cm3"
        for density, residual, here in zip(phantom.densities_mg_cm3, line.residuals_hu, which, strict=True)
        if here
    ]
    return ", ".join(off)


def _apart(line: Line, plain: Line) -> float:
    """The largest difference of two lines over the densities of trabecular bone."""
    hu = [line.gain_hu * density + line.offset_hu for density in _SHOWN_MG_CM3]
    return max((plain.slope * v + plain.intercept - line.slope * v - line.intercept for v in hu), key=abs)


def _listed(densities: tuple[float, ...]) -> str:
    return ", ".join(f"{density:g}" for density in densities)
