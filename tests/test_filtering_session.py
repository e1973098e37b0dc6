"""The session: what was asked for is what computes, it computes the right numbers, or it is an error."""

import subprocess
import sys

import filtering_models as models
import numpy as np
import pytest

from qctrun.runtime.errors import DeviceError, ModelError, RuntimeMissingError, UsageError
from qctrun.runtime.filtering import graph, session
from qctrun.runtime.filtering.engines import openvino_cpu
from qctrun.runtime.filtering.engines.onnx_cpu import CPU, OnnxCpuEngine
from qctrun.runtime.filtering.session import Session
from qctrun.runtime.nvidia import gpus

pytest.importorskip("onnxruntime")
HAS_GPU = bool(gpus())
MODEL = models.loaded(models.nnsp())


class Twin:
    """An engine beside the judge that is off by a factor."""

    provider = "Twin"
    factor = 1.0

    def __init__(self, model, threads):
        self.judge = OnnxCpuEngine(model, threads)

    def run(self, window):
        return self.judge.run(window) * np.float32(self.factor)


def without(monkeypatch, *names):
    """As if these modules were not installed."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def with_twin(monkeypatch, factor=1.0):
    """OpenVINO is installed, and is the judge's twin."""
    twin = type("Twin", (Twin,), {"factor": factor})
    monkeypatch.setattr(session, "find_spec", lambda name: name)
    monkeypatch.setattr(openvino_cpu, "OpenVinoEngine", twin)


def volume(size=(7, 9, 11)):
    return np.random.default_rng(0).normal(200, 200, size).astype(np.float32)


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "", "cpu "])
def test_unknown_device(device):
    with pytest.raises(UsageError, match="device"):
        Session(MODEL, device)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads(threads):
    with pytest.raises(UsageError, match="threads"):
        Session(MODEL, "cpu", threads)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"backend": "torch"}, "auto, onnxruntime or openvino, got 'torch'"),
        ({"precision": "bf16"}, "fp32, tf32 or fp16, got 'bf16'"),
        ({"device": "cuda", "backend": "openvino"}, "wanted the device cpu, got cuda"),
        ({"device": "cpu", "precision": "tf32"}, "precision tf32: wanted a GPU"),
        ({"backend": "openvino", "precision": "fp16"}, "precision fp16: wanted a GPU"),
    ],
)
def test_words_that_make_no_sense(words, said):
    with pytest.raises(UsageError, match=said):
        Session(MODEL, **words)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
@pytest.mark.parametrize("words", [{"device": "cuda"}, {"device": "cuda:1"}, {"precision": "tf32"}])
def test_cuda_without_gpu(words):
    with pytest.raises(DeviceError, match=r"qctrun\[cuda\]") as caught:
        Session(MODEL, threads=1, **words)
    assert caught.value.exit_code == 5


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
@pytest.mark.parametrize("has_driver", [True, False])
def test_auto_falls_back_and_says_so_where_a_gpu_could_be(has_driver, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "NVIDIA_DRIVER", tmp_path / ("" if has_driver else "none"))
    found = Session(MODEL, "auto", threads=1)
    assert found.device == "cpu"
    assert ("fell back" in " ".join(found.notes)) == has_driver


def test_cpu_needs_no_note():
    found = Session(MODEL, "cpu", threads=1)
    assert (found.device, found.precision, found.notes, found.window_bytes) == ("cpu", "fp32", (), None)


def test_onnxruntime_takes_the_flat_graph(monkeypatch):
    found = Session(MODEL, "cpu", threads=1, backend="onnxruntime")
    assert (found.backend, found.provider) == ("onnxruntime", CPU)
    assert 0 < found.self_test.most_relative < 1e-5


def test_openvino_is_taken_where_it_is(monkeypatch):
    with_twin(monkeypatch, 1 + 2e-6)
    found = Session(MODEL, "cpu", threads=1)
    assert (found.backend, found.provider, found.notes) == ("openvino", "Twin", ())
    assert found.self_test.most_relative == pytest.approx(2e-6, rel=0.1)
    assert found.self_test.rms_relative == pytest.approx(2e-6, rel=0.1)
    assert found.self_test.rms_mg_cm3 < found.self_test.most_mg_cm3


def test_openvino_that_computes_other_numbers(monkeypatch):
    with_twin(monkeypatch, 1 + 5e-5)
    with pytest.raises(DeviceError, match=r"relative difference of 5e-05.*onnxruntime"):
        Session(MODEL, "cpu", threads=1, backend="openvino")
    found = Session(MODEL, "cpu", threads=1)
    assert found.backend == "onnxruntime" and "openvino is left out because of" in found.notes[0]


