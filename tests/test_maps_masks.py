"""Local maps in a mask: which spheres count, and what a mask may be."""

import numpy as np
import pytest
from map_cases import PAPER, assert_agrees, assert_same_bits, bone_like, only_in, size_around, volume_of

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.measuring import local_maps


def blobs(size, seed=9):
    """A mask of scattered voxels and a box that reaches the border."""
    mask = np.random.default_rng(seed).random(size) < 0.03
    mask[: size[0] - 1, 3 : size[1] - 3, 4:] = True
    return mask


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_a_mask_selects_centres_and_does_not_clip_spheres(step):
    array = bone_like((11, 24, 27))
    mask = blobs(array.shape)
    whole = local_maps(volume_of(array), (200.0, 225.0), 1.548, step=step)
    masked = local_maps(volume_of(array), (200.0, 225.0), 1.548, step=step, mask=mask)
    assert_same_bits(masked, only_in(mask, whole))
    assert_agrees(array, PAPER, (200.0, 225.0), 1.548, step=step, mask=mask)


def test_inside_keeps_only_spheres_that_lie_in_the_mask():
    array = bone_like((11, 24, 27))
    mask = blobs(array.shape)
    mask[5, 12, 12] = False
    whole = local_maps(volume_of(array), (225.0,), 1.548)
    kept = local_maps(volume_of(array), (225.0,), 1.548, mask=mask, inside=True)
    assert_agrees(array, PAPER, (225.0,), 1.548, mask=mask, inside=True)
    for key, result in kept.items():
        known = np.isfinite(result.array)
        assert 0 < known.sum() < np.isfinite(whole[key].array).sum()
        np.testing.assert_array_equal(result.array[known], whole[key].array[known])


def test_inside_agrees_for_a_large_sphere():
    array = bone_like(size_around(PAPER, 4.3))
    mask = np.ones(array.shape, bool)
    mask[0, 14, 14] = False
    assert_agrees(array, PAPER, (225.0,), 4.3, mask=mask, inside=True)


def test_a_full_mask_changes_nothing():
    array = bone_like((9, 17, 21))
    whole = local_maps(volume_of(array), (225.0,), 1.548)
    everywhere = np.ones(array.shape, bool)
    assert_same_bits(local_maps(volume_of(array), (225.0,), 1.548, mask=everywhere), whole)
    assert_same_bits(local_maps(volume_of(array), (225.0,), 1.548, mask=everywhere, inside=True), whole)


@pytest.mark.parametrize("voxel", [(4, 8, 10), (2, 4, 4), (6, 12, 16), (0, 0, 0)])
def test_a_mask_of_one_voxel(voxel):
    array = bone_like((9, 17, 21))
    mask = np.zeros(array.shape, bool)
    mask[voxel] = True
    whole = local_maps(volume_of(array), (225.0,), 1.548)
    masked = local_maps(volume_of(array), (225.0,), 1.548, mask=mask)
    assert_same_bits(masked, only_in(mask, whole))


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_what_lies_far_from_the_mask_does_not_show(step):
    array = bone_like((20, 40, 90))
    array[10:], array[:, 20:], array[..., 50:] = 30000, -30000, 3000
    mask = np.zeros(array.shape, bool)
    mask[3:6, 6:15, 6:42] = True
    whole = local_maps(volume_of(array), (200.0, 225.0), 1.548, step=step)
    masked = local_maps(volume_of(array), (200.0, 225.0), 1.548, step=step, mask=mask)
    assert_same_bits(masked, only_in(mask, whole))
    assert_agrees(array, PAPER, (225.0,), 1.548, step=step, mask=mask)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_a_mask_of_whole_numbers_is_where_they_are_not_0(kind, inside):
    array = bone_like((9, 17, 21))
    mask = np.zeros(array.shape, bool)
    mask[:, 3:-3, 2:-2] = True
    numbers = np.where(mask, 2, 0).astype(kind)
    found = local_maps(volume_of(array), (200.0,), 1.548, mask=numbers, inside=inside)
    wanted = local_maps(volume_of(array), (200.0,), 1.548, mask=mask, inside=inside)
    assert np.isfinite(wanted["BMD"].array).any()
    for key, volume in wanted.items():
        np.testing.assert_array_equal(found[key].array, volume.array)


@pytest.mark.parametrize(
    ("masked", "inside", "words"),
    [
        (True, False, "no sphere of 1 mm with its centre in the mask lies wholly in the volume"),
        (True, True, "no sphere of 1 mm lies wholly in the mask"),
    ],
)
def test_empty_maps_say_whose_fault_it_is(masked, inside, words):
    array = bone_like((9, 12, 12))
    mask = np.zeros(array.shape, bool)
    mask[0, 0, 0] = masked
    (warning,) = local_maps(volume_of(array), (225,), 1.0, mask=mask, inside=inside)["BMD"].warnings
    assert words in warning


def test_a_mask_of_another_shape_is_refused():
    array = bone_like((9, 17, 21))
    with pytest.raises(InputError, match="mask"):
        local_maps(volume_of(array), (200.0,), 1.548, mask=np.ones((9, 17, 20), bool))


def test_an_empty_mask_is_refused():
    array = bone_like((9, 17, 21))
    with pytest.raises(InputError, match="mask"):
        local_maps(volume_of(array), (200.0,), 1.548, mask=np.zeros(array.shape, bool))


def test_a_mask_of_fractions_is_refused():
    array = bone_like((9, 17, 21))
    with pytest.raises(InputError, match="mask: wanted bool or whole numbers, got an array of float64"):
        local_maps(volume_of(array), (200.0,), 1.548, mask=np.ones(array.shape))


def test_inside_needs_a_mask_to_be_inside_of():
    with pytest.raises(UsageError, match="mask"):
        local_maps(volume_of(bone_like((9, 17, 21))), (200.0,), 1.548, inside=True)
