"""A run on two processes is the run on one: shares, sums, weights, files; and teams that cannot meet."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import tiny_training
from tiny_training import recipe

torch = pytest.importorskip("torch")

from qctrun.runtime.errors import DeviceError, InputError, UsageError  # noqa: E402
from qctrun.train.augment import drawn, turned_alike  # noqa: E402
from qctrun.train.checkpoint import load_checkpoint  # noqa: E402
from qctrun.train.fit import fit  # noqa: E402
from qctrun.train.raster import PATCH  # noqa: E402
from qctrun.train.team import Team, chosen_device, gathered, leads  # noqa: E402

RECIPE = recipe(rate="cosine", averaging=0.5, epochs=2, patience=9)
PLACE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}

WORKER = """
import os, sys
from dataclasses import replace
from pathlib import Path
import tiny_training, torch
from test_train_team import RECIPE, data
from qctrun.train.fit import fit

torch.set_num_threads(1)
out = Path(sys.argv[1])
for epochs in (1, 2):  # the second call goes on with what the first has written
    made = replace(RECIPE, rate="constant", epochs=epochs)
    state = fit(made, *data(), out / "resumed", device="cpu")
state = fit(RECIPE, *data(), out / "whole", device="cpu", report=lambda line: print("epoch", line["epoch"]))
torch.save({"weights": state.network.state_dict(), "loss": state.best_loss}, out / f"rank-{os.environ['RANK']}.pt")
"""


def data():
    """Patches to train on, and one patch more than a pair to validate with: the shares differ."""
    return tiny_training.patches(0, 1), tiny_training.patches(2, 3, 4, size=PATCH)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_processes_give_the_network_of_one(one_thread, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    place = ("--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    with subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *place, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            said, complained = running.communicate(timeout=300)
        finally:
            with suppress(ProcessLookupError):  # two that wait for each other would wait for ever
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 0, complained
    assert said.split() == ["epoch", "1", "epoch", "2"]  # one of the two speaks
    alone = fit(RECIPE, *data(), tmp_path / "alone", device="cpu")
    fit(recipe(averaging=0.5, epochs=2, patience=9, rate="constant"), *data(), tmp_path / "one", device="cpu")
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1)]
    assert ranks[0]["loss"] == ranks[1]["loss"] == pytest.approx(alone.best_loss, rel=1e-4)
    for name, want in alone.network.state_dict().items():
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name]), name
        torch.testing.assert_close(ranks[0]["weights"][name], want, rtol=1e-3, atol=1e-5)
    for folder, other in (("whole", "alone"), ("resumed", "one")):
        (_, got), (_, want) = (load_checkpoint(tmp_path / f / "checkpoint.pt") for f in (folder, other))
        assert (got["epoch"], got["best_epoch"]) == (want["epoch"], want["best_epoch"])
        for line, wanted in zip(got["lines"], want["lines"], strict=True):
            for key in ("train_loss", "validation_loss", "learning_rate"):
                assert line[key] == pytest.approx(wanted[key], rel=1e-4), (folder, key)
        for name, value in want["averaged"].items():
            torch.testing.assert_close(got["averaged"][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [0, 1, 7, 12])
def test_shares_are_the_whole_in_order(size, length):
    items = list(range(length))
    shares = [Team("cpu", rank, size).share(items) for rank in range(size)]
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_item_is_turned_as_it_would_be_alone():
    """The symmetries are drawn for the whole step, and shared as its pairs are."""
    batch = torch.arange(6 * 3 * 5 * 5.0).reshape(6, 1, 3, 5, 5)
    which = drawn(6, torch.Generator().manual_seed(1))
    (whole,) = turned_alike((batch,), which)
    parts = [
        turned_alike((team.share(batch),), team.share(which))
        for team in (Team("cpu", r, 3) for r in range(3))
    ]
    assert torch.equal(torch.cat([part for (part,) in parts]), whole)


def test_alone_there_is_nothing_to_sum(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    network = torch.nn.Linear(1, 1)
    team = gathered("cpu")
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    assert team.total(3.5) == team.leader_s(3.5) == 3.5
    assert team.joined(network) is network
    assert leads()


def test_a_team_of_one_needs_no_meeting(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    team = gathered("cpu")
    assert (team.rank, team.size) == (0, 1)


@pytest.mark.parametrize(("rank", "wanted"), [("0", True), ("1", False)])
def test_the_first_leads(monkeypatch, rank, wanted):
    for name, value in {**PLACE, "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    assert leads() is wanted


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_an_environment_is_bad_input(monkeypatch, name):
    for key, value in {**PLACE, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv(name)
    with pytest.raises(InputError, match="torchrun") as caught:
        gathered("cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["two", "", "-1", "0"])
def test_size_that_is_no_number_is_bad_input(monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(InputError, match="torchrun"):
        gathered("cpu")


def test_truths_that_cannot_be_shared_are_bad_input(monkeypatch, tmp_path):
    """Three processes and two truths; the team needs not meet to know."""
    three = Team("cpu", 0, 3)
    monkeypatch.setattr("qctrun.train.fit.gathered", lambda _: three)
    with pytest.raises(InputError, match=r"truths_per_step.*divisible by the 3"):
        fit(recipe(), *data(), tmp_path)


def test_devices_of_a_machine_with_two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = [chosen_device(word) for word in ("auto", "cuda", "cuda:1", "cpu")]
    assert found == ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    with pytest.raises(DeviceError, match="2 of them"):
        chosen_device("cuda:2")


def test_devices_of_a_machine_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == chosen_device("cpu") == "cpu"
    for word in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError) as caught:
            chosen_device(word)
        assert caught.value.exit_code == 5


def test_a_device_that_nobody_knows_is_a_usage_error():
    with pytest.raises(UsageError):
        chosen_device("tpu")
