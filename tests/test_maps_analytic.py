"""Ball, plate and rod: shapes whose share of a sphere geometry gives in closed form.

Tolerance. A share is (voxels in both) / (voxels in the sphere), and only voxels that a surface cuts are
miscounted: each by a fraction of a voxel that is as good as uniform in +-1/2 (SD 0.29) where the surface
lies askew on the grid, as the phantoms here do. A surface of area A cuts about A (dz + dy + dx) / (2 dz dy
dx) voxels, averaged over its directions. The sphere is centred on a voxel: its errors come eight at a time
by its three mirror planes, which makes their SD that of eight times the area. `tolerance` allows three SD,
about 1 % of the sphere. (Neighbouring voxels of a smooth surface err in opposite ways, so the maps are far
nearer than that.)
"""

import numpy as np
import pytest

import oracles
from qctrun.runtime.measuring import local_maps
from qctrun.runtime.volume import Grid, Volume

RADIUS_MM = 1.98
SPHERE_MM3 = 4 / 3 * np.pi * RADIUS_MM**3
SPHERE_MM2 = 4 * np.pi * RADIUS_MM**2
BONE, MARROW, THRESHOLD = 800.0, 40.0, 420.0
NORMAL = np.array([0.48, 0.6, 0.64])
"""A unit vector (z, y, x) that is askew on every grid: 0.2304 + 0.36 + 0.4096 = 1."""
OFF_CENTRE_MM = np.array([0.037, -0.053, 0.021])

grids = pytest.mark.parametrize("spacing_mm", [(0.11, 0.11, 0.11), (0.2, 0.1, 0.1), (0.1, 0.1, 0.2)], ids=str)


def tolerance(spacing_mm, shape_mm2):
    voxel_mm3 = np.prod(spacing_mm)
    cut = (shape_mm2 + 8 * SPHERE_MM2) * sum(spacing_mm) / 2 / voxel_mm3
    return 3 * 0.29 * np.sqrt(cut) * voxel_mm3 / SPHERE_MM3


def positions(spacing_mm, room_mm):
    """Where voxels lie, mm from the middle one; the spheres within `room_mm` of it are whole."""
    reach = [int((RADIUS_MM + room_mm) / step) + 1 for step in spacing_mm]
    axes = [np.arange(-r, r + 1) * step for r, step in zip(reach, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def maps_of(is_bone, spacing_mm, step="hard"):
    array = np.where(is_bone, BONE, MARROW).astype(np.float32)
    volume = Volume(array, Grid(size=array.shape, spacing=spacing_mm), unit="mg/cm3")
    maps = local_maps(volume, (THRESHOLD,), 2 * RADIUS_MM, step)
    return {key if isinstance(key, str) else key[0]: result.array for key, result in maps.items()}


def assert_share(bvtv, expected, allowed):
    known = np.isfinite(bvtv)
    assert np.ptp(expected[known]) > 5 * allowed, "the phantom should vary over the map"
    np.testing.assert_allclose(bvtv[known], expected[known], rtol=0, atol=allowed)


def lens_mm3(apart_mm, one_mm, other_mm):
    """What two balls of given radii have in common when their centres lie `apart_mm` apart."""
    apart = np.clip(apart_mm, abs(one_mm - other_mm), one_mm + other_mm)
    overlap, difference = one_mm + other_mm - apart, one_mm - other_mm
    swollen = apart**2 + 2 * apart * (one_mm + other_mm) - 3 * difference**2
    return np.pi * overlap**2 * swollen / (12 * apart)


def below_mm3(height_mm):
    """What a plane at a height over the sphere's centre leaves below it, less the lower half."""
    height = np.clip(height_mm, -RADIUS_MM, RADIUS_MM)
    return np.pi * (RADIUS_MM**2 * height - height**3 / 3)


@grids
@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_a_ball(spacing_mm, step):
    """At its centre (R / r)^3, elsewhere the lens of two balls."""
    ball_mm = 1.6
    where = positions(spacing_mm, room_mm=0.9)
    apart = np.linalg.norm(where - OFF_CENTRE_MM, axis=-1)
    bvtv = maps_of(apart <= ball_mm, spacing_mm, step)["BVTV"]
    allowed = tolerance(spacing_mm, 4 * np.pi * ball_mm**2)
    assert_share(bvtv, lens_mm3(apart, RADIUS_MM, ball_mm) / SPHERE_MM3, allowed)
    middle = tuple(n // 2 for n in apart.shape)
    assert bvtv[middle] == pytest.approx((ball_mm / RADIUS_MM) ** 3, abs=allowed)


@grids
@pytest.mark.parametrize("thickness_mm", [0.5, 1.5])
def test_a_plate(spacing_mm, thickness_mm):
    """The sphere between two parallel planes, whatever the distance of its centre."""
    height = positions(spacing_mm, room_mm=0.9) @ NORMAL - 0.03
    bvtv = maps_of(np.abs(height) <= thickness_mm / 2, spacing_mm)["BVTV"]
    share = (below_mm3(height + thickness_mm / 2) - below_mm3(height - thickness_mm / 2)) / SPHERE_MM3
    assert_share(bvtv, share, tolerance(spacing_mm, 2 * np.pi * RADIUS_MM**2))


@grids
def test_half_space(spacing_mm):
    height = positions(spacing_mm, room_mm=0.9) @ NORMAL - 0.03
    bvtv = maps_of(height <= 0, spacing_mm)["BVTV"]
    share = 0.5 + below_mm3(-height) / SPHERE_MM3
    assert_share(bvtv, share, tolerance(spacing_mm, np.pi * RADIUS_MM**2))


@grids
@pytest.mark.parametrize("rod_mm", [0.5, 1.2])
def test_a_rod_through_the_centre(spacing_mm, rod_mm):
    """The sphere less its napkin ring: 1 - (1 - (a / r)^2)^(3/2) for a rod of radius a."""
    where = positions(spacing_mm, room_mm=0.0)
    from_axis = np.linalg.norm(where - (where @ NORMAL)[..., None] * NORMAL, axis=-1)
    bvtv = maps_of(from_axis <= rod_mm, spacing_mm)["BVTV"]
    middle = tuple(n // 2 for n in bvtv.shape)
    expected = 1 - (1 - (rod_mm / RADIUS_MM) ** 2) ** 1.5
    allowed = tolerance(spacing_mm, 2 * np.pi * rod_mm * 2 * RADIUS_MM)
    assert bvtv[middle] == pytest.approx(expected, abs=allowed)


@grids
def test_two_densities_make_all_maps_functions_of_the_share(spacing_mm):
    """With p the share of bone: BMD is linear in p, SD is that of a coin, TMD is the density of bone."""
    height = positions(spacing_mm, room_mm=0.3) @ NORMAL
    maps = maps_of(np.abs(height) <= 0.5, spacing_mm)
    voxels = oracles.sphere(spacing_mm, 2 * RADIUS_MM).sum()
    p = maps["BVTV"].astype(np.float64)
    contrast = BONE - MARROW
    np.testing.assert_allclose(maps["BMD"], MARROW + contrast * p, rtol=0, atol=0.05)
    np.testing.assert_allclose(
        maps["SD"], contrast * np.sqrt(p * (1 - p) * voxels / (voxels - 1)), rtol=0, atol=0.05
    )
    np.testing.assert_allclose(maps["TMD"], BONE * p / oracles.plus_e(p), rtol=0, atol=0.05)
