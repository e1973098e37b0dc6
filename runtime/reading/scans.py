"""The walk from a path to a calibrated volume."""

from dataclasses import replace
from pathlib import Path

from qctrun.runtime.errors import InputError, OutOfMemoryError, UsageError
from qctrun.runtime.reading.calibration import (
    Calibration,
    file_of,
    load_calibration,
    material_of,
    nominal_calibration,
    nominal_warning,
    unit_of,
)
from qctrun.runtime.reading.companions import CALIBRATION, find_companion
from qctrun.runtime.reading.dicom import read_dicom
from qctrun.runtime.reading.images import read_image
from qctrun.runtime.reading.scanco import FORMATS as SCANCO
from qctrun.runtime.reading.scanco import read_scanco
from qctrun.runtime.reading.sources import format_of
from qctrun.runtime.volume import Material, Unit, Volume


def read(
    path: str | Path,
    *,
    calibration: Calibration | tuple[float, float] | str | Path | None = None,
    material: str | None = None,
    unit: str | None = None,
    series_uid: str | None = None,
    strict: bool = False,
    allow_resample: bool = False,
) -> Volume:
    """Read a scan as bone-mineral density.

    Parameters
    ----------
    path : str or Path
        DICOM folder, zip of one, or a NIfTI, MHA, NRRD, AIM or ISQ file.
    calibration : Calibration, (slope, intercept) or JSON file, optional
        From HU to mg/cm3. Without it `calibration.json` beside the scan is taken (`find_beside`), else, at
        120 kVp, the nominal line 0.80 HU + 0 mg/cm3 HA with a warning.
    material : "HA" or "K2HPO4", optional
        Where neither calibration nor sidecar says what the density is a density of.
    unit : "HU" or "mg/cm3", optional
        Where the file does not say what its numbers are.
    series_uid : str, optional
        Which DICOM series, where there are several.
    strict : bool
        Refuse the nominal line, also in a density image that was made with it.
    allow_resample : bool
        Mend a DICOM stack that leans by a tilted gantry or has uneven gaps, by one interpolation. The volume
        says so in its warnings and in `resampling`; an even, straight stack is left as it is.

    Returns
    -------
    Volume
        mg/cm3, finite, on the native grid. Its provenance has `inputs`, `stem`, `scan`, `calibration`,
        `calibration_file` where the line came from one, `density_from` ("sidecar", "tags", "header" or "call": who said
        so) where the scan was calibrated before, `resampling` where its voxels were interpolated, and `warnings`.

    Raises
    ------
    InputError
        When the scan is not one sound volume, or unit, material or calibration are unknown or contradictory.
    OutOfMemoryError
        When it does not fit into memory.
    """
    path = Path(path)
    asked_unit = None if unit is None else unit_of(unit)
    asked_material = None if material is None else material_of(material)
    given = None if calibration is None else load_calibration(calibration, asked_material)
    volume = _read(path, asked_unit, asked_material, series_uid, allow_resample)
    if volume.unit == "mg/cm3":
        return _calibrated_already(volume, given, strict, path)
    file = file_of(calibration)
    if calibration is None:
        file = find_companion(path, CALIBRATION, folders=volume.provenance.get("slice_folders"))
    if given is None:
        given = _line(file, volume, asked_material, strict)
    if file is not None:
        volume = replace(volume, provenance={**volume.provenance, "calibration_file": str(file)})
    return given.apply(volume, out=volume.array).warn(*given.warnings_for(volume))


def read_hu(
    path: str | Path,
    *,
    unit: str | None = None,
    series_uid: str | None = None,
    allow_resample: bool = False,
) -> Volume:
    """Read a scan as it is, in HU, to find its calibration. Arguments and errors as those of `read`.

    Raises
    ------
    InputError
        Also when it is density already.
    """
    path = Path(path)
    volume = _read(path, None if unit is None else unit_of(unit), None, series_uid, allow_resample)
    if volume.unit != "HU":
        raise InputError(f"{path}", wanted="a scan in HU", got=f"one in {volume.unit}, calibrated already")
    return volume


def read_density(path: str | Path, *, unit: str | None = None, material: str | None = None) -> Volume:
    """Read a scan that is density as it stands, and none that a line would have to make so.

    Arguments, result and errors as those of `read`.

    Raises
    ------
    InputError
        Also when it is in HU.
    """
    path = Path(path)
    asked_unit = None if unit is None else unit_of(unit)
    volume = _read(path, asked_unit, None if material is None else material_of(material), None, False)
    if volume.unit != "mg/cm3":
        mend = "calibrate it before, and write it as density"
        raise InputError(f"{path}", wanted="density in mg/cm3", got=f"a scan in {volume.unit}", mend=mend)
    return _calibrated_already(volume, None, False, path)


def _read(
    path: Path, unit: Unit | None, material: Material | None, series_uid: str | None, allow_resample: bool
) -> Volume:
    try:
        return _read_as_it_is(path, unit, material, series_uid, allow_resample)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{path}: the volume does not fit into memory", mend="crop the scan"
        ) from error


def _read_as_it_is(
    path: Path, unit: Unit | None, material: Material | None, series_uid: str | None, allow_resample: bool
) -> Volume:
    if format_of(path) in ("dicom", "dicom-zip"):
        return read_dicom(
            path, series_uid=series_uid, unit=unit, material=material, allow_resample=allow_resample
        )
    if series_uid is not None:
        raise UsageError("--series-uid", wanted="a DICOM folder or zip", got=str(path))
    if format_of(path) in SCANCO:
        return read_scanco(path, unit=unit, material=material)
    return read_image(path, unit=unit, material=material)


def _line(file: Path | None, volume: Volume, material: Material | None, strict: bool) -> Calibration:
    if file is not None:
        return load_calibration(file, material)
    return nominal_calibration(volume.provenance["scan"]["kvp"], material, strict)


def _calibrated_already(volume: Volume, given: Calibration | None, strict: bool, path: Path) -> Volume:
    """Density needs no line; the one that made it is kept where the sidecar tells it."""
    said = volume.provenance.get("density_from", "call")
    if given is not None:
        by, mend = {
            "sidecar": ("as its sidecar says", "leave --calibration away; another line needs the scan in HU"),
            "tags": (
                "as its rescale type says",
                "leave --calibration away; another line needs the scan in HU",
            ),
            "header": ("as its header says", "leave --calibration away"),
            "call": ("as --unit says", "leave --calibration away, or say --unit hu if it is in HU"),
        }[said]
        got = f"mg/cm3, calibrated already {by}"
        raise InputError(f"{path}", wanted="HU for --calibration", got=got, mend=mend)
    if volume.material is None:
        mend = "say --material HA or K2HPO4"
        raise InputError(f"{path}", wanted="the material of its density", got="none", mend=mend)
    provenance = {
        # No line is known, and none is made up: HU never came into it here.
        "calibration": {
            "slope": None,
            "intercept": None,
            "material": volume.material,
            "source": "calibrated before it came here",
            "nominal": False,
            "error": None,
            "measured_in": None,
        },
        **volume.provenance,
        "density_from": said,
    }
    volume = replace(volume, provenance=provenance)
    if not provenance["calibration"]["nominal"]:
        return volume
    line = Calibration(**provenance["calibration"])
    if strict:
        raise InputError(f"{path}", wanted="a measured calibration (--strict)", got=line.source)
    return volume.warn(nominal_warning(line))
