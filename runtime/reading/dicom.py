"""A DICOM folder or zip into one CT volume in HU, at the place that the tags state."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qctrun.runtime.digests import sha256_of, sha256_of_bytes, sha256_of_set
from qctrun.runtime.errors import InputError
from qctrun.runtime.formats import suffix_of
from qctrun.runtime.reading.companions import slice_folders
from qctrun.runtime.reading.headers import Header, in_words, read_headers
from qctrun.runtime.reading.pixels import stored_pixels
from qctrun.runtime.reading.sources import format_of, opened_folder, stem_of
from qctrun.runtime.reading.stacks import Series, stacked
from qctrun.runtime.volume import FloatArray, Material, Unit, Volume

LOWEST_HU = -1024.0
AIR_HU = -1000.0


def list_series(path: str | Path) -> list[Series]:
    """List the CT series of a DICOM folder or zip, also those that make no volume.

    Raises
    ------
    InputError
        When the path is no DICOM folder or zip, or a file in it is damaged.
    """
    path = Path(path)
    if format_of(path) not in ("dicom", "dicom-zip"):
        raise InputError(f"{path}", wanted="a DICOM folder or a zip of one", got="a file")
    with opened_folder(path) as folder:
        return stacked(read_headers(folder)[0])


def read_dicom(
    path: Path, *, series_uid: str | None = None, unit: Unit | None = None, material: Material | None = None
) -> Volume:
    """Read one CT series in its native geometry.

    Slices are ordered by their position along the normal (row direction cross column direction), so the
    direction is right-handed; each slice is rescaled by its own slope and intercept. Voxels that hold the
    scanner's padding value (outside of the scan circle) become air, -1000 HU, where it lies below -1024 HU.

    Parameters
    ----------
    path : Path
        Folder or zip.
    series_uid : str, optional
        Which series, where there are several.
    unit, material : optional
        What the rescaled values are, where the tags do not say or say something else than HU.

    Returns
    -------
    Volume
        In HU, or in mg/cm3 when `unit` says so. Its provenance has `inputs`, `stem`, `scan`, `warnings`, and
        in `slice_folders` where below `path` the slices lie.

    Raises
    ------
    InputError
        When there is no CT volume, more than one, or one that is not an even, straight stack of slices.
    """
    with opened_folder(path) as folder:
        headers, set_aside = read_headers(folder)
        series, notes = _chosen(stacked(headers), series_uid, set_aside, path)
        unit = _unit(series.headers, unit, path)
        if series.grid is None:
            raise _no_volume(series, path)
        array = np.empty(series.size, np.float32)
        digest, padded = _fill(array, series.headers, unit)
        folders = slice_folders(series, folder)
    if any(header.lossy for header in series.headers):
        notes.append("the pixels were compressed with loss before they came here")
    source = path if path.is_file() else None
    scan = {**_scan(series), "padding_voxels": padded, "set_aside": dict(set_aside)}
    provenance = {
        "inputs": [
            {
                "path": str(path),
                "sha256": sha256_of(source) if source else digest,
                "files": len(series.headers),
                "format": format_of(path),
            }
        ],
        "stem": stem_of(path),
        "slice_folders": folders,
        "scan": scan,
        "warnings": notes,
    }
    return Volume(array, series.grid, unit, material if unit == "mg/cm3" else None, provenance)


def _chosen(
    found: Sequence[Series], series_uid: str | None, set_aside: Counter[str], path: Path
) -> tuple[Series, list[str]]:
    """Pick the one series, and say which others were left."""
    if not found:
        got = in_words(set_aside) or "nothing"
        raise InputError(
            f"{path}", wanted="a CT series of DICOM slices", got=got, mend=_readable_inside(path)
        )
    asked = [series for series in found if series_uid in (None, series.uid)]
    if not asked:
        raise InputError(f"--series-uid {series_uid}", wanted="one of these", got=_listed(found))
    # Scout and bolus-tracking slices come as series of one slice; they leave no doubt about the volume.
    volumes = [series for series in asked if series.size[0] > 1] or asked
    if len(volumes) > 1 and len({series.uid for series in volumes}) == 1:
        mend = "keep the slices that belong together in a folder of their own"
        raise InputError(f"{path}", wanted="slices of one volume", got=_listed(volumes), mend=mend)
    if len(volumes) > 1:
        mend = "choose by --series-uid"
        raise InputError(
            f"{path}", wanted="one CT series", got=f"{len(volumes)}: {_listed(volumes)}", mend=mend
        )
    left = [series for series in asked if series is not volumes[0]]
    return volumes[0], [f"left out a single slice beside the volume (series {series.uid})" for series in left]


def _readable_inside(path: Path) -> str:
    """Advice for a folder whose files are readable one by one."""
    files = sorted(file for file in path.rglob("*") if suffix_of(file)) if path.is_dir() else []
    return f"give a file itself, such as {files[0]}" if files else ""


def _listed(found: Sequence[Series]) -> str:
    return "; ".join(f"[{number}] {series}" for number, series in enumerate(found, 1))


def _no_volume(series: Series, path: Path) -> InputError:
    mend = "bring all slices, or resample the scan to even upright slices before (NIfTI)"
    if any(header.multiframe for header in series.headers):
        mend = "convert it to NIfTI or to single slices"
    return InputError(
        f"{path}: {series}",
        wanted="an even, straight stack of slices",
        got="; ".join(series.problems),
        mend=mend,
    )


def _unit(headers: Sequence[Header], asked: Unit | None, path: Path) -> Unit:
    """What the rescaled values are; in a CT image without a rescale type they are HU."""
    types = {header.rescale_type for header in headers}
    stated = "HU" if types <= {"", "HU"} else "/".join(sorted(types))
    unscaled = [header.path.name for header in headers if header.slope is None or header.intercept is None]
    if asked is None and (stated != "HU" or unscaled):
        got = (
            f"rescale type {stated}" if stated != "HU" else f"no rescale slope or intercept in {unscaled[0]}"
        )
        raise InputError(
            f"{path}", wanted="pixels in HU", got=got, mend="say --unit hu or mg/cm3 if you know"
        )
    contrary = {"HU": "MGML", "mg/cm3": "HU"}
    if asked is not None and contrary[asked] in types:
        got = f"rescale type {contrary[asked]} in the slices"
        raise InputError(f"{path}", wanted=f"{asked} as --unit says", got=got, mend="leave --unit away")
    return asked or "HU"


def _fill(array: FloatArray, headers: Sequence[Header], unit: Unit) -> tuple[str, int]:
    """Rescale slice by slice into the array; the digest is that of all files."""
    digests, padded = [], 0
    for values, header in zip(array, headers, strict=True):
        data = _bytes(header.path)
        digests.append(sha256_of_bytes(data))
        stored = stored_pixels(data, header.path)
        slope = 1.0 if header.slope is None else header.slope
        intercept = 0.0 if header.intercept is None else header.intercept
        if slope == 0:
            raise InputError(f"{header.path}", wanted="a rescale slope", got="0")
        np.multiply(stored, slope, out=values, casting="unsafe", dtype=np.float32)
        values += np.float32(intercept)
        # Some files name a padding value that tissue has too (0 HU); that one is no padding.
        if unit == "HU" and header.padding is not None and slope * header.padding + intercept < LOWEST_HU:
            outside = stored == header.padding
            values[outside] = AIR_HU
            padded += int(outside.sum())
    return sha256_of_set(digests), padded


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _scan(series: Series) -> dict[str, Any]:
    return {
        "kvp": series.kvp,
        "kernel": series.kernel,
        "manufacturer": series.manufacturer,
        "series_uid": series.uid,
        "slice_thickness_mm": series.thickness_mm,
    }
