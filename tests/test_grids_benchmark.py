"""The scanner of `benchmarks/grids.py`: coarser voxels of the same picture, with noise of the same strength."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from qctrun.runtime.resampling import Line
from qctrun.train.insilico import PAPER_SPACING_MM, random_field_phantom

HOUSE = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def grids(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "path", [str(HOUSE), *sys.path])
    module = importlib.import_module("grids")
    monkeypatch.setattr(module, "SIZE", (30, 64, 64))
    return module


def test_a_cosine_is_itself_anywhere_and_its_mean_over_a_width(grids):
    old, new = Line(0.0, 0.2, 40), Line(0.13, 0.37, 15)
    turns = 3 * np.pi / 40
    values = np.cos(turns * (np.arange(40) + 0.5))
    at = turns * ((new.centres_mm / 0.2) + 0.5)
    np.testing.assert_allclose(grids.cosines(old, new, 0.0) @ values, np.cos(at), atol=1e-12)
    half = turns * 0.5 / 0.2 / 2
    mean = (np.sin(at + half) - np.sin(at - half)) / (2 * half)
    np.testing.assert_allclose(grids.cosines(old, new, 0.5) @ values, mean, atol=1e-12)


def test_noise_keeps_its_strength_in_each_voxel_but_in_thick_slices(grids):
    phantom = random_field_phantom(grids.SIZE, 1)
    noise = phantom.scanner.noise(grids.SIZE, 100.0, np.float32(1), np.random.default_rng(0))
    found = {scene.name: grids.sampled(noise, scene).array.std() for scene in grids.SCENES}
    for name in ("0.25", "0.35", "0.5", "0.7"):
        assert found[name] == pytest.approx(noise.std(), rel=0.03), name
    assert found["1 x 0.35, thick slices"] < 0.9 * found["1 x 0.35"]
    np.testing.assert_allclose(grids.sampled(noise, grids.SCENES[0]).array, noise, atol=1e-2)


def test_places_are_well_inside_and_the_same_on_all_grids(grids):
    for scene in grids.SCENES:
        grid = grids.sampled(np.zeros(grids.SIZE, np.float32), scene).grid
        for places, count, spacing in zip(grids.inside(grid), grids.SIZE, PAPER_SPACING_MM, strict=True):
            faces = np.array([-0.5, count - 0.5]) * spacing
            assert faces[0] + 3.5 <= places[0] and places[-1] <= faces[1] - 3.5
            middle = (count - 1) * spacing / 2
            np.testing.assert_allclose((places + places[::-1]) / 2, middle, atol=1e-6)
