"""Small ONNX models for the tests, built without torch."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qctrun.runtime.filtering.model import Model, ModelCard, parse_model, with_card

KERNELS = ((3, 5, 5), (3, 5, 5), (1, 3, 3), (3, 3, 3), (1, 3, 3), (3, 3, 3))
FREE = (1, 1, "z", "y", "x")


def nnsp(channels: Sequence[int] = (4, 4, 2, 2, 4), *, seed: int = 0) -> onnx.ModelProto:
    """The layers of NNSP with random weights; large biases make the zero padding visible at the border."""
    random = np.random.default_rng(seed)
    weights, value = [tensor("scale", 1 / 300)], "v0"
    nodes = [helper.make_node("Mul", ["volume", "scale"], [value])]
    for index, ((before, after), kernel) in enumerate(zip(pairwise((1, *channels, 1)), KERNELS, strict=True)):
        fan = before * np.prod(kernel)
        w = random.standard_normal((after, before, *kernel)) * np.sqrt(2 / fan)
        weights += [tensor(f"w{index}", w), tensor(f"b{index}", random.uniform(0.2, 1, after))]
        pads = [k // 2 for k in kernel] * 2
        last = index == len(KERNELS) - 1
        out = "filtered" if last else f"c{index}"
        nodes.append(helper.make_node("Conv", [value, f"w{index}", f"b{index}"], [out], pads=pads))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"v{index + 1}"]))
            value = f"v{index + 1}"
    return model(nodes, weights)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    shape: Sequence[int | str] = FREE,
    result: Sequence[int | str] | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model from "volume" to "filtered"."""
    faces = [
        helper.make_tensor_value_info(name, kind, dims)
        for name, dims in (("volume", shape), ("filtered", result or shape))
    ]
    graph = helper.make_graph(list(nodes), "test", faces[:1], faces[1:], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def tensor(name: str, values: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def card(channels: Sequence[int] = (4, 4, 2, 2, 4), **changes: object) -> ModelCard:
    values = {"name": "test", "version": "1", "spacing_mm": (0.34, 0.172, 0.172), "channels": tuple(channels)}
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


def save(path: Path, proto: onnx.ModelProto, a_card: ModelCard | None = None) -> Path:
    path.write_bytes(with_card(proto.SerializeToString(), a_card or card()))
    return path


def loaded(proto: onnx.ModelProto, a_card: ModelCard | None = None) -> Model:
    return parse_model(with_card(proto.SerializeToString(), a_card or card()), Path("test.onnx"))
