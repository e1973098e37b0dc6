"""onnxruntime on the CPU, on the graph that is written as 2-D convolutions, one for each depth of window."""

import threading
from collections import OrderedDict

from qctrun.runtime.errors import ModelError
from qctrun.runtime.filtering import graph
from qctrun.runtime.filtering.engines.onnx_cpu import CPU, OnnxCpuEngine
from qctrun.runtime.filtering.model import MEND, Model
from qctrun.runtime.volume import FloatArray

KEPT = 4
"""Graphs that stay open. The windows of a volume have one depth, those around a mask a few."""


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
        self._opened: OrderedDict[int, OnnxCpuEngine] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, window: FloatArray) -> FloatArray:
        """Filter one window, float32 (z, y, x), mg/cm3."""
        return self._of_depth(window.shape[0]).run(window)

    def _of_depth(self, depth: int) -> OnnxCpuEngine:
        with self._lock:
            if depth not in self._opened:
                self._opened[depth] = self._open(depth)
                if len(self._opened) > KEPT:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(depth)
            return self._opened[depth]

    def _open(self, depth: int) -> OnnxCpuEngine:
        data = graph.flat(self._model.data, depth)
        if data is None:
            what = f"model {self._model.path}"
            raise ModelError(what, wanted="layers that flat knows", got="others", mend=MEND)
        return OnnxCpuEngine(self._model, self._threads, data)
