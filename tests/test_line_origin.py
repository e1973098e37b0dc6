"""A line that was measured in another scan does not pass unnoticed."""

import json

import numpy as np
import pytest
from dicom_series import write_series
from phantom_scans import Scene, scan

from qctrun.runtime import Filter, filter_and_measure
from qctrun.runtime.calibrating.finding import find_rods
from qctrun.runtime.calibrating.phantoms import shipped
from qctrun.runtime.calibrating.reference import reference_line
from qctrun.runtime.calibrating.rods_line import rods_line
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import Calibration, load_calibration, read, read_hu
from qctrun.runtime.volume import Grid, Volume

QRM = shipped()["qrm-bdc-6"]
HERE = {"kvp": 120.0, "kernel": "B60", "manufacturer": "ACME", "series_uid": "1.2.3"}


@pytest.fixture
def folder(tmp_path):
    write_series(tmp_path / "scan", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    return tmp_path / "scan"


def line(**measured_in):
    return Calibration(0.8, 0.0, "HA", "rods", measured_in={**HERE, **measured_in})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kvp": 100, "series_uid": "9"}, "tube voltage (kVp) 100 there, 120 here;"),
        ({"kernel": "B30", "series_uid": "9"}, "kernel B30 there, B60 here;"),
        ({"manufacturer": "Other X1", "series_uid": "9"}, "scanner Other X1 there, ACME here;"),
        ({"series_uid": "9"}, "measured in another series"),
    ],
)
def test_a_line_of_another_scan_is_warned_of_first(folder, changes, words):
    warning = read(folder, calibration=line(**changes)).warnings[0]
    assert warning.startswith("calibration: ") and words in warning
    assert ("WRONG LINE?" in warning) == (len(changes) > 1)


@pytest.mark.parametrize(
    "known",
    [
        HERE,
        {**HERE, "kernel": "renamed"},
        {"kvp": "120", "manufacturer": "Acme Model 5", "kernel": "b60"},
        {"kernel": "B60"},
        {},
        None,
    ],
    ids=["same", "same series", "other spelling", "no series", "nothing", "none"],
)
def test_the_same_scan_and_what_is_not_known_are_no_reason_to_warn(folder, known):
    assert read(folder, calibration=Calibration(0.8, 0.0, "HA", "rods", measured_in=known)).warnings == ()


def test_a_file_carries_it_and_so_do_outputs(folder, tmp_path):
    path = tmp_path / "line.json"
    path.write_text(json.dumps(line(kvp=80.0, series_uid="9").as_dict()))
    assert load_calibration(path).measured_in["kvp"] == 80.0
    volume = read(folder, calibration=path)
    assert volume.provenance["calibration"]["measured_in"]["series_uid"] == "9"
    assert "WRONG LINE?" in volume.warnings[0]
    path.write_text(json.dumps({**line().as_dict(), "measured_in": "a scan"}))
    with pytest.raises(InputError, match="calibration measured_in: wanted a JSON object or null"):
        load_calibration(path)


def test_what_is_filtered_in_one_go_is_warned_too(folder):
    network = Filter(device="cpu", threads=1)
    trip = filter_and_measure(read_hu(folder), network, (225,), calibration=line(kvp=80.0, series_uid="9"))
    assert any("WRONG LINE?" in warning for warning in trip.filtered.warnings)


def test_lines_by_rods_and_by_a_reference_know_their_scan():
    volume = scan(Scene(), QRM)
    known = {"scan": {**HERE, "padding_voxels": 7}}
    volume = volume.with_array(volume.array, provenance=known)
    assert rods_line(volume, QRM, find_rods(volume, QRM)).calibration.measured_in == HERE
    grid = Grid((12, 30, 30), (1.0, 0.5, 0.5))
    density = np.linspace(50, 250, 12 * 30 * 30).reshape(grid.size).astype(np.float32)
    hu = Volume(density / 0.8, grid, "HU", provenance=known)
    found = reference_line(hu, Volume(density, grid, "mg/cm3", "HA"))
    assert found.calibration.measured_in == HERE
    assert found.calibration.as_dict()["measured_in"] == HERE
