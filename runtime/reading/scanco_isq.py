"""Headers of ISQ files: blocks of 512 bytes, little-endian whole numbers, the doubles of a VAX."""

import math
import struct
from pathlib import Path

from qctrun.runtime.reading.scanco_header import (
    MAX_HEADER_BYTES,
    DensityLine,
    ScancoHeader,
    checked_line,
    checked_size,
    checked_spacing,
    damaged,
    require_length,
)

MAGIC = b"CTDATA-HEADER_V1"
BLOCK = 512
_EXTENT_TOLERANCE_UM = 1.1
"""The distance of slices is stored in whole micrometres, cut off or rounded."""
_SECTION = b"Calibration     "
_MULTI = b"MultiHeader     "
_RADIOGRAPH = 9


def read_isq_header(path: Path) -> ScancoHeader:
    """Read the header of an ISQ.

    Raises
    ------
    InputError
        When it is damaged, contradicts itself or asks for more voxels than there are.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(BLOCK)
        if len(first) < BLOCK or not first.startswith(MAGIC):
            raise damaged(path, "a file that does not begin as one")
        header_bytes = (_whole(first, 508) + 1) * BLOCK
        if not BLOCK <= header_bytes <= min(length, MAX_HEADER_BYTES):
            raise damaged(path, f"a header of {header_bytes} bytes in a file of {length}")
        header = first + file.read(header_bytes - BLOCK)
    pixels, extent_um = struct.unpack_from("<3i", header, 44), struct.unpack_from("<3i", header, 56)
    if _whole(header, 16) == _RADIOGRAPH or extent_um[2] == 0:
        raise damaged(path, "a scout view (RAD), which is no volume", "give the scan itself")
    size = checked_size(pixels, path)
    apart_um = [um / count for um, count in zip(extent_um, pixels, strict=True)]
    spacing = checked_spacing([um / 1000 for um in apart_um], path)
    _check_increment(_whole(header, 72), apart_um[2], path)
    require_length(length - header_bytes, 2 * math.prod(size), path)
    energy = _whole(header, 168) / 1000
    return ScancoHeader(
        kind="ISQ",
        values="short",
        dimensions=size,
        spacing_mm=spacing,
        position=(0, 0, 0),
        border=(0, 0, 0),
        offset=header_bytes,
        length=length - header_bytes,
        density=_density(header, path),
        kvp=energy if 0 < energy < 1e4 else None,
    )


def vax_double(data: bytes, at: int) -> float:
    """A G-float: the words of an IEEE double in the order of a VAX, times 4."""
    swapped = b"".join(struct.pack(">H", word) for word in struct.unpack_from("<4H", data, at))
    return float(struct.unpack(">d", swapped)[0]) / 4


def _check_increment(increment_um: int, apart_um: float, path: Path) -> None:
    """Slices that are further apart than their extent says would make bone of another length."""
    if increment_um and abs(increment_um - apart_um) > _EXTENT_TOLERANCE_UM:
        raise damaged(
            path, f"slices {increment_um} um apart by their increment, {apart_um:g} by their extent"
        )


def _density(header: bytes, path: Path) -> DensityLine | str:
    """The line of the section `Calibration` behind the first block, which a directory of four entries names."""
    directory, block = BLOCK, 2
    if header[directory + 8 : directory + 24] == _MULTI:
        directory, block = 2 * BLOCK, 3
    for entry in range(directory, directory + 4 * 128, 128):
        if entry + 28 > len(header):
            break
        blocks = _whole(header, entry + 24)
        if blocks < 0 or (block + blocks) * BLOCK > len(header):
            raise damaged(path, f"a section of {blocks} blocks in a header of {len(header) // BLOCK}")
        if header[entry + 8 : entry + 24] == _SECTION:
            if blocks < 2:
                raise damaged(path, f"a calibration of {blocks} blocks where 2 are needed")
            return _line(header, block * BLOCK, path)
        block += blocks
    return "no calibration section"


def _line(header: bytes, at: int, path: Path) -> DensityLine | str:
    return checked_line(
        float(_whole(header, 88)),
        vax_double(header, at + 664),
        vax_double(header, at + 672),
        _text(header, at + 648, 16),
        vax_double(header, at + 688),
        _text(header, at + 28, 64),
        path,
    )


def _whole(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<i", data, at)[0])


def _text(data: bytes, at: int, length: int) -> str:
    return data[at : at + length].split(b"\0")[0].decode("latin-1").strip()
