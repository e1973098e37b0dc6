"""`Filter`: a volume in, a volume on the same grid out, and what it refuses."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import filtering_models as models
import numpy as np
import pytest

from qctrun.runtime import Filter, Grid, Volume, read, write
from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.filtering import apply

pytest.importorskip("onnxruntime")
SPACING = (0.34, 0.172, 0.172)


@pytest.fixture(scope="module", params=["auto", "onnxruntime"])
def nnsp(request, tmp_path_factory):
    path = models.save(tmp_path_factory.mktemp("model") / "m.onnx", models.nnsp())
    return Filter(path, device="cpu", threads=2, backend=request.param)


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of at most 8,000 voxels."""
    monkeypatch.setitem(apply.WINDOW_BYTES, "cpu", 8_000 * apply.voxel_bytes(models.card()))


def volume(size=(12, 30, 28), *, spacing=SPACING, unit="mg/cm3", material="HA", seed=0, **words):
    array = np.random.default_rng(seed).normal(200, 200, size).astype(np.float32)
    return Volume(array, Grid(size, spacing, origin=(1, 2, 3)), unit, material, **words)


def test_same_place_and_scale(nnsp):
    raw = volume(provenance={"stem": "scan"})
    before = raw.array.copy()
    filtered = nnsp(raw)
    assert (filtered.grid, filtered.unit, filtered.material) == (raw.grid, "mg/cm3", "HA")
    assert np.array_equal(raw.array, before) and not np.array_equal(filtered.array, before)
    assert filtered.provenance["stem"] == "scan"
    assert filtered.warnings == ()


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 1), (1, 50, 50), (40, 3, 3), (9, 17, 17)])
def test_any_size(nnsp, small_windows, size):
    filtered = nnsp(volume(size))
    assert filtered.array.shape == size and np.isfinite(filtered.array).all()


def test_record(nnsp, small_windows):
    record = nnsp(volume()).provenance["filter"]
    assert record["model"] == "test" and record["sha256"] == nnsp.sha256
    assert (record["provider"], record["device"], record["threads"]) == (nnsp.provider, "cpu", 2)
    assert (record["backend"], record["precision"]) == (nnsp.backend, "fp32")
    assert record["windows"] > 1 and record["filtered_fraction"] == 1 and "outside" not in record
    json.dumps(record)


def test_windows_do_not_show(nnsp, monkeypatch):
    raw = volume((20, 50, 48))
    whole = nnsp(raw).array
    monkeypatch.setitem(apply.WINDOW_BYTES, "cpu", 12_000 * apply.voxel_bytes(nnsp.card))
    pieces = nnsp(raw)
    assert pieces.provenance["filter"]["windows"] > 4
    np.testing.assert_allclose(pieces.array, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_progress(nnsp, small_windows):
    told = []
    windows = nnsp(volume(), progress=lambda *step: told.append(step)).provenance["filter"]["windows"]
    assert told == [(done, windows) for done in range(windows + 1)]


def test_mask(nnsp, small_windows):
    raw = volume((30, 120, 120))
    mask = np.zeros(raw.array.shape, np.uint8)
    mask[14:16, 50:60, 50:60] = 3
    told = []
    found = nnsp(raw, mask=mask, margin_mm=1.0, progress=lambda *step: told.append(step))
    whole = nnsp(raw).array
    near = np.zeros(mask.shape, bool)
    near[12:18, 45:65, 45:65] = True  # 1 mm are 2 slices and 5 pixels
    np.testing.assert_allclose(found.array[near], whole[near], rtol=0, atol=1e-5 * np.abs(whole).max())
    assert np.array_equal(found.array[~near], raw.array[~near])
    record = found.provenance["filter"]
    assert record["filtered_fraction"] == near.mean() and record["outside"] == "raw"
    assert record["computed_voxels"] < 0.4 * raw.array.size
    assert "only within the mask" in found.warnings[0]


def test_default_margin_covers_spheres_of_ten_millimetres(nnsp):
    raw = volume((40, 70, 70))
    mask = np.zeros(raw.array.shape, bool)
    mask[20, 35, 35] = True
    found = nnsp(raw, mask=mask).array
    steps = np.indices(mask.shape) - np.reshape((20, 35, 35), (3, 1, 1, 1))
    sphere = sum((step * mm) ** 2 for step, mm in zip(steps, SPACING, strict=True)) <= 5.0**2
    whole = nnsp(raw).array
    np.testing.assert_allclose(found[sphere], whole[sphere], rtol=0, atol=1e-5 * np.abs(whole).max())


def test_mask_of_everything_is_no_mask(nnsp):
    raw = volume()
    found = nnsp(raw, mask=np.ones(raw.array.shape, bool))
    assert found.warnings == () and np.allclose(found.array, nnsp(raw).array, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((3, 3, 3)), "shape"),
        (np.zeros((12, 30, 28), bool), "empty"),
        (np.ones((12, 30)), "shape"),
        (np.ones((12, 30, 28), np.float32), "whole numbers, got an array of float32"),
    ],
)
def test_bad_mask(nnsp, mask, words):
    with pytest.raises(InputError, match=words):
        nnsp(volume(), mask=mask)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(nnsp, bad):
    raw = volume()
    raw.array[3, 4, 5] = bad
    with pytest.raises(InputError, match=r"\(3, 4, 5\)"):
        nnsp(raw)


