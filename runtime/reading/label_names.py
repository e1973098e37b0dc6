"""How the labels of a map are called: lookup files of other tools, and names in a label map or beside it."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.json_files import read_json
from qctrun.runtime.reading.sources import readable

Names = dict[int, str]
_Pair = tuple[str, str, str]
"""Id, name and place of an entry, all as text."""

TOTALSEGMENTATOR = "totalsegmentator"
"""The word that names `VERTEBRAE` in the place of a file."""

VERTEBRAE: Mapping[int, str] = {
    25: "sacrum",
    26: "vertebrae_S1",
    **{27 + below: f"vertebrae_L{5 - below}" for below in range(5)},
    **{32 + below: f"vertebrae_T{12 - below}" for below in range(12)},
    **{44 + below: f"vertebrae_C{7 - below}" for below in range(7)},
}
"""Sacrum and vertebrae of TotalSegmentator 2, task `total`.

Source: github wasserth/TotalSegmentator, totalsegmentator/map_to_binary.py at 0275d304 (package version 2,
Apache-2.0). Version 1 counts otherwise: there 18 to 22 are L5 to L1.
"""

SIDECAR_KEYS = ("LabelNames", "labels")
"""Where a JSON file keeps its names: ours, and that of a `dataset.json` of nnU-Net."""
ID_COLUMNS = ("index", "labelvalue", "label_id", "id", "label", "value")
NAME_COLUMNS = ("name", "label_name")
LARGEST_ID = 2**31 - 1
LARGEST_LOOKUP_BYTES = 2**24

_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
_NAMELESS = frozenset({"", "n/a", "(none)"})
_FORMS = (
    "a lookup of names: JSON, CSV or TSV with columns index and name, an ITK-SNAP or 3D Slicer label table"
)


def read_names(source: str | Path) -> Names:
    """Read which label is called how.

    Parameters
    ----------
    source : path, or "totalsegmentator"
        JSON ({"20": "L1"}, or the `dataset.json` of nnU-Net with its `labels`), CSV or TSV with columns
        `index` and `name` (as BIDS' `dseg.tsv`; `LabelValue` and `Name` of 3D Slicer too), a label description of
        ITK-SNAP, or a colour table of 3D Slicer (`.ctbl`, `.txt`). The word stands for `VERTEBRAE`.

    Returns
    -------
    dict
        Label to name, without the background.

    Raises
    ------
    InputError
        When the file is none of these, holds no name, or gives one label two names.
    """
    if str(source) == TOTALSEGMENTATOR:
        return dict(VERTEBRAE)
    path = Path(source)
    names = _checked(_pairs(path), path)
    if not names:
        raise InputError(f"{path}", wanted=_FORMS, got="no name")
    return names


def names_of(values: Mapping[str, Any], place: str) -> Names:
    """The names that a JSON object gives; ids stand on either side, as 20: "L1" or "L1": 20.

    Raises
    ------
    InputError
        When it gives none or contradicts itself.
    """
    return _checked(_of_json(values, place), Path(place))


def ids_of(asked: Sequence[int | str], names: Mapping[int, str], present: Sequence[int]) -> tuple[int, ...]:
    """The labels that are asked for by number or name.

    A name is taken without regard to case, and "L1" means "vertebrae_L1" too.

    Raises
    ------
    UsageError
        When a name belongs to no label of the map, or to several.
    """
    known = {label: names[label] for label in present if label in names}
    return tuple(dict.fromkeys(one if isinstance(one, int) else _id_of(one, known) for one in asked))


def _id_of(asked: str, known: Mapping[int, str]) -> int:
    found = [label for label, name in known.items() if name == asked]
    found = found or [label for label, name in known.items() if _bare(name) == _bare(asked)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{label} {name}" for label, name in known.items())
    got = (
        f"several: {', '.join(map(str, found))}"
        if found
        else f"none among {listed or 'labels without names'}"
    )
    mend = "" if known else "say --label-names FILE"
    raise UsageError("--label-ids", wanted=f"one label called {asked!r}", got=got, mend=mend)


def _bare(name: str) -> str:
    return re.sub(r"^vertebrae?[_ ]", "", name.strip().casefold())


def _pairs(path: Path) -> Iterator[_Pair]:
    with readable(path):
        if path.is_file() and path.stat().st_size > LARGEST_LOOKUP_BYTES:
            got = f"a file of {path.stat().st_size / 2**20:.0f} MiB"
            raise InputError(f"{path}", wanted=_FORMS, got=got)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _of_json(read_json(path), str(path))
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}", wanted="UTF-8 text", got=str(error)) from error
    return _of_table(lines, path) if suffix in (".csv", ".tsv") else _of_colours(lines, path)


def _of_json(values: Mapping[str, Any], place: str) -> Iterator[_Pair]:
    """An entry says its id on either side; nnU-Net's regions, which are lists of ids, have no single one."""
    listed = next((values[key] for key in SIDECAR_KEYS if isinstance(values.get(key), dict)), values)
    for key, value in listed.items():
        sides = [str(side) for side in (key, value) if isinstance(side, str | int)]
        ids = [side for side in sides if re.fullmatch(r"\d+", side)]
        if len(sides) != 2 or len(ids) != 1:
            got = f"{key!r}: {value!r}"
            raise InputError(f"{place}", wanted='names like "20": "L1"', got=got)
        yield ids[0], sides[0] if ids[0] == sides[1] else sides[1], place


def _of_table(lines: Sequence[str], path: Path) -> Iterator[_Pair]:
    tabs = path.suffix.lower() == ".tsv" or (bool(lines) and "\t" in lines[0])
    try:
        rows = list(csv.reader(lines, delimiter="\t" if tabs else ",", strict=True))
    except csv.Error as error:
        raise InputError(f"{path}", wanted=_FORMS, got=str(error)) from error
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = [next((name for name in known if name in header), None) for known in (ID_COLUMNS, NAME_COLUMNS)]
    if None in columns:
        raise InputError(f"{path}", wanted="columns index and name", got=", ".join(header) or "an empty file")
    label, name = (header.index(str(column)) for column in columns)
    for number, row in enumerate(rows[1:], 2):
        if any(cell.strip() for cell in row):
            if len(row) <= max(label, name):
                raise InputError(f"{path} line {number}", wanted=f"{len(header)} cells", got=f"{len(row)}")
            yield row[label], row[name], f"{path} line {number}"


def _of_colours(lines: Sequence[str], path: Path) -> Iterator[_Pair]:
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            label, name = _of_colour(line.split())
            if not label:
                raise InputError(f"{path} line {number}", wanted=_FORMS, got=repr(line.strip()[:60]))
            yield label, name, f"{path} line {number}"


def _of_colour(words: Sequence[str]) -> tuple[str, str]:
    """ITK-SNAP writes id, six numbers and a name in quotes; 3D Slicer id, name, and a colour of four numbers."""
    if len(words) >= 8 and words[7].startswith('"') and words[-1].endswith('"') and _numbers(words[:7]):
        return words[0], " ".join(words[7:])[1:-1]
    if len(words) >= 6 and _numbers((words[0], *words[-4:])):
        return words[0], " ".join(words[1:-4])
    return "", ""


def _numbers(words: Iterable[str]) -> bool:
    return all(_NUMBER.fullmatch(word) for word in words)


def _checked(pairs: Iterable[_Pair], path: Path) -> Names:
    names: Names = {}
    for label, name, place in pairs:
        name = " ".join(name.split())
        if not re.fullmatch(r"\s*[0-9]{1,10}\s*", label) or int(label) > LARGEST_ID:
            raise InputError(place, wanted="a whole number as label", got=repr(label))
        if int(label) == 0 or name.lower() in _NAMELESS:
            continue
        if names.setdefault(int(label), name) != name:
            got = f"{names[int(label)]} and {name} for {int(label)}"
            raise InputError(f"{path}", wanted="one name a label", got=got)
    return names
