"""Unit, material, calibration and history of an image: from its sidecar or the call."""

import json

import numpy as np
import pytest
from image_files import AS_HU, numbers, refused, write_image

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read
from qctrun.runtime.writing import write


def test_the_unit_comes_from_the_sidecar_or_the_call_and_never_from_nowhere(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_image(path, numbers())
    refused(path, r"known unit.*--unit hu or mg/cm3, or write Units into a\.json", unit=None)
    refused(path, "--unit: wanted hu or mg/cm3, got 'mgcc'", unit="mgcc")
    refused(path, "--material: wanted HA or K2HPO4, got 'CaCO3'", material="CaCO3")
    write_image(path, numbers(), Units="hu")
    refused(path, "mg/cm3 as --unit says, got HU in its sidecar", unit="mg/cm3")
    write_image(path, numbers(), Units="1")
    refused(path, "Units in its sidecar", unit=None)
    (tmp_path / "a.json").write_text("{")
    refused(path, "a.json: wanted JSON")
    (tmp_path / "a.json").write_text("[]")
    refused(path, "a.json: wanted a JSON object, got list")


def test_density_needs_a_material_and_no_calibration(tmp_path):
    path = tmp_path / "a.mha"
    write_image(path, numbers(np.float32), Units="mg/cm3")
    refused(path, "material of its density", unit=None, material=None, calibration=None)
    volume = read(path, material="k2hpo4")
    assert (volume.unit, volume.material) == ("mg/cm3", "K2HPO4")
    assert volume.provenance["calibration"]["nominal"] is False
    assert volume.warnings == ()
    refused(path, "calibrated already", unit=None)
    write_image(path, numbers(np.float32), Units="mg/cm3", CalibrationMaterial="HA")
    assert read(path).material == "HA"
    refused(path, "K2HPO4 as --material says, got HA", unit=None, calibration=None, material="K2HPO4")


def test_a_nominal_line_stays_nominal_through_a_file(tmp_path):
    path = tmp_path / "a.mha"
    line = {"slope": 0.8, "intercept": 0.0, "material": "HA", "source": "nominal line", "nominal": True}
    write_image(path, numbers(np.float32), Units="mg/cm3", CalibrationMaterial="HA", Calibration=line)
    volume = read(path)
    assert volume.provenance["calibration"] == {**line, "error": None, "measured_in": None}
    assert volume.warnings[0].startswith("NOMINAL CALIBRATION")
    with pytest.raises(InputError, match="measured calibration"):
        read(path, strict=True)


def test_the_sidecar_tells_the_tube_voltage(tmp_path):
    path = tmp_path / "a.mha"
    write_image(path, numbers(), Units="HU", KVP=120)
    volume = read(path)
    assert volume.provenance["calibration"]["nominal"] is True
    np.testing.assert_allclose(volume.array, 0.8 * numbers(), rtol=1e-6)
    write_image(path, numbers(), Units="HU", KVP="high")
    refused(path, "KVP: wanted a number", unit=None)


def test_a_sidecar_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "a.mha"
    write_image(path, numbers())
    (tmp_path / "a.json").write_text(json.dumps({"Units": "HU"}), "utf-8-sig")
    assert read(path, calibration=AS_HU, material="HA").unit == "mg/cm3"


def test_the_sidecar_tells_of_the_scanner_and_the_filter(tmp_path):
    path = tmp_path / "a.mha"
    said = {"ConvolutionKernel": "B60", "Manufacturer": "ACME", "SeriesInstanceUID": "1.2.3", "KVP": 120}
    model = {"ModelName": "nnsp", "ModelVersion": "2", "FilteredFraction": 0.25, "FilterMarginMM": 5.0}
    write_image(path, numbers(np.float32), Units="mg/cm3", CalibrationMaterial="HA", **said, **model)
    provenance = read(path).provenance
    scan = {"kvp": 120, "kernel": "B60", "manufacturer": "ACME", "series_uid": "1.2.3"}
    assert provenance["scan"] == scan
    made = {"model": "nnsp", "version": "2", "sha256": "", "outside": "raw"}
    assert provenance["filter"] == {**made, "filtered_fraction": 0.25, "margin_mm": 5.0}
    again = read(write(read(path), tmp_path / "b.mha")).provenance
    assert (again["scan"], again["filter"]["margin_mm"]) == (scan, 5.0)


def test_density_whose_line_nobody_knows_gets_none(tmp_path):
    path = tmp_path / "a.mha"
    write_image(path, numbers(np.float32), Units="mg/cm3", CalibrationMaterial="HA")
    first = read(path)
    line = first.provenance["calibration"]
    assert (line["slope"], line["intercept"], line["material"]) == (None, None, "HA")
    assert first.provenance["density_from"] == "sidecar"
    again = read(write(first, tmp_path / "b.mha"))
    assert again.provenance["calibration"] == line
    refused(
        path, "as its sidecar says; leave --calibration away; another line needs the scan in HU", unit=None
    )
    bare = tmp_path / "c.mha"
    write_image(bare, numbers(np.float32))
    assert read(bare, unit="mg/cm3", material="HA").provenance["density_from"] == "call"
    refused(bare, "as --unit says; leave --calibration away, or say --unit hu", unit="mg/cm3")
