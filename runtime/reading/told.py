"""What an earlier run of this package left with an image: in the JSON file beside it, or in a derived DICOM object."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom

from qctrun.runtime.reading.calibration import calibration_from
from qctrun.runtime.reading.sources import quiet
from qctrun.runtime.volume import Material

PRIVATE_GROUP, PRIVATE_CREATOR, PRIVATE_SIDECAR = 0x0099, "QCTRUN", 0x01
"""Where a derived DICOM object holds the text that stands beside an image of another format."""


def sidecar_in(path: Path) -> dict[str, Any]:
    """The sidecar in a DICOM object; empty where it is not one of this package, or an archive has removed it."""
    with quiet():
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            found = json.loads(dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[PRIVATE_SIDECAR].value)
        except Exception:  # what a malformed header makes the library raise is open-ended
            return {}
    return found if isinstance(found, dict) else {}


def history_of(sidecar: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """What an earlier run wrote down: its warnings, which model filtered the volume, and what it resampled."""
    told = sidecar.get("Warnings")
    warnings = [str(words) for words in told] if isinstance(told, list) else []
    history: dict[str, Any] = {"warnings": list(dict.fromkeys([*warnings, *notes]))}
    steps = sidecar.get("Resampling")
    if isinstance(steps, list) and all(isinstance(step, dict) and "what" in step for step in steps):
        history["resampling"] = steps
    if "ModelName" in sidecar:
        keys = {"model": "ModelName", "version": "ModelVersion", "sha256": "ModelSHA256"}
        history["filter"] = {name: str(sidecar.get(key, "")) for name, key in keys.items()}
        numbers = {"filtered_fraction": "FilteredFraction", "margin_mm": "FilterMarginMM"}
        known = {name: sidecar[key] for name, key in numbers.items() if is_number(sidecar.get(key))}
        history["filter"] |= known | ({"outside": "raw"} if known.get("filtered_fraction", 1) < 1 else {})
    return history


def calibration_in(sidecar: Mapping[str, Any], where: str, material: Material | None) -> dict[str, Any]:
    """The line that made density of HU, as `calibration`; empty where the sidecar of `where` names none.

    Raises
    ------
    InputError
        When its numbers are unusable.
    """
    line = sidecar.get("Calibration")
    # A line without numbers is what was written where none was known; it says no more now.
    unknown = {"slope": None, "intercept": None}
    if not isinstance(line, dict) or unknown.items() <= line.items():
        return {}
    return {"calibration": calibration_from(line, f"{where}: Calibration", material).as_dict()}


def is_number(value: Any) -> bool:
    """Whether a JSON value is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)
