"""The one trip over a simulated GPU: bit for bit what filter and maps give one after the other on the processor.

The network is computed by onnxruntime on the CPU, on the very arrays of the simulator.
"""

import filtering_models as models
import numpy as np
import pytest
from map_cases import assert_same_bits, bone_like
from onnx import helper

from qctrun.runtime import Filter, Grid, Volume, filter_and_measure, local_maps
from qctrun.runtime.errors import DeviceError, InputError, OutOfMemoryError
from qctrun.runtime.reading.calibration import Calibration

pytest.importorskip("onnxruntime")
SIZE = (3, 5, 6)
SPACING = (0.34, 0.172, 0.172)
LINE = Calibration(0.79, 3.25, "HA", "rods", nominal=True)
SMALL = {"diameter_mm": 0.4}


class SessionOnArrays:
    """A session on a GPU whose addresses are the arrays themselves."""

    def __init__(self, session, fault=None):
        self._session, self.fault, self.stream, self.shapes = session, fault, 7, []

    def run_on(self, source, target, shape, stream):
        assert stream == self.stream and source is not target and source.shape == target.shape == shape
        if self.fault is not None:
            raise self.fault
        self.shapes.append(shape)
        target.copy_to_device(self._session.run(source.copy_to_host()))


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A filter that sees one voxel far, and that believes to be on a GPU."""
    from qctrun.runtime import trip_cuda
    from qctrun.runtime.filtering import apply

    rng = np.random.default_rng(0)
    weights = [models.tensor("w", rng.normal(0, 0.2, (1, 1, 3, 3, 3))), models.tensor("b", [12.0])]
    conv = helper.make_node("Conv", ["volume", "w", "b"], ["filtered"], pads=[1] * 6)
    card = models.card((1,), halo=(1, 1, 1))
    made = Filter(models.save(tmp_path / "m.onnx", models.model([conv], weights), card), device="cpu")
    made.device, made.asked = "cuda:0", "cuda"
    made.sessions = []

    def session_on(stream):
        made.sessions.append(SessionOnArrays(made._session))
        return made.sessions[-1]

    made.session_on = session_on
    monkeypatch.setattr(trip_cuda, "address", lambda array: array)
    monkeypatch.setattr(trip_cuda, "handle", lambda stream: 7)
    made.in_windows_of = lambda voxels: monkeypatch.setitem(
        apply.WINDOW_BYTES, "cuda", voxels * apply.voxel_bytes(card)
    )
    return made


def hounsfield(kind=np.int16):
    return Volume(np.rint(bone_like(SIZE)).astype(kind), Grid(SIZE, SPACING), "HU")


def both(network, volume, calibration=None, filter_mask=None, **words):
    """The trip, after it was held against the two steps."""
    trip = filter_and_measure(
        volume, network, (225.0,), **SMALL, calibration=calibration, filter_mask=filter_mask, **words
    )
    density = volume if calibration is None else calibration.apply(volume).warn(*calibration.warnings)
    filtered = network(density, mask=filter_mask)
    words.pop("progress", None)
    maps = local_maps(filtered, (225.0,), **SMALL, device="cpu", **words)
    np.testing.assert_array_equal(trip.filtered.array, filtered.array)
    assert trip.filtered.provenance == filtered.provenance
    assert (trip.filtered.grid, trip.filtered.material) == (filtered.grid, filtered.material)
    assert_same_bits(trip.maps, maps)
    for key, found in trip.maps.items():
        want = maps[key].provenance
        assert found.provenance == {**want, "map": {**want["map"], "device": "cuda:0"}}
        assert found.unit == maps[key].unit
    assert list(trip.seconds) == ["upload", "filter", "maps", "download"]
    return trip


def test_density_in_one_window(network):
    both(network, Volume(bone_like(SIZE), Grid(SIZE, SPACING), "mg/cm3", "HA"))
    assert network.sessions[0].shapes == [SIZE]


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_hounsfield_units_are_calibrated_on_the_way(network, kind, monkeypatch):
    from qctrun.runtime import trip_cuda

    up, found = [], trip_cuda.Transfer.up
    monkeypatch.setattr(
        trip_cuda.Transfer, "up", lambda *words: (up.append(words[1].dtype), found(*words))[1]
    )
    volume = hounsfield()
    volume.array[2, 3, 4] += 0 if kind == np.int16 else 0.25
    trip = both(network, volume, LINE)
    assert up == [kind]
    assert any("NOMINAL" in text for text in trip.maps["BMD"].warnings)


def test_values_beyond_int16_go_up_as_they_are(network):
    volume = hounsfield()
    volume.array[0, 0, 0] = 40000.0
    both(network, volume, LINE)


def test_many_windows(network):
    network.in_windows_of(50)
    trip = both(network, hounsfield(), LINE)
    assert trip.filtered.provenance["filter"]["windows"] == len(network.sessions[0].shapes) > 1


def test_masks_of_filter_and_maps(network):
    mask, part = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    mask[:2, 1:4, 2:4] = True
    part[1, 2, 2] = True
    network.in_windows_of(50)
    trip = both(network, hounsfield(), LINE, filter_mask=part, mask=mask)
    assert 0 < trip.filtered.provenance["filter"]["filtered_fraction"] <= 1
    trip = both(network, hounsfield(), LINE, mask=np.ones(SIZE, bool), inside=True, step="hard")
    assert np.isfinite(trip.maps["SD"].array).any()


def test_filtered_only_where_needed(network, monkeypatch):
    """A margin of nothing, so that most of the small volume stays raw."""
    from qctrun.runtime.filtering import apply

    grow = apply.grow
    monkeypatch.setattr(apply, "grow", lambda mask, margin: grow(mask, (0, 1, 1)))
    part = np.zeros(SIZE, np.uint8)
    part[1, 2, 3] = 3
    trip = both(network, hounsfield(), LINE, filter_mask=part)
    raw = LINE.apply(hounsfield()).array
    assert np.count_nonzero(trip.filtered.array != raw) <= 9
    assert trip.filtered.provenance["filter"]["outside"] == "raw"


def test_nowhere_to_measure(network):
    mask = np.zeros(SIZE, bool)
    mask[0, 0, 0] = True
    trip = both(network, hounsfield(), LINE, mask=mask)
    assert any("local maps are empty" in text for text in trip.maps["BMD"].warnings)


def test_the_session_is_kept_for_the_next_volume(network):
    for _ in range(2):
        filter_and_measure(hounsfield(), network, (225.0,), **SMALL, calibration=LINE)
    assert len(network.sessions) == 1


def test_progress_is_told_in_one_round(network):
    network.in_windows_of(60)
    told = []
    both(network, hounsfield(), LINE, progress=lambda *call: told.append(call))
    total = told[0][1]
    assert told == [(done, total) for done in range(total + 1)]


def test_what_the_two_steps_refuse_is_refused(network):
    with pytest.raises(InputError, match="calibrate it to density"):
        filter_and_measure(hounsfield(), network, (225.0,), **SMALL)
    volume = hounsfield(np.float32)
    volume.array[1, 2, 3] = np.nan
    with pytest.raises(InputError, match=r"finite numbers.*\(1, 2, 3\)"):
        filter_and_measure(volume, network, (225.0,), **SMALL, calibration=LINE)
    with pytest.raises(InputError, match="wanted a volume in HU"):
        density = Volume(bone_like(SIZE), Grid(SIZE, SPACING), "mg/cm3", "HA")
        filter_and_measure(density, network, (225.0,), **SMALL, calibration=LINE)
    volume.array[1, 2, 3] = 2e5
    with pytest.raises(InputError, match="at most 65536 mg/cm3"):
        filter_and_measure(volume, network, (225.0,), **SMALL, calibration=LINE)


def test_too_little_memory_means_two_steps_and_a_note(network):
    filter_and_measure(hounsfield(), network, (225.0,), **SMALL, calibration=LINE)
    network.sessions[0].fault = OutOfMemoryError("device cuda:0", got="5 MB free")
    trip = filter_and_measure(hounsfield(), network, (225.0,), **SMALL, calibration=LINE)
    assert list(trip.seconds) == ["filter", "maps"]
    for volume in (trip.filtered, *trip.maps.values()):
        assert any("one after the other, not in one go: device cuda:0" in text for text in volume.warnings)
    filter_and_measure(hounsfield(), network, (225.0,), **SMALL, calibration=LINE)
    assert len(network.sessions) == 2


def test_a_lost_device_is_an_error(network):
    filter_and_measure(hounsfield(), network, (225.0,), **SMALL, calibration=LINE)
    network.sessions[0].fault = DeviceError("device cuda:0", got="lost")
    with pytest.raises(DeviceError, match="lost"):
        filter_and_measure(hounsfield(), network, (225.0,), **SMALL, calibration=LINE)
