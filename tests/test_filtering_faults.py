"""Broken installations and broken models: each is named, and none passes for a sound one."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import fake_cuda
import filtering_models as models
import numpy as np
import pytest

from qctrun.runtime.errors import DeviceError, ModelError, RuntimeMissingError, UsageError
from qctrun.runtime.filtering import Filter, apply, session
from qctrun.runtime.filtering.engines import onnx_cpu
from qctrun.runtime.filtering.engines.onnx_cpu import OnnxCpuEngine
from qctrun.runtime.filtering.engines.openvino_cpu import OpenVinoEngine
from qctrun.runtime.filtering.session import UNCHECKED, Session

pytest.importorskip("onnxruntime")
MODEL = models.loaded(models.nnsp())
node = models.helper.make_node


def empty(monkeypatch, name):
    """A module with nothing in it, as a folder that a removed wheel left behind."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)


def has(monkeypatch, *names):
    monkeypatch.setattr(session, "find_spec", lambda name: name if name in names else None)


def no_broadcast():
    """A graph that opens and cannot run: it adds a smaller volume to the input."""
    weights = [models.tensor("w", np.ones((1, 1, 3, 3, 3)))]
    nodes = [node("Conv", ["volume", "w"], ["less"]), node("Add", ["less", "volume"], ["filtered"])]
    return models.loaded(models.model(nodes, weights))


def test_onnxruntime_that_is_an_empty_folder(monkeypatch):
    empty(monkeypatch, "onnxruntime")
    has(monkeypatch, "onnxruntime")
    monkeypatch.setattr(onnx_cpu, "installed_wheels", lambda: ("onnxruntime-gpu",))
    with pytest.raises(RuntimeMissingError, match="pip uninstall -y onnxruntime onnxruntime-gpu, and then"):
        Session(MODEL, "cpu", threads=1)


