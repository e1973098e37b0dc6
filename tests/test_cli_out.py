"""Where the verbs write: what --out takes, and what --overwrite replaces."""

from pathlib import Path

import pytest
from conftest import Program

from qctrun.runtime import read
from qctrun.runtime.writing import read_record


def test_out_takes_the_next_word_and_says_so_when_it_was_the_input(here: Path, qctrun: Program) -> None:
    code, _, err = qctrun("filter", "--out", "scan/")
    assert (code, err.count("\n")) == (2, 1)
    assert "qctrun filter scan --out" in err
    assert qctrun("filter", "--out=there", "scan").code == 0
    assert qctrun("params", "--out", "there").code == 0
    assert (here / "there" / "params.csv").is_file()
    assert not (here / "qctrun-out").exists()


def test_a_folder_that_nobody_typed_is_not_blamed(here: Path, qctrun: Program) -> None:
    (here / "qctrun-out").mkdir()
    for words in (["filter"], ["filter", "--out"]):
        code, _, err = qctrun(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert "INPUT is missing; " in err
    (here / "my scan").mkdir()
    assert "qctrun filter 'my scan' --out" in qctrun("filter", "--out", "my scan").err


def test_an_output_that_exists_is_seen_before_any_work(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert qctrun("filter", "scan", "--out").code == 0
    before = (here / "qctrun-out" / "filter.run.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("qctrun.runtime.reading.scans.read_dicom", lambda *_, **__: pytest.fail("read"))
        code, _, err = qctrun("filter", "scan", "--out")
    assert (code, err.count("\n")) == (2, 1)
    assert "--overwrite" in err
    assert (here / "qctrun-out" / "filter.run.json").read_bytes() == before
    assert qctrun("filter", "scan", "--out", "--overwrite").code == 0


def test_another_format_replaces_the_whole_earlier_filter_run(here: Path, qctrun: Program) -> None:
    """Else the old image would be read with the calibration in the new sidecar, which has the same name."""
    assert qctrun("filter", "scan", "--out").code == 0
    (here / "qctrun-out" / "mine.txt").write_text("mine")
    code, _, err = qctrun(
        "filter", "scan", "--out", "--overwrite", "--format", "mha", "--calibration", "0.5,10"
    )
    assert code == 0, err
    assert "scan_desc-nnsp_ct.nii.gz" in err
    out = here / "qctrun-out"
    image, sidecar = "scan_desc-nnsp_ct.mha", "scan_desc-nnsp_ct.json"
    assert {path.name for path in out.iterdir()} == {image, sidecar, "filter.run.json", "mine.txt"}
    assert read(out / image).provenance["calibration"]["slope"] == 0.5


def test_other_thresholds_replace_the_whole_earlier_params_run(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--out").code == 0
    assert qctrun("params", "--thresholds", "200,225").code == 0
    code, _, err = qctrun("params", "--thresholds", "225,250", "--overwrite", "--format", "nrrd")
    assert code == 0, err
    out = here / "qctrun-out"
    listed = {
        output["path"]
        for verb in ("filter", "params")
        for output in read_record(out / f"{verb}.run.json")["outputs"]
    }
    assert {path.name for path in out.iterdir()} == listed | {"filter.run.json", "params.run.json"}
    assert not any("thr200" in name for name in listed)


def test_an_output_of_the_earlier_run_is_not_its_own_input(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--out").code == 0
    image = here / "qctrun-out" / "scan_desc-nnsp_ct.nii.gz"
    code, _, err = qctrun("filter", image, "--out", "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "another folder" in err
    assert image.exists()
