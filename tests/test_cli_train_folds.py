"""`qctrun train --split positions|vertebrae`: folds of the study's vertebrae, trained one after the other."""

import csv
import json
import re
from statistics import fmean

import pytest

torch = pytest.importorskip("torch")

from qctrun.train.evaluate import Score  # noqa: E402
from qctrun.train.insilico import study as vertebrae  # noqa: E402
from qctrun.train.study import data  # noqa: E402
from qctrun.train.study.fold_runs import shares_text  # noqa: E402

TINY = """
loss = "{loss}"
channels = [2, 2, 2, 2, 2]
residual = true
truths_per_step = 2
scans_per_truth = 2
steps_per_epoch = 2
epochs = 1
"""


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(fresh, monkeypatch):
    """Vertebrae of eight patches, and recipes for a run of seconds."""
    for module in (vertebrae, data):
        monkeypatch.setattr(module, "STUDY_SIZE", (29, 57, 57))
    for loss in ("nnsp", "nnbmd"):
        (fresh / f"tiny-{loss}.toml").write_text(TINY.format(loss=loss))
    return fresh


def fail(*_):
    raise AssertionError("simulated")


@pytest.fixture
def no_simulation(monkeypatch):
    monkeypatch.setattr(data, "study_phantom", fail)


def train(qctrun, split, *words, loss="nnsp"):
    short = ("--recipe", f"tiny-{loss}.toml", "--threads", "1", "--device", "cpu")
    return qctrun("train", "--split", split, *short, *words)


def notes_of(folder, fold):
    return json.loads((folder / f"fold-{fold}" / "training.json").read_text())


def shares(said, quantity, mas, name):
    """What the program prints for each fold, and what it prints over them: mean, half range."""
    of_folds, over = said.out.split("RMSE in percent of raw")
    start = rf"^ *{mas} +{quantity} +{name} +"
    found = [float(one) for one in re.findall(start + r"\S+ +\S+ +(\S+) ", of_folds, re.MULTILINE)]
    (pair,) = re.findall(start + r"(\S+) \+- (\S+)$", over, re.MULTILINE)
    return found, tuple(map(float, pair))


@pytest.mark.slow
def test_two_folds_and_again_at_once(tiny, qctrun, monkeypatch):
    first = train(qctrun, "positions", "--folds", "2")
    assert first.code == 0, first.err
    out = tiny / "runs" / "tiny-nnsp-positions"
    assert sorted(path.name for path in out.iterdir()) == ["fold-1", "fold-2"]
    assert first.err.count("epoch 1:") == 2
    assert "qctrun export runs/tiny-nnsp-positions/fold-1" in first.err
    assert first.out.count("positions never seen in training, in vertebrae that were") == 2
    for fold in (1, 2):
        assert {"checkpoint.pt", "log.csv", "training.json"} == {
            p.name for p in (out / f"fold-{fold}").iterdir()
        }
        assert notes_of(out, fold)["patches"] == {"train": 28, "validation": 4, "test": 8}
    assert notes_of(out, 1)["scores"] != notes_of(out, 2)["scores"]
    for quantity in ("TMD", "BV/TV", "BMD"):
        for mas in (100, 360):
            of_folds, (mean, spread) = shares(first, quantity, mas, "NNSP")
            assert len(of_folds) == 2
            assert mean == pytest.approx(fmean(of_folds), abs=0.11)
            assert spread == pytest.approx((max(of_folds) - min(of_folds)) / 2, abs=0.11)

    with monkeypatch.context() as patch:  # what is finished needs no scans
        patch.setattr(data, "study_phantom", fail)
        again = train(qctrun, "positions", "--folds", "2")
        assert (again.code, again.out) == (0, first.out), again.err
        assert "epoch" not in again.err
    before = (out / "fold-1" / "checkpoint.pt").read_bytes()
    third = train(qctrun, "positions", "--folds", "3")
    assert third.code == 0, third.err
    assert third.err.count("epoch 1:") == 1
    assert "fold 3 of 3" in third.err
    assert (out / "fold-1" / "checkpoint.pt").read_bytes() == before


