"""DICOM slices that Scanco's software exports: the scanner's own line to density, in private tags.

Its elements are those that BoneJ, ORMIR-MIDS and others read: (0029,1000) stored numbers of 1/cm, (0029,1003) the
unit of the density, (0029,1004) its slope and (0029,1005) its intercept by 1/cm, (0029,1006) the attenuation of
water. The rescale line of such a slice makes Hounsfield units, or nothing (stored numbers, whatever its rescale type
says), or density; which of them is found by comparison, so that no scan is calibrated twice or not at all.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.headers import Header
from qctrun.runtime.reading.scanco_header import DensityLine, checked_line
from qctrun.runtime.reading.sources import quiet
from qctrun.runtime.volume import FloatArray, Material, Unit

MANUFACTURER = "SCANCO"
GROUP = 0x0029
SCALING, UNIT, SLOPE, INTERCEPT, WATER = 0x1000, 0x1003, 0x1004, 0x1005, 0x1006
UNNAMED = "the slices name no material of their density, which is taken as HA as on all such scanners"

_NEAR = 0.01
"""Two slopes are the same to this share; what they are told from differs by a third and more."""
_MEND = "give the AIM or ISQ of the scan"
_SAY = ", or say what the rescaled values are: --unit mg/cm3 --material HA"


@dataclass(frozen=True, slots=True)
class SlicesLine:
    """The line of a series, and from which rescaled values it starts.

    Attributes
    ----------
    line : DensityLine
    slope, intercept : float
        density = slope value + intercept, of values after the rescale line of their slice.
    values : str
        What these are: "HU", "stored numbers" or "density".
    notes : tuple of str
    """

    line: DensityLine
    slope: float
    intercept: float
    values: str
    notes: tuple[str, ...]

    def apply(self, array: FloatArray) -> None:
        """Turn rescaled values into density where they are."""
        array *= np.float32(self.slope)
        array += np.float32(self.intercept)

    def material(self, asked: Material | None, path: Path) -> Material:
        """The material of the density, which what is asked must agree with.

        Raises
        ------
        InputError
            When it does not.
        """
        if asked not in (None, self.line.material):
            got, mend = f"{self.line.material} by the scanner's tags", "leave --material away"
            raise InputError(f"{path}", wanted=f"{asked} as --material says", got=got, mend=mend)
        return self.line.material


def slices_line(headers: Sequence[Header], path: Path, asked: Unit | None = None) -> SlicesLine | None:
    """The line to density that Scanco's software left in slices.

    Parameters
    ----------
    headers : sequence of Header
    path : Path
        For messages.
    asked : "HU" or "mg/cm3", optional
        What the caller takes the rescaled values for. Where there is a line, "mg/cm3" is what it leads to, from
        whatever values; where there is none, the caller is believed.

    Returns
    -------
    SlicesLine or None
        None for slices of other scanners, for those without a calibration, and for HU that are asked for.

    Raises
    ------
    InputError
        When the slices differ, their rescale line is neither of HU nor of density nor none, or HU are asked for and
        it does not make them.
    """
    if not all(MANUFACTURER in header.manufacturer.upper() for header in headers):
        return None
    found = {_tags(file) for file in dict.fromkeys(header.path for header in headers)}
    rescaled = {(header.slope, header.intercept) for header in headers}
    if len(found) > 1 or len(rescaled) > 1:
        raise InputError(f"{path}", wanted="one calibration in all slices", got="several", mend=_MEND)
    scaling, unit, slope, intercept, water = found.pop()
    rescale = tuple(1.0 - at if value is None else value for at, value in enumerate(rescaled.pop()))
    if scaling is None or slope is None or intercept is None:
        if rescale != (1.0, 0.0) or asked:
            return None
        got = (
            "stored numbers of a Scanco scanner (rescale slope 1) without its calibration in (0029,1000-1006)"
        )
        said = {header.rescale_type for header in headers}  # what says HU is not taken for density on request
        raise InputError(f"{path}", wanted="HU or density", got=got, mend=_MEND + _SAY * ("HU" not in said))
    line = checked_line(scaling, slope, intercept, unit or "mg HA/ccm", water, "", path)
    assert isinstance(line, DensityLine)  # nothing of it is missing
    factor = line.per_stored / rescale[0]
    values = _values(line, rescale, path)
    if asked == "HU":
        _require_hu(values, path)
        return None
    notes = (*line.warnings, *(() if unit else (UNNAMED,)))
    return SlicesLine(line, factor, line.intercept - rescale[1] * factor, values, notes)


def _require_hu(values: str, path: Path) -> None:
    if values != "HU":
        wanted, got = "HU as --unit says", f"{values} by the scanner's tags"
        raise InputError(f"{path}", wanted=wanted, got=got, mend="leave --unit away")


def _values(line: DensityLine, rescale: tuple[float, ...], path: Path) -> str:
    """What a rescale line makes, by comparison with the lines that it could be."""
    known = {"stored numbers": (1.0, 0.0), "density": (line.per_stored, line.intercept)}
    if line.mu_water is not None:
        known["HU"] = (1000 / (line.mu_scaling * line.mu_water), -1000.0)
    for values, (slope, intercept) in known.items():
        if math.isclose(rescale[0], slope, rel_tol=_NEAR) and math.isclose(
            rescale[1], intercept, rel_tol=_NEAR, abs_tol=1e-6
        ):
            return values
    likely = " or ".join(
        f"{slope:g} and {intercept:g} ({name})" for name, (slope, intercept) in known.items()
    )
    got = f"rescale slope {rescale[0]:g} and intercept {rescale[1]:g}"
    raise InputError(f"{path}", wanted=f"a rescale line of {likely}, by its tags", got=got, mend=_MEND)


def _tags(file: Path) -> tuple[float | None, str, float | None, float | None, float | None]:
    """Scaling, unit, slope, intercept and water of an object; None where there is none."""
    wanted: Iterable[Any] = [(GROUP, element) for element in (SCALING, UNIT, SLOPE, INTERCEPT, WATER)]
    try:
        with quiet():
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(wanted))
            said = {element: _text(dataset, element) for _, element in wanted}
    except Exception:  # what a malformed header makes the library raise is open-ended
        return None, "", None, None, None
    number = {element: _number(text) for element, text in said.items()}
    return number[SCALING], said[UNIT], number[SLOPE], number[INTERCEPT], number[WATER]


def _text(dataset: pydicom.Dataset, element: int) -> str:
    """A value as text; in implicit syntax the library cannot know its type, and hands out bytes."""
    value = dataset[GROUP, element].value if (GROUP, element) in dataset else ""
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip(" \0")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
