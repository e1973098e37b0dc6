"""In which scan a line from HU to density was measured, and what tells another scan from it."""

from collections.abc import Mapping
from typing import Any

from qctrun.runtime.volume import Volume

_NAMES = {"kvp": "tube voltage (kVp)", "kernel": "kernel", "manufacturer": "scanner"}
_SERIES = "series_uid"


def origin_of(scan: Volume) -> dict[str, Any] | None:
    """What is known of a scan that its line depends on, and its series; None where nothing is.

    Parameters
    ----------
    scan : Volume
        As it was read: `provenance["scan"]` is looked at.
    """
    known = scan.provenance.get("scan") or {}
    told = {key: known[key] for key in (*_NAMES, _SERIES) if known.get(key) not in (None, "")}
    return told or None


def foreign_warning(measured_in: Mapping[str, Any] | None, scan: Volume) -> str:
    """What a reader must know of a line that was measured in another scan; empty where none is known to be.

    Parameters
    ----------
    measured_in : mapping or None
        `origin_of` the scan that the line was measured in.
    scan : Volume
        That it is applied to.
    """
    there, here = measured_in or {}, origin_of(scan) or {}
    both = there.keys() & here.keys()
    if _SERIES in both and _alike(_SERIES, there, here):
        return ""
    others = [key for key in _NAMES if key in both and not _alike(key, there, here)]
    if others:
        listed = ", ".join(
            f"{_NAMES[key]} {_text(there[key])} there, {_text(here[key])} here" for key in others
        )
        return (
            f"WRONG LINE? The calibration was measured in another scan: {listed}; a line holds for one scanner, tube "
            "voltage and kernel"
        )
    if _SERIES in both:
        return (
            "the calibration was measured in another series; what this patient does to the beam is not in it"
        )
    return ""


def _alike(key: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    one, other = (_text(each[key]).casefold() for each in (there, here))
    if key == "manufacturer":  # a converter writes "GE" for the "GE MEDICAL SYSTEMS Revolution" of DICOM
        return one.startswith(other) or other.startswith(one)
    return one == other


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else " ".join(str(value).split())
