"""Windows x session: a calibrated volume in, the filtered one on the same grid out."""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError, OutOfMemoryError, UsageError
from qctrun.runtime.filtering.grids import Detour, detour, require_grid, spacing_notes
from qctrun.runtime.filtering.model import ModelCard, load_model
from qctrun.runtime.filtering.proof import SelfTest
from qctrun.runtime.filtering.session import Session
from qctrun.runtime.filtering.windows import Window, grow, plan, plan_alike, plan_needed
from qctrun.runtime.volume import BoolArray, FloatArray, Progress, Volume, as_mask, require_finite

WINDOW_BYTES = {"cpu": 704 * 2**20, "cuda": 2**30}
"""Memory that the activations of one window may take. On the CPU, 512 x 512 x 128 voxels stay well under 2 GB
in all; on a GPU this is for a driver that does not say how much is free."""

MOST_ELEMENTS = 2**30
"""No activation gets so many: convolutions of 2^31 elements and more have given wrong numbers without a word."""

SLICES = 16
"""As many slices of the widest layer are held at once where slices are computed one after the other."""

MARGIN_MM = 5.0
"""How far around a mask is filtered with it, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class FilterTask:
    """What a call of the filter is to do.

    Attributes
    ----------
    need : bool array (z, y, x) or None
        Voxels to filter; all of them when None.
    margin_mm : float or None
        How far they reach around the mask.
    notes : tuple of str
        What is doubtful about the volume.
    grid : "native" or "model"
        On whose voxels to filter.
    """

    need: BoolArray | None
    margin_mm: float | None
    notes: tuple[str, ...]
    grid: str = "native"


class Filter:
    """The trained filter, loaded once; reusable, and safe to call from several threads.

    Each call at a time takes the memory of one window (`WINDOW_BYTES`) and a copy of its volume.

    Parameters
    ----------
    model : path, optional
        An ONNX file with a card; the shipped model when not given.
    device : "auto", "cpu", "cuda" or "cuda:N"
        A GPU that was asked for and cannot be used is an error, never a quiet run on the CPU.
    threads : int, optional
        CPU threads; all that the process may use when not given.
    backend : "auto", "onnxruntime" or "openvino"
        What computes on the CPU; "auto" takes OpenVINO where it is installed.
    precision : "fp32", "tf32" or "fp16"
        Arithmetic of the convolutions; other than fp32 on a GPU only. Their error is measured and stands in `notes`.

    Attributes
    ----------
    card : ModelCard
        What the model was made for.
    sha256 : str
        Digest of the model file.
    provider, device : str
        What computes, e.g. "CPUExecutionProvider" and "cpu".
    asked : str
        The device as it was asked for.
    backend, precision : str
        The library that computes, "onnxruntime" or "openvino", and the arithmetic.
    self_test : SelfTest or None
        How far it is from onnxruntime on the CPU, as the session has measured it.
    notes : tuple of str
        What a user should be told about the choice of device.

    Raises
    ------
    UsageError, ModelError, RuntimeMissingError, DeviceError
        As `load_model` and `Session`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        backend: str = "auto",
        precision: str = "fp32",
    ) -> None:
        loaded = self._model = load_model(model)
        self._session = Session(loaded, device, threads, backend, precision)
        self.card: ModelCard = loaded.card
        self.sha256: str = loaded.sha256
        self.provider: str = self._session.provider
        self.asked: str = device
        self.device: str = self._session.device
        self.backend: str = self._session.backend
        self.precision: str = self._session.precision
        self.self_test: SelfTest | None = self._session.self_test
        self.notes: tuple[str, ...] = self._session.notes
        self._smaller: int | None = None

    def __call__(
        self,
        volume: Volume,
        *,
        mask: npt.NDArray[Any] | None = None,
        margin_mm: float = MARGIN_MM,
        grid: str = "native",
        progress: Progress | None = None,
    ) -> Volume:
        """Filter a volume.

        Parameters
        ----------
        volume : Volume
            Calibrated density in the model's unit and material, finite. A density of unknown material is taken
            as one of the model's, with a warning.
        mask : bool or integer array (z, y, x), optional
            Where it is not zero, and `margin_mm` around, the result is filtered, the same as without a mask;
            elsewhere it keeps the values that came in, and the provenance says so.
        margin_mm : float
            Width of the surroundings that are filtered with the mask, mm. The default lets spheres
            of up to 10 mm diameter, centred in the mask, see filtered voxels only.
        grid : "native" or "model"
            Filter on the volume's own voxels, or on voxels as far apart as the model's, onto which it is resampled
            before and from which it is resampled back (`qctrun.runtime.filtering.grids`; docs/grids.md says when).
            With a mask, no more than it needs is resampled.
        progress : callable(done, total), optional
            Called before the first and after each window.

        Returns
        -------
        Volume
            Same grid and unit, the model's material; `provenance["filter"]` names model, device and windows.

        Raises
        ------
        UsageError
            When the margin is no finite number of at least 0, or the grid is neither.
        InputError
            When unit or material are not the model's, when a voxel is NaN or infinite, or when the mask is
            none for this volume (`as_mask`).
        OutOfMemoryError, DeviceError
            When a window or the volume on the model's grid does not fit, or the device fails.
        """
        require_grid(grid)
        task = self.task(volume, mask, margin_mm, grid)
        progress = progress or (lambda done, total: None)
        way = (
            detour(volume.grid, self.card.spacing_mm, self.card.halo, task.need) if grid == "model" else None
        )
        if way is None:
            array, windows = self._filtered(volume.array, task.need, progress)
        else:
            volume = way.told(volume)
            array, windows = self._filtered_there(volume.array, way, task.need, progress)
        return self.result(volume, task, array, windows)

    def task(
        self,
        volume: Volume,
        mask: npt.NDArray[Any] | None = None,
        margin_mm: float = MARGIN_MM,
        grid: str = "native",
    ) -> FilterTask:
        """Check a call before anything is computed; for those who run the windows themselves."""
        _require_margin(margin_mm)
        notes = tuple(_check(volume, self.card, grid))
        if mask is None:
            return FilterTask(None, None, notes, grid)
        return FilterTask(_need(mask, margin_mm, volume), float(margin_mm), notes, grid)

    def windows(self, size: tuple[int, ...], need: BoolArray | None) -> list[Window]:
        """How a volume of this size (z, y, x) is cut up, as far as it is needed."""
        windows = self._plan(size, need, self._limit(size[0]))
        # What a voxel takes depends on the depth, and windows are often less deep than the volume.
        depth = min((window.take[0].stop - window.take[0].start for window in windows), default=size[0])
        limit = self._limit(depth)
        fits = all(window.voxels <= limit for window in windows)
        return windows if fits else self._plan(size, need, limit)

    def result(self, volume: Volume, task: FilterTask, array: FloatArray, windows: list[Window]) -> Volume:
        """The filtered numbers of a volume as what `__call__` returns."""
        notes, fraction = task.notes, 1.0
        if task.need is not None:
            fraction = float(np.count_nonzero(task.need) / task.need.size)
        if fraction < 1:
            notes += (
                f"filtered only within the mask and {task.margin_mm:g} mm around; the rest is as it came in",
            )
        provenance = {**volume.provenance, "filter": self._record(windows, fraction, task)}
        return volume.with_array(array, material=self.card.material, provenance=provenance).warn(*notes)

    def session_on(self, stream: int) -> Session:
        """The same model on the same GPU and in the same arithmetic, on a CUDA stream of the caller's."""
        return Session(
            self._model, self.device, self._session.threads, precision=self.precision, stream=stream
        )

    def _filtered_there(
        self, array: FloatArray, way: Detour, need: BoolArray | None, progress: Progress
    ) -> tuple[FloatArray, list[Window]]:
        """The result on the scan's grid of what was filtered on the model's, and the windows there."""
        found, windows = self._filtered(way.there(array), way.need, progress)
        result = array.copy()
        np.copyto(result[way.piece], way.back(found), where=True if need is None else need[way.piece])
        return result, windows

    def _filtered(
        self, array: FloatArray, need: BoolArray | None, progress: Progress
    ) -> tuple[FloatArray, list[Window]]:
        """The result, and the windows that fitted into memory: after each that did not, halves are tried."""
        windows = self.windows(array.shape, need)
        while True:
            try:
                return self._run(array, windows, need, progress), windows
            except OutOfMemoryError as error:
                largest = max(window.voxels for window in windows)
                windows = self._plan(array.shape, need, max(largest // 2, self._least()))
                if max(window.voxels for window in windows) >= largest:
                    raise self._too_large(largest, error) from None
                self._smaller = largest // 2

    def _limit(self, depth: int) -> int:
        """Voxels of a window of a volume of so many slices."""
        session = self._session
        known = session.window_bytes
        memory = WINDOW_BYTES[self.device.partition(":")[0]] if known is None else known
        each = sliced_bytes(self.card, depth) if session.slicewise else voxel_bytes(self.card)
        limit = min(memory // each, MOST_ELEMENTS // max(self.card.channels))
        return limit if self._smaller is None else min(limit, self._smaller)

    def _least(self) -> int:
        """Voxels of the smallest window that is of use: half of each side is halo."""
        return math.prod(4 * halo + 1 for halo in self.card.halo)

    def _plan(self, size: tuple[int, ...], need: BoolArray | None, limit: int) -> list[Window]:
        z, y, x = size
        if need is None:
            return plan((z, y, x), self.card.halo, limit)
        if self.device != "cpu":
            # A GPU plans anew for each shape, which takes longer than some more voxels.
            return plan_alike(need, self.card.halo, limit)
        if not self._session.slicewise:
            return plan_needed(need, self.card.halo, limit)
        # Only what is kept is computed, and most of the work is in a layer half of the halo away from it.
        z, y, x = (-(-halo // 2) for halo in self.card.halo)
        return plan_needed(need, self.card.halo, limit, (z, y, x))

    def _run(
        self, array: FloatArray, windows: list[Window], need: BoolArray | None, progress: Progress
    ) -> FloatArray:
        result = array.copy()
        progress(0, len(windows))
        for done, window in enumerate(windows, start=1):
            found = self._session.run(array[window.take], window.keep)
            np.copyto(result[window.put], found, where=True if need is None else need[window.put])
            progress(done, len(windows))
        return result

    def _too_large(self, voxels: int, error: OutOfMemoryError) -> OutOfMemoryError:
        """The error with its numbers, where no smaller window is of use."""
        free = self._session.free_bytes()
        return OutOfMemoryError(
            f"device {self.device}",
            wanted=f"{voxels * voxel_bytes(self.card) / 2**20:.0f} MB for a window of {voxels} voxels",
            got=str(error) if free is None else f"{free / 2**20:.0f} MB free",
            mend="close other programs" + ', or use the device "cpu"' * (self.device != "cpu"),
        )

    def _record(self, windows: list[Window], fraction: float, task: FilterTask) -> dict[str, Any]:
        record: dict[str, Any] = {
            "model": self.card.name,
            "version": self.card.version,
            "sha256": self.sha256,
            "model_spacing_mm": list(self.card.spacing_mm),
            "provider": self.provider,
            "device": self.device,
            "threads": self._session.threads,
            "backend": self.backend,
            "precision": self.precision,
            "slicewise": self._session.slicewise,
            "self_test": None if self.self_test is None else asdict(self.self_test),
            "windows": len(windows),
            "computed_voxels": sum(window.voxels for window in windows),
            "grid": task.grid,
            "filtered_fraction": fraction,
            "margin_mm": task.margin_mm,
            "notes": list(self.notes),
        }
        return record if fraction == 1 else {**record, "outside": "raw"}


def voxel_bytes(card: ModelCard) -> int:
    """Memory that a voxel of a window takes: both sides of the widest layer, and three single volumes."""
    widths = (1, *card.channels, 1)
    return 4 * (max(before + after for before, after in pairwise(widths)) + 3)


def sliced_bytes(card: ModelCard, depth: int) -> int:
    """The same where slices are computed one after the other: six single volumes, and a few slices of each layer.

    Found by measuring windows of 9 to 128 slices of 256 x 256 to 512 x 512 voxels.
    """
    return 4 * (6 + -(-SLICES * max(card.channels) // depth))


def _check(volume: Volume, card: ModelCard, grid: str) -> list[str]:
    """Refuse what the model was not made for; say what is doubtful."""
    if volume.unit != card.unit:
        mend = "calibrate it to density first (qctrun.runtime.read with calibration=...)"
        raise InputError("volume", wanted=f"{card.unit}, the model's unit", got=volume.unit, mend=mend)
    if volume.material not in (None, card.material):
        wanted = f"{card.material} density, the model's material"
        mend = f"read the scan in HU again and calibrate it by a line to {card.material}"
        raise InputError("volume", wanted=wanted, got=f"{volume.material} density", mend=mend)
    require_finite(volume.array, "volume")
    notes = []
    if volume.material is None:
        notes.append(f"the material of the density is not stated; it is taken as {card.material}")
    if before := volume.provenance.get("filter"):
        name = f"{before.get('model', '')} {before.get('version', '')}".strip() or "a model"
        notes.append(
            f"FILTERED TWICE: the volume was already filtered by {name}; the filter is made for scans as they "
            "come from the scanner, give it the unfiltered one"
        )
    return notes + spacing_notes(volume.grid.spacing, card.spacing_mm, grid)


def _require_margin(margin_mm: float) -> None:
    if not isinstance(margin_mm, Real) or not (math.isfinite(margin_mm) and margin_mm >= 0):
        raise UsageError("margin_mm", wanted="a finite number of mm, 0 or more", got=repr(margin_mm))


def _need(mask: npt.NDArray[Any], margin_mm: float, volume: Volume) -> BoolArray:
    inside = as_mask(mask, volume.grid)
    # A sphere of this radius reaches a voxel that far out, too (`TIE_TOLERANCE`).
    z, y, x = (int(margin_mm / spacing * (1 + 1e-6)) for spacing in volume.grid.spacing)
    return grow(inside, (z, y, x))
