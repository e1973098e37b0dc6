"""`Filter` and `filter_and_measure` on the model's grid: the same as by hand, and no more than a mask needs."""

import filtering_models as models
import numpy as np
import pytest
from map_cases import assert_same_bits

from qctrun.runtime import Filter, Grid, Volume, filter_and_measure, local_maps
from qctrun.runtime.errors import OutOfMemoryError, UsageError
from qctrun.runtime.filtering import grids
from qctrun.runtime.filtering.grids import detour, on_model_grid

pytest.importorskip("onnxruntime")
COARSE_MM = (0.6, 0.39, 0.35)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = models.save(tmp_path_factory.mktemp("model") / "m.onnx", models.nnsp())
    return Filter(path, device="cpu", threads=1)


def volume(size=(14, 24, 26), spacing=COARSE_MM, **words):
    array = np.random.default_rng(0).normal(110, 300, size).astype(np.float32)
    return Volume(array, Grid(size, spacing, (1, 2, 3)), "mg/cm3", "HA", **words)


def test_there_filtered_and_back(network):
    raw = volume()
    before = raw.array.copy()
    filtered = network(raw, grid="model")
    by_hand = network(on_model_grid(raw, network.card.spacing_mm))
    way = detour(raw.grid, network.card.spacing_mm, network.card.halo, None)
    np.testing.assert_array_equal(filtered.array, way.back(by_hand.array))
    np.testing.assert_array_equal(raw.array, before)
    assert (filtered.grid, filtered.unit, filtered.material) == (raw.grid, "mg/cm3", "HA")
    assert filtered.provenance["filter"]["grid"] == "model"
    steps = filtered.provenance["resampling"]
    assert [step["what"] for step in steps] == ["onto the model's grid", "back onto the scan's grid"]
    assert steps[0]["from_spacing_zyx_mm"] == steps[1]["to_spacing_zyx_mm"] == list(COARSE_MM)
    assert steps[1]["from_spacing_zyx_mm"] == steps[0]["to_spacing_zyx_mm"] == [0.34, 0.172, 0.172]
    assert any("and back by cubic B-splines" in warning for warning in filtered.warnings)
    assert not any("--grid model" in warning for warning in filtered.warnings)


def test_a_filter_that_does_nothing_keeps_affine_volumes(tmp_path):
    nodes = [models.helper.make_node("Mul", ["volume", "one"], ["filtered"])]
    path = models.save(tmp_path / "m.onnx", models.model(nodes, [models.tensor("one", 1.0)]))
    nothing = Filter(path, device="cpu", threads=1, backend="onnxruntime")
    z, y, x = np.indices((12, 20, 20))
    raw = volume((12, 20, 20))
    ramp = raw.with_array(3.0 * z - 2.0 * y + 5.0 * x + 7.0)
    np.testing.assert_allclose(nothing(ramp, grid="model").array, ramp.array, atol=1e-3)


def test_native_is_what_it_was_and_names_the_other_way(network):
    raw = volume()
    filtered = network(raw)
    assert filtered.provenance["filter"]["grid"] == "native" and "resampling" not in filtered.provenance
    (warning,) = filtered.warnings
    assert "0.6 x 0.39 x 0.35 mm" in warning and "made for 0.34 x 0.172 x 0.172 mm" in warning
    assert "--grid model" in warning
    np.testing.assert_array_equal(network(raw, grid="native").array, filtered.array)


def test_one_thing_is_told_of_a_spacing(network):
    fine, coarse = (network(volume((9, 9, 9), (mm,) * 3)).warnings for mm in (0.1, 1.1))
    assert len(fine) == len(coarse) == 1
    assert "not tested" in fine[0] and "say --grid model" not in fine[0]
    assert "too coarse" in coarse[0] and "say --grid model" not in coarse[0]


