"""What stands in the JSON file beside an image: the unit, the material and where the values came from."""

from typing import Any

from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Volume


def sidecar_of(volume: Volume) -> dict[str, Any]:
    """The keys that a volume can say of itself; BIDS spelling, units in UCUM. No patient identity.

    `Units` and `CalibrationMaterial` are what `read` needs to take the image up again without being told.
    """
    provenance = volume.provenance
    scan = provenance.get("scan") or {}
    model = provenance.get("filter") or {}
    known = {
        "Units": volume.unit,
        "CalibrationMaterial": volume.material,
        "Calibration": provenance.get("calibration"),
        "SeriesInstanceUID": scan.get("series_uid"),
        "FrameOfReferenceUID": scan.get("frame_of_reference_uid"),
        "KVP": scan.get("kvp"),
        "ConvolutionKernel": scan.get("kernel"),
        "Manufacturer": scan.get("manufacturer"),
        "Sources": [source["path"] for source in provenance.get("inputs", ())],
        "ModelName": model.get("model"),
        "ModelVersion": model.get("version"),
        "ModelSHA256": model.get("sha256"),
        "FilteredFraction": model.get("filtered_fraction"),
        "FilterMarginMM": model.get("margin_mm"),
        "Resampling": provenance.get("resampling"),
        "Device": model.get("device"),
        "Provider": model.get("provider"),
    }
    said = {key: value for key, value in known.items() if value not in (None, "", [])}
    return {**said, **_of_map(volume), "Warnings": list(volume.warnings), "qctrunVersion": VERSION}


def _of_map(volume: Volume) -> dict[str, Any]:
    """What a local map says more: its sphere, its threshold, and what a voxel without a value holds."""
    how = volume.provenance.get("map")
    if how is None:
        return {}
    sphere = {"Shape": "sphere", "DiameterMM": how["diameter_mm"], "Voxels": how["sphere_voxels"]}
    said = {"Neighbourhood": sphere, "Where": how["where"], "EmptyValue": "NaN"}
    if "threshold_mg_cm3" not in how:
        return said
    return {
        **said,
        "Threshold": how["threshold_mg_cm3"],
        "ThresholdUnits": "mg/cm3",
        "Step": how["step"],
        "StepWidth": how["step_width_mg_cm3"],
        "StepWidthUnits": "mg/cm3",
    }
