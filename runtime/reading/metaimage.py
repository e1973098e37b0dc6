"""A look at MetaImage headers first: their library complains on the screen, and trusts what they say."""

from pathlib import Path

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.voxel_files import (
    COPY_AGAIN,
    LINE_LENGTH,
    NUMBERS_LENGTH,
    bytes_of,
    finite,
    require_voxels,
    voxel_file,
)

HEADER_BYTES = 2**16
REQUIRED = ("NDims", "DimSize", "ElementType", "ElementDataFile")
LOCAL = ("LOCAL", "Local", "local")
"""Spellings that put the voxels behind the header; the library takes any other one for a file name."""
TYPE_BYTES = {
    # As the format has them on every machine, whatever a C compiler takes a long for.
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG": 4,
    "MET_ULONG": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
SAME = (("Offset", "Position", "Origin"), ("TransformMatrix", "Rotation", "Orientation"))
"""Names of one thing, of which the library takes one without a word."""
SWITCHES = ("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData")
UNSCALED = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}


def check_metaimage(path: Path, *, voxels: bool = True) -> None:
    """Look at a header, and whether there are as many voxels as it says if asked.

    Raises
    ------
    InputError
        When a required key is missing, one stands twice or says what its library would misread, when the
        voxels' file is not there or lies in another folder, or holds fewer than the header says.
    """
    damaged = {"wanted": "a whole MetaImage file", "mend": COPY_AGAIN}
    try:
        keys, end = _header(path)
        missing = [key for key in REQUIRED if not keys.get(key)]
        if missing:
            raise ValueError(f"a header without {', '.join(missing)}")
        _check_words(keys)
        _check_numbers(keys)
        wanted = bytes_of(keys["DimSize"].split(), TYPE_BYTES[keys["ElementType"]] * _channels(keys))
    except ValueError as error:
        raise InputError(f"{path}", got=str(error), **damaged) from error
    if not voxels:
        return
    name = keys["ElementDataFile"]
    if name.startswith("LIST") or "%" in name:
        raise InputError(f"{path}", wanted="voxels in one file", got=name, mend="write them as .mha")
    local = name in LOCAL
    data, packed = path if local else voxel_file(path, name), _is_true(keys, "CompressedData")
    if local and packed and int(keys.get("CompressedDataSize", "0")) != data.stat().st_size - end:
        got = f"CompressedDataSize {keys.get('CompressedDataSize', 'missing')}"
        raise InputError(f"{path}", got=got, **damaged)
    require_voxels(path, data, end if local else _skipped(keys, data, wanted), wanted, packed=packed)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The `key = value` lines up to the one that names the voxels, and where they end."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    keys: dict[str, str] = {}
    offset = 0
    for line in start.split(b"\n"):
        offset += len(line) + 1
        key, mark, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if not mark or not key.isalnum() or not key.isascii() or key in keys:
            raise ValueError(
                f"a header with {'the key ' + key + ' twice' if key in keys else 'a broken line'}"
            )
        keys[key] = value
        if len(line) > (NUMBERS_LENGTH if key in SAME[1] else LINE_LENGTH):
            raise ValueError(f"a header line of {len(line)} characters ({key[:40]})")
        if key == "ElementDataFile":
            break
    return keys, offset


def _check_words(keys: dict[str, str]) -> None:
    """Refuse words that the library would take for something else."""
    for key in SWITCHES:
        if keys.get(key, "True").lower() not in ("true", "false"):
            raise ValueError(f"{key} {keys[key]}")
    if not _is_true(keys, "BinaryData"):
        raise ValueError("voxels as text (BinaryData is not True)")
    if keys["ElementType"] not in TYPE_BYTES:
        raise ValueError(f"ElementType {keys['ElementType']}")
    for names in SAME:
        if len(said := [name for name in names if name in keys]) > 1:
            raise ValueError(f"{' and '.join(said)}, of which one is enough")
    if not keys.get("CompressedDataSize", "0").isdecimal():
        raise ValueError(f"CompressedDataSize {keys['CompressedDataSize']}")


def _check_numbers(keys: dict[str, str]) -> None:
    """Refuse numbers that are none, or more or fewer than the axes ask for."""
    if keys["NDims"] not in ("2", "3", "4"):
        raise ValueError(f"NDims {keys['NDims']}")
    axes = int(keys["NDims"])
    counts = dict.fromkeys((*SAME[0], "DimSize", "ElementSpacing", "ElementSize", "CenterOfRotation"), axes)
    for key, count in {**counts, **dict.fromkeys(SAME[1], axes * axes)}.items():
        if key in keys and len(finite(keys[key])) != count:
            raise ValueError(f"{key} {keys[key]!r} where {count} numbers belong")
    for key, value in UNSCALED.items():
        if key in keys and finite(keys[key]) != [value]:
            raise ValueError(f"{key} {keys[key]}, which nothing applies")


def _channels(keys: dict[str, str]) -> int:
    return bytes_of([keys.get("ElementNumberOfChannels", "1")], 1)


def _skipped(keys: dict[str, str], data: Path, wanted: int) -> int:
    """Where the voxels begin in a file of their own; -1 says that they end with it."""
    said = keys.get("HeaderSize", "0")
    if said == "-1":
        return data.stat().st_size - wanted
    if not said.isdecimal():
        raise InputError(f"{data}", wanted="a HeaderSize in bytes, or -1", got=said)
    return int(said)


def _is_true(keys: dict[str, str], key: str) -> bool:
    return keys.get(key, "").lower() == "true"
