"""onnxruntime on the CPU, on the graph as 2-D convolutions: one for each depth of window and what is kept of it."""

import threading
from collections import OrderedDict

from qctrun.runtime.errors import ModelError
from qctrun.runtime.filtering import graph
from qctrun.runtime.filtering.engines.onnx_cpu import CPU, OnnxCpuEngine
from qctrun.runtime.filtering.model import MEND, Model
from qctrun.runtime.filtering.windows import Box
from qctrun.runtime.volume import FloatArray

KEPT = 8
"""Graphs that stay open."""


class OnnxFlatEngine:
    """A model of the known form, opened by onnxruntime as 2-D convolutions.

    Parameters
    ----------
    model : Model
        A model that has been read and checked, and that `graph.flat` knows.
    threads : int
        CPU threads.
    """

    provider = CPU

    def __init__(self, model: Model, threads: int) -> None:
        self._model, self._threads = model, threads
        self._opened: OrderedDict[tuple[int, graph.Crop], OnnxCpuEngine] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, window: FloatArray, keep: Box | None = None) -> FloatArray:
        """Filter one window, float32 (z, y, x), mg/cm3; only what is kept of the result is computed."""
        crop = graph.WHOLE
        if keep is not None:
            crop = tuple((part.start, n - part.stop) for part, n in zip(keep, window.shape, strict=True))
        return self._opened_for(window.shape[0], crop).run(window)

    def _opened_for(self, depth: int, crop: graph.Crop) -> OnnxCpuEngine:
        key = depth, crop
        with self._lock:
            if key not in self._opened:
                self._opened[key] = self._open(depth, crop)
                if len(self._opened) > KEPT:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(key)
            return self._opened[key]

    def _open(self, depth: int, crop: graph.Crop) -> OnnxCpuEngine:
        data = graph.flat(self._model.data, depth, crop)
        if data is None:
            what = f"model {self._model.path}"
            raise ModelError(what, wanted="layers that flat knows", got="others", mend=MEND)
        return OnnxCpuEngine(self._model, self._threads, data, [sum(ends) for ends in crop])
