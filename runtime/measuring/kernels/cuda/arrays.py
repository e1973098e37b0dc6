"""Arrays on a GPU, whoever made them, as Numba's own."""

import importlib
from typing import Any

import numpy as np

from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring.kernels.cuda.compiler import SIMULATED, cuda


def on_device(array: Any, dtype: type[np.generic] | None = None, shape: tuple[int, ...] | None = None) -> Any:
    """A view of an array on the device; nothing is copied and nothing waits.

    Parameters
    ----------
    array : anything with `__cuda_array_interface__` or `__dlpack__`
        C-contiguous.
    dtype : dtype, optional
        What it must hold.
    shape : tuple of int, optional
        What it must have; a kernel would read and write beyond an array that is smaller.

    Raises
    ------
    InputError
        When it holds something else, has another shape, or is not C-contiguous.
    """
    if hasattr(array, "__cuda_array_interface__"):
        array = cuda.as_cuda_array(array, sync=False)
    elif not SIMULATED:
        array = cuda.from_cuda_array_interface(_described(array), owner=array, sync=False)
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise InputError("array on the device", wanted=str(np.dtype(dtype)), got=str(array.dtype))
    if shape is not None and tuple(array.shape) != tuple(shape):
        raise InputError("array on the device", wanted=f"shape {shape}", got=f"shape {tuple(array.shape)}")
    if not array.is_c_contiguous():
        raise InputError("array on the device", wanted="C-contiguous", got=f"strides {array.strides}")
    return array


def as_flags(array: Any, shape: tuple[int, ...]) -> Any:
    """A bool or uint8 array of this shape on the device as uint8."""
    array = on_device(array)
    return on_device(array.view(np.uint8) if array.dtype == np.bool_ else array, np.uint8, shape)


def flat(array: Any) -> Any:
    """The same numbers along one axis."""
    return array.reshape(array.size)


def _described(array: Any) -> dict[str, Any]:
    """What DLPack knows of an array, in the words of the CUDA array interface."""
    memory_view: Any = importlib.import_module("cuda.core.utils").StridedMemoryView
    # -1: whoever made the array and whoever reads it are on the same stream, or have waited for each other.
    view = memory_view.from_dlpack(array, stream_ptr=-1)
    item = view.dtype.itemsize
    strides = None if view.strides is None else tuple(item * each for each in view.strides)
    return {
        "shape": tuple(view.shape),
        "strides": strides,
        "typestr": view.dtype.str,
        "data": (view.ptr, view.readonly),
        "version": 3,
    }
