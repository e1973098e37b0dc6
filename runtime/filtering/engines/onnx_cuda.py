"""onnxruntime on an NVIDIA GPU, with the faults of its libraries named before they can harm."""

import contextlib
import ctypes
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from qctrun.runtime import nvidia
from qctrun.runtime.errors import DeviceError, QctrunError, UsageError
from qctrun.runtime.filtering.engines import REINSTALL, UPDATE_DRIVER, as_ours
from qctrun.runtime.filtering.engines.onnx_cpu import CPU, SILENT, import_onnxruntime, settings
from qctrun.runtime.filtering.model import Model
from qctrun.runtime.volume import FloatArray

CUDA = "CUDAExecutionProvider"
GOOD_CUDNN = 91600
"""cuDNN before 9.16 has 3-D convolutions in TF32 and fp16 that give wrong numbers without a word."""
UPDATE_CUDNN = 'pip install -U "qctrun[cuda]" "nvidia-cudnn-cu13>=9.16"'

OPTIONS = {
    # The default algorithm search falls back to very slow kernels.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Otherwise the arena doubles what it takes each time.
    "arena_extend_strategy": "kSameAsRequested",
}
ARENA_SHARE, WINDOW_SHARE = 0.9, 0.3
"""Shares of the free memory that onnxruntime may take, and that the activations of a window may take; most of
the rest is for cuDNN, whose workspace has no other bound than the size of the window."""


