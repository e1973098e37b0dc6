"""Training: it learns, stops when it should, and a killed run goes on as if nothing had been."""

import csv
import errno
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_training
from tiny_training import recipe

torch = pytest.importorskip("torch")

from qctrun.runtime.errors import InputError, OutputError  # noqa: E402
from qctrun.runtime.writing.files import replace_file  # noqa: E402
from qctrun.train.checkpoint import load_checkpoint, trained_network  # noqa: E402
from qctrun.train.fit import fit, validation_loss  # noqa: E402
from qctrun.train.losses import ParameterLoss, PatchSphere  # noqa: E402
from qctrun.train.network import NNSP, crop_halo  # noqa: E402
from qctrun.train.patches import Patches  # noqa: E402
from qctrun.train.raster import PATCH  # noqa: E402
from qctrun.train.recipe import Recipe  # noqa: E402

SPACING_MM = (0.34, 0.172, 0.172)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bits are compared, and so little work is slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class KilledError(Exception):
    """The power goes out."""


@dataclass(frozen=True)
class Doomed(Patches):
    """Patches that give `left[0]` more batches and then kill the run."""

    left: list[int]

    def batch(self, pairs):
        if not self.left[0]:
            raise KilledError
        self.left[0] -= 1
        return super().batch(pairs)


@pytest.fixture(scope="module")
def train():
    return tiny_training.patches(0, 1)


@pytest.fixture(scope="module")
def validation():
    return tiny_training.patches(2, size=PATCH)


@pytest.fixture(scope="module")
def uninterrupted(train, validation, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, fit(recipe(), train, validation, out)


def log_of(out: Path):
    """The log without its clocks."""
    clocks = {"seconds", "epoch_seconds", "pairs_per_second"}
    with (out / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in clocks} for row in csv.DictReader(file)]


def assert_same_state(got, want):
    for name, value in want.network.state_dict().items():
        assert torch.equal(got.network.state_dict()[name], value), name
    for name, value in want.best_weights.items():
        assert torch.equal(got.best_weights[name], value), name
    for name in ("scales", "epoch", "best_loss", "best_epoch"):
        assert getattr(got, name) == getattr(want, name), name


def test_recipe_of_the_paper():
    paper = Recipe()
    assert paper.learning_rate == pytest.approx(10**-3.5)
    assert (paper.truths_per_step, paper.scans_per_truth) == (16, 4)
    assert paper.steps_per_epoch == 14328 // 64 + 1 == 224
    assert paper.patience == 20
    assert not paper.residual
    assert paper.rate == "constant"


def test_adam_is_the_paper_s(uninterrupted):
    _, state = uninterrupted
    assert type(state.optimizer) is torch.optim.Adam
    assert state.optimizer.defaults["betas"] == (0.9, 0.999)
    assert state.optimizer.defaults["lr"] == recipe().learning_rate


def test_learns_a_trivial_task(train, validation, tmp_path):
    """Every scan is too dense by the same amount: 40 steps of four pairs take most of the error away."""
    lines = []
    state = fit(
        recipe(steps_per_epoch=10, truths_per_step=2, learning_rate=1e-2, epochs=4),
        train,
        validation,
        tmp_path,
        report=lines.append,
    )
    loss = ParameterLoss(PatchSphere(SPACING_MM), scales=state.scales)
    raw = validation_loss(tiny_identity(), loss, validation)
    assert 0.3 < raw < 3
    assert state.best_loss < 0.5 * raw
    assert lines[-1]["train_loss"] < 0.5 * lines[0]["train_loss"]
    assert validation_loss(state.network, loss, validation) == pytest.approx(state.best_loss, rel=1e-5)


def tiny_identity():
    """A network that changes nothing."""
    network = NNSP(tiny_training.RECIPE.channels)
    torch.nn.init.zeros_(network.layers[-1].weight)
    return network


def test_unfiltered_loss_begins_at_one(train, uninterrupted):
    _, state = uninterrupted
    loss = ParameterLoss(PatchSphere(SPACING_MM), scales=state.scales)
    rng = np.random.default_rng(123)
    batches = [train.batch(train.random_pairs(2, 2, rng)) for _ in range(32)]
    assert np.mean([float(loss(crop_halo(scan), truth)) for scan, truth in batches]) == pytest.approx(
        1, rel=0.2
    )


