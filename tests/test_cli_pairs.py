"""`qctrun pairs` from the study file to the dataset, and what of it is done again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_outputs import table
from conftest import Program
from pair_studies import LINE, OUTPUTS, STUDY, doubt, lay_still, make_study, outputs

from qctrun.runtime.reading import Calibration, read_hu
from qctrun.runtime.volume import Volume
from qctrun.runtime.writing import write
from qctrun.train.pairs import scan
from qctrun.train.pairs.dataset import read_pairs
from qctrun.train.pairs.register import Registered
from qctrun.train.pairs.run import warnings_of
from qctrun.train.pairs.walked import Walked


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scans that lie still; which of them were registered."""
    return lay_still(monkeypatch)


@pytest.fixture
def lab(fresh: Path, calls: list[str]) -> Path:
    """A fresh folder to work in, with a study."""
    make_study(fresh)
    return fresh


def test_a_study_becomes_a_dataset(lab: Path, qctrun: Program) -> None:
    code, out, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 0, err
    assert outputs() == OUTPUTS
    assert "next: qctrun train --pairs pairs" in err
    assert "positions by donor: A 1, B 1; in all 2" in out
    pairs = read_pairs(Path("pairs"))
    found = [(each.name, each.donor, len(each.scans)) for each in pairs.specimens]
    assert found == [("A1", "A", 2), ("B1", "B", 1)]
    first = pairs.specimens[0]
    np.testing.assert_array_equal(first.repetitions, [1, 2])
    # The stand-in registration lays each scan where it is, and the line is the one that made it.
    assert abs(float(np.mean(first.scans[0] - first.truth))) < 1
    assert float(np.std(first.scans[0] - first.truth)) == pytest.approx(16, rel=0.1)


def test_tables_pictures_and_record(lab: Path, qctrun: Program) -> None:
    qctrun("pairs", "study.toml", "--out", "pairs")
    rows = table("pairs", "pairs")
    assert [row["specimen"] for row in rows] == ["A1", "A1", "B1"]
    assert {row["used"] for row in rows} == {"true"}
    assert (rows[0]["slope"], rows[0]["intercept_mg_cm3"], rows[0]["positions"]) == ("0.8", "2", "1")
    assert (rows[0]["tilt_deg"], rows[0]["shift_mm"], rows[0]["slope_low"]) == ("0", "0", "n/a")
    assert [row["scans_used"] for row in table("positions", "pairs")] == ["2", "1"]
    record = json.loads(Path("pairs/pairs.run.json").read_text())
    written = {output["path"] for output in record["outputs"]}
    assert written == {path.name for path in Path("pairs").iterdir()} - {".cache", "pairs.run.json"}
    assert "A1_100mAs-1_checkerboard.png" in written
    assert {each["role"] for each in record["inputs"]} >= {
        "study",
        "reference A1",
        "mask B1",
        "scan A1 100mAs-2",
    }


def test_a_patch_that_one_scan_does_not_reach_is_left_out(lab: Path, qctrun: Program) -> None:
    make_study(lab, (24, 44, 60))
    path = Path("A1/100mAs-2.nii.gz")
    whole = read_hu(path, unit="HU")
    part = replace(whole.grid, size=(24, 44, 50))
    write(Volume(whole.array[..., :50], part, "HU"), path, overwrite=True)
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 0, err
    assert [row["positions"] for row in table("positions", "pairs")] == ["1", "2"]
    read_pairs(Path("pairs"))


def test_json_has_the_same_tables(lab: Path, qctrun: Program) -> None:
    told = json.loads(qctrun("pairs", "study.toml", "--out", "pairs", "--json").out)
    assert [row["used"] for row in told["scans"]] == [True, True, True]
    counts = {"scans": 2, "scans_used": 2, "positions": 1}
    assert told["specimens"][0] == {"specimen": "A1", "donor": "A", **counts}


