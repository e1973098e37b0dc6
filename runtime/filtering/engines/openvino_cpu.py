"""OpenVINO on the CPU: reads the exported graph as it is and brings its own 3-D convolutions."""

import sys
import threading
from functools import cache
from typing import Any, cast

import numpy as np

from qctrun.runtime.errors import ModelError, RuntimeMissingError
from qctrun.runtime.filtering.engines import as_ours, line
from qctrun.runtime.filtering.model import MEND, Model
from qctrun.runtime.volume import FloatArray

SETTINGS = {
    # Newer processors would be given bfloat16 otherwise, whose error is visible.
    "INFERENCE_PRECISION_HINT": "f32",
    # One window at a time, on all threads.
    "PERFORMANCE_HINT": "LATENCY",
}
TELEMETRY = "openvino_telemetry"
INSTALL = 'pip install "qctrun[openvino]"'
ONNXRUNTIME = 'use the backend "onnxruntime"'

_opening = threading.Lock()


class OpenVinoEngine:
    """A model opened by OpenVINO; nothing is written to disk, nothing leaves the machine.

    Parameters
    ----------
    model : Model
        A model that has been read and checked.
    threads : int
        CPU threads.

    Attributes
    ----------
    provider : str
        "OpenVINO CPU".

    Raises
    ------
    RuntimeMissingError
        When openvino is not installed, or is and does not load.
    ModelError
        When OpenVINO refuses the model, or when it is no filter of one float32 volume.
    """

    provider = "OpenVINO CPU"

    def __init__(self, model: Model, threads: int) -> None:
        core = open_core()
        try:
            read = core.read_model(model.data)
            settings = {**SETTINGS, "INFERENCE_NUM_THREADS": threads}
            self._compiled = core.compile_model(read, "CPU", settings)
        except Exception as error:
            raise ModelError(f"model {model.path}", wanted="ONNX", got=line(error), mend=MEND) from None
        _check_faces(self._compiled, model)
        self._free: list[Any] = []
        self._lock = threading.Lock()

    def run(self, window: FloatArray) -> FloatArray:
        """Filter one window, float32 (z, y, x), mg/cm3."""
        feed = np.ascontiguousarray(window, dtype=np.float32)[np.newaxis, np.newaxis]
        request = self._request()
        try:
            result = request.infer([feed], share_inputs=True)[0]
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise as_ours(error, "cpu", mend=ONNXRUNTIME) from None
        with self._lock:
            self._free.append(request)
        return cast(FloatArray, result[0, 0])

    def _request(self) -> Any:
        """A request that no other thread holds: one that has served before, or a new one."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return self._compiled.create_infer_request()


def open_core() -> Any:
    """What OpenVINO does everything with; one for the process, and never given up.

    Each core brings a stack for signals, and puts back the one before when it goes. Of two that go in the order in
    which they came, the second puts back the stack of the first, which is gone: the next signal, Ctrl-C say, ends
    the process by a segmentation fault.

    Raises
    ------
    RuntimeMissingError
        When openvino is not installed, or is too old or broken.
    """
    try:
        module = import_openvino()
        with _opening:
            return _core_of(module)
    except Exception as error:  # releases before 2023 have no Core there; a broken one fails in its own ways
        mend = f"{INSTALL}, or {ONNXRUNTIME}"
        raise RuntimeMissingError(
            "openvino", wanted="it installed and sound", got=line(error), mend=mend
        ) from None


@cache
def _core_of(openvino: Any) -> Any:
    return openvino.Core()


def import_openvino() -> Any:
    """The module `openvino`, without the reports on its use that it would send from its import on.

    They go through a package of their own, and where that cannot be found a stand-in that sends nothing is taken.
    """
    hidden = {TELEMETRY: None} if "openvino" not in sys.modules else {}
    before = {name: sys.modules[name] for name in hidden if name in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None is how a module is said not to be there
    try:
        import openvino
    finally:
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(before)
    return openvino


def _check_faces(compiled: Any, model: Model) -> None:
    """One input and one output, both float32 (1, 1, any z, any y, any x)."""
    for side, faces in (("input", compiled.inputs), ("output", compiled.outputs)):
        if len(faces) != 1 or not _is_free(faces[0]):
            got = "; ".join(f"{face.element_type.get_type_name()} {face.partial_shape}" for face in faces)
            wanted = f"one {side} of float32 (1, 1, z, y, x) with free z, y, x"
            raise ModelError(f"model {model.path}", wanted=wanted, got=got, mend=MEND)


def _is_free(face: Any) -> bool:
    if face.element_type.get_type_name() != "f32" or face.partial_shape.rank.is_dynamic:
        return False
    sides = [-1 if side.is_dynamic else side.get_length() for side in face.partial_shape]
    return sides in ([1, 1, -1, -1, -1], [-1, 1, -1, -1, -1])