def test_scales_come_from_training_data_only(train, tmp_path, uninterrupted):
    other = fit(recipe(epochs=1), train, tiny_training.patches(7, shift=300.0, size=PATCH), tmp_path)
    assert other.scales == uninterrupted[1].scales


def test_same_seed_same_network(train, validation, uninterrupted, tmp_path):
    assert_same_state(fit(recipe(), train, validation, tmp_path), uninterrupted[1])
    assert log_of(tmp_path) == log_of(uninterrupted[0])


def test_another_seed_another_network(train, validation, uninterrupted, tmp_path):
    other = fit(recipe(seed=6, epochs=1), train, validation, tmp_path)
    assert not torch.equal(other.network.layers[0].weight, uninterrupted[1].network.layers[0].weight)


@pytest.mark.parametrize("batches", [32 + 1, 32 + 3 + 1, 32 + 9])
def test_killed_run_goes_on_bit_for_bit(train, validation, uninterrupted, tmp_path, batches):
    """Killed in the first, in the second and at the start of the fourth epoch (32 batches give the scales)."""
    doomed = Doomed(train.phantoms, train.positions, [batches])
    with pytest.raises(KilledError):
        fit(recipe(), doomed, validation, tmp_path)
    done = (batches - 32) // 3
    assert (tmp_path / "checkpoint.pt").exists() == (done > 0)
    assert_same_state(fit(recipe(), train, validation, tmp_path), uninterrupted[1])
    assert log_of(tmp_path) == log_of(uninterrupted[0])


def test_killed_while_saving(train, validation, uninterrupted, tmp_path):
    """What a kill leaves of a half-written checkpoint does no harm."""
    fit(recipe(epochs=2), train, validation, tmp_path)
    (tmp_path / "checkpoint.part").write_bytes(b"half")
    assert_same_state(fit(recipe(), train, validation, tmp_path), uninterrupted[1])


def test_interrupted_between_epochs(train, validation, uninterrupted, tmp_path):
    def stop_after_two(line):
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(recipe(), train, validation, tmp_path, report=stop_after_two)
    seen = []
    assert_same_state(fit(recipe(), train, validation, tmp_path, report=seen.append), uninterrupted[1])
    assert [line["epoch"] for line in seen] == [3, 4]


def test_finished_run_is_left_alone(train, validation, uninterrupted):
    out, before = uninterrupted
    lines = []
    assert_same_state(fit(recipe(), train, validation, out, report=lines.append), before)
    assert lines == []


def test_stops_when_patience_ends(train, validation, tmp_path):
    """With no learning the first epoch stays the best."""
    state = fit(recipe(learning_rate=1e-30, patience=2, epochs=50), train, validation, tmp_path)
    assert (state.epoch, state.best_epoch) == (3, 1)
    assert_same_state(
        fit(recipe(learning_rate=1e-30, patience=2, epochs=50), train, validation, tmp_path), state
    )


def test_gives_the_best_network_not_the_last(train, tmp_path):
    """Validation scans are too thin where training scans are too dense: learning makes it worse."""
    contrary = tiny_training.patches(3, shift=-tiny_training.SHIFT_MG_CM3, size=PATCH)
    state = fit(recipe(learning_rate=1e-2, patience=3, epochs=50), train, contrary, tmp_path)
    assert state.epoch == state.best_epoch + 3 < 50
    losses = [float(row["validation_loss"]) for row in log_of(tmp_path)]
    assert min(losses) == losses[state.best_epoch - 1] == pytest.approx(state.best_loss, rel=1e-5)
    assert losses[-1] > 1.05 * min(losses)
    _, saved = load_checkpoint(tmp_path / "checkpoint.pt")
    _, network, _ = trained_network(tmp_path / "checkpoint.pt")
    assert not torch.equal(saved["weights"]["layers.0.weight"], saved["best_weights"]["layers.0.weight"])
    for got in (network, state.network):
        assert torch.equal(got.layers[0].weight, saved["best_weights"]["layers.0.weight"])


def test_minutes_end_a_run_and_more_minutes_go_on(train, validation, uninterrupted, tmp_path):
    assert fit(recipe(minutes=1e-9), train, validation, tmp_path).epoch == 1
    assert_same_state(fit(recipe(minutes=1e6), train, validation, tmp_path), uninterrupted[1])


