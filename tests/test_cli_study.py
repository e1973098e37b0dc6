"""`qctrun study`, on vertebrae of eight patches and networks of two channels."""

import csv
import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from qctrun.train.insilico import study as vertebrae  # noqa: E402
from qctrun.train.study import data, schedule  # noqa: E402
from qctrun.train.study.schedule import Schedule  # noqa: E402

SIZE = (29, 57, 57)
RECIPE = """\
loss = "{loss}"
channels = [2, 2, 2, 2, 2]
residual = true
truths_per_step = 2
scans_per_truth = 2
steps_per_epoch = 2
epochs = 2
"""


@pytest.fixture
def tiny(fresh, monkeypatch):
    """A study that takes seconds."""
    for module in (vertebrae, data):
        monkeypatch.setattr(module, "STUDY_SIZE", SIZE)
    for loss in ("nnsp", "nnbmd"):
        (fresh / f"tiny-{loss}.toml").write_text(RECIPE.format(loss=loss))
    nnsp, nnbmd = (str(fresh / f"tiny-{loss}.toml") for loss in ("nnsp", "nnbmd"))
    folds = {"positions": 2, "vertebrae": 1, "donors": 1}
    monkeypatch.setitem(schedule.SCHEDULES, "short", Schedule("short", nnsp, nnbmd, nnsp, folds, "a test"))
    return fresh


def run(qctrun, *words):
    return qctrun("study", "run", "--schedule", "short", "--filters", "Gaussian,BM4D", "--out", "out", *words)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_from_nothing_to_tables_and_again_at_once(tiny, qctrun):
    said = run(qctrun)
    assert said.code == 0, said.err
    out = tiny / "out"
    for name in (
        "README.md",
        "table-1.md",
        "table-2-vertebrae.md",
        "table-3.md",
        "goals.md",
        "sample-maps.png",
    ):
        assert (out / name).stat().st_size > 200, name
    rows = rows_of(out / "results.csv")
    assert {row["split"] for row in rows} == {"positions", "vertebrae"}
    assert {row["filter"] for row in rows} == {"raw", "Gaussian", "NNBMD", "NNSP", "BMD line"}
    assert {float(row["mas"]) for row in rows} == {50, 100, 200, 250, 360}
    assert "a test" in (out / "table-1.md").read_text()
    for note in ("BM4D is left out", "real donors are left out"):
        assert note in (out / "README.md").read_text()

    trained = {path: path.read_bytes() for path in (tiny / "runs").rglob("checkpoint.pt")}
    assert len(trained) == 5
    before = (out / "results.csv").read_bytes()
    assert run(qctrun).code == 2
    said = run(qctrun, "--overwrite")
    assert said.code == 0, said.err
    assert "epoch" not in said.err
    assert (out / "results.csv").read_bytes() == before
    assert {path: path.read_bytes() for path in trained} == trained


def test_a_filter_that_is_none(tiny, qctrun):
    said = qctrun("study", "run", "--filters", "Median")
    assert said.code == 2
    assert "Median" in said.err
    assert not (tiny / "runs").exists()


def test_check_raw_names_the_cells_that_fail(tiny, qctrun):
    """Five vertebrae of a centimetre are not the paper's, and that is what the command has to say."""
    said = qctrun("study", "check-raw", "--json")
    cells = json.loads(said.out)["cells"]
    assert len(cells) == 52
    assert said.code == 3
    missed = [cell["cell"] for cell in cells if cell["met"] == "no"]
    assert missed
    assert all(name in said.err for name in missed)


@pytest.mark.slow
def test_check_raw_meets_every_cell_of_the_paper(fresh, qctrun):
    """The acceptance of the simulator itself, at full size."""
    said = qctrun("study", "check-raw")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == "52 of 52 met"
    assert list(fresh.iterdir()) == []