@pytest.mark.parametrize("grid", ["native", "model"])
def test_voxels_that_are_too_coarse_are_told_on_either_grid(network, grid):
    fine, coarse = (network(volume((9, 9, 9), (mm,) * 3), grid=grid).warnings for mm in (0.5, 0.7))
    assert not any("too coarse" in warning for warning in fine)
    assert sum("too coarse" in warning for warning in coarse) == 1


def test_on_its_own_grid_the_model_asks_for_nothing(network):
    raw = volume((9, 20, 20), (0.34, 0.172, 0.172))
    filtered = network(raw, grid="model")
    np.testing.assert_array_equal(filtered.array, network(raw).array)
    assert filtered.warnings == () and "resampling" not in filtered.provenance


@pytest.mark.parametrize(
    ("size", "spacing", "margin_mm"),
    [
        ((30, 40, 44), COARSE_MM, 1.0),
        ((40, 60, 60), (0.2, 0.1, 0.1), 0.3),
        ((40, 40, 40), (0.34, 0.3, 0.172), 0.6),
    ],
)
@pytest.mark.parametrize("place", [(3, 15, 20), (0, 0, 39)])
def test_a_mask_gives_what_the_whole_gives_and_leaves_the_rest(network, size, spacing, margin_mm, place):
    raw = volume(size, spacing)
    mask = np.zeros(size, bool)
    mask[tuple(slice(at, at + 2) for at in place)] = True
    filtered = network(raw, mask=mask, margin_mm=margin_mm, grid="model")
    need = network.task(raw, mask, margin_mm).need
    whole = network(raw, grid="model")
    np.testing.assert_allclose(filtered.array[need], whole.array[need], atol=0.3)
    np.testing.assert_array_equal(filtered.array[~need], raw.array[~need])
    record = filtered.provenance["filter"]
    assert record["filtered_fraction"] == need.mean() and record["outside"] == "raw"
    assert record["computed_voxels"] < whole.provenance["filter"]["computed_voxels"]
    assert any(f"{margin_mm:g} mm around" in warning for warning in filtered.warnings)


@pytest.mark.parametrize("spacing", [(0.1, 0.06, 0.06), (0.5, 0.3, 0.37)])
def test_voxels_between_those_of_a_mask_stay_raw(network, spacing):
    raw = volume((12, 40, 40), spacing)
    mask = np.zeros(raw.grid.size, bool)
    mask[[0, 3, 7, 11], [0, 17, 22, 39], [39, 18, 20, 0]] = True
    there = network(raw, mask=mask, margin_mm=0.0, grid="model").array
    np.testing.assert_allclose(there[mask], network(raw, grid="model").array[mask], atol=0.3)
    np.testing.assert_array_equal(there[~mask], raw.array[~mask])


def test_with_a_mask_a_scan_fits_that_is_too_large_without(network, monkeypatch):
    raw = volume((40, 60, 60))
    mask = np.zeros(raw.grid.size, bool)
    mask[20, 30, 30] = True
    monkeypatch.setattr(grids, "_free_bytes", lambda: 2**20)
    with pytest.raises(OutOfMemoryError, match="--mask"):
        network(raw, grid="model")
    assert network(raw, mask=mask, margin_mm=0.5, grid="model").provenance["filter"]["grid"] == "model"


def test_a_word_that_names_no_grid_is_refused(network):
    with pytest.raises(UsageError, match="native or model"):
        network(volume(), grid="isotropic")


def test_both_in_one_go_are_the_two_steps(network):
    """The spheres are measured after the way back, on the scan's voxels."""
    raw = volume()
    words = {"diameter_mm": 2.0, "threads": 1}
    trip = filter_and_measure(raw, network, (225,), **words, grid="model")
    filtered = network(raw, grid="model")
    np.testing.assert_array_equal(trip.filtered.array, filtered.array)
    assert trip.filtered.provenance == filtered.provenance
    maps = local_maps(filtered, (225,), device="cpu", **words)
    assert_same_bits(trip.maps, maps)
    assert trip.maps["BMD"].provenance == maps["BMD"].provenance
