"""What of this machine the package can use, and what is missing, one finding a line; nothing is changed."""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from qctrun.runtime import nvidia
from qctrun.runtime.devices import PRECISIONS, parse_threads
from qctrun.runtime.errors import QctrunError
from qctrun.runtime.version import VERSION

NEEDED = ("numpy", "scipy", "numba", "SimpleITK", "pydicom", "click", "tqdm")
EXTRAS = {
    "onnxruntime": 'for the filter; pip install "qctrun[cpu]"',
    "onnxruntime-gpu": 'for the filter on an NVIDIA GPU; pip install "qctrun[cuda]"',
    "openvino": 'for a faster filter on the CPU; pip install "qctrun[openvino]"',
    "numba-cuda": 'for maps on an NVIDIA GPU; pip install "qctrun[cuda]"',
    "torch": 'for training only; pip install "qctrun[train]"',
}
"""What else may be installed: what it is for and how to get it."""

INSTRUCTIONS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512dq", "avx512_vnni", "amx_tile", "asimd")
"""Instruction sets, as Linux names them, that the libraries choose their code by."""

KERNELS = ("qctrun.runtime.measuring.kernels.cpu", "qctrun.runtime.measuring.kernels.tiles")
"""Modules whose compiled functions are kept in a cache."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What it is.
    state : "ok", "warn" or "missing"
        Usable, usable with a reservation, or not there.
    found : str
        What was found, in words.
    mend : str
        What the user can do where it is not "ok".
    facts : dict
        The same for programs, as JSON values.
    """

    name: str
    state: str
    found: str
    mend: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings.

    Attributes
    ----------
    usable : bool
        Whether the filter can compute anywhere.
    findings : tuple of Finding
    """

    usable: bool
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [
            {"name": one.name, "state": one.state, "found": one.found, "mend": one.mend, **one.facts}
            for one in self.findings
        ]
        return {"schema": "qctrun/doctor/1", "usable": self.usable, "findings": rows}


def examine(threads: int | None = None) -> Examination:
    """Look at versions, processor, GPU, model, engines and caches; each engine filters a small window.

    Parameters
    ----------
    threads : int, optional
        CPU threads for the engines; all that the process may use when not given.

    Raises
    ------
    UsageError
        When threads make no sense.
    """
    threads = parse_threads(threads)
    engines = list(_engines(threads))
    machine = [*_versions(), _processor(), *_nvidia(), *_onnxruntime(), _model()]
    findings = [*machine, *engines, *_gpu_maps(), _cache()]
    return Examination(any(one.state != "missing" for one in engines), tuple(findings))


def _versions() -> Iterator[Finding]:
    from qctrun.runtime.filtering.engines import onnx_cpu

    yield Finding("qctrun", "ok", VERSION, facts={"version": VERSION})
    python = platform.python_version()
    yield Finding("python", "ok", python, facts={"version": python})
    for name in NEEDED:
        yield _version(name, f"pip install {name}")
    wheels = onnx_cpu.installed_wheels()
    for name, purpose in EXTRAS.items():
        # Either wheel will do, and both must not be there.
        if name not in onnx_cpu.WHEELS or name in wheels or not wheels:
            yield _version(name, purpose)


def _version(name: str, mend: str) -> Finding:
    """The installed version, without an import."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", mend, {"version": None})
    return Finding(name, "ok", version, facts={"version": version})


def _processor() -> Finding:
    name, flags = _cpuinfo()
    cores = parse_threads(None)
    sets = [one for one in INSTRUCTIONS if one in flags]
    facts = {"processor": name, "cores": cores, "instruction_sets": sets}
    return Finding("processor", "ok", f"{name}, {cores} cores, {' '.join(sets)}", facts=facts)


