"""`qctrun filter` on small synthetic scans, as a user would type it."""

import json
from pathlib import Path

import fake_cuda
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
    assert record["device"]["provider"] == record["filter"]["provider"]
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


def test_the_margin_is_that_of_the_spheres_to_come(here: Path, qctrun: Program) -> None:
    mask = ("--mask", "scan/mask.nii.gz")
    shares = []
    for words in (("--margin", "0"), (), ("--margin", "2", "--params", "--diameter", "4")):
        assert qctrun("filter", "scan", *mask, *words, "--overwrite").code == 0
        record = read_record(here / "qctrun-out" / "filter.run.json")
        assert record["options"]["margin_mm"] == record["filter"]["margin_mm"]
        shares.append((record["filter"]["margin_mm"], record["filter"]["filtered_fraction"]))
    assert [margin for margin, _ in shares] == [0.0, 5.0, 2.0]
    none, whole, some = (share for _, share in shares)
    assert none < some < whole
    assert qctrun("filter", "scan", *mask, "--margin", "-1", "-o", "b").code == 2


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


def test_backend_and_precision_are_recorded(here: Path, qctrun: Program) -> None:
    words = ("--device", "cpu", "--threads", "1", "--backend", "onnxruntime")
    assert qctrun("filter", "scan", *words).code == 0
    record = read_record(here / "qctrun-out" / "filter.run.json")
    assert (record["options"]["backend"], record["options"]["precision"]) == ("onnxruntime", "fp32")
    assert (record["device"]["backend"], record["device"]["precision"]) == ("onnxruntime", "fp32")
    assert record["device"]["provider"] == "CPUExecutionProvider"
    assert record["filter"]["self_test"]["most_relative"] < 1e-5


def test_words_of_the_filter_that_make_no_sense(here: Path, qctrun: Program) -> None:
    for words in (
        ("--backend", "torch"),
        ("--precision", "bf16"),
        ("--precision", "tf32", "--device", "cpu"),
        ("--backend", "openvino", "--device", "cuda"),
    ):
        said = qctrun("filter", "scan", *words)
        assert said.code == 2 and said.err.count("\n") == 1, words
    assert not (here / "qctrun-out").exists()


def test_the_error_of_a_lower_precision_is_said(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.install(monkeypatch)
    said = qctrun("filter", "scan", "--precision", "tf32")
    assert said.code == 0 and "precision tf32: " in said.err and "mg/cm3" in said.err
    record = read_record(here / "qctrun-out" / "filter.run.json")
    assert any("precision tf32: " in note for note in record["device"]["notes"])


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ({"fails": "CUDA failure 719: unspecified launch failure"}, 5, "the GPU was lost"),
        ({"most_voxels": 100}, 6, "MB free"),
    ],
)
def test_a_fault_of_the_gpu_in_mid_run_leaves_nothing(
    here: Path,
    qctrun: Program,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, object],
    code: int,
    words: str,
) -> None:
    runtime = fake_cuda.install(monkeypatch)

    def break_down(*_: object) -> None:
        vars(runtime).update(fault)

    monkeypatch.setattr("qctrun.cli.scans.read_mask", break_down)  # called once the model is open
    said = qctrun("filter", "scan", "--device", "cuda")
    assert said.code == code and words in said.err and said.err.splitlines()[-1].startswith("qctrun: error: ")
    assert not list((here / "qctrun-out").glob("*"))
