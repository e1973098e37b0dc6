"""Lines through rods: exact where the rods are, robust where one is pulled, and honest about both."""

import numpy as np
import pytest
from scipy.stats import linregress

from qctrun.runtime.calibrating.drift import drift_of, slice_lines
from qctrun.runtime.calibrating.line import in_tissue, plain_line, robust_line

DENSITIES = np.array([0, 100, 200, 400, 600, 800.0])
SOUND = 1.25 * DENSITIES - 8


def test_rods_in_line_give_their_line():
    line = robust_line(DENSITIES, SOUND, np.zeros(6))
    assert (line.slope, line.intercept) == (pytest.approx(0.8), pytest.approx(6.4))
    assert line.kept.all()
    assert line.residual_mg_cm3 == pytest.approx(0, abs=1e-9)
    # Six rods that happen to lie in line are not known better than to 5 HU each.
    weight = np.linalg.inv(np.vstack([DENSITIES, np.ones(6)]) @ np.vstack([DENSITIES, np.ones(6)]).T)
    assert line.errors[0] == pytest.approx(5 * np.sqrt(weight[0, 0]) / 1.25**2)
    # The intercept is the density of 0 HU, and so is its error.
    assert line.errors[1] == pytest.approx(line.density_error(line.intercept))


@pytest.mark.parametrize("bad", range(6))
@pytest.mark.parametrize("by", [-150, 60])
def test_one_pulled_rod_is_left_out_wherever_it_is(bad, by):
    values = SOUND + by * (np.arange(6) == bad)
    line = robust_line(DENSITIES, values, np.zeros(6))
    assert line.kept.tolist() == (np.arange(6) != bad).tolist()
    assert (line.slope, line.intercept) == (pytest.approx(0.8), pytest.approx(6.4))
    assert line.residuals_hu[bad] == pytest.approx(by)
    assert abs(plain_line(DENSITIES, values).slope - 0.8) > 0.001


def test_two_pulled_rods_are_left_out_of_six_but_not_of_five():
    values = SOUND + np.array([0, 0, 90, 70, 0, 0])
    assert robust_line(DENSITIES, values, np.zeros(6)).kept.tolist() == [True, True, False, False, True, True]
    assert robust_line(DENSITIES[:5], values[:5], np.zeros(5)).kept.all()


def test_a_rod_with_streaks_counts_less_and_is_kept():
    values = SOUND + np.array([0, 0, 40, 40, 0, 0])
    line = robust_line(DENSITIES, values, [2, 2, 50, 50, 2, 2])
    assert line.kept.all()
    assert line.pulled.tolist() == [False, False, True, True, False, False]
    assert line.intercept == pytest.approx(6.4, abs=1)
    assert abs(plain_line(DENSITIES, values).intercept - 6.4) > 10


def test_where_it_cannot_be_told_which_rods_are_wrong_all_are_kept_and_the_error_grows():
    values = SOUND + np.array([80, -80, 70, -70, 60, -90])
    line = robust_line(DENSITIES, values, np.zeros(6))
    assert line.kept.all()
    assert line.errors[1] > 5 * robust_line(DENSITIES, SOUND, np.zeros(6)).errors[1]
    three = robust_line([0, 100, 200], [0, 300, 250], np.zeros(3))
    assert three.kept.all()


def test_errors_are_those_of_least_squares_where_residuals_exceed_the_tolerance():
    values = SOUND + np.array([30, -20, 10, -30, 30, -20])
    line = plain_line(DENSITIES, values)
    oracle = linregress(DENSITIES, values)
    assert np.sqrt(np.diag(line.covariance)) == pytest.approx([oracle.stderr, oracle.intercept_stderr])
    # Errors of slope and intercept of the line turned round, against a simulation of noisy rods.
    drawn = np.random.default_rng(0).normal(0, 25, (4000, 6)) + SOUND
    lines = [plain_line(DENSITIES, each) for each in drawn]
    slopes, intercepts = (np.std([getattr(each, name) for each in lines]) for name in ("slope", "intercept"))
    mean = np.mean([np.square(each.errors) for each in lines], axis=0) ** 0.5
    assert mean == pytest.approx([slopes, intercepts], rel=0.08)
    at = [each.slope * (1.25 * 150 - 8) + each.intercept for each in lines]
    assert np.mean([each.density_error(150) ** 2 for each in lines]) ** 0.5 == pytest.approx(
        np.std(at), rel=0.08
    )


def test_regressing_ct_numbers_on_densities_does_not_flatten_the_line():
    drawn = np.random.default_rng(1).normal(0, 150, (3000, 6)) + SOUND
    ours = np.mean([plain_line(DENSITIES, each).gain_hu for each in drawn])
    other = np.mean([linregress(each, DENSITIES).slope for each in drawn])
    assert ours == pytest.approx(1.25, rel=0.01)
    assert other < 0.8 * 0.92


def test_the_water_correction_is_that_of_the_guide():
    densities, water = (
        np.array([-51.83, -53.40, 58.88, 157.05, 375.83]),
        [1012.25, 1056.95, 1103.57, 1119.52, 923.20],
    )
    sigma_ref, beta_ref = 1.46, -1004.0
    hu = np.array(water) + sigma_ref * densities + beta_ref
    line = in_tissue(robust_line(densities, hu - (np.array(water) - 999.6), np.zeros(5)))
    sigma_ct, beta_ct = sigma_ref - 0.2174, beta_ref + 999.6
    assert (line.slope, line.intercept) == (pytest.approx(1 / sigma_ct), pytest.approx(-beta_ct / sigma_ct))
    # Bone of 150 mg/cm3 in water: the mineral has taken the place of 32.6 mg of water.
    bone_hu = (999.6 - 0.2174 * 150) + sigma_ref * 150 + beta_ref
    assert line.slope * bone_hu + line.intercept == pytest.approx(150)


def test_a_drift_is_measured_and_noise_is_none():
    z = np.arange(20)
    noise = np.random.default_rng(2).normal(0, 1, (6, 20))
    for drift_hu, beyond in ((0.0, False), (0.5, True)):
        slices = SOUND[:, None] + drift_hu * z + noise
        gains, offsets = slice_lines(DENSITIES, slices, np.ones(6))
        drift = drift_of(gains, offsets, (0.8, 6.4 - 0.8 * drift_hu * 9.5), 2.5)
        assert drift is not None
        assert drift.length_mm == 47.5
        # The same CT number means less density where all numbers are higher.
        assert drift.density_mg_cm3 == pytest.approx(-0.8 * drift_hu * 19, abs=1.5)
        assert drift.beyond_noise is beyond
    # Much noise in few slices looks like a drift of many mg/cm3, and is none.
    slices = SOUND[:, None] + np.random.default_rng(5).normal(0, 12, (6, 5))
    chance = drift_of(*slice_lines(DENSITIES, slices, np.ones(6)), (0.8, 6.4), 2.5)
    assert chance is not None and abs(chance.density_mg_cm3) > 3 and not chance.beyond_noise
    assert drift_of(gains[:4], offsets[:4], (0.8, 6.4), 2.5) is None
