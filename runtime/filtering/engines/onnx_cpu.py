"""onnxruntime on the CPU: always there, and on the graph as exported the judge of all other engines."""

import contextlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any, cast

import numpy as np

from qctrun.runtime.errors import ModelError, RuntimeMissingError
from qctrun.runtime.filtering.engines import REINSTALL, as_ours, line, require_size
from qctrun.runtime.filtering.model import MEND, Model
from qctrun.runtime.volume import FloatArray

CPU = "CPUExecutionProvider"
WHEELS = ("onnxruntime", "onnxruntime-gpu")
SILENT = 4
"""Log level of onnxruntime that keeps stderr free; what fails is raised all the same."""


class OnnxCpuEngine:
    """A graph opened by onnxruntime on the CPU.

    Parameters
    ----------
    model : Model
        A model that has been read and checked.
    threads : int
        CPU threads.
    data : bytes, optional
        Another graph that computes the same, perhaps for windows of one size only; the model's own when not given.
    cut : (z, y, x)
        By how many voxels its result is smaller than a window.

    Raises
    ------
    RuntimeMissingError
        When onnxruntime is not installed.
    ModelError
        When onnxruntime refuses the model, or when it is no filter of one float32 volume.
    """

    def __init__(
        self, model: Model, threads: int, data: bytes | None = None, cut: Sequence[int] = (0, 0, 0)
    ) -> None:
        runtime = import_onnxruntime()
        options = settings(runtime, threads)
        # The slices of a flat graph come by the hundred and all are of one size: what one gave back serves the next.
        options.enable_cpu_mem_arena = data is not None
        self._each_run = runtime.RunOptions()
        if data is not None:  # several such graphs are open at a time, and one of them runs
            self._each_run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            self._session = runtime.InferenceSession(data or model.data, options, providers=[(CPU, {})])
        except Exception as error:
            raise ModelError(f"model {model.path}", wanted="ONNX", got=line(error), mend=MEND) from None
        if data is None:
            check_faces(self._session, model)
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self.provider, self._cut = CPU, cut

    def run(self, window: FloatArray) -> FloatArray:
        """Filter one window, float32 (z, y, x), mg/cm3."""
        feed = np.ascontiguousarray(window, dtype=np.float32)[np.newaxis, np.newaxis]
        try:
            result = self._session.run([self._output], {self._input: feed}, self._each_run)[0]
        except Exception as error:  # onnxruntime's own exceptions share no base of their own
            raise as_ours(error, "cpu", mend=MEND) from None
        found = cast(FloatArray, result[0, 0])
        require_size(found, tuple(n - cut for n, cut in zip(window.shape, self._cut, strict=True)))
        return found


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, silent.

    Raises
    ------
    RuntimeMissingError
        When it is not installed, or is and does not load.
    """
    try:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # nothing leaves the machine, and nothing is said on stderr about it
    except Exception as error:  # a folder that a removed wheel left behind loads, and has nothing in it
        mend = 'pip install "qctrun[cpu]", or pip install "qctrun[cuda]" for an NVIDIA GPU'
        if installed_wheels():
            mend = f"pip uninstall -y {' '.join(WHEELS)}, and then {mend}"
        raise RuntimeMissingError(
            "onnxruntime", wanted="it installed and sound", got=line(error), mend=mend
        ) from None
    return onnxruntime


def installed_wheels() -> tuple[str, ...]:
    """Which of the distributions that own the module `onnxruntime` are installed; it should be one."""
    found = []
    for wheel in WHEELS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.distribution(wheel)
            found.append(wheel)
    return tuple(found)


def wheel_notes() -> tuple[str, ...]:
    """What a user should be told about the installed wheels."""
    wheels = installed_wheels()
    if len(wheels) < 2:
        return ()
    return (f"{' and '.join(wheels)} are both installed and overwrite each other; {REINSTALL}",)


def settings(runtime: Any, threads: int) -> Any:
    """Session options that all engines of onnxruntime share."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = SILENT
    # Memory is given back after each window: the arena would hold about twice of what a window needs.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def check_faces(session: Any, model: Model) -> None:
    """Refuse a graph but of one input and one output, both float32 (1, 1, any z, any y, any x)."""
    what = f"model {model.path}"
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            what, wanted="one input and one output", got=f"{len(inputs)} and {len(outputs)}", mend=MEND
        )
    for side, face in (("input", inputs[0]), ("output", outputs[0])):
        shape = face.shape
        fixed = [n if isinstance(n, int) else 0 for n in shape]
        if face.type != "tensor(float)" or fixed not in ([1, 1, 0, 0, 0], [0, 1, 0, 0, 0]):
            wanted = f"{side} of float32 (1, 1, z, y, x) with free z, y, x"
            raise ModelError(what, wanted=wanted, got=f"{face.type} {shape}", mend=MEND)
