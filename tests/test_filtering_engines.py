"""The filter on a GPU, with a fake of onnxruntime where there is none: numbers, words and faults."""

import re
from importlib import metadata

import fake_cuda
import filtering_models as models
import numpy as np
import pytest

from qctrun.runtime import Filter, Grid, Volume
from qctrun.runtime.errors import DeviceError, OutOfMemoryError, UsageError
from qctrun.runtime.filtering import graph
from qctrun.runtime.filtering.engines import onnx_cpu
from qctrun.runtime.filtering.engines.onnx_cuda import ARENA_SHARE, CUDA, WINDOW_SHARE
from qctrun.runtime.filtering.proof import GPU_TOLERANCE, PROBE_SIZE
from qctrun.runtime.filtering.session import Session

MODEL = models.loaded(models.nnsp())
FREE = 8 * 2**30


def noise(size):
    return np.random.default_rng(0).normal(200, 200, size).astype(np.float32)


def judged(window):
    return onnx_cpu.OnnxCpuEngine(MODEL, 1).run(window)


@pytest.fixture
def path(tmp_path):
    return models.save(tmp_path / "m.onnx", models.nnsp())


def scan(size):
    return Volume(noise(size), Grid(size, (0.34, 0.172, 0.172)), "mg/cm3", "HA")


def test_working_gpu(monkeypatch, capfd):
    runtime = fake_cuda.install(monkeypatch)
    session = Session(MODEL, "cuda:1", threads=1)
    assert (session.device, session.provider, session.notes) == ("cuda:1", CUDA, ())
    assert (session.backend, session.precision) == ("onnxruntime", "fp32")
    assert session.self_test.most_relative == 0
    assert runtime.options == {
        "device_id": "1",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(int(ARENA_SHARE * FREE)),
    }
    assert session.window_bytes == int(WINDOW_SHARE * FREE)
    assert Session(MODEL, "auto", threads=1).device == "cuda:0"
    assert capfd.readouterr().out == ""


def test_driver_that_does_not_say_what_is_free(monkeypatch):
    runtime = fake_cuda.install(monkeypatch, free=None)
    assert Session(MODEL, "cuda", threads=1).window_bytes is None
    assert "gpu_mem_limit" not in runtime.options


def test_buffers_are_made_once_for_each_shape(monkeypatch):
    runtime = fake_cuda.install(monkeypatch)
    session = Session(MODEL, "cuda", threads=1)
    runtime.made.clear()
    windows = [noise((5, 6, 7)) + shift for shift in (0, 1)]
    results = [session.run(window) for window in windows]
    assert runtime.made == [((1, 1, 5, 6, 7), "cuda", 0)] * 2
    for window, result in zip(windows, results, strict=True):  # the second does not write into the first
        assert np.array_equal(result, judged(window))


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_error_of_a_lower_precision_is_told(monkeypatch, precision):
    runtime = fake_cuda.install(monkeypatch, spoil=lambda result: np.multiply(result, 1.001, out=result))
    session = Session(MODEL, "auto", threads=1, precision=precision)
    assert (session.device, session.precision, runtime.options["use_tf32"]) == ("cuda:0", precision, "1")
    assert session.self_test.most_relative == pytest.approx(1e-3, rel=0.5)
    words = f"precision {precision}: .* rms .* mg/cm3 .* at most .* mg/cm3"
    assert any(re.fullmatch(words + ".*", note) for note in session.notes)
    assert (runtime.data == MODEL.data) == (precision == "tf32")


def test_model_without_an_fp16_form(monkeypatch):
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr(graph, "half", lambda data: None)
    with pytest.raises(DeviceError, match="fp16"):
        Session(MODEL, "cuda", threads=1, precision="fp16")


def test_quiet_fallback_of_onnxruntime_is_an_error(monkeypatch, capfd):
    fake_cuda.install(monkeypatch, works=False)
    with pytest.raises(DeviceError, match="libcublas"):
        Session(MODEL, "cuda", threads=1)
    assert capfd.readouterr().out == ""


def test_other_numbers_are_an_error(monkeypatch):
    fake_cuda.install(monkeypatch, spoil=lambda result: np.multiply(result, 1.001, out=result))
    with pytest.raises(DeviceError, match=r"relative difference of 0\.001"):
        Session(MODEL, "cuda:0", threads=1)


