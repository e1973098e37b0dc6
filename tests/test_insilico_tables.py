"""A population of small phantoms: seeded bit for bit, on the paper's grid, as noisy as its tables.

Truth and errors of the tables take larger vertebrae: `qctrun study check-raw` holds them against the paper.
"""

import numpy as np
import pytest

import oracles
from qctrun.train.insilico import PAPER_SPACING_MM, random_field_phantom
from qctrun.train.insilico.bone import FINE_SPACING_MM
from qctrun.train.insilico.scanner import BINNING

SIZE = (24, 48, 48)
BALL = oracles.sphere(PAPER_SPACING_MM, 4.3)
MIDDLE = (slice(4, 17), slice(8, 33), slice(8, 33))


@pytest.fixture(scope="module")
def population():
    """Twelve vertebrae of random-field bone."""
    return [random_field_phantom(SIZE, seed) for seed in range(12)]


# Seeds


def test_same_seed_same_bits():
    first, again = (random_field_phantom(SIZE, 4) for _ in range(2))
    for name in ("truth", "signal", "level", "bias"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for mas in (100.0, 360.0):
        np.testing.assert_array_equal(first.scan(mas, 1), again.scan(mas, 1))


def test_order_of_scanning_does_not_matter():
    phantom = random_field_phantom(SIZE, 4)
    late = [phantom.scan(100.0, repetition) for repetition in (0, 1, 2)][2]
    np.testing.assert_array_equal(random_field_phantom(SIZE, 4).scan(100.0, 2), late)


def test_other_seeds_repetitions_and_currents_differ(population):
    phantom, other = population[:2]
    first = phantom.scan(100.0, 0)
    noises = [scan - phantom.signal for scan in (first, phantom.scan(100.0, 1), phantom.scan(360.0, 0))]
    noises.append(other.scan(100.0, 0) - other.signal)
    for i, one in enumerate(noises):
        for another in noises[i + 1 :]:
            assert abs(np.corrcoef(one.ravel(), another.ravel())[0, 1]) < 0.1
    assert not np.array_equal(phantom.truth, other.truth)


def test_phantom_is_float32_on_the_paper_s_grid(population):
    phantom = population[0]
    assert phantom.spacing_mm == PAPER_SPACING_MM == (0.34, 0.172, 0.172)
    for array in (phantom.truth, phantom.signal, phantom.level, phantom.bias, phantom.scan(250.0, 0)):
        assert array.dtype == np.float32
        assert array.shape == SIZE
    assert tuple(f * b for f, b in zip(FINE_SPACING_MM, BINNING, strict=True)) == pytest.approx(
        PAPER_SPACING_MM
    )


# Noise


@pytest.mark.parametrize(("mas", "voxel", "bmd"), [(100.0, 323.5, 9.17), (360.0, 172.5, 4.93)])
def test_noise_over_repetitions(population, mas, voxel, bmd):
    """The paper's tables by Eq. 10-14; BMD from thirty-six spheres, so in a wider band."""
    scans = np.stack([[p.scan(mas, repetition) for repetition in range(3)] for p in population])
    assert np.sqrt(scans.var(axis=1, ddof=1).mean()) == pytest.approx(voxel, rel=0.1)
    spheres = np.array([[scan[MIDDLE][BALL].mean(dtype=np.float64) for scan in three] for three in scans])
    assert np.sqrt(spheres.var(axis=1, ddof=1).mean()) == pytest.approx(bmd, rel=0.3)
