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
    centre,
    corners,
    output_box,
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
