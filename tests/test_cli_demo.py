"""`qctrun demo`: the whole job in a fresh folder, without torch, and what it shows."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from qctrun.cli import demo
from qctrun.runtime import read

NUMBER = r"(-?\d+\.\d+|n/a)"


def without_torch(folder):
    """An environment whose torch fails as soon as anyone imports it, also in programs that are started."""
    folder.mkdir()
    (folder / "torch.py").write_text("raise AssertionError('torch was imported')\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_the_simulator_does_not_import_torch():
    modules = (
        "qctrun.train.insilico.bone, qctrun.train.insilico.fields, qctrun.train.insilico.phantom, "
        "qctrun.train.insilico.scanner, qctrun.train.insilico.vertebra, qctrun.train.insilico.series, "
        "qctrun.train.insilico.demonstration, qctrun.train.insilico.picture, qctrun.cli.demo"
    )
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_two_lines_are_the_main_job():
    assert demo.LINES == ("qctrun filter scan/ --out", "qctrun params --thresholds 200,225,250")


def test_earlier_demonstration_is_kept(tmp_path, qctrun):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "mine.txt").write_text("mine")
    said = qctrun("demo", "-o", tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "--overwrite" in said.err
    assert [path.name for path in tmp_path.rglob("*")] == ["scan", "mine.txt"]


@pytest.fixture
def no_simulation(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("simulated before the words were checked")

    monkeypatch.setattr("qctrun.train.insilico.demonstration.vertebra", fail)


def test_folder_that_cannot_be_written_is_said_first(no_simulation, tmp_path, qctrun):
    (tmp_path / "file").write_text("mine")
    said = qctrun("demo", "-o", tmp_path / "file")
    assert said.code == 7, said.err
    assert len([line for line in said.err.splitlines() if "error" in line]) == 1


def test_negative_seed_is_a_usage_error(no_simulation, tmp_path, qctrun):
    said = qctrun("demo", "-o", tmp_path / "demo", "--seed", "-1")
    assert said.code == 2, said.err


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demonstration as a person types it in a fresh folder; its folder and what it said."""
    here = tmp_path_factory.mktemp("fresh")
    done = subprocess.run(
        [sys.executable, "-m", "qctrun.cli.main", "demo"],
        cwd=here,
        env=without_torch(tmp_path_factory.mktemp("environment") / "no"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return here / "qctrun-demo", done


def table(text):
    """The printed table: words before the numbers -> the numbers, global rows and errors of maps apart."""
    halves = re.split(r"^local maps.*$", text, flags=re.MULTILINE)
    assert len(halves) == 2
    found = []
    for half in halves:
        lines = (
            re.match(rf"\s+(.*?)\s+{NUMBER}\s+{NUMBER}(?:\s+{NUMBER})?$", line) for line in half.splitlines()
        )
        found.append({m[1]: [float(v) for v in m.groups()[1:] if v is not None] for m in lines if m})
    return found


@pytest.mark.slow
def test_files_of_the_demonstration(shown):
    folder, _ = shown
    assert len(list((folder / "scan").glob("*.dcm"))) >= 80
    for name in (
        "scan/mask.nii.gz",
        "scan/calibration.json",
        "truth.nii.gz",
        "demo.png",
        "qctrun-out/scan_desc-nnsp_ct.nii.gz",
        "qctrun-out/params.csv",
        "qctrun-out/filter.run.json",
        "qctrun-out/params.run.json",
    ):
        assert (folder / name).is_file(), name
    names = {path.name for path in (folder / "qctrun-out").iterdir()}
    for threshold in (200, 225, 250):
        for kind in ("BVTV", "TMD"):
            assert sum(name.endswith(f"_thr{threshold}_{kind}map.nii.gz") for name in names) == 1
    assert {path.name for path in folder.iterdir()} == {
        "scan",
        "truth.nii.gz",
        "truth.json",
        "qctrun-out",
        "demo.png",
    }


@pytest.mark.slow
def test_demonstration_used_calibration_and_mask(shown):
    folder, _ = shown
    with (folder / "qctrun-out" / "params.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert all(row["mask"] != "none" for row in rows)
    record = json.loads((folder / "qctrun-out" / "filter.run.json").read_text())
    assert record["exit_code"] == 0
    assert "nominal" not in json.dumps(record.get("warnings", []))


@pytest.mark.slow
def test_words_of_the_demonstration(shown):
    _, done = shown
    for line in demo.LINES:
        assert f"$ {line}" in done.stderr
    assert "demo.png" in done.stderr
    assert "warning" not in done.stderr.lower()
    assert re.search(r"^over the mask\s+raw\s+filtered\s+truth$", done.stdout, re.MULTILINE)
    globally, locally = table(done.stdout)
    assert set(globally) == {
        "BMD, mg/cm3",
        *(f"TMD at {t}, mg/cm3" for t in (200, 225, 250)),
        *(f"BV/TV at {t}, %" for t in (200, 225, 250)),
    }
    assert all(len(values) == 3 for values in globally.values())
    assert {"BMD, mg/cm3", "TMD at 225, mg/cm3", "BV/TV at 225, %"} <= set(locally)
    assert all(len(values) == 2 for values in locally.values())


@pytest.mark.slow
def test_filtered_column_is_what_params_wrote(shown):
    folder, done = shown
    globally, _ = table(done.stdout)
    with (folder / "qctrun-out" / "params.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            threshold = f"{float(row['threshold_mg_cm3']):g}"
            assert globally[f"TMD at {threshold}, mg/cm3"][1] == pytest.approx(
                float(row["tmd_mg_cm3"]), abs=0.02
            )
            assert globally[f"BV/TV at {threshold}, %"][1] == pytest.approx(
                100 * float(row["bvtv"]), abs=0.02
            )
            assert globally["BMD, mg/cm3"][1] == pytest.approx(float(row["bmd_mg_cm3"]), abs=0.02)


@pytest.mark.slow
def test_truth_column_is_that_of_the_truth(shown):
    folder, done = shown
    truth, raw = read(folder / "truth.nii.gz"), read(folder / "scan")
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "scan" / "mask.nii.gz"))) > 0
    globally, _ = table(done.stdout)
    for column, volume in ((2, truth), (0, raw)):
        inside = volume.array[mask].astype(np.float64)
        assert globally["BMD, mg/cm3"][column] == pytest.approx(inside.mean(), abs=0.02)
        assert globally["BV/TV at 225, %"][column] == pytest.approx(100 * np.mean(inside >= 225), abs=0.02)
        assert globally["TMD at 225, mg/cm3"][column] == pytest.approx(inside[inside >= 225].mean(), abs=0.02)


@pytest.mark.slow
def test_raw_is_noisy_and_truth_is_not(shown):
    """The tables' 100 mAs row: raw TMD far too high, raw BV/TV about twice the truth."""
    globally, _ = table(shown[1].stdout)
    raw, _, truth = globally["TMD at 225, mg/cm3"]
    assert raw > truth + 60
    raw, _, truth = globally["BV/TV at 225, %"]
    assert raw > truth + 10
    raw, _, truth = globally["BMD, mg/cm3"]
    assert raw == pytest.approx(truth, abs=20)


@pytest.mark.slow
def test_picture_is_not_blank(shown):
    """Three rows of seven pictures, the last three of the truth left empty: each other one has tones of its own."""
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(shown[0] / "demo.png"))).astype(float)[..., :3]
    height, width = image.shape[:2]
    assert width > 1000
    assert height > 500
    for row in range(3):
        for column in range(7):
            tile = image[
                row * height // 3 : (row + 1) * height // 3, column * width // 7 : (column + 1) * width // 7
            ]
            drawn = np.mean(tile.min(axis=2) < 250)
            if (row, column) in {(2, 4), (2, 5), (2, 6)}:
                assert drawn < 0.2, (row, column)
            else:
                assert drawn > 0.25, (row, column)
                assert tile.std() > 20, (row, column)


@pytest.mark.slow
@pytest.mark.parametrize("quantity", ["TMD at {}, mg/cm3", "BV/TV at {}, %"])
def test_filter_brings_the_parameters_nearer_to_the_truth(shown, quantity):
    """With the shipped model, over the mask and in every local map: less than half of the raw error is left.

    "Nearer" alone would say nothing: a network that has learned nothing is nearer by three parts in a thousand.
    """
    globally, locally = table(shown[1].stdout)
    for threshold in (200, 225, 250):
        raw, filtered, truth = globally[quantity.format(threshold)]
        assert abs(filtered - truth) < 0.5 * abs(raw - truth)
        raw, filtered = locally[quantity.format(threshold)]
        assert filtered < 0.5 * raw
