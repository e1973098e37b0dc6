"""`qctrun filter` on small synthetic scans, as a user would type it."""

import json
from pathlib import Path

import filtering_models as models
import numpy as np
import pytest
import scans
from conftest import Program

from qctrun.runtime import read
from qctrun.runtime.writing import read_record


def test_the_record_of_the_filter_says_what_was_done(here: Path, qctrun: Program) -> None:
    assert (
        qctrun("filter", "scan", "-o", "there", "--device", "cpu", "--threads", "1", "--format", "mha").code
        == 0
    )
    record = read_record(here / "there" / "filter.run.json")
    assert record["argv"][:3] == ["qctrun", "filter", "scan"]
    assert record["options"]["threads"] == 1
    assert record["device"]["asked"] == record["device"]["used"] == "cpu"
    assert record["device"]["provider"] == "CPUExecutionProvider"
    assert len(record["model"]["sha256"]) == 64
    assert [source["role"] for source in record["inputs"]] == ["image", "calibration"]
    assert [output["path"] for output in record["outputs"]] == [
        "scan_desc-nnsp_ct.mha",
        "scan_desc-nnsp_ct.json",
    ]
    assert record["seconds"].keys() >= {"read", "model", "filter", "write", "total"}


def test_the_filter_is_restricted_only_by_a_mask_that_was_asked_for(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "-o", "whole").code == 0
    assert qctrun("filter", "scan", "-o", "part", "--mask", "scan/mask.nii.gz").code == 0
    roles = [source["role"] for source in read_record(here / "part" / "filter.run.json")["inputs"]]
    assert roles == ["image", "calibration", "mask"]
    whole, part = (read(here / name / "scan_desc-nnsp_ct.nii.gz").array for name in ("whole", "part"))
    centre = tuple(size // 2 for size in scans.SIZE)
    np.testing.assert_allclose(whole[centre], part[centre], rtol=1e-5, atol=1e-3)


def test_a_model_that_nobody_has_scored_is_said(here: Path, qctrun: Program) -> None:
    scored = models.card(scores={"micro-CT donors": [{"rmse": 1.0}]})
    for name, card in (("unscored", models.card()), ("scored", scored)):
        model = models.save(here / "images.onnx", models.nnsp(), card)
        code, _, err = qctrun("filter", "scan", "-o", name, "--model", model)
        assert code == 0, err
        assert ("no scores" in err) == (name == "unscored")
        told = [read_record(here / name / "filter.run.json")["warnings"]]
        told.append(json.loads((here / name / "scan_desc-nnsp_ct.json").read_text())["Warnings"])
        assert [any("no scores" in text for text in texts) for texts in told] == [name == "unscored"] * 2


def test_model_and_device_are_looked_at_before_the_scan(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qctrun.runtime.reading.scans.read_dicom", lambda *_, **__: pytest.fail("read"))
    assert qctrun("filter", "scan", "--model", "nowhere.onnx").code == 4
    assert qctrun("filter", "scan", "--device", "cuda:99").code == 5
