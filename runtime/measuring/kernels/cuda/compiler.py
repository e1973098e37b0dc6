"""The one place that knows who compiles for a GPU: numba-cuda, or Numba's simulator (NUMBA_ENABLE_CUDASIM=1)."""

import importlib
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba

# Types for Numba, but Any for people: what Numba says of itself here is meant for its simulator.
cuda: Any = importlib.import_module("numba.cuda")
DriverError: Any = importlib.import_module("numba.cuda.cudadrv.driver").CudaAPIError
"""What the driver raises."""
float32: Any = numba.float32
float64: Any = numba.float64
int32: Any = numba.int32
int64: Any = numba.int64

# make_plan is one thread on purpose, and small volumes are small: no warning of that to whoever measures them.
_config: Any = importlib.import_module("numba.core.config")
_config.CUDA_LOW_OCCUPANCY_WARNINGS = 0

_HERE = Path(__file__).parent

SIMULATED = not hasattr(cuda, "libdevice")
"""Whether the simulator stands in for the GPU."""


@cache
def _digest() -> str:
    texts = sorted([*_HERE.glob("*.py"), _HERE.parent / "formulas.py", _HERE.parent / "fixed_point.py"])
    return sha256(b"".join(text.read_bytes() for text in texts)).hexdigest()[:12]


def kernel(function: Callable[..., Any]) -> Any:
    """A kernel whose machine code is kept on disk for the next process, where there is a folder for it."""
    try:
        # Numba's cache notices a change of the kernel's own file only, so the name changes with all the others.
        function.__qualname__ += "_" + _digest()
        return cuda.jit(cache=True)(function)
    except (RuntimeError, OSError):
        return cuda.jit(function)


def on_device(function: Callable[..., Any]) -> Any:
    """A function that kernels call."""
    if SIMULATED:  # which knows fewer options
        return cuda.jit(device=True)(function)
    return cuda.jit(device=True, forceinline=True)(function)
