"""Calibration phantoms: what they are made of and how their rods lie, read from TOML files."""

import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.reading.calibration import material_of
from qctrun.runtime.volume import Material

ANY_DIAMETER_MM = (12.0, 26.0)
ANY_SPACING_MM = (18.0, 60.0)
"""Where a phantom's drawing is not known: what rods of phantoms under a patient may measure."""
WATER_MG_CM3 = 999.6
"""What the rods' water-equivalents are counted from (QCT PRO User Guide, Mindways)."""
_TEXTS = ("name", "title", "serial", "source")
_RANGES = {"rod_diameter_mm": (4.0, 80.0), "spacing_mm": (5.0, 200.0)}
_DENSITY_MG_CM3 = (-500.0, 2000.0)
_WATER_MG_CM3 = (500.0, 1500.0)


@dataclass(frozen=True, slots=True)
class Phantom:
    """A row of rods of known density.

    Attributes
    ----------
    name, title : str
        What it is called on the command line and in words.
    material : "HA" or "K2HPO4"
        What its densities are densities of.
    densities_mg_cm3 : tuple of float
        Of the rods in their order along the row.
    source : str
        Where the numbers come from.
    water_mg_cm3 : tuple of float, optional
        Water-equivalent density of each rod, where the certificate states one (Mindways).
    serial : str, optional
        The phantom whose certificate these numbers are, where every phantom has its own.
    rod_diameter_mm, spacing_mm : (float, float)
        From, to: diameter of the rods and distance between the centres of neighbours.
    """

    name: str
    title: str
    material: Material
    densities_mg_cm3: tuple[float, ...]
    source: str
    water_mg_cm3: tuple[float, ...] | None = None
    serial: str | None = None
    rod_diameter_mm: tuple[float, float] = ANY_DIAMETER_MM
    spacing_mm: tuple[float, float] = ANY_SPACING_MM

    @property
    def rods(self) -> int:
        """How many rods it has."""
        return len(self.densities_mg_cm3)

    @property
    def water_hu(self) -> tuple[float, ...]:
        """By how much the water-equivalent of each rod alone differs from water; the rest is linear in density."""
        if self.water_mg_cm3 is None:
            return (0.0,) * self.rods
        return tuple(water - WATER_MG_CM3 for water in self.water_mg_cm3)


def shipped() -> dict[str, Phantom]:
    """The phantoms that come with the package, by name."""
    folder = resources.files(__name__)
    files = sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda p: p.name)
    found = [phantom_from(path.read_text("utf-8"), path.name) for path in files]
    return {phantom.name: phantom for phantom in found}


def load_phantom(name_or_file: str) -> Phantom:
    """A phantom by its name, or from a TOML file of one's own.

    Raises
    ------
    UsageError
        When there is no phantom of this name and no such file.
    InputError
        When the file is no sound description of a phantom.
    """
    known = shipped()
    if name_or_file in known:
        return known[name_or_file]
    path = Path(name_or_file)
    if path.suffix != ".toml":
        wanted = f"{', '.join(known)} or a TOML file"
        raise UsageError("--phantom", wanted=wanted, got=repr(name_or_file))
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}", wanted="TOML in UTF-8", got="other bytes") from error
    return phantom_from(text, str(path))


def phantom_from(text: str, where: str) -> Phantom:
    """A phantom from the text of a TOML file; messages name `where`.

    Raises
    ------
    InputError
        When it is no TOML, a key is missing or unknown, or a value makes no sense.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(where, wanted="TOML", got=" ".join(str(error).split())) from error
    allowed = [field.name for field in fields(Phantom)]
    needed = ("name", "title", "material", "densities_mg_cm3", "source")
    if unknown := sorted(set(values) - set(allowed)):
        raise InputError(where, wanted=f"the keys {', '.join(allowed)}", got=unknown[0])
    if missing := [key for key in needed if key not in values]:
        raise InputError(where, wanted=f"the keys {', '.join(needed)}", got=f"no {missing[0]}")
    return Phantom(**{key: _value(key, value, where) for key, value in _together(values, where).items()})


def _together(values: dict[str, Any], where: str) -> dict[str, Any]:
    """What only several keys can say: as many water densities as rods, rods that do not overlap."""
    densities, water = values["densities_mg_cm3"], values.get("water_mg_cm3")
    if isinstance(densities, list) and isinstance(water, list) and len(densities) != len(water):
        got = f"{len(water)} for {len(densities)} rods"
        raise InputError(f"{where}: water_mg_cm3", wanted="one for each rod", got=got)
    return values


def _value(key: str, value: Any, where: str) -> Any:
    what = f"{where}: {key}"
    if key in _TEXTS:
        if not isinstance(value, str) or not value.strip():
            raise InputError(what, wanted="a text", got=repr(value))
        return value.strip()
    if key == "material":
        return material_of(value if isinstance(value, str) else repr(value), what)
    if key in _RANGES:
        return _range(value, what, _RANGES[key])
    limits = _WATER_MG_CM3 if key == "water_mg_cm3" else _DENSITY_MG_CM3
    numbers = _numbers(value, what, limits)
    if key == "densities_mg_cm3" and (len(numbers) < 2 or len(set(numbers)) < 2):
        raise InputError(what, wanted="two or more rods, not all alike", got=repr(value))
    return numbers


def _numbers(value: Any, what: str, limits: tuple[float, float]) -> tuple[float, ...]:
    low, high = limits
    plain = isinstance(value, list) and all(type(each) in (int, float) for each in value)
    if not plain or not all(low <= each <= high for each in value):
        raise InputError(what, wanted=f"numbers from {low:g} to {high:g} in a list", got=repr(value))
    return tuple(float(each) for each in value)


def _range(value: Any, what: str, limits: tuple[float, float]) -> tuple[float, float]:
    numbers = _numbers(value, what, limits)
    if len(numbers) != 2 or not np.less_equal(*numbers):
        raise InputError(what, wanted="[from, to]", got=repr(value))
    return numbers[0], numbers[1]
