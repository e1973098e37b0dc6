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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qctrun.runtime.filtering.network import Layer, Network, known, pads
from qctrun.runtime.filtering.nodes import Array, Draft

SHARED_FROM = 8
"""Channels in and out from which sharing pays for its additions."""

_END = 2**62
"""An end of a slice that lies beyond every axis."""

Crop = tuple[tuple[int, int], ...]
WHOLE: Crop = ((0, 0), (0, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class Part:
    """What is computed of a layer.

    Attributes
    ----------
    slices : range
        Of its result.
    low, high : (z, y, x)
        Zeros to put at either end; fewer than the layer reaches where its input goes on beyond what is wanted.
    """

    slices: range
    low: tuple[int, ...]
    high: tuple[int, ...]

    @property
    def pads(self) -> list[int]:
        """As a 2-D convolution takes them."""
        return [*self.low[1:], *self.high[1:]]


def flat(data: bytes, depth: int, crop: Crop = WHOLE) -> bytes | None:
    """The same network in 2-D convolutions, for windows of so many slices and any y and x.

    Each layer computes what the wanted part of the result needs of it and no more.

    Parameters
    ----------
    data : bytes
        A serialised ONNX model.
    depth : int
        Slices (z) of the windows.
    crop : three pairs, (z, y, x)
        Voxels at the low and the high end of each axis whose result is not wanted.

    Returns
    -------
    bytes or None
        A serialised model with the same faces, the result without `crop`; None when the graph is not one of
        the known form.
    """
    network = known(data)
    if network is None:
        return None
    draft = Draft()
    layers, parts = _with_scales(network), _parts(network.layers, depth, crop)
    slices = _first(draft, network, layers[0], parts[0], crop)
    for layer, part in zip(layers[1:], parts[1:], strict=True):
        slices = _layer(draft, {z: draft.put("Relu", one) for z, one in slices.items()}, layer, part)
    stack = draft.put("Concat", *slices.values(), axis=1)
    kept = _cropped(draft, network.source, crop, first_axis=2)
    _finish(draft, network, draft.put("Unsqueeze", stack, draft.numbers(0)), kept)
    sides = ("y", "x") if crop[1:] == WHOLE[1:] else ("y_kept", "x_kept")
    return draft.model(network.source, network.target, (depth, "y", "x"), (len(slices), *sides))


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
    network = known(data)
    if network is None:
        return None
    draft = Draft()
    value = draft.put("Mul", network.source, draft.constant(np.array(network.before, np.float32)))
    value = draft.put("Cast", value, to=10)
    for index, layer in enumerate(network.layers):
        value = draft.put("Relu", value) if index else value
        names = [draft.constant(part.astype(np.float16)) for part in (layer.weights, layer.biases)]
        value = draft.put("Conv", value, *names, pads=pads(layer.weights.shape[2:]))
    value = draft.put("Cast", value, to=1)
    value = draft.put("Mul", value, draft.constant(np.array(network.after, np.float32)))
    _finish(draft, network, value, network.source)
    return draft.model(network.source, network.target)


def _with_scales(network: Network) -> list[Layer]:
    """The layers with the scales in the weights of the outer ones, which spares two walks over a window."""
    layers = list(network.layers)
    layers[0] = layers[0].times(network.before, 1.0)
    layers[-1] = layers[-1].times(1.0, network.after)
    return layers


def _parts(layers: Sequence[Layer], depth: int, crop: Crop) -> list[Part]:
    """What the wanted part of the result needs of each layer."""
    found = []
    for index, layer in enumerate(layers):
        later = _reach(layers[index + 1 :])
        # Voxels at each end that nobody asks for; zeros are put where the layer reaches beyond the window.
        unasked = [[max(0, cut - far) for cut in cuts] for cuts, far in zip(crop, later, strict=True)]
        zeros = [
            [max(0, own - end) for end in ends] for ends, own in zip(unasked, _reach([layer]), strict=True)
        ]
        low, high = zip(*zeros, strict=True)
        found.append(Part(range(unasked[0][0], depth - unasked[0][1]), low, high))
    return found


def _reach(layers: Sequence[Layer]) -> list[int]:
    """How far (z, y, x) a voxel of the result sees through all these layers."""
    return [sum(layer.weights.shape[axis] // 2 for layer in layers) for axis in (2, 3, 4)]


def _cropped(draft: Draft, value: str, crop: Crop, first_axis: int) -> str:
    """A value without these voxels at both ends of its last axes."""
    if not any(map(any, crop)):
        return value
    starts = draft.numbers(*(low for low, _ in crop))
    ends = draft.numbers(*(-high or _END for _, high in crop))
    return draft.put("Slice", value, starts, ends, draft.numbers(*range(first_axis, first_axis + len(crop))))


def _finish(draft: Draft, network: Network, value: str, source: str) -> None:
    """Add the input, as far as it is wanted, where the network does."""
    if network.residual:
        draft.put("Add", value, source, out=network.target)
    else:
        draft.put("Identity", value, out=network.target)


def _first(draft: Draft, network: Network, layer: Layer, part: Part, crop: Crop) -> dict[int, str]:
    """The first layer: the slices that an output sees are the channels of its input."""
    taps = layer.weights.shape[2]
    unseen = [
        [max(0, cut - far) for cut in cuts] for cuts, far in zip(crop, _reach(network.layers), strict=True)
    ]
    stack = draft.put("Squeeze", network.source, draft.numbers(0))
    stack = _cropped(draft, stack, tuple((low, high) for low, high in unseen[1:]), first_axis=2)
    if part.low[0] or part.high[0]:
        stack = draft.put("Pad", stack, draft.numbers(0, part.low[0], 0, 0, 0, part.high[0], 0, 0))
    axis, found = draft.numbers(1), {}
    for z in part.slices:
        first = z - taps // 2 + part.low[0]
        seen = draft.put("Slice", stack, draft.numbers(first), draft.numbers(first + taps), axis)
        found[z] = _conv(draft, seen, part, layer.weights[:, 0], layer.biases)
    return found


def _layer(draft: Draft, slices: dict[int, str], layer: Layer, part: Part) -> dict[int, str]:
    outputs, inputs, taps = layer.weights.shape[:3]
    if outputs == 1:
        return _folded(draft, slices, layer, part)
    found: dict[int, str] = {}
    if taps == 3 and min(outputs, inputs) >= SHARED_FROM:
        for z in part.slices[: len(part.slices) // 2 * 2 : 2]:
            found[z], found[z + 1] = _pair(draft, slices, z, layer, part)
    rest = part.slices[len(found) :]
    return {**found, **{z: _summed(draft, slices, z, layer, part) for z in rest}}


def _summed(draft: Draft, slices: dict[int, str], z: int, layer: Layer, part: Part) -> str:
    """One slice of the result: the slices around, each through its own part of the weights."""
    middle = layer.weights.shape[2] // 2
    total = _conv(draft, slices[z], part, layer.weights[:, :, middle], layer.biases)
    for tap in range(layer.weights.shape[2]):
        one = slices.get(z + tap - middle)
        if one is not None and tap != middle:
            total = draft.put("Add", _conv(draft, one, part, layer.weights[:, :, tap]), total)
    return total


def _pair(draft: Draft, slices: dict[int, str], z: int, layer: Layer, part: Part) -> tuple[str, str]:
    """Slices z and z + 1 of the result by four convolutions; see the head of this file."""
    d = [slices.get(z + step) for step in (-1, 0, 1, 2)]
    g0, g1, g2 = (layer.weights[:, :, tap].astype(np.float64) for tap in range(3))
    m0 = _conv(draft, _difference(draft, d[0], d[2]), part, g0)
    m1 = _conv(draft, draft.put("Add", slices[z], slices[z + 1]), part, (g0 + g1 + g2) / 2, layer.biases)
    m2 = _conv(draft, _difference(draft, d[2], d[1]), part, (g0 - g1 + g2) / 2)
    less_m3 = _conv(draft, _difference(draft, d[1], d[3]), part, -g2)
    first = draft.put("Add", m0, draft.put("Add", m1, m2))
    return first, draft.put("Add", less_m3, draft.put("Sub", m1, m2))


def _folded(draft: Draft, slices: dict[int, str], layer: Layer, part: Part) -> dict[int, str]:
    """A layer of one output: a convolution computes as many as it can at once, so its taps are its outputs."""
    taps = layer.weights.shape[2]
    weights = np.moveaxis(layer.weights[0], 1, 0)
    split = {}
    for z, one in slices.items():
        each = _conv(draft, one, part, weights)
        split[z] = draft.put_many("Split", each, out=taps, axis=1, num_outputs=taps) if taps > 1 else [each]
    biases = draft.constant(layer.biases.reshape(1, 1, 1, 1))
    found = {}
    for z in part.slices:
        near = [(z + tap - taps // 2, tap) for tap in range(taps)]
        found[z] = draft.put("Sum", *(split[at][tap] for at, tap in near if at in split), biases)
    return found


def _conv(draft: Draft, value: str, part: Part, weights: Array, biases: Array | None = None) -> str:
    """A 2-D convolution with the zeros that this part wants; weights (out, in, y, x)."""
    names = [draft.constant(weights.astype(np.float32))]
    names += [] if biases is None else [draft.constant(biases)]
    return draft.put("Conv", value, *names, pads=part.pads)


def _difference(draft: Draft, one: str | None, other: str | None) -> str:
    """one - other, where None is a slice of zeros; never both."""
    if other is None:
        assert one is not None
        return one
    return draft.put("Neg", other) if one is None else draft.put("Sub", one, other)