def test_typed_again_with_nothing_changed_it_says_so(lab: Path, qctrun: Program, calls: list[str]) -> None:
    first = qctrun("pairs", "study.toml", "--out", "pairs")
    before = {path: path.stat().st_mtime_ns for path in Path("pairs").rglob("*")}
    second = qctrun("pairs", "study.toml", "--out", "pairs")
    assert second.code == 0
    assert "nothing has changed" in second.err
    assert second.out == first.out
    assert len(calls) == 3
    assert {path: path.stat().st_mtime_ns for path in Path("pairs").rglob("*")} == before


def test_outputs_that_were_lost_come_back_without_work(lab: Path, qctrun: Program, calls: list[str]) -> None:
    qctrun("pairs", "study.toml", "--out", "pairs")
    whole = Path("pairs/pairs.h5").read_bytes()
    for path in Path("pairs").iterdir():
        if path.is_file():
            path.unlink()
    assert qctrun("pairs", "study.toml", "--out", "pairs").code == 0
    assert Path("pairs/pairs.h5").read_bytes() == whole
    assert len(calls) == 3


def test_a_scan_that_has_changed_alone_is_made_anew(lab: Path, qctrun: Program, calls: list[str]) -> None:
    qctrun("pairs", "study.toml", "--out", "pairs")
    shutil.copy("B1/100mAs-1.nii.gz", "A1/100mAs-2.nii.gz")
    refused = qctrun("pairs", "study.toml", "--out", "pairs")
    assert refused.code == 2
    assert "pairs.h5" in refused.err
    assert "--overwrite" in refused.err
    assert len(calls) == 3
    assert qctrun("pairs", "study.toml", "--out", "pairs", "--overwrite").code == 0
    assert [Path(path).name for path in calls[3:]] == ["100mAs-2.nii.gz"]


def test_another_line_registers_nothing_anew(lab: Path, qctrun: Program, calls: list[str]) -> None:
    qctrun("pairs", "study.toml", "--out", "pairs")
    Path("study.toml").write_text(LINE.replace("0.8", "0.9") + STUDY)
    assert qctrun("pairs", "study.toml", "--out", "pairs", "--overwrite").code == 0
    assert len(calls) == 3
    assert table("pairs", "pairs")[0]["slope"] == "0.9"


@pytest.mark.parametrize("damage", ["100mAs-1.registered.npz", "fixed.npz", "specimen.h5", "specimen.npz"])
def test_a_damaged_entry_is_made_again(lab: Path, qctrun: Program, calls: list[str], damage: str) -> None:
    qctrun("pairs", "study.toml", "--out", "pairs")
    whole = Path("pairs/pairs.h5").read_bytes()
    path = Path("pairs/.cache/A1") / damage
    path.write_bytes(path.read_bytes()[:-100])
    Path("pairs/.cache/A1/specimen.npz").unlink()
    Path("pairs/pairs.run.json").unlink()
    assert qctrun("pairs", "study.toml", "--out", "pairs", "--overwrite").code == 0
    assert Path("pairs/pairs.h5").read_bytes() == whole
    assert len(calls) == 3 + (damage == "100mAs-1.registered.npz")


def test_another_grid_is_another_dataset(lab: Path, qctrun: Program) -> None:
    words = ("pairs", "study.toml", "--out", "pairs", "--spacing", "0.34,0.172,0.2")
    code, _, err = qctrun(*words)
    assert code == 3  # the box of a patch no longer fits into the bone
    assert "one patch or more whose box lies in the mask" in err
    assert outputs() == {".cache"}


@pytest.mark.parametrize("words", ["0.3", "0.3,0.2,x", "0,1,1", "1,1,6", "1,1,inf"])
def test_a_grid_that_is_none_is_refused(lab: Path, qctrun: Program, words: str) -> None:
    code, _, err = qctrun("pairs", "study.toml", "--spacing", words)
    assert code == 2
    assert "wanted Z,Y,X in mm" in err


