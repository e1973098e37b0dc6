"""A DICOM folder or zip into one CT volume in HU, at the place that the tags state."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qctrun.runtime.digests import sha256_of, sha256_of_bytes, sha256_of_set
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.calibration import material_of
from qctrun.runtime.reading.choice import choose
from qctrun.runtime.reading.companions import slice_folders
from qctrun.runtime.reading.headers import Header, read_headers
from qctrun.runtime.reading.mending import AIR_HU, LOWEST_HU, Mending, is_mendable, mended, mending_of
from qctrun.runtime.reading.pixels import IntegerArray, stored_frames
from qctrun.runtime.reading.scanco_slices import slices_line
from qctrun.runtime.reading.sources import format_of, opened_folder, stem_of
from qctrun.runtime.reading.stacks import Series, stacked
from qctrun.runtime.reading.told import calibration_in, history_of, sidecar_in
from qctrun.runtime.volume import MATERIALS, FloatArray, Material, Unit, Volume, require_finite

DENSITY_TYPES = frozenset({"MGML", "MG/CM3"})
"""Rescale types, or units of a real-world value mapping, that say mg/cm3."""
HIGHEST_HU = 32767.0
"""Nothing in a patient lies above, but metal; what does has lost its sign: -2000 read as 63536."""
VOXELS_PER_BYTE = 2048
"""More than the best of the packings makes of a slice of nothing but air."""


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
    path: Path,
    *,
    series_uid: str | None = None,
    unit: Unit | None = None,
    material: Material | None = None,
    allow_resample: bool = False,
) -> Volume:
    """Read one CT series in its native geometry.

    Slices are ordered by their position along the normal (row direction cross column direction), so the
    direction is right-handed; each slice is rescaled by its own slope and intercept. Voxels that hold the
    scanner's padding value (outside of the scan circle) become air, -1000 HU, where it lies below -1024 HU or above
    32767 HU.

    Parameters
    ----------
    path : Path
        Folder or zip.
    series_uid : str, optional
        Which series, where there are several.
    unit, material : optional
        What the rescaled values are, where the tags do not say or say something else than HU.
    allow_resample : bool
        Put a stack that leans or has uneven gaps onto an even grid by one interpolation (`mended`).

    Returns
    -------
    Volume
        In HU, or in mg/cm3 when `unit`, the tags or a Scanco scanner's own calibration in them say so. Its
        provenance has `inputs`, `stem`, `scan`, `warnings`, in `slice_folders` where below `path` the slices lie, and
        `resampling` where the voxels were interpolated.

    Raises
    ------
    InputError
        When there is no CT volume, more than one, or one that is not an even, straight stack of slices.
    """
    with opened_folder(path) as folder:
        headers, set_aside = read_headers(folder)
        series, notes = choose(stacked(headers), series_uid, set_aside, path)
        if series.grid is None and not (allow_resample and series.crooked):
            raise _no_volume(series, path)
        own = None
        if stated_unit(series.headers) != "mg/cm3":
            own = slices_line(series.headers, path, unit)
        asked_unit, unit = unit, "mg/cm3" if own else _unit(series.headers, unit, path)
        sidecar = sidecar_in(series.headers[0].path) if unit == "mg/cm3" else {}
        material = (
            own.material(material, path) if own else _density(series.headers, unit, material, path, sidecar)
        )
        mending = mending_of(series, path) if series.grid is None else None
        _require_bytes(series, path)
        array = np.empty(series.size, np.float32)
        digest, padded = _fill(array, series.headers, unit, keep_padding=mending is not None)
        folders = slice_folders(series, folder)
    if own:
        own.apply(array)
        notes += own.notes
    notes += _remarks(series) + _beyond(array, unit)
    source = path if path.is_file() else None
    scan = {**_scan(series), "padding_voxels": padded, "set_aside": dict(set_aside)}
    # Who made the scan, not its copy.
    scan["manufacturer"] = str(sidecar.get("Manufacturer") or scan["manufacturer"])
    provenance = {
        "inputs": [
            {
                "path": str(path),
                "sha256": sha256_of(source) if source else digest,
                "files": len(series.files),
                "format": format_of(path),
            }
        ],
        "stem": stem_of(path),
        "slice_folders": folders,
        "scan": scan,
        **history_of(sidecar, notes),
        **calibration_in(sidecar, str(path), material),
    }
    if own:
        scan["scanco"] = own.line.as_dict()
        provenance |= {"density_from": "header", "calibration": own.line.as_calibration()}
    elif unit == "mg/cm3" and not asked_unit:
        provenance["density_from"] = "tags"
    if mending is None:
        assert series.grid is not None  # refused above
        return Volume(array, series.grid, unit, material, provenance)
    return _upright(array, mending, unit, material, provenance)


def _upright(
    array: FloatArray, mending: Mending, unit: Unit, material: Material | None, provenance: dict[str, Any]
) -> Volume:
    """The volume of a stack that was no volume before it was resampled, which it tells."""
    values, outside = mended(array, mending, unit)
    told = {**provenance, "resampling": [*provenance.get("resampling", ()), mending.record(outside)]}
    return Volume(values, mending.grid, unit, material, told).warn(mending.warning(outside))


def _no_volume(series: Series, path: Path) -> InputError:
    mend = "bring all slices of one volume"
    if is_mendable(series):
        mend = "say --allow-resample to put it onto even, upright slices by one interpolation"
    return InputError(
        f"{path}: {series}",
        wanted="an even, straight stack of slices",
        got="; ".join(series.problems),
        mend=mend,
    )


def _unit(headers: Sequence[Header], asked: Unit | None, path: Path) -> Unit:
    """What the rescaled values are, by the tags or, where these leave it open, by the call."""
    types, stated = {header.rescale_type for header in headers}, stated_unit(headers)
    unscaled = [header.name for header in headers if header.slope is None or header.intercept is None]
    if asked is None and stated is not None and not unscaled:
        return stated
    if asked is None:
        got = f"rescale type {'/'.join(sorted(types))}"
        if stated is not None:
            got = f"no rescale slope or intercept in {unscaled[0]}"
        raise InputError(
            f"{path}", wanted="pixels in HU", got=got, mend="say --unit hu or mg/cm3 if you know"
        )
    contrary = types & (DENSITY_TYPES if asked == "HU" else {"HU"})
    if contrary:
        got = f"rescale type {contrary.pop()} in the slices"
        raise InputError(f"{path}", wanted=f"{asked} as --unit says", got=got, mend="leave --unit away")
    return asked


def stated_unit(headers: Sequence[Header]) -> Unit | None:
    """The unit that the rescale types say; in a CT image without one the values are HU."""
    types = {header.rescale_type for header in headers}
    if types <= {"", "HU"}:
        return "HU"
    return "mg/cm3" if types <= DENSITY_TYPES else None


def stated_material(headers: Sequence[Header]) -> Material | None:
    """What a density is a density of, where the derivation of the slices names one material."""
    texts = {header.derivation for header in headers}
    named = [name for name in MATERIALS if any(re.search(rf"\b{name}\b", text) for text in texts)]
    return named[0] if len(named) == 1 else None


def _density(
    headers: Sequence[Header], unit: Unit, asked: Material | None, path: Path, sidecar: Mapping[str, Any]
) -> Material | None:
    """The material of a density, by the tags or the call; none of HU."""
    if unit != "mg/cm3":
        return None
    told = sidecar.get("CalibrationMaterial")
    stated = material_of(str(told), f"{path}: CalibrationMaterial") if told else stated_material(headers)
    if asked and stated and asked != stated:
        got, mend = f"{stated} by the tags", "leave --material away"
        raise InputError(f"{path}", wanted=f"{asked} as --material says", got=got, mend=mend)
    return asked or stated


def _fill(array: FloatArray, headers: Sequence[Header], unit: Unit, *, keep_padding: bool) -> tuple[str, int]:
    """Rescale slice by slice into the array; the digest is that of all files."""
    digests, padded = [], 0
    for path, places in _objects(headers).items():
        source, digest = _opened(path, whole=headers[places[0]].frame is None)
        digests.append(digest)
        with source:
            stored = stored_frames(source, path, [headers[place].frame or 0 for place in places])
            for place, pixels in zip(places, stored, strict=True):
                padded += _rescaled(pixels, headers[place], array[place], unit, keep_padding)
    return sha256_of_set(digests), padded


def _objects(headers: Sequence[Header]) -> dict[Path, list[int]]:
    """For each file the places of its slices in the volume, in the order in which they stand in the file."""
    found: dict[Path, list[int]] = {}
    for place, header in enumerate(headers):
        found.setdefault(header.path, []).append(place)
    return {
        path: sorted(places, key=lambda place: headers[place].frame or 0) for path, places in found.items()
    }


def _rescaled(stored: IntegerArray, header: Header, out: FloatArray, unit: Unit, keep_padding: bool) -> int:
    """One slice into its place by its own slope and intercept; returns how many voxels are padding."""
    slope = 1.0 if header.slope is None else header.slope
    intercept = 0.0 if header.intercept is None else header.intercept
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(stored, slope, out=out, casting="unsafe", dtype=np.float32)
        out += np.float32(intercept)
    require_finite(out, f"{header.path}: rescaled pixels")
    if unit != "HU" or header.padding is None:
        return 0
    last = header.padding if header.padding_limit is None else header.padding_limit
    least, most = sorted((header.padding, last))
    low, high = sorted((slope * least + intercept, slope * most + intercept))
    # Some files name a padding value that tissue has too (0 HU); that one is no padding.
    if high >= LOWEST_HU and low <= HIGHEST_HU:
        return 0
    outside = (stored >= least) & (stored <= most)
    out[outside] = 2 * LOWEST_HU if keep_padding else AIR_HU
    return int(outside.sum())


def _require_bytes(series: Series, path: Path) -> None:
    """Refuse sizes that no files of this length can hold, before memory is taken for them."""
    stored = sum(file.stat().st_size for file in set(series.files))
    if math.prod(series.size) > VOXELS_PER_BYTE * stored:
        size = " x ".join(map(str, series.size))
        got = f"{size} voxels in {stored} bytes of files"
        raise InputError(
            f"{path}", wanted="as many voxels as its tags say", got=got, mend="copy the scan again"
        )


def _opened(path: Path, *, whole: bool) -> tuple[BinaryIO, str]:
    """An object and its digest; one slice in memory, many where they lie."""
    try:
        if whole:
            data = path.read_bytes()
            return io.BytesIO(data), sha256_of_bytes(data)
        return path.open("rb"), sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _remarks(series: Series) -> list[str]:
    """What a reader of the numbers should know of the slices."""
    found = []
    if any(header.lossy for header in series.headers):
        found.append("the pixels were compressed with loss before they came here")
    kvp = sorted({header.kvp for header in series.headers if header.kvp is not None})
    if len(kvp) > 1:
        listed = " and ".join(f"{value:g}" for value in kvp)
        found.append(
            f"the slices were taken at {listed} kVp; no one line from HU to density is right for all"
        )
    if len({header.kernel for header in series.headers}) > 1:
        found.append(f"the slices were made with different kernels ({series.kernel})")
    return found


def _beyond(array: FloatArray, unit: Unit) -> list[str]:
    """Say where the values are none of tissue, because stored values have lost their sign."""
    count = int((array > HIGHEST_HU).sum()) if unit == "HU" and array.max() > HIGHEST_HU else 0
    what = f"{count} voxels lie above {HIGHEST_HU:g} HU, up to {array.max():g}"
    return [f"{what}: metal, or stored values that have lost their sign"] if count else []


def _scan(series: Series) -> dict[str, Any]:
    return {
        "kvp": series.kvp,
        "kernel": series.kernel,
        "manufacturer": series.manufacturer,
        "series_uid": series.uid,
        "frame_of_reference_uid": series.headers[0].frame_uid or None,
        "series_part": series.part or None,
        "slice_thickness_mm": series.thickness_mm,
    }
