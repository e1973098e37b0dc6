"""The graph in 2-D convolutions and the one in half precision against the graph as exported."""

from collections import Counter
from functools import cache
from itertools import product

import filtering_models as models
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from qctrun.runtime.filtering import graph, nodes
from qctrun.runtime.filtering.model import shipped_model

onnxruntime = pytest.importorskip("onnxruntime")
SHIPPED = shipped_model().read_bytes()
SHARED = models.nnsp((8, 8, 8, 8, 9)).SerializeToString()
"""Wide enough for pairs of slices to share work in every layer three slices deep."""


def noise(size, seed=0):
    return np.random.default_rng(seed).normal(200, 200, size).astype(np.float32)


def run(data, volume):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: volume[None, None]})[0][0, 0]


@cache
def flat(data, depth, crop=graph.WHOLE):
    found = graph.flat(data, depth, crop)
    onnx.checker.check_model(onnx.load_from_string(found), full_check=True)
    return found


def difference(found, wanted):
    assert found.shape == wanted.shape and found.dtype == np.float32
    return np.max(np.abs(found - wanted)) / np.max(np.abs(wanted))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([SHIPPED, SHARED, models.nnsp().SerializeToString()]),
    st.tuples(st.integers(1, 14), st.integers(1, 30), st.integers(1, 30)),
)
def test_flat_is_the_same(data, size):
    volume = noise(size)
    assert difference(run(flat(data, size[0]), volume), run(data, volume)) < 2e-6


def check_cropped(data, size, crop):
    """The part that is kept is what the exported graph computes there."""
    volume = noise(size)
    keep = tuple(slice(low, n - high) for (low, high), n in zip(crop, size, strict=True))
    found = run(flat(data, size[0], crop), volume)
    wanted = run(data, volume)
    assert found.shape == wanted[keep].shape
    assert np.max(np.abs(found - wanted[keep])) < 2e-6 * np.max(np.abs(wanted))


@pytest.mark.parametrize("inner", list(product((False, True), repeat=6)))
def test_each_inner_side_is_cropped(inner):
    halo = np.repeat((4, 8, 8), 2) * inner
    check_cropped(SHARED, (11, 19, 21), tuple((int(low), int(high)) for low, high in halo.reshape(3, 2)))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([SHIPPED, SHARED, models.nnsp().SerializeToString()]),
    st.tuples(*[st.tuples(st.integers(0, 11), st.integers(1, 9), st.integers(0, 11))] * 3),
)
def test_any_part_may_be_kept(data, sides):
    """More or less than the halo is cropped, and windows are smaller than it."""
    size = tuple(map(sum, sides))
    check_cropped(data, size, tuple((low, high) for low, _, high in sides))


def test_nothing_is_computed_that_is_not_kept():
    """Values of each layer as large as the halo that is left to go, and no larger."""
    size, crop = (13, 30, 31), ((4, 4), (8, 8), (8, 8))
    proto = onnx.load_from_string(flat(SHARED, size[0], crop))
    convolutions = [node.output[0] for node in proto.graph.node if node.op_type == "Conv"]
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in convolutions)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: noise(size)[None, None]})
    counts = Counter(value.shape[2:] for value in found)
    # Slices 11, 9 (2 to a pair of 4, and 3 for the odd one), 9, 7 (likewise), 7, 7 (one for each that goes in).
    assert counts == {(26, 27): 11, (22, 23): 19, (20, 21): 9, (18, 19): 15, (16, 17): 7, (14, 15): 7}


def test_flat_has_2d_convolutions_only_and_fewer_of_them():
    found = nodes.read(flat(SHARED, 8))
    weights = [found.weights[node.inputs[1]] for node in found.nodes if node.kind == "Conv"]
    assert {weight.ndim for weight in weights} == {4}
    # Per slice: layers one, three, five and six take one convolution each; two and four share, two instead of three.
    assert len(weights) == 8 * (4 + 2 * 2)


def test_faces_stay():
    found = onnx.load_from_string(flat(SHIPPED, 5)).graph
    exported = onnx.load_from_string(SHIPPED).graph
    for one, other in ((found.input[0], exported.input[0]), (found.output[0], exported.output[0])):
        assert one.name == other.name
        sides = [side.dim_value or side.dim_param for side in one.type.tensor_type.shape.dim]
        assert sides == [1, 1, 5, "y", "x"]


def test_kernel_five_slices_deep():
    data = changed(lambda proto: deepen(proto, "w1", (5, 3, 3))).SerializeToString()
    for depth in (1, 2, 7):
        volume = noise((depth, 9, 11))
        assert difference(run(flat(data, depth), volume), run(data, volume)) < 2e-6


def test_half():
    volume = noise((9, 30, 30))
    found = graph.half(SHIPPED)
    onnx.checker.check_model(onnx.load_from_string(found), full_check=True)
    kinds = {found.weights[name].dtype for found in [nodes.read(found)] for name in found.weights}
    assert kinds == {np.dtype(np.float16), np.dtype(np.float32)}
    assert 1e-7 < difference(run(found, volume), run(SHIPPED, volume)) < 2e-3


def test_half_keeps_the_input_in_full_precision():
    """What is added to the result in the end is not rounded to half precision."""
    proto = onnx.load_from_string(SHIPPED)
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("network"):
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    volume = noise((3, 8, 8)) + np.float32(1e-3)
    assert np.array_equal(run(graph.half(proto.SerializeToString()), volume), volume)


def changed(change):
    proto = models.nnsp()
    change(proto)
    return proto


def node_of(proto, kind):
    return next(node for node in proto.graph.node if node.op_type == kind)


def weight_of(proto, name):
    return next(item for item in proto.graph.initializer if item.name == name)


def deepen(proto, name, kernel):
    item = weight_of(proto, name)
    shape = (*item.dims[:2], *kernel)
    item.CopyFrom(models.tensor(name, np.random.default_rng(1).normal(size=shape) / 10))
    node = next(node for node in proto.graph.node if name in node.input)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("pads", [side // 2 for side in kernel] * 2))


def with_attribute(name, value):
    return lambda proto: node_of(proto, "Conv").attribute.append(helper.make_attribute(name, value))


def other_activation(proto):
    node_of(proto, "Relu").op_type = "Sigmoid"


def unpadded(proto):
    del node_of(proto, "Conv").attribute[:]


def even_kernel(proto):
    deepen(proto, "w1", (2, 3, 3))


def skips_a_node(proto):
    proto.graph.node[3].input[0] = "c0"


def weights_elsewhere(proto):
    del weight_of(proto, "w2").float_data[:]
    weight_of(proto, "w2").ClearField("raw_data")


def scaled_by_channel(proto):
    weight_of(proto, "scale").CopyFrom(models.tensor("scale", np.ones((1, 2, 1, 1, 1))))


def second_output(proto):
    proto.graph.output.append(helper.make_tensor_value_info("c0", 1, models.FREE))


@pytest.mark.parametrize(
    "change",
    [
        with_attribute("strides", [1, 2, 1]),
        with_attribute("dilations", [1, 2, 2]),
        with_attribute("group", 2),
        with_attribute("auto_pad", "SAME_UPPER"),
        other_activation,
        unpadded,
        even_kernel,
        skips_a_node,
        weights_elsewhere,
        scaled_by_channel,
        second_output,
    ],
)
def test_other_graphs_are_left_alone(change):
    data = changed(change).SerializeToString()
    assert graph.flat(data, 3) is None and graph.half(data) is None


def test_no_model():
    assert graph.flat(b"\xff" * 9, 3) is None and graph.half(b"") is None
