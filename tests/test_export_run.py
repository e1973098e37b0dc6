"""A finished training run -> a model with its card; an unfinished one -> a clear refusal and no file."""

import json
import shutil

import numpy as np
import pytest
import tiny_training

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from qctrun.export import export_run, training_run  # noqa: E402
from qctrun.runtime import Filter, Grid, Volume  # noqa: E402
from qctrun.runtime.errors import InputError, OutputExistsError, UsageError  # noqa: E402
from qctrun.runtime.filtering import load_model  # noqa: E402
from qctrun.train import dataset  # noqa: E402
from qctrun.train.checkpoint import load_checkpoint, trained_network  # noqa: E402
from qctrun.train.run import read_notes, run, simulated  # noqa: E402

SPACING_MM = (0.34, 0.172, 0.172)
KIND = "random-field vertebrae"
RECIPE = tiny_training.recipe(epochs=2, truths_per_step=1)


@pytest.fixture(scope="module")
def small_fields():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "FIELD_SIZE", (29, 57, 57))
        yield


@pytest.fixture(scope="module")
def finished(small_fields, tmp_path_factory):
    """A run of six steps on one small vertebra, tested on two others."""
    out = tmp_path_factory.mktemp("run")
    return out, run(RECIPE, out, simulated(RECIPE, out, fields=(1, 1, 2)))


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    return path, export_run(finished[0], path, name="tiny", version="7")


def test_run_writes_what_it_promises(finished):
    out, _ = finished
    assert {path.name for path in out.iterdir()} == {"checkpoint.pt", "log.csv", "training.json"}
    notes = read_notes(out)
    assert notes == json.loads((out / "training.json").read_text())
    assert notes["donors"] == {
        "train": ["random-field-0"],
        "validation": ["random-field-100"],
        "test": ["random-field-200", "random-field-201"],
    }
    assert notes["epochs"] == 2
    assert notes["steps"] == 6
    assert notes["patches"]["test"] == 16
    assert notes["tube_currents_mas"] == [100, 250, 360]
    assert set(notes["a_f"]) == {"TMD", "BVTV", "BMD"}


def test_run_scores_donors_that_it_never_saw(finished):
    _, trained = finished
    (kind,) = trained.scores
    rows = {(row.mas, row.quantity, row.filter) for row in trained.scores[kind]}
    assert len(rows) == 2 * 3 * 3
    assert {mas for mas, _, _ in rows} == {100.0, 360.0}
    assert {name for _, _, name in rows} == {"raw", "NNSP", "BMD line"}


def test_finished_run_called_again_says_the_same(finished):
    out, trained = finished
    again = run(RECIPE, out, simulated(RECIPE, out, fields=(1, 1, 2)))
    assert repr(again.scores) == repr(trained.scores)  # in words, for NaN is not equal to itself


def test_card_has_donors_and_scores(finished, exported):
    path, difference = exported
    assert 0 <= difference <= 1e-4
    card, notes = load_model(path).card, read_notes(finished[0])
    assert (card.name, card.version) == ("tiny", "7")
    assert card.spacing_mm == SPACING_MM
    assert tuple(card.channels) == RECIPE.channels
    assert tuple(card.halo) == (4, 8, 8)
    assert (card.unit, card.material) == ("mg/cm3", "HA")
    assert card.training["donors"] == notes["donors"]
    assert card.training["seconds"] == notes["seconds"]
    assert card.scores == notes["scores"]
    assert len(card.sha256) == 64


def test_card_for_people(finished, exported):
    words = exported[0].with_suffix(".md").read_text()
    assert words.startswith("# Model card: tiny 7")
    for donor in ("random-field-0", "random-field-100", "random-field-200", "random-field-201"):
        assert donor in words
    row = next(
        r
        for rows in read_notes(finished[0])["scores"].values()
        for r in rows
        if (r["mas"], r["quantity"], r["filter"]) == (100, "TMD", "NNSP")
    )
    line = next(line for line in words.splitlines() if line.startswith("| 100 | TMD | NNSP |"))
    assert f"{row['rmse']:.2f}" in line
    assert words.count("| BMD line |") == 6
    assert "does not beat the BMD line in" in words
    assert "research" in words
    assert "2 epochs of 3 steps of 2 pairs, " in words


