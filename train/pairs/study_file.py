"""The study file: TOML in, `StudyFile` out, with every slip named before any work begins."""

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qctrun.runtime.calibrating.phantoms import load_phantom
from qctrun.runtime.errors import InputError, QctrunError
from qctrun.runtime.volume import MATERIALS
from qctrun.train.pairs.choices import (
    CALIBRATED_BY,
    METRICS,
    PAPER_SPACING_MM,
    CalibrationChoice,
    QctScan,
    RegistrationChoice,
    Spacing,
    Specimen,
    StudyFile,
)

LARGEST_SPACING_MM = 5.0
LARGEST_PEEL_MM = 20.0
LARGEST_CURRENT_MAS = 1e5

Check = Callable[[Any, str], Any]

_OF_WAY = {"line": ("slope", "intercept", "material"), "file": ("file",), "rods": ("phantom",)}
_NEEDED_BY = {"line": ("slope", "intercept", "material"), "rods": ("phantom",)}


def load_study(path: str | Path) -> StudyFile:
    """Read a study file and check all of it; paths in it are relative to it.

    Raises
    ------
    InputError
        When the file cannot be read or is no TOML; a key is unknown or missing; a value is impossible; a name,
        a scan or a repetition of one tube current stands there twice; a file that it names is not there; or
        nothing is left to do.
    """
    path = Path(path)
    values = _table(_toml(path), _STUDY, (), str(path))
    specimens = values.pop("specimen", [])
    if not specimens:
        raise InputError(str(path), wanted="one [[specimen]] or more", got="none")
    for key, make in (("registration", _registration), ("calibration", _calibration)):
        if key in values:
            values[key] = make(values[key], path)
    found = tuple(_specimen(each, number, path) for number, each in enumerate(specimens, 1))
    study = StudyFile(path, specimens=found, **values)
    _require_apart(study)
    _require_there(study)
    return study


def spacing_of(value: Any, what: str) -> Spacing:
    """Three distances of voxel centres (z, y, x) in mm.

    Raises
    ------
    InputError
        When they are not three numbers above 0 and up to `LARGEST_SPACING_MM`.
    """
    plain = isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))
    if not plain or not all(0.01 <= each <= LARGEST_SPACING_MM for each in value):
        wanted = f"three numbers of mm (z, y, x) from 0.01 to {LARGEST_SPACING_MM:g} like {PAPER_SPACING_MM}"
        raise InputError(what, wanted=wanted, got=repr(value))
    return float(value[0]), float(value[1]), float(value[2])


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(str(path), wanted="TOML in UTF-8", got="other bytes") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(str(path), wanted="TOML", got=" ".join(str(error).split())) from error


def _table(values: Any, checks: Mapping[str, Check], needed: tuple[str, ...], where: str) -> dict[str, Any]:
    """Known keys with sound values, none missing."""
    if not isinstance(values, dict):
        raise InputError(where, wanted="a table of keys and values", got=repr(values))
    for key in values:
        if key not in checks:
            near = get_close_matches(key, checks, n=1, cutoff=0.5)
            mend = f"did you mean {near[0]}?" if near else ""
            raise InputError(where, wanted=f"the keys {', '.join(checks)}", got=repr(key), mend=mend)
    for key in needed:
        if key not in values:
            raise InputError(where, wanted=f"the key {key}", got="none")
    return {key: checks[key](value, f"{where}: {key}") for key, value in values.items()}


def _registration(values: Any, path: Path) -> RegistrationChoice:
    return RegistrationChoice(**_table(values, _REGISTRATION, (), f"{path}: [registration]"))


def _calibration(values: Any, path: Path) -> CalibrationChoice:
    where = f"{path}: [calibration]"
    found = _table(values, _CALIBRATION, (), where)
    by = found.get("by", "reference")
    for key in found.keys() - {"by", *_OF_WAY.get(by, ())}:
        way = next(way for way, keys in _OF_WAY.items() if key in keys)
        mend = f'say by = "{way}", or leave {key} away'
        raise InputError(f"{where}: {key}", wanted=f'by = "{way}"', got=f'by = "{by}"', mend=mend)
    for key in _NEEDED_BY.get(by, ()):
        if key not in found:
            raise InputError(f'{where}: by = "{by}"', wanted=f"the key {key}", got="none")
    if "file" in found:
        found["file"] = path.parent / found["file"]
    if "phantom" in found:
        found["phantom"] = _phantom(found["phantom"], path, f"{where}: phantom")
    return CalibrationChoice(**found)


def _phantom(name: str, path: Path, what: str) -> str:
    """The name of a known phantom, or the path of a description that can be read."""
    name = str(path.parent / name) if name.endswith(".toml") else name
    try:
        load_phantom(name)
    except QctrunError as error:
        raise InputError(f"{what}: {error}") from error
    return name


def _specimen(values: Any, number: int, path: Path) -> Specimen:
    where = f"{path}: {_called(values, number)}"
    found = _table(values, _SPECIMEN, ("name", "reference", "mask", "scan"), where)
    scans = found.pop("scan")
    if not scans:
        raise InputError(where, wanted="one [[specimen.scan]] or more", got="none")
    for key in ("reference", "mask"):
        found[key] = path.parent / found[key]
    found["scans"] = tuple(_scan(each, f"{where}: scan {n}", path) for n, each in enumerate(scans, 1))
    return Specimen(**{"donor": found["name"], **found})


