"""Packed masks of AIM files into voxels.

They are unpacked here, as Scanco's own aimpack does: `itk-ioscanco` 1.0.1 takes lengths of runs for their values,
rows of packed bits from wrong places, does not know that runs leave out the border, and hands out memory that nobody
filled where they end too early.
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qctrun.runtime.reading.scanco_header import ScancoHeader, damaged

MaskArray = npt.NDArray[np.int8]
_LONGEST = 254
"""Voxels of a run of two values; 255 stands for as many without a change of value behind them."""


def unpacked(header: ScancoHeader, path: Path) -> MaskArray:
    """The voxels of a packed mask.

    Returns
    -------
    int8 array (z, y, x)
        Of the size of `header.grid`, without a border.

    Raises
    ------
    InputError
        When the runs are longer or shorter than the mask.
    """
    with path.open("rb") as file:
        file.seek(header.offset)
        stored = np.fromfile(file, np.uint8, header.length)
    if header.values == "bits":
        return header.within(_from_bits(stored, header.dimensions, path))
    count = 8 if header.kind == "AIM 030" else 4
    if len(stored) < count + 2 or int.from_bytes(stored[:count].tobytes(), "little") != len(stored):
        raise damaged(path, "run lengths that say another number of bytes than the header")
    values, lengths = _of_two(stored[count:]) if "two" in header.values else _of_any(stored[count:])
    size = header.grid.size
    wanted = math.prod(size)
    if int(lengths.sum()) != wanted:
        raise damaged(path, f"runs of {int(lengths.sum())} voxels where the header asks for {wanted}")
    return np.repeat(values, lengths).reshape(size)


def _of_any(stored: npt.NDArray[np.uint8]) -> tuple[MaskArray, npt.NDArray[np.int64]]:
    """Pairs of a value and its length."""
    pairs = stored[: len(stored) // 2 * 2].reshape(-1, 2)
    return pairs[:, 0].view(np.int8), pairs[:, 1].astype(np.int64)


def _of_two(stored: npt.NDArray[np.uint8]) -> tuple[MaskArray, npt.NDArray[np.int64]]:
    """Two values, then lengths that take turns between them."""
    both, lengths = stored[:2].view(np.int8), stored[2:].astype(np.int64)
    changes = lengths != _LONGEST + 1
    turn = (np.cumsum(changes) - changes) % 2
    return both[turn], np.minimum(lengths, _LONGEST)


def _from_bits(stored: npt.NDArray[np.uint8], size: tuple[int, int, int], path: Path) -> MaskArray:
    """A byte holds 2 x 2 x 2 voxels, x first; the last byte is the value of those that are set."""
    half = [(voxels + 1) // 2 for voxels in size]
    wanted = half[0] * half[1] * half[2] + 1
    if len(stored) < wanted:
        raise damaged(path, f"{len(stored)} bytes of voxels where the header asks for {wanted}")
    bits = np.unpackbits(stored[: wanted - 1], bitorder="little").reshape(*half, 2, 2, 2)
    whole = bits.transpose(0, 3, 1, 4, 2, 5).reshape([2 * count for count in half])
    value = stored[wanted - 1 : wanted].view(np.int8)[0] or np.int8(127)
    inside = whole[tuple(slice(voxels) for voxels in size)]
    return np.where(inside, value, np.int8(0)).astype(np.int8)
