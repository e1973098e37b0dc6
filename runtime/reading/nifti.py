"""What the NIfTI library keeps quiet about.

It fills what was cut off with zeros, turns NaN into 0, and of two places that contradict each other takes one.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.sources import readable
from qctrun.runtime.reading.voxel_files import DEFLATE_RATIO
from qctrun.runtime.volume import POSITION_TOLERANCE_MM, not_finite

CHUNK_BYTES = 2**22
FLOAT_CODES = {16: "f4", 64: "f8"}
BITS = {
    **dict.fromkeys((2, 256), 8),
    **dict.fromkeys((4, 512), 16),
    128: 24,
    **dict.fromkeys((8, 16, 768, 2304), 32),
    **dict.fromkeys((32, 64, 1024, 1280), 64),
    **dict.fromkeys((1536, 1792), 128),
    2048: 256,
}
"""Bits of a voxel by its type; those of colours and complex numbers are for a refusal that says what they are."""
MAGIC = {348: (b"n+1\0", 344), 540: (b"n+2\0\r\n\x1a\n", 4)}
"""By the header's length: the mark of a single file and where it stands. Without it ITK sees another format."""
LARGEST_OFFSET = 2**26
SMALLEST_SLOPE = 1e-12
"""ITK takes a smaller scl_slope for none."""
MM_OF_UNIT = {1: 1000.0, 3: 0.001}
"""What a length in metres or micrometres is in mm; all other codes mean mm."""

FARTHEST_MM = 1e6
LAST_CODE = 5
"""Of what qform and sform mean; programs differ in what they make of another."""
LONGEST_QUATERNION = 1 + 1e-3
"""Three parts of a quaternion of length 1, rounded."""
TURN_TOLERANCE = 1e-3
"""The two directions may differ by this: a half turn as a float32 quaternion is no more exact than 7e-4."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the voxels of a NIfTI file lie; `shape` is (x, y, z, ...), `floats` their type if they are such."""

    shape: tuple[int, ...]
    offset: int
    bytes: int
    floats: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """What a header says of where the voxels lie: (x, y, z), RAS, mm; an affine is None where its code is 0."""

    spacing_mm: Doubles
    qform: Doubles | None
    sform: Doubles | None


def check_nifti(path: Path) -> tuple[str, ...]:
    """Read a NIfTI file through once, piece by piece.

    Returns
    -------
    tuple of str
        What a reader of its numbers should be told.

    Raises
    ------
    InputError
        When it is shorter than its header says, cannot be unpacked, holds NaN or infinity, or says of
        spacing or place two different things or nothing.
    """
    packed = path.name.lower().endswith(".gz")
    try:
        with readable(path), gzip.open(path) if packed else path.open("rb") as file:
            header = file.read(540)
            layout = _layout(header)
            if packed and path.stat().st_size * DEFLATE_RATIO < layout.bytes:
                raise ValueError(_too_few(path.stat().st_size * DEFLATE_RATIO, layout))
            file.seek(layout.offset)
            length = _check_voxels(file, layout, path)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise InputError(
            f"{path}", wanted="a whole NIfTI file", got=str(error), mend="copy it again"
        ) from error
    if length < layout.bytes:
        got = _too_few(length, layout)
        raise InputError(f"{path}", wanted="a whole NIfTI file", got=got, mend="copy it again")
    return _check_place(_checked_place(header, path), path)


def _too_few(most: int, layout: Layout) -> str:
    return f"no more than {most} bytes of voxels where the header asks for {layout.bytes}"


def check_place(path: Path) -> tuple[str, ...]:
    """Look only at what the header says of the place; returns and raises as `check_nifti` does of that."""
    return _check_place(_checked_place(_header(path), path), path)


def check_numbers(path: Path) -> tuple[str, ...]:
    """Look only whether the header is one that its library can be given; there is nothing to tell then.

    Raises
    ------
    InputError
        When it is none, or places the voxels by what is no number.
    """
    _known_places(_checked_place(_header(path), path), path)
    return ()


