"""The CUDA kernels compiled without a GPU: they build for every generation, and round as the processor does."""

import os
import re
import struct
import warnings

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("nvidia.cu13", reason="NVIDIA's compiler for CUDA 13 is not installed")
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("the simulator compiles nothing", allow_module_level=True)

from cuda_code import KERNELS, NAMES, assembled, ptx
from numba import float64
from numba.core.types import Array

from qctrun.runtime.measuring.kernels import formulas
from qctrun.runtime.measuring.kernels.cuda import formulas as cuda_formulas
from qctrun.runtime.measuring.kernels.cuda import kernels as cuda_kernels
from qctrun.runtime.measuring.kernels.cuda import maps as cuda_maps
from qctrun.runtime.measuring.kernels.cuda import moments as cuda_moments
from qctrun.runtime.measuring.kernels.cuda.compiler import cuda
from qctrun.runtime.measuring.sphere import Sphere

PAPER = (0.34, 0.172, 0.172)
each_kernel = pytest.mark.parametrize(("kernel", "signature"), KERNELS, ids=NAMES)
LINE = Array(float64, 1, "C")


@each_kernel
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (12, 0)])
def test_it_compiles(kernel, signature, capability, monkeypatch):
    text = ptx(kernel.py_func, signature, capability, monkeypatch)
    assert f".target sm_{capability[0]}{capability[1]}" in text


@each_kernel
def test_nothing_lies_in_local_memory_and_nothing_is_called(kernel, signature, monkeypatch):
    text = ptx(kernel.py_func, signature, (9, 0), monkeypatch)
    assert ".local" not in text
    assert not re.search(r"\bcall\b", text)


@each_kernel
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (12, 0)])
def test_registers_suffice(kernel, signature, capability, monkeypatch):
    """256 threads of the largest tile have 65536 registers between them, and nothing spills into memory."""
    said = assembled(ptx(kernel.py_func, signature, capability, monkeypatch), capability)
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in said
    assert int(re.search(r"Used (\d+) registers", said)[1]) <= 128


@each_kernel
def test_shared_memory_is_known_as_such(kernel, signature, monkeypatch):
    """A load of which the compiler does not know the memory is slower."""
    text = ptx(kernel.py_func, signature, (9, 0), monkeypatch)
    assert not re.search(r"\b(ld|st)\.(?!global|shared|param|volatile|const)", text)
    static = [int(size) for size in re.findall(r"\.shared\s.*\[(\d+)\];", text)]
    assert sum(static) <= 2048


@each_kernel
def test_products_are_rounded_before_they_are_added(kernel, signature, monkeypatch):
    """What may join a product with a sum is harmless with powers of 2 only."""
    if kernel in (cuda_kernels.finish_bone, cuda_moments.sum_pieces):
        pytest.skip(
            "one holds NVIDIA's own exponential and logarithm (see the next test), one promises no bits"
        )
    assert not _joined(ptx(kernel.py_func, signature, (9, 0), monkeypatch))


def test_the_tmd_is_rounded_like_the_processors_but_for_exponential_and_logarithm(monkeypatch):
    assert not _joined(ptx(_tmd, (LINE,), (9, 0), monkeypatch))
    own = ptx(_soft_positive, (LINE,), (9, 0), monkeypatch)
    floor = struct.pack(">d", formulas.FLOOR).hex().upper()
    assert not [line for line in _joined(own) if f"0d{floor}" in line]
    assert "mul.rn.f64" in own


def test_a_plain_product_and_sum_would_be_joined(monkeypatch):
    """Else the test above would find nothing to object to in anything."""
    assert _joined(ptx(_plain, (LINE,), (9, 0), monkeypatch))


@pytest.mark.parametrize(
    ("spacing_mm", "diameter_mm", "rows"),
    [
        (PAPER, 2.0, (8, 8)),
        (PAPER, 4.3, (4, 4)),
        (PAPER, 10.0, (1, None)),
        ((0.25, 0.25, 0.25), 4.3, (4, 4)),
        ((0.25, 0.25, 0.25), 10.0, (1, None)),
        ((0.1, 0.1, 0.1), 10.0, (None, None)),
        ((0.5, 0.5, 0.5), 10.0, (2, 2)),
        ((1.0, 1.0, 1.0), 10.0, (4, 4)),
        ((1.0, 0.7, 0.7), 4.3, (8, 8)),
    ],
)
def test_tiles_fit_into_shared_memory(spacing_mm, diameter_mm, rows):
    half = Sphere(spacing_mm, diameter_mm).half_widths
    reach = cuda_maps.reach_of(half)
    box = (*reach, 20, 30, 40)
    size = tuple(n + 2 * r for n, r in zip(box[3:], reach, strict=True))
    tiles = [cuda_maps.tile_rows(reach[0] + 1, size, box, item) for item in (4, 8)]
    assert all(tile is None or tile[1] <= 48 * 1024 for tile in tiles)
    assert tuple(tile and tile[0] for tile in tiles) == rows


def test_a_small_grid_is_no_reason_to_warn():
    """One thread makes the plan; whoever measures maps should not be told that a GPU can do more."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cuda_kernels.make_plan[1, 1]


def _joined(text):
    """Products that are added to something, or may be, but those with a power of 2."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\b(fma\.rn|mul)\.f(64|32)\b", line)]
    return [line for line in lines if not any(map(_power_of_2, re.findall(r"0[df][0-9A-F]+", line)))]


def _power_of_2(number):
    bits = bytes.fromhex(number[2:])
    mantissa = (
        struct.unpack(">Q", bits)[0] % 2**52 if len(bits) == 8 else struct.unpack(">I", bits)[0] % 2**23
    )
    return mantissa == 0


def _soft_positive(numbers):
    i = cuda.grid(1)
    numbers[i] = cuda_formulas.soft_positive(numbers[i])


def _tmd(numbers):
    i = cuda.grid(1)
    part = cuda_formulas.mean(i, 4125, 3, 64.0)
    numbers[i] = cuda_formulas.local_tmd(part, numbers[i], numbers[i + 1], numbers[i + 2])


def _plain(numbers):
    i = cuda.grid(1)
    numbers[i] = numbers[i] * numbers[i + 1] + numbers[i + 2]
