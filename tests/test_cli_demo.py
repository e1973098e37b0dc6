"""`qctrun demo`: the whole job in a fresh folder, without torch, and what it shows."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

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


def test_help_names_the_extra(qctrun):
    assert 'Needs the extra "report".' in qctrun("demo", "--help").out


@pytest.fixture
def no_simulation(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("simulated before the words were checked")

    monkeypatch.setattr("qctrun.train.insilico.demonstration.vertebra", fail)


def test_earlier_demonstration_is_kept(no_simulation, tmp_path, qctrun):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "mine.txt").write_text("mine")
    said = qctrun("demo", "-o", tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "--overwrite" in said.err
    assert [path.name for path in tmp_path.rglob("*")] == ["scan", "mine.txt"]


@pytest.mark.parametrize("name", ["scan", "truth.nii.gz", "truth.json", "qctrun-out", "demo.png"])
def test_any_part_of_an_earlier_demonstration_is_seen_first(no_simulation, tmp_path, qctrun, name):
    (tmp_path / name).write_text("mine")
    said = qctrun("demo", "-o", tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert str(tmp_path / name) in said.err
    assert "--overwrite" in said.err
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("source", [None, "rods of 2024", "a scan for qctrun demo"])
def test_scan_of_anyone_else_is_kept_also_when_overwriting(no_simulation, tmp_path, qctrun, source):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "mine.txt").write_text("mine")
    if source is not None:
        line = {"slope": 0.8, "intercept": 0.0, "material": "HA", "source": source}
        (tmp_path / "scan" / "calibration.json").write_text(json.dumps(line))
    said = qctrun("demo", "-o", tmp_path, "--overwrite")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "another --out" in said.err
    assert (tmp_path / "scan" / "mine.txt").read_text() == "mine"


@pytest.fixture
def small(monkeypatch):
    """A vertebra of a few voxels, which is simulated at once."""
    density = np.random.default_rng(0).normal(200, 200, (40, 60, 60)).astype(np.float32)
    mask = np.zeros(density.shape, bool)
    mask[10:30, 20:40, 20:40] = True
    phantom = SimpleNamespace(
        scan=lambda mas, number: density, spacing_mm=(0.34, 0.172, 0.172), truth=density
    )

    def vertebra(seed):
        return SimpleNamespace(phantom=phantom, mask=mask)

    monkeypatch.setattr("qctrun.train.insilico.demonstration.vertebra", vertebra)


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["vertebra", "write_series", "_write_mask", "write"])
def test_interrupted_simulation_leaves_nothing(small, tmp_path, qctrun, monkeypatch, stage):
    monkeypatch.setattr(f"qctrun.train.insilico.demonstration.{stage}", interrupt)
    assert qctrun("demo", "-o", tmp_path / "new" / "demo").code == 130
    assert not list(tmp_path.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def simulated_only(small, tmp_path, qctrun, monkeypatch):
    """A demonstration that was stopped behind the simulation."""
    with monkeypatch.context() as patch:
        patch.setattr(demo, "_typed", interrupt)
        assert qctrun("demo", "-o", tmp_path).code == 130
    assert {path.name for path in tmp_path.iterdir()} == {"scan", "truth.nii.gz", "truth.json"}
    return tmp_path


def test_interrupted_overwriting_keeps_the_earlier_scan(simulated_only, qctrun, monkeypatch):
    before = contents(simulated_only)
    monkeypatch.setattr("qctrun.train.insilico.demonstration.write", interrupt)
    assert qctrun("demo", "-o", simulated_only, "--overwrite").code == 130
    assert contents(simulated_only) == before


def test_old_picture_never_stands_beside_a_new_scan(simulated_only, qctrun, monkeypatch):
    (simulated_only / "demo.png").write_text("of the earlier scan")
    monkeypatch.setattr(demo, "_typed", interrupt)
    assert qctrun("demo", "-o", simulated_only, "--overwrite").code == 130
    assert {path.name for path in simulated_only.iterdir()} == {"scan", "truth.nii.gz", "truth.json"}


def test_overwriting_goes_on_after_a_stop(simulated_only, qctrun):
    (simulated_only / "scan" / "9999.dcm").write_text("of a longer scan")
    said = qctrun("demo", "-q", "-o", simulated_only, "--overwrite")
    assert said.code == 0, said.err
    names = {path.name for path in simulated_only.iterdir()}
    assert names == {"scan", "truth.nii.gz", "truth.json", "qctrun-out", "demo.png"}
    assert not (simulated_only / "scan" / "9999.dcm").exists()


SLOW_TO_STOP = """#!{python}
import pathlib, sys, time
try:
    pathlib.Path("running").touch()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    pathlib.Path("tidy").touch()
    sys.exit(130)
"""


def test_control_c_gives_the_running_line_time_to_tidy_up(tmp_path):
    """As on a terminal, where the signal goes to the whole group of processes."""
    line = tmp_path / "line"
    line.write_text(SLOW_TO_STOP.format(python=sys.executable))
    line.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from qctrun.cli import call, demo, failures;"
        f"sys.executable = {str(line)!r};"
        "run = lambda: demo._typed(call.Call(), 'qctrun filter', Path(), False);"
        "sys.exit(failures.guarded(run, call.Call()))"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, cwd=tmp_path, stderr=-1, text=True, process_group=0) as running:
        while not (tmp_path / "running").exists() and running.poll() is None:
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert err.splitlines()[-1] == "qctrun: error: interrupted"
    assert (tmp_path / "tidy").exists()


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
