"""Opens a model on a device and proves that the device is the one that computes."""

import contextlib
import io
import re
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

from qctrun.runtime.devices import parse_device, parse_threads
from qctrun.runtime.errors import (
    DeviceError,
    ModelError,
    OutOfMemoryError,
    QctrunError,
    RuntimeMissingError,
)
from qctrun.runtime.filtering.model import MEND, Model
from qctrun.runtime.volume import FloatArray

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
WHEELS = ("onnxruntime", "onnxruntime-gpu")
REINSTALL = 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "qctrun[cuda]"'

NVIDIA_DRIVER = Path("/proc/driver/nvidia")
FELL_BACK = "device auto fell back to the CPU because"

PROBE_SIZE = (21, 41, 41)
"""Voxels of the window that is filtered once at the start."""
PROBE_TOLERANCE = 1e-4
"""Largest difference from the CPU there, relative to the largest value; TF32 misses it."""

CUDA_OPTIONS = {
    # The default algorithm search falls back to very slow kernels, and TF32 is on unless it is forbidden.
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
    "arena_extend_strategy": "kSameAsRequested",
}
SILENT = 4
"""Log level of onnxruntime that keeps stderr free; what fails is raised all the same."""


class Session:
    """A model that is ready to filter windows; calls from several threads are safe.

    Parameters
    ----------
    model : Model
        A model that has been read and checked.
    device : "auto", "cpu", "cuda" or "cuda:N"
        Where to compute. "auto" takes the GPU where it works and else the CPU, and says so in `notes`.
    threads : int, optional
        CPU threads; all that the process may use when not given.

    Attributes
    ----------
    provider : str
        onnxruntime's name of what computes, e.g. "CPUExecutionProvider".
    device : str
        "cpu" or "cuda:N".
    threads : int
        CPU threads.
    notes : tuple of str
        What a user should be told about the choice of device.

    Raises
    ------
    UsageError
        When device or threads make no sense.
    RuntimeMissingError
        When onnxruntime is not installed.
    DeviceError
        When CUDA was asked for and cannot be used, or computes other numbers than the CPU.
    ModelError
        When onnxruntime refuses the model, or when it is no filter of one float32 volume.
    """

    def __init__(self, model: Model, device: str = "auto", threads: int | None = None) -> None:
        wanted = parse_device(device)
        self.threads = parse_threads(threads)
        runtime = _import_onnxruntime()
        self.device, self.notes = "cpu", _wheel_notes()
        self._session = self._open(runtime, model, CPU, {})
        self._input, self._output = _check_faces(self._session, model)
        probe, expected = self._probe(model)
        if device == "auto" and CUDA not in runtime.get_available_providers():
            # Without an NVIDIA driver there is nothing that a CUDA build could have used, so nothing to say.
            if NVIDIA_DRIVER.exists():
                self.notes += (f"{FELL_BACK} this onnxruntime is built without CUDA",)
        elif wanted != "cpu":
            try:
                self._move_to_cuda(runtime, model, wanted, probe, expected)
            except (DeviceError, OutOfMemoryError) as error:
                if device != "auto":
                    raise
                self.notes += (f"{FELL_BACK} of {error}",)
        self.provider = str(self._session.get_providers()[0])

    def run(self, window: FloatArray) -> FloatArray:
        """Filter one window.

        Parameters
        ----------
        window : float32 array (z, y, x)
            mg/cm3.

        Returns
        -------
        float32 array (z, y, x), mg/cm3

        Raises
        ------
        OutOfMemoryError
            When the window does not fit into memory.
        DeviceError
            When the device fails.
        """
        return self._run(self._session, self.device, window)

    def _run(self, session: Any, device: str, window: FloatArray) -> FloatArray:
        feed = np.ascontiguousarray(window, dtype=np.float32)[np.newaxis, np.newaxis]
        try:
            result = session.run([self._output], {self._input: feed})[0]
        except Exception as error:  # onnxruntime's own exceptions share no base of their own
            raise _as_ours(error, device) from None
        if result.shape != feed.shape:
            got = f"{result.shape[2:]} from {window.shape}"
            raise ModelError("model", wanted="a result of the input's size", got=got, mend=MEND)
        return cast(FloatArray, result[0, 0])

    def _open(self, runtime: Any, model: Model, provider: str, options: dict[str, str]) -> Any:
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = self.threads
        settings.log_severity_level = SILENT
        # Memory is given back after each window: the arena would hold about twice of what a window needs.
        settings.enable_cpu_mem_arena = settings.enable_mem_pattern = False
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = [(provider, options)] if provider == CPU else [(provider, options), (CPU, {})]
        try:
            return runtime.InferenceSession(model.data, settings, providers=providers)
        except Exception as error:
            if provider != CPU:
                raise
            raise ModelError(f"model {model.path}", wanted="ONNX", got=_line(error), mend=MEND) from None

    def _probe(self, model: Model) -> tuple[FloatArray, FloatArray]:
        """A window of noise and what the CPU makes of it; it also shows that the model keeps the size."""
        probe = np.random.default_rng(0).normal(200, 200, PROBE_SIZE).astype(np.float32)
        try:
            return probe, self._run(self._session, "cpu", probe)
        except DeviceError as error:
            raise ModelError(f"model {model.path}", wanted="a result", got=str(error), mend=MEND) from None

    def _move_to_cuda(
        self, runtime: Any, model: Model, device: str, probe: FloatArray, expected: FloatArray
    ) -> None:
        """Replace the session by one on the GPU, after that has shown that it computes the same."""
        session = _open_cuda(runtime, device, lambda options: self._open(runtime, model, CUDA, options))
        found = self._run(session, device, probe)
        error = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
        if not error <= PROBE_TOLERANCE:
            raise DeviceError(
                f"device {device}",
                wanted=f"the CPU's numbers within {PROBE_TOLERANCE:g}",
                got=f"a relative difference of {error:.2g}",
                mend='update the NVIDIA driver and cuDNN, or use the device "cpu"',
            )
        self._session, self.device = session, device


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissingError(
            "onnxruntime",
            wanted="it installed",
            got=_line(error),
            mend='pip install "qctrun[cpu]", or pip install "qctrun[cuda]" for an NVIDIA GPU',
        ) from None
    onnxruntime.disable_telemetry_events()  # nothing leaves the machine, and nothing is said on stderr about it
    return onnxruntime


