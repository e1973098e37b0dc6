"""Lines from HU to density: where they come from, and which are refused."""

import json
import math

import numpy as np
import pytest
from dicom_series import write_series

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import Calibration, load_calibration, read
from qctrun.runtime.volume import Grid, Volume

LINE = {"slope": 0.779, "intercept": 83.9, "material": "HA", "source": "six rods", "operator": "unknown key"}


@pytest.fixture
def scan(tmp_path):
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    write_series(tmp_path / "scan", values)
    return tmp_path / "scan", values


def write_line(path, **changes):
    line = {key: value for key, value in {**LINE, **changes}.items() if value is not None}
    path.write_text(json.dumps(line))
    return path


def test_apply_is_a_line_and_leaves_its_input_alone():
    values = np.linspace(-1000, 1500, 24, dtype=np.float32).reshape(2, 3, 4)
    volume = Volume(values.copy(), Grid((2, 3, 4), (1, 1, 1)), "HU", provenance={"stem": "a"})
    line = Calibration(0.8, -5.0, "K2HPO4", "test")
    density = line.apply(volume)
    np.testing.assert_allclose(density.array, 0.8 * values - 5, rtol=1e-6)
    np.testing.assert_array_equal(volume.array, values)
    assert (density.unit, density.material) == ("mg/cm3", "K2HPO4")
    assert density.provenance == {"stem": "a", "calibration": line.as_dict()}
    with pytest.raises(InputError, match="a volume in HU, got one in mg/cm3"):
        line.apply(density)
    assert line.apply(volume, out=volume.array).array is volume.array


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ((0.0, 1.0), "slope: wanted mg/cm3 per HU above 0"),
        ((-0.8, 1.0), "slope"),
        ((math.nan, 1.0), "slope: wanted a finite number"),
        ((0.8, math.inf), "intercept: wanted a finite number"),
        ((True, 0.0), "slope: wanted a finite number"),
        ((0.8,), "two numbers"),
        ("0.8,inf", "intercept"),
        (0.8, r"calibration: wanted two numbers: slope, intercept, got 0\.8; say"),
        (np.float64(0.8), "two numbers"),
        ({"slope": 0.8}, "two numbers"),
        (np.zeros(()), "calibration: wanted"),
        ("nowhere.json", "cannot be read"),
        (
            "nowhere.json",
            r"--calibration nowhere\.json.*SLOPE,INTERCEPT like 0\.8,0 or a JSON file.*no such file",
        ),
        ("0.8", r"--calibration 0\.8: cannot be read: wanted SLOPE,INTERCEPT .*got one number"),
        ("0.8,0,1", "cannot be read"),
    ],
)
def test_unusable_lines_are_refused(given, match):
    with pytest.raises(InputError, match=match) as caught:
        load_calibration(given)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"slope": None}, "got no slope"),
        ({"intercept": None}, "got no intercept"),
        ({"material": None}, "got no material"),
        ({"slope": "0.8"}, "slope: wanted a finite number"),
        ({"slope": math.nan}, "slope: wanted a finite number"),
        ({"slope": -1}, "slope: wanted mg/cm3 per HU above 0"),
        ({"intercept": [0]}, "intercept"),
        ({"material": "chalk"}, "material: wanted HA or K2HPO4, got 'chalk'"),
        ({"material": 3}, "material: wanted HA or K2HPO4, got 3"),
        ({"source": 3}, "a text as source"),
        ({"nominal": "no"}, "true or false as nominal"),
    ],
)
def test_unusable_files_are_refused_by_key(tmp_path, changes, match):
    with pytest.raises(InputError, match=match) as caught:
        load_calibration(write_line(tmp_path / "line.json", **changes))
    assert "line.json" in str(caught.value)


def test_files_that_are_no_json_object_are_refused(tmp_path):
    path = tmp_path / "line.json"
    for text, match in (
        ("{", "wanted JSON"),
        ("[1, 2]", "a JSON object, got list"),
        ("\xff\xfe", "wanted JSON"),
    ):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match=match):
            load_calibration(path)


def test_a_file_gives_the_whole_line(tmp_path):
    path = write_line(tmp_path / "line.json")
    for given in (path, str(path)):
        assert load_calibration(given) == Calibration(0.779, 83.9, "HA", "six rods")
    assert load_calibration(write_line(path, material="k2hpo4")).material == "K2HPO4"
    assert load_calibration(write_line(path, source=None)).source == "file line.json"
    assert load_calibration(write_line(path, material=None), "K2HPO4").material == "K2HPO4"
    with pytest.raises(InputError, match=r"HA by the calibration \(six rods\) and K2HPO4 by --material"):
        load_calibration(write_line(path), "K2HPO4")


def test_numbers_without_a_material_are_taken_as_ha_and_it_is_said(scan):
    folder, values = scan
    for given in ((0.5, 2.0), "0.5,2", "0.5, 2"):
        volume = read(folder, calibration=given)
        np.testing.assert_array_equal(volume.array, 0.5 * values + 2)
        assert (volume.unit, volume.material) == ("mg/cm3", "HA")
        assert any("names no material" in warning for warning in volume.warnings)
    named = read(folder, calibration=(0.5, 2.0), material="K2HPO4")
    assert (named.material, named.warnings) == ("K2HPO4", ())