@pytest.mark.parametrize(
    "place",
    [(0, 0, 0), (59, 129, 119), (30, 64, 60)],
    ids=["first corner", "last corner", "middle"],
)
def test_kernel_that_is_wrong_at_one_size(monkeypatch, place):
    def spoil(result):
        if result.shape[2] == 60:
            result[(0, 0, *place)] += 1

    fake_cuda.install(monkeypatch, spoil=spoil)
    session = Session(MODEL, "cuda", threads=1)
    session.run(noise((59, 130, 120)))
    with pytest.raises(DeviceError, match="onnxruntime's numbers on the CPU within"):
        session.run(noise((60, 130, 120)))


@pytest.mark.parametrize("size", [(1, 1, 1), (22, 41, 3), (30, 42, 60), (60, 100, 90)])
def test_right_windows_pass_the_proof(monkeypatch, size):
    fake_cuda.install(monkeypatch)
    assert np.array_equal(Session(MODEL, "cuda", threads=1).run(noise(size)), judged(noise(size)))


def test_windows_of_air_pass_the_proof(monkeypatch):
    """Differences as rounding makes them are small beside bone, not beside zeros."""
    fake_cuda.install(monkeypatch, spoil=lambda result: np.add(result, 2e-4, out=result))
    session = Session(MODEL, "cuda", threads=1)
    session.run(np.zeros((30, 50, 50), np.float32))


def test_on_the_device(monkeypatch):
    runtime = fake_cuda.install(monkeypatch)
    session = Session(MODEL, "cuda", threads=1, stream=fake_cuda.STREAM)
    assert runtime.options["user_compute_stream"] == str(fake_cuda.STREAM)
    window = noise((12, 30, 28))
    runtime.memory = {1000: window.copy(), 2000: np.zeros_like(window)}
    runtime.shapes.clear()
    for _ in range(2):
        session.run_on(1000, 2000, window.shape, fake_cuda.STREAM)
    assert runtime.shapes == [window.shape] * 3  # the first of a size is checked
    assert np.array_equal(runtime.memory[2000], judged(window))
    with pytest.raises(UsageError, match="stream"):
        session.run_on(1000, 2000, window.shape, fake_cuda.STREAM + 1)


@pytest.mark.parametrize(
    ("message", "kind", "mend"),
    [
        ("CUDNN failure 1001: NOT_IMPLEMENTED", DeviceError, "pip install"),
        ("Conv: cuDNN is not available", DeviceError, "pip install"),
        ("CUDA failure 35: CUDA driver version is insufficient", DeviceError, "update the NVIDIA driver"),
        ("CUDA failure 719: unspecified launch failure", DeviceError, "the GPU was lost"),
        ("CUDA failure 700: an illegal memory access was encountered", DeviceError, "the GPU was lost"),
        ("Failed to allocate memory: 3 GB", OutOfMemoryError, "close other programs"),
        ("Available memory of 3 is smaller than requested bytes of 9", OutOfMemoryError, "close other"),
        ("something else", DeviceError, "cpu"),
    ],
)
@pytest.mark.parametrize("opens", [True, False])
def test_failing_gpu(monkeypatch, message, kind, mend, opens):
    fake_cuda.install(monkeypatch, fails=message, opens=opens)
    with pytest.raises(kind, match=mend):
        Session(MODEL, "cuda", threads=1)
    session = Session(MODEL, "auto", threads=1)
    assert session.device == "cpu" and message in session.notes[0]


def test_driver_absent(monkeypatch):
    fake_cuda.install(monkeypatch, driver=None)
    with pytest.raises(DeviceError, match="wanted an NVIDIA driver, got none"):
        Session(MODEL, "cuda", threads=1)


def test_driver_too_old(monkeypatch):
    fake_cuda.install(monkeypatch, driver=(12, 4))
    with pytest.raises(DeviceError, match=r"CUDA 13\.0, got one for CUDA 12\.4; update the NVIDIA driver"):
        Session(MODEL, "cuda", threads=1)


def test_gpu_of_that_number_absent(monkeypatch):
    fake_cuda.install(monkeypatch)
    with pytest.raises(DeviceError, match="got 2 GPUs, counted from 0; look at nvidia-smi"):
        Session(MODEL, "cuda:2", threads=1)


def test_cudnn_missing(monkeypatch):
    fake_cuda.install(monkeypatch, cudnn=None)
    with pytest.raises(DeviceError, match=r"wanted cuDNN 9, got no libcudnn.*qctrun\[cuda\]"):
        Session(MODEL, "cuda", threads=1)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_cudnn_with_known_faults(monkeypatch, precision):
    fake_cuda.install(monkeypatch, cudnn=91002)
    if precision == "fp32":
        assert "cuDNN 9.10 is older than 9.16" in Session(MODEL, "cuda", threads=1).notes[0]
        return
    with pytest.raises(DeviceError, match=r"cuDNN 9\.16 .*got cuDNN 9\.10"):
        Session(MODEL, "cuda", threads=1, precision=precision)


