"""Label maps as NIfTI files of whole numbers, on the grid that they came on."""

import gzip
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from qctrun.runtime.errors import OutputError
from qctrun.runtime.json_files import json_text
from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Grid
from qctrun.runtime.writing.files import Staging, writing
from qctrun.runtime.writing.names import sidecar_name

_HEADER_BYTES = 352
_DIM = 42  # dim[1..3], three int16
_INTENT_CODE = 68
_INTENT_LABEL = 1002
_DESCRIP = 148  # 80 bytes
_LARGEST = 32767
_PROBE_BYTES = 4096
_GZIP_LEVEL = 6
_KINDS = (np.uint8, np.int16, np.int32)


def stage_labels(
    staging: Staging,
    labels: npt.NDArray[np.int32],
    grid: Grid,
    name: str,
    sidecar: Mapping[str, Any],
) -> tuple[Path, Path]:
    """Write a label map and its sidecar under their hidden names; return both (image, sidecar).

    Parameters
    ----------
    staging : Staging
        Knows both names.
    labels : int32 array (z, y, x)
        0 and above; stored in the smallest of uint8, int16 and int32 that holds them.
    grid : Grid
    name : str
        Ends in `.nii.gz`.
    sidecar : mapping of JSON values

    Raises
    ------
    OutputError
        When the disk refuses, or the map is too large for the format.
    """
    hidden = staging.hidden(name)
    with writing(staging.path(name)):
        stored = labels.astype(
            next(kind for kind in _KINDS if labels.max() <= np.iinfo(kind).max), copy=False
        )
        header = _header(stored, grid, hidden, name)
        # No name and no time in the gzip header: equal maps give equal files. SimpleITK would not report a
        # full disk.
        with hidden.open("wb") as file, gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
            packed.write(header)
            for plane in np.ascontiguousarray(stored):
                packed.write(plane.data)
    return hidden, staging.add_text(sidecar_name(name), json_text(sidecar))


def _header(labels: npt.NDArray[Any], grid: Grid, hidden: Path, name: str) -> bytes:
    """What SimpleITK writes for one voxel at the right place, with the true size."""
    if max(labels.shape) > _LARGEST:
        raise OutputError(
            f"cannot write {name}", wanted=f"at most {_LARGEST} voxels a side", got=str(labels.shape)
        )
    one = sitk.GetImageFromArray(np.zeros((1, 1, 1), labels.dtype))
    one.SetSpacing(grid.spacing[::-1])
    one.SetOrigin(grid.origin)
    one.SetDirection(grid.direction)
    single = hidden.with_name(hidden.name.removesuffix(".gz"))
    header = b""
    try:
        with suppress(RuntimeError):
            sitk.WriteImage(one, str(single))
            header = single.read_bytes()[:_HEADER_BYTES]
        if len(header) != _HEADER_BYTES:
            single.write_bytes(bytes(_PROBE_BYTES))  # a full disk says so here, which SimpleITK does not
            raise OutputError(f"cannot write {name}", got="no header", mend="choose another folder")
    finally:
        single.unlink(missing_ok=True)
    whole = bytearray(header)
    struct.pack_into("3h", whole, _DIM, *labels.shape[::-1])
    struct.pack_into("h", whole, _INTENT_CODE, _INTENT_LABEL)
    struct.pack_into("80s", whole, _DESCRIP, f"qctrun {VERSION}: labels".encode())
    return bytes(whole)
