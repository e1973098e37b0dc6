"""The simulator's bone: random fields by the recipe, and micro-CT where it lies."""

import csv

import numpy as np
import pytest
import SimpleITK as sitk

from qctrun.train.insilico import microct_phantom
from qctrun.train.insilico.bone import FINE_SPACING_MM, Character, microct_bone, random_field_bone


@pytest.mark.parametrize("balance", [-1.6, 0.0, 1.6])
def test_occupancy_is_a_share(balance):
    bone = random_field_bone((48, 64, 60), Character(balance=balance), np.random.default_rng(3))
    assert bone.shape == (48, 64, 60)
    assert bone.dtype == np.float32
    assert bone.min() == 0
    assert 0.99 < bone.max() <= 1 + 1e-6
    assert 0.04 < bone.mean() < 0.25


def test_bone_is_about_eleven_percent_and_a_millimetre_apart():
    """Method section 9: true BV/TV about 11 %, and struts repeat at the wavelength across the axis."""
    rng = np.random.default_rng(4)
    bones = [random_field_bone((96, 128, 128), Character(), rng) for _ in range(4)]
    assert np.mean(bones) == pytest.approx(0.11, abs=0.04)


def test_population_is_drawn_from_the_recipe():
    rng = np.random.default_rng(5)
    drawn = [Character.draw(rng) for _ in range(2000)]
    tissue = [c.tissue_mg_cm3 for c in drawn]
    assert np.mean(tissue) == pytest.approx(1060, abs=5)
    assert np.std(tissue) == pytest.approx(50, abs=4)
    wavelengths = [c.wavelength_mm for c in drawn]
    assert np.mean(wavelengths) == pytest.approx(1.6, abs=0.1)
    assert np.std(wavelengths) == pytest.approx(0.26, abs=0.05)
    assert all(abs(c.balance) <= 1.6 for c in drawn)


def test_micro_ct_is_read_where_it_lies(tmp_path):
    """Half of a cube is bone: its border lies at 5 mm from the corner, along each axis in turn."""
    for axis in range(3):
        cube = np.zeros((201, 201, 201), np.uint8)
        cube[(slice(None),) * axis + (slice(0, 100),)] = 255
        sitk.WriteImage(sitk.GetImageFromArray(cube), str(tmp_path / f"{axis}.nrrd"))
        bone = microct_bone(tmp_path / f"{axis}.nrrd")
        assert bone.shape == (29 * 4, 58 * 2, 58 * 2)
        assert bone.min() >= 0
        assert bone.max() <= 1
        depth_mm = bone.sum(axis=axis) * FINE_SPACING_MM[axis]
        np.testing.assert_allclose(depth_mm, 5.0, atol=0.01)


@pytest.mark.data
def test_micro_ct_has_the_published_volume_fraction(data):
    """Cubes of four donors; rounding to whole voxels cuts 5 % of the cube away."""
    folder = data / "l1_microct"
    with (folder / "reference.csv").open(newline="") as file:
        published = {row["file"]: row for row in csv.DictReader(file)}
    chosen = {row["donor"]: name for name, row in published.items()}
    for name in list(chosen.values())[:4]:
        bone = microct_bone(folder / name)
        assert bone.mean() == pytest.approx(float(published[name]["bvtv"]), rel=0.06)
        assert 0 <= bone.min() <= bone.max() <= 1 + 1e-6


@pytest.mark.data
def test_micro_ct_phantom(data):
    path = data / "l1_microct" / "isodata_04216_roi_1.nrrd"
    phantom = microct_phantom(path, seed=1001)
    assert (phantom.name, phantom.donor) == ("isodata_04216_roi_1", "04216")
    assert phantom.truth.shape == (29, 58, 58)
    assert phantom.truth.mean() == pytest.approx(950 * 0.124939, rel=0.06)
    np.testing.assert_array_equal(phantom.scan(100.0, 0), microct_phantom(path, seed=1001).scan(100.0, 0))
