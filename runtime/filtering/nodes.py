"""ONNX graphs as plain values: the nodes and weights of one that is read, and a draft of one to be written.

Only what a graph of convolutions needs is known here; field numbers are those of onnx.proto.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.filtering import wire

IR_VERSION, OPSET = 10, 18
MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSET = 1, 7, 8
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_NAME, GRAPH_TENSOR, GRAPH_INPUT, GRAPH_OUTPUT = 1, 2, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_KIND, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_NUMBER, ATTRIBUTE_TEXT, ATTRIBUTE_NUMBERS, ATTRIBUTE_KIND = 1, 3, 4, 8, 20
KIND_NUMBER, KIND_NUMBERS = 2, 7
TENSOR_SIZE, TENSOR_KIND, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
FACE_NAME, FACE_TYPE, TYPE_TENSOR, TYPE_KIND, TYPE_SHAPE, SHAPE_SIDE, SIDE_NUMBER, SIDE_NAME = (
    1, 2, 1, 1, 2, 1, 1, 2,
)  # fmt: skip
KINDS: dict[np.dtype[Any], int] = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.float16): 10}
"""ONNX's numbers of the element types."""

Array = npt.NDArray[Any]
Sides = tuple[int | str, ...]
FREE: Sides = ("z", "y", "x")


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a graph: its kind, the names that go in and out, and its numbers and words."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, list[int] | str]


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph that has been read: nodes in order, weights by name, names of its inputs and outputs."""

    nodes: tuple[Node, ...]
    weights: Mapping[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read(data: bytes) -> Graph:
    """The graph of a serialised model; weights that are kept in another way than as raw bytes are left out.

    Raises
    ------
    ValueError
        When the bytes are no model.
    """
    parts = [part for outer in wire.fields(data) if outer.number == MODEL_GRAPH for part in _parts(outer)]
    weights = [_weight(part.payload) for part in parts if part.number == GRAPH_TENSOR]
    faces = {
        number: tuple(_texts(part.payload, FACE_NAME)[0] for part in parts if part.number == number)
        for number in (GRAPH_INPUT, GRAPH_OUTPUT)
    }
    nodes = tuple(_node(part.payload) for part in parts if part.number == GRAPH_NODE)
    return Graph(nodes, dict(filter(None, weights)), faces[GRAPH_INPUT], faces[GRAPH_OUTPUT])


@dataclass(slots=True)
class Draft:
    """A graph that grows node by node and is then written."""

    _nodes: list[bytes] = field(default_factory=list)
    _tensors: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _names: int = 0

    def put(self, kind: str, *inputs: str, out: str | None = None, **attributes: int | Sequence[int]) -> str:
        """Add a node of one output; its name, `out` or a new one, is given back."""
        return self.put_many(kind, *inputs, out=[out or self._name()], **attributes)[0]

    def put_many(
        self, kind: str, *inputs: str, out: Sequence[str] | int, **attributes: int | Sequence[int]
    ) -> list[str]:
        """Add a node of several outputs, which are named here or are so many new ones."""
        outputs = [self._name() for _ in range(out)] if isinstance(out, int) else list(out)
        parts = [wire.text_field(NODE_INPUT, name) for name in inputs]
        parts += [wire.text_field(NODE_OUTPUT, name) for name in outputs]
        parts += [wire.text_field(NODE_KIND, kind)]
        parts += [wire.text_field(NODE_ATTRIBUTE, _attribute(*pair)) for pair in attributes.items()]
        self._nodes.append(b"".join(parts))
        return outputs

    def constant(self, values: Array) -> str:
        """The name of these numbers, which are kept once however often they are asked for."""
        array = np.ascontiguousarray(values).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        return self._tensors.setdefault(key, f"k{len(self._tensors)}")

    def numbers(self, *values: int) -> str:
        """The name of a row of whole numbers, as axes and ends of slices are given."""
        return self.constant(np.array(values, np.int64))

    def model(self, source: str, target: str, given: Sides = FREE, found: Sides = FREE) -> bytes:
        """The serialised model, from `source` to `target`, float32 (1, 1, z, y, x) both; words are any number."""
        parts = [wire.text_field(GRAPH_NODE, node) for node in self._nodes]
        parts += [wire.text_field(GRAPH_NAME, "qctrun")]
        parts += [wire.text_field(GRAPH_TENSOR, _tensor(key, name)) for key, name in self._tensors.items()]
        parts += [wire.text_field(GRAPH_INPUT, _face(source, given))]
        parts += [wire.text_field(GRAPH_OUTPUT, _face(target, found))]
        opset = wire.text_field(OPSET_DOMAIN, "") + wire.number_field(OPSET_VERSION, OPSET)
        return (
            wire.number_field(MODEL_IR_VERSION, IR_VERSION)
            + wire.text_field(MODEL_GRAPH, b"".join(parts))
            + wire.text_field(MODEL_OPSET, opset)
        )

    def _name(self) -> str:
        self._names += 1
        return f"v{self._names}"


def _parts(outer: wire.Field) -> list[wire.Field]:
    return list(wire.fields(outer.payload))


def _texts(message: bytes, number: int) -> list[str]:
    return [part.payload.decode() for part in wire.fields(message) if part.number == number]


def _numbers(message: bytes, number: int) -> list[int]:
    found = [part for part in wire.fields(message) if part.number == number]
    return [value for part in found for value in wire.numbers(part.payload)]


def _node(message: bytes) -> Node:
    attributes = [part.payload for part in wire.fields(message) if part.number == NODE_ATTRIBUTE]
    return Node(
        kind=_texts(message, NODE_KIND)[0],
        inputs=tuple(_texts(message, NODE_INPUT)),
        outputs=tuple(_texts(message, NODE_OUTPUT)),
        attributes={_texts(item, ATTRIBUTE_NAME)[0]: _value(item) for item in attributes},
    )


def _value(attribute: bytes) -> list[int] | str:
    """A word as text; a number, or several, as a list."""
    if words := _texts(attribute, ATTRIBUTE_TEXT):
        return words[0]
    return _numbers(attribute, ATTRIBUTE_NUMBER) + _numbers(attribute, ATTRIBUTE_NUMBERS)


def _weight(message: bytes) -> tuple[str, Array] | None:
    raw = [part.payload for part in wire.fields(message) if part.number == TENSOR_RAW]
    kinds: dict[int, np.dtype[Any]] = {number: dtype for dtype, number in KINDS.items()}
    dtype = kinds.get((_numbers(message, TENSOR_KIND) or [0])[0])
    if dtype is None or len(raw) != 1:
        return None
    array = np.frombuffer(raw[0], dtype.newbyteorder("<")).astype(dtype)
    return _texts(message, TENSOR_NAME)[0], array.reshape(_numbers(message, TENSOR_SIZE))


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        body, kind = wire.number_field(ATTRIBUTE_NUMBER, value), KIND_NUMBER
    else:
        body, kind = b"".join(wire.number_field(ATTRIBUTE_NUMBERS, n) for n in value), KIND_NUMBERS
    return wire.text_field(ATTRIBUTE_NAME, name) + body + wire.number_field(ATTRIBUTE_KIND, kind)


def _tensor(key: tuple[str, tuple[int, ...], bytes], name: str) -> bytes:
    dtype, shape, raw = key
    return (
        b"".join(wire.number_field(TENSOR_SIZE, n) for n in shape)
        + wire.number_field(TENSOR_KIND, KINDS[np.dtype(dtype)])
        + wire.text_field(TENSOR_NAME, name)
        + wire.text_field(TENSOR_RAW, raw)
    )


def _face(name: str, sides: Sides) -> bytes:
    shape = b"".join(wire.text_field(SHAPE_SIDE, _side(side)) for side in (1, 1, *sides))
    tensor = wire.number_field(TYPE_KIND, KINDS[np.dtype(np.float32)]) + wire.text_field(TYPE_SHAPE, shape)
    return wire.text_field(FACE_NAME, name) + wire.text_field(FACE_TYPE, wire.text_field(TYPE_TENSOR, tensor))


def _side(side: int | str) -> bytes:
    return wire.text_field(SIDE_NAME, side) if isinstance(side, str) else wire.number_field(SIDE_NUMBER, side)