def test_both_wheels(monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: name)
    assert onnx_cpu.installed_wheels() == ("onnxruntime", "onnxruntime-gpu")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in Session(MODEL, "cpu", threads=1).notes[0]


def test_smaller_windows_where_memory_is_small(monkeypatch, path):
    raw = scan((40, 80, 80))
    expected = Filter(path, device="cpu", threads=1)(raw).array
    runtime = fake_cuda.install(monkeypatch, most_voxels=90_000)
    nnsp = Filter(path, device="cuda")
    found = nnsp(raw)
    assert found.provenance["filter"]["windows"] > 2
    np.testing.assert_allclose(found.array, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    runtime.shapes.clear()
    nnsp(raw)  # what did not fit is not tried again
    assert len(runtime.shapes) == found.provenance["filter"]["windows"] and len(set(runtime.shapes)) == 1


def test_no_window_fits(monkeypatch, path):
    runtime = fake_cuda.install(monkeypatch, free=3 * 2**20)
    nnsp = Filter(path, device="cuda")
    runtime.most_voxels = 100
    with pytest.raises(
        OutOfMemoryError, match=r"wanted \d+ MB for a window of \d+ voxels, got 3 MB free"
    ) as no:
        nnsp(scan((40, 80, 80)))
    assert no.value.exit_code == 6


def test_gpu_lost_in_mid_run(monkeypatch, path):
    runtime = fake_cuda.install(monkeypatch, free=20 * 2**20)
    nnsp = Filter(path, device="cuda")

    def lose(done, total):
        if done == 1:
            runtime.fails = "CUDA failure 719: unspecified launch failure"

    with pytest.raises(DeviceError, match="the GPU was lost, look at nvidia-smi"):
        nnsp(scan((40, 80, 80)), progress=lose)


def test_windows_around_a_mask_have_one_shape(monkeypatch, path):
    raw = scan((40, 120, 120))
    mask = np.zeros(raw.array.shape, bool)
    mask[5:9, 10:30, 20:30] = mask[30:38, 60:115, 70:119] = True
    expected = Filter(path, device="cpu", threads=1)(raw, mask=mask, margin_mm=0.5).array
    runtime = fake_cuda.install(monkeypatch, free=20 * 2**20)
    nnsp = Filter(path, device="cuda")
    runtime.shapes.clear()
    found = nnsp(raw, mask=mask, margin_mm=0.5)
    assert found.provenance["filter"]["windows"] > 1 and len(set(runtime.shapes)) == 1
    np.testing.assert_allclose(found.array, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_record(monkeypatch, path):
    fake_cuda.install(monkeypatch)
    record = Filter(path, device="cuda", precision="tf32")(scan(PROBE_SIZE)).provenance["filter"]
    assert (record["backend"], record["precision"], record["device"]) == ("onnxruntime", "tf32", "cuda:0")
    assert set(record["self_test"]) == {"rms_mg_cm3", "most_mg_cm3", "rms_relative", "most_relative"}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("size", [(1, 1, 1), (40, 130, 150)])
def test_gpu_computes_what_the_cpu_computes(size, precision):
    found = Session(MODEL, "cuda", precision=precision).run(noise(size))
    expected = judged(noise(size))
    assert np.max(np.abs(found - expected)) <= GPU_TOLERANCE[precision] * np.max(np.abs(expected))


@pytest.mark.gpu
def test_gpu_runs_on_device_arrays_and_a_stream():
    from numba import cuda

    stream = cuda.stream()
    session = Session(MODEL, "cuda", stream=int(stream))
    source = cuda.to_device(noise((20, 50, 60)), stream=stream)
    target = cuda.device_array_like(source, stream=stream)
    places = [array.__cuda_array_interface__["data"][0] for array in (source, target)]
    session.run_on(*places, source.shape, session.stream)
    found = target.copy_to_host(stream=stream)
    stream.synchronize()
    expected = judged(noise(source.shape))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.gpu
def test_gpu_of_the_shipped_model_over_several_windows():
    nnsp = Filter(device="cuda")
    nnsp._smaller = 400_000
    raw = scan((60, 140, 150))
    found = nnsp(raw)
    expected = Filter(device="cpu")(raw).array
    assert found.provenance["filter"]["windows"] > 2
    np.testing.assert_allclose(found.array, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
