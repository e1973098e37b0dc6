"""Where patches lie, voxel by voxel."""

from itertools import product

import numpy as np
import pytest

import oracles
from qctrun.train.insilico import PAPER_SPACING_MM
from qctrun.train.raster import (
    OUTPUT,
    PATCH,
    RASTER,
    REPETITIONS,
    TUBE_CURRENTS_MAS,
    box_positions,
    centre,
    corners,
    output_box,
    patch_box,
)


def test_numbers_of_the_paper():
    assert PATCH == (21, 41, 41)
    assert OUTPUT == (13, 25, 25)
    assert RASTER == (8, 16, 16)
    assert TUBE_CURRENTS_MAS == (100, 250, 360)
    assert REPETITIONS == 3


def test_the_network_s_output_is_the_box_of_one_sphere():
    assert oracles.sphere(PAPER_SPACING_MM, 4.3).shape == OUTPUT


def test_halo_is_that_of_the_network():
    pytest.importorskip("torch")
    from qctrun.train.network import HALO

    assert tuple(HALO) == tuple((p - o) / 2 for p, o in zip(PATCH, OUTPUT, strict=True))


@pytest.mark.parametrize("raster", [RASTER, (4, 8, 8), (3, 5, 7)])
@pytest.mark.parametrize(
    "shape", [(29, 58, 58), (21, 41, 41), (28, 56, 56), (37, 41, 73), (20, 41, 41), (21, 41, 40), (1, 1, 1)]
)
def test_corners_are_all_that_lie_wholly_inside(shape, raster):
    """Every voxel of the volume is asked; z varies slowest."""
    wanted = [
        corner
        for corner in product(*map(range, shape))
        if all(
            c % step == 0 and c + p <= n for c, step, p, n in zip(corner, raster, PATCH, shape, strict=True)
        )
    ]
    assert corners(shape, raster) == wanted


def test_the_paper_s_raster_is_the_default():
    assert corners((37, 73, 73)) == corners((37, 73, 73), RASTER)
    assert len(corners((37, 73, 73))) == 27


@pytest.mark.parametrize("corner", [(0, 0, 0), (8, 16, 32), (3, 1, 5)])
def test_output_box_is_what_a_halo_leaves(corner):
    """As many voxels are lost on either side of each axis, and the middle of patch and output is the same."""
    halo = [(p - o) // 2 for p, o in zip(PATCH, OUTPUT, strict=True)]
    volume = np.zeros((40, 80, 80), int)
    whole = tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))
    volume[whole] = 1
    volume[output_box(corner)] += 1
    assert volume.max() == 2
    left = np.argwhere(volume == 2)
    np.testing.assert_array_equal(left.min(axis=0), np.add(corner, halo))
    np.testing.assert_array_equal(left.max(axis=0), np.add(corner, PATCH) - 1 - halo)
    assert len(left) == np.prod(OUTPUT)
    np.testing.assert_array_equal(left.mean(axis=0), centre(corner))
    np.testing.assert_array_equal(np.argwhere(volume > 0).mean(axis=0), centre(corner))


def full_boxes(mask, raster):
    """By the sum of each box from an integral image, over all corners of the raster."""
    z, y, x = PATCH
    sums = np.pad(mask.cumsum(0, dtype=int).cumsum(1).cumsum(2), ((1, 0),) * 3)
    sums = sums[z:] - sums[:-z]
    sums = sums[:, y:] - sums[:, :-y]
    sums = sums[:, :, x:] - sums[:, :, :-x]
    start = np.argwhere(mask).min(axis=0)
    full = np.argwhere(sums == z * y * x)
    return [tuple(map(int, corner)) for corner in full if not ((corner - start) % raster).any()]


@pytest.mark.parametrize("raster", [RASTER, (4, 8, 8), (1, 3, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_positions_are_those_whose_whole_box_lies_in_the_mask(raster, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((34, 64, 70), bool)
    mask[2:33, 3:62, 1:69] = True
    for hole in rng.integers(0, mask.shape, (seed, 3)):
        mask[tuple(hole)] = False
    assert box_positions(mask, raster) == full_boxes(mask, raster)


def test_one_voxel_that_is_missing_anywhere_takes_the_patch_away():
    whole = np.ones(PATCH, bool)
    assert box_positions(whole) == [(0, 0, 0)]
    for corner in product(*((0, side // 2, side - 1) for side in PATCH)):
        mask = np.pad(whole, 3)
        mask[tuple(np.add(corner, 3))] = False
        assert box_positions(mask) == []


def test_positions_do_not_depend_on_how_much_lies_around_the_bone():
    _, y, x = np.indices((40, 90, 90))
    mask = np.hypot(y - 45, x - 45) < 42
    alone = box_positions(mask)
    around = box_positions(np.pad(mask, ((5, 0), (11, 3), (2, 9))))
    assert len(alone) > 4
    assert around == [(z + 5, y + 11, x + 2) for z, y, x in alone]


def test_nothing_fits_an_empty_or_a_thin_mask():
    assert box_positions(np.zeros((30, 50, 50), bool)) == []
    assert box_positions(np.ones((20, 80, 80), bool)) == []


def test_a_patch_s_box_is_of_a_patch_s_size():
    assert np.ones((30, 50, 50))[patch_box((3, 4, 5))].shape == PATCH