def test_a_doubted_scan_is_left_out_and_said_loudly(
    lab: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt("A1/100mAs-2", monkeypatch)
    code, out, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 0
    assert "DOUBTED, left out" in out
    assert "warning: specimen A1, scan 100mAs-2: LEFT OUT: it lies elsewhere" in err
    row = table("pairs", "pairs")[1]
    assert (row["used"], row["doubts"], row["slope"], row["positions"]) == (
        "false",
        "it lies elsewhere",
        "n/a",
        "0",
    )
    assert len(read_pairs(Path("pairs")).specimens[0].scans) == 1
    assert Path("pairs/A1_100mAs-2_checkerboard.png").is_file()
    again = qctrun("pairs", "study.toml", "--out", "pairs")
    assert "LEFT OUT" in again.err


def test_a_doubted_scan_that_is_accepted_is_kept(
    lab: Path, qctrun: Program, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt("A1/100mAs-2", monkeypatch)
    qctrun("pairs", "study.toml", "--out", "pairs")
    study = Path("study.toml")
    study.write_text(study.read_text().replace("repetition = 2", "repetition = 2\naccept = true"))
    code, out, err = qctrun("pairs", "study.toml", "--out", "pairs", "--overwrite")
    assert code == 0, err
    assert "doubted, accepted" in out
    assert "kept although doubted" in err
    assert len(calls) == 3
    row = table("pairs", "pairs")[1]
    assert (row["used"], row["accepted"]) == ("true", "true")
    assert len(read_pairs(Path("pairs")).specimens[0].scans) == 2


def test_a_specimen_with_nothing_left_ends_with_3(
    lab: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt("B1/", monkeypatch)
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 3
    assert outputs() == {".cache"}
    assert "specimen B1: wanted one good scan or more, got 1 doubted of 1" in err.splitlines()[-1]
    assert "accept = true" in err
    assert len(list(Path("pairs/.cache/B1").glob("*_checkerboard.png"))) == 1


def test_landmarks_go_into_the_registration(
    lab: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    good = scan.register

    def noted(fixed: Any, volume: Any, choice: Any, points: Any, **more: Any) -> Registered:
        given.append(points)
        return good(fixed, volume, choice, points, **more)

    monkeypatch.setattr(scan, "register", noted)
    study = Path("study.toml")
    study.write_text(study.read_text().replace("repetition = 2", 'repetition = 2\nlandmarks = "points.csv"'))
    head = "reference_x,reference_y,reference_z,scan_x,scan_y,scan_z\n"
    Path("points.csv").write_text(head + "1,2,3,4,5,6\n" * 2)
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 3
    assert "specimen A1, scan 100mAs-2: points.csv: wanted 3 points or more, got 2" in err
    Path("points.csv").write_text(head + "1,2,3,4,5,6\n" * 3)
    assert qctrun("pairs", "study.toml", "--out", "pairs").code == 0
    assert given[0] is None
    np.testing.assert_array_equal(given[-1], [[1, 2, 3, 4, 5, 6]] * 3)
    read = json.loads(Path("pairs/pairs.run.json").read_text())["inputs"]
    assert "landmarks of scan A1 100mAs-2" in {each["role"] for each in read}
    assert all(Path(each["path"]).is_absolute() and each["sha256"] for each in read)


def test_a_line_unlike_all_others_is_told() -> None:
    usual = Calibration(0.8, 0.0, "HA", "test").as_dict()
    lines = {f"100mAs-{number}": usual for number in range(1, 6)}
    odd = Walked("B1", lines={"100mAs-1": {**usual, "slope": 1.0}}, warnings=("beware",))
    told = warnings_of([Walked("A1", lines=lines), odd])
    assert told[0] == "beware"
    assert [words.split(":")[0] for words in told[1:]] == ["specimen B1, scan 100mAs-1"]