class OnnxCudaEngine:
    """A model opened by onnxruntime on a GPU.

    Parameters
    ----------
    model : Model
        A model that has been read and checked.
    device : "cuda:N"
        Which GPU.
    threads : int
        CPU threads, for what little is left to the CPU.
    precision : "fp32", "tf32" or "fp16"
        Arithmetic of the convolutions; sums are fp32 in all three.
    stream : int
        Handle of the CUDA stream to compute on, kept alive by the caller; 0 for one of onnxruntime's own.

    Attributes
    ----------
    provider : str
        onnxruntime's name of what computes.
    notes : tuple of str
        What a user should be told about the libraries.
    window_bytes : int or None
        Memory that the activations of a window may take; None where the driver does not say what is free.

    Raises
    ------
    DeviceError
        When the driver is too old, cuDNN is missing or known to be wrong, or the GPU cannot be used.
    """

    provider = CUDA

    def __init__(
        self, model: Model, device: str, threads: int, precision: str = "fp32", stream: int = 0
    ) -> None:
        runtime = import_onnxruntime()
        self.device, self.stream = device, stream
        self._index = int(device.partition(":")[2])
        _require_driver(runtime, device)
        _require_gpu(self._index, device)
        said = load_libraries(runtime, device)
        self.notes = _check_cudnn(device, precision)
        free = nvidia.free_bytes(self._index)
        self.window_bytes = None if free is None else int(WINDOW_SHARE * free)
        providers = [(CUDA, _options(self._index, precision, stream, free)), (CPU, {})]
        data = _graph(model, device, precision)
        self._session = _open(runtime, data, settings(runtime, threads), providers, device, said)
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self._runtime, self._lock = runtime, threading.Lock()
        self._bound: tuple[tuple[int, ...], Any, Any, Any] | None = None

    def run(self, window: FloatArray) -> FloatArray:
        """Filter one window, float32 (z, y, x), mg/cm3: up, through and down again."""
        feed = np.ascontiguousarray(window, dtype=np.float32)[np.newaxis, np.newaxis]
        with self._lock:
            try:
                binding, source, target = self._buffers(feed.shape)
                source.update_inplace(feed)
                self._session.run_with_iobinding(binding)
                return cast(FloatArray, target.numpy()[0, 0])
            except Exception as error:
                self._bound = None
                raise as_ours(error, self.device) from None

    def run_on(self, source: int, target: int, shape: tuple[int, int, int], stream: int) -> None:
        """Filter one window that lies on the device; put on the stream, not waited for.

        Parameters
        ----------
        source, target : int
            Addresses on the device of float32 arrays (z, y, x) in C order, mg/cm3; not the same.
        shape : (z, y, x)
        stream : int
            Handle of the stream that the engine was made with.

        Raises
        ------
        UsageError
            When the stream is another one.
        OutOfMemoryError, DeviceError
            When the window does not fit or the device fails.
        """
        if not stream or stream != self.stream:
            wanted = "the stream that the engine was made with"
            raise UsageError("stream", wanted=wanted, got=f"{stream} instead of {self.stream}")
        sizes = [1, 1, *shape]
        options = self._runtime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        with self._lock:
            try:
                binding = self._session.io_binding()
                binding.bind_input(self._input, "cuda", self._index, np.float32, sizes, source)
                binding.bind_output(self._output, "cuda", self._index, np.float32, sizes, target)
                self._session.run_with_iobinding(binding, options)
            except Exception as error:
                raise as_ours(error, self.device) from None

    def free_bytes(self) -> int | None:
        """Memory of the GPU that nobody holds now, bytes; None where the driver does not say."""
        return nvidia.free_bytes(self._index)

    def _buffers(self, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """Device arrays of this shape, bound to both ends of the graph and kept for the next window."""
        if self._bound is None or self._bound[0] != shape:
            self._bound = None  # the old ones go before the new ones come
            make = self._runtime.OrtValue.ortvalue_from_shape_and_type
            source, target = (make(shape, np.float32, "cuda", self._index) for _ in range(2))
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(self._input, source)
            binding.bind_ortvalue_output(self._output, target)
            self._bound = (shape, binding, source, target)
        return self._bound[1:]


def _require_driver(runtime: Any, device: str) -> None:
    """Refuse an onnxruntime without CUDA, and a driver that is not there or older than its CUDA."""
    offered = runtime.get_available_providers()
    if CUDA not in offered:
        raise DeviceError(f"device {device}", wanted=CUDA, got=", ".join(offered), mend=REINSTALL)
    needed, found = getattr(runtime, "cuda_version", None), nvidia.driver_cuda()
    if found is None:
        mend = 'install the NVIDIA driver (580 or newer), or use the device "cpu"'
        raise DeviceError(f"device {device}", wanted="an NVIDIA driver", got="none", mend=mend)
    if needed and found[0] < int(needed.partition(".")[0]):
        got = f"one for CUDA {found[0]}.{found[1]}"
        wanted = f"an NVIDIA driver for CUDA {needed}"
        raise DeviceError(f"device {device}", wanted=wanted, got=got, mend=UPDATE_DRIVER)


def _require_gpu(index: int, device: str) -> None:
    count = len(nvidia.gpus())
    if index >= count:
        got = f"{count} GPUs, counted from 0" if count else "no GPU that the driver can use"
        mend = 'look at nvidia-smi, or use the device "cpu"'
        raise DeviceError(f"device {device}", wanted="a GPU of that number", got=got, mend=mend)


def load_libraries(runtime: Any, device: str) -> str:
    """Load CUDA and cuDNN; the first line of what was said about it."""
    runtime.set_default_logger_severity(SILENT)
    try:
        with _overheard() as said:
            runtime.preload_dlls()
    except Exception as error:
        raise _no_cuda(error, device) from None
    return said[0]


def _check_cudnn(device: str, precision: str) -> tuple[str, ...]:
    found = nvidia.cudnn_version()
    if found is None:
        raise DeviceError(f"device {device}", wanted="cuDNN 9", got="no libcudnn.so.9", mend=REINSTALL)
    if found >= GOOD_CUDNN:
        return ()
    version = f"cuDNN {found // 10000}.{found // 100 % 100}"
    if precision != "fp32":
        wanted = f"cuDNN 9.16 or newer for {precision}, older ones compute wrong numbers"
        raise DeviceError(f"device {device}", wanted=wanted, got=version, mend=UPDATE_CUDNN)
    return (f"{version} is older than 9.16, which mends wrong 3-D convolutions; {UPDATE_CUDNN}",)


def _options(index: int, precision: str, stream: int, free: int | None) -> dict[str, str]:
    # Without TF32, fp16 convolutions would lose the tensor cores as well.
    options = {**OPTIONS, "device_id": str(index), "use_tf32": "0" if precision == "fp32" else "1"}
    if free is not None:
        options["gpu_mem_limit"] = str(int(ARENA_SHARE * free))
    if stream:
        options["user_compute_stream"] = str(stream)
    return options


def _graph(model: Model, device: str, precision: str) -> bytes:
    if precision != "fp16":
        return model.data
    from qctrun.runtime.filtering import graph

    data = graph.half(model.data)
    if data is None:
        wanted = "a model whose convolutions can be turned into fp16"
        mend = "use the precision fp32 or tf32"
        raise DeviceError(f"device {device}", wanted=wanted, got=str(model.path), mend=mend)
    return data


def _open(
    runtime: Any,
    data: bytes,
    options: Any,
    providers: list[tuple[str, dict[str, str]]],
    device: str,
    said: str,
) -> Any:
    """A session that has the CUDA provider, or a DeviceError that says why not."""
    try:
        with _overheard() as heard:
            session = runtime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise _no_cuda(error, device) from None
    if session.get_providers()[0] != CUDA:
        raise _no_cuda(RuntimeError(said or heard[0] or "only the CPU"), device)
    return session


def _no_cuda(error: Exception, device: str) -> QctrunError:
    mend = f'look at nvidia-smi (driver 580 or newer), or {REINSTALL}, or use the device "cpu"'
    return as_ours(error, device, wanted="a GPU that onnxruntime can use", mend=mend)


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """Catch what is said on stdout, by Python and by C code; the first line of it is in the list at the end.

    Loading CUDA prints to stdout by itself, and stdout belongs to the data.
    """
    said, heard = io.StringIO(), [""]
    if sys.stdout is not None:  # as it is where the caller has closed it
        sys.stdout.flush()
    with tempfile.TemporaryFile() as file:
        try:
            kept = os.dup(1)
        except OSError:  # a process without stdout
            yield heard
            return
        os.dup2(file.fileno(), 1)
        try:
            with contextlib.redirect_stdout(said):
                yield heard
        finally:
            ctypes.CDLL(None).fflush(None)  # what C code has printed and not yet handed over
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            words = said.getvalue() + file.read().decode(errors="replace")
            heard[0] = words.strip().partition("\n")[0]
