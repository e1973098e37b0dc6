"""Local maps that this package has written, read back with their empty voxels.

The NIfTI library turns NaN into 0. So the voxels of a NIfTI map are taken from the file as they stand; it is
the one kind of file for which that is simple, because this package has written it.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from qctrun.runtime.errors import InputError
from qctrun.runtime.json_files import read_json
from qctrun.runtime.reading.calibration import material_of
from qctrun.runtime.reading.images import load, reader_of, sidecar_path_of
from qctrun.runtime.reading.nifti import check_place
from qctrun.runtime.reading.sources import format_of, quiet, readable, stem_of
from qctrun.runtime.volume import UNITS, FloatArray, Grid, Volume

_HOW = ("Neighbourhood", "Threshold", "ThresholdUnits", "Step")
"""What two maps must share to measure the same, beside unit and material."""

_HEADER_BYTES = 352
_FLOAT32 = 16


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
        When the file is damaged, not as this package writes maps, or its sidecar says no unit of one.
    """
    sidecar = read_json(sidecar_path_of(path))
    unit = sidecar.get("Units")
    if unit not in UNITS:
        raise InputError(f"{path}: Units in its sidecar", wanted=" or ".join(UNITS), got=repr(unit))
    stated = sidecar.get("CalibrationMaterial")
    material = None if stated is None else material_of(str(stated), f"{path}: CalibrationMaterial")
    array, grid, notes = _load_nifti(path) if format_of(path) == "nifti" else load(path)
    provenance = {
        "how": {"quantity": stem_of(path).rpartition("_")[2], **{key: sidecar.get(key) for key in _HOW}},
        "warnings": notes,
    }
    return Volume(array.astype(np.float32, copy=False), grid, unit, material, provenance)


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


def _load_nifti(path: Path) -> tuple[FloatArray, Grid, tuple[str, ...]]:
    notes = check_place(path)
    reader = reader_of(path, "nifti")
    with quiet():
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(f"{path}", wanted="a local map", got="a damaged header") from error
    size, spacing = reader.GetSize()[::-1], reader.GetSpacing()[::-1]
    grid = Grid(size, spacing, reader.GetOrigin(), reader.GetDirection())
    values = _voxels(path)
    if values.size != np.prod(grid.size):
        got = f"{values.size} voxels where the header says {grid.size}"
        raise InputError(f"{path}", wanted="a whole NIfTI file", got=got, mend="copy it again")
    return values.reshape(grid.size), grid, notes


def _voxels(path: Path) -> FloatArray:
    try:
        with (
            readable(path),
            gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file,
        ):
            header, voxels = file.read(_HEADER_BYTES), file.read()
        kind = struct.unpack_from("<h", header, 70)[0]
        start = struct.unpack_from("<f", header, 108)[0]
        slope = struct.unpack_from("<f", header, 112)[0]
        if (kind, start) != (_FLOAT32, _HEADER_BYTES) or slope not in (0, 1) or len(voxels) % 4:
            raise ValueError("voxels of another kind")
        return np.frombuffer(voxels, "<f4").astype(np.float32)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        wanted = "a whole map of float32 as this program writes it"
        raise InputError(f"{path}", wanted=wanted, got=str(error), mend="write it again") from error
