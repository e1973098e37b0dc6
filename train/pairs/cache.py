"""What a run has done already, on disk: one entry a slot, whole or not at all, trusted only when its key fits.

A slot is a place like A1/100mAs-1.registered and holds one entry, the last that was made: so the folder does not grow
with every choice that is tried. The key of an entry is a digest of all that decides it: path, size and time of
each input, the choices, the keys of the entries that it rests on, and a number of the stage that is raised by hand
when its result changes. An entry that cannot be read, or whose checksums do not fit, counts as none.
"""

import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.digests import sha256_of, sha256_of_bytes
from qctrun.runtime.errors import InputError, OutputError
from qctrun.runtime.json_files import json_text
from qctrun.runtime.reading.sources import files_below, readable, stem_of
from qctrun.runtime.writing.files import writing

_TOLD = "told.json"
_PART = ".part"


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What a stage has left: facts in JSON's own types, and arrays by name."""

    facts: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Cache:
    """Entries in a folder, which may be deleted at any time; then all is made again."""

    folder: Path

    def path(self, name: str) -> Path:
        """Where something of this name lies, its folder made."""
        path = self.folder / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def load(self, slot: str, key: str) -> Entry | None:
        """The entry of a slot; None when there is none, it has another key, or it is damaged."""
        try:
            with zipfile.ZipFile(self.folder / f"{slot}.npz") as archive:
                told = json.loads(archive.read(_TOLD))
                if told["key"] != key:
                    return None
                # The checksum of a member is looked at when its end is read.
                arrays = {name: _array(archive, f"{name}.npy") for name in told["arrays"]}
                return Entry(told["facts"], arrays)
        except Exception:  # a damaged file can break a reader in any way, and all that is lost is time
            return None

    def entry(self, slot: str, key: str, make: Callable[[], Entry]) -> Entry:
        """The entry of a slot; made and kept when there is none to be trusted."""
        return self.load(slot, key) or self.save(slot, key, make())

    def save(self, slot: str, key: str, entry: Entry) -> Entry:
        """Put an entry in the place of the earlier one; return it as it will be read back.

        Raises
        ------
        OutputError
            When the disk refuses; the earlier entry is still there then.
        """
        told = json_text({"key": key, "arrays": list(entry.arrays), "facts": entry.facts})
        path = self.path(f"{slot}.npz")
        with self._instead(path) as part, zipfile.ZipFile(part, "w") as archive:
            archive.writestr(_TOLD, told)
            for name, array in entry.arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
        return Entry(json.loads(told)["facts"], dict(entry.arrays))

    def save_bytes(self, name: str, content: bytes) -> str:
        """Put a file as it is beside the entries; return its SHA-256."""
        with self._instead(self.path(name)) as part:
            part.write_bytes(content)
        return sha256_of_bytes(content)

    def holds(self, sums: Mapping[str, str]) -> bool:
        """Whether files of these names are there with these very bytes."""
        try:
            return all(sha256_of(self.folder / name) == wanted for name, wanted in sums.items())
        except OSError:
            return False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder, and take away what a killed run has left half-written.

        Raises
        ------
        OutputError
            When another run is at work there, or the folder cannot be made or written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY)
        try:
            self._lock(handle)
            self._sweep()
            try:
                yield
            finally:
                self._sweep()
        finally:
            os.close(handle)

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            got, mend = "another run that is at work there", "wait for its end, or choose another folder"
            raise OutputError(f"{self.folder.parent}", wanted="it alone", got=got, mend=mend) from None
        except OSError:  # a file system without locks
            return

    def _sweep(self) -> None:
        for part in self.folder.rglob(f"*{_PART}"):
            with suppress(OSError):
                part.unlink()

    @contextmanager
    def _instead(self, path: Path) -> Iterator[Path]:
        """A file to fill, which takes the place of `path` when the block ends well."""
        part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
        with writing(path):
            try:
                yield part
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)


def key_of(stage: str, number: int, *decided_by: Any) -> str:
    """The digest of all that decides an entry; `decided_by` are values that JSON knows, texts of others."""
    return sha256_of_bytes(json_text([stage, number, *decided_by]).encode())


def stamp_of(path: Path | None) -> list[Any]:
    """Path, size and time of an input as it is now: of all files in a folder, and of a file with its companions.

    Raises
    ------
    InputError
        When it is not there or cannot be looked at.
    """
    if path is None:
        return []
    with readable(path):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        found = files_below(path) if path.is_dir() else _companions(path)
        return [[str(each.resolve()), each.stat().st_size, each.stat().st_mtime_ns] for each in found]


def _companions(path: Path) -> list[Path]:
    """The file with those beside it of the same stem: its sidecar, or the voxels of a header."""
    stem = stem_of(path)
    beside = (each for each in path.parent.iterdir() if each.name.startswith(f"{stem}.") and each.is_file())
    return sorted({path, *beside})


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(name) as member:
        array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise ValueError(f"{name} is longer than its array")
        return array
