"""What the NIfTI library keeps quiet about: it fills what was cut off with zeros, and turns NaN into 0."""

import gzip
import struct
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from qctrun.runtime.errors import InputError

CHUNK_BYTES = 2**22
FLOAT_CODES = {16: "f4", 64: "f8"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the voxels of a NIfTI file lie; `shape` is (x, y, z, ...), `floats` their type if they are such."""

    shape: tuple[int, ...]
    offset: int
    bytes: int
    floats: str | None


def check_nifti(path: Path) -> None:
    """Read a NIfTI file through once, piece by piece.

    Raises
    ------
    InputError
        When it is shorter than its header says, cannot be unpacked, or holds NaN or infinity.
    """
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            layout = _layout(file.read(540))
            file.seek(layout.offset)
            length = _check_voxels(file, layout, path)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise InputError(
            f"{path}", wanted="a whole NIfTI file", got=str(error), mend="copy it again"
        ) from error
    if length < layout.bytes:
        got = f"{length} bytes of voxels where the header asks for {layout.bytes}"
        raise InputError(f"{path}", wanted="a whole NIfTI file", got=got, mend="copy it again")


def _layout(header: bytes) -> Layout:
    """Read a NIfTI-1 or NIfTI-2 header of either byte order."""
    if len(header) < 348:
        raise ValueError(f"{len(header)} bytes, fewer than a header has")
    for order in "<>":
        size = struct.unpack_from(f"{order}i", header)[0]
        if size == 348:
            dim = struct.unpack_from(f"{order}8h", header, 40)
            code, bits = struct.unpack_from(f"{order}2h", header, 70)
            offset = struct.unpack_from(f"{order}f", header, 108)[0]
        elif size == 540:
            code, bits = struct.unpack_from(f"{order}2h", header, 12)
            dim = struct.unpack_from(f"{order}8q", header, 16)
            offset = struct.unpack_from(f"{order}q", header, 168)[0]
        else:
            continue
        shape = tuple(int(length) for length in dim[1 : 1 + max(0, min(int(dim[0]), 7))])
        voxels = 1
        for length in shape:
            voxels *= max(length, 0)
        floats = FLOAT_CODES.get(code)
        return Layout(shape, int(offset), voxels * bits // 8, floats and order + floats)
    raise ValueError("no NIfTI header")


def _check_voxels(file: BufferedIOBase, layout: Layout, path: Path) -> int:
    """Look at all voxels for what is not finite; return how many bytes there were."""
    length, bad, first = 0, 0, -1
    while chunk := file.read(CHUNK_BYTES):
        voxels = chunk[: max(0, layout.bytes - length)]
        if layout.floats:
            item = np.dtype(layout.floats).itemsize
            strange = ~np.isfinite(np.frombuffer(voxels, layout.floats, count=len(voxels) // item))
            if strange.any():
                first = length // item + int(strange.argmax()) if first < 0 else first
                bad += int(strange.sum())
        length += len(chunk)
    if bad:
        place = tuple(int(i) for i in np.unravel_index(first, layout.shape[::-1]))
        got = f"{bad} voxels of NaN or infinity, the first at (z, y, x) = {place}"
        mend = "replace them before, for example by air (-1000 HU)"
        raise InputError(f"{path}", wanted="finite numbers", got=got, mend=mend)
    return length
