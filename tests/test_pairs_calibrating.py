"""The line of a scan of a study, by every way a study may ask for, and what is said of numbers that are no HU."""

import json
from dataclasses import replace

import numpy as np
import phantom_scans
import pytest
from scipy import ndimage

from qctrun.runtime.calibrating.phantoms import shipped
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.calibration import Calibration
from qctrun.runtime.volume import Grid, Volume
from qctrun.train.pairs.calibrating import calibrated, odd_lines
from qctrun.train.pairs.choices import CalibrationChoice
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.hounsfield import air_shares, require_hu

GRID = Grid((24, 40, 40), (1.0, 0.6, 0.6))
GAIN, OFFSET = 1.25, -10.0
BY = {way: CalibrationChoice(way) for way in ("reference", "line", "file", "rods")}
LINE = CalibrationChoice("line", slope=1 / GAIN, intercept=-OFFSET / GAIN, material="HA")


def specimen(around: float | None = 0.0) -> tuple[Fixed, Volume]:
    """A cylinder of bone in a medium, and its scan in HU; None around: air, in HU."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, GRID.size), (2.5, 4, 4))
    z, y, x = np.indices(GRID.size)
    inside = (np.hypot(y - 20, x - 20) < 14) & (np.abs(z - 12) < 10)
    density = np.where(inside, 150 + 60 * field / field.std(), 0 if around is None else around)
    hu = GAIN * density + OFFSET
    if around is None:
        hu[~ndimage.binary_dilation(inside, iterations=2)] = -1000
    provenance = {"scan": {"kvp": 120.0, "manufacturer": "A", "kernel": "B", "series_uid": "1"}}
    return Fixed(Volume(density, GRID, "mg/cm3", "HA"), inside, {}), Volume(
        hu, GRID, "HU", provenance=provenance
    )


def as_density(scan: Volume, slope: float = 1 / GAIN, intercept: float = -OFFSET / GAIN) -> Volume:
    """The same calibrated already, under the name of HU."""
    return scan.with_array(slope * scan.array + intercept)


def test_by_reference_a_scan_becomes_density_with_error_picture_and_bounds(tmp_path):
    fixed, scan = specimen()
    grain = np.random.default_rng(1).normal(0, 150, GRID.size)
    array = (scan.array + grain).astype(np.float32)
    array[:3] = np.nan
    on_grid = scan.with_array(array)
    found = calibrated(scan, on_grid, fixed, BY["reference"], tmp_path / "a")
    assert found.volume.unit == "mg/cm3" and found.volume.material == "HA"
    assert found.line.slope == pytest.approx(1 / GAIN, rel=0.03)
    np.testing.assert_allclose(
        found.volume.array, found.line.slope * array + found.line.intercept, rtol=1e-5, atol=1e-3
    )
    assert (
        found.slope_bounds is not None and found.slope_bounds[0] < found.line.slope == found.slope_bounds[1]
    )
    assert {"r2", "slope_se", "residual_mg_cm3"} <= set(found.line.error)
    assert found.picture is not None and found.picture.startswith(b"\x89PNG")
    assert found.line.measured_in == {
        "kvp": 120.0,
        "manufacturer": "A",
        "kernel": "B",
        "series_uid": "1",
    }
    json.dumps(found.line.as_dict(), allow_nan=False)


def test_by_line_and_by_file_the_given_line_is_used_and_checked(tmp_path):
    fixed, scan = specimen()
    found = calibrated(scan, scan, fixed, LINE, tmp_path / "a")
    np.testing.assert_allclose(found.volume.array, fixed.density.array, atol=1e-2)
    assert found.picture is None and found.slope_bounds is None and found.line.warnings == ()
    off = calibrated(scan, scan, fixed, replace(LINE, slope=1.3 / GAIN), tmp_path / "a")
    assert "makes 1.040 mg/cm3 of a HU, but the regression on the reference 0.800" in off.volume.warnings[0]
    with pytest.raises(InputError, match=r"wanted calibration.json beside the scan, got none"):
        calibrated(scan, scan, fixed, BY["file"], tmp_path / "scan.nii.gz")
    text = json.dumps({"slope": 0.7, "intercept": 1, "material": "HA"})
    (tmp_path / "calibration.json").write_text(text)
    beside = calibrated(scan, scan, fixed, BY["file"], tmp_path / "scan.nii.gz")
    (tmp_path / "other.json").write_text(text.replace("0.7", "0.8"))
    choice = CalibrationChoice("file", file=tmp_path / "other.json")
    named = calibrated(scan, scan, fixed, choice, tmp_path / "scan.nii.gz")
    assert (beside.line.slope, named.line.slope) == (0.7, 0.8)


def test_a_line_to_another_material_than_the_references_is_refused(tmp_path):
    fixed, scan = specimen()
    with pytest.raises(InputError, match="wanted a line to HA, the reference's material, got one to K2HPO4"):
        calibrated(scan, scan, fixed, replace(LINE, material="K2HPO4"), tmp_path / "a")


def test_by_rods_the_phantom_in_the_raw_scan_gives_the_line(tmp_path):
    phantom = shipped()["qrm-bdc-6"]
    raw = phantom_scans.scan(phantom_scans.Scene(), phantom)
    fixed, scan = specimen()
    choice = CalibrationChoice("rods", phantom="qrm-bdc-6")
    found = calibrated(raw, scan, fixed, choice, tmp_path / "a")
    assert found.line.slope == pytest.approx(0.8, rel=0.02) and found.picture is not None
    assert found.volume.grid == GRID
    with pytest.raises(InputError, match=r"a: rods"):
        calibrated(scan, scan, fixed, choice, tmp_path / "a")


def test_densities_that_say_they_are_hu_are_refused_where_air_gives_them_away(tmp_path):
    fixed, scan = specimen(around=None)
    assert calibrated(scan, scan, fixed, BY["reference"], tmp_path / "a").line.warnings == ()
    density = as_density(scan)
    with pytest.raises(InputError, match=r"a: wanted HU, got densities by the look of them \(1\.000 mg/cm3"):
        calibrated(density, density, fixed, BY["reference"], tmp_path / "a")
    told = calibrated(density, density, fixed, LINE, tmp_path / "a").line.warnings
    assert "densities by the look of them" in told[0] and "0.800 mg/cm3 of a HU" in told[1]


def test_densities_are_known_by_their_air_also_where_the_fit_is_poor():
    _, scan = specimen(around=None)
    poor = {"slope_se": 0.12, "intercept_se_mg_cm3": 17.0}
    line = Calibration(1.08, -14.0, "HA", "test", error=poor)
    with pytest.raises(InputError, match="densities by the look of them"):
        require_hu(as_density(scan), line, "it", measured=True)
    assert require_hu(scan, line, "it", measured=True) == []
    good = replace(line, error={"slope_se": 0.02, "intercept_se_mg_cm3": 3.0})
    assert require_hu(as_density(scan), good, "it", measured=True) == []


def test_without_air_nobody_can_know_and_that_is_told(tmp_path):
    fixed, scan = specimen(around=0.0)
    density = as_density(scan)
    (told,) = calibrated(density, density, fixed, BY["reference"], tmp_path / "a").volume.warnings
    assert "are these HU?" in told and "no air in the scan tells more" in told


@pytest.mark.parametrize("gain", [0.99, 1.1, 1.25, 1.4])
def test_real_lines_are_never_taken_for_those_of_densities(gain, tmp_path):
    """0.7 to 1 mg/cm3 per HU, the last of K2HPO4 at a high voltage; noise that is cut off at -1024 HU."""
    fixed, scan = specimen(around=None)
    bone = np.where(scan.array > -900, gain / GAIN * (scan.array - OFFSET), -1000)
    noisy = np.maximum(bone + np.random.default_rng(2).normal(0, 200, GRID.size), -1024)
    real = scan.with_array(noisy)
    told = calibrated(real, real, fixed, BY["reference"], tmp_path / "a").line.warnings
    assert not any("HU?" in words for words in told)


def test_numbers_with_another_zero_are_refused(tmp_path):
    fixed, scan = specimen()
    raised = scan.with_array(scan.array + 1024)
    with pytest.raises(InputError, match=r"wanted HU, in which density 0 reads -200 to 200, got 101\d"):
        calibrated(raised, raised, fixed, BY["reference"], tmp_path / "a")


def test_air_is_known_by_medians_and_what_is_outside_of_the_circle_does_not_count():
    array = np.full((8, 32, 32), -1000.0, np.float32)
    assert air_shares(Volume(array, Grid(array.shape, (1, 1, 1)), "HU")) == (1.0, 0.0)
    noisy = np.maximum(array + np.random.default_rng(0).normal(0, 500, array.shape), -1024)
    assert noisy.mean() > -850
    assert air_shares(Volume(noisy, Grid(array.shape, (1, 1, 1)), "HU"))[0] > 0.9
    array[:, :16] = -2000
    array[:4, 16:] = -800
    assert air_shares(Volume(array, Grid(array.shape, (1, 1, 1)), "HU")) == (0.25, 0.25)


def line(slope: float, intercept: float = 0.0, kvp: float = 120.0) -> Calibration:
    return Calibration(slope, intercept, "HA", "test", measured_in={"kvp": kvp, "manufacturer": "A"})


def test_a_line_far_from_its_fellows_is_named_and_scatter_is_not():
    usual = {f"s{k}": line(0.8 + 0.01 * (k % 3), 2.0 * (k % 2)) for k in range(8)}
    assert odd_lines(usual) == []
    (told,) = odd_lines({**usual, "odd": line(1.0)})
    assert told.startswith("odd: its line, 1.000 HU +0.0, is far from") and "calibrated before" in told
    (told,) = odd_lines({**usual, "odd": line(0.8, 40.0)})
    assert told.startswith("odd")
    # The other voltage has a line of its own; of three lines nobody knows which is wrong.
    assert odd_lines({**usual, "other": line(1.0, kvp=140.0)}) == []
    assert odd_lines({"a": line(0.8), "b": line(0.8), "c": line(1.2)}) == []
