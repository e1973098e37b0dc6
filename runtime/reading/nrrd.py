"""A look at NRRD headers first: their library overruns its buffers where a line of them is long."""

import re
from pathlib import Path

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.voxel_files import (
    COPY_AGAIN,
    NUMBERS_LENGTH,
    bytes_of,
    finite,
    require_voxels,
    voxel_file,
)

HEADER_BYTES = 2**18
REQUIRED = ("type", "dimension", "sizes", "encoding")
SPACES = (
    *("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las"),
)
PACKED = {"raw": False, "gzip": True, "gz": True}
TYPE_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4
    ),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8
    ),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double"), 8),
    "float": 4,
}
FREE = ("content", "number", "kinds", "centers", "centerings", "labels", "measurement frame", "sample units")
"""Fields that say nothing of place or voxels."""
KNOWN = frozenset(
    {
        *(
            *REQUIRED,
            *FREE,
            "space",
            "space directions",
            "space origin",
            "space dimension",
            "spacings",
            "endian",
        ),
        *("line skip", "lineskip", "byte skip", "byteskip", "data file", "datafile", "space units", "units"),
        *("min", "max", "old min", "oldmin", "old max", "oldmax", "thicknesses"),
    }
)


def check_nrrd(path: Path, *, voxels: bool = True) -> None:
    """Look at a header, and whether there are as many voxels as it says if asked.

    Raises
    ------
    InputError
        When the header is none, stands in its own way, says what its library would misread or what this
        package does not read, or when there are fewer voxels than it says.
    """
    damaged = {"wanted": "a sound NRRD file", "mend": "write the file again"}
    try:
        fields, end = _header(path)
        missing = [name for name in REQUIRED if not fields.get(name)]
        if missing:
            raise ValueError(f"a header without {', '.join(missing)}")
        _check_words(fields)
        _check_place(fields)
        wanted = bytes_of(fields["sizes"].split(), TYPE_BYTES[fields["type"].lower()])
    except ValueError as error:
        raise InputError(f"{path}", got=str(error), **damaged) from error
    if not voxels:
        return
    name = fields.get("data file", fields.get("datafile"))
    if name is not None and (name.startswith("LIST") or "%" in name):
        raise InputError(f"{path}", wanted="voxels in one file", got=name, mend="write them as .nrrd")
    if name is None and end < 0:
        raise InputError(f"{path}", got="a header without an end", wanted="a whole image", mend=COPY_AGAIN)
    data, offset = (path, end) if name is None else (voxel_file(path, name), 0)
    require_voxels(path, data, offset, wanted, packed=PACKED[fields["encoding"].lower()])


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The fields in small letters, and where the voxels begin; -1 where no empty line ends the header."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    first, *lines = start.split(b"\n")
    if not re.fullmatch(rb"NRRD000[1-5]\r?", first):
        raise ValueError("a file without the NRRD mark")
    fields: dict[str, str] = {}
    offset = len(first) + 1
    for line in lines:
        offset += len(line) + 1
        text = line.decode("latin-1").rstrip("\r")
        if not text:
            return fields, offset
        if len(line) > NUMBERS_LENGTH and not re.match(r"#|content: |[^:]*:=", text):
            raise ValueError(f"a header line of {len(line)} characters")
        _take(fields, text)
    return fields, -1


def _take(fields: dict[str, str], text: str) -> None:
    """Add the field of a line; comments and pairs of free key and value say nothing here."""
    if text.startswith("#") or re.match(r"[^:]*:=", text):
        return
    name, mark, value = text.partition(": ")
    name = name.lower()
    if not mark or name not in KNOWN:
        raise ValueError(f"a header with the line {text[:40]!r}")
    if name in fields:
        raise ValueError(f"a header with {name} twice")
    fields[name] = value.strip()


def _check_words(fields: dict[str, str]) -> None:
    """Refuse words that the library does not know, or knows as something that is not read here."""
    if fields["type"].lower() not in TYPE_BYTES:
        raise ValueError(f"type {fields['type']}")
    if fields["encoding"].lower() not in PACKED:
        raise ValueError(f"encoding {fields['encoding']}, where raw and gzip are read")
    if fields.get("endian", "little").lower() not in ("little", "big"):
        raise ValueError(f"endian {fields['endian']}")
    if "endian" not in fields and TYPE_BYTES[fields["type"].lower()] > 1:
        raise ValueError("a header without endian")
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(name, "0") != "0":
            raise ValueError(f"{name} {fields[name]}, where voxels that follow at once are read")
    for name in ("units", "space units"):
        # The library takes every length for mm.
        if set(re.findall(r'"([^"]*)"', fields.get(name, ""))) - {"mm", "", "???", "none"}:
            raise ValueError(f"{name} {fields[name]}, where mm is read")


def _check_place(fields: dict[str, str]) -> None:
    """Refuse numbers that are none, or more or fewer than the axes ask for."""
    if fields["dimension"] not in ("2", "3", "4") or len(fields["sizes"].split()) != int(fields["dimension"]):
        raise ValueError(f"dimension {fields['dimension']} and sizes {fields['sizes']}")
    if fields.get("space", "lps").lower() not in SPACES:
        raise ValueError(f"space {fields['space']}")
    axes = int(fields["dimension"])
    if fields.get("space dimension", str(axes)) not in ("2", "3", "4"):
        raise ValueError(f"space dimension {fields['space dimension']}")
    for name, count in (("space directions", axes), ("space origin", 1)):
        if name not in fields:
            continue
        vectors = re.sub(r"\s*,\s*", " ", fields[name]).replace(")(", ") (")
        found = re.findall(r"\(([^()]*)\)|\b(none)\b", vectors)
        if len(found) != count or re.sub(r"\([^()]*\)|\bnone\b", "", vectors).strip():
            raise ValueError(f"{name} {fields[name]!r}")
        lengths = [0 if none else len(finite(vector)) for vector, none in found]
        # An axis without a direction holds channels; there can be none beside the three of space.
        if not {*lengths} <= {0, 3, axes} or lengths.count(0) > max(0, count - 3):
            raise ValueError(f"{name} {fields[name]!r}")
    finite(fields.get("spacings", "").replace("nan", "1").replace("NaN", "1"))
