"""The simulator's bone: random fields by the recipe, and micro-CT where it lies."""

import csv
import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import special

from qctrun.train.insilico import bone as bone_module
from qctrun.train.insilico import microct_phantom
from qctrun.train.insilico.bone import FINE_SPACING_MM, Character, microct_bone, random_field_bone


@pytest.mark.parametrize("character", [Character(balance=-2.0), Character(), Character(balance=2.0), "drawn"])
def test_occupancy_is_a_share(character):
    rng = np.random.default_rng(3)
    drawn = Character.draw(rng) if character == "drawn" else character
    bone = random_field_bone((48, 64, 60), drawn, rng)
    assert bone.shape == (48, 64, 60)
    assert bone.dtype == np.float32
    assert bone.min() == 0
    assert 0.99 < bone.max() <= 1 + 1e-6
    assert 0.02 < bone.mean() < 0.3


def share_within(limit):
    """How much of a Gaussian field of SD 1 lies between -limit and limit."""
    return special.erf(limit / np.sqrt(2))


@pytest.mark.parametrize(
    ("balance", "slow"), [(0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (2.0, 1.0)]
)
def test_occupancy_follows_from_the_limits(balance, slow, monkeypatch):
    """Plates, rods outside of them, and holes are limits of three independent Gaussian fields.

    What changes slowly is held at one value: it turns plates into rods, closes holes and thickens a little.
    """
    monkeypatch.setattr(bone_module, "_slow", lambda size, rng: np.full(size, slow, np.float32))
    rods = np.clip(balance + slow, -1.8, 1.8)
    thicker = np.exp(0.03 * slow)
    plate, rod = share_within((0.105 - 0.05 * rods) * thicker), share_within((0.31 + 0.055 * rods) * thicker)
    kept = (1 + special.erf((1 + 0.8 * slow) / np.sqrt(2))) / 2
    rng = np.random.default_rng(4)
    bones = [random_field_bone((48, 64, 64), Character(balance=balance), rng) for _ in range(6)]
    assert np.mean(bones) == pytest.approx((plate + (rod - plate) * rod) * kept, rel=0.1)


def test_bone_is_about_a_tenth():
    """Method section 9: true BV/TV about 11 %, over many places whose limits differ."""
    rng = np.random.default_rng(4)
    bones = [random_field_bone((32, 40, 40), Character(), rng) for _ in range(60)]
    assert np.mean(bones) == pytest.approx(0.11, abs=0.025)


def test_bone_changes_slowly_from_place_to_place():
    """Small pieces at the same place of one field are alike in density; pieces of other fields are not."""
    rng = np.random.default_rng(6)
    means = [random_field_bone((32, 40, 40), Character(), rng).mean() for _ in range(60)]
    assert np.std(means) > 0.25 * np.mean(means)


def test_average_character_is_the_default():
    assert Character.at(0.0, 0.0, 0.0, 0.0) == Character()


def test_population_is_drawn_from_the_recipe():
    """Normal in each property; no wavelength below 1 mm, which cuts off the lowest fifteenth."""
    rng = np.random.default_rng(5)
    drawn = [Character.draw(rng) for _ in range(4000)]
    wavelengths, balances, thicknesses, tissues = np.array([dataclasses.astuple(c) for c in drawn]).T
    assert np.quantile(wavelengths, [0.5, 0.8413]) == pytest.approx([1.42, 1.42 + 0.28], abs=0.025)
    assert wavelengths.min() == 1.0
    assert np.mean(wavelengths == 1.0) == pytest.approx(special.ndtr(-0.42 / 0.28), abs=0.015)
    assert (balances.mean(), balances.std()) == pytest.approx((0, 1), abs=0.05)
    assert (np.log(thicknesses).mean(), np.log(thicknesses).std()) == pytest.approx((0, 0.03), abs=0.002)
    assert (tissues.mean(), tissues.std()) == pytest.approx((1060, 20), abs=1.5)


def test_rod_like_bone_is_wider_spaced():
    """Balance and wavelength correlate by 0.8, tissue and thickness with nothing."""
    rng = np.random.default_rng(7)
    drawn = [Character.draw(rng) for _ in range(4000)]
    table = np.array([dataclasses.astuple(c) for c in drawn if c.wavelength_mm > 1])
    found = np.corrcoef(table.T)
    # Wavelengths at the limit are left out; what is left spreads less, and so correlates less.
    z = np.random.default_rng(8).standard_normal(400_000)
    spread = z[z > -1.5].std()
    assert found[0, 1] == pytest.approx(0.8 * spread / np.sqrt(0.64 * spread**2 + 0.36), abs=0.02)
    assert np.abs([found[0, 2:], found[1, 2:], found[2:, 0]]).max() < 0.06


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