def test_card_says_how_it_was_trained(finished, exported):
    words = exported[0].with_suffix(".md").read_text()
    mixture = "nnsp (TMD 0.64, BVTV 0.32, BMD 0.04)"
    assert f"- **How**: recipe nnsp: loss {mixture}, rate 0.003 (halved), weights not averaged, " in words
    seconds = read_notes(finished[0])["seconds_per_epoch"]
    assert f"trained in fp32; {seconds:g} s an epoch." in words
    assert "## Scores on donors never seen in training" in words


def test_card_of_another_recipe(finished):
    """The other loss with weights of one's own, averaged, in bf16; a row of scores keeps the network's name."""
    notes = read_notes(finished[0])
    other = {
        "name": "mine",
        "loss": "nnbmd",
        "weights": {"voxel": 1.0},
        "averaging": 0.99,
        "precision": "bf16",
    }
    rows = [{**row, "filter": row["filter"].replace("NNSP", "NNBMD")} for row in notes["scores"][KIND]]
    notes |= {"recipe": {**notes["recipe"], **other}, "scores": {KIND: rows}}
    words = training_run._for_people("tiny", "7", notes, 1e-8)
    assert "recipe mine: loss nnbmd (voxel 1), " in words
    assert "weights averaged with decay 0.99, trained in bf16; " in words
    assert "| 100 | TMD | NNBMD |" in words
    assert "TMD at 100 mAs" in next(
        line for line in words.splitlines() if "does not beat the BMD line" in line
    )


def test_card_tells_of_noise_muon_and_the_last_epoch(finished):
    notes = read_notes(finished[0])
    assert "best epoch" in training_run._for_people("tiny", "7", notes, 1e-8)
    notes["recipe"] |= {"optimizer": "muon", "keep": "last", "extra_noise": 0.5}
    words = training_run._for_people("tiny", "7", notes, 1e-8)
    assert "), up to 0.5 of its noise's variance added to each scan, Muon, rate 0.003 (halved)" in words
    assert ", the last one kept; " in words
    assert "best epoch" not in words


def test_card_of_a_split_by_position(finished):
    """The donors of the test were trained on too, at other places; the card must not call them unseen."""
    notes = read_notes(finished[0])
    notes |= {"donors": {part: ["vertebra-1", "vertebra-2"] for part in notes["donors"]}}
    words = training_run._for_people("tiny", "7", notes, 1e-8)
    assert "## Scores on positions never seen in training, in donors that were" in words
    assert "donors never seen" not in words


def test_card_counts_one_epoch(finished):
    notes = {**read_notes(finished[0]), "epochs": 1, "seconds": 50.0}
    words = training_run._for_people("tiny", "7", notes, 1e-8)
    assert "1 epoch of 3 steps of 2 pairs, 1 minute, best" in words


def test_card_says_where_the_network_loses(exported):
    """After six steps it hardly differs from no filter, so it cannot beat a line through BMD in TMD."""
    words = exported[0].with_suffix(".md").read_text()
    said = next(line for line in words.splitlines() if "does not beat the BMD line" in line)
    assert "TMD at 100 mAs" in said


def test_no_word_about_the_machine(exported):
    data = exported[0].read_bytes() + exported[0].with_suffix(".md").read_bytes()
    assert b"/work" not in data
    assert str(exported[0].parent).encode() not in data


