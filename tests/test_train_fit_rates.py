"""What a recipe may change of the training: its loss, its rate, averaged weights, precision; and what is watched."""

import csv
import math
from dataclasses import dataclass

import numpy as np
import pytest
import tiny_training
from tiny_training import recipe

torch = pytest.importorskip("torch")

from qctrun.runtime.errors import DeviceError, InputError  # noqa: E402
from qctrun.train import fit as training  # noqa: E402
from qctrun.train.checkpoint import load_checkpoint  # noqa: E402
from qctrun.train.fit import fit, validation_loss  # noqa: E402
from qctrun.train.losses import DenoisingLoss, loss_of  # noqa: E402
from qctrun.train.patches import Patches  # noqa: E402
from qctrun.train.raster import PATCH  # noqa: E402
from qctrun.train.state import rate_at, started  # noqa: E402

SPACING_MM = (0.34, 0.172, 0.172)
ALL = {"optimizer": "muon", "rate": "cosine", "averaging": 0.9, "precision": "bf16", "loss": "nnbmd"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def train():
    return tiny_training.patches(0, 1)


@pytest.fixture(scope="module")
def validation():
    return tiny_training.patches(2, size=PATCH)


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


def rows(out):
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal_weights(got, want):
    assert set(got) == set(want)
    for name, value in want.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": "cosine"},
        {"averaging": 0.9},
        {"precision": "bf16"},
        {"loss": "nnbmd"},
        {"extra_noise": 1.0},
        ALL,
    ],
    ids=str,
)
def test_killed_run_goes_on_bit_for_bit(train, validation, tmp_path, changes):
    made = recipe(**changes)
    want = fit(made, train, validation, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(made, Doomed(train.phantoms, train.positions, [32 + 7]), validation, tmp_path / "killed")
    got = fit(made, train, validation, tmp_path / "killed")
    assert got.epoch == want.epoch == 4
    (_, first), (_, second) = (
        load_checkpoint(tmp_path / run / "checkpoint.pt") for run in ("whole", "killed")
    )
    assert_equal_weights(second["weights"], first["weights"])
    assert_equal_weights(second["best_weights"], first["best_weights"])
    if made.averaging:
        assert_equal_weights(second["averaged"], first["averaged"])
    losses = [[row["validation_loss"] for row in rows(tmp_path / run)] for run in ("whole", "killed")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_which_weights_are_kept(train, tmp_path, keep):
    """A validation that contradicts the training: the first epoch is the best one."""
    contrary = tiny_training.patches(3, shift=-tiny_training.SHIFT_MG_CM3, size=PATCH)
    state = fit(recipe(keep=keep, learning_rate=1e-2), train, contrary, tmp_path)
    _, saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state.best_epoch < state.epoch == 4
    same = all(torch.equal(saved["best_weights"][name], saved["weights"][name]) for name in saved["weights"])
    assert same == (keep == "last")
    assert_equal_weights(state.network.state_dict(), saved["best_weights"])


def test_extra_noise_changes_what_is_seen(train, validation, tmp_path):
    plain, noisier = (
        fit(recipe(extra_noise=share), train, validation, tmp_path / str(share)) for share in (0.0, 1.0)
    )
    assert noisier.lines[0]["train_loss"] != plain.lines[0]["train_loss"]


def test_constant_rate_stays(train, validation, tmp_path):
    """As in the paper, however long the validation loss does not improve."""
    contrary = tiny_training.patches(3, shift=-tiny_training.SHIFT_MG_CM3, size=PATCH)
    fit(recipe(rate="constant", learning_rate=1e-2, patience=5, epochs=6), train, contrary, tmp_path)
    assert {row["learning_rate"] for row in rows(tmp_path)} == {"0.01"}


def test_cosine_by_hand():
    """Two epochs of four steps: four rising ones, then half a turn in four."""
    made = recipe(rate="cosine", learning_rate=1.0, steps_per_epoch=4, epochs=2)
    falling = [(1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3, 4)]
    assert [rate_at(made, step) for step in range(8)] == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling])
    assert rate_at(made, 7) == 0