def test_hounsfield_units_are_refused(nnsp):
    with pytest.raises(InputError, match="calibrate") as caught:
        nnsp(volume(unit="HU", material=None))
    assert caught.value.exit_code == 3


def test_other_material_is_refused(nnsp):
    with pytest.raises(InputError, match=r"K2HPO4.*line to HA"):
        nnsp(volume(material="K2HPO4"))


def test_unknown_material_is_said(nnsp):
    assert "taken as HA" in nnsp(volume(material=None)).warnings[0]


@pytest.mark.parametrize(
    ("spacing", "far"),
    [
        ((0.34, 0.18, 0.18), False),
        ((0.34, 0.2, 0.172), True),
        ((1.0, 0.172, 0.172), True),
        ((0.3, 0.172, 0.172), True),
    ],
)
def test_spacing_far_from_the_model(nnsp, spacing, far):
    warnings = nnsp(volume(spacing=spacing)).warnings
    assert [("0.34 x 0.172 x 0.172" in text) for text in warnings] == [True] * far


def test_warnings_are_added_to_those_there(nnsp):
    raw = volume(spacing=(0.5, 0.5, 0.5)).warn("first")
    assert nnsp(raw).warnings[0] == "first" and len(nnsp(raw).warnings) == 2


def test_threads_share_a_filter(nnsp, small_windows):
    raws = [volume(seed=seed) for seed in range(4)]
    alone = [nnsp(raw).array for raw in raws]
    with ThreadPoolExecutor(2) as pool:
        together = [found.array for found in pool.map(nnsp, raws)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


MEMORY = """
import sys
import numpy as np
from qctrun.runtime import Filter, Grid, Volume
from qctrun.runtime.writing.record import peak_memory_mb  # its own peak, not that of the tests that started it

size = (128, 512, 512)
array = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
filtered = Filter(sys.argv[1], device="cpu")(Volume(array, Grid(size, (0.34, 0.172, 0.172)), "mg/cm3", "HA"))
assert filtered.array.shape == size
print(int(peak_memory_mb() * 1e6))
"""


@pytest.mark.slow
def test_memory_of_a_large_volume(tmp_path):
    channels = (32, 16, 8, 8, 16)
    path = models.save(tmp_path / "m.onnx", models.nnsp(channels), models.card(channels))
    found = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True, timeout=1200
    )
    assert int(found.stdout) < 2 * 10**9


@pytest.mark.parametrize("margin_mm", [-1.0, np.nan, np.inf, "5", None])
@pytest.mark.parametrize("masked", [True, False])
def test_a_margin_without_sense_is_refused(nnsp, margin_mm, masked):
    raw = volume()
    mask = np.ones(raw.array.shape, bool) if masked else None
    with pytest.raises(UsageError, match="margin_mm: wanted a finite number of mm, 0 or more"):
        nnsp(raw, mask=mask, margin_mm=margin_mm)


def test_the_record_says_how_much_was_filtered_and_with_what(nnsp):
    raw = volume()
    mask = np.zeros(raw.array.shape, bool)
    mask[6, 15, 14] = True
    whole, part = nnsp(raw).provenance["filter"], nnsp(raw, mask=mask, margin_mm=1).provenance["filter"]
    assert (whole["threads"], whole["filtered_fraction"], whole["margin_mm"]) == (2, 1.0, None)
    assert (part["threads"], part["margin_mm"]) == (2, 1.0) and 0 < part["filtered_fraction"] < 1
    json.dumps([whole, part])


def test_unknown_material_becomes_the_one_it_was_taken_as(nnsp, tmp_path):
    filtered = nnsp(volume(material=None))
    assert filtered.material == "HA"
    again = read(write(filtered, tmp_path / "a.mha"))
    assert again.material == "HA" and "taken as HA" in again.warnings[0]


def test_filtering_twice_is_said_loudly(nnsp, tmp_path):
    once = nnsp(volume())
    for filtered in (once, read(write(once, tmp_path / "a.mha"))):
        (warning,) = nnsp(filtered).warnings
        assert warning.startswith("FILTERED TWICE: the volume was already filtered by test 1;")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_without_sense_are_refused(threads):
    with pytest.raises(UsageError, match="threads: wanted a whole number from 1 to 256"):
        Filter(device="cpu", threads=threads)


@pytest.mark.parametrize("device", ["cpu:xyz", "gpu", "", None])
def test_devices_without_sense_are_refused(device):
    with pytest.raises(UsageError, match="device: wanted auto, cpu"):
        Filter(device=device)