def test_filter_runs_it(finished, exported):
    array = np.random.default_rng(0).normal(150, 300, (12, 30, 25)).astype(np.float32)
    volume = Volume(array, Grid(array.shape, SPACING_MM), "mg/cm3", "HA")
    found = Filter(exported[0], device="cpu", threads=1)(volume)
    _, network, _ = trained_network(finished[0] / "checkpoint.pt")
    with torch.no_grad():
        wanted = network(torch.from_numpy(array)[None, None], same=True)[0, 0].numpy()
    assert np.abs(found.array - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert not np.array_equal(found.array, array)


def test_best_epoch_is_what_is_exported(finished):
    _, saved = load_checkpoint(finished[0] / "checkpoint.pt")
    _, network, _ = trained_network(finished[0] / "checkpoint.pt")
    for name, value in network.state_dict().items():
        assert torch.equal(value, saved["best_weights"][name])


@pytest.fixture
def unfinished(finished, tmp_path):
    """What a killed run leaves: a checkpoint and a log."""
    folder = tmp_path / "unfinished"
    folder.mkdir()
    for name in ("checkpoint.pt", "log.csv"):
        shutil.copy(finished[0] / name, folder)
    return folder


def test_unfinished_run_is_bad_input(unfinished, tmp_path, qctrun):
    with pytest.raises(InputError, match="finished training run"):
        export_run(unfinished, tmp_path / "m.onnx", name="m", version="1")
    said = qctrun("export", unfinished, "-o", tmp_path / "m.onnx")
    assert said.code == 3
    assert said.err.count("\n") == 1
    assert "qctrun train" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"]


def test_no_run_is_bad_input(tmp_path, qctrun):
    said = qctrun("export", tmp_path / "nothing", "-o", tmp_path / "m.onnx")
    assert said.code == 3
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_truncated_checkpoint_is_bad_input(finished, unfinished, tmp_path, qctrun):
    shutil.copy(finished[0] / "training.json", unfinished)
    path = unfinished / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:500])
    said = qctrun("export", unfinished, "-o", tmp_path / "m.onnx")
    assert (said.code, said.err.count("\n")) == (3, 1)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_spoilt_notes_are_bad_input(finished, unfinished, tmp_path, text):
    (unfinished / "training.json").write_text(text)
    with pytest.raises(InputError, match=r"training\.json"):
        export_run(unfinished, tmp_path / "m.onnx", name="m", version="1")


def test_notes_of_an_earlier_stage_are_refused(finished, unfinished, tmp_path):
    """A finished run was taken up again for more epochs and killed: its scores are of another network."""
    shutil.copy(finished[0] / "training.json", unfinished)
    saved = torch.load(unfinished / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "epoch": 3, "best_epoch": 3}, unfinished / "checkpoint.pt")
    with pytest.raises(InputError):
        export_run(unfinished, tmp_path / "m.onnx", name="m", version="1")


def test_existing_model_is_kept(finished, exported):
    before = exported[0].read_bytes()
    with pytest.raises(OutputExistsError):
        export_run(finished[0], exported[0], name="other", version="1")
    assert exported[0].read_bytes() == before


def test_existing_file_beside_the_model_is_kept(finished, tmp_path):
    """`-o README.onnx` must not take the place of a README.md that has nothing to do with it."""
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(OutputExistsError):
        export_run(finished[0], tmp_path / "README.onnx", name="m", version="1")
    assert (tmp_path / "README.md").read_text() == "mine"
    assert not (tmp_path / "README.onnx").exists()


def test_model_named_like_its_card_is_refused(finished, tmp_path):
    with pytest.raises(UsageError, match=r"nnsp\.onnx"):
        export_run(finished[0], tmp_path / "m.md", name="m", version="1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loss", ["nnsp", "nnbmd"])
def test_model_is_called_like_the_loss_of_its_run(finished, fresh, qctrun, loss):
    """`qctrun export runs/nnbmd` never writes over a structure-preserving nnsp.onnx."""
    shutil.copytree(finished[0], fresh / "run")
    saved = torch.load(fresh / "run" / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "recipe": {**saved["recipe"], "loss": loss}}, fresh / "run" / "checkpoint.pt")
    said = qctrun("export", "run")
    assert said.code == 0, said.err
    assert {path.name for path in fresh.iterdir()} == {"run", f"{loss}.onnx", f"{loss}.md"}
    assert load_model(fresh / f"{loss}.onnx").card.name == loss
    assert f"--model {loss}.onnx" in said.err


def test_export_by_the_program(finished, exported, tmp_path, qctrun):
    """The same run gives the same model, and the words say what to type next."""
    path = tmp_path / "tiny.onnx"
    said = qctrun("export", finished[0], "-o", path, "--name", "tiny", "--version", "7")
    assert said.code == 0
    assert said.out == ""
    assert f"qctrun filter scan/ --model {path}" in said.err
    assert path.read_bytes() == exported[0].read_bytes()
    assert qctrun("export", finished[0], "-o", path).code == 2