def test_openvino_that_gives_nan(monkeypatch):
    with_twin(monkeypatch, np.nan)
    with pytest.raises(DeviceError, match="relative difference of nan"):
        Session(MODEL, "cpu", threads=1, backend="openvino")


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_only_what_is_kept_comes_back(backend):
    found, keep = Session(MODEL, "cpu", threads=1, backend=backend), (slice(1, 5), slice(0, 4), slice(2, 11))
    np.testing.assert_allclose(found.run(volume(), keep), found.run(volume())[keep], rtol=0, atol=1e-2)


def test_flat_graph_that_computes_other_numbers(monkeypatch):
    other = models.loaded(models.nnsp(seed=1)).data
    monkeypatch.setattr(graph, "flat", lambda data, depth, *crop: other)
    found = Session(MODEL, "cpu", threads=1, backend="onnxruntime")
    assert "the graph in 2-D convolutions is left out because of" in found.notes[0]
    assert np.array_equal(found.run(volume()), OnnxCpuEngine(MODEL, 1).run(volume()))


def test_graph_that_has_no_flat_form(monkeypatch):
    monkeypatch.setattr(graph, "flat", lambda data, depth, *crop: None)
    found = Session(MODEL, "cpu", threads=1, backend="onnxruntime")
    assert (found.backend, found.self_test, found.notes) == ("onnxruntime", None, ())


def test_onnxruntime_absent(monkeypatch):
    without(monkeypatch, "onnxruntime", "openvino")
    with pytest.raises(RuntimeMissingError, match=r'pip install "qctrun\[cpu\]".*"qctrun\[cuda\]"') as caught:
        Session(MODEL, "cpu")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("words", [{"backend": "onnxruntime"}, {"device": "cuda"}, {"precision": "tf32"}])
def test_onnxruntime_absent_and_needed(monkeypatch, words):
    without(monkeypatch, "onnxruntime")
    with pytest.raises(RuntimeMissingError, match="onnxruntime"):
        Session(MODEL, **words)


def test_openvino_absent(monkeypatch):
    without(monkeypatch, "openvino")
    with pytest.raises(RuntimeMissingError, match=r'pip install "qctrun\[openvino\]"'):
        Session(MODEL, "cpu", backend="openvino")
    assert Session(MODEL, "cpu", threads=1).backend == "onnxruntime"


def test_openvino_alone(monkeypatch):
    pytest.importorskip("openvino")
    expected = OnnxCpuEngine(MODEL, 1).run(volume())
    without(monkeypatch, "onnxruntime")
    found = Session(MODEL, threads=1)
    assert (found.backend, found.device, found.self_test) == ("openvino", "cpu", None)
    np.testing.assert_allclose(found.run(volume()), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_openvino_alone_that_gives_nan(monkeypatch):
    class Broken:
        provider = "Broken"

        def __init__(self, model, threads):
            pass

        def run(self, window):
            return np.full_like(window, np.nan)

    without(monkeypatch, "onnxruntime")
    monkeypatch.setattr(session, "find_spec", lambda name: name)
    monkeypatch.setattr(openvino_cpu, "OpenVinoEngine", Broken)
    with pytest.raises(DeviceError, match="relative difference of nan"):
        Session(MODEL, threads=1)


def test_nothing_runs_on_device_addresses_on_the_cpu():
    with pytest.raises(UsageError, match="wanted a session on a GPU, got one on cpu"):
        Session(MODEL, "cpu", threads=1).run_on(1, 2, (3, 3, 3), 5)


def test_import_is_light():
    code = (
        "import sys, qctrun.runtime.filtering as f; f.load_model();"
        "print({'onnxruntime', 'onnx', 'torch', 'openvino', 'numba'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_stderr_and_stdout_stay_free(tmp_path):
    path = models.save(tmp_path / "m.onnx", models.nnsp())
    code = f"from qctrun.runtime.filtering import Filter; Filter({str(path)!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("", "")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_any_contiguity_and_type(backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    found = Session(MODEL, "cpu", threads=1, backend=backend)
    turned = np.ascontiguousarray(volume().T).T
    assert np.array_equal(found.run(turned), found.run(volume()))


def test_model_error_names_the_file():
    broken = models.model([models.helper.make_node("Sharpen", ["volume"], ["filtered"])])
    with pytest.raises(ModelError, match=r"test\.onnx"):
        Session(models.loaded(broken), "cpu")
