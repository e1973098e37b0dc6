"""Local maps against the oracle, at the paper's spheres and at the extremes."""

import numpy as np
import pytest
from map_cases import PAPER, assert_agrees, bone_like, size_around, volume_of

import oracles
from qctrun.runtime.measuring import local_maps

NINE_THRESHOLDS = tuple(float(t) for t in range(125, 326, 25))


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
@pytest.mark.parametrize(
    ("spacing_mm", "diameter_mm"),
    [
        (PAPER, 0.516),
        (PAPER, 1.548),
        (PAPER, 2.924),
        (PAPER, 4.3),
        ((0.172, 0.34, 0.172), 4.3),
        ((0.172, 0.172, 0.34), 2.924),
        ((0.3, 0.3, 0.3), 4.3),
        ((0.25, 0.25, 0.6), 4.3),
        ((0.6, 0.25, 0.25), 4.3),
        ((1.0, 0.7, 0.7), 10.0),
        ((0.5, 0.31, 0.44), 3.7),
    ],
)
def test_maps_agree_with_the_oracle(spacing_mm, diameter_mm, step):
    array = bone_like(size_around(spacing_mm, diameter_mm))
    assert_agrees(array, spacing_mm, (200.0, 225.0), diameter_mm, step=step)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_several_thresholds_in_one_pass(count):
    array = bone_like(size_around(PAPER, 2.924), seed=count)
    assert_agrees(array, PAPER, NINE_THRESHOLDS[:count], 2.924)


def test_more_voxels_than_one_tile():
    array = bone_like((9, 75, 140), seed=3)
    assert_agrees(array, PAPER, (225.0,), 1.548)


def test_thresholds_in_any_order():
    array = bone_like(size_around(PAPER, 1.548), seed=4)
    assert_agrees(array, PAPER, (225, 200.5, 250), 1.548)


def test_hundreds_of_voxels_at_the_thresholds():
    """Densities in steps of 25, so that a good part of them lies exactly on a threshold."""
    array = 25 * np.round(bone_like(size_around(PAPER, 2.924)) / 25)
    assert_agrees(array, PAPER, (200.0, 225.0), 2.924, step="hard")


@pytest.mark.parametrize("mean_mg_cm3", [-900, 200, 1700, 3000])
def test_small_deviations_survive_a_large_mean(mean_mg_cm3):
    rng = np.random.default_rng(5)
    array = rng.normal(mean_mg_cm3, 8, size_around(PAPER, 4.3)).astype(np.float32)
    assert_agrees(array, PAPER, (200.0, 1700.0), 4.3)


def test_small_deviations_survive_steep_edges_elsewhere():
    """Air at -1000 and metal at 3000 in the same rows must not cost the quiet part its digits."""
    rng = np.random.default_rng(6)
    array = rng.normal(1700, 8, size_around(PAPER, 2.924, room=(3, 4, 60))).astype(np.float32)
    array[..., 40:] = -1000
    array[..., 60:] = 3000
    assert_agrees(array, PAPER, (225.0,), 2.924)


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
@pytest.mark.parametrize(("bone_mg_cm3", "marrow_mg_cm3"), [(412.34567, 3.14159), (3000, 58.6)])
def test_tmd_holds_where_bone_is_rare(bone_mg_cm3, marrow_mg_cm3, step):
    """Just over 1 % bone: whatever is lost per voxel is multiplied by a hundred.

    The fuzzy step of 58.6 mg/cm3 is 6e-8: small enough to be lost, the same in all the marrow, and of weight where
    the bone is as dense as metal.
    """
    size = size_around(PAPER, 4.3)
    is_bone = np.random.default_rng(7).random(size) < 0.0125
    array = np.where(is_bone, bone_mg_cm3, marrow_mg_cm3).astype(np.float32)
    assert_agrees(array, PAPER, (225.0,), 4.3, step=step)


extremes = pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda rng, size: np.full(size, 30000.0), id="all 30000"),
        pytest.param(lambda rng, size: np.full(size, -30000.0), id="all -30000"),
        pytest.param(lambda rng, size: rng.choice([-30000.0, 30000.0], size), id="both"),
        pytest.param(lambda rng, size: rng.normal(1700, 8, size), id="bone cement"),
    ],
)


@extremes
def test_the_largest_sphere_does_not_overflow(draw):
    """A sphere of 10 mm on 0.2 mm voxels holds 65267 of them, and 1961 in its largest disc."""
    spacing_mm = (0.2, 0.2, 0.2)
    array = draw(np.random.default_rng(8), size_around(spacing_mm, 10.0, room=(2, 2, 3))).astype(np.float32)
    assert_agrees(array, spacing_mm, (225.0,), 10.0)


@extremes
def test_half_a_million_voxels_in_one_sphere(draw):
    """10 mm on 0.1 mm voxels, where one sphere fits: its maps are plain statistics of the voxels in it."""
    spacing_mm = (0.1, 0.1, 0.1)
    ball = oracles.sphere(spacing_mm, 10.0)
    array = draw(np.random.default_rng(9), ball.shape).astype(np.float32)
    maps = local_maps(volume_of(array, spacing_mm), (225.0,), 10.0, threads=2)
    inside = array[ball].astype(np.float64)
    bone = oracles.soft_step(inside - 225)
    got = {key: float(volume.array[50, 50, 50]) for key, volume in maps.items()}
    assert got["BMD"] == pytest.approx(inside.mean(), abs=0.05)
    assert got["SD"] == pytest.approx(inside.std(ddof=1), abs=0.05)
    assert got["BVTV", 225.0] == pytest.approx(bone.mean(), abs=1e-5)
    tmd = (bone * inside).mean() / oracles.plus_e(bone.mean())
    assert got["TMD", 225.0] == pytest.approx(tmd, abs=0.05)