@pytest.mark.slow
def test_a_vertebra_is_left_out(tiny, qctrun):
    """The notes say who trained and who was tested, and the table names the network by its loss."""
    said = train(qctrun, "vertebrae", "--folds", "1", "-o", "out", loss="nnbmd")
    assert said.code == 0, said.err
    notes = notes_of(tiny / "out", 1)
    assert notes["donors"]["test"] == ["vertebra-1"]
    assert notes["donors"]["train"] == [f"vertebra-{number}" for number in (2, 3, 4, 5)]
    assert "a vertebra never seen in training" in said.out
    assert "NNBMD" in said.out
    assert "NNSP" not in said.out
    assert "+- " not in said.out.split("RMSE in percent")[1].split("\n", 1)[1]  # one fold has no range
    with (tiny / "out" / "fold-1" / "log.csv").open(newline="") as file:
        assert "watch_loss" in next(csv.reader(file))


@pytest.mark.slow
def test_a_longer_run_goes_on_and_scores_anew(tiny, qctrun):
    """Also when only the checkpoint of the longer run was written before it was killed."""
    words = ("--folds", "1", "-o", "out")
    assert train(qctrun, "vertebrae", *words).code == 0
    shorter = (tiny / "out" / "fold-1" / "training.json").read_bytes()
    said = train(qctrun, "vertebrae", *words, "--epochs", "2")
    assert said.code == 0, said.err
    assert "epoch 2:" in said.err
    assert "epoch 1:" not in said.err
    (tiny / "out" / "fold-1" / "training.json").write_bytes(shorter)
    said = train(qctrun, "vertebrae", *words, "--epochs", "2")
    assert said.code == 0, said.err
    assert notes_of(tiny / "out", 1)["epochs"] == 2


@pytest.mark.slow
def test_another_run_in_a_fold_is_refused_before_simulation(tiny, qctrun, monkeypatch):
    """Fold 2 of another split stands where fold 2 should come: fold 1 is not begun either."""
    assert train(qctrun, "vertebrae", "--folds", "1", "-o", "out").code == 0
    (tiny / "out" / "fold-1").rename(tiny / "out" / "fold-2")

    monkeypatch.setattr(data, "study_phantom", fail)
    for split, words in (("positions", ()), ("vertebrae", ()), ("vertebrae", ("--seed", "1"))):
        said = train(qctrun, split, "--folds", "2", "-o", "out", *words)
        assert (said.code, said.err.count("\n")) == (3, 1), said.err
        assert "fold-2" in said.err
        assert "name another folder" in said.err
    assert not (tiny / "out" / "fold-1").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--folds", "2", "--microct", "cubes"), "--microct"),
        (("--split", "donors", "--folds", "5"), "--split donors"),
        (("--split", "positions", "--folds", "6"), "--folds"),
        (("--split", "vertebrae", "--folds", "0"), "--folds"),
        (("--split", "positions", "--fields", "6,1,2"), "--fields"),
        (("--split", "vertebrae", "--microct", "cubes"), "--microct"),
        (("--split", "patients"), "--split"),
    ],
    ids=str,
)
def test_words_that_do_not_go_together(no_simulation, fresh, qctrun, words, named):
    said = qctrun("train", "-o", "out", *words)
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert named in said.err
    assert list(fresh.iterdir()) == []


def test_output_that_cannot_be_written_is_said_first(no_simulation, tiny, qctrun):
    (tiny / "file").write_text("mine")
    said = train(qctrun, "positions", "-o", "file")
    assert (said.code, said.err.count("\n")) == (7, 1), said.err
    assert (tiny / "file").read_text() == "mine"


def test_shares_over_folds_by_hand():
    """17 and 23 percent are 20 +- 3; what a fold does not know, the mean does not know either."""

    def score(name, quantity, share):
        return Score(100.0, quantity, name, 0.0, 1.0, share, 50.0, 50.0)

    nan = float("nan")
    folds = [
        [score("raw", "TMD", 100.0), score("NNSP", "TMD", share), score("NNSP", "BMD", other)]
        for share, other in ((17.0, 80.0), (23.0, nan))
    ]
    lines = shares_text(folds).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["100", "TMD", "NNSP", "20.0", "+-", "3.0"],
        ["100", "BMD", "NNSP", "n/a"],
    ]
    assert shares_text(folds[:1]).splitlines()[1].split() == ["100", "TMD", "NNSP", "17.0"]
