"""What was measured once, kept in a folder: a stage that is done is not done again."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qctrun.runtime.writing.files import replace_file, writing
from qctrun.train.study.measure import Readings


class Store:
    """Readings by what they were made from; each is one `.npz`, written whole or not at all.

    Parameters
    ----------
    folder : Path, optional
        Made when something is kept; None keeps in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._in_memory: dict[str, Readings] = {}

    def kept(self, what: str, made_from: Mapping[str, Any], make: Callable[[], Readings]) -> Readings:
        """The readings that are kept under `what`, or else made anew and kept.

        Parameters
        ----------
        what : str
            Words for the file's name.
        made_from : mapping
            All that the readings depend on, in JSON's own types: other values are another file.
        make : callable
            Makes them.
        """
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{what}-{digest}.npz"
        if name not in self._in_memory:
            self._in_memory[name] = self._read_or_made(name, make)
        return self._in_memory[name]

    def _read_or_made(self, name: str, make: Callable[[], Readings]) -> Readings:
        if self.folder is None:
            return make()
        found = _read(self.folder / name)
        if found is None:
            found = make()
            self._write(self.folder / name, found)
        return found

    def _write(self, path: Path, found: Readings) -> None:
        content = io.BytesIO()
        np.savez_compressed(content, **{_safe(name): values for name, values in found.items()})  # type: ignore[arg-type]
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content.getvalue())


def _read(path: Path) -> Readings | None:
    """What a file holds; None where there is none, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {_known(name): saved[name] for name in saved.files}
    except Exception:  # what numpy, zipfile and zlib raise for damage has no common name
        return None


def _safe(name: str) -> str:
    return name.replace("/", "_per_")


def _known(name: str) -> str:
    return name.replace("_per_", "/")
