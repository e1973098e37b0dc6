"""Names that other tools leave in a label map: in the header of the file, or in the JSON file beside it."""

import gzip
import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from qctrun.runtime.json_files import read_json
from qctrun.runtime.reading.images import sidecar_path_of
from qctrun.runtime.reading.label_names import SIDECAR_KEYS, Names, names_of
from qctrun.runtime.reading.sources import format_of

LARGEST_HEADER_BYTES = 2**24
"""No more of a header is looked at; TotalSegmentator's 117 names take 14 kB."""

_FIELD = re.compile(r"(?m)^(Segment\d+)_(LabelValue|Name):=(.*?)\r?$")


def own_names(file: Path, path: Path) -> Names:
    """The names that a label map carries itself, else those in the JSON file beside it.

    TotalSegmentator writes a table of labels as XML into the extension of the NIfTI header, 3D Slicer fields
    like `Segment0_Name` into that of a `.seg.nrrd`. A header that is damaged there has no names.

    Parameters
    ----------
    file : Path
        The label map on disk.
    path : Path
        Where it was given; the JSON file lies beside that.

    Raises
    ------
    InputError
        When the file beside it is no sound JSON, or contradicts itself.
    """
    kind = format_of(file)
    found = _of_nifti(file) if kind == "nifti" else _of_nrrd(file) if kind == "nrrd" else {}
    return found or _of_sidecar(sidecar_path_of(path))


def _of_sidecar(path: Path) -> Names:
    if not path.is_file():
        return {}
    said = read_json(path)
    key = next((key for key in SIDECAR_KEYS if isinstance(said.get(key), dict)), None)
    return {} if key is None else names_of(said[key], f"{path}: {key}")


def _of_nrrd(file: Path) -> Names:
    with file.open("rb") as opened:
        header = re.split(rb"\r?\n\r?\n", opened.read(LARGEST_HEADER_BYTES), maxsplit=1)[0]
    fields: dict[str, dict[str, str]] = {}
    for segment, key, value in _FIELD.findall(header.decode("utf-8", "replace")):
        fields.setdefault(segment, {})[key] = value.strip()
    return _sound((said.get("LabelValue", ""), said.get("Name", "")) for said in fields.values())


def _of_nifti(file: Path) -> Names:
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as opened:
            header = opened.read(LARGEST_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return {}
    for content in _extensions(header):
        # A table that brings definitions of its own is none that such a tool writes, and could grow without end.
        if b"<LabelTable" in content and b"<!" not in content.replace(b"<![CDATA[", b""):
            try:
                root = ElementTree.fromstring(content.strip(b"\0 \r\n\t"))
            except (ElementTree.ParseError, ValueError, LookupError):
                continue
            return _sound((each.get("Key", ""), each.text or "") for each in root.iter("Label"))
    return {}


def _extensions(header: bytes) -> list[bytes]:
    """The contents of the extensions between a NIfTI header and the voxels."""
    for order in "<>":
        if len(header) < 544 or (size := struct.unpack_from(f"{order}i", header)[0]) not in (348, 540):
            continue
        end = (
            struct.unpack_from(f"{order}f", header, 108)
            if size == 348
            else struct.unpack_from(f"{order}q", header, 168)
        )
        at, found = size + 4, []
        while header[size] and at + 8 <= min(end[0], len(header)):
            length = struct.unpack_from(f"{order}i", header, at)[0]
            if length < 8:
                break
            found.append(header[at + 8 : at + length])
            at += length
        return found
    return []


def _sound(pairs: Iterable[tuple[str, str]]) -> Names:
    named = {label.strip(): " ".join(name.split()) for label, name in pairs}
    return {
        int(label): name for label, name in named.items() if re.fullmatch(r"0*[1-9]\d{0,8}", label) and name
    }
