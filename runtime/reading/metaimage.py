"""A look at MetaImage headers first: their library complains on the screen and calls every fault a missing file."""

from pathlib import Path

from qctrun.runtime.errors import InputError

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


def check_metaimage(path: Path) -> None:
    """Compare a header with its voxels, as far as they are stored plainly.

    Raises
    ------
    InputError
        When a required key is missing, the voxels' file is not there, or it is shorter than the header says.
    """
    keys, offset = _header(path)
    damaged = {"wanted": "a whole MetaImage file", "mend": "copy it again"}
    missing = [key for key in REQUIRED if not keys.get(key)]
    if missing:
        raise InputError(f"{path}", got=f"a header without {', '.join(missing)}", **damaged)
    name = keys["ElementDataFile"]
    data = path if name in LOCAL else path.parent / name
    if name.startswith("LIST") or "%" in name:
        raise InputError(f"{path}", wanted="voxels in one file", got=name, mend="write them as .mha")
    if not data.is_file():
        raise InputError(f"{path}", got=f"no voxel file {name} beside it", **damaged)
    if keys.get("CompressedData", "").lower() == "true" or keys["ElementType"] not in TYPE_BYTES:
        return
    try:
        wanted = TYPE_BYTES[keys["ElementType"]] * int(keys.get("ElementNumberOfChannels", "1"))
        for length in keys["DimSize"].split():
            wanted *= int(length)
    except ValueError as error:
        raise InputError(f"{path}", got=str(error), **damaged) from error
    length_found = data.stat().st_size - (offset if data == path else 0)
    if length_found < wanted:
        got = f"{length_found} bytes of voxels where the header asks for {wanted}"
        raise InputError(f"{path}", got=got, **damaged)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The `key = value` lines up to the one that names the voxels, and where they end."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    keys: dict[str, str] = {}
    offset = 0
    for line in start.splitlines(keepends=True):
        offset += len(line)
        key, _, value = line.decode("latin-1").partition("=")
        keys[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    return keys, offset
