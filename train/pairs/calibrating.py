"""The line of a scan from HU to density, by whatever way the study asks for, and its density on the study's grid."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.drift import AT_MG_CM3
from qctrun.runtime.calibrating.reference import ReferenceLine, reference_line
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.calibration import Calibration, load_calibration
from qctrun.runtime.reading.companions import CALIBRATION, find_companion
from qctrun.runtime.reading.line_origin import origin_of
from qctrun.runtime.volume import Volume
from qctrun.train.pairs.choices import CalibrationChoice
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.hounsfield import require_hu

Doubles = npt.NDArray[np.float64]

APART = 0.1
"""A given line whose slope differs by more from the regression on the reference is told of."""
LEAST_LINES = 4
"""Of fewer lines none can be said to be the odd one."""
ODD_SLOPE, ODD_MG_CM3, ODD_SD = 0.05, 10.0, 4.0
"""A line is odd when it is off the median by more than the first in slope, or than the second at 150 mg/cm3, and by
more than so many robust standard deviations of all."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A scan as density.

    Attributes
    ----------
    volume : Volume
        mg/cm3 on the study's grid, NaN where the scan does not reach. Its warnings are those of the line, too.
    line : Calibration
        What made it, with its error and warnings.
    picture : bytes, optional
        PNG of the fit; none of a line that was given.
    """

    volume: Volume
    line: Calibration
    picture: bytes | None

    @property
    def slope_bounds(self) -> tuple[float, float] | None:
        """Of a regression, the slopes of both ways, between which the true one lies."""
        bounds = (self.line.error or {}).get("slope_bounds")
        return None if bounds is None else (bounds[0], bounds[1])


def calibrated(
    scan: Volume, on_grid: Volume, fixed: Fixed, choice: CalibrationChoice, scan_path: Path
) -> Calibrated:
    """Calibrate a scan.

    Parameters
    ----------
    scan : Volume
        HU, as it was read: rods and air are looked for in it.
    on_grid : Volume
        The same on the reference's grid, NaN where it does not reach.
    fixed : Fixed
        The reference.
    choice : CalibrationChoice
    scan_path : Path
        The scan's, beside which calibration.json is looked for.

    Raises
    ------
    InputError
        When the scan is no HU, there is no line, it is one to another material than the reference's, or scan and
        reference do not go together.
    RuntimeMissingError
        When a picture is to be drawn and matplotlib is not installed.
    """
    line, picture = _WAYS[choice.by](_Case(scan, on_grid, fixed, choice, scan_path))
    if line.material != fixed.density.material:
        wanted, got = (
            f"a line to {fixed.density.material}, the reference's material",
            f"one to {line.material}",
        )
        raise InputError(f"{scan_path}: calibration", wanted=wanted, got=got)
    volume = line.apply(on_grid).warn(*line.warnings_for(scan))
    return Calibrated(volume, line, picture)


def odd_lines(lines: Mapping[str, Calibration]) -> list[str]:
    """Name the lines of a study that are far from the others of the same scanner, tube voltage and kernel.

    Parameters
    ----------
    lines : mapping
        Name of a scan to its line.

    Returns
    -------
    list of str
        One text an odd line; nothing of groups of fewer than four.
    """
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, line in lines.items():
        known = line.measured_in or {}
        groups[tuple(str(known.get(key)) for key in ("manufacturer", "kvp", "kernel"))].append(name)
    return [
        words
        for names in groups.values()
        if len(names) >= LEAST_LINES
        for words in _odd({name: lines[name] for name in names})
    ]


def _odd(lines: Mapping[str, Calibration]) -> list[str]:
    slopes = np.array([line.slope for line in lines.values()])
    usual_slope, usual_intercept = (
        float(np.median([getattr(line, key) for line in lines.values()])) for key in ("slope", "intercept")
    )
    hu = (AT_MG_CM3 - usual_intercept) / usual_slope
    at = np.array([line.slope * hu + line.intercept for line in lines.values()])
    odd = _far(slopes, ODD_SLOPE * usual_slope) | _far(at, ODD_MG_CM3)
    return [
        f"{name}: its line, {line.slope:.3f} HU {line.intercept:+.1f}, is far from those of the study's other scans "
        f"with this scanner and tube voltage (median {usual_slope:.3f} HU {usual_intercept:+.1f}); check its "
        "registration, its reference, and that it was not calibrated before"
        for (name, line), far in zip(lines.items(), odd, strict=True)
        if far
    ]


def _far(values: Doubles, least: float) -> npt.NDArray[np.bool_]:
    off = np.abs(values - np.median(values))
    return np.asarray(off > max(least, ODD_SD * 1.4826 * float(np.median(off))))


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """What `calibrated` is asked about."""

    scan: Volume
    on_grid: Volume
    fixed: Fixed
    choice: CalibrationChoice
    scan_path: Path

    @property
    def where(self) -> str:
        return str(self.scan_path)


def _by_reference(case: _Case) -> tuple[Calibration, bytes | None]:
    from qctrun.runtime.calibrating.picture import draw_reference

    found = _fitted(case)
    line = _warned(found.calibration, require_hu(case.scan, found.calibration, case.where, measured=True))
    return line, draw_reference(replace(found, calibration=line))


def _by_rods(case: _Case) -> tuple[Calibration, bytes | None]:
    from qctrun.runtime.calibrating.finding import find_rods
    from qctrun.runtime.calibrating.phantoms import load_phantom
    from qctrun.runtime.calibrating.picture import draw_rods
    from qctrun.runtime.calibrating.rods_line import rods_line

    if case.choice.phantom is None:
        raise InputError('[calibration] by = "rods"', wanted="the key phantom", got="none")
    phantom = load_phantom(case.choice.phantom)
    try:
        found = rods_line(case.scan, phantom, find_rods(case.scan, phantom))
    except InputError as error:
        raise InputError(f"{case.where}: {error}") from error
    told = require_hu(case.scan, found.calibration, case.where, measured=True)
    return _warned(found.calibration, told), draw_rods(case.scan, found)


def _by_line(case: _Case) -> tuple[Calibration, bytes | None]:
    if case.choice.slope is None or case.choice.intercept is None:
        raise InputError('[calibration] by = "line"', wanted="the keys slope and intercept", got="none")
    line = load_calibration((case.choice.slope, case.choice.intercept), case.choice.material)
    return _warned(line, _against_reference(line, case)), None


def _by_file(case: _Case) -> tuple[Calibration, bytes | None]:
    folders = case.scan.provenance.get("slice_folders")
    file = case.choice.file or find_companion(case.scan_path, CALIBRATION, folders=folders)
    if file is None:
        mend = "make one by qctrun calibrate, or name one for all scans by file in [calibration]"
        raise InputError(case.where, wanted=f"{CALIBRATION} beside the scan", got="none", mend=mend)
    line = load_calibration(file)
    return _warned(line, _against_reference(line, case)), None


_WAYS = {"reference": _by_reference, "rods": _by_rods, "line": _by_line, "file": _by_file}


def _fitted(case: _Case) -> ReferenceLine:
    try:
        found = reference_line(case.on_grid, case.fixed.density, case.fixed.mask)
    except InputError as error:
        raise InputError(f"{case.where}: {error}") from error
    return replace(found, calibration=replace(found.calibration, measured_in=origin_of(case.scan)))


def _against_reference(line: Calibration, case: _Case) -> list[str]:
    """What the reference, which is there anyway, says of a line that was given."""
    try:
        own = _fitted(case).calibration
    except InputError as error:
        return [f"the line could not be checked against the reference: {error}"]
    told = require_hu(case.scan, own, case.where, measured=False)
    if abs(line.slope / own.slope - 1) > APART:
        told.append(
            f"the line makes {line.slope:.3f} mg/cm3 of a HU, but the regression on the reference "
            f"{own.slope:.3f}: is it this scanner's, and is the scan in HU?"
        )
    return told


def _warned(line: Calibration, words: list[str]) -> Calibration:
    """The line with more to tell to the readers of its densities."""
    if not words:
        return line
    error = dict(line.error or {})
    return replace(line, error={**error, "warnings": [*error.get("warnings", ()), *words]})
