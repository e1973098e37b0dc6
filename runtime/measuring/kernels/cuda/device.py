"""Whether a GPU can compute local maps, and what its failures mean."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from qctrun.runtime import nvidia
from qctrun.runtime.errors import DeviceError, OutOfMemoryError, QctrunError, RuntimeMissingError

INSTALL = 'pip install "qctrun[cuda]"'
CPU = "or say --device cpu"


def has_driver() -> bool:
    """Whether there is an NVIDIA driver, whatever it can do."""
    return nvidia.driver_cuda() is not None


@contextmanager
def opened(device: str) -> Iterator[None]:
    """Make a device ("cuda:N") the current one.

    Raises
    ------
    RuntimeMissingError
        When numba-cuda is not installed or cannot be imported.
    DeviceError
        When the device is not there, its driver too old, or it fails while in use.
    OutOfMemoryError
        When its memory does not suffice.
    """
    prove(device)
    from numba import cuda

    try:
        with cuda.gpus[_number(device)]:
            yield
    except QctrunError:
        raise
    except Exception as error:
        if not _from_driver(error):
            raise
        raise _as_ours(error, device) from None


@cache
def prove(device: str) -> None:
    """Run a small kernel on a device and look at what it did; once a process. Raises what `opened` raises."""
    cuda = _numba_cuda()
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return
    if nvidia.driver_cuda() is None:
        raise DeviceError(
            f"device {device}", wanted="an NVIDIA driver", got="none", mend=f"install one, {CPU}"
        )
    found = len(nvidia.gpus())
    if _number(device) >= found:
        some = "no GPU" if not found else f"{found} of them"
        mend = f"say cuda:0 to cuda:{found - 1}" if found else "look at nvidia-smi"
        raise DeviceError(f"device {device}", wanted="a GPU", got=some, mend=f"{mend}, {CPU}")
    try:
        with cuda.gpus[_number(device)]:
            counted = _count(cuda)
    except Exception as error:
        raise _as_ours(error, device) from None
    if counted != [7.0] * 4:
        mend = f"reinstall it ({INSTALL}), {CPU}"
        raise DeviceError(
            f"device {device}", wanted="7 from a test of numba-cuda", got=str(counted), mend=mend
        )


def too_little(device: str, needed_bytes: int, free_bytes: int) -> OutOfMemoryError:
    """The refusal of work that does not fit."""
    return OutOfMemoryError(
        f"memory of {device}",
        wanted=f"{_mb(needed_bytes)} MB for the thinnest slab of local maps",
        got=f"{_mb(free_bytes)} MB free",
        mend=f"give a mask or crop the volume, close what else uses the GPU, {CPU}",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether the driver says that its memory is used up."""
    return "OUT_OF_MEMORY" in str(error)


def _numba_cuda() -> Any:
    if importlib.util.find_spec("numba_cuda") is None:
        raise RuntimeMissingError(
            "numba-cuda", wanted="local maps on a GPU", got="not installed", mend=INSTALL
        )
    try:
        from numba import cuda
    except Exception as error:  # whatever breaks, NumPy 2.5 for example: the words say it
        mend = f"reinstall it: {INSTALL}"
        raise RuntimeMissingError("numba-cuda", wanted="to import it", got=_line(error), mend=mend) from None
    return cuda


def _count(cuda: Any) -> list[float]:
    import numpy as np

    from qctrun.runtime.measuring.kernels.cuda.kernels import fill

    array = cuda.to_device(np.zeros(4, np.float32))
    fill[1, 4](array, np.float32(7))
    return [float(each) for each in array.copy_to_host()]


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _from_driver(error: Exception) -> bool:
    return (type(error).__module__ or "").startswith(("numba.cuda", "cuda."))


def _as_ours(error: Exception, device: str) -> QctrunError:
    if is_out_of_memory(error):
        mend = f"give a mask or crop the volume, close what else uses the GPU, {CPU}"
        return OutOfMemoryError(f"memory of {device}", wanted="enough of it", got=_line(error), mend=mend)
    version = nvidia.driver_cuda()
    driver = f" (the driver runs CUDA {version[0]}.{version[1]})" if version else ""
    return DeviceError(
        f"device {device}",
        wanted="a GPU of compute capability 7.5 or newer and driver 580 or newer",
        got=_line(error) + driver,
        mend=f"update the driver, look at nvidia-smi, {CPU}",
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _mb(size: float) -> str:
    return f"{size / 2**20:.0f}"
