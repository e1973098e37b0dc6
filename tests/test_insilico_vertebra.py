"""The simulated vertebra: cortex, endplates and mask, and its scan as it is written."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from qctrun.runtime import Grid, read
from qctrun.runtime.reading import read_labels
from qctrun.train.insilico import PAPER_SPACING_MM, vertebra
from qctrun.train.insilico.demonstration import SLOPE_MG_CM3_PER_HU, make_scan
from qctrun.train.insilico.series import write_series


@pytest.fixture
def hollow(monkeypatch):
    """Vertebrae without bone in the core, so that the cortex is all that is dense."""
    monkeypatch.setattr(vertebra, "_spongiosa", lambda size, rng: np.zeros(size, np.float32))
    return vertebra.vertebra


def dense_runs(profile):
    """First and last voxel of every stretch above half of the cortex's density."""
    edges = np.diff(np.r_[0, profile > 450, 0].astype(int))
    return list(zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1, strict=True))


def test_core_is_thirty_millimetres_across(hollow):
    made = hollow(0, (8, 208, 208))
    truth = made.phantom.truth
    for profile in (truth[4, 104, :], truth[4, :, 104]):
        (_, left), (right, _) = dense_runs(profile)
        assert (right - left - 1) * 0.172 == pytest.approx(30, abs=0.5)
    outside = truth[4, 2, 2]
    assert -50 < outside < 100
    # The mask ends 3 mm from the cortex at least, and not much further in.
    inside = np.flatnonzero(made.mask[4, 104])
    (_, left), (right, _) = dense_runs(truth[4, 104])
    assert 3 <= (inside[0] - left) * 0.172 < 3.6
    assert 3 <= (right - inside[-1]) * 0.172 < 3.6


def test_endplates(hollow):
    made = hollow(0, (80, 24, 24))
    profile = made.phantom.truth[:, 12, 12]
    (_, low), (high, _) = dense_runs(profile)
    assert 18 < (high - low - 1) * 0.34 < 24
    inside = np.flatnonzero(made.mask[:, 12, 12])
    assert 3 <= (inside[0] - low) * 0.34 < 4
    assert 3 <= (high - inside[-1]) * 0.34 < 4


def test_vertebra_is_seeded():
    size = (8, 48, 48)
    first, again, other = (vertebra.vertebra(seed, size).phantom for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.scan(100.0, 0), again.scan(100.0, 0))
    assert not np.array_equal(first.truth, other.truth)


@pytest.mark.slow
def test_mask_keeps_away_from_the_cortex_everywhere(hollow):
    made = hollow(0)
    assert made.mask.shape == made.phantom.truth.shape == (80, 256, 256)
    soft = made.phantom.truth < 450
    distance_mm = ndimage.distance_transform_edt(soft, sampling=PAPER_SPACING_MM)
    # To a fraction of a slice: the cortex of a voxel grid has no sharper place.
    assert distance_mm[made.mask].min() >= 3 - 0.05
    assert made.mask.sum() * np.prod(PAPER_SPACING_MM) > 4000  # mm3: much of the core's 15000


# Written and read


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    phantom = vertebra.vertebra(3, (12, 64, 60)).phantom
    density = phantom.scan(100.0, 0)
    folder = tmp_path_factory.mktemp("series") / "scan"
    paths = write_series(density / SLOPE_MG_CM3_PER_HU, phantom.spacing_mm, folder, mas=100.0, seed=3)
    return density, folder, paths


def test_series_reads_back(written):
    density, folder, paths = written
    assert len(paths) == 12
    volume = read(folder, calibration=(SLOPE_MG_CM3_PER_HU, 0.0), material="HA")
    np.testing.assert_allclose(volume.array, density, atol=0.4 + 1e-3)
    assert (volume.unit, volume.material) == ("mg/cm3", "HA")
    wanted = Grid((12, 64, 60), PAPER_SPACING_MM, (-29.5 * 0.172, -31.5 * 0.172, -5.5 * 0.34))
    assert volume.grid.difference(wanted) == ""


def test_series_as_another_reader_sees_it(written):
    density, folder, _ = written
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    assert image.GetSpacing() == pytest.approx((0.172, 0.172, 0.34), abs=1e-5)
    assert image.GetOrigin() == pytest.approx((-29.5 * 0.172, -31.5 * 0.172, -5.5 * 0.34), abs=1e-5)
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), np.rint(density / SLOPE_MG_CM3_PER_HU))


def test_nothing_is_clipped_when_written(written, tmp_path):
    """Stored values reach far beyond six standard deviations of the strongest noise, on bone too."""
    density, _, _ = written
    extreme = density / SLOPE_MG_CM3_PER_HU
    extreme[0, 0, :2] = -3500.0, 6000.0
    write_series(extreme, PAPER_SPACING_MM, tmp_path, mas=100.0, seed=0)
    stored = read(tmp_path, calibration=(1.0, 0.0), material="HA").array
    np.testing.assert_allclose(stored, extreme, atol=0.5 + 1e-3)


def test_series_is_the_same_each_time(written, tmp_path):
    density, _, paths = written
    again = write_series(density / SLOPE_MG_CM3_PER_HU, PAPER_SPACING_MM, tmp_path, mas=100.0, seed=3)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


@pytest.mark.slow
def test_scan_of_the_demonstration(tmp_path):
    make_scan(tmp_path)
    slices = sorted((tmp_path / "scan").glob("*.dcm"))
    line = json.loads((tmp_path / "scan" / "calibration.json").read_text())
    assert {"slope", "intercept", "material", "source"} <= set(line)
    volume, truth = read(tmp_path / "scan"), read(tmp_path / "truth.nii.gz")
    z, y, x = volume.grid.size
    assert len(slices) == z >= 80
    assert min(y, x) >= 256
    assert volume.grid.spacing == pytest.approx(PAPER_SPACING_MM)
    assert truth.grid.difference(volume.grid) == ""
    mask = read_labels(tmp_path / "scan" / "mask.nii.gz", volume.grid) > 0
    assert 0.03 < mask.mean() < 0.3
    stored = volume.array / line["slope"]
    assert -8192 < stored.min() < stored.max() < 8191
    noise = (volume.array - truth.array)[mask].std()
    assert noise == pytest.approx(338, rel=0.12)  # raw voxel RMSE of Table 2