def test_onnxruntime_that_cannot_be_loaded(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise OSError('libgomp.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(RuntimeMissingError, match=r"got libgomp\.so\.1"):
        OnnxCpuEngine(MODEL, 1)


def test_onnxruntime_broken_beside_openvino_is_said(monkeypatch):
    pytest.importorskip("openvino")
    empty(monkeypatch, "onnxruntime")
    found = Session(MODEL, "cpu", threads=1)
    assert (found.backend, found.self_test, found.notes) == ("openvino", None, (UNCHECKED,))


def test_onnxruntime_not_installed_beside_openvino_needs_no_note(monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert Session(MODEL, "cpu", threads=1).notes == ()


@pytest.mark.parametrize("core", [None, 1 / 3])
def test_openvino_that_is_too_old_or_broken(monkeypatch, core):
    """Without a Core, and with one that fails."""
    empty(monkeypatch, "openvino")
    if core:
        monkeypatch.setattr(sys.modules["openvino"], "Core", core, raising=False)
    has(monkeypatch, "onnxruntime", "openvino")
    with pytest.raises(RuntimeMissingError, match=r'pip install "qctrun\[openvino\]"'):
        Session(MODEL, "cpu", threads=1, backend="openvino")
    found = Session(MODEL, "cpu", threads=1)
    assert found.backend == "onnxruntime" and "openvino is left out because of" in found.notes[0]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_doctor_of_broken_libraries(qctrun, monkeypatch, name):
    pytest.importorskip("openvino")
    empty(monkeypatch, name)
    said = qctrun("doctor", "--threads", 1)
    lines = {line.split("  ")[1].strip(): line for line in said.out.splitlines() if "on the CPU" in line}
    assert said.code == 0 and said.err == ""
    assert sum(line.startswith("missing") for line in lines.values()) == 1


@pytest.mark.parametrize(("engine", "mend"), [(OnnxCpuEngine, "shipped"), (OpenVinoEngine, '"onnxruntime"')])
def test_a_fault_of_the_cpu_does_not_send_to_the_cpu(engine, mend):
    if engine is OpenVinoEngine:
        pytest.importorskip("openvino")
    with pytest.raises(DeviceError, match=mend) as caught:
        engine(MODEL, 1).run(np.zeros((5, 5), np.float32))  # no volume
    assert 'the device "cpu"' not in str(caught.value)


def test_model_that_cannot_run_has_one_mend():
    with pytest.raises(ModelError, match=r"test\.onnx: wanted a result") as caught:
        Session(no_broadcast(), "cpu", threads=1)
    assert str(caught.value).count("qctrun export") == 1


def test_openvino_alone_that_gives_nothing():
    """OpenVINO makes an empty result of a sum that cannot be, and spoils its own memory: in a process of its own."""
    pytest.importorskip("openvino")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import onnxruntime, test_filtering_faults as faults\n"
        "sys.modules['onnxruntime'] = None\n"
        "try: faults.Session(faults.no_broadcast(), 'cpu', threads=1)\n"
        "except faults.ModelError as error: print(error, flush=True)\n"
        "import os; os._exit(0)\n"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "wanted a result of the input's size" in found.stdout, found.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_model_that_gives_no_numbers(value):
    weights = [models.tensor("w", np.full((1, 1, 3, 3, 3), value))]
    broken = models.model([node("Conv", ["volume", "w"], ["filtered"], pads=[1] * 6)], weights)
    with pytest.raises(ModelError, match="wanted finite numbers"):
        Session(models.loaded(broken), "cpu", threads=1)


@pytest.mark.parametrize("halo", [(3, 8, 8), (4, 7, 8), (4, 8, 7), (0, 0, 0)])
def test_card_with_too_small_a_halo(halo):
    """Windows would be cut back by too little, and show in the result."""
    with pytest.raises(ModelError, match="wider reach"):
        Session(models.loaded(models.nnsp(), models.card(halo=halo)), "cpu", threads=1)


@pytest.mark.parametrize("halo", [(4, 8, 8), (5, 9, 9), (50, 50, 50)])
def test_card_with_halo_enough(halo):
    assert Session(models.loaded(models.nnsp(), models.card(halo=halo)), "cpu", threads=1).notes == ()


def test_cuda_is_loaded_without_a_stdout():
    code = (
        "import os, sys; os.close(1); sys.stdout = None\n"
        "from qctrun.runtime.filtering.engines.onnx_cuda import _overheard\n"
        "with _overheard() as said: print('loaded')\n"
        "sys.stderr.write(str(said))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr == "['loaded']"


def test_a_later_window_of_nothing_is_not_trusted(monkeypatch):
    """The first window of a size is compared with the CPU; the ones after it may at least hold no NaN."""
    fake = fake_cuda.install(monkeypatch)
    opened, window = Session(MODEL, "cuda", threads=1), np.zeros((30, 45, 45), np.float32)
    opened.run(window)

    def spoil(result):
        result[0, 0, 3, 4, 5] = np.nan

    fake.spoil = spoil
    with pytest.raises(DeviceError, match="difference of nan"):
        opened.run(window)


def test_windows_less_deep_than_the_volume_keep_to_their_memory(monkeypatch):
    """A mask of one slice in many: a voxel of a shallow window takes more than one of a deep one."""
    mask = np.zeros((200, 300, 300), bool)
    mask[100] = True
    network = Filter(device="cpu", backend="onnxruntime", threads=1)
    monkeypatch.setitem(apply.WINDOW_BYTES, "cpu", 40 * 2**20)
    windows = network.windows(mask.shape, mask)
    assert len(windows) > 1
    for window in windows:
        depth = window.take[0].stop - window.take[0].start
        assert window.voxels * apply.sliced_bytes(network.card, depth) <= 40 * 2**20


def test_more_threads_than_any_machine_has_are_refused(qctrun):
    assert qctrun("filter", "scan", "--threads", 1000).code == 2
    assert qctrun("doctor", "--threads", 1000).code == 2
    with pytest.raises(UsageError, match="from 1 to 256, got 1000"):
        Session(MODEL, "cpu", threads=1000)
