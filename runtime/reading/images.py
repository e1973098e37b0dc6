"""NIfTI, MetaImage and NRRD files into arrays and grids, exactly where their headers put them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from qctrun.runtime.digests import sha256_of, sha256_of_set
from qctrun.runtime.errors import InputError
from qctrun.runtime.formats import Format, is_utf8
from qctrun.runtime.json_files import read_json
from qctrun.runtime.reading.calibration import material_of, unit_of
from qctrun.runtime.reading.metaimage import check_metaimage
from qctrun.runtime.reading.nifti import check_nifti, check_numbers
from qctrun.runtime.reading.nrrd import check_nrrd
from qctrun.runtime.reading.scanco import FORMATS as SCANCO
from qctrun.runtime.reading.scanco import load_scanco
from qctrun.runtime.reading.sources import cause, format_of, quiet, readable, stem_of
from qctrun.runtime.reading.told import calibration_in, history_of, is_number
from qctrun.runtime.volume import Grid, Material, Unit, Volume, require_finite

READERS: dict[Format, str] = {"nifti": "NiftiImageIO", "mha": "MetaImageIO", "nrrd": "NrrdImageIO"}
PLAIN_NUMBERS = frozenset(
    {
        *(sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt32),
        *(sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat32, sitk.sitkFloat64),
    }
)
NumberArray = npt.NDArray[Any]
_SHEARED = "resample it to perpendicular axes"


def read_image(path: Path, *, unit: Unit | None = None, material: Material | None = None) -> Volume:
    """Read a volume whose unit its sidecar or the caller names.

    The sidecar is the JSON file of the same stem beside the image; its keys `Units`, `CalibrationMaterial`,
    `Calibration`, `Warnings`, those of the scan and those of the filter are read. A left-handed image (NIfTI
    may be one) stays as it is stored.

    Returns
    -------
    Volume
        In HU or mg/cm3, native geometry.

    Raises
    ------
    InputError
        When the file is no sound 3-D image of finite numbers, or its unit or material is not known.
    """
    sidecar_path = sidecar_path_of(path)
    sidecar = read_json(sidecar_path) if sidecar_path.is_file() else {}
    unit = _unit(sidecar, unit, path)
    material = _material(sidecar, material, path) if unit == "mg/cm3" else None
    numbers, grid, notes = load(path)
    array = numbers.astype(np.float32, copy=False)
    require_finite(array, str(path))
    files = _files(path)
    provenance: dict[str, Any] = {
        "inputs": [
            {
                "path": str(path),
                "sha256": sha256_of_set(map(sha256_of, files)),
                "files": len(files),
                "format": format_of(path),
            }
        ],
        "stem": stem_of(path),
        "scan": _scan(sidecar, sidecar_path),
        **history_of(sidecar, notes),
    }
    if unit == "mg/cm3":
        provenance["density_from"] = "call" if sidecar.get("Units") is None else "sidecar"
        provenance |= calibration_in(sidecar, str(sidecar_path), material)
    return Volume(array, grid, unit, material, provenance)


def sidecar_path_of(path: Path) -> Path:
    """Where the sidecar of an image lies, if it has one."""
    return path.with_name(stem_of(path) + ".json")


def load(path: Path) -> tuple[NumberArray, Grid, tuple[str, ...]]:
    """Read the numbers of a 3-D image, of the type in which they are stored, their grid, and what to tell of it.

    Raises
    ------
    InputError
        When the file is damaged or cannot be read, is no image of the kind that its name says, contradicts
        itself about its place, or has not three axes, all perpendicular.
    """
    kind = format_of(path)
    if kind in SCANCO:
        return load_scanco(path)
    if kind not in READERS:
        raise InputError(f"{path}", wanted="a NIfTI, MHA, NRRD or AIM file", got=kind)
    with readable(path):
        path.open("rb").close()
    notes = check_header(path, kind)
    reader = reader_of(path, kind)
    with quiet():
        try:
            reader.ReadImageInformation()
            _check_header(reader, path)
            image = reader.Execute()
        except RuntimeError as error:
            raise _unreadable(error, path, kind) from error
    # A copy: a view would outlive the image whose memory it shows.
    return sitk.GetArrayFromImage(image), grid_of(image, path), notes


def check_header(path: Path, kind: Format, *, voxels: bool = True) -> tuple[str, ...]:
    """Look at a header, and at its voxels if asked, before a library does; what to tell of the place.

    Raises
    ------
    InputError
        When the library would crash or hang, take memory for nothing, or misread it.
    """
    if kind == "nifti":
        return check_nifti(path) if voxels else check_numbers(path)
    with readable(path):
        (check_metaimage if kind == "mha" else check_nrrd)(path, voxels=voxels)
    return ()


def reader_of(path: Path, kind: Format) -> sitk.ImageFileReader:
    """A reader of an image that takes it for nothing but what its name says.

    Raises
    ------
    InputError
        When the name is not UTF-8; it would end the process inside of the library.
    """
    if not is_utf8(path):
        raise InputError(f"{path}", wanted="a path in UTF-8", got="other bytes in it", mend="rename it")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[kind])
    reader.SetFileName(str(path))
    return reader


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
        raise InputError(f"{path}: {error}", mend=_SHEARED) from error


def _unreadable(error: RuntimeError, path: Path, kind: Format) -> InputError:
    got = cause(error)
    mend = _SHEARED if "orthonormal" in got else "write the file again"
    return InputError(f"{path}", wanted=f"a sound {kind} image", got=got, mend=mend)


def _check_header(reader: sitk.ImageFileReader, path: Path) -> None:
    size = reader.GetSize()
    if len(size) == 4 and size[3] == 1:  # a series of one volume
        size = size[:3]
        reader.SetExtractSize((*size, 0))
    if len(size) != 3 or min(size) < 2:
        got = f"{len(size)}-D of size {tuple(size)} (x, y, z)"
        raise InputError(
            f"{path}", wanted="a 3-D volume", got=got, mend="write one volume of slices to a file"
        )
    if reader.GetNumberOfComponents() != 1 or reader.GetPixelID() not in PLAIN_NUMBERS:
        got = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise InputError(f"{path}", wanted="one number in a voxel", got=got)


def _scan(sidecar: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a sidecar tells of the scanner."""
    keys = {
        "kernel": "ConvolutionKernel",
        "manufacturer": "Manufacturer",
        "series_uid": "SeriesInstanceUID",
        "frame_of_reference_uid": "FrameOfReferenceUID",
    }
    told = {name: str(sidecar[key]) for name, key in keys.items() if sidecar.get(key) not in (None, "")}
    return {"kvp": _kvp(sidecar, path), **told}


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
    if kvp is not None and not (is_number(kvp) and 0 <= kvp < 1e4):
        raise InputError(f"{path}: KVP", wanted="a number of kV", got=repr(kvp)[:40])
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