@pytest.mark.parametrize(
    "change", [{"channels": (2, 2, 2, 2, 4)}, {"residual": False}, {"learning_rate": 1e-3}, {"seed": 1}]
)
def test_checkpoint_of_another_recipe_is_refused(train, validation, uninterrupted, change):
    path = uninterrupted[0] / "checkpoint.pt"
    before = path.read_bytes()
    with pytest.raises(InputError, match="name another folder"):
        fit(recipe(**change), train, validation, uninterrupted[0])
    assert path.read_bytes() == before


def test_checkpoint_runs_no_code(uninterrupted):
    saved = torch.load(uninterrupted[0] / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 4
    assert Recipe(**saved["recipe"]).steps_per_epoch == 3


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused(tmp_path):
    touched = tmp_path / "touched"
    for name, write in (("a.pt", pickle.dump), ("b.pt", torch.save)):
        with (tmp_path / name).open("wb") as file:
            write({"recipe": Malice(touched)}, file)
        with pytest.raises(InputError, match=name):
            load_checkpoint(tmp_path / name)
    assert not touched.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_checkpoint_is_bad_input(train, validation, uninterrupted, tmp_path, share):
    whole = (uninterrupted[0] / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        trained_network(path)
    with pytest.raises(InputError):
        fit(recipe(), train, validation, tmp_path)


def test_checkpoint_with_parts_missing_is_bad_input(train, validation, uninterrupted, tmp_path):
    saved = torch.load(uninterrupted[0] / "checkpoint.pt", weights_only=True)
    torch.save({"recipe": saved["recipe"]}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError):
        trained_network(tmp_path / "checkpoint.pt")
    with pytest.raises(InputError):
        fit(recipe(), train, validation, tmp_path)


def test_no_checkpoint_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="nothing there"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_loss_that_is_not_finite_is_refused(train, validation, tmp_path):
    with pytest.raises(InputError, match="finite"):
        fit(recipe(learning_rate=1e30), train, validation, tmp_path)


def test_no_patches_are_bad_input(train, validation, tmp_path):
    """A phantom smaller than a patch, or no phantom at all."""
    empty = Patches.over([])
    with pytest.raises(InputError):
        fit(recipe(), empty, validation, tmp_path / "a")
    with pytest.raises(InputError):
        fit(recipe(), train, empty, tmp_path / "b")


def test_log_has_a_line_an_epoch(uninterrupted):
    rows = log_of(uninterrupted[0])
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    best = [float(row["best_validation_loss"]) for row in rows]
    assert best == sorted(best, reverse=True)


def test_rate_is_halved_without_improvement(train, validation, tmp_path):
    """With a rate too small to learn anything the schedule must act after a quarter of the patience."""
    made = recipe(learning_rate=1e-7, epochs=6, patience=8)
    fit(made, train, validation, tmp_path)
    with (tmp_path / "log.csv").open(newline="") as file:
        rates = [float(line["learning_rate"]) for line in csv.DictReader(file)]
    assert rates[0] == pytest.approx(1e-7)
    assert rates[-1] < 0.6e-7


def test_checkpoint_of_other_data_is_refused(train, validation, tmp_path):
    """Donors that have trained must not come back as unseen ones."""
    data = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    fit(recipe(epochs=1), train, validation, tmp_path, data=data)
    fit(recipe(epochs=2), train, validation, tmp_path, data=data)
    with pytest.raises(InputError, match="other test data"):
        fit(recipe(epochs=3), train, validation, tmp_path, data={**data, "test": ["b"]})


def test_a_full_disk_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    replace_file(path, b"earlier")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        replace_file(path, b"later")
    assert caught.value.exit_code == 7
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_in_training_keeps_the_earlier_epoch(
    train, validation, uninterrupted, tmp_path, monkeypatch
):
    """The disk fills while the third checkpoint is written; with space again the run goes on from the second."""
    calls, real = [], os.fsync

    def full_later(handle):
        calls.append(handle)
        if len(calls) > 4:  # a checkpoint and a log in each of two epochs
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_later)
        with pytest.raises(OutputError, match="free some space"):
            fit(recipe(), train, validation, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.pt")[1]["epoch"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "log.csv"]
    assert_same_state(fit(recipe(), train, validation, tmp_path), uninterrupted[1])
    assert log_of(tmp_path) == log_of(uninterrupted[0])
