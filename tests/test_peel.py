"""The inside of masks against spheres, boxes and ellipsoids, SciPy's distance transform and a loop over all voxels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.measuring.peel import depth_mm, peel

ISOTROPIC = (0.5, 0.5, 0.5)
THICK = (1.2, 0.4, 0.4)


def solid(radii_mm, spacing_mm, shift=(0.0, 0.0, 0.0), margin=2):
    """An ellipsoid as a label map: a voxel belongs to it when its centre lies inside."""
    size = [2 * math.ceil(r / s) + 1 + 2 * margin for r, s in zip(radii_mm, spacing_mm, strict=True)]
    places = np.indices(size).reshape(3, -1).T - (np.array(size) - 1) / 2 - shift
    inside = ((places * spacing_mm / radii_mm) ** 2).sum(axis=1) <= 1
    return inside.reshape(size).astype(np.int32)


def brute(inside, spacing_mm):
    """Distance of every voxel to the nearest centre of a face between inside and outside, one by one."""
    padded = np.pad(inside, 1)
    faces = []
    for axis in range(3):
        lines = np.moveaxis(padded, axis, 0)
        found = np.argwhere(np.moveaxis(lines[1:] != lines[:-1], 0, axis)).astype(float)
        found[:, axis] += 0.5
        faces.append(found - 1)
    points = np.concatenate(faces) * spacing_mm
    depth = np.zeros(inside.shape)
    for place in np.argwhere(inside):
        depth[tuple(place)] = np.sqrt(((points - place * spacing_mm) ** 2).sum(axis=1)).min()
    return depth


def by_scipy(inside, spacing_mm):
    """The same from SciPy's exact transform on a lattice of half voxels, where the faces have places of their own."""
    padded = np.pad(inside, 1)
    lattice = np.ones(2 * np.array(padded.shape) + 1, bool)
    for axis in range(3):
        lines = np.moveaxis(padded, axis, 0)
        found = 2 * np.argwhere(np.moveaxis(lines[1:] != lines[:-1], 0, axis)) + 1
        found[:, axis] += 1
        lattice[tuple(found.T)] = False
    far = ndimage.distance_transform_edt(lattice, sampling=np.array(spacing_mm) / 2)
    return np.where(inside, far[1::2, 1::2, 1::2][1:-1, 1:-1, 1:-1], 0)


@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.floats(0.2, 3.0)] * 3),
    st.floats(0.3, 8.0),
    st.integers(0, 2**32 - 1),
)
def test_depths_are_those_of_a_loop_and_of_scipy(size, spacing, limit, seed):
    inside = np.random.default_rng(seed).random(size) < 0.8
    wanted = brute(inside, spacing)
    np.testing.assert_allclose(by_scipy(inside, spacing), wanted, atol=1e-6)
    depth = depth_mm(inside, spacing, limit)
    near = wanted < limit - 1e-4
    np.testing.assert_allclose(depth[near], wanted[near], atol=1e-5)
    assert np.isinf(depth[wanted > limit + 1e-4]).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.25), (0.3, 0.7, 1.1)])
@pytest.mark.parametrize("mm", [0.5, 1.0, 2.5])
def test_a_box_loses_the_layers_whose_centres_lie_in_the_rim(spacing, mm):
    labels = np.zeros((24, 30, 40), np.int32)
    labels[1:23, 2:28, 3:37] = 5
    inside, (facts,) = peel(labels, spacing, mm)
    layers = [math.ceil(round(mm / step - 0.5, 9)) for step in spacing]
    wanted = np.zeros_like(labels)
    wanted[1 + layers[0] : 23 - layers[0], 2 + layers[1] : 28 - layers[1], 3 + layers[2] : 37 - layers[2]] = 5
    np.testing.assert_array_equal(inside, wanted)
    assert facts.before_mm3 == pytest.approx(22 * 26 * 34 * math.prod(spacing))
    assert facts.after_mm3 == pytest.approx((wanted > 0).sum() * math.prod(spacing))


