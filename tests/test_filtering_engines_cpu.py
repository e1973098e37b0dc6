"""Engines of onnxruntime on the CPU: the judge, and the graph in 2-D convolutions."""

from concurrent.futures import ThreadPoolExecutor

import filtering_models as models
import numpy as np
import pytest

from qctrun.runtime.errors import ModelError
from qctrun.runtime.filtering import graph
from qctrun.runtime.filtering.engines import onnx_flat
from qctrun.runtime.filtering.engines.onnx_cpu import OnnxCpuEngine
from qctrun.runtime.filtering.engines.onnx_flat import OnnxFlatEngine

pytest.importorskip("onnxruntime")
MODEL = models.loaded(models.nnsp())
SIZES = ((1, 1, 1), (2, 30, 20), (7, 20, 30), (3, 5, 4), (11, 9, 9), (2, 8, 8))


def noise(size):
    return np.random.default_rng(0).normal(200, 200, size).astype(np.float32)


def judged(window):
    return OnnxCpuEngine(MODEL, 1).run(window)


def test_flat_engine_for_any_depth():
    engine = OnnxFlatEngine(MODEL, 1)
    for size in SIZES:
        expected = judged(noise(size))
        np.testing.assert_allclose(
            engine.run(noise(size)), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )


def test_flat_engine_keeps_the_last_depths(monkeypatch):
    made = []
    monkeypatch.setattr(onnx_flat, "KEPT", 2)
    flat = graph.flat
    monkeypatch.setattr(
        graph, "flat", lambda data, depth, crop: made.append(depth) or flat(data, depth, crop)
    )
    engine = OnnxFlatEngine(MODEL, 1)
    for depth in (1, 2, 1, 3, 1, 2):
        engine.run(noise((depth, 4, 4)))
    assert made == [1, 2, 3, 2]


def test_flat_engine_gives_back_what_is_kept():
    """Of windows of one depth, whichever part is asked for."""
    engine, window = OnnxFlatEngine(MODEL, 1), noise((12, 21, 23))
    expected = judged(window)
    inner, edge = (slice(4, 8), slice(8, 13), slice(8, 15)), (slice(0, 3), slice(9, 21), slice(5, 6))
    for keep in (inner, edge, None, inner):
        wanted = expected[keep] if keep else expected
        np.testing.assert_allclose(
            engine.run(window, keep), wanted, rtol=0, atol=1e-5 * np.abs(expected).max()
        )


def test_flat_engine_from_several_threads():
    engine = OnnxFlatEngine(MODEL, 1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda size: engine.run(noise(size)), SIZES * 3))
    for size, result in zip(SIZES * 3, found, strict=True):
        assert np.allclose(result, judged(noise(size)), rtol=0, atol=1e-4)


def test_flat_engine_of_another_graph():
    node = models.helper.make_node("Tanh", ["volume"], ["filtered"])
    engine = OnnxFlatEngine(models.loaded(models.model([node])), 1)
    with pytest.raises(ModelError, match=r"test\.onnx"):
        engine.run(noise((1, 1, 1)))


def test_judge_refuses_another_size():
    weights = [models.tensor("w", np.ones((1, 1, 3, 3, 3)))]
    valid = models.model([models.helper.make_node("Conv", ["volume", "w"], ["filtered"])], weights)
    with pytest.raises(ModelError, match=r"wanted a result of the input's size, got \(3, 3, 3\)"):
        OnnxCpuEngine(models.loaded(valid), 1).run(noise((5, 5, 5)))
