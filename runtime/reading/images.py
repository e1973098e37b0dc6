"""NIfTI, MetaImage and NRRD files into arrays and grids, exactly where their headers put them."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.calibration import calibration_from, material_of, read_json, unit_of
from qctrun.runtime.reading.metaimage import check_metaimage
from qctrun.runtime.reading.nifti import check_nifti
from qctrun.runtime.reading.sources import Format, cause, format_of, quiet, stem_of
from qctrun.runtime.volume import Grid, Material, Unit, Volume, require_finite

READERS: dict[Format, str] = {"nifti": "NiftiImageIO", "mha": "MetaImageIO", "nrrd": "NrrdImageIO"}
PLAIN_NUMBERS = frozenset(
    {
        *(sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt32),
        *(sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat32, sitk.sitkFloat64),
    }
)
NumberArray = npt.NDArray[Any]


def read_image(path: Path, *, unit: Unit | None = None, material: Material | None = None) -> Volume:
    """Read a volume whose unit its sidecar or the caller names.

    The sidecar is the JSON file of the same stem beside the image; its keys `Units`, `CalibrationMaterial`,
    `Calibration`, `KVP`, `Warnings` and `ModelName` are read. A left-handed image (NIfTI may be one) stays as
    it is stored.

    Returns
    -------
    Volume
        In HU or mg/cm3, native geometry.

    Raises
    ------
    InputError
        When the file is no sound 3-D image of finite numbers, or its unit or material is not known.
    """
    sidecar_path = path.with_name(stem_of(path) + ".json")
    sidecar = read_json(sidecar_path) if sidecar_path.is_file() else {}
    unit = _unit(sidecar, unit, path)
    material = _material(sidecar, material, path) if unit == "mg/cm3" else None
    numbers, grid = load(path)
    array = numbers.astype(np.float32, copy=False)
    require_finite(array, str(path))
    files = _files(path)
    provenance: dict[str, Any] = {
        "inputs": [
            {"path": str(path), "sha256": _sha256(files), "files": len(files), "format": format_of(path)}
        ],
        "stem": stem_of(path),
        "scan": {"kvp": _kvp(sidecar, sidecar_path)},
        **_history(sidecar),
    }
    if unit == "mg/cm3" and isinstance(sidecar.get("Calibration"), dict):
        line = calibration_from(sidecar["Calibration"], f"{sidecar_path}: Calibration", material)
        provenance["calibration"] = line.as_dict()
    return Volume(array, grid, unit, material, provenance)


def load(path: Path) -> tuple[NumberArray, Grid]:
    """Read the numbers of a 3-D image, of the type in which they are stored, and their grid.

    Raises
    ------
    InputError
        When the file is damaged, is no image of the kind that its name says, or has not three axes, all
        perpendicular.
    """
    kind = format_of(path)
    if kind not in READERS:
        raise InputError(f"{path}", wanted="a NIfTI, MHA or NRRD file", got=kind)
    if kind == "nifti":
        check_nifti(path)
    if kind == "mha":
        check_metaimage(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[kind])
    reader.SetFileName(str(path))
    with quiet():
        try:
            reader.ReadImageInformation()
            _check_header(reader, path)
            image = reader.Execute()
        except RuntimeError as error:
            got = cause(error)
            raise InputError(
                f"{path}", wanted=f"a sound {kind} image", got=got, mend="write the file again"
            ) from error
    # A copy: a view would outlive the image whose memory it shows.
    return sitk.GetArrayFromImage(image), grid_of(image, path)


def grid_of(image: sitk.Image, path: Path) -> Grid:
    """Grid of a SimpleITK image; messages name `path`.

    Raises
    ------
    InputError
        When its axes are not perpendicular.
    """
    size, spacing = image.GetSize()[::-1], image.GetSpacing()[::-1]
    try:
        return Grid(size, spacing, image.GetOrigin(), image.GetDirection())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _check_header(reader: sitk.ImageFileReader, path: Path) -> None:
    size = reader.GetSize()
    if len(size) != 3 or min(size) < 2:
        got = f"{len(size)}-D of size {tuple(size)} (x, y, z)"
        raise InputError(
            f"{path}", wanted="a 3-D volume", got=got, mend="write one volume of slices to a file"
        )
    if reader.GetNumberOfComponents() != 1 or reader.GetPixelID() not in PLAIN_NUMBERS:
        got = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise InputError(f"{path}", wanted="one number in a voxel", got=got)


def _history(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run of this package wrote down: its warnings, and which model filtered the volume."""
    told = sidecar.get("Warnings")
    history: dict[str, Any] = {"warnings": [str(w) for w in told] if isinstance(told, list) else []}
    if "ModelName" in sidecar:
        keys = {"model": "ModelName", "version": "ModelVersion", "sha256": "ModelSHA256"}
        history["filter"] = {name: str(sidecar.get(key, "")) for name, key in keys.items()}
    return history


def _unit(sidecar: Mapping[str, Any], asked: Unit | None, path: Path) -> Unit:
    stated = sidecar.get("Units")
    if stated is None and asked is None:
        mend = f"say --unit hu or mg/cm3, or write Units into {stem_of(path)}.json beside it"
        raise InputError(f"{path}", wanted="a known unit", got="none", mend=mend)
    unit = asked if stated is None else unit_of(str(stated), f"{path}: Units in its sidecar")
    if asked is not None and unit != asked:
        raise InputError(f"{path}", wanted=f"{asked} as --unit says", got=f"{unit} in its sidecar")
    assert unit is not None
    return unit


def _material(sidecar: Mapping[str, Any], asked: Material | None, path: Path) -> Material:
    stated = sidecar.get("CalibrationMaterial")
    if stated is None and asked is None:
        mend = (
            f"say --material HA or K2HPO4, or write CalibrationMaterial into {stem_of(path)}.json beside it"
        )
        raise InputError(f"{path}", wanted="the material of its density", got="none", mend=mend)
    material = (
        asked if stated is None else material_of(str(stated), f"{path}: CalibrationMaterial in its sidecar")
    )
    if asked is not None and material != asked:
        raise InputError(f"{path}", wanted=f"{asked} as --material says", got=f"{material} in its sidecar")
    assert material is not None
    return material


def _kvp(sidecar: Mapping[str, Any], path: Path) -> float | None:
    kvp = sidecar.get("KVP")
    if kvp is not None and (isinstance(kvp, bool) or not isinstance(kvp, (int, float))):
        raise InputError(f"{path}: KVP", wanted="a number", got=repr(kvp))
    return None if kvp is None else float(kvp)


def _files(path: Path) -> list[Path]:
    """The image file, and the file of raw voxels that an `.mhd` or `.nhdr` header names."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return [path]
    found = re.search(
        r"(?mi)^\s*(?:ElementDataFile\s*=|data ?file:)\s*(\S.*?)\s*$", path.read_text("latin-1")
    )
    data = path.parent / found[1] if found else path
    return [path, data] if data != path and data.is_file() else [path]


def _sha256(files: list[Path]) -> str:
    """Digest of one file, or of the digests of a header and its raw file."""
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
    )
