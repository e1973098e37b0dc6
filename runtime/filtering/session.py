"""Picks what computes a model and proves that it is the one used, and that it computes the right numbers.

onnxruntime on the CPU, on the graph as exported, is the judge: whatever else computes is compared with it.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from qctrun.runtime.devices import check_filtering, parse_device, parse_threads
from qctrun.runtime.errors import (
    DeviceError,
    ModelError,
    OutOfMemoryError,
    QctrunError,
    RuntimeMissingError,
    UsageError,
)
from qctrun.runtime.filtering.engines import Engine, require_size
from qctrun.runtime.filtering.engines.onnx_cpu import OnnxCpuEngine, import_onnxruntime, wheel_notes
from qctrun.runtime.filtering.engines.onnx_cuda import CUDA, OnnxCudaEngine
from qctrun.runtime.filtering.engines.onnx_flat import OnnxFlatEngine
from qctrun.runtime.filtering.model import MEND, Model
from qctrun.runtime.filtering.proof import (
    CPU_TOLERANCE,
    GPU_TOLERANCE,
    PROBE_SIZE,
    SelfTest,
    difference,
    probe,
    prove,
    require_filter,
    require_same,
)
from qctrun.runtime.filtering.windows import Box
from qctrun.runtime.volume import FloatArray

NVIDIA_DRIVER = Path("/proc/driver/nvidia")
FELL_BACK = "device auto fell back to the CPU because"
UNCHECKED = (
    "onnxruntime is installed and does not load, so nothing checks OpenVINO's numbers; see qctrun doctor"
)


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
    backend : "auto", "onnxruntime" or "openvino"
        What computes on the CPU; "auto" takes OpenVINO where it is installed. A GPU is always onnxruntime's.
    precision : "fp32", "tf32" or "fp16"
        Arithmetic of the convolutions; other than fp32 on a GPU only, and their error is in `notes`.
    stream : int
        Handle of a CUDA stream that a GPU is to compute on, for `run_on`; 0 for one of onnxruntime's own.

    Attributes
    ----------
    provider : str
        The library's name of what computes, e.g. "CPUExecutionProvider".
    device : str
        "cpu" or "cuda:N".
    threads : int
        CPU threads.
    backend : str
        "onnxruntime" or "openvino".
    precision : str
        As asked for.
    self_test : SelfTest or None
        How far the engine is from the judge; None where the judge itself computes, or cannot be opened.
    window_bytes : int or None
        Memory that the activations of a window may take on a GPU; None where that is not known.
    stream : int
        As given.
    notes : tuple of str
        What a user should be told about the choice.

    Raises
    ------
    UsageError
        When a word makes no sense, or two do not go together.
    RuntimeMissingError
        When onnxruntime, or the backend that was asked for, is not installed.
    DeviceError
        When CUDA was asked for and cannot be used, or an engine computes other numbers than the judge.
    ModelError
        When onnxruntime refuses the model, or when it is no filter of one float32 volume.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        threads: int | None = None,
        backend: str = "auto",
        precision: str = "fp32",
        *,
        stream: int = 0,
    ) -> None:
        wanted = parse_device(device)
        check_filtering(device, backend, precision)
        self.threads, self.precision, self.notes = parse_threads(threads), precision, wheel_notes()
        self.stream = stream
        self.window_bytes: int | None = None
        self.self_test: SelfTest | None = None
        self._halo, self._proven = model.card.halo, {PROBE_SIZE}
        self._judge = _open_judge(model, self.threads, device, backend)
        self._probe = probe()
        if self._judge is None and find_spec("onnxruntime") is not None:
            self.notes += (UNCHECKED,)
        expected = self._judged_probe(model)
        if wanted != "cpu" and backend != "openvino" and self._may_use_cuda(device):
            try:
                self._use_cuda(model, wanted, stream, expected)
                return
            except (DeviceError, OutOfMemoryError) as error:
                if device != "auto" or precision != "fp32":
                    raise
                self.notes += (f"{FELL_BACK} of {error}",)
        self._use_cpu(model, backend, expected)

    def run(self, window: FloatArray, keep: Box | None = None) -> FloatArray:
        """Filter one window.

        On a GPU the first window of each size is checked: two corners and the middle are filtered by the
        judge too, so that a kernel that is wrong at some sizes only cannot pass. No window may hold NaN.

        Parameters
        ----------
        window : float32 array (z, y, x)
            mg/cm3.
        keep : box (z, y, x), optional
            What is wanted of the result, and given back; all of it when not given.

        Returns
        -------
        float32 array (z, y, x), mg/cm3

        Raises
        ------
        OutOfMemoryError
            When the window does not fit into memory.
        DeviceError
            When the device fails, or computes other numbers than the judge.
        """
        if isinstance(self._engine, OnnxFlatEngine):
            return self._engine.run(window, keep)
        result = self._engine.run(window)
        require_size(result, window.shape)
        if self.device != "cpu":
            self._look_at(window, result)
        return result if keep is None else result[keep]

    @property
    def slicewise(self) -> bool:
        """Whether the activations of a window are there a few slices at a time."""
        return isinstance(self._engine, OnnxFlatEngine)

    def run_on(self, source: int, target: int, shape: tuple[int, int, int], stream: int) -> None:
        """Filter one window that lies on the GPU, as `OnnxCudaEngine.run_on`; the first of each size is checked.

        Raises
        ------
        UsageError
            When the session computes on the CPU, or on another stream.
        OutOfMemoryError, DeviceError
            As `run`.
        """
        if not isinstance(self._engine, OnnxCudaEngine):
            raise UsageError("window on a device", wanted="a session on a GPU", got=f"one on {self.device}")
        if shape not in self._proven:
            self.run(np.resize(self._probe, shape))
        self._engine.run_on(source, target, shape, stream)

    def free_bytes(self) -> int | None:
        """Memory of the GPU that nobody holds now; None on the CPU and where it is not known."""
        return self._engine.free_bytes() if isinstance(self._engine, OnnxCudaEngine) else None

    def _look_at(self, window: FloatArray, result: FloatArray) -> None:
        """Refuse what a GPU must not give: other numbers than the judge in the first window of a size, NaN in any."""
        tolerance = GPU_TOLERANCE[self.precision]
        if self._judge is not None and window.shape not in self._proven:
            prove(self._judge, window, result, self._halo, tolerance, self.device)
            self._proven.add(window.shape)
        if not np.isfinite(result.sum()):  # much faster than to ask each voxel
            require_same(np.nan, tolerance, self.device)

    def _judged_probe(self, model: Model) -> FloatArray | None:
        """What the judge makes of the probe; it also shows that the model is what windows are made for."""
        if self._judge is None:
            return None
        try:
            expected = self._judge.run(self._probe)
            require_filter(self._judge, self._probe, expected, self._halo)
        except DeviceError as error:
            got = str(error).removesuffix(f"; {MEND}")
            raise ModelError(f"model {model.path}", wanted="a result", got=got, mend=MEND) from None
        return expected

    def _may_use_cuda(self, device: str) -> bool:
        """Whether to try the GPU: always where it was asked for, with "auto" where this onnxruntime knows CUDA."""
        if device != "auto" or self.precision != "fp32":
            return True
        if self._judge is not None and CUDA in import_onnxruntime().get_available_providers():
            return True
        # Without an NVIDIA driver there is nothing that a CUDA build could have used, so nothing to say.
        if NVIDIA_DRIVER.exists():
            self.notes += (f"{FELL_BACK} no onnxruntime with CUDA is installed",)
        return False

    def _use_cuda(self, model: Model, device: str, stream: int, expected: FloatArray | None) -> None:
        engine = OnnxCudaEngine(model, device, self.threads, self.precision, stream)
        self.self_test = self._compared(engine, device, expected, GPU_TOLERANCE[self.precision])
        self._engine: Engine = engine
        self.device, self.backend, self.provider = device, "onnxruntime", engine.provider
        self.window_bytes = engine.window_bytes
        self.notes += engine.notes
        if self.precision != "fp32" and self.self_test is not None:
            self.notes += (_error_words(self.precision, self.self_test),)

    def _use_cpu(self, model: Model, backend: str, expected: FloatArray | None) -> None:
        """The first engine that opens and agrees with the judge; in the end the judge itself."""
        self.device = "cpu"
        for name, what, open_engine in _cpu_engines(model, self.threads, backend):
            try:
                engine = open_engine()
                self.self_test = self._compared(engine, "cpu", expected, CPU_TOLERANCE)
            except QctrunError as error:
                if backend == "openvino" or self._judge is None:
                    raise
                self.notes += (f"{what} is left out because of {error}",)
                continue
            self._engine, self.backend, self.provider = engine, name, engine.provider
            self._judge = None
            return
        assert self._judge is not None
        self._engine, self.backend, self.provider = self._judge, "onnxruntime", self._judge.provider

    def _compared(
        self, engine: Engine, device: str, expected: FloatArray | None, tolerance: float
    ) -> SelfTest | None:
        found = engine.run(self._probe)
        require_size(found, self._probe.shape)  # nothing at all would be finite, too
        if expected is None:
            require_same(0.0 if np.isfinite(found).all() else np.nan, tolerance, device)
            return None
        test = difference(found, expected)
        require_same(test.most_relative, tolerance, device)
        return test


def _open_judge(model: Model, threads: int, device: str, backend: str) -> OnnxCpuEngine | None:
    """onnxruntime on the graph as exported; None where only OpenVINO is installed and it will do."""
    has_openvino = find_spec("openvino") is not None
    if backend == "openvino" and not has_openvino:
        mend = 'pip install "qctrun[openvino]"'
        raise RuntimeMissingError("backend openvino", wanted="it installed", got="no openvino", mend=mend)
    try:
        return OnnxCpuEngine(model, threads)
    except RuntimeMissingError:
        if backend == "onnxruntime" or device.startswith("cuda") or not has_openvino:
            raise
        return None


def _cpu_engines(model: Model, threads: int, backend: str) -> Iterator[tuple[str, str, Callable[[], Engine]]]:
    """What to try on the CPU, the fastest first: its backend, its name in a note, and how to open it."""
    if backend != "onnxruntime" and find_spec("openvino") is not None:
        from qctrun.runtime.filtering.engines.openvino_cpu import OpenVinoEngine

        yield "openvino", "openvino", lambda: OpenVinoEngine(model, threads)
    if backend == "openvino":
        return
    from qctrun.runtime.filtering import graph

    if graph.flat(model.data, 1) is not None:
        yield "onnxruntime", "the graph in 2-D convolutions", lambda: OnnxFlatEngine(model, threads)


def _error_words(precision: str, test: SelfTest) -> str:
    return (
        f"precision {precision}: on a window of noise the error against fp32 on the CPU is rms "
        f"{test.rms_mg_cm3:.2g} mg/cm3 ({test.rms_relative:.1g} of the rms) and at most "
        f"{test.most_mg_cm3:.2g} mg/cm3 ({test.most_relative:.1g} of the largest value)"
    )