@pytest.mark.parametrize(("spacing", "share"), [(ISOTROPIC, 0.06), ((0.25,) * 3, 0.04), (THICK, 0.10)])
def test_a_sphere_is_a_sphere_with_a_smaller_radius(spacing, share):
    volumes = []
    for shift in ((0, 0, 0), (0.5, 0.5, 0.5), (0.2, 0.4, 0.1)):
        labels = solid((9.0,) * 3, spacing, shift)
        volumes.append(peel(labels, spacing, 3.0)[1][0].after_mm3)
    assert np.mean(volumes) == pytest.approx(4 / 3 * math.pi * 6.0**3, rel=share)


def test_finer_voxels_come_nearer_to_the_sphere():
    errors = []
    for step in (1.0, 0.5, 0.25):
        _, (facts,) = peel(solid((8.0,) * 3, (step,) * 3, (0.3, 0.1, 0.4)), (step,) * 3, 2.0)
        errors.append(abs(facts.after_mm3 / (4 / 3 * math.pi * 6.0**3) - 1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


def test_an_ellipsoid_keeps_what_lies_deeper_than_the_rim():
    """The inner parallel body of an ellipsoid is none; each voxel is judged by its distance to the true surface."""
    radii, spacing, mm = np.array([6.0, 9.0, 11.0]), np.array([0.5, 0.5, 0.5]), 2.5
    labels = solid(tuple(radii), tuple(spacing))
    inside, _ = peel(labels, spacing, mm)
    rng = np.random.default_rng(4)
    surface = rng.normal(size=(40_000, 3))
    surface *= (1 / np.sqrt(((surface / radii) ** 2).sum(axis=1)))[:, None]
    places = np.argwhere(labels)
    centres = (places - (np.array(labels.shape) - 1) / 2) * spacing
    pick = rng.choice(len(places), 400, replace=False)
    for place, centre in zip(places[pick], centres[pick], strict=True):
        distance = np.sqrt(((surface - centre) ** 2).sum(axis=1)).min()
        if abs(distance - mm) > 0.5:  # a voxel; nearer to the rim the steps of the mask decide
            assert bool(inside[tuple(place)]) == (distance > mm)


@given(st.floats(0.4, 3.0), st.floats(0.05, 2.0), st.integers(0, 2**32 - 1))
def test_a_thicker_rim_leaves_less_and_never_more_than_there_was(mm, more, seed):
    rng = np.random.default_rng(seed)
    labels = ndimage.gaussian_filter(rng.random((12, 14, 16)), 1.5)
    labels = (labels > np.quantile(labels, 0.2)).astype(np.int32)
    try:
        thin, _ = peel(labels, ISOTROPIC, mm, keep="all")
        thick, _ = peel(labels, ISOTROPIC, mm + more, keep="all")
    except InputError:
        return
    filled = ndimage.binary_fill_holes(labels)
    assert not (thin.astype(bool) & ~filled).any()
    whole = by_scipy(filled, ISOTROPIC)
    if filled.sum() == labels.sum():  # no hole, so that the rims are those of one body
        assert not (thick.astype(bool) & ~thin.astype(bool)).any()
        np.testing.assert_array_equal(thin > 0, whole >= mm - 1e-4)


def test_neighbours_are_peeled_against_each_other():
    labels = np.zeros((12, 12, 24), np.int32)
    labels[1:11, 1:11, 1:12], labels[1:11, 1:11, 12:23] = 20, 21
    inside, found = peel(labels, (1.0, 1.0, 1.0), 2.0)
    assert [one.label for one in found] == [20, 21]
    assert set(np.unique(inside[:, :, 10:14])) == {0}
    assert (inside[5, 5, 3:10] == 20).all()
    assert (inside[5, 5, 14:21] == 21).all()
    merged, _ = peel((labels > 0).astype(np.int32), (1.0, 1.0, 1.0), 2.0)
    assert merged[5, 5, 11]
    one, facts = peel(labels, (1.0, 1.0, 1.0), 2.0, only=[20])
    np.testing.assert_array_equal(one, np.where(inside == 20, 20, 0))
    assert [fact.label for fact in facts] == [20]


def test_the_border_of_the_image_is_outside():
    whole = np.full((9, 9, 9), 3, np.int32)
    inside, (facts,) = peel(whole, (1.0, 1.0, 1.0), 2.0)
    padded, (other,) = peel(np.pad(whole, 4), (1.0, 1.0, 1.0), 2.0)
    np.testing.assert_array_equal(np.pad(inside, 4), padded)
    assert (facts.at_border, other.at_border) == (True, False)


def test_only_small_enclosed_holes_of_background_are_filled():
    labels = np.zeros((21, 21, 41), np.int32)
    labels[1:20, 1:20, 1:40] = 1
    labels[10, 10, 8] = 0  # small, enclosed
    labels[6:15, 6:15, 16:25] = 0  # 729 mm3 where a sphere of 3 mm holds 113
    labels[10, 10, 32] = 2  # another label
    labels[10, 0:11, 36] = 0  # open to the outside
    inside, (one, _) = peel(labels, (1.0, 1.0, 1.0), 0.5, keep="all")
    assert one.filled_mm3 == 0  # a sphere of 0.5 mm is smaller than a voxel
    inside, (one,) = peel(labels, (1.0, 1.0, 1.0), 3.0, keep="all", only=[1])
    assert one.filled_mm3 == 1
    assert inside[10, 10, 8] == 1
    assert not inside[10, 10, 14] and not inside[10, 10, 20]
    assert not inside[10, 10, 30] and not inside[10, 10, 34]


def test_of_several_pieces_the_largest_is_kept_unless_all_are_asked():
    labels = np.zeros((13, 13, 40), np.int32)
    labels[1:12, 1:12, 1:12], labels[1:12, 1:12, 25:39], labels[5:8, 5:8, 12:25] = 1, 1, 1
    largest, (facts,) = peel(labels, (1.0, 1.0, 1.0), 2.0)
    both, (same,) = peel(labels, (1.0, 1.0, 1.0), 2.0, keep="all")
    assert facts.pieces == same.pieces == 2
    assert not largest[:, :, :20].any() and largest[:, :, 20:].any() and both[:, :, :20].any()
    np.testing.assert_array_equal(largest[:, :, 20:], both[:, :, 20:])


def test_what_leaves_nothing_is_refused_with_the_largest_rim_that_can_be_used():
    labels = solid((4.0, 3.0, 5.0), ISOTROPIC, (0.1, 0.3, 0.2))
    deepest = by_scipy(labels > 0, ISOTROPIC).max()
    with pytest.raises(
        InputError, match=r"peeling 3.5 mm off label 1: .*take at most \(label: mm\) 1: "
    ) as caught:
        peel(labels, ISOTROPIC, 3.5)
    most = float(str(caught.value).rsplit(" ", 1)[1])
    assert deepest - 0.01 <= most <= deepest + 1e-4
    assert peel(labels, ISOTROPIC, most)[0].any()
    with pytest.raises(InputError):
        peel(labels, ISOTROPIC, most + 0.02)


def test_of_several_labels_one_may_go_unless_it_was_asked_for():
    labels = np.zeros((13, 13, 30), np.int32)
    labels[1:12, 1:12, 1:12], labels[5:7, 5:7, 20:25] = 2**31 - 1, 4
    inside, (small, large) = peel(labels, (1.0, 1.0, 1.0), 2.0)
    assert (small.label, small.after_mm3, small.largest_mm) == (4, 0, 1.0 / 2)
    assert large.largest_mm is None
    assert set(np.unique(inside)) == {0, 2**31 - 1}
    with pytest.raises(InputError, match=r"label 4: .*4: 0\.5"):
        peel(labels, (1.0, 1.0, 1.0), 2.0, only=[4, 2**31 - 1])


@pytest.mark.parametrize("mm", [0.0, -1.0, math.nan, math.inf])
def test_a_rim_of_no_thickness_is_refused(mm):
    with pytest.raises(UsageError, match="above 0 mm"):
        peel(np.ones((3, 3, 3), np.int32), ISOTROPIC, mm)
