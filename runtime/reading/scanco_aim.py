"""Headers of AIM files, versions 020 and 030: lengths of blocks, a structure, and a log in words."""

import math
import re
import struct
from pathlib import Path

from qctrun.runtime.errors import InputError
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

MAGIC_030 = b"AIMDATA_V030   \0"
TYPES = {
    0x00010001: "char",
    0x00160001: "unsigned char",
    0x000D0001: "unsigned char",
    0x00020002: "short",
    0x00170002: "unsigned short",
    0x001A0004: "float",
    0x00080002: "char in run lengths",
    0x00150001: "char of two values in run lengths",
    0x00060001: "bits",
}
"""How voxels are stored; other types are refused."""
BYTES = {"char": 1, "unsigned char": 1, "short": 2, "unsigned short": 2, "float": 4}
"""Of a voxel that is not packed."""

_LENGTHS = {"020": ("<5i", 20, 140), "030": ("<5q", 40, 224)}
"""Layout of the block lengths, how long they are, and how long the structure is."""
_AGAIN = "write it again with IPL, or give it as NIfTI with a sidecar"
# What the library copies into buffers of these lengths, its closing zero counted, and what it takes for numbers.
_TEXTS = {
    "Time": 32,
    "Original Creation-Date": 32,
    "Patient Name": 42,
    "Calibration Data": 66,
    "Density: unit": 18,
}
_WHOLE = {
    *("Index Patient", "Index Measurement", "Site", "Scanner ID", "Scanner type", "No. samples"),
    *("No. projections per 180", "Reconstruction-Alg.", "Mu_Scaling", "Calib. default unit type"),
}
_REAL = {
    *("Position Slice 1 [um]", "Scan Distance [um]", "Integration time [us]", "Reference line [um]"),
    *("Energy [V]", "Intensity [uA]", "Minimum data value", "Maximum data value"),
    *("Density: slope", "Density: intercept", "HU: mu water"),
}
_THREE = {"Orig-ISQ-Dim-p", "Orig-ISQ-Dim-um"}
_UNITS, _FACTOR = "Parameter units", "Scaled by factor"
"""What voxels are, and how many stored numbers make one of it; the library does not look at these."""
_OF_DENSITY = ("Mu_Scaling", "Density: slope", "Density: intercept", "Density: unit")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,2}(?!\d))?")


