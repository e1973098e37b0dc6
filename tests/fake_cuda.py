"""A fake of onnxruntime with a CUDA provider that behaves as told, and of the NVIDIA libraries; the CPU works."""

import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime

from qctrun.runtime import nvidia
from qctrun.runtime.filtering.engines.onnx_cpu import CPU
from qctrun.runtime.filtering.engines.onnx_cuda import CUDA
from qctrun.runtime.nvidia import Gpu

STREAM = 77


class FakeOnnxruntime(ModuleType):
    """The module `onnxruntime` on a machine with a GPU.

    Parameters
    ----------
    works : bool
        False: the session falls back to the CPU without a word, as onnxruntime does.
    spoil : callable(result), optional
        What the GPU does to a result (1, 1, z, y, x) in place.
    fails : str
        What every run on the GPU raises.
    most_voxels : int
        Windows above it raise what onnxruntime's arena says when it is full.
    """

    def __init__(self, *, works=True, spoil=None, fails="", opens=True, most_voxels=10**9):
        super().__init__("onnxruntime")
        self.works, self.spoil, self.fails, self.opens = works, spoil, fails, opens
        self.most_voxels, self.options, self.shapes, self.made, self.memory = most_voxels, None, [], [], {}
        self.cuda_version = "13.0"
        self.SessionOptions, self.RunOptions = onnxruntime.SessionOptions, onnxruntime.RunOptions
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self.make)

    def disable_telemetry_events(self):
        pass

    def get_available_providers(self):
        return [CUDA, CPU]

    def set_default_logger_severity(self, level):
        pass

    def preload_dlls(self):
        print("Failed to load libcublas.so.13")
        os.write(1, b"said by C code\n")

    def InferenceSession(self, data, settings, providers):  # noqa: N802
        name, options = providers[0]
        real = onnxruntime.InferenceSession(data, settings, providers=[CPU])
        if name == CPU:
            return real
        if not self.opens:
            raise RuntimeError(self.fails)
        self.options, self.data = options, data
        print("EP Error, falling back")
        return FakeSession(real, self)

    def make(self, shape, kind, device, index):
        self.made.append((tuple(shape), device, index))
        return FakeValue(np.zeros(shape, kind))


class FakeValue:
    """An array "on the device"."""

    def __init__(self, array):
        self.array = array

    def update_inplace(self, array):
        self.array[:] = array

    def numpy(self):
        return self.array.copy()


class FakeSession:
    def __init__(self, real, runtime):
        self.real, self.runtime = real, runtime

    def get_providers(self):
        return [CUDA, CPU] if self.runtime.works else [CPU]

    def get_inputs(self):
        return self.real.get_inputs()

    def get_outputs(self):
        return self.real.get_outputs()

    def io_binding(self):
        return FakeBinding(self.runtime)

    def run_with_iobinding(self, binding, options=None):
        runtime = self.runtime
        if runtime.fails:
            raise RuntimeError(runtime.fails)
        if binding.source.array.size > runtime.most_voxels:
            raise RuntimeError("BFCArena: Available memory of 5 is smaller than requested bytes of 9")
        runtime.shapes.append(binding.source.array.shape[2:])
        (result,) = self.real.run(None, {"volume": binding.source.array})
        if runtime.spoil:
            runtime.spoil(result)
        binding.target.array[:] = result


class FakeBinding:
    def __init__(self, runtime):
        self.runtime = runtime

    def bind_ortvalue_input(self, name, value):
        assert name == "volume"
        self.source = value

    def bind_ortvalue_output(self, name, value):
        assert name == "filtered"
        self.target = value

    def bind_input(self, name, device, index, kind, shape, address):
        assert (name, device, kind) == ("volume", "cuda", np.float32)
        self.source = FakeValue(self.runtime.memory[address].reshape(shape))

    def bind_output(self, name, device, index, kind, shape, address):
        assert (name, device, kind) == ("filtered", "cuda", np.float32)
        self.target = FakeValue(self.runtime.memory[address].reshape(shape))


def install(monkeypatch, *, cudnn=92801, driver=(13, 0), free=8 * 2**30, **behaviour):
    """Put the fake in the place of onnxruntime and of the driver."""
    runtime = FakeOnnxruntime(**behaviour)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setattr(nvidia, "cudnn_version", lambda: cudnn)
    monkeypatch.setattr(nvidia, "driver_cuda", lambda: driver)
    monkeypatch.setattr(nvidia, "gpus", lambda: tuple(Gpu(n, "NVIDIA Test", "9.0", 8192) for n in range(2)))
    monkeypatch.setattr(nvidia, "free_bytes", lambda index: free)
    return runtime
