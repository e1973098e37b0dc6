"""`qctrun train`: what it takes, what it writes, how it goes on, and how it refuses."""

import csv
import errno
import json
import os
import re
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from qctrun.train import dataset  # noqa: E402
from qctrun.train.recipe import load_recipe  # noqa: E402

TINY = """
# Two steps of two pairs.
channels = [2, 2, 2, 2, 2]
truths_per_step = 1
scans_per_truth = 2
steps_per_epoch = 2
epochs = 1
"""


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Words for a run of seconds."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(TINY)
    return ("--recipe", path, "--fields", "1,1,1", "--threads", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_fields(monkeypatch):
    monkeypatch.setattr(dataset, "FIELD_SIZE", (29, 57, 57))


@pytest.fixture
def no_simulation(monkeypatch):
    """What is wrong with the words is found before minutes of simulation, not after."""

    def fail(*_):
        raise AssertionError("simulated before the words were checked")

    monkeypatch.setattr(dataset, "random_field_phantom", fail)
    monkeypatch.setattr(dataset, "microct_phantom", fail)


def test_one_epoch_of_two_steps(short, small_fields, tmp_path, qctrun):
    out = tmp_path / "runs" / "a"
    said = qctrun("train", "-o", out, *short)
    assert said.code == 0, said.err
    assert {path.name for path in out.iterdir()} == {"checkpoint.pt", "log.csv", "training.json"}
    assert re.search(r"epoch 1: loss .* \d+\.\d s, \d+ pairs/s\n", said.err)
    assert f"qctrun export {out}" in said.err
    for word in ("never seen in training", "BMD line", "NNSP", "raw", "TMD", "BV/TV", "% of raw"):
        assert word in said.out
    notes = json.loads((out / "training.json").read_text())
    assert notes["steps"] == 2
    assert notes["recipe"]["channels"] == [2, 2, 2, 2, 2]
    assert notes["recipe"]["name"] == "tiny"
    assert notes["seconds_per_epoch"] > 0
    assert notes["pairs_per_second"] > 0


def test_the_same_words_go_on(short, small_fields, tmp_path, qctrun):
    first = qctrun("train", "-o", tmp_path, *short)
    again = qctrun("train", "-o", tmp_path, *short)
    assert (first.code, again.code) == (0, 0)
    assert again.out == first.out
    assert "epoch 1" not in again.err
    longer = qctrun("train", "-o", tmp_path, *short, "--epochs", "2")
    assert longer.code == 0
    assert "epoch 2" in longer.err
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_quiet_leaves_only_the_table(short, small_fields, tmp_path, qctrun):
    said = qctrun("train", "-q", "-o", tmp_path, *short)
    assert said.code == 0
    assert said.err == ""
    assert "BMD line" in said.out


def test_another_recipe_in_the_same_folder(short, small_fields, tmp_path, qctrun):
    assert qctrun("train", "-o", tmp_path, *short).code == 0
    said = qctrun("train", "-o", tmp_path, *short, "--seed", "1")
    assert (said.code, said.err.count("\n")) == (3, 1)
    assert "name another folder" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ("--fields", "1,1"),
        ("--fields", "1,x,1"),
        ("--fields", "-1,1,1"),
        ("--epochs", "0"),
        ("--precision", "fp16"),
        ("--device", "tpu"),
        ("--threads", "0"),
        ("--seed", "-1"),
        ("--minutes", "-5"),
        ("--nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_words_are_usage_errors(no_simulation, tmp_path, qctrun, words):
    said = qctrun("train", "-o", tmp_path / "run", *words)
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        "nonsense = 1",
        "epochs = 0",
        "epochs = true",
        "learning_rate = -1",
        "channels = [8, 4, 4, 8]",
        "epochs =",
    ],
)
def test_a_spoilt_recipe_is_bad_input(no_simulation, tmp_path, qctrun, text):
    (tmp_path / "mine.toml").write_text(text)
    said = qctrun("train", "-o", tmp_path / "run", "--recipe", tmp_path / "mine.toml")
    assert (said.code, said.err.count("\n")) == (3, 1), said.err
    assert "mine.toml" in said.err
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_nobody_knows_is_bad_input(no_simulation, fresh, qctrun):
    said = qctrun("train", "--recipe", "nssp")
    assert (said.code, said.err.count("\n")) == (3, 1), said.err
    assert "nnbmd-short, nnsp, nnsp-residual, " in said.err
    assert list(fresh.iterdir()) == []


