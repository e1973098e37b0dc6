"""Volumes of a run, read one after the other: only their planes and the voxels of the mask are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError, QctrunError
from qctrun.runtime.volume import BoolArray, FloatArray, Grid, Volume
from qctrun.runtime.writing.record import sum_of
from qctrun.runtime.writing.report.run_folder import Entry, Record, RunFolder, part
from qctrun.runtime.writing.report.views import Box, Picture, Plane, bounding_box

if TYPE_CHECKING:
    from qctrun.runtime.measuring import Parameters

Labels = npt.NDArray[np.int32]

BINS_MG_CM3 = np.arange(-1000.0, 3000.0 + 1, 10.0)
"""Edges of the histograms; what lies beyond is counted in the outermost bins."""


@dataclass(frozen=True)
class Region:
    """Which voxels count, on the grid (z, y, x) of the scan: of all that is known only the box around them."""

    grid: Grid
    box: Box
    mask: BoolArray | None
    labels: Labels | None
    planes: Sequence[Plane]
    outlines: Sequence[Picture | None]
    """For each plane the labels in it, or 1 where the mask is; None without a mask."""

    @property
    def cropped(self) -> Grid:
        """The grid of the box alone."""
        z, y, x = self.box
        size = (z.stop - z.start, y.stop - y.start, x.stop - x.start)
        corner = self.grid.world((z.start, y.start, x.start))
        return replace(self.grid, size=size, origin=(float(corner[0]), float(corner[1]), float(corner[2])))


@dataclass(frozen=True)
class Look:
    """What is kept of a calibrated volume: its planes, its histogram over the mask, its numbers."""

    pictures: Sequence[Picture]
    counts: npt.NDArray[np.int64]
    parameters: "Sequence[Parameters]"


def read_raw(record: Record, entry: Entry) -> Volume:
    """Read a scan again as the run of a record has read it, by the line that the record names.

    Raises
    ------
    InputError
        When it is gone, has changed, or does not come out in the same units.
    """
    from qctrun.runtime.reading import Calibration, read

    options, line = part(record, "options"), part(record, "calibration")
    words = {name: options[name] for name in ("unit", "series_uid", "allow_resample") if options.get(name)}
    known: dict[str, Any] = {key: line.get(key) for key in ("slope", "intercept", "material")}
    path = Path(str(entry.get("path")))
    if line.get("slope") is None:  # density from the beginning
        volume = read(path, material=options.get("material"), **words)
    else:
        given = Calibration(**known, source=str(line.get("source")), nominal=bool(line.get("nominal")))
        try:
            volume = read(path, calibration=given, **words)
        except InputError:  # density already, by its own sidecar
            volume = read(path, material=options.get("material"), **words)
    _require_digest(volume, entry)
    if known != {key: (volume.provenance.get("calibration") or {}).get(key) for key in known}:
        raise InputError("scan", wanted="the calibration of the run", got="another one")
    return volume


def read_region(run: RunFolder, grid: Grid, slices: int) -> Region:
    """The mask and labels of a run, where they are still the same files; what is not is noted in `run`."""
    from qctrun.runtime.writing.report.views import planes_of

    mask, labels = _mask_and_labels(run, grid)
    box = bounding_box(grid, mask)
    planes = planes_of(grid, mask, slices)
    shown = labels if labels is not None else mask
    outlines = [None if shown is None else plane.cut(shown) for plane in planes]
    return Region(
        grid,
        box,
        None if mask is None else mask[box].copy(),
        None if labels is None else labels[box].copy(),
        planes,
        outlines,
    )


def look_at(volume: Volume, region: Region, thresholds: Sequence[float], what: str) -> Look:
    """Take from a volume what the report needs of it.

    Raises
    ------
    InputError
        When it lies on another grid than the region.
    """
    from qctrun.runtime.measuring import parameters

    if difference := region.grid.difference(volume.grid):
        raise InputError(what, wanted="the grid of the run", got=difference)
    inside = Volume(volume.array[region.box], region.cropped, volume.unit, volume.material)
    found = parameters(inside, thresholds, region.mask, region.labels) if thresholds else []
    return Look([plane.cut(volume.array) for plane in region.planes], _counts(inside, region), found)


def read_map(path: Path, region: Region) -> tuple[Sequence[Picture], tuple[float, float]]:
    """The planes of a local map, and the 1st and 99th percentile of its values.

    Raises
    ------
    InputError
        When it cannot be read, lies on another grid, or has no value anywhere.
    """
    array = map_array(path, region.grid)
    values = array[region.box]
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError("map", wanted="values", got="none")
    low, high = np.percentile(values, (1, 99))
    return [plane.cut(array) for plane in region.planes], (float(low), float(high))


def map_array(path: Path, grid: Grid) -> FloatArray:
    """A local map (z, y, x) of this package on the grid of its run; NaN where it has no value.

    Raises
    ------
    InputError
        When it cannot be read or lies on another grid.
    """
    from qctrun.runtime.reading.maps import read_map as read

    if path.suffix == ".dcm":
        return _parametric_map(path, grid)
    volume = read(path)
    if difference := grid.difference(volume.grid):
        raise InputError("map", wanted="the grid of the run", got=difference)
    return volume.array


def reason(error: Exception) -> str:
    """Why something could not be read, in words without a path."""
    return "no such file" if "no such file" in str(error) else "it cannot be read the same way again"


def _parametric_map(path: Path, grid: Grid) -> FloatArray:
    """The frames of a Parametric Map of this package, each at the slice where its position puts it."""
    import pydicom

    dataset = pydicom.dcmread(path)
    shape = (int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))
    if shape != grid.size:
        raise InputError("map", wanted=f"the size of the run {grid.size}", got=f"{shape}")
    frames = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(shape)
    array = np.full(grid.size, np.nan, np.float32)
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.asarray(group.PlanePositionSequence[0].ImagePositionPatient, float)
        steps = np.linalg.norm(position - np.asarray(grid.origin)) / grid.spacing[0]
        array[round(float(steps))] = frame
    return array


def _require_digest(volume: Volume, entry: Entry) -> None:
    found = [source.get("sha256") for source in volume.provenance.get("inputs", ())]
    if found != [entry.get("sha256")]:
        raise InputError("scan", wanted="the file of the run, by its sha256", got="another")


def _mask_and_labels(run: RunFolder, grid: Grid) -> tuple[BoolArray | None, Labels | None]:
    """What counts, and the labels that have rows in the table; without a mask all labels count."""
    named, of_labels = _named_mask(run), run.input("params", "labels")
    labels = _read_labels(run, "label map", of_labels, grid)
    same = named is not None and of_labels is not None and named.get("path") == of_labels.get("path")
    shapes = labels if same or named is None else _read_labels(run, "mask", named, grid)
    wanted = [int(row["label_id"]) for row in run.rows if row.get("label_id", "").isdigit()]
    if labels is not None:
        labels = np.where(np.isin(labels, wanted), labels, np.int32(0))
        shapes = labels if named is None else shapes
    return None if shapes is None else shapes != 0, labels


def _named_mask(run: RunFolder) -> Entry | None:
    """The mask of the measurement; without one, that of the filter, also where it was only found."""
    if "params" in run.records:
        return run.input("params", "mask")
    options: Mapping[str, Any] = part(run.record("filter"), "options")
    path = options.get("mask") or options.get("mask_found")
    return None if path is None else {"path": path, "sha256": options.get("mask_sha256")}


def _read_labels(run: RunFolder, what: str, entry: Entry | None, grid: Grid) -> Labels | None:
    from qctrun.runtime.reading import read_labels

    if entry is None:
        return None
    path, options = Path(str(entry.get("path"))), part(run.record("params"), "options")
    try:
        if sum_of(path) != entry.get("sha256"):
            run.notes.append(f"the {what} has changed or is gone since the run; its outline is not shown")
            return None
        return read_labels(path, grid, resample=bool(options.get("resample_labels")))
    except QctrunError as error:
        run.notes.append(f"the {what} is not shown: {reason(error)}")
        return None


def _counts(volume: Volume, region: Region) -> npt.NDArray[np.int64]:
    counts = np.zeros(len(BINS_MG_CM3) - 1, np.int64)
    for z, values in enumerate(volume.array):
        inside = values if region.mask is None else values[region.mask[z]]
        counts += np.histogram(np.clip(inside, BINS_MG_CM3[0], BINS_MG_CM3[-1]), BINS_MG_CM3)[0]
    return counts
