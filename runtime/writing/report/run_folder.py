"""What a folder of results holds: the records of its runs, its table, and files that are still what a run wrote."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qctrun.runtime.errors import InputError
from qctrun.runtime.formats import FORMATS
from qctrun.runtime.writing.names import TABLE_NAME, record_name
from qctrun.runtime.writing.record import read_record, sum_of

Record = Mapping[str, Any]
Entry = Mapping[str, Any]

_LISTS = ("inputs", "outputs")
_OBJECTS = ("options", "versions", "device", "model", "scan", "calibration", "filter", "seconds")
VERBS = ("calibrate", "filter", "params")
_LONGEST_TABLE_BYTES = 50_000_000
_REFUSED = {
    "wanted": "the records of a run (filter.run.json, params.run.json)",
    "mend": "type first: qctrun filter INPUT --params --out FOLDER",
}


@dataclass(frozen=True)
class RunFolder:
    """The records in a folder, and what was noticed while its files were looked at.

    Attributes
    ----------
    folder : Path
        Where the runs have written.
    records : mapping of verb to record
        Of `calibrate`, `filter` and `params`, those that are there.
    rows : sequence of mappings
        The table of the measurement, as text by column; empty without one.
    notes : list of str
        What is missing or has changed since, filled as files are asked for. No path stands in it.
    """

    folder: Path
    records: Mapping[str, Record]
    rows: Sequence[Mapping[str, str]] = ()
    notes: list[str] = field(default_factory=list)

    def record(self, verb: str) -> Record:
        """The record of a verb; empty where it has not run."""
        return self.records.get(verb, {})

    def outputs(self, verb: str, role: str) -> list[Entry]:
        """What a verb has written in this role: first what is still there, and of that the plainest kind of file."""
        found = [entry for entry in self.record(verb).get("outputs", ()) if entry.get("role") == role]
        return sorted(found, key=lambda each: (not _is_there(self._path(each)), _plainness(each)))

    def input(self, verb: str, role: str) -> Entry | None:
        """What a verb has read in this role."""
        found = (entry for entry in self.record(verb).get("inputs", ()) if entry.get("role") == role)
        return next(found, None)

    def unchanged(self, entry: Entry, what: str) -> Path | None:
        """Where an output lies, if its bytes are those that were written; else a note that calls it `what`."""
        path = self._path(entry)
        if Path(str(entry.get("path"))).is_absolute() or ".." in path.relative_to(self.folder).parts:
            self.notes.append(f"{what} lies outside of the folder that its record is about, and is not shown")
            return None
        found = sum_of(path)
        if found == entry.get("sha256") and found is not None:
            return path
        self.notes.append(f"{what} {'has changed' if found else 'is gone'} since the run, and is not shown")
        return None

    def _path(self, entry: Entry) -> Path:
        return self.folder / str(entry.get("path"))

    def filtered(self) -> Entry | None:
        """The filtered volume, in the kind of file that is easiest to read where there are several."""
        return next(iter(self.outputs("filter", "image")), None)

    def measured_kind(self) -> str:
        """What the measurement is of: "filtered" or "raw", by the filter of this folder; "measured" where there is
        none; empty where it is of something else.
        """
        if "filter" not in self.records:
            return "measured"
        digest = (self.input("params", "image") or {}).get("sha256")
        if digest and digest in [entry.get("sha256") for entry in self.outputs("filter", "image")]:
            return "filtered"
        return "raw" if digest == (self.input("filter", "image") or {}).get("sha256") else ""


def open_run(folder: Path) -> RunFolder:
    """Look for the records in a folder.

    Raises
    ------
    InputError
        When there is no such folder, no record in it, or one that is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", **_REFUSED)
    paths = {verb: folder / record_name(verb) for verb in VERBS}
    records = {verb: _sound(read_record(path)) for verb, path in paths.items() if path.is_file()}
    if not records:
        raise InputError(f"{folder}", got="a folder without any", **_REFUSED)
    run = RunFolder(folder, records)
    return RunFolder(folder, records, _rows(run), run.notes)


def part(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in a record; empty where there is none, or something else."""
    found = record.get(key)
    return found if isinstance(found, dict) else {}


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no system has
        return False


def _plainness(entry: Entry) -> int:
    """How far back a kind of file stands in the order of `FORMATS`; DICOM, a folder or a `.dcm`, is last."""
    name = str(entry.get("path"))
    return next((rank for rank, fmt in enumerate(FORMATS) if name.endswith(f".{fmt}")), len(FORMATS))


def _sound(record: dict[str, Any]) -> Record:
    """A record whose parts are of the kinds that this program writes, whoever has touched it since."""
    lists = {key: record[key] if isinstance(record.get(key), list) else [] for key in (*_LISTS, "warnings")}
    return {
        **record,
        **{key: [entry for entry in lists[key] if isinstance(entry, dict)] for key in _LISTS},
        **{key: record[key] if isinstance(record.get(key), dict) else {} for key in _OBJECTS},
        "warnings": list(map(str, lists["warnings"])),
    }


def _rows(run: RunFolder) -> tuple[Mapping[str, str], ...]:
    entries = run.outputs("params", "table")
    path = run.unchanged(entries[0], f"the table {TABLE_NAME}") if entries else None
    if path is None:
        return ()
    if path.stat().st_size > _LONGEST_TABLE_BYTES:
        raise InputError(f"{path}", wanted="a table of a measurement", got="a file of more than 50 MB")
    try:
        return tuple(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}", wanted="a table of text", got=str(error)) from error
