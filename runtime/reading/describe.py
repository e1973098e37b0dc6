"""What is in a file or folder, also where that is no volume: facts for a person who wonders why."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from qctrun.runtime.errors import InputError
from qctrun.runtime.formats import Format
from qctrun.runtime.json_files import read_json
from qctrun.runtime.reading.calibration import calibration_from, load_calibration
from qctrun.runtime.reading.choice import verdicts
from qctrun.runtime.reading.companions import CALIBRATION, MASK, find_companion
from qctrun.runtime.reading.dicom import stated_material, stated_unit
from qctrun.runtime.reading.headers import read_headers
from qctrun.runtime.reading.images import check_header, reader_of, sidecar_path_of
from qctrun.runtime.reading.mending import is_mendable
from qctrun.runtime.reading.nifti import check_place
from qctrun.runtime.reading.scanco import FORMATS as SCANCO
from qctrun.runtime.reading.scanco import scanco_facts
from qctrun.runtime.reading.scanco_slices import slices_line
from qctrun.runtime.reading.sources import format_of, opened_folder, quiet
from qctrun.runtime.reading.stacks import Series, axes_of, stacked

Facts = dict[str, Any]

SIDES = (("left", "right"), ("back", "front"), ("head", "feet"))
"""Where the patient's axes (LPS) lead to, forwards and backwards."""
LETTERS = ("LR", "PA", "SI")
OBLIQUE_DEG = 0.1


def describe(path: str | Path) -> Facts:
    """Look at headers and companions of a scan; its voxels are not read.

    Parameters
    ----------
    path : str or Path
        DICOM folder, zip of one, or a NIfTI, MHA, NRRD, AIM or ISQ file.

    Returns
    -------
    dict
        `path` and `format`; of DICOM `series` (each with its geometry, a `verdict` that says what reading
        the folder makes of it, and its `problems` where it makes no volume) and `other_files`; of an image its
        geometry, type, unit and `sidecar`; of both `calibration` and `mask`. A companion that cannot be used
        has {"error": why} for its value.

    Raises
    ------
    InputError
        When there is nothing at the path, or nothing whose headers can be read.
    """
    path = Path(path)
    kind = format_of(path)
    found = _dicom(path) if kind in ("dicom", "dicom-zip") else _image(path, kind)
    return {"path": str(path), "format": kind, **found, **_beside(path)}


def _dicom(path: Path) -> Facts:
    with opened_folder(path) as folder:
        headers, set_aside = read_headers(folder)
        found = stacked(headers)
        judged = zip(found, verdicts(found), strict=True)
        said = [_series(series, verdict + _still_to_say(series, verdict)) for series, verdict in judged]
        return {"series": said, "other_files": dict(set_aside)}


def _series(found: Series, verdict: str) -> Facts:
    return {
        "series_uid": found.uid,
        "name": found.name,
        "verdict": verdict,
        "description": found.description,
        "apart_by": found.mark,
        "size_zyx": found.size,
        "spacing_zyx_mm": found.spacing_mm,
        **_place(found),
        "slice_thickness_mm": found.thickness_mm,
        "kvp": found.kvp,
        "kernel": found.kernel,
        "manufacturer": found.manufacturer,
        "values": _values(found),
        "files": len(found.files),
        "volume": found.grid is not None,
        "problems": found.problems,
    }


def _still_to_say(found: Series, verdict: str) -> str:
    """The option without which it is refused: for a stack that can be mended, or whose values are not named."""
    if is_mendable(found):
        return "; --allow-resample mends it"
    unit = stated_unit(found.headers)
    if _by_scanco(found):
        return ""
    unscaled = any(header.slope is None or header.intercept is None for header in found.headers)
    if verdict not in ("taken", "candidate") or (unit == "HU" and not unscaled):
        return ""
    if unit is None or unscaled:
        return ": say --unit hu or mg/cm3"
    return "" if stated_material(found.headers) else ": say --material HA or K2HPO4"


