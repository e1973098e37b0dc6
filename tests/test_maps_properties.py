"""Laws that hold for every volume, spacing and sphere: symmetries, linearity, complements, monotony."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from qctrun.runtime.measuring import local_maps
from qctrun.runtime.volume import Grid, Volume

# The same examples in every run: a red test is then a change of the code, not of luck.
bounded = settings(max_examples=20, deadline=None, derandomize=True)
steps = st.sampled_from(["fuzzy", "hard"])
millimetres = st.floats(0.3, 0.9).map(lambda mm: round(mm, 3))


@dataclass(frozen=True)
class Scene:
    """A volume and a sphere that fits into it with a little room."""

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    diameter_mm: float

    def maps(self, thresholds=(225.0,), step="fuzzy", array=None, spacing_mm=None):
        array = self.array if array is None else np.asarray(array, np.float32)
        grid = Grid(size=array.shape, spacing=spacing_mm or self.spacing_mm)
        maps = local_maps(Volume(array, grid, unit="mg/cm3"), thresholds, self.diameter_mm, step, threads=1)
        return {key: volume.array for key, volume in maps.items()}


@st.composite
def scenes(draw, whole_numbers=False):
    """Noise and sparse bone around any mean, on any grid; whole numbers where sums must be exact."""
    spacing_mm = draw(st.tuples(millimetres, millimetres, millimetres))
    diameter_mm = draw(st.floats(2.0, 3.6).map(lambda mm: round(mm, 2)))
    box = oracles.sphere(spacing_mm, diameter_mm).shape
    size = tuple(side + draw(st.integers(0, 4)) for side in box)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mean, spread = draw(st.integers(-1000, 1700)), draw(st.sampled_from([8, 120, 300]))
    array = rng.normal(mean, spread, size) + 600 * (rng.random(size) < 0.1)
    return Scene((np.round(array) if whole_numbers else array).astype(np.float32), spacing_mm, diameter_mm)


def transformed(maps, how):
    return {key: how(values) for key, values in maps.items()}


def assert_same_bits(one, other):
    assert set(one) == set(other)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=str(key))


@bounded
@given(scenes(), steps)
def test_any_scene_agrees_with_the_oracle(scene, step):
    thresholds = (200.0, 225.0, 1800.0)
    want = oracles.local_maps(scene.array, scene.spacing_mm, thresholds, scene.diameter_mm, step)
    oracles.assert_maps_agree(scene.maps(thresholds, step), want)


@bounded
@given(scenes(), steps, st.tuples(*[st.integers(0, 3)] * 3))
def test_translation(scene, step, shift):
    """A volume set into a larger one has the same values, moved along.

    The frame repeats the border, so both hold the same range of values.
    """
    framed = np.pad(scene.array, [(s, 2) for s in shift], mode="edge")
    moved = scene.maps(step=step, array=framed)
    inner = tuple(slice(s, s + n) for s, n in zip(shift, scene.array.shape, strict=True))
    known = oracles.interior(scene.array.shape, oracles.sphere(scene.spacing_mm, scene.diameter_mm).shape)
    here = transformed(scene.maps(step=step), lambda values: values[known])
    assert_same_bits(transformed(moved, lambda values: values[inner][known]), here)


@bounded
@given(scenes(), steps, st.permutations([0, 1, 2]))
def test_axis_permutation_with_permuted_spacing(scene, step, order):
    """Whole sphere sums do not know their order, so the very bits agree."""
    spacing_mm = tuple(scene.spacing_mm[axis] for axis in order)
    turned = scene.maps(step=step, array=scene.array.transpose(order), spacing_mm=spacing_mm)
    assert_same_bits(turned, transformed(scene.maps(step=step), lambda values: values.transpose(order)))


@bounded
@given(scenes(), steps, st.sets(st.integers(0, 2), min_size=1).map(tuple))
def test_mirror(scene, step, axes):
    mirrored = scene.maps(step=step, array=np.flip(scene.array, axes))
    assert_same_bits(mirrored, transformed(scene.maps(step=step), lambda values: np.flip(values, axes)))


@bounded
@given(scenes(), st.floats(-3000, 3000), steps)
def test_a_constant_volume(scene, density_mg_cm3, step):
    array = np.full_like(scene.array, density_mg_cm3)
    density = float(array[0, 0, 0])
    maps = transformed(scene.maps(step=step, array=array), lambda values: values[np.isfinite(values)])
    bvtv = oracles.STEPS[step](density - 225)
    np.testing.assert_allclose(maps["BMD"], density, rtol=0, atol=0.05)
    np.testing.assert_allclose(maps["SD"], 0, rtol=0, atol=0.05)
    np.testing.assert_allclose(maps["BVTV", 225.0], bvtv, rtol=0, atol=1e-5)
    if bvtv >= 0.01:
        tmd = density * bvtv / oracles.plus_e(bvtv)
        np.testing.assert_allclose(maps["TMD", 225.0], tmd, rtol=0, atol=0.05)


@bounded
@given(scenes(), st.floats(-3, 3), st.integers(-1000, 1000))
def test_bmd_is_linear_and_sd_scales_with_the_gain(scene, gain, offset):
    """Each map may be off by 0.05, and float32 rounds gain * V + offset by less than 0.001."""
    array = gain * scene.array.astype(np.float64) + offset
    before, after = scene.maps(), scene.maps(array=array)
    allowed = 0.05 * (1 + abs(gain)) + 0.001
    np.testing.assert_allclose(after["BMD"], gain * before["BMD"] + offset, rtol=0, atol=allowed)
    np.testing.assert_allclose(after["SD"], abs(gain) * before["SD"], rtol=0, atol=allowed)


@bounded
@given(scenes(whole_numbers=True))
def test_fuzzy_bone_and_fuzzy_marrow_make_the_whole(scene):
    """H_s(V - t) + H_s(t - V) = 1, where t - V = (2t - V) - t is the step of the volume mirrored about t."""
    bone = scene.maps()["BVTV", 225.0]
    marrow = scene.maps(array=450 - scene.array)["BVTV", 225.0]
    total = (bone + marrow)[np.isfinite(bone)]
    np.testing.assert_allclose(total, 1, rtol=0, atol=2e-5)


@bounded
@given(scenes(whole_numbers=True), st.integers(100, 1700))
def test_hard_bone_and_the_share_below_the_threshold_make_the_whole(scene, threshold_mg_cm3):
    """The share below is the BMD of a volume of 1000 below the threshold and 0 elsewhere; ties are bone."""
    bone = scene.maps((threshold_mg_cm3,), "hard")["BVTV", threshold_mg_cm3]
    below = scene.maps(array=1000 * (scene.array < threshold_mg_cm3))["BMD"] / 1000
    total = (bone + below)[np.isfinite(bone)]
    np.testing.assert_allclose(total, 1, rtol=0, atol=6e-5)


@bounded
@given(scenes(), steps, st.lists(st.integers(1, 2000), min_size=2, max_size=6, unique=True).map(sorted))
def test_a_higher_threshold_never_finds_more_bone(scene, step, thresholds):
    maps = scene.maps(thresholds, step)
    bvtv = np.stack([maps["BVTV", t] for t in thresholds])
    bvtv = bvtv[:, np.isfinite(bvtv[0])]
    assert ((bvtv >= 0) & (bvtv <= 1)).all()
    assert (np.diff(bvtv, axis=0) <= 0).all()


@bounded
@given(scenes(), st.lists(st.integers(1, 2000), min_size=2, max_size=9, unique=True), steps)
def test_thresholds_measured_together_are_those_measured_alone(scene, thresholds, step):
    together = scene.maps(thresholds, step)
    for t in thresholds:
        alone = scene.maps((t,), step)
        assert_same_bits({key: together[key] for key in alone}, alone)


@bounded
@given(scenes(), steps)
def test_a_denser_volume_has_no_smaller_bmd_or_bvtv(scene, step):
    rng = np.random.default_rng(1)
    before = scene.maps(step=step)
    after = scene.maps(step=step, array=scene.array + rng.integers(0, 2, scene.array.shape) * 64)
    known = np.isfinite(before["BMD"])
    assert (after["BMD"][known] >= before["BMD"][known] - 0.05).all()
    assert (after["BVTV", 225.0][known] >= before["BVTV", 225.0][known] - 1e-5).all()


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_hard_tmd_is_never_below_its_threshold_and_never_above_the_densest_voxel(step):
    """The fuzzy mean also weighs voxels below t, so only the upper bound holds for it."""
    array = np.random.default_rng(2).normal(150, 200, (9, 15, 15)).astype(np.float32)
    maps = Scene(array, (0.5, 0.3, 0.3), 3.0).maps((200.0, 300.0), step)
    for t in (200.0, 300.0):
        tmd = maps["TMD", t][maps["BVTV", t] >= 0.01]
        assert (tmd <= array.max() + 0.05).all()
        # plus_e exceeds x by less than 0.1 % at 1 %.
        assert step == "fuzzy" or (tmd >= t * 0.999 - 0.05).all()
