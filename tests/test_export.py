"""torch -> ONNX: the same numbers, any size, no trace of the machine, and no file when it is wrong."""

import errno
import os
from pathlib import Path

import filtering_models as models
import numpy as np
import onnx
import pytest

from qctrun.runtime.errors import ModelError, OutputError, OutputExistsError
from qctrun.runtime.filtering.model import load_model
from qctrun.runtime.filtering.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from qctrun import export  # noqa: E402
from qctrun.export import export_onnx  # noqa: E402
from qctrun.train.network import HALO, NNSP  # noqa: E402

CHANNELS = (8, 4, 4, 4, 8)


@pytest.fixture(scope="module", params=[True, False], ids=["residual", "plain"])
def network(request):
    torch.manual_seed(1)
    network = NNSP(CHANNELS, residual=request.param)
    torch.nn.init.normal_(network.layers[-1].weight, std=0.1)
    return network


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "new" / "m.onnx"
    return path, export_onnx(network, path, models.card(CHANNELS, halo=HALO))


def test_parity_is_returned(exported):
    assert 0 <= exported[1] < 1e-5


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 1, 40), (21, 41, 41), (10, 50, 33)])
def test_same_numbers_as_torch(network, exported, size):
    volume = np.random.default_rng(3).normal(200, 200, size).astype(np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(volume)[None, None], same=True)[0, 0].numpy()
    found = Session(load_model(exported[0]), "cpu", threads=2).run(volume)
    assert np.max(np.abs(found - wanted)) <= 1e-4 * np.max(np.abs(wanted))


def test_inner_voxels_are_those_of_training(network, exported):
    """Valid convolution and padded convolution agree away from the border."""
    volume = np.random.default_rng(4).normal(200, 200, (21, 41, 41)).astype(np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    found = Session(load_model(exported[0]), "cpu", threads=2).run(volume)[4:-4, 8:-8, 8:-8]
    assert np.max(np.abs(found - wanted)) <= 1e-4 * np.max(np.abs(wanted))


def test_graph_is_plain(exported):
    model = onnx.load(exported[0])
    assert {node.op_type for node in model.graph.node} <= {"Conv", "Relu", "Mul", "Div", "Add"}
    ranks = {
        len(value.type.tensor_type.shape.dim)
        for value in model.graph.value_info
        if value.name.startswith("conv")
    }
    assert ranks == {5}
    assert [entry.key for entry in model.metadata_props] == ["qctrun"]


def test_no_trace_of_the_machine(exported):
    data = exported[0].read_bytes()
    for trace in (b".py", b"/home", b"/root", b"stack_trace", str(exported[0].parent).encode()):
        assert trace not in data


def test_same_bytes_again(network, exported, tmp_path):
    export_onnx(network, tmp_path / "m.onnx", models.card(CHANNELS, halo=HALO))
    assert (tmp_path / "m.onnx").read_bytes() == exported[0].read_bytes()


def test_says_nothing(network, tmp_path, capfd):
    export_onnx(network, tmp_path / "m.onnx", models.card(CHANNELS, halo=HALO))
    assert capfd.readouterr() == ("", "")


def test_other_networks(tmp_path):
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    export_onnx(network, tmp_path / "m.onnx", models.card((1,), halo=(1, 1, 1)))
    assert load_model(tmp_path / "m.onnx").card.halo == (1, 1, 1)


def test_network_stays_as_it_is(network, tmp_path):
    network.train()
    before = [weight.clone() for weight in network.parameters()]
    export_onnx(network, tmp_path / "m.onnx", models.card(CHANNELS))
    assert network.training
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


class Changed(torch.nn.Module):
    """Computes something else while it is exported."""

    def forward(self, volume):
        return volume * (1.001 if torch.onnx.is_in_onnx_export() else 1)


@pytest.mark.parametrize(
    ("network", "card", "words"),
    [
        (Changed(), models.card((1,), halo=(0, 0, 0)), "of torch"),
        (torch.nn.Conv3d(1, 1, 3, padding=1), models.card((1,), halo=(1, 0, 1)), "halo"),
        (torch.nn.Conv3d(1, 1, 3), models.card((1,), halo=(1, 1, 1)), "size"),
        (torch.nn.Conv3d(1, 2, 1), models.card((1,), halo=(0, 0, 0)), "output"),
    ],
    ids=["other numbers", "halo too small", "valid convolution", "two channels"],
)
def test_wrong_export_leaves_no_file(tmp_path, network, card, words):
    with pytest.raises(ModelError, match=words):
        export_onnx(network, tmp_path / "m.onnx", card)
    assert list(tmp_path.iterdir()) == []


def test_existing_file(network, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        export_onnx(network, path, models.card(CHANNELS))
    assert path.read_bytes() == b"mine"
    export_onnx(network, path, models.card(CHANNELS), overwrite=True)
    assert load_model(path).card.name == "test"


def test_not_writable(network, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        export_onnx(network, tmp_path / "file" / "m.onnx", models.card(CHANNELS))


def test_full_disk_is_said_of_the_path_that_was_given(network, tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(self, content):
        write(self, content[:100])
        if len(content) > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    path = tmp_path / "new" / "m.onnx"
    with pytest.raises(OutputError) as failed:
        export_onnx(network, path, models.card(CHANNELS))
    assert str(failed.value).startswith(f"cannot write {path}: got no space left on device")
    assert failed.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


def test_bytes_without_a_file(network, exported):
    model = export.exported(network, models.card(CHANNELS, halo=HALO))
    assert (exported[0].read_bytes(), exported[1]) == (model.data, model.difference)
