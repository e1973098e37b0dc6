"""Volumes between host and GPU by way of two small pinned buffers: while one is on its way, the other is copied."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.measuring.kernels.cuda.compiler import cuda

BUFFER_BYTES = 1 << 24
"""Of each buffer, but at least one slice. Pinning takes time, so a whole volume of it would not pay."""


class Transfer:
    """Moves arrays (z, y, x) of one shape on one stream.

    Parameters
    ----------
    shape : (int, int, int)
        Of the arrays on the device.
    stream : numba.cuda stream
    """

    def __init__(self, shape: tuple[int, ...], stream: Any) -> None:
        slice_bytes = 4 * math.prod(shape[1:])
        self._slices = max(1, min(shape[0], BUFFER_BYTES // slice_bytes))
        self._shape, self._stream = shape, stream
        self._buffers = [cuda.pinned_array(self._slices * slice_bytes, np.uint8) for _ in range(2)]
        self._arrived = [cuda.event() for _ in range(2)]

    def up(self, host: npt.NDArray[Any], device: Any) -> None:
        """Copy an array of the shape to the device; queued when this returns, and the array is free again."""
        for number, start in enumerate(range(0, self._shape[0], self._slices)):
            part = host[start : start + self._slices]
            self._arrived[number % 2].synchronize()
            buffer = self._buffer(number, part.shape, part.dtype)
            buffer[...] = part
            device[start : start + len(part)].copy_to_device(buffer, stream=self._stream)
            self._arrived[number % 2].record(self._stream)

    def down(self, device: Any, host: npt.NDArray[Any], reach: tuple[int, int, int]) -> None:
        """Copy an array of the shape, less its reach at all six sides, to the host; there when this returns."""
        first, last = reach[0], self._shape[0] - reach[0]
        waiting: list[tuple[int, int, npt.NDArray[Any]]] = []
        for number, start in enumerate(range(first, last, self._slices)):
            stop = min(start + self._slices, last)
            if len(waiting) == 2:
                self._take(*waiting.pop(0), host, reach)
            buffer = self._buffer(number, (stop - start, *self._shape[1:]), device.dtype)
            device[start:stop].copy_to_host(buffer, stream=self._stream)
            self._arrived[number % 2].record(self._stream)
            waiting.append((number, start - first, buffer))
        for each in waiting:
            self._take(*each, host, reach)

    def _take(
        self,
        number: int,
        start: int,
        buffer: npt.NDArray[Any],
        host: npt.NDArray[Any],
        reach: tuple[int, int, int],
    ) -> None:
        self._arrived[number % 2].synchronize()
        (_, rows, columns), (_, y, x) = self._shape, reach
        host[start : start + len(buffer)] = buffer[:, y : rows - y, x : columns - x]

    def _buffer(self, number: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        numbers: npt.NDArray[Any] = self._buffers[number % 2].view(dtype)
        return numbers[: math.prod(shape)].reshape(shape)