def test_cosine_of_one_epoch_only_rises():
    made = recipe(rate="cosine", learning_rate=1.0, steps_per_epoch=4, epochs=1)
    assert [rate_at(made, step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_cosine_moves_the_optimizer_every_step(train, validation, tmp_path, monkeypatch):
    made, used = recipe(rate="cosine", epochs=2), []
    real = torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        used.append(self.param_groups[0]["lr"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    fit(made, train, validation, tmp_path)
    assert used == [rate_at(made, step) for step in range(6)]


def test_cosine_is_drawn_to_its_end(train, validation, tmp_path):
    """Another last epoch is another rate from the first on; a constant rate may go on for longer."""
    fit(recipe(rate="cosine", epochs=2), train, validation, tmp_path / "a")
    with pytest.raises(InputError, match="epochs 2"):
        fit(recipe(rate="cosine", epochs=3), train, validation, tmp_path / "a")
    fit(recipe(rate="constant", epochs=1), train, validation, tmp_path / "b")
    assert fit(recipe(rate="constant", epochs=2), train, validation, tmp_path / "b").epoch == 2


def test_average_by_hand():
    """From 0 the average follows a weight of 1; decays 1/10, 2/11, 3/12 and then the recipe's own 0.2."""
    made = recipe(averaging=0.2)
    state = started(made, None, "cpu")
    for network, value in ((state.averaged, 0.0), (state.network, 1.0)):
        for weight in network.parameters():
            torch.nn.init.constant_(weight, value)
    want = 0.0
    for step, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):
        state.stepped(made, step)
        want = decay * want + (1 - decay) * 1.0
        for weight in state.averaged.parameters():
            torch.testing.assert_close(weight, torch.full_like(weight, want))


def test_averaged_weights_are_judged_and_kept(train, validation, tmp_path):
    made = recipe(averaging=0.5, epochs=2)
    state = fit(made, train, validation, tmp_path)
    _, saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert not torch.equal(saved["weights"]["layers.0.weight"], saved["averaged"]["layers.0.weight"])
    assert state.best_epoch == 2
    assert_equal_weights(saved["best_weights"], saved["averaged"])
    loss = loss_of(made)
    loss.scales = state.scales
    assert validation_loss(state.network, loss, validation) == pytest.approx(state.best_loss)


def test_averaging_does_not_change_the_steps(train, validation, tmp_path):
    for name, averaging in (("plain", 0.0), ("averaged", 0.9)):
        fit(recipe(averaging=averaging), train, validation, tmp_path / name)
    (_, one), (_, other) = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("plain", "averaged"))
    assert_equal_weights(other["weights"], one["weights"])


@pytest.mark.parametrize(("precision", "seen"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_network_in_training_only(
    train, validation, tmp_path, monkeypatch, precision, seen
):
    """Convolutions run in it in training; losses and validation are float32."""
    found = {"training": set(), "validation": set()}
    real = torch.nn.functional.conv3d

    def spy(*args, **kwargs):
        result = real(*args, **kwargs)
        # Start values are tried without gradients too, but not in inference mode.
        part = "validation" if torch.is_inference_mode_enabled() else "training"
        if torch.is_grad_enabled() or part == "validation":
            found[part].add(result.dtype)
        return result

    losses = set()
    made = loss_of(recipe())
    real_call = type(made).__call__

    def heard(self, output, truth):
        value = real_call(self, output, truth)
        losses.update({output.dtype, truth.dtype, value.dtype})
        return value

    monkeypatch.setattr(type(made), "__call__", heard)
    monkeypatch.setattr(torch.nn.functional, "conv3d", spy)
    state = fit(recipe(precision=precision, epochs=1), train, validation, tmp_path)
    assert found == {"training": {seen}, "validation": {torch.float32}}
    assert losses == {torch.float32}
    assert {weight.dtype for weight in state.network.parameters()} == {torch.float32}


def test_half_precision_learns_nearly_the_same(train, validation, tmp_path):
    """After six steps; once there is next to nothing left to learn, chance decides."""
    losses = [
        fit(recipe(precision=name, epochs=2), train, validation, tmp_path / name).best_loss
        for name in ("fp32", "bf16")
    ]
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_tf32_only_where_asked_for(train, validation, tmp_path, monkeypatch, precision):
    """Around the network's own products; never in the loss or in validation; as it was before afterwards."""
    rooms = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [room.allow_tf32 for room in rooms]
    seen = {"network": set(), "loss": set()}
    real = torch.nn.functional.conv3d

    def spy(*args, **kwargs):
        if torch.is_grad_enabled():
            seen["network"] |= {room.allow_tf32 for room in rooms}
        return real(*args, **kwargs)

    made = type(loss_of(recipe()))
    real_terms = made.terms

    def terms(self, *args):
        seen["loss"] |= {room.allow_tf32 for room in rooms}
        return real_terms(self, *args)

    monkeypatch.setattr(torch.nn.functional, "conv3d", spy)
    monkeypatch.setattr(made, "terms", terms)
    fit(recipe(precision=precision, epochs=1), train, validation, tmp_path)
    assert seen == {"network": {precision == "tf32"}, "loss": {False}}
    assert [room.allow_tf32 for room in rooms] == before


def test_plain_denoising_learns(train, validation, tmp_path):
    made = recipe(loss="nnbmd", learning_rate=1e-2, steps_per_epoch=10)
    state = fit(made, train, validation, tmp_path)
    assert set(state.scales) == {"voxel", "BMD 0.516 mm", "BMD 1.548 mm", "SD 2.924 mm"}
    assert isinstance(loss_of(made), DenoisingLoss)
    first, *_, last = [float(row["train_loss"]) for row in rows(tmp_path)]
    assert 0.1 < first < 1.5
    assert last < 0.7 * first


def test_watched_patches_decide_nothing(train, validation, tmp_path):
    """Their loss is logged; weights, stop and best epoch are those of a run that watches nothing."""
    watched = tiny_training.patches(9, shift=300.0, size=PATCH)
    made = recipe(patience=2)
    plain = fit(made, train, validation, tmp_path / "plain")
    state = fit(made, train, validation, tmp_path / "watched", watch=watched)
    assert_equal_weights(state.network.state_dict(), plain.network.state_dict())
    assert (state.best_epoch, state.epoch) == (plain.best_epoch, plain.epoch)
    loss = loss_of(made)
    loss.scales = state.scales
    best = rows(tmp_path / "watched")[state.best_epoch - 1]
    want = validation_loss(state.network, loss, watched)
    assert float(best["watch_loss"]) == pytest.approx(want, rel=1e-4)
    assert want > 3 * state.best_loss
    assert "watch_loss" not in rows(tmp_path / "plain")[0]


def test_watching_may_begin_later(train, validation, tmp_path):
    fit(recipe(epochs=1), train, validation, tmp_path)
    fit(recipe(epochs=2), train, validation, tmp_path, watch=validation)
    first, second = rows(tmp_path)
    assert first["watch_loss"] == ""
    assert second["watch_loss"] == second["validation_loss"]


def test_progress_within_each_epoch(train, validation, tmp_path):
    told = []
    fit(
        recipe(epochs=2), train, validation, tmp_path, progress=lambda done, total: told.append((done, total))
    )
    assert told == 2 * [(1, 3), (2, 3), (3, 3)]


def test_log_keeps_up_with_the_checkpoint(train, validation, tmp_path):
    """A log that was lost, or is behind after a kill between two files, is whole after the next epoch."""
    fit(recipe(epochs=2), train, validation, tmp_path)
    (tmp_path / "log.csv").unlink()
    fit(recipe(epochs=3), train, validation, tmp_path)
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3"]


def test_validation_loss_that_is_not_finite_is_refused(train, validation, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "validation_loss", lambda *_, **__: float("nan"))
    with pytest.raises(InputError, match="finite"):
        fit(recipe(), train, validation, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a device")
def test_device_that_is_not_there(train, validation, tmp_path):
    with pytest.raises(DeviceError) as caught:
        fit(recipe(), train, validation, tmp_path / "run", device="cuda")
    assert caught.value.exit_code == 5
    assert not (tmp_path / "run").exists()


def test_weights_of_the_recipe_make_the_mixture(train, validation):
    scan, truth = (part[..., :13, :25, :25] for part in train.batch([(0, 0)]))
    terms = loss_of(recipe()).terms(scan, truth)
    mixed = loss_of(recipe(weights={"TMD": 0.0, "BMD": 2.0}))
    assert float(mixed(scan, truth)) == pytest.approx(2 * float(terms["BMD"]))
    assert np.isfinite(float(mixed(scan, truth)))