def _values(found: Series) -> str:
    """What the numbers of the slices are, by their tags."""
    if said := _by_scanco(found):
        return said
    unit = stated_unit(found.headers)
    if unit is None:
        return f"rescale type {'/'.join(sorted({header.rescale_type for header in found.headers}))}"
    return " ".join(part for part in (unit, unit == "mg/cm3" and stated_material(found.headers)) if part)


def _by_scanco(found: Series) -> str:
    """The density, or why there is none, of slices that Scanco's software exported; else empty."""
    try:
        density = stated_unit(found.headers) == "mg/cm3"
        own = None if density else slices_line(found.headers, found.headers[0].path.parent)
    except InputError:
        return "not told: see what reading it says"
    return f"mg/cm3 {own.line.material} of {own.values}" if own else ""


def _place(found: Series) -> Facts:
    """Where the volume lies, or where at least the first slice does."""
    origin, axes = found.headers[0].position, axes_of(found.orientation)
    return {
        "orientation": None if axes is None else _runs(axes.T),
        "axes": None if axes is None else "".join(LETTERS[_side(axis)[0]][_side(axis)[1]] for axis in axes.T),
        "origin_xyz_mm": origin,
        "direction_lps": None if axes is None else tuple(axes.ravel().tolist()),
        "image_orientation_patient": found.orientation,
    }


def _runs(axes: Iterable[npt.NDArray[np.float64]]) -> str:
    """Say towards which side of the patient each image axis runs, and by how much it is oblique."""
    said, oblique = [], 0.0
    for name, axis in zip("xyz", axes, strict=True):
        side, backwards = _side(axis)
        said.append(f"{name} to {SIDES[side][backwards]}")
        oblique = max(oblique, float(np.degrees(np.arccos(min(1.0, abs(axis[side]))))))
    return ", ".join(said) + (f" (oblique by {oblique:.1f} deg)" if oblique >= OBLIQUE_DEG else "")


def _side(axis: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Along which axis of the patient an image axis mostly runs, and whether backwards."""
    side = int(np.argmax(np.abs(axis)))
    return side, int(axis[side] < 0)


def _image(path: Path, kind: Format) -> Facts:
    if kind in SCANCO:
        return scanco_facts(path)
    check_header(path, kind, voxels=False)
    reader = reader_of(path, kind)
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}", wanted="an image", got="a header that cannot be read") from error
    return {
        "dimensions": reader.GetDimension(),
        "size_xyz": reader.GetSize(),
        "spacing_xyz_mm": reader.GetSpacing(),
        "origin_xyz_mm": reader.GetOrigin(),
        "direction_lps": reader.GetDirection(),
        **({"place": _or_why(lambda: check_place(path) or "as stated")} if kind == "nifti" else {}),
        "values": sitk.GetPixelIDValueAsString(reader.GetPixelID()),
        **_sidecar(sidecar_path_of(path)),
    }


def _sidecar(path: Path) -> Facts:
    said: Facts = {}
    state: Any = path if path.is_file() else None
    try:
        said = read_json(path) if state else {}
    except InputError as error:
        state = {"error": str(error)}
    keys = {"unit": "Units", "material": "CalibrationMaterial", "kvp": "KVP"}
    line: Any = said.get("Calibration")
    known = isinstance(line, dict) and line.get("slope") is not None
    made_with = _or_why(lambda: calibration_from(line, path.name).as_dict()) if known else None
    return {**{name: said.get(key) for name, key in keys.items()}, "made_with": made_with, "sidecar": state}


def _beside(path: Path) -> Facts:
    def line() -> Facts | None:
        file = find_companion(path, CALIBRATION)
        return load_calibration(file).as_dict() if file else None

    return {"calibration": _or_why(line), "mask": _or_why(lambda: find_companion(path, MASK))}


def _or_why(find: Callable[[], Any]) -> Any:
    try:
        return find()
    except InputError as error:
        return {"error": str(error)}
