"""What an exported graph computes, where it is a network of the known form."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qctrun.runtime.filtering.nodes import Array, Graph, Node, read

_LETTERS = {"Div": "s", "Mul": "s", "Conv": "c", "Relu": "r", "Add": "a"}
_FORM = re.compile(r"s*(cr)*cs*a?")
"""Scaling, convolutions with ReLU between them, scaling, and the input added to the result."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution: weights (out, in, z, y, x) and biases (out)."""

    weights: Array
    biases: Array

    def times(self, before: float, after: float) -> "Layer":
        """The layer with factors on what goes in and on what comes out."""
        weights = self.weights.astype(np.float64) * (before * after)
        biases = self.biases.astype(np.float64) * after
        return Layer(weights.astype(np.float32), biases.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Network:
    """What a known graph computes: after * (layers with ReLU between)(before * input) [+ input]."""

    source: str
    target: str
    before: float
    layers: tuple[Layer, ...]
    after: float
    residual: bool


def known(data: bytes) -> Network | None:
    """What the graph computes, where it is one chain of the known form."""
    try:
        graph = read(data)
    except (ValueError, IndexError):
        return None
    form = "".join(_LETTERS.get(node.kind, "?") for node in graph.nodes)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 or not _FORM.fullmatch(form):
        return None
    if not _is_chain(graph):
        return None
    first, last = form.index("c"), form.rindex("c")
    layers = [_convolution(graph, node) for node in graph.nodes if node.kind == "Conv"]
    before, after = _product(graph, graph.nodes[:first]), _product(graph, graph.nodes[last + 1 :])
    if before is None or after is None or None in layers:
        return None
    found = tuple(layer for layer in layers if layer is not None)
    if found[0].weights.shape[1] != 1 or found[-1].weights.shape[0] != 1:
        return None
    return Network(graph.inputs[0], graph.outputs[0], before, found, after, form.endswith("a"))


def pads(sides: Sequence[int]) -> list[int]:
    """Zeros at both ends of each axis with which a convolution of these sides keeps the size."""
    return [side // 2 for side in sides] * 2


def _is_chain(graph: Graph) -> bool:
    """Whether each node takes what the one before gives, and a sum at the end takes the input besides."""
    value = graph.inputs[0]
    for node in graph.nodes:
        taken = node.inputs if node.kind in ("Add", "Mul") else node.inputs[:1]
        if value not in taken or len(node.outputs) != 1:
            return False
        if node.kind == "Add" and sorted(node.inputs) != sorted((value, graph.inputs[0])):
            return False
        value = node.outputs[0]
    return value == graph.outputs[0]


def _convolution(graph: Graph, node: Node) -> Layer | None:
    """The layer of a node that keeps the size, or None."""
    weights = graph.weights.get(node.inputs[1])
    if weights is None or weights.ndim != 5 or weights.dtype != np.float32:
        return None
    biases = graph.weights.get(node.inputs[2]) if node.inputs[2:] else np.zeros(len(weights), np.float32)
    wanted = {
        "pads": pads(weights.shape[2:]),
        "strides": [1, 1, 1],
        "dilations": [1, 1, 1],
        "group": [1],
        "kernel_shape": list(weights.shape[2:]),
        "auto_pad": "NOTSET",
    }
    same = all(wanted.get(name) == value for name, value in node.attributes.items())
    odd = all(side % 2 for side in weights.shape[2:])
    padded = "pads" in node.attributes or not any(wanted["pads"])
    return Layer(weights, biases) if same and odd and padded and biases is not None else None


def _product(graph: Graph, nodes: Sequence[Node]) -> float | None:
    """By what these nodes scale in all; None where one is no number."""
    product = 1.0
    for node in nodes:
        if node.kind == "Add":
            continue
        constant = [name in graph.weights and graph.weights[name].size == 1 for name in node.inputs]
        if sum(constant) != 1 or (node.kind == "Div" and constant[0]):
            return None
        factor = float(graph.weights[node.inputs[constant.index(True)]].reshape(()))
        product *= factor if node.kind == "Mul" else 1 / factor
    return product if math.isfinite(product) else None
