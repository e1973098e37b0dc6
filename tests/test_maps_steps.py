"""The hard and the fuzzy step, and the soft positive part that TMD is divided by."""

import numpy as np
import pytest
from map_cases import PAPER, middle_of, size_around, volume_of

import oracles
from qctrun.runtime.measuring import local_maps
from qctrun.runtime.measuring.kernels.formulas import fuzzy_step, soft_positive


def test_a_voxel_at_the_threshold_is_bone():
    size = size_around(PAPER, 1.548)
    at, below = np.full(size, 200, np.float32), np.full(size, np.nextafter(np.float32(200), np.float32(0)))
    maps = local_maps(volume_of(at), (200.0,), 1.548, step="hard")
    assert middle_of(maps["BVTV", 200.0]) == 1
    assert middle_of(maps["TMD", 200.0]) == pytest.approx(200, abs=0.05)
    maps = local_maps(volume_of(below), (200.0,), 1.548, step="hard")
    assert middle_of(maps["BVTV", 200.0]) == 0
    assert middle_of(maps["TMD", 200.0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("excess_mg_cm3", "bvtv"),
    # 1 / (1 + exp(-x)) for x = 0, 1, -1, 2 and far outside.
    [(0, 0.5), (10, 0.731059), (-10, 0.268941), (20, 0.880797), (9000, 1.0), (-9000, 0.0)],
)
def test_the_fuzzy_step_is_ten_mg_cm3_wide(excess_mg_cm3, bvtv):
    array = np.full(size_around(PAPER, 1.548), 225 + excess_mg_cm3, np.float32)
    assert oracles.soft_step(excess_mg_cm3) == pytest.approx(bvtv, abs=1e-6)
    found = local_maps(volume_of(array), (225.0,), 1.548)["BVTV", 225.0]
    assert middle_of(found) == pytest.approx(bvtv, abs=1e-5)


def test_the_series_of_the_fuzzy_step_is_right():
    excess = np.linspace(-500, 500, 20001)
    found = [fuzzy_step(225 + x, 225.0) for x in excess]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-excess / 10)), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("multiple", "plus"), [(0.0, 1.313), (3.5, 3.579)])
def test_the_soft_positive_part_at_the_papers_points(multiple, plus):
    assert oracles.plus_e(multiple * 1e-4) == pytest.approx(plus * 1e-4, abs=5e-8)
    assert soft_positive(multiple * 1e-4) == pytest.approx(plus * 1e-4, abs=5e-8)


def test_the_soft_positive_part_is_nothing_but_a_floor():
    fractions = np.linspace(0, 1, 1001)
    assert (oracles.plus_e(fractions) >= 1e-4).all()
    np.testing.assert_allclose(oracles.plus_e(fractions[2:]), fractions[2:], rtol=1e-3)
    np.testing.assert_allclose([soft_positive(x) for x in fractions], oracles.plus_e(fractions), rtol=1e-12)


def test_tmd_divides_by_the_soft_positive_part():
    """One bone voxel of 1000 mg/cm3 in a sphere of n = 4125: x = 1/n = 2.424e, so TMD = 1000 x / plus_e(x).

    plus_e(2.424e) = e ln(1 + exp(1.424)) + e = 2.640e: the map says 918.3, where a plain quotient says 1000
    and a quotient by max(x, e) as well.
    """
    array = np.zeros(size_around(PAPER, 4.3, room=(1, 1, 1)), np.float32)
    array[tuple(n // 2 for n in array.shape)] = 1000
    tmd = local_maps(volume_of(array), (225.0,), 4.3, step="hard")["TMD", 225.0]
    assert middle_of(tmd) == pytest.approx(918.3, abs=0.2)


def test_tmd_tends_to_zero_without_bone():
    array = np.full(size_around(PAPER, 1.548), 25, np.float32)
    for step in ("fuzzy", "hard"):
        tmd = local_maps(volume_of(array), (225.0,), 1.548, step=step)["TMD", 225.0]
        assert middle_of(tmd) == pytest.approx(0, abs=1e-3)
