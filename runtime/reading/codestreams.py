"""Packed DICOM before a decoder sees it: what it claims to hold is what its tags say, and no bomb."""

import struct
import zlib
from typing import BinaryIO

from pydicom.encaps import generate_frames
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

FREE_BYTES, MAX_RATIO = 2**28, 100
"""A deflated object may unpack to this many bytes, or to so many times its length."""
MAX_TILES = 4096
"""Of a JPEG 2000 image; a decoder takes memory for each before it sees any."""

_J2K = b"\xff\x4f\xff\x51"
_NO_SIZE = {0xC4, 0xC8, 0xCC}
"""JPEG markers among those of frame headers (0xC0 to 0xCF) that are none."""
_JPEG_LS = 0xF7
_META_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


def require_size(encapsulated: bytes, syntax: UID, rows: int, columns: int) -> None:
    """Refuse one packed frame whose own header says another size than the tags; decoders believe that header.

    Raises
    ------
    ValueError
        When it does, or when there is no header of a picture of one channel.
    """
    if syntax == RLELossless:
        return
    frame = next(generate_frames(encapsulated, number_of_frames=1))
    at = frame.find(_J2K, 0, 2**16)
    found = _j2k_size(frame[at:]) if at >= 0 else _jpeg_size(frame)
    if found != (rows, columns):
        raise ValueError(f"packed pixels of shape {found}, not {(rows, columns)}")


def require_inflatable(file: BinaryIO) -> None:
    """Look at a DICOM file from its begin; a deflated one is unpacked piece by piece, and not kept.

    Raises
    ------
    ValueError
        When it unpacks to more than the limits above.
    """
    head = file.read(1024)
    file.seek(0)
    if str(DeflatedExplicitVRLittleEndian).encode() not in head:
        return
    if head[132:140] != _META_LENGTH:
        raise ValueError("a deflated object that does not say where it begins")
    start = 144 + int(struct.unpack_from("<I", head, 140)[0])
    stored = file.seek(0, 2)
    most, length = max(FREE_BYTES, MAX_RATIO * stored), 0
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    file.seek(start)
    while length <= most and (piece := stream.unconsumed_tail or file.read(2**16)):
        length += len(stream.decompress(piece, 2**22))
    file.seek(0)
    if length > most:
        raise ValueError(f"{stored} bytes that unpack to more than {most}")


def _j2k_size(stream: bytes) -> tuple[int, int]:
    """Rows and columns of a JPEG 2000 codestream."""
    if len(stream) < 42:
        raise ValueError("a cut JPEG 2000 header")
    x, y, x0, y0, tile_x, tile_y, _, _, channels = struct.unpack_from(">8IH", stream, 8)
    if channels != 1 or not tile_x or not tile_y or (-(-x // tile_x)) * (-(-y // tile_y)) > MAX_TILES:
        raise ValueError(f"a JPEG 2000 image of {channels} channels in tiles of {tile_x} x {tile_y}")
    return y - y0, x - x0


def _jpeg_size(stream: bytes) -> tuple[int, int]:
    """Rows and columns of a JPEG or JPEG-LS stream: walk its segments to the frame header."""
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 10 <= len(stream):
        if stream[at] != 0xFF:
            break
        marker = stream[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif (0xC0 <= marker <= 0xCF and marker not in _NO_SIZE) or marker == _JPEG_LS:
            rows, columns, channels = struct.unpack_from(">HHB", stream, at + 5)
            if channels != 1:
                raise ValueError(f"a JPEG image of {channels} channels")
            return rows, columns
        else:
            at += 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    raise ValueError("packed pixels without a picture's header")
