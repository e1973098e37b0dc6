"""The record of a run: who computed what from what, with which versions, where, and in how long."""

import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qctrun.runtime.digests import sha256_of, sha256_of_set
from qctrun.runtime.errors import InputError
from qctrun.runtime.json_files import json_text, read_json
from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing.files import Staging
from qctrun.runtime.writing.folders import slices_in

SCHEMA = "qctrun/run/1"
_LIBRARIES = ("numpy", "SimpleITK", "pydicom", "numba", "onnxruntime", "openvino", "torch")


@dataclass
class RunRecord:
    """Filled while a verb runs; written as its last file. It never holds a patient's name or number.

    Attributes
    ----------
    verb : str
        `filter`, `params`, ...
    argv : sequence of str
        The command as it was typed.
    options : mapping
        Every option as it was resolved, defaults included.
    device : mapping
        `asked`, `used` and, where a network ran, `provider`.
    model : mapping, optional
        `path`, `sha256` and `card` of the network used.
    scan, calibration : mapping
        What is known of the scan (series, tube voltage, kernel, ...) and of the line that made density of it:
        `slope`, `intercept`, `material`, `source`, `nominal` and the `file` that it came from, or null.
    filter : mapping, optional
        How the volume was filtered: model, filtered fraction, threads, ...; in a record of a measurement,
        what is known of the filter that made its input.
    inputs, outputs : list of mappings
        `role`, `path`, `sha256`, and `geometry` of images. Outputs are named relative to the record's folder,
        so that the folder can be moved.
    warnings : list of str
        What the user was told.
    """

    verb: str
    argv: Sequence[str]
    options: Mapping[str, Any]
    device: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] | None = None
    scan: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    filter: Mapping[str, Any] | None = None
    inputs: list[Mapping[str, Any]] = field(default_factory=list)
    outputs: list[Mapping[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _start: float = field(default_factory=time.perf_counter, repr=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of the block under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def add_input(self, role: str, path: Path, **more: Any) -> None:
        """Note a file that was read; one inside a zip has no sum of its own.

        Raises
        ------
        InputError
            When it cannot be read.
        """
        self.inputs.append({"role": role, "path": str(path.resolve()), "sha256": sum_of(path), **more})

    def add_volume(self, volume: Volume) -> None:
        """Note the files that a volume was read from, where it lies, and all that is known of its making."""
        known = volume.provenance
        self.scan = known.get("scan") or {}
        self.filter = known.get("filter")
        if line := known.get("calibration"):
            file = known.get("calibration_file")
            self.calibration = {**line, "file": None if file is None else str(Path(file).resolve())}
        place = {"geometry": geometry_of(volume.grid)}
        if resampling := known.get("resampling"):
            place["resampling"] = resampling
        self.inputs += [
            {"role": "image", **source, "path": str(Path(source["path"]).resolve()), **place}
            for source in known.get("inputs", ())
        ]

    def add_output(self, role: str, name: str, written: Path, grid: Grid | None = None) -> None:
        """Note a file or folder of the run: its final `name`, and where its bytes lie `written` for now."""
        geometry = {} if grid is None else {"geometry": geometry_of(grid)}
        self.outputs.append({"role": role, "path": name, "sha256": _sum(written), **geometry})

    def as_dict(self) -> dict[str, Any]:
        """The record in JSON's own types, as of now."""
        return {
            "schema": SCHEMA,
            "verb": self.verb,
            "started": self.started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "argv": list(self.argv),
            "options": dict(self.options),
            "versions": versions(),
            "device": dict(self.device),
            "model": self.model,
            "scan": self.scan,
            "calibration": self.calibration,
            "filter": self.filter,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "seconds": {
                name: round(seconds, 3)
                for name, seconds in {**self.seconds, "total": time.perf_counter() - self._start}.items()
            },
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "warnings": self.warnings,
            "exit_code": 0,
        }

    def add_to(self, staging: Staging, name: str) -> None:
        """Stage the record as the file `name`, after all other files of the run."""
        staging.add_text(name, json_text(self.as_dict()))


def sum_of(path: Path) -> str | None:
    """SHA-256 of a file or of the slices in a folder; None where there are none, as for a file inside a zip.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    try:
        return _sum(path) if path.is_file() or (path.is_dir() and slices_in(path)) else None
    except OSError as error:
        mend = "ask for permission to read it"
        raise InputError(f"{path}: cannot be read: {error.strerror}", mend=mend) from error


def _sum(path: Path) -> str:
    return sha256_of_set(map(sha256_of, slices_in(path))) if path.is_dir() else sha256_of(path)


def read_record(path: Path) -> dict[str, Any]:
    """Read a record back.

    Raises
    ------
    InputError
        When the file is no record of this schema.
    """
    try:
        return read_json(path, schema=SCHEMA)
    except InputError as error:
        raise InputError(str(error), mend="give a run record of this program") from error


def geometry_of(grid: Grid) -> dict[str, Any]:
    """A grid in words that a reader of JSON cannot mistake."""
    return {
        "size_zyx": list(grid.size),
        "spacing_zyx_mm": list(grid.spacing),
        "origin_xyz_mm": list(grid.origin),
        "direction_lps": list(grid.direction),
    }


def versions() -> dict[str, str]:
    """Versions of this package, Python and those libraries that the run has loaded."""
    loaded = {name: sys.modules[name] for name in _LIBRARIES if name in sys.modules}
    found = {name: str(getattr(module, "__version__", "unknown")) for name, module in loaded.items()}
    return {"qctrun": VERSION, "python": platform.python_version(), **found}


def peak_memory_mb() -> float:
    """The most memory that this process has held at once, MB (10^6 bytes)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        # Second choice, because a child process inherits the peak of the process that started it.
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib * 1024 / 1e6
