"""Devices: what was asked for is what computes, or it is an error."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import filtering_models as models
import numpy as np
import pytest

from qctrun.runtime.errors import DeviceError, ModelError, OutOfMemoryError, RuntimeMissingError, UsageError
from qctrun.runtime.filtering import session as rooms
from qctrun.runtime.filtering.session import CPU, CUDA, Session

onnxruntime = pytest.importorskip("onnxruntime")
HAS_GPU = Path("/dev/nvidia0").exists()
MODEL = models.loaded(models.nnsp())


class FakeCuda:
    """onnxruntime with a CUDA provider that behaves as told; the CPU does the work."""

    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, *, works=True, error=0.0, fails=None):
        self.works, self.error, self.fails, self.options = works, error, fails, None

    def get_available_providers(self):
        return [CUDA, CPU]

    def set_default_logger_severity(self, level):
        pass

    def preload_dlls(self):
        print("Failed to load libcudnn.so.9")

    def InferenceSession(self, data, settings, providers):  # noqa: N802
        name, options = providers[0]
        real = onnxruntime.InferenceSession(data, settings, providers=[CPU])
        if name == CPU:
            return real
        self.options = options
        print("EP Error, falling back")
        return FakeSession(real, self)


class FakeSession:
    def __init__(self, real, runtime):
        self.real, self.runtime = real, runtime

    def get_providers(self):
        return [CUDA, CPU] if self.runtime.works else [CPU]

    def run(self, names, feed):
        if self.runtime.fails:
            raise RuntimeError(self.runtime.fails)
        return [result * (1 + self.runtime.error) for result in self.real.run(names, feed)]


def use(monkeypatch, runtime):
    monkeypatch.setattr(rooms, "_import_onnxruntime", lambda: runtime)
    return runtime


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "", "cpu "])
def test_unknown_device(device):
    with pytest.raises(UsageError, match="device"):
        Session(MODEL, device)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads(threads):
    with pytest.raises(UsageError, match="threads"):
        Session(MODEL, "cpu", threads)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_gpu(device):
    with pytest.raises(DeviceError, match=r"qctrun\[cuda\]") as caught:
        Session(MODEL, device, threads=1)
    assert caught.value.exit_code == 5


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
@pytest.mark.parametrize("has_driver", [True, False])
def test_auto_falls_back_and_says_so_where_a_gpu_could_be(has_driver, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "qctrun.runtime.filtering.session.NVIDIA_DRIVER", tmp_path / ("" if has_driver else "none")
    )
    session = Session(MODEL, "auto", threads=1)
    assert (session.device, session.provider) == ("cpu", CPU)
    assert ("fell back" in " ".join(session.notes)) == has_driver


def test_cpu_needs_no_note():
    session = Session(MODEL, "cpu", threads=1)
    assert (session.device, session.provider, session.notes) == ("cpu", CPU, ())


def test_quiet_fallback_of_onnxruntime_is_an_error(monkeypatch, capsys):
    use(monkeypatch, FakeCuda(works=False))
    with pytest.raises(DeviceError, match="libcudnn"):
        Session(MODEL, "cuda", threads=1)
    assert capsys.readouterr().out == ""


def test_other_numbers_are_an_error(monkeypatch):
    use(monkeypatch, FakeCuda(error=1e-3))
    with pytest.raises(DeviceError, match=r"relative difference of 0\.001"):
        Session(MODEL, "cuda:0", threads=1)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDNN failure 1001: NOT_IMPLEMENTED", DeviceError),
        ("Failed to allocate memory: 3 GB", OutOfMemoryError),
    ],
)
def test_failing_gpu(monkeypatch, message, kind):
    use(monkeypatch, FakeCuda(fails=message))
    with pytest.raises(kind):
        Session(MODEL, "cuda", threads=1)
    session = Session(MODEL, "auto", threads=1)
    assert session.device == "cpu" and message in session.notes[0]


def test_working_gpu(monkeypatch, capsys):
    runtime = use(monkeypatch, FakeCuda())
    session = Session(MODEL, "cuda:1", threads=1)
    assert (session.device, session.provider, session.notes) == ("cuda:1", CUDA, ())
    assert runtime.options == {**rooms.CUDA_OPTIONS, "device_id": "1"}
    assert Session(MODEL, "auto", threads=1).device == "cuda:0"
    assert capsys.readouterr().out == ""


def test_onnxruntime_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissingError, match=r'pip install "qctrun\[cpu\]".*"qctrun\[cuda\]"') as caught:
        Session(MODEL, "cpu")
    assert caught.value.exit_code == 5


def test_both_wheels(monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: name)
    assert rooms.installed_wheels() == ("onnxruntime", "onnxruntime-gpu")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in Session(MODEL, "cpu", threads=1).notes[0]


def test_import_is_light():
    code = (
        "import sys, qctrun.runtime.filtering as f; f.load_model();"
        "print({'onnxruntime', 'onnx', 'torch'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_stderr_and_stdout_stay_free(tmp_path):
    path = models.save(tmp_path / "m.onnx", models.nnsp())
    code = f"from qctrun.runtime.filtering import Filter; Filter({str(path)!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")
@pytest.mark.parametrize("size", [(1, 1, 1), (40, 130, 150)])
def test_gpu_computes_what_the_cpu_computes(size):
    volume = np.random.default_rng(0).normal(200, 200, size).astype(np.float32)
    found, wanted = (Session(MODEL, device).run(volume) for device in ("cuda", "cpu"))
    assert np.max(np.abs(found - wanted)) <= 1e-4 * np.max(np.abs(wanted))


def test_any_contiguity_and_type():
    session = Session(MODEL, "cpu", threads=1)
    volume = np.random.default_rng(0).normal(200, 200, (7, 9, 11)).astype(np.float32)
    turned = np.ascontiguousarray(volume.T).T
    assert np.array_equal(session.run(turned), session.run(volume))


def test_model_error_names_the_file():
    broken = models.model([models.helper.make_node("Sharpen", ["volume"], ["filtered"])])
    with pytest.raises(ModelError, match=r"test\.onnx"):
        Session(models.loaded(broken), "cpu")
