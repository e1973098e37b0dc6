"""The same network as other graphs, which a library computes faster than the one that was exported.

`flat` writes each 3-D convolution as 2-D convolutions of the slices, each slice a value of its own: onnxruntime
has its fast layout for 2-D only, needs no copy to shift slices that way, and gives a slice's memory back as soon
as the next ones are through. Two neighbouring slices of a convolution three slices deep share work (Winograd's
F(2, 3) along z): with g the weights and d the four slices that they see,

    m0 = g0 (d0 - d2)                       out0 = m0 + m1 + m2
    m1 = (g0 + g1 + g2) / 2 (d1 + d2)       out1 = m1 - m2 - m3
    m2 = (g0 - g1 + g2) / 2 (d2 - d1)
    m3 = g2 (d1 - d3)

four 2-D convolutions instead of six, exact but for rounding.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qctrun.runtime.filtering.nodes import Array, Draft, Graph, Node, read

SHARED_FROM = 8
"""Channels in and out from which sharing pays for its additions."""

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


def flat(data: bytes, depth: int) -> bytes | None:
    """The same network in 2-D convolutions, for windows of so many slices and any y and x.

    Parameters
    ----------
    data : bytes
        A serialised ONNX model.
    depth : int
        Slices (z) of the windows.

    Returns
    -------
    bytes or None
        A serialised model with the same faces; None when the graph is not one of the known form.
    """
    network = _known(data)
    if network is None:
        return None
    draft = Draft()
    layers = _with_scales(network)
    slices = _first(draft, network.source, layers[0], depth)
    for layer in layers[1:]:
        slices = _layer(draft, [draft.put("Relu", one) for one in slices], layer)
    stack = draft.put("Concat", *slices, axis=1)
    _finish(draft, network, draft.put("Unsqueeze", stack, draft.numbers(0)))
    return draft.model(network.source, network.target, depth)


def half(data: bytes) -> bytes | None:
    """The same network with its convolutions in half precision; scaling and the sum with the input stay fp32.

    Parameters
    ----------
    data : bytes
        A serialised ONNX model.

    Returns
    -------
    bytes or None
        A serialised model with the same float32 faces; None when the graph is not one of the known form.
    """
    network = _known(data)
    if network is None:
        return None
    draft = Draft()
    value = draft.put("Mul", network.source, draft.constant(np.array(network.before, np.float32)))
    value = draft.put("Cast", value, to=10)
    for index, layer in enumerate(network.layers):
        value = draft.put("Relu", value) if index else value
        names = [draft.constant(part.astype(np.float16)) for part in (layer.weights, layer.biases)]
        value = draft.put("Conv", value, *names, pads=_pads(layer.weights.shape[2:]))
    value = draft.put("Cast", value, to=1)
    value = draft.put("Mul", value, draft.constant(np.array(network.after, np.float32)))
    _finish(draft, network, value)
    return draft.model(network.source, network.target)


def _known(data: bytes) -> Network | None:
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
        "pads": _pads(weights.shape[2:]),
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


def _pads(sides: Sequence[int]) -> list[int]:
    return [side // 2 for side in sides] * 2


def _with_scales(network: Network) -> list[Layer]:
    """The layers with the scales in the weights of the outer ones, which spares two walks over a window."""
    layers = list(network.layers)
    layers[0] = layers[0].times(network.before, 1.0)
    layers[-1] = layers[-1].times(1.0, network.after)
    return layers


def _finish(draft: Draft, network: Network, value: str) -> None:
    if network.residual:
        draft.put("Add", value, network.source, out=network.target)
    else:
        draft.put("Identity", value, out=network.target)


def _first(draft: Draft, source: str, layer: Layer, depth: int) -> list[str]:
    """The first layer: the slices that an output sees are the channels of its input."""
    taps = layer.weights.shape[2]
    stack = draft.put("Squeeze", source, draft.numbers(0))
    if taps > 1:
        stack = draft.put("Pad", stack, draft.numbers(0, taps // 2, 0, 0, 0, taps // 2, 0, 0))
    axis = draft.numbers(1)
    seen = [draft.put("Slice", stack, draft.numbers(z), draft.numbers(z + taps), axis) for z in range(depth)]
    return [_conv(draft, one, layer.weights[:, 0], layer.biases) for one in seen]


def _layer(draft: Draft, slices: list[str], layer: Layer) -> list[str]:
    outputs, inputs, taps = layer.weights.shape[:3]
    if outputs == 1:
        return _folded(draft, slices, layer)
    shared = len(slices) // 2 * 2 if taps == 3 and min(outputs, inputs) >= SHARED_FROM else 0
    found = [one for z in range(0, shared, 2) for one in _pair(draft, slices, z, layer)]
    return found + [_summed(draft, slices, z, layer) for z in range(shared, len(slices))]


def _summed(draft: Draft, slices: list[str], z: int, layer: Layer) -> str:
    """One slice of the result: the slices around, each through its own part of the weights."""
    total = _conv(draft, slices[z], layer.weights[:, :, _middle(layer)], layer.biases)
    for tap in range(layer.weights.shape[2]):
        one = _at(slices, z + tap - _middle(layer))
        if one is not None and tap != _middle(layer):
            total = draft.put("Add", _conv(draft, one, layer.weights[:, :, tap]), total)
    return total


def _pair(draft: Draft, slices: list[str], z: int, layer: Layer) -> tuple[str, str]:
    """Slices z and z + 1 of the result by four convolutions; see the head of this file."""
    d = [_at(slices, z + step) for step in (-1, 0, 1, 2)]
    g0, g1, g2 = (layer.weights[:, :, tap].astype(np.float64) for tap in range(3))
    m0 = _conv(draft, _difference(draft, d[0], d[2]), g0)
    m1 = _conv(draft, draft.put("Add", slices[z], slices[z + 1]), (g0 + g1 + g2) / 2, layer.biases)
    m2 = _conv(draft, _difference(draft, d[2], d[1]), (g0 - g1 + g2) / 2)
    less_m3 = _conv(draft, _difference(draft, d[1], d[3]), -g2)
    first = draft.put("Add", m0, draft.put("Add", m1, m2))
    return first, draft.put("Add", less_m3, draft.put("Sub", m1, m2))


def _folded(draft: Draft, slices: list[str], layer: Layer) -> list[str]:
    """A layer of one output: a convolution computes as many as it can at once, so its taps are its outputs."""
    taps = layer.weights.shape[2]
    weights = np.moveaxis(layer.weights[0], 1, 0)
    together = [_conv(draft, one, weights) for one in slices]
    split = [
        draft.put_many("Split", one, out=taps, axis=1, num_outputs=taps) if taps > 1 else [one]
        for one in together
    ]
    biases = draft.constant(layer.biases.reshape(1, 1, 1, 1))
    found = []
    for z in range(len(slices)):
        near = [(z + tap - taps // 2, tap) for tap in range(taps)]
        parts = [split[at][tap] for at, tap in near if 0 <= at < len(slices)]
        found.append(draft.put("Sum", *parts, biases))
    return found


def _conv(draft: Draft, value: str, weights: Array, biases: Array | None = None) -> str:
    """A 2-D convolution that keeps the size; weights (out, in, y, x)."""
    names = [draft.constant(weights.astype(np.float32))]
    names += [] if biases is None else [draft.constant(biases)]
    return draft.put("Conv", value, *names, pads=_pads(weights.shape[2:]))


def _difference(draft: Draft, one: str | None, other: str | None) -> str:
    """one - other, where None is a slice of zeros; never both."""
    if other is None:
        assert one is not None
        return one
    return draft.put("Neg", other) if one is None else draft.put("Sub", one, other)


def _at(slices: list[str], z: int) -> str | None:
    """A slice, or None outside of the window, where zeros are padded."""
    return slices[z] if 0 <= z < len(slices) else None


def _middle(layer: Layer) -> int:
    return int(layer.weights.shape[2] // 2)