def test_show_recipe_is_a_start_for_one_s_own(no_simulation, fresh, qctrun):
    """What is printed is a recipe file, and read again it is the same recipe."""
    said = qctrun("train", "--recipe", "nnsp-short", "--show-recipe")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("# ")
    (fresh / "nnsp-short.toml").write_text(said.out)
    assert load_recipe(fresh / "nnsp-short.toml") == load_recipe("nnsp-short")
    assert qctrun("train", "--recipe", fresh / "nnsp-short.toml", "--show-recipe").out == said.out


def test_words_override_the_recipe(short, small_fields, fresh, qctrun):
    """And the folder of the run is called like the recipe."""
    said = qctrun("train", *short, "--epochs", "2", "--seed", "7", "--precision", "bf16", "--minutes", "60")
    assert said.code == 0, said.err
    recipe = json.loads((fresh / "runs" / "tiny" / "training.json").read_text())["recipe"]
    changed = {key: recipe[key] for key in ("epochs", "seed", "precision", "minutes", "steps_per_epoch")}
    assert changed == {"epochs": 2, "seed": 7, "precision": "bf16", "minutes": 60, "steps_per_epoch": 2}
    assert "qctrun export runs/tiny" in said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a device")
def test_device_that_is_not_there_is_said_first(no_simulation, tmp_path, qctrun):
    said = qctrun("train", "-o", tmp_path / "run", "--device", "cuda")
    assert (said.code, said.err.count("\n")) == (5, 1), said.err
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up(short, small_fields, tmp_path, qctrun, monkeypatch):
    """One line and its own exit code; with space again the same words go on after the earlier epoch."""
    assert qctrun("train", "-o", tmp_path, *short).code == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = qctrun("train", "-o", tmp_path, *short, "--epochs", "2")
    assert (said.code, said.err.count("error:")) == (7, 1), said.err
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    again = qctrun("train", "-o", tmp_path, *short, "--epochs", "2")
    assert again.code == 0
    assert "epoch 1:" not in again.err
    assert "epoch 2:" in again.err


def test_a_loss_that_is_not_finite_is_bad_input(small_fields, tmp_path, qctrun):
    (tmp_path / "wild.toml").write_text(TINY + "learning_rate = 1e30")
    said = qctrun("train", "-o", tmp_path / "run", "--recipe", tmp_path / "wild.toml", "--fields", "1,1,1")
    assert said.code == 3
    assert "lower learning_rate" in said.err


@pytest.mark.parametrize("fields", ["0,1,1", "1,0,1"])
def test_nothing_to_train_or_to_stop_by_is_said_first(no_simulation, tmp_path, qctrun, fields):
    """Without micro-CT cubes there has to be a vertebra to train on and one to validate with."""
    said = qctrun("train", "-o", tmp_path / "run", "--fields", fields)
    assert (said.code, said.err.count("\n")) in {(2, 1), (3, 1)}, said.err


@pytest.mark.parametrize("there", [True, False])
def test_folder_without_cubes_is_bad_input(no_simulation, tmp_path, qctrun, there):
    if there:
        (tmp_path / "cubes").mkdir()
    said = qctrun("train", "-o", tmp_path / "run", "--microct", tmp_path / "cubes")
    assert (said.code, said.err.count("\n")) == (3, 1), said.err


def test_output_that_cannot_be_written_is_said_first(short, no_simulation, tmp_path, qctrun):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("mine")
    said = qctrun("train", "-o", tmp_path / "file", *short)
    assert (said.code, said.err.count("\n")) == (7, 1), said.err
    assert (tmp_path / "file").read_text() == "mine"


def test_truncated_checkpoint_is_bad_input(short, small_fields, tmp_path, qctrun):
    assert qctrun("train", "-o", tmp_path, *short).code == 0
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    said = qctrun("train", "-o", tmp_path, *short)
    assert (said.code, said.err.count("\n")) == (3, 1), said.err


@pytest.mark.parametrize("verb", ["train", "export"])
def test_without_torch_the_error_says_what_to_type(tmp_path, verb):
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from qctrun.cli.main import main; sys.exit(main())",
            verb,
            *(["run"] if verb == "export" else []),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert 'pip install "qctrun[train]"' in done.stderr


@pytest.mark.slow
def test_train_and_export_as_a_person_types_them(short, tmp_path):
    """One epoch of two steps on vertebrae of the real size, then the export of what came out."""
    pytest.importorskip("onnxscript")
    program = [sys.executable, "-m", "qctrun.cli.main"]
    trained = subprocess.run(
        [*program, "train", *short], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert trained.returncode == 0, trained.stderr
    assert "BMD line" in trained.stdout
    assert "\r" not in trained.stderr  # a progress bar is for terminals only
    exported = subprocess.run(
        [*program, "export", "runs/tiny"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "nnsp.onnx").stat().st_size > 1000
    assert "BMD line" in (tmp_path / "nnsp.md").read_text()