def _called(values: Any, number: int) -> str:
    name = values.get("name") if isinstance(values, dict) else None
    return f"specimen {name}" if isinstance(name, str) and name else f"specimen {number}"


def _scan(values: Any, where: str, path: Path) -> QctScan:
    found = _table(values, _SCAN, ("path", "tube_current_mas", "repetition"), where)
    for key in found.keys() & {"path", "landmarks"}:
        found[key] = path.parent / found[key]
    return QctScan(**found)


def _require_apart(study: StudyFile) -> None:
    """Nothing that has to be unique stands there twice."""
    # Names become file names, and some file systems do not tell large letters from small.
    _once((each.name.casefold() for each in study.specimens), f"{study.path}: specimens", "name")
    donors = {each.donor for each in study.specimens}
    if len({donor.casefold() for donor in donors}) < len(donors):
        got = ", ".join(sorted(donors))
        raise InputError(f"{study.path}: donors", wanted="each donor spelt in one way", got=got)
    places = (f"{each.reference.resolve()} with {each.mask.resolve()}" for each in study.specimens)
    _once(places, f"{study.path}: specimens", "reference with its mask")
    for specimen in study.specimens:
        where = f"{study.path}: specimen {specimen.name}"
        _once((scan.name for scan in specimen.scans), where, "repetition of one tube current")
        _once((_place(scan) for scan in specimen.scans), where, "scan")
        for scan in specimen.scans:
            if scan.path.resolve() in (specimen.reference.resolve(), specimen.mask.resolve()):
                got = "the reference or the mask itself"
                raise InputError(f"{where}: scan {scan.name}", wanted="a QCT scan", got=got)


def _place(scan: QctScan) -> str:
    """Two series in one folder are two scans."""
    return f"{scan.path.resolve()}{f' series {scan.series_uid}' if scan.series_uid else ''}"


def _once(names: Any, where: str, what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(where, wanted=f"each {what} once", got=f"{name} twice")
        seen.add(name)


def _require_there(study: StudyFile) -> None:
    """Every file and folder is there, before hours go into the first of them."""
    missing = [f"{what} {path}" for what, path in _named(study) if not path.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" * (len(missing) > 1)
        mend = f"paths are relative to {study.path.parent.resolve()}"
        raise InputError(f"{study.path}: not there: {missing[0]}{more}", mend=mend)


def _named(study: StudyFile) -> list[tuple[str, Path]]:
    found = [("calibration file", study.calibration.file)]
    for specimen in study.specimens:
        of = f"of specimen {specimen.name}"
        found += [(f"reference {of}:", specimen.reference), (f"mask {of}:", specimen.mask)]
        found += [(f"scan {scan.name} {of}:", scan.path) for scan in specimen.scans]
        found += [(f"landmarks of scan {scan.name} {of}:", scan.landmarks) for scan in specimen.scans]
    return [(what, path) for what, path in found if path is not None]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _number(low: float, high: float) -> Check:
    def check(value: Any, what: str) -> float:
        if not _is_number(value) or not low <= value <= high:
            raise InputError(what, wanted=f"a number from {low:g} to {high:g}", got=repr(value))
        return float(value)

    return check


def _repetition(value: Any, what: str) -> int:
    if type(value) is not int or not 1 <= value <= 9999:
        raise InputError(what, wanted="a whole number from 1 to 9999", got=repr(value))
    return value


def _truth(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(what, wanted="true or false", got=repr(value))
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InputError(what, wanted="a text", got=repr(value))
    return value


def _path(value: Any, what: str) -> Path:
    return Path(_text(value, what))


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.-]{0,63}", value):
        wanted = "up to 64 letters, digits, _ - and ., no blank, as it becomes a file name"
        raise InputError(what, wanted=wanted, got=repr(value))
    return value


def _one_of(*words: str) -> Check:
    def check(value: Any, what: str) -> str:
        if value not in words:
            raise InputError(what, wanted=" or ".join(f'"{word}"' for word in words), got=repr(value))
        return str(value)

    return check


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(what, wanted=f"[[{what.rsplit(' ', 1)[-1]}]] with two brackets", got=repr(value))
    return value


def _any(value: Any, what: str) -> Any:
    return value


_STUDY: Mapping[str, Check] = {
    "spacing_mm": spacing_of,
    "registration": _any,
    "calibration": _any,
    "specimen": _list,
}
_REGISTRATION: Mapping[str, Check] = {"metric": _one_of(*METRICS)}
_CALIBRATION: Mapping[str, Check] = {
    "by": _one_of(*CALIBRATED_BY),
    "slope": _number(0.01, 100),
    "intercept": _number(-1e4, 1e4),
    "material": _one_of(*MATERIALS),
    "file": _path,
    "phantom": _text,
}
_SPECIMEN: Mapping[str, Check] = {
    "name": _name,
    "donor": _name,
    "reference": _path,
    "mask": _path,
    "peel_mm": _number(0, LARGEST_PEEL_MM),
    "material": _one_of(*MATERIALS),
    "unit": _one_of("mg/cm3"),
    "scan": _list,
}
_SCAN: Mapping[str, Check] = {
    "path": _path,
    "tube_current_mas": _number(1e-3, LARGEST_CURRENT_MAS),
    "repetition": _repetition,
    "series_uid": _text,
    "accept": _truth,
    "landmarks": _path,
}