def _header(path: Path) -> bytes:
    try:
        with (
            readable(path),
            gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file,
        ):
            header = file.read(540)
        _layout(header)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise InputError(f"{path}", wanted="a whole NIfTI file", got=str(error)) from error
    return header


def _check_place(place: Place, path: Path) -> tuple[str, ...]:
    """Refuse two places that differ; the library would take one of them without a word."""
    known = _known_places(place, path)
    if not known:
        spacing = _in_words(place.spacing_mm)
        return (
            f"{path.name} states no orientation and no position (qform and sform codes are 0): its voxels of "
            f"{spacing} mm (x, y, z) are taken as lying along the patient's axes",
        )
    by_name = {"pixdim": place.spacing_mm, **{name: _spacing(affine) for name, affine in known.items()}}
    differ = any(np.abs(s - place.spacing_mm).max() > POSITION_TOLERANCE_MM for s in by_name.values())
    if not differ and len(known) == 2:
        differ = _elsewhere(known["qform"], known["sform"])
    if differ:
        places = {name: f", origin {_in_words(affine[:, 3])}" for name, affine in known.items()}
        got = "; ".join(f"{_in_words(mm)} mm by {name}{places.get(name, '')}" for name, mm in by_name.items())
        mend = "resolve it in the program that wrote the file: make qform and sform the same, or one code 0"
        raise InputError(f"{path}", wanted="one spacing, orientation and position", got=got, mend=mend)
    return ()


def _checked_place(header: bytes, path: Path) -> Place:
    try:
        return _place(header)
    except ValueError as error:
        raise InputError(f"{path}", wanted="a whole NIfTI file", got=str(error)) from error


def _known_places(place: Place, path: Path) -> dict[str, Doubles]:
    """The affines that a header states, by name; numbers that are none, or name no place on earth, are refused."""
    mend = "write the true one into its header"
    if not ((place.spacing_mm > 0) & (place.spacing_mm < FARTHEST_MM)).all():
        raise InputError(
            f"{path}", wanted="a voxel spacing", got=f"pixdim {_in_words(place.spacing_mm)}", mend=mend
        )
    stated = {"qform": place.qform, "sform": place.sform}
    known = {name: affine for name, affine in stated.items() if affine is not None}
    for name, affine in known.items():
        if not np.abs(affine).max() < FARTHEST_MM:  # ITK does not come back from infinity
            got = f"{name} {_in_words(affine.ravel())}"
            raise InputError(f"{path}", wanted="a place in mm", got=got, mend=mend)
    return known


def _elsewhere(one: Doubles, other: Doubles) -> bool:
    turned = np.abs(one[:, :3] / _spacing(one) - other[:, :3] / _spacing(other)).max() > TURN_TOLERANCE
    return bool(turned or np.abs(one[:, 3] - other[:, 3]).max() > POSITION_TOLERANCE_MM)


def _spacing(affine: Doubles) -> Doubles:
    """Lengths of the columns; the smallest number instead of 0, by which nothing can be divided."""
    lengths: Doubles = np.linalg.norm(affine[:, :3], axis=0)
    return np.maximum(lengths, np.finfo(float).tiny)


def _in_words(values: Doubles) -> str:
    return " x ".join(f"{value:.5g}" for value in values)


def _place(header: bytes) -> Place:
    """Read the lengths, the quaternion and the matrix of a header whose layout is known to be sound."""
    order = "<" if struct.unpack_from("<i", header)[0] in (348, 540) else ">"
    if struct.unpack_from(f"{order}i", header)[0] == 348:
        pixdim = struct.unpack_from(f"{order}8f", header, 76)
        unit = header[123] & 7
        codes = struct.unpack_from(f"{order}2h", header, 252)
        numbers = struct.unpack_from(f"{order}18f", header, 256)
    else:
        pixdim = struct.unpack_from(f"{order}8d", header, 104)
        unit = struct.unpack_from(f"{order}i", header, 500)[0] & 7
        codes = struct.unpack_from(f"{order}2i", header, 344)
        numbers = struct.unpack_from(f"{order}18d", header, 352)
    scale = MM_OF_UNIT.get(unit, 1.0)
    spacing = np.asarray(pixdim[1:4]) * scale
    turn = _turn(*numbers[:3]) * spacing * (1, 1, -1 if pixdim[0] < 0 else 1)
    qform = np.column_stack([turn, np.asarray(numbers[3:6]) * scale])
    sform = np.reshape(numbers[6:], (3, 4)) * scale
    if not all(0 <= code <= LAST_CODE for code in codes) or math.hypot(*numbers[:3]) > LONGEST_QUATERNION:
        quaternion = " ".join(f"{number:g}" for number in numbers[:3])
        raise ValueError(f"a header with qform and sform codes {codes} and the quaternion {quaternion}")
    return Place(spacing, qform if codes[0] > 0 else None, sform if codes[1] > 0 else None)


