"""`qctrun pairs` where something is wrong: one line, an exit code, and nothing half-written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Program
from pair_studies import OUTPUTS, lay_still, make_study, outputs, path_of

from qctrun.runtime.errors import InputError
from qctrun.train.pairs import scan
from qctrun.train.pairs.register import Registered


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scans that lie still; which of them were registered."""
    return lay_still(monkeypatch)


@pytest.fixture
def lab(fresh: Path, calls: list[str]) -> Path:
    """A fresh folder to work in, with a study."""
    make_study(fresh)
    return fresh


def test_errors_name_specimen_and_scan_and_the_rest_is_done(
    lab: Path, qctrun: Program, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = scan.register

    def far_away(fixed: Any, volume: Any, *words: Any, **more: Any) -> Registered:
        if "100mAs-1" in path_of(volume):
            raise InputError("the scan", wanted="one that overlaps its reference", got="one far away")
        return good(fixed, volume, *words, **more)

    monkeypatch.setattr(scan, "register", far_away)
    code, out, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert (code, out) == (3, "")
    last = err.splitlines()[-1]
    assert last.startswith("qctrun: error: specimen A1, scan 100mAs-1: the scan: wanted one that overlaps")
    assert last.endswith("(and 1 more, said above)")
    assert "specimen B1, scan 100mAs-1: the scan" in err
    assert [Path(path).name for path in calls] == ["100mAs-2.nii.gz"]
    assert outputs() == {".cache"}


def test_a_scan_that_is_density_already_is_refused(lab: Path, qctrun: Program) -> None:
    for suffix in (".nii.gz", ".json"):
        shutil.copy(f"A1/reference{suffix}", f"A1/100mAs-1{suffix}")
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 3
    assert "specimen A1, scan 100mAs-1" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "content"),
    [("A1/100mAs-1.nii.gz", b""), ("A1/reference.nii.gz", b"rubbish"), ("A1/mask.nii.gz", b"\x1f\x8b")],
)
def test_rubbish_is_one_line_that_names_it(lab: Path, qctrun: Program, name: str, content: bytes) -> None:
    (lab / name).write_bytes(content)
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 3
    assert "specimen A1" in err.splitlines()[-1]
    assert name in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_missing_scan_is_said_before_any_work(lab: Path, qctrun: Program) -> None:
    (lab / "B1/100mAs-1.nii.gz").unlink()
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 3
    assert "not there: scan 100mAs-1 of specimen B1" in err
    assert not Path("pairs").exists()


def test_a_scan_under_two_names_is_refused(lab: Path, qctrun: Program) -> None:
    shutil.copy("A1/100mAs-1.nii.gz", "A1/100mAs-2.nii.gz")
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 3
    assert (
        "specimen A1, scan 100mAs-2: wanted a scan of its own, got a copy of 100mAs-1" in err.splitlines()[-1]
    )
    assert outputs() == {".cache"}


def test_advice_is_in_words_of_the_study_file(lab: Path, qctrun: Program) -> None:
    Path("A1/reference.json").unlink()
    study = lab / "study.toml"
    study.write_text(
        study.read_text().replace('B1/100mAs-1.nii.gz"', 'B1/100mAs-1.nii.gz"\nseries_uid = "1.2"')
    )
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 3
    assert 'say unit = "mg/cm3" in the study file' in err
    assert "scan 100mAs-1: series_uid: wanted a DICOM folder" in err
    assert "--" not in err


def test_landmarks_are_never_written_over(lab: Path, qctrun: Program) -> None:
    Path("pairs").mkdir()
    Path("pairs/pairs.csv").write_text("points")
    study = lab / "study.toml"
    study.write_text(
        study.read_text().replace("repetition = 2", 'repetition = 2\nlandmarks = "pairs/pairs.csv"')
    )
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs", "--overwrite")
    assert code == 2
    assert "pairs.csv" in err


def test_references_of_two_materials_are_not_mixed(lab: Path, qctrun: Program) -> None:
    path = lab / "B1/reference.json"
    path.write_text(path.read_text().replace('"HA"', '"K2HPO4"'))
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 3
    assert "Traceback" not in err
    assert "K2HPO4" in err.splitlines()[-1]


@pytest.mark.parametrize(
    "stop_at", ["save", "save_bytes", "draw_checkerboard", "write_specimen", "save_walked", "join", "commit"]
)
def test_a_stop_anywhere_leaves_nothing_half_written(
    lab: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    places = {
        "save": "qctrun.train.pairs.cache.Cache.save",
        "save_bytes": "qctrun.train.pairs.cache.Cache.save_bytes",
        "draw_checkerboard": "qctrun.train.pairs.scan.draw_checkerboard",
        "write_specimen": "qctrun.train.pairs.specimen.write_specimen",
        "save_walked": "qctrun.train.pairs.specimen.save_walked",
        "join": "qctrun.train.pairs.run.join",
        "commit": "qctrun.runtime.writing.RunRecord.add_to",
    }

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(places[stop_at], stop)
        assert qctrun("pairs", "study.toml", "--out", "pairs").code == 130
    assert outputs() == {".cache"}
    assert not [path for path in Path("pairs").rglob("*") if path.suffix == ".part"]
    assert qctrun("pairs", "study.toml", "--out", "pairs").code == 0
    assert outputs() == OUTPUTS


def test_two_runs_in_one_folder_do_not_mix(
    lab: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = []

    def meanwhile(*words: Any, **more: Any) -> bytes:
        if not codes:
            codes.append(0)
            codes[0] = qctrun("pairs", "study.toml", "--out", "pairs").code
        return b"\x89PNG"

    monkeypatch.setattr(scan, "draw_checkerboard", meanwhile)
    assert qctrun("pairs", "study.toml", "--out", "pairs").code == 0
    assert codes == [7]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted only by root")
def test_a_full_disk_is_exit_code_7_and_leaves_the_cache_only(lab: Path, qctrun: Program) -> None:
    disk = lab / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        code, out, err = qctrun("pairs", "study.toml", "-q", "-o", disk / "pairs")
        assert (code, out) == (7, "")
        assert "space" in err
        assert outputs(disk / "pairs") == {".cache"}
        assert not list((disk / "pairs").rglob("*.part"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_is_not_installed_is_said_before_any_work(
    lab: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    code, _, err = qctrun("pairs", "study.toml", "--out", "pairs")
    assert code == 5
    assert "qctrun[pairs]" in err
    assert not Path("pairs").exists()


def test_an_output_over_an_input_is_refused(lab: Path, qctrun: Program) -> None:
    Path("study.toml").rename("pairs.csv")
    code, _, err = qctrun("pairs", "pairs.csv", "--out", ".", "--overwrite")
    assert code == 2
    assert "pairs.csv" in err


def test_outputs_in_a_folder_of_slices_are_refused(lab: Path, qctrun: Program) -> None:
    (lab / "slices").mkdir()
    study = lab / "study.toml"
    study.write_text(study.read_text().replace("B1/100mAs-1.nii.gz", "slices"))
    code, _, err = qctrun("pairs", "study.toml", "--out", "slices/pairs")
    assert code == 2
    assert "wanted a folder outside of the scans" in err
