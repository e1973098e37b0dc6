"""`filter_and_measure` on the CPU: exactly `Filter`, then `local_maps`."""

import fake_cuda
import filtering_models as models
import numpy as np
import pytest
import scans
from map_cases import assert_same_bits

from qctrun.runtime import Filter, Volume, filter_and_measure, local_maps, read
from qctrun.runtime.errors import DeviceError, InputError, UsageError
from qctrun.runtime.reading import Calibration, load_calibration

pytest.importorskip("onnxruntime")
SIZE = (9, 26, 24)
WORDS = {"diameter_mm": 1.2, "threads": 1}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = models.save(tmp_path_factory.mktemp("model") / "m.onnx", models.nnsp())
    return Filter(path, device="cpu", threads=1)


def rod(radius):
    _, y, x = np.indices(SIZE)
    return np.hypot(y - SIZE[1] / 2, x - SIZE[2] / 2) < radius


@pytest.mark.parametrize(
    ("filter_mask", "words"),
    [
        (None, {}),
        (None, {"mask": rod(9), "inside": True, "step": "hard"}),
        (rod(2), {"mask": rod(5).astype(np.uint8)}),
    ],
)
def test_the_same_as_the_two_steps(network, filter_mask, words):
    volume = scans.density(SIZE)
    trip = filter_and_measure(volume, network, (200, 225), filter_mask=filter_mask, **WORDS, **words)
    filtered = network(volume, mask=filter_mask)
    assert_same(trip, filtered, local_maps(filtered, (200, 225), device="cpu", **WORDS, **words))
    assert list(trip.seconds) == ["filter", "maps"] and min(trip.seconds.values()) > 0


@pytest.mark.parametrize("line", [None, (0.75, -3.0)])
def test_calibrated_as_read_does_it(network, tmp_path, line):
    """A nominal line, and one that names no material: numbers and words are those of `read`."""
    scans.make_series(tmp_path / "scan", size=SIZE)
    density = read(tmp_path / "scan", calibration=line)
    raw = Volume(scans.hounsfield(SIZE), density.grid, "HU", provenance=density.provenance)
    said = raw.provenance.pop("warnings"), raw.provenance.pop("calibration")
    calibration = Calibration(**said[1]) if line is None else load_calibration(line)
    trip = filter_and_measure(raw, network, (225,), **WORDS, calibration=calibration)
    expected = Volume(density.array, density.grid, "mg/cm3", "HA", {**raw.provenance, "calibration": said[1]})
    filtered = network(expected.warn(*said[0]))
    assert said[0]
    assert_same(trip, filtered, local_maps(filtered, (225,), device="cpu", **WORDS))


def test_progress_is_told_in_two_rounds(network):
    told = []
    filter_and_measure(
        scans.density(SIZE), network, (225,), **WORDS, progress=lambda *call: told.append(call)
    )
    ends = [number for number, (done, total) in enumerate(told) if done == total]
    assert told[0][0] == 0 and len(ends) == 2 and ends[-1] == len(told) - 1


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"thresholds": ()}, UsageError, "thresholds"),
        ({"inside": True}, UsageError, "inside"),
        ({"threads": 0}, UsageError, "threads"),
        ({"diameter_mm": 0.1}, InputError, "sphere diameter"),
        ({"mask": np.zeros(SIZE, bool)}, InputError, "empty mask"),
    ],
)
def test_words_without_sense_are_refused_before_the_filter_runs(network, monkeypatch, words, error, said):
    monkeypatch.setattr(Filter, "__call__", lambda *_, **__: pytest.fail("filtered"))
    with pytest.raises(error, match=said):
        filter_and_measure(scans.density(SIZE), network, **{"thresholds": (225,), **WORDS, **words})


def test_hounsfield_units_need_a_line(network):
    volume = Volume(scans.hounsfield(SIZE), scans.grid(SIZE), "HU")
    with pytest.raises(InputError, match="calibrate it to density"):
        filter_and_measure(volume, network, (225,), **WORDS)
    line = Calibration(0.8, 0.0, "HA", "rods")
    with pytest.raises(InputError, match="wanted a volume in HU"):
        filter_and_measure(scans.density(SIZE), network, (225,), **WORDS, calibration=line)


def test_maps_where_they_were_asked_for(network, monkeypatch):
    """A filter on the CPU does not keep the maps from a GPU, and the other way round."""
    asked = []
    monkeypatch.setattr("qctrun.runtime.trip.local_maps", lambda *_, device, **__: asked.append(device) or {})
    monkeypatch.setattr(network, "asked", "auto")
    filter_and_measure(scans.density(SIZE), network, (225,), **WORDS)
    assert asked == ["auto"]


def test_without_kernels_for_the_gpu_the_maps_go_where_auto_sends_them(tmp_path, monkeypatch):
    fake_cuda.install(monkeypatch)
    network = Filter(models.save(tmp_path / "m.onnx", models.nnsp()), device="auto")
    assert network.device == "cuda:0"

    def refuse(device):
        raise DeviceError(f"device {device}", got="no kernels")

    monkeypatch.setattr("qctrun.runtime.measuring.maps.prove", refuse)
    monkeypatch.setattr("qctrun.runtime.measuring.maps.has_driver", lambda: True)
    trip = filter_and_measure(scans.density(SIZE), network, (225,), **WORDS)
    assert trip.filtered.provenance["filter"]["device"] == "cuda:0"
    assert trip.maps["BMD"].provenance["map"]["device"] == "cpu"
    assert any("computed on the CPU" in text for text in trip.maps["BMD"].warnings)
    network.asked = "cuda"
    with pytest.raises(DeviceError, match="no kernels"):
        filter_and_measure(scans.density(SIZE), network, (225,), **WORDS)


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [False, True])
def test_on_a_gpu_the_same_as_the_two_steps_there(tmp_path, masked):
    """Filtered from HU in many windows; maps of the processor on what was filtered, to the last bit."""
    network = Filter(models.save(tmp_path / "m.onnx", models.nnsp()), device="cuda")
    size, line = (40, 90, 110), Calibration(0.79, 3.25, "HA", "rods")
    mask = np.zeros(size, bool)
    mask[5:30, 20:70, 30:90] = True
    masks = {"mask": mask, "inside": True} if masked else {}
    part = mask if masked else None
    volume = Volume(scans.hounsfield(size), scans.grid(size), "HU")
    for _ in range(2):  # the second time with the session that is there
        trip = filter_and_measure(
            volume, network, (200, 225), **WORDS, **masks, filter_mask=part, calibration=line
        )
        assert list(trip.seconds) == ["upload", "filter", "maps", "download"]
        filtered = network(line.apply(volume), mask=part)
        largest = np.abs(filtered.array).max()
        np.testing.assert_allclose(trip.filtered.array, filtered.array, rtol=0, atol=1e-5 * largest)
        assert trip.filtered.provenance == filtered.provenance
        maps = local_maps(trip.filtered, (200, 225), device="cpu", **WORDS, **masks)
        for key in maps:
            np.testing.assert_allclose(trip.maps[key].array, maps[key].array, rtol=2e-7)
        np.testing.assert_array_equal(trip.maps["BMD"].array, maps["BMD"].array)


def assert_same(trip, filtered, maps):
    np.testing.assert_array_equal(trip.filtered.array, filtered.array)
    assert (trip.filtered.grid, trip.filtered.material) == (filtered.grid, filtered.material)
    assert trip.filtered.provenance == filtered.provenance
    assert_same_bits(trip.maps, maps)
    for key in maps:
        assert trip.maps[key].provenance == maps[key].provenance
        assert trip.maps[key].unit == maps[key].unit
