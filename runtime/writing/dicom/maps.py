"""A local map as a DICOM Parametric Map: float32, bit for bit, with its unit and quantity in codes."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from qctrun.runtime.errors import InputError
from qctrun.runtime.extras import library
from qctrun.runtime.reading.sources import quiet
from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Volume
from qctrun.runtime.writing.dicom import codes, common
from qctrun.runtime.writing.dicom.kept import (
    EMPTY_IF_UNKNOWN,
    LOSSES,
    PATIENT,
    PLACE,
    REFERENCE,
    SERIES,
    STUDY,
    TEXTS,
    kept,
    say_side,
)
from qctrun.runtime.writing.dicom.sources import Source, uids_of

_NUMBERS = {"BMD": 1, "SD": 2, "BVTV": 3, "TMD": 4}
"""How far behind the derived series the series of each quantity stands."""
_LABELS = {"BVTV": "BV/TV"}


def write_map(volume: Volume, source: Source, path: Path) -> None:
    """Write a map as one Parametric Map object.

    A voxel without a value is NaN, which the padding value of the object names.

    Parameters
    ----------
    volume : Volume
        mg/cm3 or fractions, on any grid in the frame of reference of the source.
    source : Source
        The scan that it was made of.
    path : Path
        Of the file, which is replaced.

    Raises
    ------
    InputError
        When the volume is in HU.
    RuntimeMissingError
        When highdicom is not installed.
    """
    if volume.unit == "HU":
        raise InputError("parametric map", wanted="density or fractions", got="a volume in HU")
    library("highdicom", "DICOM maps")
    with quiet():
        common.save(_object(volume, source), path)


def _object(volume: Volume, source: Source) -> Any:
    import highdicom
    from highdicom.pm import ParametricMap

    quantity, words = codes.quantity_of(volume), _words(volume)
    series_uid, slice_uids = uids_of(source, volume, f"map {quantity.value} {highdicom.__version__}")
    made = ParametricMap(
        source_images=_headers(source),
        pixel_array=volume.array,
        series_instance_uid=series_uid,
        series_number=common.series_number(source) + _NUMBERS[quantity.value],
        sop_instance_uid=slice_uids[0],
        instance_number=1,
        manufacturer=common.MAKER,
        manufacturer_model_name=common.MAKER,
        software_versions=VERSION,
        device_serial_number="none",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(volume, words)],
        voi_lut_transformations=[_window(volume)],
        content_label=quantity.value,
        content_description=words[:64],
        series_description=common.series_description(source, words),
        derivation=codes.LOCAL if "map" in volume.provenance else None,
        **_place(volume),
    )
    _finish(made, volume, source)
    return made


def _headers(source: Source) -> list[Dataset]:
    """What highdicom needs to refer to: of a multi-frame object, the object once and the first of several.

    Whose the scan is comes in later, by `_finish`: highdicom refuses names and dates that archives live with.
    """
    headers = list({id(header): header for header in source.headers}.values())
    bare = [kept(header, [*REFERENCE, "StudyInstanceUID", *PLACE]) for header in headers]
    for header in bare:
        header.SliceThickness = header.get("SliceThickness")
        for name in EMPTY_IF_UNKNOWN:
            if name not in header:
                setattr(header, name, None)
    return bare if source.frames[0] is None else bare[:1]


def _place(volume: Volume) -> dict[str, Any]:
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence

    grid = volume.grid
    return {
        "pixel_measures": PixelMeasuresSequence(
            pixel_spacing=grid.spacing[1:],
            slice_thickness=grid.spacing[0],
            spacing_between_slices=grid.spacing[0],
        ),
        "plane_orientation": PlaneOrientationSequence("PATIENT", common.orientation(grid)),
        "plane_positions": [
            PlanePositionSequence("PATIENT", common.position(grid, k)) for k in range(grid.size[0])
        ],
    }


def _mapping(volume: Volume, words: str) -> Any:
    """One to one: the stored numbers are the values; which range they span is stated in whole floats."""
    from highdicom.pm import RealWorldValueMapping

    known = volume.array[np.isfinite(volume.array)]
    lowest, highest = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    mapping: Any = RealWorldValueMapping(
        lut_label=words.partition(",")[0][:16],
        lut_explanation=words[:64],
        unit=codes.unit_of(volume),
        value_range=(lowest, highest),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.quantity_of(volume),
    )
    mapping.QuantityDefinitionSequence = codes.definition(volume)
    return mapping


def _window(volume: Volume) -> Any:
    from highdicom import VOILUTTransformation

    centre, width = (0.5, 1.0) if volume.unit == "1" else (300.0, 1200.0)
    return VOILUTTransformation(window_center=centre, window_width=width)


def _words(volume: Volume) -> str:
    """`BV/TV 200, spheres of 4.3 mm`: the quantity, its threshold in mg/cm3 and what it is a mean over."""
    how = volume.provenance.get("map") or {}
    name = codes.quantity_of(volume).value
    threshold = f" {how['threshold_mg_cm3']:g}" if "threshold_mg_cm3" in how else ""
    sphere = f", spheres of {how['diameter_mm']:g} mm" if "diameter_mm" in how else ""
    return f"{_LABELS.get(name, name)}{threshold}{sphere}"


def _finish(made: Any, volume: Volume, source: Source) -> None:
    """What highdicom leaves open, and times that do not change from run to run."""
    first = source.first
    made.update(kept(first, [*TEXTS, *PATIENT, *STUDY, *SERIES, *PLACE, *LOSSES]))
    say_side(made)
    made.BurnedInAnnotation = "YES" if first.get("BurnedInAnnotation") == "YES" else "NO"
    made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = float("nan")
    for name in ("InstanceCreationDate", "InstanceCreationTime"):
        made.pop(name, None)
    _name_dimensions(made)
    made.ContentDate, made.ContentTime = _scanned(first)
    maker = made.ContributingEquipmentSequence[-1]  # highdicom, as it names itself
    maker.pop("ContributionDateTime", None)
    made.ContributingEquipmentSequence = [common.scanner(source), common.processor(), maker]
    made.CodingSchemeIdentificationSequence = [codes.scheme()]
    made.DerivationDescription = common.derivation(volume)
    common.add_private(made, volume)


def _name_dimensions(made: Any) -> None:
    """Name the order of the frames by what is in them, where highdicom draws a name by lot."""
    uid = generate_uid(entropy_srcs=[made.SOPInstanceUID, "dimensions"])
    for each in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        each.DimensionOrganizationUID = uid


def _scanned(header: Dataset) -> tuple[str, str]:
    """When the scan was taken, as far as it tells: the object describes that, and equal maps are equal files."""
    for kind in ("Content", "Acquisition", "Series", "Study"):
        if date := header.get(f"{kind}Date"):
            return str(date), str(header.get(f"{kind}Time") or "000000")
    return "19000101", "000000"