def installed_wheels() -> tuple[str, ...]:
    """Which of the distributions that own the module `onnxruntime` are installed; it should be one."""
    found = []
    for wheel in WHEELS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.distribution(wheel)
            found.append(wheel)
    return tuple(found)


def _wheel_notes() -> tuple[str, ...]:
    wheels = installed_wheels()
    if len(wheels) < 2:
        return ()
    return (f"{' and '.join(wheels)} are both installed and overwrite each other; {REINSTALL}",)


def _check_faces(session: Any, model: Model) -> tuple[str, str]:
    """Names of the one input and the one output, which must be float32 (1, 1, any z, any y, any x)."""
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
    return str(inputs[0].name), str(outputs[0].name)


def _open_cuda(runtime: Any, device: str, open_with: Any) -> Any:
    """A session that has the CUDA provider, or a DeviceError that says why not."""
    offered = runtime.get_available_providers()
    if CUDA not in offered:
        raise DeviceError(f"device {device}", wanted=CUDA, got=", ".join(offered), mend=REINSTALL)
    said = io.StringIO()
    # Loading CUDA prints to stdout and logs to stderr by itself; stdout belongs to the data.
    runtime.set_default_logger_severity(SILENT)
    try:
        with contextlib.redirect_stdout(said):
            runtime.preload_dlls()
            session = open_with({**CUDA_OPTIONS, "device_id": device.partition(":")[2]})
    except Exception as error:
        raise _no_cuda(device, _line(error)) from None
    if session.get_providers()[0] != CUDA:
        raise _no_cuda(device, said.getvalue().strip().partition("\n")[0] or "only the CPU")
    return session


def _no_cuda(device: str, got: str) -> DeviceError:
    mend = f'look at nvidia-smi (driver 580 or newer), or {REINSTALL}, or use the device "cpu"'
    return DeviceError(f"device {device}", wanted="a GPU that onnxruntime can use", got=got, mend=mend)


def _as_ours(error: Exception, device: str) -> QctrunError:
    text = _line(error)
    if isinstance(error, MemoryError) or re.search(r"alloc|out of memory", text, re.IGNORECASE):
        mend = "close other programs or give a mask"
        return OutOfMemoryError(f"device {device}", wanted="memory for a window", got=text, mend=mend)
    return DeviceError(f"device {device}", wanted="a filtered window", got=text, mend='try the device "cpu"')


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
