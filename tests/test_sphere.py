"""The sphere in mm: which voxels it holds, seen from outside through the map of a single bright voxel."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import oracles
from qctrun.runtime.errors import InputError, QctrunError
from qctrun.runtime.measuring import local_maps
from qctrun.runtime.measuring.sphere import Sphere
from qctrun.runtime.volume import Grid, Volume

PAPER_SPHERES = [
    (0.516, (1, 3, 3), 9),
    (1.548, (5, 9, 9), 193),
    (2.924, (9, 17, 17), 1321),
    (4.300, (13, 25, 25), 4125),
]


def voxels_of_the_sphere(spacing_mm: tuple[float, float, float], diameter_mm: float) -> np.ndarray:
    """Where the BMD map answers to one bright voxel: the sphere itself, with two voxels of room around it.

    The sphere is point-symmetric, so the centres that see the voxel lie as the voxels that a centre sees.
    """
    reach = [side // 2 for side in oracles.sphere(spacing_mm, diameter_mm).shape]
    array = np.zeros([4 * r + 5 for r in reach], np.float32)
    array[tuple(2 * r + 2 for r in reach)] = 30000
    volume = Volume(array, Grid(size=array.shape, spacing=spacing_mm), unit="mg/cm3")
    bmd = local_maps(volume, (200.0,), diameter_mm, threads=1)["BMD"].array
    sees = bmd[tuple(slice(r, -r or None) for r in reach)]
    assert np.isfinite(sees).all()
    return sees > sees.max() / 2


def padded(ball: np.ndarray) -> np.ndarray:
    return np.pad(ball, 2)


@pytest.mark.parametrize(("diameter_mm", "box", "voxels"), PAPER_SPHERES)
def test_the_papers_spheres_have_the_papers_boxes(diameter_mm, box, voxels):
    ball = oracles.sphere(oracles.PAPER_SPACING_MM, diameter_mm)
    assert ball.shape == box
    assert ball.sum() == voxels
    sphere = Sphere(oracles.PAPER_SPACING_MM, diameter_mm)
    assert (sphere.size, sphere.voxels) == (box, voxels)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.tuples(*[st.floats(0.08, 3.0)] * 3), st.floats(0.5, 10.0))
def test_any_sphere_is_the_oracles(spacing_mm, diameter_mm):
    assume(min(spacing_mm) <= diameter_mm / 2 <= 20 * min(spacing_mm))
    sphere, ball = Sphere(spacing_mm, diameter_mm), oracles.sphere(spacing_mm, diameter_mm)
    assert (sphere.size, sphere.voxels) == (ball.shape, ball.sum())
    np.testing.assert_array_equal(sphere.mask(), ball)


@pytest.mark.parametrize(("diameter_mm", "box", "voxels"), PAPER_SPHERES)
def test_maps_use_the_papers_spheres(diameter_mm, box, voxels):
    seen = voxels_of_the_sphere(oracles.PAPER_SPACING_MM, diameter_mm)
    where = np.argwhere(seen)
    assert seen.sum() == voxels
    assert tuple(where.max(axis=0) - where.min(axis=0) + 1) == box


@pytest.mark.parametrize(
    ("spacing_mm", "diameter_mm"),
    [
        ((0.3, 0.3, 0.3), 4.3),
        ((0.172, 0.172, 0.34), 2.924),
        ((0.25, 0.25, 0.6), 4.3),
        ((0.6, 0.25, 0.25), 3.0),
        ((0.5, 0.3, 0.4), 4.3),
        ((3.0, 0.9, 0.8), 10.0),
    ],
)
def test_maps_use_the_same_sphere_as_the_oracle(spacing_mm, diameter_mm):
    seen = voxels_of_the_sphere(spacing_mm, diameter_mm)
    np.testing.assert_array_equal(seen, padded(oracles.sphere(spacing_mm, diameter_mm)))


@pytest.mark.parametrize(
    ("spacing_mm", "diameter_mm"),
    [
        # 3 x 0.1 exceeds 0.3 by a rounding error, and so does the 3-4-5 triangle at 0.5.
        ((0.1, 0.1, 0.1), 0.6),
        ((0.1, 0.1, 0.1), 1.0),
        ((0.7, 0.7, 0.7), 4.2),
        # What a float32 header makes of 0.1 mm, half an eighth of a ten-millionth too long.
        ((float(np.float32(0.1)),) * 3, 1.0),
    ],
)
def test_a_voxel_on_the_surface_belongs_to_the_sphere(spacing_mm, diameter_mm):
    steps = round(diameter_mm / 2 / spacing_mm[0])
    z, y, x = np.mgrid[-steps : steps + 1, -steps : steps + 1, -steps : steps + 1]
    ball = z**2 + y**2 + x**2 <= steps**2
    np.testing.assert_array_equal(oracles.sphere(spacing_mm, diameter_mm), ball)
    np.testing.assert_array_equal(voxels_of_the_sphere(spacing_mm, diameter_mm), padded(ball))


def test_a_voxel_just_outside_does_not_belong_to_the_sphere():
    """Thirty voxels lie at distance 3 of their centre: six like (3, 0, 0) and twenty-four like (2, 2, 1)."""
    seen = voxels_of_the_sphere((0.1, 0.1, 0.1), 0.6 * (1 - 1e-5))
    assert seen.sum() == oracles.sphere((0.1, 0.1, 0.1), 0.6).sum() - 30


def cube(spacing_mm: tuple[float, float, float], side: int = 9) -> Volume:
    array = np.random.default_rng(1).normal(200, 100, (side, side, side)).astype(np.float32)
    return Volume(array, Grid(size=array.shape, spacing=spacing_mm), unit="mg/cm3")


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), oracles.PAPER_SPACING_MM])
def test_a_sphere_of_one_voxel_is_refused(spacing_mm):
    with pytest.raises(InputError, match="voxel"):
        local_maps(cube(spacing_mm), (200.0,), diameter_mm=min(spacing_mm) * 1.9)


@pytest.mark.parametrize("diameter_mm", [0.0, -4.3, float("nan"), float("inf")])
def test_a_sphere_without_a_size_is_refused(diameter_mm):
    with pytest.raises(QctrunError):
        local_maps(cube((0.3, 0.3, 0.3)), (200.0,), diameter_mm=diameter_mm)


def test_a_sphere_in_a_single_slice_warns():
    maps = local_maps(cube(oracles.PAPER_SPACING_MM), (200.0,), diameter_mm=0.516)
    for volume in maps.values():
        assert any("slice" in message for message in volume.warnings)


def test_a_sphere_over_several_slices_does_not_warn():
    maps = local_maps(cube(oracles.PAPER_SPACING_MM), (200.0,), diameter_mm=1.548)
    assert all(volume.warnings == () for volume in maps.values())
