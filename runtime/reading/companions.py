"""What lies with a scan: its calibration and its mask, in a folder on the way to its slices."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qctrun.runtime.digests import sha256_of
from qctrun.runtime.errors import InputError
from qctrun.runtime.formats import suffix_of
from qctrun.runtime.reading.headers import read_headers
from qctrun.runtime.reading.sources import files_below, opened_file, opened_folder, readable, zip_names
from qctrun.runtime.reading.stacks import Series, stacked

CALIBRATION, MASK = "calibration.json", "mask.nii.gz"

_MENDS = {
    CALIBRATION: "leave one, or say which by --calibration",
    MASK: "leave one, or say which by --mask",
}


@dataclass(frozen=True, slots=True)
class Beside:
    """Companions that were found with a scan; a path into a zip reads `scan.zip/mask.nii.gz`."""

    calibration: Path | None = None
    mask: Path | None = None


def find_beside(path: str | Path, *, series_uid: str | None = None) -> Beside:
    """Find `calibration.json` and `mask.nii.gz` of a scan.

    Raises
    ------
    InputError
        As `find_companion`.
    """
    found = (find_companion(path, name, series_uid=series_uid) for name in (CALIBRATION, MASK))
    return Beside(*found)


def find_mask(path: str | Path, *, series_uid: str | None = None) -> Path | None:
    """Find only the mask of `find_beside`; calibrations that contradict each other are no matter then."""
    return find_companion(path, MASK, series_uid=series_uid)


def find_companion(
    path: str | Path, name: str, *, series_uid: str | None = None, folders: Iterable[str] | None = None
) -> Path | None:
    """Find a file that goes with a scan.

    With an image it lies beside it. Of a DICOM folder it lies in the folder, or in one on the way down to the
    slices of the series; the same in a zip, and beside a zip that has none.

    Parameters
    ----------
    path : path
        The scan.
    name : str
        Of the companion.
    series_uid : str, optional
        Which series, where there are several; without it, only what goes with all of them is found.
    folders : strings, optional
        Where the slices lie, relative to `path`, if that is known already; else headers are read where it matters.

    Raises
    ------
    InputError
        When two that are found differ, or something on the way cannot be read.
    """
    path = Path(path)
    with readable(path):
        is_zip = path.is_file() and suffix_of(path) == ".zip"
        if path.is_dir() or is_zip:
            inside = zip_names(path) if is_zip else _names_below(path)
            found = _on_the_way(path, name, inside, series_uid, folders)
            if found or not is_zip:
                return _the_one(found, name)
        candidate = path.parent / name
        return candidate if candidate.is_file() and candidate != path else None


def slice_folders(series: Series, folder: Path) -> list[str]:
    """The folders that hold the slices of a series, relative to the one that was read."""
    return sorted({file.parent.relative_to(folder).as_posix() for file in series.files})


def _names_below(folder: Path) -> list[PurePosixPath]:
    return [PurePosixPath(file.relative_to(folder).as_posix()) for file in files_below(folder)]


def _on_the_way(
    path: Path,
    name: str,
    inside: list[PurePosixPath],
    series_uid: str | None,
    folders: Iterable[str] | None,
) -> list[Path]:
    """The files of this name in the folder and in those on the way to the slices, outermost first."""
    candidates = [file for file in inside if file.name == name]
    if folders is None:
        others = [file.parent for file in inside if file.name not in (CALIBRATION, MASK)]
        home = _common(others)
        # A folder that holds everything holds the slices too; only beyond it does it matter which they are.
        if all(home.is_relative_to(file.parent) for file in candidates):
            folders = [home.as_posix()]
        else:
            folders = _holders(path, series_uid)
    places = [PurePosixPath(folder) for folder in folders]
    used = [file for file in candidates if any(place.is_relative_to(file.parent) for place in places)]
    return [path / file for file in sorted(used, key=lambda file: (len(file.parts), file))]


def _common(folders: list[PurePosixPath]) -> PurePosixPath:
    """The innermost folder that holds all of these."""
    return PurePosixPath(os.path.commonpath(folders) or ".") if folders else PurePosixPath(".")


def _holders(path: Path, series_uid: str | None) -> list[str]:
    """Folders of the slices of the series; where it is open which one, the one that holds all of them."""
    with opened_folder(path) as folder:
        found = [series for series in stacked(read_headers(folder)[0]) if series.is_called(series_uid)]
        volumes = [series for series in found if series.size[0] > 1] or found
        places = [slice_folders(series, folder) for series in volumes]
    if len(places) == 1:
        return places[0]
    return [_common([PurePosixPath(place) for part in places for place in part]).as_posix()]


def _the_one(found: list[Path], name: str) -> Path | None:
    """The outermost; what lies further in may only be the same file again."""
    if len(found) > 1 and len({_digest(file) for file in found}) > 1:
        listed = " and ".join(map(str, found))
        raise InputError(name, wanted="one for the scan", got=f"{listed}, which differ", mend=_MENDS[name])
    return found[0] if found else None


def _digest(path: Path) -> str:
    with opened_file(path) as file:
        return sha256_of(file)
