"""Voxels that a text header describes: where they lie, and that they are as many as it says.

The libraries that read MetaImage and NRRD take memory for what a header says, and hand out whatever lies in it
where the voxels are fewer. Long values in a header write past the ends of their buffers. So a header is read here
first, and only one that says plain things once goes on to them.
"""

import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from qctrun.runtime.errors import InputError

DEFLATE_RATIO = 1032
"""No stream of zlib or gzip unpacks to more than this many times its length."""
LINE_LENGTH, NUMBERS_LENGTH = 250, 600
"""Characters of a header line of words, and of one of numbers; the libraries' buffers begin at 256 and 1024."""
CHUNK_BYTES = 2**22
COPY_AGAIN = "copy it again"


def voxel_file(path: Path, name: str) -> Path:
    """The file of voxels that a header names, in or below the header's own folder.

    Raises
    ------
    InputError
        When the name leads anywhere else, or there is no such file.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or not name.isprintable():
        mend = "put the two files side by side"
        raise InputError(f"{path}", wanted="voxels beside their header", got=repr(name), mend=mend)
    data = path.parent / parts
    if not data.is_file():
        raise InputError(f"{path}", wanted="a whole image", got=f"no voxel file {name} beside it")
    return data


def require_voxels(path: Path, data: Path, offset: int, wanted: int, *, packed: bool) -> None:
    """Look whether a file has as many bytes of voxels from an offset on as its header asks for.

    Parameters
    ----------
    path : Path
        The header's file, for messages.
    data : Path
        Where the voxels are.
    offset, wanted : int
        Where they begin in it, and how many bytes they are when unpacked.
    packed : bool
        Whether they are a stream of zlib or gzip; it is unpacked piece by piece, and not kept.

    Raises
    ------
    InputError
        When there are fewer, or the stream is damaged or has more.
    """
    stored = data.stat().st_size - offset
    most = DEFLATE_RATIO * max(0, stored) if packed else stored
    if most < wanted:
        at_most = "at most " * packed
        raise _too_few(path, f"{at_most}{max(0, most)} bytes of voxels where the header asks for {wanted}")
    if not packed:
        return
    try:
        length, ended = _unpacked(data, offset, wanted)
    except zlib.error as error:
        raise _too_few(path, f"voxels that cannot be unpacked ({error})") from error
    if length != wanted or not ended:
        more = "more than " * (length > wanted)
        raise _too_few(
            path, f"{more}{min(length, wanted)} bytes of voxels where the header asks for {wanted}"
        )


def bytes_of(sizes: Sequence[str], item: int) -> int:
    """How many bytes the voxels of a grid take; sizes are words of a header.

    Raises
    ------
    ValueError
        When a size is no whole number from 1 on.
    """
    total = item
    for word in sizes:
        if not re.fullmatch(r"[0-9]{1,12}", word) or int(word) < 1:
            raise ValueError(f"size {' '.join(sizes)!r}")
        total *= int(word)
    return total


def finite(words: str) -> list[float]:
    """The numbers in a line of a header.

    Raises
    ------
    ValueError
        When one of them is none, is not finite, or is written in a way that libraries read in different ways.
    """
    found = []
    for word in words.split():
        if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?", word):
            raise ValueError(f"{word!r} for a number")
        found.append(float(word))
    if not all(math.isfinite(value) and abs(value) < 1e30 for value in found):
        raise ValueError(f"{words!r} for finite numbers")
    return found


def _too_few(path: Path, got: str) -> InputError:
    return InputError(f"{path}", wanted="a whole image", got=got, mend=COPY_AGAIN)


def _unpacked(data: Path, offset: int, wanted: int) -> tuple[int, bool]:
    """How many bytes a stream unpacks to, stopped beyond `wanted`; and whether it has reached its end."""
    stream, length = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32), 0
    with data.open("rb") as file:
        file.seek(offset)
        while length <= wanted and not stream.eof:
            piece = stream.unconsumed_tail or file.read(2**16)
            if not piece:
                break
            length += len(stream.decompress(piece, CHUNK_BYTES))
    return length, stream.eof
