"""Questions to the NVIDIA driver, with a fake of its library."""

import ctypes

import pytest

from qctrun.runtime import nvidia


class FakeDriver:
    """libcuda of a machine with two GPUs; `broken` names the calls that fail."""

    def __init__(self, *broken):
        self.broken, self.pushed = broken, 0

    def _answer(self, name, target=None, value=None):
        if name in self.broken:
            return 999
        if target is not None:
            target._obj.value = value
        return 0

    def cuInit(self, flags):  # noqa: N802
        return self._answer("cuInit")

    def cuDriverGetVersion(self, target):  # noqa: N802
        return self._answer("cuDriverGetVersion", target, 13020)

    def cuDeviceGetCount(self, target):  # noqa: N802
        return self._answer("cuDeviceGetCount", target, 2)

    def cuDeviceGet(self, target, index):  # noqa: N802
        return self._answer("cuDeviceGet", target, index)

    def cuDeviceGetName(self, buffer, length, handle):  # noqa: N802
        buffer.value = f"GPU {handle.value}".encode()

    def cuDeviceTotalMem_v2(self, target, handle):  # noqa: N802
        target._obj.value = 2**33

    def cuDeviceGetAttribute(self, target, attribute, handle):  # noqa: N802
        target._obj.value = {75: 9, 76: 0}[attribute]

    def cuDevicePrimaryCtxRetain(self, target, handle):  # noqa: N802
        return self._answer("cuDevicePrimaryCtxRetain", target, 1234)

    def cuCtxPushCurrent_v2(self, context):  # noqa: N802
        self.pushed += 1
        return self._answer("cuCtxPushCurrent_v2")

    def cuCtxPopCurrent_v2(self, target):  # noqa: N802
        self.pushed -= 1

    def cuMemGetInfo_v2(self, free, total):  # noqa: N802
        total._obj.value = 2**33
        return self._answer("cuMemGetInfo_v2", free, 2**32)


def use(monkeypatch, library):
    monkeypatch.setattr(nvidia, "_library", lambda name: library)
    return library


def test_without_a_driver(monkeypatch):
    use(monkeypatch, None)
    assert (nvidia.driver_cuda(), nvidia.gpus(), nvidia.free_bytes(0)) == (None, (), None)
    assert nvidia.cudnn_version() is None


def test_library_that_is_not_there():
    assert nvidia._library("libno-such-thing.so.1") is None


def test_answers(monkeypatch):
    driver = use(monkeypatch, FakeDriver())
    assert nvidia.driver_cuda() == (13, 2)
    assert nvidia.gpus() == (
        nvidia.Gpu(0, "GPU 0", "9.0", 8192),
        nvidia.Gpu(1, "GPU 1", "9.0", 8192),
    )
    assert nvidia.free_bytes(1) == 2**32
    assert driver.pushed == 0


@pytest.mark.parametrize(
    "broken", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuMemGetInfo_v2", "cuCtxPushCurrent_v2"]
)
def test_driver_that_fails(monkeypatch, broken):
    use(monkeypatch, FakeDriver(broken))
    assert nvidia.free_bytes(0) is None


def test_cudnn(monkeypatch):
    library = type("Cudnn", (), {"cudnnGetVersion": ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: 91600)})
    use(monkeypatch, library)
    assert nvidia.cudnn_version() == 91600
