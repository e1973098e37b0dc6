"""What the NVIDIA driver says of itself and its GPUs, asked through its own library; nothing has to be installed.

Every question has the answer None, or an empty one, where there is no driver.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

_DRIVER, _CUDNN = "libcuda.so.1", "libcudnn.so.9"
_CAPABILITY = (75, 76)
"""The driver's numbers of the attributes that make up the compute capability."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as CUDA counts them.

    Attributes
    ----------
    index : int
        N of the device "cuda:N".
    name : str
    capability : str
        Compute capability, e.g. "9.0".
    memory_mb : int
        Memory in all, 2^20 bytes.
    """

    index: int
    name: str
    capability: str
    memory_mb: int


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version (major, minor) that the driver can run."""
    driver = _library(_DRIVER)
    found = ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(found)) != 0:
        return None
    return found.value // 1000, found.value % 1000 // 10


def gpus() -> tuple[Gpu, ...]:
    """All GPUs that this process may use."""
    driver = _ready()
    count = ctypes.c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_gpu(driver, index) for index in range(count.value))


def free_bytes(index: int) -> int | None:
    """Memory of a GPU that nobody holds now, bytes."""
    driver = _ready()
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if driver is None or driver.cuDeviceGet(ctypes.byref(handle), index) != 0:
        return None
    # The process's own context, which every CUDA library shares; it is kept, since making it takes a while.
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle) != 0:
        return None
    if driver.cuCtxPushCurrent_v2(context) != 0:
        return None
    failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    return None if failed else free.value


def cudnn_version() -> int | None:
    """Version of the cuDNN that is loaded or can be, e.g. 91600 for 9.16.0."""
    cudnn = _library(_CUDNN)
    if cudnn is None:
        return None
    cudnn.cudnnGetVersion.restype = ctypes.c_size_t
    return int(cudnn.cudnnGetVersion())


def _library(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _ready() -> Any:
    driver = _library(_DRIVER)
    return driver if driver is not None and driver.cuInit(0) == 0 else None


def _gpu(driver: Any, index: int) -> Gpu:
    handle, name, total = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    parts = []
    for attribute in _CAPABILITY:
        part = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, handle)
        parts.append(str(part.value))
    return Gpu(index, name.value.decode(errors="replace"), ".".join(parts), total.value // 2**20)
