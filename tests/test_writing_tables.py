"""The table of numbers."""

import csv
import io
import json

import pytest
import scans

from qctrun.runtime.measuring import MapMeans, Parameters
from qctrun.runtime.writing import COLUMNS, csv_text, dictionary_text, parameter_rows, rows_text, table_text
from qctrun.runtime.writing.tables import Row


@pytest.fixture
def rows() -> list[Row]:
    volume = scans.density()
    line = {"slope": 0.8, "intercept": -2.5, "material": "HA", "source": "guess, of 1", "nominal": True}
    line["error"] = {"density_se_mg_cm3": 3.5}
    nominal = volume.with_array(volume.array, provenance={"calibration": line})
    found = [
        Parameters(None, 225.0, 1000, 10.5, 120.125, 80.0, 0.25, 400.0, 250),
        Parameters(20, 225.0, 1, 0.01, 100.0, float("nan"), 0.0, None, 0),
    ]
    means = {
        None: MapMeans(
            {"BMD": 119.0, "SD": 79.0, ("BVTV", 225.0): 0.24, ("TMD", 225.0): 399.0}, 900, {225.0: 7}
        ),
        20: MapMeans({"BMD": None, "SD": None, ("BVTV", 225.0): None, ("TMD", 225.0): None}, 0, {225.0: 0}),
    }
    return parameter_rows(
        nominal,
        found,
        means,
        image="a.nii",
        case_id="a",
        mask="m.nii",
        labels="l.nii",
        diameter_mm=4.3,
        step="fuzzy",
    )


def test_every_row_has_every_column_in_order(rows: list[Row]) -> None:
    assert [list(row) for row in rows] == [list(COLUMNS)] * 2


def test_the_csv_is_tidy(rows: list[Row]) -> None:
    whole, label = csv.DictReader(io.StringIO(csv_text(rows)))
    assert list(whole) == list(COLUMNS)
    assert whole["label_id"] == "n/a"
    assert whole["label_name"] == "whole mask"
    assert whole["bmd_mg_cm3"] == "120.125"
    assert whole["local_spheres_bvtv_under_1pct"] == "7"
    assert (whole["mask"], whole["labels"]) == ("m.nii", "l.nii")
    assert whole["calibration_nominal"] == "true"
    assert (whole["calibration_slope"], whole["calibration_intercept_mg_cm3"]) == ("0.8", "-2.5")
    assert whole["calibration_source"] == "guess, of 1"
    assert whole["calibration_density_se_mg_cm3"] == "3.5"
    assert label["label_id"] == "20"
    assert {name for name, value in label.items() if value == "n/a"} == {
        "label_name",
        "bmd_sd_mg_cm3",
        "tmd_mg_cm3",
        "local_bmd_mean_mg_cm3",
        "local_sd_mean_mg_cm3",
        "local_bvtv_mean",
        "local_tmd_mean_mg_cm3",
    }


def test_the_json_has_the_same_rows(rows: list[Row]) -> None:
    assert json.loads(rows_text(rows)) == rows


def test_the_dictionary_describes_every_column() -> None:
    described = json.loads(dictionary_text())
    assert list(described) == list(COLUMNS)
    assert all(entry["Description"].endswith((".", ")")) for entry in described.values())


def test_column_names_are_snake_case_with_the_unit_last() -> None:
    assert all(name == name.lower() and name.isidentifier() for name in COLUMNS)
    densities = [name for name in COLUMNS if any(word in name for word in ("bmd", "tmd", "sd", "threshold"))]
    assert all(name.endswith("_mg_cm3") for name in densities)


def test_the_table_for_people_is_aligned(rows: list[Row]) -> None:
    head, *lines = table_text(rows).splitlines()
    assert "mg/cm3" in head
    assert "m.nii" in head
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["label", "threshold", "BMD"]
    assert [line.split()[0] for line in lines[1:]] == ["all", "20"]


def test_a_line_that_is_not_known_is_missing() -> None:
    line = {"slope": None, "intercept": None, "material": "HA", "source": "elsewhere", "nominal": False}
    volume = scans.density().with_array(scans.density().array, provenance={"calibration": line})
    found = [Parameters(None, 225.0, 0, 0.0, float("nan"), float("nan"), float("nan"), None, 0)]
    means = {
        None: MapMeans({"BMD": None, "SD": None, ("BVTV", 225.0): None, ("TMD", 225.0): None}, 0, {225.0: 0})
    }
    words = {"image": "a", "case_id": "a", "mask": "none", "labels": "none", "step": "fuzzy"}
    rows = parameter_rows(volume, found, means, diameter_mm=4.3, **words)
    (row,) = csv.DictReader(io.StringIO(csv_text(rows)))
    assert (row["calibration_slope"], row["calibration_intercept_mg_cm3"]) == ("n/a", "n/a")
    assert row["calibration_source"] == "elsewhere"
    assert (row["voxels"], row["bmd_mg_cm3"], row["bvtv"]) == ("0", "n/a", "n/a")
    assert json.loads(rows_text(rows))[0]["bvtv"] is None
