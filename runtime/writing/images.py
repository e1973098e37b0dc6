"""Volumes as NIfTI, MHA and NRRD.

SimpleITK knows how each format states the geometry, but its NIfTI writer neither reports a full disk (the
file is silently cut short) nor lets an intent name through. So SimpleITK writes one voxel at the right place,
its header gets the true size, and the values are streamed behind it here: every refused byte is an error.
"""

import gzip
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from qctrun.runtime.devices import parse_threads
from qctrun.runtime.errors import OutputError, OutputExistsError
from qctrun.runtime.formats import READABLE
from qctrun.runtime.json_files import json_text
from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing.files import Staging, writing
from qctrun.runtime.writing.names import image_suffix, sidecar_name
from qctrun.runtime.writing.sidecars import sidecar_of

_VOXEL_BYTES = 4
_NIFTI_HEADER_BYTES = 352
_NIFTI_DIM = 42  # dim[1..3], three int16
_NIFTI_DESCRIP = 148  # 80 bytes
_NIFTI_INTENT_NAME = 328  # 16 bytes
_NIFTI_LARGEST = 32767
_GZIP_LEVEL = 1  # more makes measured densities 1 % smaller and takes a third longer


def write(
    volume: Volume, path: str | Path, *, sidecar: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write a volume as float32 on its own grid, with a JSON sidecar of the same name beside it.

    Parameters
    ----------
    volume : Volume
        (z, y, x) values; NaN stays NaN.
    path : path
        Ends in `.nii.gz`, `.nii`, `.mha` or `.nrrd`. Missing folders are made.
    sidecar : mapping of JSON values, optional
        Added to what the volume itself says (unit, material, calibration, sources, warnings).
    overwrite : bool
        Whether files that are already there may be replaced.

    Returns
    -------
    Path
        Where the image is.

    Raises
    ------
    UsageError
        When the suffix is none of these.
    OutputExistsError
        When the image or its sidecar is already there and `overwrite` is not set; or, always, when an image of
        the same name but another format is there, which would be read with the new sidecar.
    OutputError
        When the disk is full or not writable; then nothing is left behind.
    """
    target = Path(path)
    _refuse_namesakes(target)
    with Staging(target.parent, (sidecar_name(target.name), target.name), overwrite=overwrite) as staging:
        stage_image(staging, volume, target.name, sidecar=sidecar)
        staging.commit()
    return target


def stage_image(
    staging: Staging, volume: Volume, name: str, *, sidecar: Mapping[str, Any] | None = None
) -> tuple[Path, Path]:
    """Write an image and its sidecar under their hidden names; return both (image, sidecar)."""
    hidden, suffix = staging.hidden(name), image_suffix(Path(name))
    with writing(staging.path(name)):
        header = _header(volume, hidden, suffix, name)
        _stream(volume, header, hidden, compressed=suffix == ".nii.gz")
    text = json_text({**sidecar_of(volume), **(sidecar or {})})
    return hidden, staging.add_text(sidecar_name(name), text)


def stage_images(
    staging: Staging, volumes: Mapping[str, Volume], threads: int | None = None
) -> dict[str, tuple[Path, Path]]:
    """`stage_image` for several volumes by their file names, as many at a time as there are cores.

    Compressing them takes longer than making them, and leaves the interpreter to others meanwhile.
    """
    pool = ThreadPoolExecutor(min(parse_threads(threads), max(len(volumes), 1)))
    try:
        for name in volumes:
            staging.hidden(name)  # names are given here, one after the other
        waiting = {name: pool.submit(stage_image, staging, each, name) for name, each in volumes.items()}
        return {name: future.result() for name, future in waiting.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse_namesakes(target: Path) -> None:
    """A sidecar belongs to one image; it must not be taken away from another."""
    sidecar = sidecar_name(target.name)
    stem = sidecar.removesuffix(".json")
    names = [stem + suffix for suffix, kind in READABLE.items() if kind != "dicom-zip"]
    with writing(target):
        others = [name for name in names if name != target.name and target.with_name(name).is_file()]
    if others:
        raise OutputExistsError(
            str(target),
            wanted="a name that no other image has",
            got=f"{others[0]} beside it, which would be read with the new {sidecar}",
            mend="choose another name",
        )


def _header(volume: Volume, hidden: Path, suffix: str, name: str) -> bytes:
    single = hidden.with_name(hidden.name.removesuffix(".gz"))
    try:
        sitk.WriteImage(_one_voxel(volume.grid), str(single))
        header = single.read_bytes()[:-_VOXEL_BYTES]
    except RuntimeError as error:
        raise OutputError(f"cannot write {name}", got="no header", mend="choose another folder") from error
    finally:
        single.unlink(missing_ok=True)
    size_xyz = volume.grid.size[::-1]
    if suffix.startswith(".nii"):
        return _nifti_header(header, size_xyz, name, _description(volume))
    old, new = (
        (b"DimSize = 1 1 1", b"DimSize = %d %d %d")
        if suffix == ".mha"
        else (b"sizes: 1 1 1", b"sizes: %d %d %d")
    )
    if header.count(old) != 1:
        raise OutputError(f"cannot write {name}", got="an incomplete header", mend="choose another folder")
    return header.replace(old, new % size_xyz)


def _one_voxel(grid: Grid) -> Any:
    image = sitk.Image([1, 1, 1], sitk.sitkFloat32)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def _nifti_header(header: bytes, size_xyz: tuple[int, ...], name: str, description: str) -> bytes:
    if len(header) != _NIFTI_HEADER_BYTES:
        raise OutputError(f"cannot write {name}", got="an incomplete header", mend="choose another folder")
    if max(size_xyz) > _NIFTI_LARGEST:
        raise OutputError(
            f"cannot write {name}",
            wanted=f"at most {_NIFTI_LARGEST} voxels a side",
            got=str(size_xyz),
            mend="choose mha or nrrd",
        )
    whole = bytearray(header)
    struct.pack_into("3h", whole, _NIFTI_DIM, *size_xyz)
    struct.pack_into("80s", whole, _NIFTI_DESCRIP, description.encode("ascii", "replace")[:79])
    stem = sidecar_name(name).removesuffix(".json")
    quantity = stem.rpartition("_")[2]  # `ct`, `BMDmap`, ... when the name follows `names`
    struct.pack_into("16s", whole, _NIFTI_INTENT_NAME, quantity.encode("ascii", "replace")[:15])
    return bytes(whole)


def _description(volume: Volume) -> str:
    nominal = "nominal calibration" * bool((volume.provenance.get("calibration") or {}).get("nominal"))
    unit = "fraction" if volume.unit == "1" else volume.unit
    return " ".join(part for part in (f"qctrun {VERSION}:", unit, volume.material or "", nominal) if part)


def _stream(volume: Volume, header: bytes, path: Path, *, compressed: bool) -> None:
    with path.open("wb") as file:
        if not compressed:
            file.write(header)
            file.write(volume.array.data)
            return
        # No name and no time in the gzip header: equal volumes give equal files.
        with gzip.GzipFile("", "wb", compresslevel=_GZIP_LEVEL, fileobj=file, mtime=0) as packed:
            packed.write(header)
            for plane in volume.array:  # one at a time, so that no second volume is held in memory
                packed.write(plane.data)