def _turn(b: float, c: float, d: float) -> Doubles:
    """The rotation of the quaternion (a, b, c, d) of length 1, with a not below 0."""
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    a, b, c, d = np.array([a, b, c, d]) / math.sqrt(a * a + b * b + c * c + d * d)
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _layout(header: bytes) -> Layout:
    """Read a NIfTI-1 or NIfTI-2 header of either byte order."""
    if len(header) < 348:
        raise ValueError(f"{len(header)} bytes, fewer than a header has")
    for order in "<>":
        size = struct.unpack_from(f"{order}i", header)[0]
        if size == 348:
            dim = struct.unpack_from(f"{order}8h", header, 40)
            code, bits = struct.unpack_from(f"{order}2h", header, 70)
            offset, slope, intercept = struct.unpack_from(f"{order}3f", header, 108)
        elif size == 540 and len(header) == 540:
            code, bits = struct.unpack_from(f"{order}2h", header, 12)
            dim = struct.unpack_from(f"{order}8q", header, 16)
            offset, slope, intercept = struct.unpack_from(f"{order}q2d", header, 168)
        else:
            continue
        mark, at = MAGIC[size]
        if header[at : at + len(mark)] != mark:
            raise ValueError(f"a header with the mark {header[at : at + len(mark)]!r}")
        if not 1 <= dim[0] <= 7 or min(dim[1 : 1 + dim[0]]) < 1:
            raise ValueError(f"a header with dim {' '.join(map(str, dim))}")
        if BITS.get(code) != bits:
            raise ValueError(f"a header with {bits} bits for a voxel of type {code}")
        _check_scale(offset, slope, intercept, size)
        shape = tuple(int(length) for length in dim[1 : 1 + dim[0]])
        floats = FLOAT_CODES.get(code)
        return Layout(shape, int(offset), math.prod(shape) * bits // 8, floats and order + floats)
    raise ValueError("no NIfTI header")


def _check_scale(offset: float, slope: float, intercept: float, size: int) -> None:
    """Refuse voxels that begin inside of the header or far away, and scales that no two programs apply alike."""
    if not size + 4 <= offset <= LARGEST_OFFSET:
        raise ValueError(f"a header with voxels from byte {offset:g} on")
    scaled = math.isfinite(slope) and slope != 0
    if scaled and (abs(slope) < SMALLEST_SLOPE or not math.isfinite(intercept)):
        raise ValueError(f"a header with scl_slope {slope:g} and scl_inter {intercept:g}")


def _check_voxels(file: BufferedIOBase, layout: Layout, path: Path) -> int:
    """Look at all voxels for what is not finite; return how many bytes there were, none beyond the last one."""
    length, bad, first = 0, 0, -1
    while voxels := file.read(min(CHUNK_BYTES, layout.bytes - length)):
        if layout.floats:
            item = np.dtype(layout.floats).itemsize
            strange = ~np.isfinite(np.frombuffer(voxels, layout.floats, count=len(voxels) // item))
            if strange.any():
                first = length // item + int(strange.argmax()) if first < 0 else first
                bad += int(strange.sum())
        length += len(voxels)
    if bad:
        place = tuple(int(i) for i in np.unravel_index(first, layout.shape[::-1]))
        raise not_finite(str(path), bad, place)
    return length