def test_a_calibration_in_the_folder_is_found_and_one_on_the_call_wins(scan):
    folder, values = scan
    write_line(folder / "calibration.json")
    found = read(folder, strict=True)
    np.testing.assert_allclose(found.array, 0.779 * values + 83.9, rtol=1e-6)
    expected = {"slope": 0.779, "intercept": 83.9, "material": "HA", "source": "six rods", "nominal": False}
    expected |= {"error": None, "measured_in": None}
    assert found.provenance["calibration"] == expected
    assert found.warnings == ()
    assert read(folder, calibration=(2.0, 0.0), material="HA").array.max() == 118
    with pytest.raises(InputError, match="one material"):
        read(folder, material="K2HPO4")
    (folder / "calibration.json").write_text("{}")
    with pytest.raises(InputError, match=r"calibration\.json: wanted slope, intercept and material"):
        read(folder)


def test_the_nominal_line_needs_120_kvp_and_warns(scan, tmp_path):
    folder, values = scan
    volume = read(folder)
    np.testing.assert_allclose(volume.array, 0.8 * values, rtol=1e-6)
    assert volume.material == "HA"
    assert volume.provenance["calibration"]["nominal"] is True
    (warning,) = volume.warnings
    assert warning.startswith("NOMINAL CALIBRATION")
    assert "0.80 HU + 0 mg/cm3 HA" in warning
    with pytest.raises(InputError, match=r"measured line \(--strict\).*--calibration"):
        read(folder, strict=True)
    with pytest.raises(InputError, match=r"a line to K2HPO4.*--calibration"):
        read(folder, material="K2HPO4")
    for kvp, words in (("100", "100 kVp"), (None, "unknown"), ("", "unknown")):
        write_series(tmp_path / f"kvp{kvp}", values, KVP=kvp)
        with pytest.raises(InputError, match=rf"tube voltage is {words}; give --calibration"):
            read(tmp_path / f"kvp{kvp}")


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8, int])
def test_numbers_of_any_real_type_are_taken_and_become_plain_floats(kind):
    for line in (Calibration(kind(2), kind(3), "HA", "test"), load_calibration((kind(2), kind(3)), "HA")):
        assert (line.slope, line.intercept) == (2.0, 3.0)
        assert type(line.slope) is type(line.intercept) is float
        json.dumps(line.as_dict())


@pytest.mark.parametrize("bad", [np.float32("nan"), np.bool_(True), 1j, None, "2", 10**400, np.array([2.0])])
def test_what_is_no_finite_real_number_is_refused(bad):
    with pytest.raises(InputError, match="calibration slope: wanted a finite number"):
        Calibration(bad, 0.0, "HA", "test")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "line.json"
    path.write_text(json.dumps(LINE), "utf-8-sig")
    assert load_calibration(path).slope == 0.779


def test_the_provenance_names_the_file_that_the_line_came_from(scan, tmp_path):
    folder, _ = scan
    other = write_line(tmp_path / "other.json", slope=0.9)
    assert "calibration_file" not in read(folder).provenance
    beside = write_line(folder / "calibration.json")
    assert read(folder).provenance["calibration_file"] == str(beside)
    for given in (other, str(other)):
        assert read(folder, calibration=given).provenance["calibration_file"] == str(other)
    for given in ((0.8, 0.0), "0.8,0", load_calibration(other)):
        assert "calibration_file" not in read(folder, calibration=given).provenance


def test_the_error_of_a_line_goes_where_the_line_goes(scan, tmp_path):
    folder, _ = scan
    error = {"residual_mg_cm3": 3.5, "warnings": ["one rod was left out"]}
    write_line(folder / "calibration.json", error=error)
    volume = read(folder)
    assert volume.provenance["calibration"]["error"] == error
    assert volume.warnings == ("calibration: one rod was left out",)
    assert load_calibration((0.8, 0.0), "HA").error is None
    assert hash(load_calibration(folder / "calibration.json"))
    for bad in (3, "small", [1]):
        with pytest.raises(InputError, match=r"calibration error: wanted a JSON object or null"):
            load_calibration(write_line(tmp_path / "bad.json", error=bad))
    # What is no list of texts is no warning, and no failure.
    assert load_calibration(write_line(tmp_path / "odd.json", error={"warnings": "x"})).warnings == ()


def test_a_slope_that_no_tube_makes_is_warned_of():
    for slope in (0.39, 0.8, 1.25):
        assert load_calibration((slope, 0.0), "HA").warnings == ()
    for text in ("83,0.79", "0.08,5"):
        (warning,) = load_calibration(text, "HA").warnings
        assert warning.startswith("UNLIKELY CALIBRATION")
        assert f"makes {text.split(',')[0]} mg/cm3 of one HU" in warning
