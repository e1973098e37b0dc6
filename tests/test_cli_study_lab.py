"""`qctrun study lab` on the command line."""

import json

import numpy as np
import pytest

from qctrun.runtime import Grid, Volume
from qctrun.train.insilico import laboratory

TINY = ("--specimens", 1, "--size", "16,20,20", "--currents", "360", "--repetitions", 1)


@pytest.fixture
def quick(monkeypatch):
    """A laboratory whose scanner leaves one small file a scan."""

    def series(array, spacing_mm, folder, **more):
        (folder / "0001.dcm").write_bytes(b"DICM")

    monkeypatch.setattr(laboratory, "write_series", series)
    nothing = Volume(np.zeros((1, 1, 1)), Grid((1, 1, 1), (0.4, 0.195, 0.195)), "HU")
    monkeypatch.setattr(laboratory, "simulated_scan", lambda *arguments: nothing)


def test_study_is_written_once_and_found_again(fresh, quick, qctrun):
    said = qctrun("study", "lab", "--out", "made", *TINY)
    assert said.code == 0, said.err
    assert said.out == ""
    assert "qctrun pairs made/study.toml" in said.err
    found = {str(path.relative_to(fresh / "made")) for path in (fresh / "made").rglob("*") if path.is_file()}
    assert found == {
        "study.toml",
        "truth.json",
        "lab.run.json",
        "A1/hrpqct.nii.gz",
        "A1/hrpqct.json",
        "A1/bone_mask.nii.gz",
        "A1/bone_mask.json",
        "A1/trabecular_mask.nii.gz",
        "A1/trabecular_mask.json",
        "A1/360mAs-1/0001.dcm",
    }
    record = json.loads((fresh / "made" / "lab.run.json").read_text())
    assert record["verb"] == "lab"
    assert record["options"]["size"] == [16, 20, 20]
    assert {output["path"] for output in record["outputs"]} == {"study.toml", "truth.json"}

    again = qctrun("study", "lab", "--out", "made", *TINY)
    assert again.code == 0
    assert "there already" in again.err
    assert json.loads((fresh / "made" / "lab.run.json").read_text()) == record

    other = qctrun("study", "lab", "--out", "made", *TINY, "--seed", 1)
    assert other.code == 2
    assert "another one" in other.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--size", "30,40"), "Z,Y,X"),
        (("--size", "10,40,40"), "size"),
        (("--size", "a,b,c"), "positive numbers"),
        (("--spacing", "0.4,0.195,5"), "spacing"),
        (("--currents", "0"), "positive numbers"),
        (("--specimens", "6"), "6"),
        (("--repetitions", "0"), "0"),
    ],
    ids=str,
)
def test_words_that_make_no_sense(fresh, qctrun, words, named):
    said = qctrun("study", "lab", "--out", "made", *words)
    assert said.code == 2
    assert named in said.err
    assert not (fresh / "made").exists()


def test_folder_of_somebody_else_is_left_alone(fresh, qctrun):
    (fresh / "study.toml").write_text("mine")
    said = qctrun("study", "lab", "--out", ".", *TINY)
    assert said.code == 2
    assert (fresh / "study.toml").read_text() == "mine"


def test_out_that_is_a_file(fresh, qctrun):
    (fresh / "made").write_text("")
    said = qctrun("study", "lab", "--out", "made", *TINY)
    assert said.code == 7
    assert "made" in said.err