def _cpuinfo() -> tuple[str, set[str]]:
    """Name and instruction sets of the first processor, as far as Linux tells them."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    known = {key.strip(): value.strip() for key, _, value in (one.partition(":") for one in lines)}
    name = known.get("model name") or platform.machine()
    return name, set((known.get("flags") or known.get("Features", "")).split())


def _nvidia() -> Iterator[Finding]:
    driver = nvidia.driver_cuda()
    if driver is None:
        mend = "an NVIDIA GPU needs driver 580 or newer; without one the CPU computes"
        yield Finding("NVIDIA driver", "missing", "none", mend, {"cuda": None})
        return
    cuda = f"{driver[0]}.{driver[1]}"
    mend = "" if driver >= (13, 0) else "update the NVIDIA driver (580 or newer)"
    yield Finding("NVIDIA driver", "warn" if mend else "ok", f"for CUDA {cuda}", mend, {"cuda": cuda})
    for gpu in nvidia.gpus():
        free = nvidia.free_bytes(gpu.index)
        free_mb = None if free is None else free // 2**20
        words = f"{gpu.name}, compute capability {gpu.capability}, {free_mb} of {gpu.memory_mb} MB free"
        facts = {
            "gpu": gpu.name,
            "capability": gpu.capability,
            "memory_mb": gpu.memory_mb,
            "free_mb": free_mb,
        }
        yield Finding(f"cuda:{gpu.index}", "ok", words, facts=facts)


def _onnxruntime() -> Iterator[Finding]:
    """What the installed onnxruntime offers, and the cuDNN beside it."""
    from qctrun.runtime.filtering.engines import REINSTALL, onnx_cpu, onnx_cuda

    try:
        runtime = onnx_cpu.import_onnxruntime()
    except QctrunError as error:
        yield Finding("providers", "missing", str(error), facts={"providers": []})
        return
    offered = list(runtime.get_available_providers())
    twice = len(onnx_cpu.installed_wheels()) > 1
    found = ", ".join(offered) + ", both onnxruntime wheels are installed and overwrite each other" * twice
    yield Finding("providers", "warn" if twice else "ok", found, REINSTALL * twice, {"providers": offered})
    if onnx_cuda.CUDA in offered:
        yield _cudnn(runtime)


def _cudnn(runtime: Any) -> Finding:
    from qctrun.runtime.filtering.engines import REINSTALL, onnx_cuda

    with contextlib.suppress(QctrunError):
        onnx_cuda.load_libraries(runtime, "cuda")
    found = nvidia.cudnn_version()
    facts = {"cudnn": found, "cuda": getattr(runtime, "cuda_version", None)}
    if found is None:
        return Finding("cuDNN", "missing", "no libcudnn.so.9", REINSTALL, facts)
    old = found < onnx_cuda.GOOD_CUDNN
    words = f"{found // 10000}.{found // 100 % 100}, for onnxruntime's CUDA {facts['cuda']}"
    return Finding("cuDNN", "warn" if old else "ok", words, onnx_cuda.UPDATE_CUDNN * old, facts)


def _model() -> Finding:
    from qctrun.runtime.filtering.model import load_model

    try:
        model = load_model()
    except QctrunError as error:
        return Finding("shipped model", "missing", str(error), "install qctrun again")
    card = model.card
    facts = {"model": card.name, "version": card.version, "sha256": model.sha256}
    return Finding("shipped model", "ok", f"{card.name} {card.version}, {model.sha256[:12]}", facts=facts)


def _engines(threads: int) -> Iterator[Finding]:
    """Every engine, opened with the shipped model and tried."""
    yield _tried("onnxruntime on the CPU", {"device": "cpu", "backend": "onnxruntime"}, threads)
    yield _tried("OpenVINO on the CPU", {"device": "cpu", "backend": "openvino"}, threads)
    for precision in PRECISIONS if nvidia.driver_cuda() else ():
        found = _tried(f"CUDA {precision}", {"device": "cuda", "precision": precision}, threads)
        yield found
        if found.state == "missing":  # and so would be the next
            return


def _tried(name: str, words: dict[str, str], threads: int) -> Finding:
    """Open an engine, which tests itself, and time a small window."""
    from qctrun.runtime.filtering.model import load_model
    from qctrun.runtime.filtering.proof import probe
    from qctrun.runtime.filtering.session import Session

    try:
        session = Session(load_model(), threads=threads, **words)  # type: ignore[arg-type]
        seconds = _seconds(lambda: session.run(probe()))
    except QctrunError as error:
        what, _, mend = str(error).partition("; ")
        return Finding(name, "missing", what, mend, {"seconds": None, "error_relative": None})
    test = session.self_test
    miss = None if test is None else test.most_relative
    size = " x ".join(map(str, probe().shape))
    found = f"{size} voxels in {1e3 * seconds:.1f} ms"
    if miss is not None:
        found += f", self-test {miss:.1g}"
    elif session.backend != "onnxruntime":
        found += ", no onnxruntime to compare with"
    facts = {"provider": session.provider, "seconds": seconds, "error_relative": miss}
    return Finding(name, "warn" if session.notes else "ok", found, "; ".join(session.notes), facts)


def _seconds(action: Callable[[], object]) -> float:
    """The best of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _gpu_maps() -> Iterator[Finding]:
    """Whether each GPU can compute local maps."""
    from qctrun.runtime.measuring.kernels.cuda import device as cuda_device

    for gpu in nvidia.gpus() if nvidia.driver_cuda() else ():
        name = f"maps on cuda:{gpu.index}"
        try:
            cuda_device.prove(f"cuda:{gpu.index}")
        except QctrunError as error:
            what, _, mend = str(error).partition("; ")
            yield Finding(name, "missing", what, mend)
        else:
            yield Finding(name, "ok", "a test of numba-cuda")


def _cache() -> Finding:
    """Where compiled kernels are kept; without a cache each process compiles them anew."""
    paths = {str(path) for path in map(Path, _cache_paths())}
    if not paths:
        mend = "set NUMBA_CACHE_DIR to a folder that can be written"
        return Finding("kernel cache", "warn", "none", mend, {"cache": None, "writable": False})
    path = Path(min(paths))
    writable = os.access(_nearest(path), os.W_OK)
    shown = _shown(path)
    mend = "" if writable else "set NUMBA_CACHE_DIR to a folder that can be written"
    words = shown if writable else f"{shown}, cannot be written"
    facts = {"cache": shown, "writable": writable}
    return Finding("kernel cache", "ok" if writable else "warn", words, mend, facts)


def _shown(path: Path) -> str:
    """A path that names nobody."""
    for root, name in ((Path(__file__).parents[1], "the package"), (Path.home(), "~")):
        if path.is_relative_to(root):
            return f"{name}/{path.relative_to(root)}"
    return str(path)


def _cache_paths() -> Iterator[str]:
    for name in KERNELS:
        for value in vars(import_module(name)).values():
            if hasattr(value, "py_func") and value.stats.cache_path:
                yield value.stats.cache_path


def _nearest(path: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