def read_aim_header(path: Path) -> ScancoHeader:
    """Read the header of an AIM.

    Raises
    ------
    InputError
        When it is damaged, contradicts itself, asks for more voxels than there are, or stores them in a way
        that is not read here.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        version = "030" if start == MAGIC_030 else "020"
        layout, pre_bytes, struct_bytes = _LENGTHS[version]
        begin = 16 if version == "030" else 0
        file.seek(begin)
        pre = file.read(pre_bytes)
        if len(pre) < pre_bytes or struct.unpack(layout, pre)[:2] != (pre_bytes, struct_bytes):
            raise damaged(path, "a file that does not begin as one of version 020 or 030")
        log_bytes, data_bytes = struct.unpack(layout, pre)[2:4]
        offset = begin + pre_bytes + struct_bytes + log_bytes
        if not 0 <= log_bytes <= MAX_HEADER_BYTES or not 0 <= data_bytes <= length - offset:
            got = f"a log of {log_bytes} and voxels of {data_bytes} bytes in a file of {length}"
            raise damaged(path, got)
        block, log = file.read(struct_bytes), file.read(log_bytes)
    return _header(version, block, _said(log, path), offset, data_bytes, path)


def _header(
    version: str, block: bytes, said: dict[str, str], offset: int, data_bytes: int, path: Path
) -> ScancoHeader:
    kind, position, dimensions, border, element_mm = _structure(version, block)
    if kind not in TYPES:
        raise damaged(path, f"voxels of type 0x{kind:08x}", "write it with IPL as short, or a mask as char")
    size, values = checked_size(dimensions, path), TYPES[kind]
    spacing = checked_spacing(element_mm, path)
    if values in BYTES:
        require_length(data_bytes, BYTES[values] * math.prod(size), path)
    if not all(0 <= 2 * edge < voxels for edge, voxels in zip(border[::-1], size, strict=True)):
        raise damaged(path, f"an offset of {border} voxels in {dimensions}")
    if not all(abs(voxels) < 2**31 for voxels in position):
        raise damaged(path, f"a position of {position} voxels")
    energy = _number(said, "Energy [V]")
    return ScancoHeader(
        kind=f"AIM {version}",
        values=values,
        dimensions=size,
        spacing_mm=spacing,
        position=(position[2], position[1], position[0]),
        border=(border[2], border[1], border[0]),
        offset=offset,
        length=data_bytes,
        density="a mask" if "char" in values or "bits" in values else _density(said, path),
        kvp=energy / 1000 if energy is not None and 0 < energy < 1e7 else None,
        notes=_resampled(said, element_mm),
    )


def _structure(
    version: str, block: bytes
) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], list[float]]:
    """Type of the voxels, and position, dimensions, offset and voxel size (mm) along (x, y, z)."""
    if version == "030":
        places = [struct.unpack_from("<3q", block, at) for at in (16, 40, 64)]
        element = [nanometres / 1e6 for nanometres in struct.unpack_from("<3q", block, 184)]
        return struct.unpack_from("<I", block, 12)[0], places[0], places[1], places[2], element
    places = [struct.unpack_from("<3i", block, at) for at in (24, 36, 48)]
    element = [_vax_float(block, at) for at in (108, 112, 116)]
    return struct.unpack_from("<I", block, 20)[0], places[0], places[1], places[2], element


def _vax_float(data: bytes, at: int) -> float:
    """An F-float: the words of an IEEE single in the order of a VAX, times 4; as short as its precision allows."""
    swapped = b"".join(struct.pack(">H", word) for word in struct.unpack_from("<2H", data, at))
    return float(f"{struct.unpack('>f', swapped)[0] / 4:.7g}")


def _said(log: bytes, path: Path) -> dict[str, str]:
    """The values of the keys that matter here or to the library, in the way in which the library takes lines."""
    said: dict[str, str] = {}
    lines = log.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.startswith(b"!") or (number == len(lines) and not line):
            continue
        key, gap, value = (part.decode("latin-1") for part in line.partition(b"  "))
        if not line:
            raise damaged(path, f"a log whose line {number} is empty, where itk-ioscanco stops", _AGAIN)
        if key in (_UNITS, _FACTOR):
            said[key] = value.strip()
        if key not in {*_TEXTS, *_WHOLE, *_REAL, *_THREE}:
            continue
        value = value.strip(" ")
        if gap and not value:
            continue
        if number == len(lines):
            raise damaged(path, f"a log that ends within the line {key!r}")
        _check_value(key, value, path)
        if key in _OF_DENSITY and said.get(key, value) != value:
            raise damaged(path, f"a log with {said[key]!r} and {value!r} for {key}", _AGAIN)
        said[key] = value
    return said


def _check_value(key: str, value: str, path: Path) -> None:
    """Refuse what the library would write past a buffer, or stop at; no text of a header is repeated to the user."""
    if key in _TEXTS and len(value) >= _TEXTS[key]:
        got = f"a log with {len(value)} characters for {key}, where Scanco has at most {_TEXTS[key] - 1}"
        raise damaged(path, got, _AGAIN)
    count = 3 if key in _THREE else 0 if key in _TEXTS else 1
    words = value.split()[:count]
    if len(words) < count or not all(_is_number(word, whole=key not in _REAL) for word in words):
        raise damaged(path, f"a log without a number for {key}", _AGAIN)


def _is_number(word: str, *, whole: bool) -> bool:
    """Whether a word is a number that C reads to the same value; 2 (Density) begins with one."""
    found = _NUMBER.fullmatch(word)
    return bool(found) and math.isfinite(float(word)) and (not whole or abs(float(word)) < 2**31)


def _number(said: dict[str, str], key: str) -> float | None:
    return float(said[key].split()[0]) if said.get(key) else None


def _density(said: dict[str, str], path: Path) -> DensityLine | str:
    scaling = _number(said, "Mu_Scaling")
    if scaling is None:
        return "no Mu_Scaling in its log"
    if (unit := said.get(_UNITS, "").strip("[] ")) not in ("", "1/cm"):
        mend = "give the scan itself, or its density as NIfTI with a sidecar"
        raise InputError(
            f"{path}", wanted="voxels of attenuation, 1/cm", got=f"{unit!r} by its log", mend=mend
        )
    factor = said.get(_FACTOR, "")
    if _is_number(factor, whole=False) and float(factor) != scaling:
        got = f"{factor} by the last step in its log and {scaling:g} by its calibration"
        raise InputError(f"{path}", wanted="one scaling from stored numbers to 1/cm", got=got, mend=_AGAIN)
    return checked_line(
        scaling,
        _number(said, "Density: slope"),
        _number(said, "Density: intercept"),
        said.get("Density: unit", ""),
        _number(said, "HU: mu water"),
        said.get("Calibration Data", ""),
        path,
    )


def _resampled(said: dict[str, str], element_mm: list[float]) -> tuple[str, ...]:
    """Say where the voxels are not those of the scan that the log names."""
    if not said.keys() >= _THREE:
        return ()
    pixels, extent = ([float(word) for word in said[key].split()[:3]] for key in sorted(_THREE))
    if not all(count > 0 and um > 0 for count, um in zip(pixels, extent, strict=True)):
        return ()
    scanned = [um / count / 1000 for count, um in zip(pixels, extent, strict=True)]
    if all(abs(own / one - 1) < 0.02 for own, one in zip(element_mm, scanned, strict=True)):
        return ()
    own, one = (" x ".join(f"{mm:.4g}" for mm in sizes) for sizes in (element_mm, scanned))
    return (f"its voxels are of {own} mm where the scan had {one} mm (x, y, z): it was resampled before",)
