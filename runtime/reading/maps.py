"""Local maps that this package has written, read back with their empty voxels."""

from pathlib import Path

import numpy as np

from qctrun.runtime.errors import InputError
from qctrun.runtime.json_files import read_json
from qctrun.runtime.reading.calibration import material_of
from qctrun.runtime.reading.images import load, sidecar_path_of
from qctrun.runtime.reading.sources import stem_of
from qctrun.runtime.volume import UNITS, Volume

_HOW = ("Neighbourhood", "Threshold", "ThresholdUnits", "Step")
"""What two maps must share to measure the same, beside unit and material."""


def is_map(path: Path) -> bool:
    """Whether the sidecar of an image says that it is a local map."""
    sidecar = sidecar_path_of(path)
    return path.is_file() and sidecar.is_file() and "Neighbourhood" in read_json(sidecar)


def read_map(path: Path) -> Volume:
    """Read a local map; NaN where it has no value.

    Returns
    -------
    Volume
        In mg/cm3, or a fraction (unit "1"). Its provenance has `how`: what it maps, as its file name says
        (`BMDmap`), sphere, threshold and step.

    Raises
    ------
    InputError
        When the file is damaged or its sidecar says no unit of a map.
    """
    sidecar = read_json(sidecar_path_of(path))
    unit = sidecar.get("Units")
    if unit not in UNITS:
        raise InputError(f"{path}: Units in its sidecar", wanted=" or ".join(UNITS), got=repr(unit))
    stated = sidecar.get("CalibrationMaterial")
    material = None if stated is None else material_of(str(stated), f"{path}: CalibrationMaterial")
    numbers, grid, notes = load(path)
    provenance = {
        "how": {"quantity": stem_of(path).rpartition("_")[2], **{key: sidecar.get(key) for key in _HOW}},
        "warnings": notes,
    }
    return Volume(numbers.astype(np.float32), grid, unit, material, provenance)


def require_same_map(first: Volume, other: Volume, name: str) -> None:
    """Refuse a map of another quantity, sphere, threshold or step than the first one's.

    Raises
    ------
    InputError
        Naming the first difference.
    """
    mine, yours = first.provenance["how"], other.provenance["how"]
    for key, value in mine.items():
        if yours[key] != value:
            raise InputError(f"{name}: {key}", wanted=f"{value} as in the first map", got=f"{yours[key]}")
