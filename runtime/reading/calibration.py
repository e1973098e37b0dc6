"""From HU to bone-mineral density: a line, who measured it, and what it is a density of."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from qctrun.runtime.errors import InputError
from qctrun.runtime.json_files import read_json
from qctrun.runtime.reading.line_origin import foreign_warning
from qctrun.runtime.reading.sources import opened_file
from qctrun.runtime.volume import MATERIALS, FloatArray, Material, Unit, Volume

NOMINAL_KVP = 120.0
NOMINAL_SLOPE, NOMINAL_INTERCEPT = 0.80, 0.0
ASSUMED_HA = "material not named and taken as HA"
LIKELY_SLOPES = (0.25, 2.0)  # mg/cm3 per HU; a wide margin around what X-ray tubes make
UNLIKELY = "UNLIKELY CALIBRATION: no X-ray tube makes {:g} mg/cm3 of one HU; is it SLOPE,INTERCEPT, from HU to mg/cm3?"
ASSUMED_WARNING = "the calibration names no material and is taken as HA; name it by --material"


@dataclass(frozen=True, slots=True)
class Calibration:
    """density in mg/cm3 = slope * HU + intercept.

    Attributes
    ----------
    slope, intercept : float
        In mg/cm3 per HU and mg/cm3. Converted to float when they are other real numbers (NumPy's scalars).
    material : "HA" or "K2HPO4"
        What the density is a density of.
    source : str
        Who or what gave the line.
    nominal : bool
        Whether it is a guess from the tube voltage instead of a measurement of this scanner.
    error : mapping of JSON values, optional
        How well the line is known, from whoever fitted it: `residual_mg_cm3`, `slope_se`, `intercept_se_mg_cm3` and
        more; `warnings`, a list of texts, goes to the readers of its densities.
    measured_in : mapping of JSON values, optional
        `origin_of` the scan that it was measured in.

    Raises
    ------
    InputError
        When slope or intercept is no finite number, the slope is not positive, the material is unknown, or error or
        measured_in is no mapping.
    """

    slope: float
    intercept: float
    material: Material
    source: str
    nominal: bool = False
    error: Mapping[str, Any] | None = field(default=None, hash=False)
    measured_in: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name, value in (("slope", self.slope), ("intercept", self.intercept)):
            object.__setattr__(self, name, _finite(value, f"calibration {name}"))
        if self.slope <= 0:
            raise InputError("calibration slope", wanted="mg/cm3 per HU above 0", got=repr(self.slope))
        if self.material not in MATERIALS:
            raise InputError("calibration material", wanted=" or ".join(MATERIALS), got=repr(self.material))
        for name, told in (("error", self.error), ("measured_in", self.measured_in)):
            if not isinstance(told, Mapping | None):
                raise InputError(f"calibration {name}", wanted="a JSON object or null", got=repr(told))

    def apply(self, volume: Volume, *, out: FloatArray | None = None) -> Volume:
        """Turn a volume in HU into one in mg/cm3.

        Parameters
        ----------
        volume : Volume
            In HU.
        out : float32 array (z, y, x), optional
            Where to put the densities, for example `volume.array` itself to save its memory.

        Raises
        ------
        InputError
            When the volume is not in HU.
        """
        self.require_hu(volume)
        density = np.multiply(volume.array, np.float32(self.slope), out=out)
        density += np.float32(self.intercept)
        return self.named(volume, density)

    def require_hu(self, volume: Volume) -> None:
        """Refuse a volume that this line is not for.

        Raises
        ------
        InputError
            When the volume is not in HU.
        """
        if volume.unit != "HU":
            raise InputError("calibration", wanted="a volume in HU", got=f"one in {volume.unit}")

    def named(self, volume: Volume, density: FloatArray) -> Volume:
        """The densities that this line makes of a volume in HU, with its place and what is known of both."""
        provenance = {**volume.provenance, "calibration": self.as_dict()}
        return volume.with_array(density, unit="mg/cm3", material=self.material, provenance=provenance)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of its densities should be told."""
        nominal = (nominal_warning(self),) if self.nominal else ()
        told = (self.error or {}).get("warnings")
        of_fit = [f"calibration: {words}" for words in told] if isinstance(told, list) else []
        odd = () if LIKELY_SLOPES[0] <= self.slope <= LIKELY_SLOPES[1] else (UNLIKELY.format(self.slope),)
        return (*nominal, *odd, *((ASSUMED_WARNING,) if self.source.endswith(ASSUMED_HA) else ()), *of_fit)

    def warnings_for(self, scan: Volume) -> tuple[str, ...]:
        """The same when it is applied to this scan in HU, which may be another than it was measured in."""
        foreign = foreign_warning(self.measured_in, scan)
        return (*((f"calibration: {foreign}",) if foreign else ()), *self.warnings)

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values, as it stands in every record."""
        return asdict(self)


def load_calibration(
    given: Calibration | tuple[float, float] | str | Path, material: Material | None = None
) -> Calibration:
    """Take a calibration in any of its forms.

    Parameters
    ----------
    given : Calibration, (slope, intercept), "SLOPE,INTERCEPT" or path of a JSON file
        The file has `slope`, `intercept`, `material` and `source`; other keys are left alone.
    material : "HA" or "K2HPO4", optional
        For forms that do not name one; a line without any is taken as HA.

    Raises
    ------
    InputError
        When the file or a number in it is unusable, or two materials contradict each other.
    """
    if isinstance(given, str):
        given = _pair(given) or _named_file(given)
    if isinstance(given, Path):
        given = _from_file(given, material)
    elif not isinstance(given, Calibration):
        slope, intercept = _two(given)
        source = "given as slope and intercept" if material else f"given as slope and intercept, {ASSUMED_HA}"
        given = Calibration(slope, intercept, material or "HA", source)
    if material is not None and given.material != material:
        got = f"{given.material} by the calibration ({given.source}) and {material} by --material"
        raise InputError("material", wanted="one material", got=got, mend="leave one of them away")
    return given


def file_of(given: Calibration | tuple[float, float] | str | Path | None) -> Path | None:
    """The file that `load_calibration` reads for a calibration in this form, if it is one."""
    if isinstance(given, str) and not _pair(given):
        return Path(given)
    return given if isinstance(given, Path) else None


def nominal_calibration(kvp: float | None, material: Material | None, strict: bool) -> Calibration:
    """The line that a scan at 120 kVp without any calibration gets.

    Raises
    ------
    InputError
        When `strict`, at another or an unknown tube voltage, or for another material than HA.
    """
    mend = "give --calibration SLOPE,INTERCEPT or a calibration.json beside the scan"
    if strict:
        raise InputError("calibration", wanted="a measured line (--strict)", got="none", mend=mend)
    if kvp != NOMINAL_KVP:
        got = "none, and the tube voltage is " + ("unknown" if kvp is None else f"{kvp:g} kVp")
        wanted = f"a line from HU to mg/cm3 (a nominal one exists for {NOMINAL_KVP:g} kVp only)"
        raise InputError("calibration", wanted=wanted, got=got, mend=mend)
    if material not in (None, "HA"):
        raise InputError(
            "calibration", wanted=f"a line to {material}", got="none; the nominal one is HA", mend=mend
        )
    return Calibration(
        NOMINAL_SLOPE, NOMINAL_INTERCEPT, "HA", f"nominal line for {NOMINAL_KVP:g} kVp", nominal=True
    )


def nominal_warning(calibration: Calibration) -> str:
    """What a reader must know who meets numbers from the nominal line."""
    line = f"{calibration.slope:.2f} HU + {calibration.intercept:g} mg/cm3 {calibration.material}"
    return (
        f"NOMINAL CALIBRATION: none was found, so {line} is assumed for {NOMINAL_KVP:g} kVp; absolute "
        "densities may be off by 10 % and more; give --calibration SLOPE,INTERCEPT or a calibration.json"
    )


def unit_of(text: str, where: str = "--unit") -> Unit:
    """Spell a unit as the package does: "HU" or "mg/cm3".

    Raises
    ------
    InputError
        When it is neither of them, in any letters.
    """
    units: dict[str, Unit] = {"hu": "HU", "mg/cm3": "mg/cm3"}
    unit = units.get(text.strip().lower())
    if unit is None:
        raise InputError(where, wanted="hu or mg/cm3", got=repr(text))
    return unit


def material_of(text: str, where: str = "--material") -> Material:
    """Spell a material as the package does.

    Raises
    ------
    InputError
        When it is unknown.
    """
    for material in MATERIALS:
        if text.strip().lower() == material.lower():
            return material
    raise InputError(where, wanted=" or ".join(MATERIALS), got=repr(text))


def calibration_from(values: Mapping[str, Any], name: str, material: Material | None = None) -> Calibration:
    """Make a calibration of JSON values that came from `name`.

    Raises
    ------
    InputError
        When a key is missing or its value unusable.
    """
    missing = [key for key in ("slope", "intercept") if key not in values]
    stated = values.get("material", material)
    if missing or stated is None:
        got = "no " + " and no ".join([*missing, *(["material"] if stated is None else [])])
        raise InputError(name, wanted="slope, intercept and material", got=got)
    if not isinstance(stated, str):
        raise InputError(f"{name}: material", wanted=" or ".join(MATERIALS), got=repr(stated))
    source, nominal = values.get("source", f"file {Path(name).name}"), values.get("nominal", False)
    if not isinstance(source, str) or not isinstance(nominal, bool):
        raise InputError(
            name, wanted="a text as source, true or false as nominal", got=repr((source, nominal))
        )
    more = {key: values.get(key) for key in ("error", "measured_in")}
    try:
        known = material_of(stated, "material")
        return Calibration(values["slope"], values["intercept"], known, source, nominal, **more)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _two(given: Any) -> tuple[float, float]:
    if not isinstance(given, Sequence | np.ndarray) or np.shape(given) != (2,):
        got, mend = " ".join(repr(given).split()), "say (0.8, 0.0), or a file that says it"
        raise InputError("calibration", wanted="two numbers: slope, intercept", got=got, mend=mend)
    return given[0], given[1]


def _named_file(text: str) -> Path:
    path = Path(text)
    if not any(map(os.path.exists, (path, *path.parents[:-1]))):
        wanted = "SLOPE,INTERCEPT like 0.8,0 or a JSON file"
        got = "one number" if _is_number(text) else "no such file"
        raise InputError(f"--calibration {text}: cannot be read", wanted=wanted, got=got)
    return path


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_file(path: Path, material: Material | None) -> Calibration:
    with opened_file(path) as file:
        return calibration_from(read_json(file, path), str(path), material)


def _finite(value: Any, what: str) -> float:
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(what, wanted="a finite number", got=repr(value))
    return number


def _pair(text: str) -> tuple[float, float] | None:
    try:
        slope, intercept = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return slope, intercept
