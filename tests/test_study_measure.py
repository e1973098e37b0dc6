"""What the study measures in a volume, value by value, against float64 loops."""

from itertools import product

import numpy as np
import pytest

import oracles
from qctrun.runtime.errors import InputError
from qctrun.train.raster import OUTPUT, PATCH, centre, corners
from qctrun.train.study.measure import LATTICE, THRESHOLDS_MG_CM3, inside, lattice, readings, spheres

SHAPE = (30, 59, 58)
BALL = oracles.sphere(oracles.PAPER_SPACING_MM, 4.3)
HALO = (4, 8, 8)


@pytest.fixture(scope="module")
def volume():
    """Noise as strong as a scan's, denser towards the end, so that no two spheres are alike."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 300, SHAPE[0])[:, None, None]
    return (rng.normal(50, 150, SHAPE) + slope).astype(np.float32)


@pytest.fixture(scope="module")
def found(volume):
    return readings(volume)


def around(volume, middle):
    """The values in the sphere around a voxel, float64."""
    box = tuple(slice(c - n // 2, c + n // 2 + 1) for c, n in zip(middle, BALL.shape, strict=True))
    return volume[box][BALL].astype(np.float64)


def tmd_and_bvtv(values, threshold):
    """Eq. 7-8 in mg/cm3 and percent."""
    bone = oracles.soft_step(values - threshold)
    return np.mean(values * bone) / oracles.plus_e(bone.mean()), 100 * bone.mean()


def test_thresholds_of_the_paper():
    assert THRESHOLDS_MG_CM3 == (125, 150, 175, 200, 225, 250, 275, 300, 325)


def test_every_sphere_against_a_loop(volume, found):
    """In the order of the raster: BMD, and TMD and BV/TV (percent) at each threshold."""
    where = corners(SHAPE)
    assert len(where) == 8
    assert found["BMD"].shape == (8,)
    assert found["TMD"].shape == found["BV/TV"].shape == (9, 8)
    for number, corner in enumerate(where):
        values = around(volume, np.add(corner, (10, 20, 20)))
        assert found["BMD"][number] == pytest.approx(values.mean(), abs=0.05)
        for row, threshold in enumerate(THRESHOLDS_MG_CM3):
            tmd, bvtv = tmd_and_bvtv(values, threshold)
            assert found["TMD"][row, number] == pytest.approx(tmd, abs=0.05)
            assert found["BV/TV"][row, number] == pytest.approx(bvtv, abs=1e-3)


def test_all_values_are_there_and_float32(found):
    for values in found.values():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    # Percent: fractions would stay below one.
    assert 1 < found["BV/TV"].min() < found["BV/TV"].max() < 100


def test_other_thresholds_in_their_order(volume):
    where = corners(SHAPE)
    few = readings(volume, [310.0, 100.0])
    for row, threshold in enumerate((310.0, 100.0)):
        tmd, bvtv = tmd_and_bvtv(around(volume, centre(where[3])), threshold)
        assert few["TMD"][row, 3] == pytest.approx(tmd, abs=0.05)
        assert few["BV/TV"][row, 3] == pytest.approx(bvtv, abs=1e-3)


def test_spheres_where_they_are_asked_for(volume):
    """Off the raster, in any order, and one of them twice."""
    where = [(9, 18, 17), (0, 0, 0), (5, 3, 11), (9, 18, 17)]
    got = spheres(volume, where, [225.0])
    for number, corner in enumerate(where):
        values = around(volume, centre(corner))
        tmd, bvtv = tmd_and_bvtv(values, 225.0)
        assert got["BMD"][number] == pytest.approx(values.mean(), abs=0.05)
        assert got["TMD"][0, number] == pytest.approx(tmd, abs=0.05)
        assert got["BV/TV"][0, number] == pytest.approx(bvtv, abs=1e-3)


def test_voxels_are_those_of_the_lattice(volume, found):
    wanted = [volume[index] for index in zip(*lattice(SHAPE), strict=True)]
    np.testing.assert_array_equal(found["voxel"], wanted)


@pytest.mark.parametrize("shape", [SHAPE, (21, 41, 41), (29, 57, 57), (23, 42, 44)])
def test_lattice_against_a_loop(shape):
    """Every fourth voxel along each axis from the halo on, none in a halo; x varies fastest."""
    wanted = [
        index
        for index in product(*map(range, shape))
        if all((i - h) % LATTICE == 0 and h <= i < n - h for i, h, n in zip(index, HALO, shape, strict=True))
    ]
    assert list(zip(*(axis.tolist() for axis in lattice(shape)), strict=True)) == wanted


@pytest.mark.parametrize("where", [corners(SHAPE), [(8, 16, 16)], [(0, 0, 0), (3, 5, 9)], []])
def test_inside_against_a_loop(where):
    """A voxel of the lattice is in when the output of one of the patches has it."""

    def covers(corner, index):
        return all(c + h <= i < c + h + o for c, h, i, o in zip(corner, HALO, index, OUTPUT, strict=True))

    wanted = [any(covers(corner, index) for corner in where) for index in zip(*lattice(SHAPE), strict=True)]
    got = inside(SHAPE, where)
    assert got.dtype == bool
    assert got.tolist() == wanted
    assert got.any() == bool(where)


def test_the_raster_covers_the_lattice():
    """Where the last patches end with the volume, every voxel of the lattice is in some output."""
    assert inside((29, 57, 57), corners((29, 57, 57))).all()
    assert not inside((33, 57, 57), corners((33, 57, 57))).all()


@pytest.mark.parametrize("corner", [(-1, 0, 0), (0, 0, -3), (10, 0, 0), (0, 19, 0), (0, 0, 18)])
def test_a_patch_must_lie_inside(volume, corner):
    wanted = r"corners of patches from 0 to \(9, 18, 17\)"
    got = str(corner).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputError, match=f"position: wanted {wanted}, got {got}"):
        spheres(volume, [(0, 0, 0), corner], [225.0])


@pytest.mark.parametrize("shape", [(20, 41, 41), (21, 40, 41), (21, 41, 40), (5, 5, 5)])
def test_a_volume_smaller_than_a_patch_is_refused(shape):
    """It has no sphere to measure; a study must not go on with nothing."""
    assert PATCH == (21, 41, 41)
    with pytest.raises(
        InputError, match=r"patches: wanted one or more, got none in a volume of \(\d+, \d+, \d+\)"
    ):
        readings(np.zeros(shape, np.float32))


def test_no_position_is_refused(volume):
    with pytest.raises(InputError, match="patches: wanted one or more, got none"):
        spheres(volume, [], [225.0])
