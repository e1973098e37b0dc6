"""A GPU that is missing, or cannot be used, is named with its mend; `auto` goes on without it."""

import importlib.util
import sys

import numpy as np
import pytest
from map_cases import assert_same_bits, bone_like, volume_of

from qctrun.runtime import nvidia
from qctrun.runtime.errors import DeviceError, OutOfMemoryError, RuntimeMissingError
from qctrun.runtime.measuring import local_maps, maps
from qctrun.runtime.measuring.kernels.cuda import device as cuda_device


@pytest.fixture(autouse=True)
def unproved(monkeypatch):
    """Nothing is known of any device, before and after, and no simulator stands in."""
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    prove = cuda_device.prove
    prove.cache_clear()
    yield
    prove.cache_clear()


def without_numba_cuda(monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "numba_cuda" else known(name, *rest)
    )


def with_driver(monkeypatch, gpus=1, version=(13, 0)):
    monkeypatch.setattr(cuda_device, "_numba_cuda", lambda: FakeCuda)
    monkeypatch.setattr(nvidia, "driver_cuda", lambda: version)
    found = tuple(nvidia.Gpu(n, "NVIDIA Test", "9.0", 8192) for n in range(gpus))
    monkeypatch.setattr(nvidia, "gpus", lambda: found)


class FakeCuda:
    """A numba-cuda whose driver refuses the device."""

    class Devices:
        def __getitem__(self, number):
            raise RuntimeError("Call to cuInit results in\n CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)")

    gpus = Devices()


def small():
    return volume_of(bone_like((5, 9, 10)))


def test_no_numba_cuda(monkeypatch):
    without_numba_cuda(monkeypatch)
    with pytest.raises(
        RuntimeMissingError, match=r'numba-cuda: .*not installed; pip install "qctrun\[cuda\]"'
    ):
        local_maps(small(), (225.0,), 1.0, device="cuda")


def test_a_numba_cuda_that_cannot_be_imported(monkeypatch):
    if importlib.util.find_spec("numba_cuda") is None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name)
    monkeypatch.setitem(sys.modules, "numba.cuda", None)
    monkeypatch.delattr(sys.modules.get("numba"), "cuda", raising=False)
    with pytest.raises(RuntimeMissingError, match=r"wanted to import it, got .*; reinstall it"):
        local_maps(small(), (225.0,), 1.0, device="cuda")


def test_no_driver(monkeypatch):
    monkeypatch.setattr(cuda_device, "_numba_cuda", lambda: FakeCuda)
    monkeypatch.setattr(nvidia, "driver_cuda", lambda: None)
    with pytest.raises(DeviceError, match="device cuda:0: wanted an NVIDIA driver, got none"):
        local_maps(small(), (225.0,), 1.0, device="cuda")


@pytest.mark.parametrize(
    ("gpus", "words"), [(0, "got no GPU; look at nvidia-smi"), (2, "got 2 of them; say")]
)
def test_no_such_gpu(gpus, words, monkeypatch):
    with_driver(monkeypatch, gpus)
    with pytest.raises(DeviceError, match=f"device cuda:7: wanted a GPU, {words}"):
        local_maps(small(), (225.0,), 1.0, device="cuda:7")


def test_a_driver_that_is_too_old(monkeypatch):
    with_driver(monkeypatch, version=(12, 2))
    with pytest.raises(
        DeviceError, match=r"driver 580 or newer, got .*MISMATCH .*runs CUDA 12\.2.*update the driver"
    ):
        local_maps(small(), (225.0,), 1.0, device="cuda")


def test_auto_says_that_a_gpu_could_not_be_used(monkeypatch):
    expected = local_maps(small(), (225.0,), 1.0, device="cpu")
    with_driver(monkeypatch)
    found = local_maps(small(), (225.0,), 1.0)
    assert_same_bits(found, expected)
    (warning,) = found["BMD"].warnings
    assert warning.startswith("local maps were computed on the CPU: device cuda:0")
    assert found["BMD"].provenance["map"]["device"] == "cpu"


def test_auto_is_quiet_where_there_is_no_driver(monkeypatch):
    monkeypatch.setattr(nvidia, "driver_cuda", lambda: None)
    assert local_maps(small(), (225.0,), 1.0)["BMD"].warnings == ()


@pytest.mark.parametrize("failure", [DeviceError("device cuda:0"), OutOfMemoryError("memory of cuda:0")])
def test_a_gpu_that_fails_in_between(failure, monkeypatch):
    class Failing:
        @staticmethod
        def measure(*_):
            raise failure

    expected = local_maps(small(), (225.0,), 1.0, device="cpu")
    monkeypatch.setattr(maps, "has_driver", lambda: True)
    monkeypatch.setattr(maps, "prove", lambda device: None)
    monkeypatch.setitem(sys.modules, "failing_gpu", Failing)
    monkeypatch.setitem(maps.BACKENDS, "cuda", "failing_gpu")
    with pytest.raises(type(failure)):
        local_maps(small(), (225.0,), 1.0, device="cuda")
    found = local_maps(small(), (225.0,), 1.0)
    assert_same_bits(found, expected)
    assert found["SD"].warnings == (f"local maps were computed on the CPU: {failure}",)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY", OutOfMemoryError),
        ("[999] Call to cuStreamSynchronize results in CUDA_ERROR_UNKNOWN", DeviceError),
    ],
)
def test_what_the_driver_says_becomes_one_of_our_errors(words, kind, monkeypatch):
    monkeypatch.setattr(cuda_device, "prove", lambda device: None)
    lost = type("CudaAPIError", (RuntimeError,), {"__module__": "numba.cuda.cudadrv.driver"})
    numba_cuda = pytest.importorskip("numba.cuda")
    monkeypatch.setattr(numba_cuda, "gpus", [np.errstate()], raising=False)
    with pytest.raises(kind, match=words.split()[-1]), cuda_device.opened("cuda:0"):
        raise lost(words)


def test_errors_of_others_stay_what_they_are(monkeypatch):
    monkeypatch.setattr(cuda_device, "prove", lambda device: None)
    numba_cuda = pytest.importorskip("numba.cuda")
    monkeypatch.setattr(numba_cuda, "gpus", [np.errstate()], raising=False)
    with pytest.raises(ZeroDivisionError), cuda_device.opened("cuda:0"):
        raise ZeroDivisionError
