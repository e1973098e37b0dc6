"""`qctrun doctor`: what it shows, in words and as JSON, and when it says that nothing can compute."""

import json
import sys
from pathlib import Path

import fake_cuda
import pytest

from qctrun.runtime import doctor, nvidia
from qctrun.runtime.errors import ModelError, RuntimeMissingError
from qctrun.runtime.filtering import model
from qctrun.runtime.measuring.kernels.cuda import device as cuda_device

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """As on a machine without an NVIDIA driver; tests put a fake one in."""
    monkeypatch.setattr(nvidia, "driver_cuda", lambda: None)


def no_numba_cuda(device):
    raise RuntimeMissingError(
        "numba-cuda", wanted="it", got="not installed", mend='pip install "qctrun[cuda]"'
    )


def facts_of(said):
    found = json.loads(said.out)
    return found, {one["name"]: one for one in found["findings"]}


def test_table(qctrun):
    said = qctrun("doctor", "--threads", 1)
    assert said.code == 0 and said.err == ""
    lines = [line for line in said.out.splitlines() if not line.lstrip().startswith("->")]
    assert all(line.split()[0] in ("ok", "warn", "missing") for line in lines)
    for name in (
        "python",
        "numba",
        "onnxruntime",
        "processor",
        "NVIDIA driver",
        "shipped model",
        "kernel cache",
    ):
        assert any(f"  {name}  " in line for line in lines), name
    assert str(Path.home()) not in said.out.replace("~", "")


def test_every_reservation_has_its_mend(qctrun):
    rows = facts_of(qctrun("doctor", "--threads", 1, "--json"))[0]["findings"]
    assert all(row["mend"] for row in rows if row["state"] != "ok")


def test_json(qctrun):
    whole, rows = facts_of(qctrun("doctor", "--threads", 1, "--json"))
    assert (whole["schema"], whole["usable"]) == ("qctrun/doctor/1", True)
    assert len(rows["shipped model"]["sha256"]) == 64
    assert rows["processor"]["cores"] >= 1
    judged = rows["onnxruntime on the CPU"]
    assert judged["state"] == "ok" and judged["seconds"] > 0 and judged["error_relative"] < 1e-5
    assert "CPUExecutionProvider" in rows["providers"]["providers"]
    assert rows["kernel cache"]["writable"] is True
    assert rows["NVIDIA driver"]["state"] == "missing" and "CUDA fp32" not in rows


def test_gpu(qctrun, monkeypatch):
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr(cuda_device, "prove", lambda device: None)
    rows = facts_of(qctrun("doctor", "--threads", 1, "--json"))[1]
    assert rows["NVIDIA driver"]["cuda"] == "13.0"
    assert rows["cuda:0"]["found"] == "NVIDIA Test, compute capability 9.0, 8192 of 8192 MB free"
    assert (rows["cuDNN"]["state"], rows["cuDNN"]["cudnn"]) == ("ok", 92801)
    assert rows["maps on cuda:0"]["state"] == rows["maps on cuda:1"]["state"] == "ok"
    assert rows["CUDA fp32"]["state"] == "ok" and rows["CUDA fp32"]["error_relative"] == 0
    assert rows["CUDA tf32"]["state"] == "warn" and "mg/cm3" in rows["CUDA tf32"]["mend"]


@pytest.mark.parametrize(
    ("machine", "name", "state", "words"),
    [
        ({"cudnn": None}, "cuDNN", "missing", "qctrun[cuda]"),
        ({"cudnn": 91002}, "cuDNN", "warn", "nvidia-cudnn-cu13>=9.16"),
        ({"cudnn": None}, "CUDA fp32", "missing", "qctrun[cuda]"),
        ({"driver": (12, 4)}, "NVIDIA driver", "warn", "update the NVIDIA driver"),
        ({"driver": (12, 4)}, "CUDA fp32", "missing", "update the NVIDIA driver"),
        ({"works": False}, "CUDA fp32", "missing", "nvidia-smi"),
        ({}, "maps on cuda:1", "missing", "qctrun[cuda]"),
    ],
)
def test_faults_of_a_gpu(qctrun, monkeypatch, machine, name, state, words):
    fake_cuda.install(monkeypatch, **machine)
    monkeypatch.setattr(cuda_device, "prove", no_numba_cuda)
    said = qctrun("doctor", "--threads", 1, "--json")
    row = facts_of(said)[1][name]
    assert said.code == 0
    assert row["state"] == state and words in row["mend"]


def test_one_wheel_is_enough(monkeypatch):
    wheels = {"onnxruntime", "onnxruntime-gpu"}
    for installed in ({"onnxruntime"}, {"onnxruntime-gpu"}, wheels, set()):
        monkeypatch.setattr(doctor.metadata, "version", lambda name, there=installed: version_of(name, there))
        monkeypatch.setattr(doctor.metadata, "distribution", doctor.metadata.version)
        named = {one.name: one.state for one in doctor._versions() if one.name in wheels}
        assert named == (dict.fromkeys(installed, "ok") or dict.fromkeys(wheels, "missing"))


def version_of(name, there):
    if name in there:
        return "1"
    raise doctor.metadata.PackageNotFoundError(name)


def test_both_wheels(qctrun, monkeypatch):
    monkeypatch.setattr(
        "qctrun.runtime.filtering.engines.onnx_cpu.installed_wheels",
        lambda: ("onnxruntime", "onnxruntime-gpu"),
    )
    row = facts_of(qctrun("doctor", "--threads", 1, "--json"))[1]["providers"]
    assert row["state"] == "warn" and "pip uninstall -y onnxruntime onnxruntime-gpu" in row["mend"]


def test_nothing_can_compute(qctrun, monkeypatch):
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    said = qctrun("doctor", "--json")
    whole, rows = facts_of(said)
    assert said.code == 5 and "nothing here can filter" in said.err
    assert whole["usable"] is False
    assert 'pip install "qctrun[cpu]"' in rows["onnxruntime on the CPU"]["mend"]


def test_onnxruntime_absent_and_openvino_there(qctrun, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = qctrun("doctor", "--threads", 1)
    assert said.code == 0 and "no onnxruntime to compare with" in said.out


def test_model_damaged(qctrun, monkeypatch):
    def load():
        raise ModelError("model nnsp.onnx", wanted="an ONNX file", got="nothing")

    monkeypatch.setattr(model, "load_model", load)
    said = qctrun("doctor", "--threads", 1)
    assert said.code == 5 and "model nnsp.onnx: wanted an ONNX file, got nothing" in said.out


@pytest.mark.parametrize("writable", [True, False])
def test_cache(monkeypatch, tmp_path, writable):
    monkeypatch.setattr(doctor, "_cache_paths", lambda: [str(Path.home() / "x" / "cache")])
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: writable)
    found = doctor._cache()
    assert (found.state, found.facts["cache"]) == ("ok" if writable else "warn", "~/x/cache")
    assert ("NUMBA_CACHE_DIR" in found.mend) != writable


def test_no_cache(monkeypatch):
    monkeypatch.setattr(doctor, "_cache_paths", list)
    assert doctor._cache().state == "warn"


def test_something_needed_is_not_installed(monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-thing",))
    found = {one.name: one for one in doctor._versions()}["no-such-thing"]
    assert (found.state, found.mend) == ("missing", "pip install no-such-thing")
