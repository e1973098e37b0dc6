"""What cannot be done is one line, an exit code and no trace."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import filtering_models as models
import pytest
import scans
from cli_outputs import RUN, left_behind
from conftest import Program

from qctrun.runtime import write


def two_series(folder: Path) -> list[str]:
    scans.make_series(folder / "scan", seed=1, prefix="other")
    return ["scan"]


def hounsfield_without_unit(folder: Path) -> list[str]:
    path = write(scans.density(), folder / "images" / "plain.nii.gz")
    path.with_name("plain.json").unlink()
    return [str(path)]


def other_kvp(folder: Path) -> list[str]:
    scans.make_series(folder / "images" / "kvp80", kvp=80)
    return ["images/kvp80"]


def mask_on_another_grid(folder: Path) -> list[str]:
    return ["scan", "--mask", str(scans.write_mask(folder / "images" / "mask.nii.gz", spacing_mm=0.5))]


def empty_folder(folder: Path) -> list[str]:
    (folder / "images").mkdir()
    return ["images"]


def no_model(folder: Path) -> list[str]:
    return ["scan", "--model", "nowhere.onnx"]


def no_gpu(folder: Path) -> list[str]:
    return ["scan", "--device", "cuda:99"]


def below_a_file(folder: Path) -> list[str]:
    (folder / "images").touch()
    return ["scan", "--out", "images/deeper"]


def in_proc(folder: Path) -> list[str]:
    return ["scan", "--out", "/proc/qctrun-out"]


@pytest.mark.parametrize(
    ("prepare", "code", "reason"),
    [
        (two_series, 3, "--series-uid"),
        (hounsfield_without_unit, 3, "--unit"),
        (other_kvp, 3, "--calibration"),
        (mask_on_another_grid, 3, "grid"),
        (empty_folder, 3, "series"),
        (lambda folder: ["nowhere"], 3, "no such file"),
        (no_model, 4, "nowhere.onnx"),
        (no_gpu, 5, "cuda"),
        (below_a_file, 7, "a part of the path is a file"),
        (in_proc, 7, "/proc/qctrun-out"),
    ],
)
def test_a_failed_filter_is_one_line_and_leaves_nothing(
    here: Path, qctrun: Program, prepare: object, code: int, reason: str
) -> None:
    assert callable(prepare)
    found = qctrun("filter", "-q", *prepare(here))
    assert (found.code, found.out, found.err.count("\n")) == (code, "", 1)
    assert found.err.startswith("qctrun: error: ")
    assert reason in found.err
    assert not left_behind(here)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--mask", "images/other.nii.gz"], 3, "grid"),
        (["--labels", "images/other.nii.gz"], 3, "grid"),
        (["--labels", "scan/mask.nii.gz", "--label-ids", "20"], 3, "20"),
        (["--diameter", "0.1"], 3, "sphere"),
        (["--calibration", "1,2"], 3, "--calibration"),
        (["--material", "K2HPO4"], 3, "K2HPO4"),
        (["--device", "cuda:99"], 5, "cuda"),
        (["--out", "images/density.nii.gz"], 7, "file"),
    ],
)
def test_failed_params_are_one_line_and_leave_nothing(
    here: Path, image: Path, qctrun: Program, words: list[str], code: int, reason: str
) -> None:
    scans.write_mask(here / "images" / "other.nii.gz", spacing_mm=0.5)
    found = qctrun("params", image, "-q", *words)
    assert (found.code, found.out, found.err.count("\n")) == (code, "", 1)
    assert reason in found.err
    assert not left_behind(here)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--calibration", "0.8,nan"], "finite"),
        (["--calibration", "-1,0"], "slope"),
        (["--calibration", "0.8"], "0.8: cannot be read"),
        (["--calibration", "0.8,x"], "0.8,x: cannot be read"),
        (["--calibration", "nowhere.json"], "nowhere.json: cannot be read"),
    ],
)
def test_a_calibration_that_is_none_is_bad_input(
    here: Path, qctrun: Program, words: list[str], reason: str
) -> None:
    code, _, err = qctrun("filter", "scan", *words)
    assert (code, err.count("\n")) == (3, 1)
    assert reason in err
    assert not left_behind(here)


def test_a_slice_that_may_not_be_read_is_bad_input(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def opened(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "slice007.dcm":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", opened)
    for verb in ("filter", "params", "info"):
        code, _, err = qctrun(verb, "scan")
        assert (code, err.count("error:"), "unexpected" in err) == (3, 1, False)
        assert "scan/slice007.dcm: cannot be read: Permission denied" in err


def test_a_file_that_may_not_be_read_is_left_to_the_room_that_reads_it(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "images").mkdir()
    model = models.save(here / "images" / "a.onnx", models.nnsp())
    scans.write_mask(here / "images" / "closed.nii.gz")
    real_open, real_bytes = Path.open, Path.read_bytes

    def refused(path: Path) -> None:
        if path.parent.name == "images":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def opened(path: Path, *args: Any, **options: Any) -> Any:
        refused(path)
        return real_open(path, *args, **options)

    def read_whole(path: Path) -> bytes:
        refused(path)
        return real_bytes(path)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(Path, "read_bytes", read_whole)
    monkeypatch.setattr(os, "access", lambda path, *_, **__: "images" not in str(path))
    closed = "images/closed.nii.gz"
    for words, wanted in (
        (["filter", closed, "--unit", "mg/cm3", "--material", "HA"], 3),
        (["filter", "scan", "--mask", closed], 3),
        (["params", "scan", "--labels", closed], 3),
        (["filter", "scan", "--model", model], 4),
    ):
        code, _, err = qctrun(*words, "-q")
        assert (code, err.count("\n")) == (wanted, 1), err
        assert "ermission denied" in err


def test_missing_onnxruntime_names_the_line_that_installs_it(here: Path) -> None:
    code = f"import sys; sys.modules.update(onnxruntime=None, openvino=None); {RUN}"
    found = subprocess.run(
        [sys.executable, "-c", code, "filter", "scan", "-q"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr.count("\n")) == (5, 1)
    assert "pip install" in found.stderr
    assert not left_behind(here)
