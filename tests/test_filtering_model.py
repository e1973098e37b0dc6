"""The model file: its card, its checksum, and everything that is refused."""

import dataclasses
import json
import subprocess

import filtering_models as models
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qctrun.runtime.errors import ModelError
from qctrun.runtime.filtering import Filter, load_model, wire
from qctrun.runtime.filtering.model import SCHEMA, ModelCard, with_card


def test_card_survives_the_file(tmp_path):
    card = models.card(training={"donors": 12}, scores={"tmd_rmse": 3.5}, licence="CC0-1.0")
    found = load_model(models.save(tmp_path / "m.onnx", models.nnsp(), card)).card
    assert dataclasses.replace(found, sha256="") == card
    assert len(found.sha256) == 64


def test_card_is_seen_by_onnx_and_onnxruntime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = models.save(tmp_path / "m.onnx", models.nnsp())
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map["qctrun"]
    assert json.loads(text)["schema"] == SCHEMA


def test_digest_does_not_depend_on_the_card():
    data = models.nnsp().SerializeToString()
    first, second = (with_card(data, models.card(version=version)) for version in "12")
    cards = [onnx.load_from_string(part).metadata_props[0].value for part in (first, second)]
    assert len({json.loads(card)["sha256"] for card in cards}) == 1
    assert with_card(first, models.card(version="2")) == second


def test_file_digest_is_the_one_of_the_file(tmp_path):
    path = models.save(tmp_path / "m.onnx", models.nnsp())
    found = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert load_model(path).sha256 == found.split()[0]


def test_shipped_model():
    model = load_model()
    assert (model.card.unit, model.card.material, model.card.halo) == ("mg/cm3", "HA", (4, 8, 8))
    assert model.card.spacing_mm == (0.34, 0.172, 0.172)


def test_shipped_model_names_no_machine():
    data = load_model().data
    for trace in (b"/home", b"/root", b"/work", b"/tmp", b".py"):
        assert trace not in data


def test_later_keys_of_the_same_schema_are_ignored():
    text = json.dumps({**json.loads(models.card().to_json()), "later": 1})
    assert ModelCard.from_json(text) == models.card()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "qctrun/model/9"},
        {"schema": None},
        {"name": 3},
        {"halo": [4, 8]},
        {"halo": [4, 8, -1]},
        {"halo": "480"[:2]},
        {"channels": []},
        {"spacing_mm": [0.34, 0.172, 0]},
        {"spacing_mm": None},
        {"training": [1]},
    ],
)
def test_bad_card(change):
    with pytest.raises(ModelError, match="model card"):
        ModelCard.from_json(json.dumps({**json.loads(models.card().to_json()), **change}))


@pytest.mark.parametrize("missing", ["name", "halo", "sha256", "schema"])
def test_incomplete_card(missing):
    values = json.loads(models.card().to_json())
    del values[missing]
    with pytest.raises(ModelError, match=missing):
        ModelCard.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", "3", "{"])
def test_card_that_is_no_object(text):
    with pytest.raises(ModelError, match="model card"):
        ModelCard.from_json(text)


def refused(path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        Filter(path, device="cpu", threads=1)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return caught.value


def test_missing_file(tmp_path):
    assert "No such file" in str(refused(tmp_path / "none.onnx"))


def test_folder(tmp_path):
    refused(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x00" * 100, bytes(range(256)), b"\xff" * 64, b"PK\x03\x04zip"]
)
def test_garbage(tmp_path, data):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert "ONNX" in str(refused(path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(tmp_path, share):
    path = models.save(tmp_path / "m.onnx", models.nnsp())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path)


def test_no_card(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(models.nnsp(), path)
    assert "card" in str(refused(path))


def test_tampered_weight(tmp_path):
    path = models.save(tmp_path / "m.onnx", models.nnsp())
    data = bytearray(path.read_bytes())
    weights = onnx.load(path).graph.initializer[1].raw_data
    data[data.index(weights) + 5] ^= 1
    path.write_bytes(data)
    assert "sha256" in str(refused(path))


def test_weights_in_another_file(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(models.nnsp(), path, save_as_external_data=True, size_threshold=0)
    path.write_bytes(with_card(path.read_bytes(), models.card()))
    assert "another file" in str(refused(path))


def identity(**words) -> onnx.ModelProto:
    return models.model([helper.make_node("Identity", ["volume"], ["filtered"])], **words)


@pytest.mark.parametrize(
    "proto",
    [
        identity(shape=("y", "x")),
        identity(shape=(1, 1, "y", "x")),
        identity(shape=(1, 3, "z", "y", "x")),
        identity(shape=(2, 1, "z", "y", "x")),
        identity(shape=(1, 1, 64, 64, 64)),
        identity(kind=TensorProto.DOUBLE),
        identity(kind=TensorProto.FLOAT16),
        models.model(
            [helper.make_node("Concat", ["volume", "volume"], ["filtered"], axis=1)],
            result=(1, 2, "z", "y", "x"),
        ),
    ],
    ids=["2-D", "4-D", "3 channels", "batch of 2", "fixed size", "double", "half", "2 results"],
)
def test_other_faces(tmp_path, proto):
    assert "put" in str(refused(models.save(tmp_path / "m.onnx", proto)))


def test_result_of_another_size(tmp_path):
    weight = models.tensor("w", np.ones((1, 1, 3, 3, 3)))
    proto = models.model(
        [helper.make_node("Conv", ["volume", "w"], ["filtered"])], [weight], result=(1, 1, "a", "b", "c")
    )
    assert "size" in str(refused(models.save(tmp_path / "m.onnx", proto)))


def test_unknown_operator(tmp_path):
    proto = models.model([helper.make_node("Sharpen", ["volume"], ["filtered"])])
    refused(models.save(tmp_path / "m.onnx", proto))


@given(st.binary(max_size=200))
def test_walker_refuses_or_keeps_every_byte(data):
    try:
        found = list(wire.fields(data))
    except ValueError:
        return
    assert b"".join(field.whole for field in found) == data


@given(st.integers(1, 2**20), st.binary(max_size=300))
def test_walker_reads_what_it_writes(number, payload):
    (field,) = wire.fields(wire.text_field(number, payload))
    assert (field.number, field.kind, field.payload) == (number, wire.LENGTH, payload)
