"""The paper's regression on a reference scan: the line that made the scan comes back, noise or not."""

import re

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import linregress

from qctrun.runtime.calibrating.reference import reference_line
from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import Grid, Volume

GRID = Grid((16, 40, 40), (1.0, 0.6, 0.6))
GAIN, OFFSET = 1.25, -10.0


def bone(seed: int = 0) -> np.ndarray:
    """Density that varies from place to place, mg/cm3."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, GRID.size), (2.5, 4, 4))
    return 150 + 60 * field / field.std()


def pair(noise_hu: float = 0.0, seed: int = 0) -> tuple[Volume, Volume]:
    """A scan in HU and its reference."""
    density = bone()
    grain = np.random.default_rng(seed + 1).normal(0, 1, GRID.size)
    hu = GAIN * density + OFFSET + noise_hu * grain
    return Volume(hu, GRID, "HU"), Volume(density, GRID, "mg/cm3", "HA")


def test_without_noise_the_line_comes_back():
    found = reference_line(*pair())
    assert found.calibration.slope == pytest.approx(1 / GAIN, rel=1e-3)
    assert found.calibration.intercept == pytest.approx(-OFFSET / GAIN, abs=0.2)
    assert found.calibration.material == "HA"
    assert found.calibration.error["r2"] > 0.9999
    np.testing.assert_allclose(found.values_hu, GAIN * found.densities_mg_cm3 + OFFSET, atol=0.1)


def test_noise_does_not_flatten_the_line_and_its_error_is_said():
    slopes, at_150, errors, other = [], [], [], []
    for seed in range(12):
        found = reference_line(*pair(400.0, seed))
        line, error = found.calibration, found.calibration.error
        slopes.append(line.slope)
        at_150.append(line.slope * (GAIN * 150 + OFFSET) + line.intercept)
        errors.append(error["density_se_mg_cm3"])
        other.append(linregress(found.values_hu[found.kept], found.densities_mg_cm3[found.kept]).slope)
        assert error["slope_bounds"] == [pytest.approx(other[-1]), line.slope]
    assert np.mean(slopes) == pytest.approx(1 / GAIN, rel=0.03)
    assert np.mean(other) < 0.95 / GAIN
    assert np.mean(at_150) == pytest.approx(150, abs=3)
    # One standard error, by counting spheres and not voxels, is about the scatter over repeated scans.
    assert np.std(at_150) / 3 < np.mean(errors) < 3 * np.std(at_150)


def test_what_is_said_of_a_poor_fit_holds_the_true_slope():
    """The slopes of both ways alone do not: noise moves both to the same side."""
    held, alone = [], []
    for seed in range(12):
        found = reference_line(*pair(700.0, seed)).calibration
        (words,) = (words for words in found.warnings if "go together poorly" in words)
        low, high = map(float, re.findall(r"from (-?[\d.]+) to ([\d.]+)", words)[0])
        held.append(low < 1 / GAIN < high)
        alone.append(found.error["slope_bounds"][0] < 1 / GAIN < found.error["slope_bounds"][1])
    assert sum(alone) < sum(held) and sum(held) >= 11


def test_a_slope_from_little_bone_is_told_as_uncertain():
    """In a small mask the two go together well, and the slope is uncertain all the same."""
    z, y, x = np.indices(GRID.size)
    inside = (np.hypot(y - 20, x - 20) < 12) & (np.abs(z - 8) < 6)
    scan, reference = pair(150.0, 2)
    found = reference_line(scan, reference, inside).calibration
    assert found.error["r2"] > 0.9
    (words,) = found.warnings
    assert f"the slope is {found.slope:.3f} +- {2 * found.error['slope_se']:.3f}" in words
    assert reference_line(*pair(150.0, 2)).calibration.warnings == ()


def test_only_the_mask_counts():
    scan, reference = pair()
    z, y, x = np.indices(GRID.size)
    inside = (np.hypot(y - 20, x - 20) < 12) & (np.abs(z - 8) < 5)
    spoilt = scan.array.copy()
    spoilt[:, :3] = 3000
    found = reference_line(scan.with_array(spoilt), reference, inside)
    assert found.calibration.slope == pytest.approx(1 / GAIN, rel=1e-3)
    assert 0.5 * inside.sum() < found.calibration.error["voxels"] < inside.sum()


@pytest.mark.parametrize("outside", [0.0, -300.0, 2000.0])
def test_a_reference_that_ends_at_the_mask_gives_the_same_line(outside):
    scan, reference = pair()
    z, y, x = np.indices(GRID.size)
    inside = (np.hypot(y - 20, x - 20) < 12) & (np.abs(z - 8) < 5)
    cut = reference.with_array(np.where(inside, reference.array, outside).astype(np.float32))
    found = reference_line(scan, cut, inside).calibration
    assert (found.slope, found.intercept) == (
        pytest.approx(1 / GAIN, rel=1e-3),
        pytest.approx(-OFFSET / GAIN, abs=0.2),
    )


def test_a_poor_match_is_warned_of():
    scan, reference = pair()
    assert reference_line(scan, reference).calibration.warnings == ()
    moved = reference.with_array(np.roll(reference.array, 3, 2))
    (warning,) = reference_line(scan, moved).calibration.warnings
    assert "go together poorly (R2 0." in warning and "check the registration" in warning


def test_what_does_not_go_together_is_refused():
    scan, reference = pair()
    moved = Volume(reference.array, Grid(GRID.size, GRID.spacing, (0.5, 0, 0)), "mg/cm3", "HA")
    with pytest.raises(
        InputError, match=r"reference: wanted the scan's grid, got origin.*register the reference"
    ):
        reference_line(scan, moved)
    with pytest.raises(InputError, match="wanted a density of HA or K2HPO4"):
        reference_line(scan, Volume(reference.array, GRID, "1"))
    with pytest.raises(InputError, match=r"got 0\.0. HU per mg/cm3 and R2|R2 0\.0"):
        reference_line(scan, reference.with_array(bone(9)))
    with pytest.raises(InputError, match=r"got -1\.25 HU per mg/cm3"):
        reference_line(scan.with_array(-scan.array), reference)
    with pytest.raises(InputError, match="the same everywhere"):
        reference_line(scan, reference.with_array(np.full(GRID.size, 150.0)))
    small = np.zeros(GRID.size, bool)
    small[8, 18:22, 18:22] = True
    with pytest.raises(InputError, match="a mask of 10 spheres"):
        reference_line(scan, reference, small)


def body() -> np.ndarray:
    """A cylinder of bone with all of its millimetre of rim inside the volume."""
    z, y, x = np.indices(GRID.size)
    return (np.hypot(y - 20, x - 20) < 15) & (np.abs(z - 7.5) < 7)


def test_cortex_blurred_into_the_mask_does_not_bend_the_line():
    """The scan blurs a dense shell a voxel into the mask, the reference does not."""
    inside = body()
    shell = ndimage.binary_dilation(inside) & ~inside
    density = np.where(shell, 900.0, np.where(inside, bone(), 0.0))
    blurred = ndimage.gaussian_filter(density, (0.3, 0.5, 0.5))
    only_rim = np.where(inside, GAIN * density + OFFSET, GAIN * blurred + OFFSET)
    edge = inside & ~ndimage.binary_erosion(inside)
    scan = Volume(np.where(edge, GAIN * blurred + OFFSET, only_rim), GRID, "HU")
    found = reference_line(scan, Volume(density, GRID, "mg/cm3", "HA"), inside)
    assert found.calibration.slope == pytest.approx(1 / GAIN, rel=1e-3)
    assert found.calibration.error["rim_mm"] == 1.0


def test_the_whole_of_a_thin_mask_counts_and_that_is_told():
    scan, reference = pair()
    plates = np.zeros(GRID.size, bool)
    plates[::3] = True
    found = reference_line(scan, reference, plates).calibration
    assert found.slope == pytest.approx(1 / GAIN, rel=1e-3)
    assert found.error["rim_mm"] == 0 and "too small to leave out its rim" in found.warnings[0]


@pytest.mark.parametrize("reads_hu", [6000.0, -3000.0])
def test_metal_in_the_scan_is_left_out_and_that_is_told(reads_hu):
    scan, reference = pair(100.0)
    spoilt = scan.array.copy()
    spoilt[7:10, 10:13, 10:13] = reads_hu
    found = reference_line(scan.with_array(spoilt), reference, body())
    assert found.calibration.slope == pytest.approx(1 / GAIN, rel=0.02)
    assert 0.02 < found.calibration.error["left_out"] < 0.2
    assert "does not go with the rest" in found.calibration.warnings[0]


def test_metal_that_is_in_both_does_not_draw_the_line_to_itself():
    """Far denser than bone, and not as dense in one as in the other: a plain fit would go through it."""
    scan, reference = pair(100.0)
    there = slice(7, 10), slice(10, 13), slice(10, 13)
    in_scan, in_reference = scan.array.copy(), reference.array.copy()
    in_scan[there], in_reference[there] = 3000, 6000
    found = reference_line(scan.with_array(in_scan), reference.with_array(in_reference), body())
    assert found.calibration.slope == pytest.approx(1 / GAIN, rel=0.02)


def test_a_scan_that_is_blurred_more_than_its_reference_gets_the_same_line():
    grid = Grid((40, 60, 60), (0.5, 0.5, 0.5))
    field = ndimage.gaussian_filter(np.random.default_rng(3).normal(0, 1, grid.size), 2.0, mode="wrap")
    density = 150 + 60 * field / field.std()
    blurred = ndimage.gaussian_filter(density, (1.0, 0.5, 0.5), mode="wrap")
    scan = Volume(GAIN * blurred + OFFSET, grid, "HU")
    inside = np.zeros(grid.size, bool)
    inside[4:-4, 6:-6, 6:-6] = True
    found = reference_line(scan, Volume(density, grid, "mg/cm3", "HA"), inside)
    plain = linregress(found.densities_mg_cm3, found.values_hu).slope
    line = found.calibration
    assert plain < 0.98 * GAIN
    assert line.slope == pytest.approx(1 / GAIN, rel=5e-3)
    assert line.error["blur_mm2"]["axial"] == pytest.approx(0.5**2, rel=0.2)
    # Half a voxel of blur, sampled on voxels, has a variance of 0.21 voxels and not of 0.25.
    assert line.error["blur_mm2"]["in_plane"] == pytest.approx(0.21 * 0.25, rel=0.15)


def test_where_the_scan_does_not_reach_nothing_is_compared():
    scan, reference = pair()
    cut = scan.array.copy()
    cut[:, :12] = np.nan
    for mask in (None, body()):
        found = reference_line(scan.with_array(cut), reference, mask)
        assert found.calibration.slope == pytest.approx(1 / GAIN, rel=2e-3)
        assert np.isfinite(found.values_hu).all()
    with pytest.raises(InputError, match=r"got one of 0\.0"):
        reference_line(scan.with_array(np.full(GRID.size, np.nan)), reference, body())
