"""Every CUDA kernel of the local maps with the types that it is called with, and its code for a GPU."""

import types

from numba import boolean, float32, float64, int16, int32, int64, uint8
from numba.core.types import Array, UniTuple

from qctrun.runtime.measuring.kernels.cuda import boxes as cuda_boxes
from qctrun.runtime.measuring.kernels.cuda import kernels as cuda_kernels
from qctrun.runtime.measuring.kernels.cuda import moments as cuda_moments
from qctrun.runtime.measuring.kernels.cuda import spheres as cuda_spheres
from qctrun.runtime.measuring.kernels.cuda.compiler import cuda


def _flat(kind):
    return Array(kind, 1, "C")


VALUES, MAP, FLAGS, TABLE, PLAN = (
    Array(kind, axes, "C") for kind, axes in ((float32, 3), (float32, 3), (uint8, 3), (int32, 2), (int64, 2))
)
SUMS, BOX, SIZE = _flat(int64), UniTuple(int64, 6), UniTuple(int64, 3)
POINTS = Array(float64, 2, "C")
ROWS = (SIZE, int64, float64, boolean, PLAN, int64, SIZE)

KERNELS = [
    (cuda_kernels.calibrate, (_flat(int16), float32, float32, _flat(float32))),
    (cuda_kernels.calibrate, (_flat(float32), float32, float32, _flat(float32))),
    (cuda_kernels.fill, (_flat(float32), float32)),
    (cuda_kernels.fill, (_flat(uint8), uint8)),
    (cuda_kernels.find_range, (_flat(float32), _flat(int32))),
    (cuda_kernels.make_plan, (_flat(int32), _flat(float64), int64, PLAN)),
    (cuda_kernels.prefix_narrow, (VALUES, *ROWS, _flat(int32))),
    (cuda_kernels.prefix_narrow, (FLAGS, *ROWS, _flat(int32))),
    (cuda_kernels.prefix_wide, (VALUES, *ROWS, SUMS)),
    (cuda_kernels.finish_density, (SUMS, SUMS, FLAGS, BOX, int64, PLAN, MAP, MAP)),
    (cuda_kernels.finish_bone, (SUMS, SUMS, FLAGS, BOX, int64, PLAN, int64, float64, MAP, MAP)),
    (cuda_kernels.finish_inside, (SUMS, FLAGS, BOX, int64, FLAGS)),
    (cuda_boxes.take_box, (VALUES, SIZE, VALUES)),
    (cuda_boxes.put_all, (VALUES, SIZE, SIZE, SIZE, VALUES)),
    (cuda_boxes.put_needed, (VALUES, SIZE, SIZE, SIZE, FLAGS, VALUES)),
    (cuda_spheres.march_narrow, (_flat(int32), TABLE, FLAGS, BOX, SIZE, int64, PLAN, int64, SUMS)),
    (cuda_spheres.march_wide, (SUMS, TABLE, FLAGS, BOX, SIZE, int64, PLAN, int64, SUMS)),
    (cuda_spheres.direct, (_flat(int32), TABLE, FLAGS, BOX, SIZE, boolean, PLAN, int64, SUMS)),
    (
        cuda_moments.sum_pieces,
        (POINTS, _flat(float64), POINTS, *[_flat(int64)] * 3, float64, float64, POINTS),
    ),
    (cuda_spheres.direct, (SUMS, TABLE, FLAGS, BOX, SIZE, boolean, PLAN, int64, SUMS)),
]
NAMES = [f"{kernel.py_func.__name__}-{signature[0].dtype}" for kernel, signature in KERNELS]


_known = {}


def ptx(function, signature, capability, monkeypatch):
    """PTX of a kernel. Numba asks the GPU at hand for its capability on the way, so one is made up."""
    from numba.cuda import dispatcher

    key = function, signature, capability
    if key not in _known:
        stand_in = types.SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr(dispatcher, "get_current_device", lambda: stand_in)
        _known[key] = cuda.compile_ptx(function, signature, cc=capability)[0]
    return _known[key]


def assembled(text, capability):
    """What NVIDIA's assembler says of the machine code that it makes of PTX."""
    from cuda.bindings import nvjitlink

    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose"]
    linker, code = nvjitlink.create(len(options), options), text.encode()
    nvjitlink.add_data(linker, nvjitlink.InputType.PTX, code, len(code), "kernel")
    nvjitlink.complete(linker)
    said = bytearray(nvjitlink.get_info_log_size(linker))
    nvjitlink.get_info_log(linker, said)
    nvjitlink.destroy(linker)
    return said.decode()
