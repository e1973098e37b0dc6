"""What local maps refuse, in the words of the caller."""

import numpy as np
import pytest
from map_cases import bone_like, volume_of

from qctrun.runtime.errors import DeviceError, InputError, UsageError
from qctrun.runtime.measuring import local_maps
from qctrun.runtime.volume import Volume


@pytest.fixture
def volume():
    return volume_of(bone_like((9, 17, 21)))


def test_hounsfield_units_are_refused(volume):
    with pytest.raises(InputError, match="HU"):
        local_maps(Volume(volume.array, volume.grid, unit="HU"), (200.0,), 1.548)


@pytest.mark.parametrize(
    "thresholds",
    [(), (-200.0,), (200.0, -1.0), (float("nan"),), (float("inf"),), (200.0, 200.0), (200, 225, 200.0)],
    ids=str,
)
def test_senseless_thresholds_are_refused(volume, thresholds):
    with pytest.raises(UsageError, match="threshold"):
        local_maps(volume, thresholds, 1.548)


def test_a_threshold_beyond_every_density_is_refused(volume):
    """(V - t) H_s of the least of steps, 1e-14, would be of weight there, and then no whole number."""
    with pytest.raises(UsageError, match="thresholds: wanted at most 65536 mg/cm3, got 1e"):
        local_maps(volume, (200.0, 1e9), 1.548)
    highest = local_maps(volume, (65536.0,), 1.548)
    assert np.nanmax(np.abs(highest["TMD", 65536.0].array)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_volume_that_is_not_finite_is_refused(bad):
    array = bone_like((9, 17, 21))
    array[1, 2, 3] = bad
    with pytest.raises(InputError, match=r"\(1, 2, 3\)"):
        local_maps(volume_of(array), (200.0,), 1.548)


def test_an_unknown_step_is_refused(volume):
    with pytest.raises(UsageError, match="step"):
        local_maps(volume, (200.0,), 1.548, step="smooth")


def test_an_unknown_device_is_refused(volume):
    with pytest.raises(UsageError, match="device"):
        local_maps(volume, (200.0,), 1.548, device="toaster")


@pytest.mark.parametrize("threads", [0, -1])
def test_a_senseless_number_of_threads_is_refused(volume, threads):
    with pytest.raises(UsageError, match="threads"):
        local_maps(volume, (200.0,), 1.548, threads=threads)


def test_cuda_without_a_gpu_is_an_error_and_no_quiet_cpu_run(monkeypatch, volume):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceError) as caught:
        local_maps(volume, (200.0,), 1.548, device="cuda")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threads": 1.5}, r"threads: wanted a whole number from 1 to 256, got 1\.5"),
        ({"threads": True}, "threads"),
        ({"device": "cpu:xyz"}, "device: wanted auto, cpu, cuda or cuda:N, got 'cpu:xyz'"),
        ({"device": None}, "device"),
        ({"thresholds": "225"}, r"thresholds: wanted .*mg/cm3 like \(200, 225\), got '225'"),
        ({"thresholds": 225}, "got 225"),
    ],
)
def test_words_without_sense_are_refused(options, match):
    with pytest.raises(UsageError, match=match):
        local_maps(volume_of(bone_like((9, 9, 9))), **{"thresholds": (225,), "diameter_mm": 1.0, **options})
