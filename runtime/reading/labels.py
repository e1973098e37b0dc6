"""Masks and label maps, laid on exactly the grid of the volume that they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.fitting import fitted
from qctrun.runtime.reading.images import NumberArray, load
from qctrun.runtime.reading.label_names import Names, ids_of, read_names
from qctrun.runtime.reading.own_names import own_names
from qctrun.runtime.reading.segments import load_segments, segments_file
from qctrun.runtime.reading.sources import opened_file
from qctrun.runtime.volume import Grid

LabelArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """Whole numbers on a grid, 0 for background.

    Attributes
    ----------
    array : int32 array (z, y, x)
    grid : Grid
        Where its voxels lie.
    names : dict
        Label to name, as far as they are known.
    fit : mapping
        How it came onto the grid of a scan, for a record: `fit` says "as stored", "axes turned", "placed by
        whole voxels" or "nearest neighbour".
    notes : tuple of str
        What a reader of the numbers should be told.
    """

    array: LabelArray
    grid: Grid
    names: Names = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def present(self) -> tuple[int, ...]:
        """The labels that have a voxel, in rising order."""
        return tuple(int(label) for label in np.unique(self.array[self.array != 0]))


def read_labels(
    path: str | Path,
    grid: Grid,
    label_ids: Sequence[int | str] | None = None,
    *,
    resample: bool = False,
) -> LabelArray:
    """Only the int32 array of `read_label_map`."""
    return read_label_map(path, grid, label_ids, resample=resample).array


def read_label_map(
    path: str | Path,
    grid: Grid,
    label_ids: Sequence[int | str] | None = None,
    *,
    names: str | Path | None = None,
    resample: bool = False,
    frame_uid: str | None = None,
) -> LabelMap:
    """Read a map of whole numbers, 0 for background, onto the grid of a volume.

    No label is moved or made up without being asked: axes stored in another order or direction are turned, and a
    map on a part of the scan's own grid is placed there, both without any interpolation. Every other map on
    another grid is refused unless `resample` is set.

    Parameters
    ----------
    path : str or Path
        NIfTI, MHA, NRRD or AIM file, a DICOM SEG, or one inside of a zip (`scan.zip/mask.nii.gz`).
    grid : Grid
        Of the volume.
    label_ids : sequence of int or str, optional
        The labels to keep, by number or name; the others become background.
    names : path or "totalsegmentator", optional
        Which label is called how (`read_names`); without it, what the map says itself.
    resample : bool
        Take the nearest neighbour where the grids differ otherwise.
    frame_uid : str, optional
        The DICOM frame of reference of the volume; a SEG of another one is refused.

    Raises
    ------
    InputError
        When the grids differ, the values are no labels, the map is empty or an asked label is not in it.
    UsageError
        When a name is asked that is not known.
    """
    found, frame = _load(Path(path), names)
    if frame and frame_uid and frame != frame_uid:
        raise InputError(
            f"{path}",
            wanted=f"the frame of reference of the scan, {frame_uid}",
            got=frame,
            mend="take the SEG of this scan",
        )
    if label_ids is not None:
        found = kept(found, label_ids, Path(path))
    array, fit, notes = fitted(found.array, found.grid, grid, Path(path), resample=resample)
    laid = replace(found, array=array, grid=grid, fit=fit, notes=(*found.notes, *notes))
    return laid if label_ids is None else kept(laid, found.present, Path(path))


def load_label_map(path: str | Path, *, names: str | Path | None = None) -> LabelMap:
    """Read a label map on its own grid; arguments and errors as those of `read_label_map`."""
    return _load(Path(path), names)[0]


def kept(labels: LabelMap, label_ids: Sequence[int | str], path: Path) -> LabelMap:
    """The map with these labels alone, by number or name.

    Raises
    ------
    InputError
        When one of them has no voxel, or none is asked.
    UsageError
        When a name is not known.
    """
    present = labels.present
    ids = ids_of(label_ids, labels.names, present)
    absent = [label for label in ids if label not in present]
    if absent or not ids:
        wanted = f"label {', '.join(map(str, absent))}" if absent else "at least one label"
        raise InputError(f"{path}", wanted=wanted, got=f"a map of {', '.join(map(str, present))}")
    return replace(labels, array=np.where(np.isin(labels.array, ids), labels.array, np.int32(0)))


def _load(path: Path, names: str | Path | None) -> tuple[LabelMap, str | None]:
    """The map as stored, and the frame of reference of a SEG."""
    given = None if names is None else read_names(names)
    frame: str | None = None
    with opened_file(path) as file:
        dicom = segments_file(file)
        if dicom is not None:
            numbers, grid, own, frame = load_segments(dicom, path)
        else:
            numbers, grid, _ = load(file)
            own = _own_names(file, path, forgiving=given is not None)
    array = _whole_numbers(numbers, path)
    notes = () if given is None else _contradictions(array, given, own, path)
    return LabelMap(array, grid, own if given is None else given, notes=notes), frame


def _own_names(file: Path, path: Path, *, forgiving: bool) -> Names:
    try:
        return own_names(file, path)
    except InputError:
        if forgiving:  # names are given, so those of the map are only looked at for comparison
            return {}
        raise


def _contradictions(array: LabelArray, given: Names, own: Names, path: Path) -> tuple[str, ...]:
    """Say where a map calls its labels otherwise than the lookup: it may be the lookup of another tool."""
    differ = [label for label in given if label in own and given[label].casefold() != own[label].casefold()]
    differ = [label for label in differ if (array == label).any()]
    if not differ:
        return ()
    listed = ", ".join(f"{label} {own[label]} (--label-names: {given[label]})" for label in differ[:5])
    more = f" and {len(differ) - 5} more" * (len(differ) > 5)
    return (f"{path.name} itself calls its labels otherwise than --label-names: {listed}{more}",)


def _whole_numbers(numbers: NumberArray, path: Path) -> LabelArray:
    limits = np.iinfo(np.int32)
    with np.errstate(invalid="ignore"):
        labels = np.ascontiguousarray(numbers).astype(np.int32)
    if not np.array_equal(labels, numbers):
        wrong = numbers[labels != numbers][0]
        raise InputError(f"{path}", wanted=f"whole numbers up to {limits.max} as labels", got=f"{wrong}")
    if labels.min() < 0:
        raise InputError(f"{path}", wanted="labels of 0 (background) and above", got=f"{labels.min()}")
    if not labels.any():
        raise InputError(f"{path}", wanted="a mask with voxels in it", got="only background")
    return labels
