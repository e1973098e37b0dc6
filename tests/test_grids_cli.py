"""`qctrun filter --grid`: what it writes down, and that `--params` is still the two commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import scans
from conftest import Program

from qctrun.runtime import Grid, Volume, read, write
from qctrun.runtime.writing import read_record

CPU = ("--device", "cpu", "--threads", "1")


@pytest.fixture
def coarse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A density image of voxels of 0.4 mm in the current folder."""
    monkeypatch.chdir(tmp_path)
    size = (14, 22, 22)
    volume = Volume(scans.hounsfield(size).astype(np.float32), Grid(size, (0.5, 0.4, 0.4)), "mg/cm3", "HA")
    return write(volume, tmp_path / "scan.nii.gz")


def test_on_the_model_s_grid_and_back(coarse: Path, qctrun: Program) -> None:
    code, _, err = qctrun("filter", "scan.nii.gz", "--grid", "model", *CPU)
    assert code == 0, err
    assert "0.5 x 0.4 x 0.4 mm" in err
    record = read_record(Path("qctrun-out/filter.run.json"))
    assert record["options"]["grid"] == record["filter"]["grid"] == "model"
    steps = record["filter"]["resampling"]
    assert [step["what"] for step in steps] == ["onto the model's grid", "back onto the scan's grid"]
    assert any("by cubic B-splines" in warning for warning in record["warnings"])
    sidecar = json.loads(Path("qctrun-out/scan_desc-nnsp_ct.json").read_text())
    assert sidecar["Resampling"] == steps
    filtered = read(Path("qctrun-out/scan_desc-nnsp_ct.nii.gz"))
    assert not filtered.grid.difference(read(coarse).grid)


def test_native_is_the_default_and_is_written_down(coarse: Path, qctrun: Program) -> None:
    code, _, err = qctrun("filter", "scan.nii.gz", *CPU)
    assert code == 0 and "--grid model" in err
    assert read_record(Path("qctrun-out/filter.run.json"))["options"]["grid"] == "native"
    assert "Resampling" not in json.loads(Path("qctrun-out/scan_desc-nnsp_ct.json").read_text())


def test_measured_in_one_go_it_is_the_two_commands(coarse: Path, qctrun: Program) -> None:
    words = ("--grid", "model", *CPU)
    assert qctrun("filter", "scan.nii.gz", *words).code == 0
    code, printed, err = qctrun("params", *CPU, "--diameter", "2")
    assert code == 0, err
    folder = Path("qctrun-out").rename("apart")
    code, out, err = qctrun("filter", "scan.nii.gz", *words, "--params", "--diameter", "2")
    assert (code, out) == (0, printed), err
    for path in folder.iterdir():
        if not path.name.endswith(".run.json"):
            assert Path("qctrun-out", path.name).read_bytes() == path.read_bytes(), path.name


def test_another_word_is_refused(coarse: Path, qctrun: Program) -> None:
    code, _, err = qctrun("filter", "scan.nii.gz", "--grid", "isotropic")
    assert code == 2 and "isotropic" in err
    assert not Path("qctrun-out").exists()


def test_too_large_for_memory_is_one_line_and_leaves_nothing(
    coarse: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qctrun.runtime.filtering.grids._free_bytes", lambda: 2**16)
    code, out, err = qctrun("filter", "scan.nii.gz", "--grid", "model", *CPU)
    assert (code, out) == (6, "")
    assert "--mask" in err.splitlines()[-1] and "MB free" in err.splitlines()[-1]
    assert not Path("qctrun-out", "filter.run.json").exists()
