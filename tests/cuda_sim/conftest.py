"""CUDA kernels without a GPU: `NUMBA_ENABLE_CUDASIM=1 pytest tests/cuda_sim`, a process of its own.

Numba's simulator runs every thread of a kernel as a thread of Python. Blocks and tiles are made small here, which
changes no number; the kernels read their sizes when they run.
"""

import importlib.util
import os
import sys

import numpy as np
import pytest

SIMULATING = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
if SIMULATING:
    # One thread of the simulator asks all the others without pause whether they wait for each other; they come to
    # answer when Python takes the turn from it. That is after 5 ms, unless told otherwise, and happens often.
    sys.setswitchinterval(5e-5)


def pytest_collection_modifyitems(items):
    installed = importlib.util.find_spec("numba_cuda") is not None
    if not (SIMULATING and installed):
        start = "set NUMBA_ENABLE_CUDASIM=1 before the process starts"
        skip = pytest.mark.skip(reason=start if installed else "numba-cuda is not installed")
        for item in items:
            if "cuda_sim" in item.path.parts:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Tiles of 4 x 2 voxels or 4 x 1, a few threads a block."""
    if not SIMULATING:
        return
    from qctrun.runtime.measuring.kernels.cuda import maps as cuda_maps
    from qctrun.runtime.measuring.kernels.cuda import spheres as cuda_spheres

    for name, value in {
        "TILE_ROWS": (2, 1),
        "TILES": 1,
        "THREADS": 2,
        "SCAN_THREADS": 4,
        "BLOCKS": 1,
        "RANGE_BLOCKS": 2,
    }.items():
        monkeypatch.setattr(cuda_maps, name, value)
    for name, value in {"LANES": 2, "COLUMNS": 4, "_LANES": np.uint32(2)}.items():
        monkeypatch.setattr(cuda_spheres, name, value)
