"""Nothing in the package runs code or programs that came with data, and models bring only their own weights."""

import ast
import importlib
from pathlib import Path

import onnx
import pytest
from filtering_models import card, nnsp
from onnx import TensorProto, helper

from qctrun.runtime.errors import InputError, ModelError
from qctrun.runtime.filtering import model as models
from qctrun.runtime.filtering.model import load_model, parse_model, with_card

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for top in ("runtime", "cli", "train", "export") for path in (ROOT / top).rglob("*.py"))

BANNED_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "imp",
}
BANNED_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "tempfile.mktemp",
    "os.system",
    "os.popen",
    "os.tempnam",
}
ALLOWED = {
    # The package's own formulas, from its own source, for the GPU and the doctor's look at libraries.
    ("runtime/measuring/kernels/cuda/formulas.py", "exec"),
    ("runtime/measuring/kernels/cuda/formulas.py", "compile"),
}


def calls_in(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keyword(call, name):
    found = next((each.value for each in call.keywords if each.arg == name), None)
    return getattr(found, "value", found)


def unsafe(path, text):
    """Everything in a source that could run what a file says; each as words with its line."""
    tree = ast.parse(text)
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [
            f"{node.lineno} import {name}" for name in names + module if name.split(".")[0] in BANNED_MODULES
        ]
    for call in calls_in(tree):
        name = ast.unparse(call.func)
        if name in BANNED_CALLS and (path, name) not in ALLOWED:
            found.append(f"{call.lineno} {name}")
        if name in ("torch.load", "load_checkpoint_file") and keyword(call, "weights_only") is not True:
            found.append(f"{call.lineno} {name} without weights_only=True")
        if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is not False:
            found.append(f"{call.lineno} {name} without allow_pickle=False")
        if name in ("np.save", "np.savez", "np.savez_compressed") and keyword(call, "allow_pickle") is True:
            found.append(f"{call.lineno} {name} with allow_pickle")
        if keyword(call, "shell") not in (None, False):
            found.append(f"{call.lineno} {name} by a shell")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_what_a_file_says(path):
    assert unsafe(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from pickle import loads", "import yaml", "eval('1')", "tempfile.mktemp()"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)", "os.system('ls')"),
        *("np.load(path, allow_pickle=True)", "subprocess.run('ls', shell=True)", "import joblib as j"),
    ],
)
def test_the_search_finds_what_it_looks_for(text):
    assert unsafe("runtime/any.py", text)


def test_a_checkpoint_that_holds_code_is_refused_and_the_code_not_run(tmp_path):
    import os
    import pickle

    checkpoint = importlib.import_module("qctrun.train.checkpoint")

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    import torch

    torch.save({"weights": Trap()}, tmp_path / "checkpoint.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("checkpoint.pt", "plain.pt"):
        with pytest.raises(InputError, match="a checkpoint written by training") as caught:
            checkpoint.load_checkpoint(tmp_path / name)
        assert str(caught.value).isprintable()
    assert not (tmp_path / "run").exists()


def external(name, location):
    """A tensor whose numbers lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_initialiser(found, location):
    found.graph.initializer.append(external("w9", location))


def in_constant(found, location):
    found.graph.node.append(helper.make_node("Constant", [], ["w9"], value=external("w9", location)))


def in_tensors(found, location):
    node = found.graph.node.add(op_type="Constant", output=["w9"])
    attribute = node.attribute.add(name="values", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(external("w9", location))


def in_graph_of_a_node(found, location):
    inner = helper.make_graph([], "inner", [], [], initializer=[external("w9", location)])
    found.graph.node.append(helper.make_node("If", ["w9"], ["w8"], then_branch=inner, else_branch=inner))


def in_sparse(found, location):
    found.graph.sparse_initializer.add(values=external("w9", location))


def in_function(found, location):
    function = found.functions.add(name="f", domain="")
    function.node.append(helper.make_node("Constant", [], ["w9"], value=external("w9", location)))


def in_training(found, location):
    found.training_info.add().initialization.initializer.append(external("w9", location))


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../../etc/passwd", "inner/weights.bin"])
@pytest.mark.parametrize(
    "put",
    [in_initialiser, in_constant, in_tensors, in_graph_of_a_node, in_sparse, in_function, in_training],
)
def test_numbers_in_another_file_are_refused_wherever_they_are_asked_for(tmp_path, put, location):
    found = nnsp()
    put(found, location)
    with pytest.raises(
        ModelError, match=r"in another file|inside of a node|sparse|beside the graph"
    ) as caught:
        parse_model(with_card(found.SerializeToString(), card()), tmp_path / "a.onnx")
    assert caught.value.exit_code == 4
    assert str(caught.value).isprintable()


def test_operators_of_a_library_are_refused_before_it_is_looked_for(tmp_path):
    used, opened = nnsp(), nnsp()
    used.graph.node[0].domain = "com.example.evil"
    opened.opset_import.add(domain="com.example.evil\x1b[2J", version=1)
    for found in (used, opened):
        with pytest.raises(ModelError, match=r"operators of com\.example\.evil.*not ONNX's own") as caught:
            parse_model(with_card(found.SerializeToString(), card()), tmp_path / "a.onnx")
        assert str(caught.value).isprintable()


def test_a_file_without_end_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(models, "MAX_BYTES", 10**6)
    with pytest.raises(ModelError, match="at most 1000000 bytes, got more"):
        load_model("/dev/zero")
