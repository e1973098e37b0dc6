"""Volumes as NIfTI, MHA and NRRD, each with a sidecar; and, by the room `dicom`, as DICOM.

SimpleITK knows how each format states the geometry, but its NIfTI writer neither reports a full disk (the
file is silently cut short) nor lets an intent name through. So SimpleITK writes one voxel at the right place,
its header gets the true size, and the values are streamed behind it here: every refused byte is an error.
"""

import gzip
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from qctrun.runtime.devices import parse_threads
from qctrun.runtime.errors import OutputError, OutputExistsError
from qctrun.runtime.formats import READABLE
from qctrun.runtime.json_files import json_text
from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing.files import Staging, writing
from qctrun.runtime.writing.names import image_suffix, is_dicom_output, sidecar_name
from qctrun.runtime.writing.sidecars import sidecar_of

if TYPE_CHECKING:
    from qctrun.runtime.writing.dicom import Source

_VOXEL_BYTES = 4
_NIFTI_HEADER_BYTES = 352
_NIFTI_DIM = 42  # dim[1..3], three int16
_NIFTI_DESCRIP = 148  # 80 bytes
_NIFTI_INTENT_NAME = 328  # 16 bytes
_NIFTI_LARGEST = 32767
_SIZES = {".mha": b"DimSize = ", ".nrrd": b"sizes: "}
_PROBE_BYTES = 4096
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


def write_dicom(volume: Volume, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a volume that was read from a DICOM scan as DICOM, in the study and frame of reference of that scan.

    Parameters
    ----------
    volume : Volume
        A local map, or density in mg/cm3. Its provenance names the scan (`inputs`), which is read again: patient
        and study stand in nothing but the scan itself.
    path : path
        With the end `.dcm` the file of a Parametric Map (float32, bit for bit), else the folder of a derived CT
        series (16 bits, off by at most a quarter of a mg/cm3). Missing folders are made.
    overwrite : bool
        Whether the file, or the slices in the folder, may be replaced.

    Returns
    -------
    Path
        Where it is.

    Raises
    ------
    InputError
        When the scan is not DICOM or not there any more, or the volume does not fit the kind of object.
    RuntimeMissingError
        When a map is asked for and highdicom is not installed.
    OutputExistsError
        When it is there already and `overwrite` is not set, or the folder holds other files.
    OutputError
        When the disk is full or not writable; then nothing is left behind.
    """
    target = Path(path)
    name = target.name if target.suffix == ".dcm" else f"{target.name}/"
    with Staging(target.parent, [name], overwrite=overwrite) as staging:
        stage_images(staging, {name: volume})
        staging.commit()
    return target


def stage_image(
    staging: Staging, volume: Volume, name: str, *, sidecar: Mapping[str, Any] | None = None
) -> tuple[Path, Path]:
    """Write an image and its sidecar under their hidden names; return both (image, sidecar)."""
    image = _stage_voxels(staging, volume, name)
    text = json_text({**sidecar_of(volume), **(sidecar or {})})
    return image, staging.add_text(sidecar_name(name), text)


def stage_images(
    staging: Staging,
    volumes: Mapping[str, Volume],
    threads: int | None = None,
    source: "Source | None" = None,
) -> dict[str, Path]:
    """Write several volumes of one scan under their hidden names, as many at a time as there are cores.

    Compressing them takes longer than making them, and leaves the interpreter to others meanwhile.

    Parameters
    ----------
    staging : Staging
        Of the run.
    volumes : mapping
        By file name; one volume may stand under several, in several formats. A name that ends in `/` is the
        folder of a DICOM series, one in `.dcm` a map.
    threads : int, optional
        How many at a time.
    source : Source, optional
        The headers of the scan, for DICOM; without it they are read.

    Returns
    -------
    dict of Paths
        Where the images, and the sidecars behind them, lie for now.
    """
    if source is None and any(map(is_dicom_output, volumes)):
        from qctrun.runtime.writing.dicom import source_of

        source = source_of(next(iter(volumes.values())))
    for name in volumes:
        staging.hidden(name)  # names are given here, one after the other
    images = _stage_together(staging, volumes, parse_threads(threads), source)
    said = {sidecar_name(name): each for name, each in volumes.items() if not is_dicom_output(name)}
    return images | {name: staging.add_text(name, json_text(sidecar_of(each))) for name, each in said.items()}


def _stage_together(
    staging: Staging, volumes: Mapping[str, Volume], threads: int, source: "Source | None"
) -> dict[str, Path]:
    if len(volumes) == 1:  # in this thread, which Ctrl-C stops at once
        return {name: _stage_voxels(staging, each, name, source) for name, each in volumes.items()}
    pool = ThreadPoolExecutor(min(threads, max(len(volumes), 1)))
    try:
        jobs = {
            name: pool.submit(_stage_voxels, staging, each, name, source) for name, each in volumes.items()
        }
        return {name: job.result() for name, job in jobs.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _stage_voxels(staging: Staging, volume: Volume, name: str, source: "Source | None" = None) -> Path:
    """Write what is not its sidecar under the hidden name of an output."""
    hidden = staging.hidden(name)
    with writing(staging.path(name)):
        if is_dicom_output(name):
            from qctrun.runtime.writing.dicom import write_map, write_slices

            assert source is not None  # read above
            (write_slices if name.endswith("/") else write_map)(volume, source, hidden)
        else:
            suffix = image_suffix(Path(name))
            header = _header(volume, hidden, suffix, name)
            _stream(volume, header, hidden, compressed=suffix == ".nii.gz")
    return hidden


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
    header = _header_of_one(volume.grid, hidden, suffix, name)
    size_xyz = volume.grid.size[::-1]
    if suffix.startswith(".nii"):
        return _nifti_header(header, size_xyz, name, _description(volume))
    words = _SIZES[suffix]
    return header.replace(words + b"1 1 1", words + b"%d %d %d" % size_xyz)


def _header_of_one(grid: Grid, hidden: Path, suffix: str, name: str) -> bytes:
    """What SimpleITK writes before the values of one voxel at the right place."""
    single, header = hidden.with_name(hidden.name.removesuffix(".gz")), b""
    try:
        with suppress(RuntimeError):
            sitk.WriteImage(_one_voxel(grid), str(single))
            header = single.read_bytes()[:-_VOXEL_BYTES]
        nifti = suffix.startswith(".nii")
        if len(header) != _NIFTI_HEADER_BYTES if nifti else header.count(_SIZES[suffix] + b"1 1 1") != 1:
            single.write_bytes(bytes(_PROBE_BYTES))  # a full disk says so here, which SimpleITK does not
            raise OutputError(
                f"cannot write {name}", got="an incomplete header", mend="choose another folder"
            )
    finally:
        single.unlink(missing_ok=True)
    return header


def _one_voxel(grid: Grid) -> Any:
    image = sitk.Image([1, 1, 1], sitk.sitkFloat32)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def _nifti_header(header: bytes, size_xyz: tuple[int, ...], name: str, description: str) -> bytes:
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
