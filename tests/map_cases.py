"""Volumes to make local maps of, and what the maps are held to."""

import numpy as np

import oracles
from qctrun.runtime.measuring import local_maps
from qctrun.runtime.volume import Grid, Volume

PAPER = oracles.PAPER_SPACING_MM


def volume_of(array, spacing_mm=PAPER, **more) -> Volume:
    return Volume(array, Grid(size=array.shape, spacing=spacing_mm), unit="mg/cm3", **more)


def bone_like(size, seed=0):
    """Marrow near 0 with noise, a fifth of the voxels bone of about 600 mg/cm3."""
    rng = np.random.default_rng(seed)
    bone = rng.random(size) < 0.2
    return (rng.normal(0, 120, size) + 600 * bone).astype(np.float32)


def size_around(spacing_mm, diameter_mm, room=(3, 4, 5)):
    """A volume in which `room` voxels have their whole sphere inside."""
    ball = oracles.sphere(spacing_mm, diameter_mm)
    return tuple(side - 1 + r for side, r in zip(ball.shape, room, strict=True))


def assert_agrees(array, spacing_mm, thresholds, diameter_mm, **options):
    got = local_maps(volume_of(array, spacing_mm), thresholds, diameter_mm, threads=2, **options)
    want = oracles.local_maps(array, spacing_mm, thresholds, diameter_mm, **options)
    oracles.assert_maps_agree({key: volume.array for key, volume in got.items()}, want)


def assert_same_bits(one, other):
    assert set(one) == set(other)
    for key in one:
        np.testing.assert_array_equal(one[key].array, other[key].array, err_msg=str(key), strict=True)


def only_in(mask, maps):
    """The maps with NaN wherever the mask is not."""
    return {key: v.with_array(np.where(mask, v.array, np.nan)) for key, v in maps.items()}


def middle_of(volume):
    """The value in the middle of a map."""
    return volume.array[tuple(n // 2 for n in volume.array.shape)]
