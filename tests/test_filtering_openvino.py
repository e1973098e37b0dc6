"""OpenVINO against onnxruntime, and what it must not do."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import filtering_models as models
import numpy as np
import pytest

from qctrun.runtime.errors import ModelError, RuntimeMissingError
from qctrun.runtime.filtering.engines.onnx_cpu import OnnxCpuEngine
from qctrun.runtime.filtering.engines.openvino_cpu import OpenVinoEngine
from qctrun.runtime.filtering.model import load_model

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

QUIET = """
import socket, sys
def refused(*words, **more):
    print("asked for the network", words)
    raise OSError
socket.getaddrinfo = socket.socket.connect = refused
import numpy as np
from qctrun.runtime.filtering.engines.openvino_cpu import OpenVinoEngine
from qctrun.runtime.filtering.model import load_model
OpenVinoEngine(load_model(), 1).run(np.zeros((3, 9, 9), np.float32))
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


@pytest.fixture(scope="module")
def engine():
    return OpenVinoEngine(load_model(), 2)


@pytest.fixture(scope="module")
def judge():
    return OnnxCpuEngine(load_model(), 2)


def noise(size, seed=0):
    return np.random.default_rng(seed).normal(200, 200, size).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 70), (9, 17, 17), (20, 40, 33), (9, 17, 17)])
def test_same_numbers(engine, judge, size):
    found, wanted = engine.run(noise(size)), judge.run(noise(size))
    assert found.dtype == np.float32 and found.shape == size
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_window_that_is_no_copy(engine, judge):
    """A window is a view of its volume."""
    view = noise((12, 30, 30))[2:10, 3:25, 4:28]
    wanted = judge.run(view)
    np.testing.assert_allclose(engine.run(view), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_results_stay(engine):
    first = engine.run(noise((5, 20, 20)))
    kept = first.copy()
    engine.run(noise((5, 20, 20), seed=1))
    assert np.array_equal(first, kept)


def test_threads(engine):
    windows = [noise((6, 20 + seed, 25), seed) for seed in range(8)]
    alone = [engine.run(window) for window in windows]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(engine.run, windows), alone, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_nothing_is_sent_and_nothing_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", QUIET], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert list(tmp_path.iterdir()) == []


def test_telemetry_of_others_stays(monkeypatch):
    """Only OpenVINO's own import does not find the package; the program around may have it."""
    monkeypatch.setitem(sys.modules, "openvino_telemetry", sys)
    OpenVinoEngine(models.loaded(models.nnsp()), 1)
    assert sys.modules["openvino_telemetry"] is sys


@pytest.mark.parametrize(
    "words", [{"shape": (1, 1, 8, "y", "x")}, {"shape": (1, "c", "z", "y", "x")}, {"kind": 11}]
)
def test_other_faces(words):
    node = models.helper.make_node("Relu", ["volume"], ["filtered"])
    with pytest.raises(ModelError, match="float32 \\(1, 1, z, y, x\\)"):
        OpenVinoEngine(models.loaded(models.model([node], **words)), 1)


def test_unknown_operation():
    node = models.helper.make_node("NoSuchThing", ["volume"], ["filtered"])
    with pytest.raises(ModelError, match="wanted ONNX"):
        OpenVinoEngine(models.loaded(models.model([node])), 1)


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissingError, match=r'pip install "qctrun\[openvino\]"'):
        OpenVinoEngine(load_model(), 1)


def test_a_signal_after_engines_are_gone_is_survived():
    """A core brings a stack for signals: of several that go in turn, none may leave one that is gone."""
    code = (
        "import gc, os, signal, sys\n"
        "from qctrun.runtime import Filter\n"
        "made = [Filter(device='cpu', backend='openvino', threads=1) for _ in range(3)]\n"
        "while made: del made[0]; gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('survived', flush=True))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "survived\n"), found.stderr
