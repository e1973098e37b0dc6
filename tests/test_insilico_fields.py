"""Random fields of the simulator: shifts, and noise of a stated length, mean and spread."""

import numpy as np
import pytest
from scipy import ndimage

from qctrun.train.insilico.fields import filtered, shaped_noise, shift_response, smooth_field


def test_shift_moves_by_millimetres():
    """The centre of a blob moves by a shift that is no whole number of voxels, towards higher indices."""
    size, spacing, shift = (40, 44, 45), (0.34, 0.172, 0.172), (0.5, -0.3, 0.21)
    z, y, x = np.indices(size, dtype=np.float32)
    blob = np.exp(-0.5 * (((z - 20) / 3) ** 2 + ((y - 22) / 3) ** 2 + ((x - 22) / 3) ** 2)).astype(np.float32)
    moved = filtered(blob, shift_response(size, spacing, shift))
    before, after = (np.array(ndimage.center_of_mass(a)) * spacing for a in (blob, moved))
    np.testing.assert_allclose(after - before, shift, atol=1e-3)
    assert moved.sum() == pytest.approx(blob.sum(), rel=1e-5)


def test_shift_by_whole_voxels_is_a_roll():
    field = np.random.default_rng(0).standard_normal((8, 10, 12)).astype(np.float32)
    moved = filtered(field, shift_response(field.shape, (0.34, 0.172, 0.172), (0.34, -2 * 0.172, 0.172)))
    np.testing.assert_allclose(moved, np.roll(field, (1, -2, 1), (0, 1, 2)), atol=1e-5)


@pytest.mark.parametrize("length_mm", [5.0, 14.0])
def test_smooth_field_has_a_standard_deviation_of_one(length_mm):
    """At every place, over many fields: in the middle, on an edge and in a corner."""
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_field((6, 7, 8), (1.0, 2.0, 3.0), length_mm, rng) for _ in range(800)])
    assert fields.shape == (800, 6, 7, 8)
    assert fields.dtype == np.float32
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.12)
    assert fields.std() == pytest.approx(1, abs=0.02)
    assert abs(fields.mean()) < 0.05


def test_smooth_field_changes_over_its_length():
    """Correlation exp(-d^2 / 4 sigma^2) of two Gaussian-smoothed places, sigma a third of the length."""
    rng = np.random.default_rng(1)
    fields = np.stack([smooth_field((1, 1, 40), (1.0, 1.0, 0.5), 9.0, rng)[0, 0] for _ in range(2000)])
    for steps in (2, 6, 12, 24):
        found = np.mean(fields[:, : 40 - steps] * fields[:, steps:])
        assert found == pytest.approx(np.exp(-((0.5 * steps) ** 2) / (4 * 3.0**2)), abs=0.06)


@pytest.mark.parametrize("size", [(12, 16, 18), (9, 11, 13)])
def test_shaped_noise_has_mean_zero_and_standard_deviation_one(size):
    rng = np.random.default_rng(2)
    amplitude = rng.uniform(0, 2, (size[0], size[1], size[2] // 2 + 1)).astype(np.float32)
    fields = np.stack([shaped_noise(size, amplitude, rng) for _ in range(60)])
    assert fields.std() == pytest.approx(1, abs=0.02)
    assert np.abs(fields.mean(axis=(1, 2, 3))).max() < 1e-5
