"""The verbs on small synthetic scans, as a user would type them."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dicom_series
import filtering_models as models
import numpy as np
import pytest
import scans
from conftest import Program

from qctrun.runtime import Grid, Volume, read, write
from qctrun.runtime.writing import read_record

RUN = "import sys; from qctrun.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder to work in, with a scan."""
    monkeypatch.chdir(tmp_path)
    scans.make_scan(tmp_path / "scan")
    return tmp_path


@pytest.fixture
def image(here: Path) -> Path:
    """The same scan as a density image without companions, in its own folder."""
    return write(scans.density(), here / "images" / "density.nii.gz")


def table(folder: str | Path) -> list[dict[str, str]]:
    with (Path(folder) / "params.csv").open() as file:
        return list(csv.DictReader(file))


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"scan", "images"}


def test_the_two_literal_lines_work_one_after_the_other(here: Path) -> None:
    program = Path(sys.executable).with_name("qctrun")
    words = [str(program)] if program.exists() else [sys.executable, "-c", RUN]
    first = subprocess.run([*words, "filter", "scan/", "--out"], capture_output=True, text=True, check=False)
    assert (first.returncode, first.stdout) == (0, ""), first.stderr
    assert "calibration.json" in first.stderr
    assert "mask.nii.gz" in first.stderr
    second = subprocess.run(
        [*words, "params", "--thresholds", "200,225,250"], capture_output=True, text=True, check=False
    )
    assert second.returncode == 0, second.stderr
    assert "qctrun-out/scan_desc-nnsp_ct.nii.gz" in second.stderr
    assert second.stdout.count("\n") == 5
    assert "mask: scan/mask.nii.gz\n" in second.stdout

    out = here / "qctrun-out"
    stem = "scan_desc-nnsp_ct"
    maps = [f"{stem}_{name}map" for name in ("BMD", "SD")]
    maps += [f"{stem}_thr{t}_{name}map" for t in (200, 225, 250) for name in ("BVTV", "TMD")]
    images = {f"{name}.{suffix}" for name in (stem, *maps) for suffix in ("nii.gz", "json")}
    tables = {"params.csv", "params.json", "filter.run.json", "params.run.json"}
    assert {path.name for path in out.iterdir()} == images | tables

    rows = table(out)
    assert [row["threshold_mg_cm3"] for row in rows] == ["200", "225", "250"]
    assert {(row["case_id"], row["mask"], row["calibration_nominal"]) for row in rows} == {
        ("scan", str(here / "scan" / "mask.nii.gz"), "false")
    }
    filtered = read(out / f"{stem}.nii.gz")
    assert (filtered.unit, filtered.material) == ("mg/cm3", "HA")
    assert not filtered.grid.difference(scans.grid())


def test_no_output_names_the_patient(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--out").code == 0
    assert qctrun("params").code == 0
    texts = [path.read_bytes() for path in (here / "qctrun-out").iterdir()]
    assert not any(b"Nobody" in text or b"SECRET" in text for text in texts)


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


def test_a_found_mask_is_taken_by_params_also_of_a_raw_scan(here: Path, qctrun: Program) -> None:
    code, out, err = qctrun("params", "scan", "--json")
    assert code == 0, err
    (row,) = json.loads(out)
    assert (row["mask"], row["threshold_mg_cm3"], row["case_id"]) == ("scan/mask.nii.gz", 225, "scan")
    assert "found the mask scan/mask.nii.gz" in err


def test_without_a_mask_it_is_said_that_everything_counts(image: Path, qctrun: Program) -> None:
    code, out, err = qctrun("params", image, "--json", "--thresholds", "250,200,250")
    assert code == 0, err
    assert "air and soft tissue" in err
    rows = json.loads(out)
    assert [(row["mask"], row["label_name"], row["threshold_mg_cm3"]) for row in rows] == [
        ("none", "whole volume", 250),
        ("none", "whole volume", 200),
    ]
    assert rows[0]["voxels"] == np.prod(scans.SIZE)
    assert any("air" in text for text in read_record(Path("qctrun-out/params.run.json"))["warnings"])


def test_labels_give_a_row_each(here: Path, image: Path, qctrun: Program) -> None:
    labels = np.zeros(scans.SIZE, np.float32)
    labels[:, 15:30, 15:22], labels[:, 15:30, 22:30], labels[:3, :3, :3] = 20, 21, 7
    write(Volume(labels, scans.grid(), "1"), here / "images" / "labels.nii.gz")
    code, out, err = qctrun(
        "params", image, "--labels", here / "images" / "labels.nii.gz", "--label-ids", "20,21", "--json"
    )
    assert code == 0, err
    rows = json.loads(out)
    assert [row["label_id"] for row in rows] == [None, 20, 21]
    assert rows[0]["voxels"] == rows[1]["voxels"] + rows[2]["voxels"]
    assert rows[0]["local_spheres"] == rows[1]["local_spheres"] + rows[2]["local_spheres"] > 0


def test_a_nominal_calibration_is_loud_and_in_every_output(here: Path, qctrun: Program) -> None:
    (here / "scan" / "calibration.json").unlink()
    code, _, err = qctrun("filter", "scan", "--out")
    assert code == 0
    assert "NOMINAL" in err
    assert qctrun("params", "-q").err == ""
    out = here / "qctrun-out"
    assert json.loads((out / "scan_desc-nnsp_ct.json").read_text())["Calibration"]["nominal"]
    assert json.loads((out / "scan_desc-nnsp_ct_BMDmap.json").read_text())["Calibration"]["nominal"]
    assert any("NOMINAL" in text for text in read_record(out / "params.run.json")["warnings"])
    assert {row["calibration_nominal"] for row in table(out)} == {"true"}
    assert qctrun("filter", "scan", "-o", "strict", "--strict").code == 3


def test_out_takes_the_next_word_and_says_so_when_it_was_the_input(here: Path, qctrun: Program) -> None:
    code, _, err = qctrun("filter", "--out", "scan/")
    assert (code, err.count("\n")) == (2, 1)
    assert "qctrun filter scan --out" in err
    assert qctrun("filter", "--out=there", "scan").code == 0
    assert qctrun("params", "--out", "there").code == 0
    assert (here / "there" / "params.csv").is_file()
    assert not (here / "qctrun-out").exists()


def test_params_without_input_and_without_a_filtered_volume_says_what_to_type(
    here: Path, qctrun: Program
) -> None:
    code, _, err = qctrun("params", "--thresholds", "200")
    assert (code, err.count("\n")) == (2, 1)
    assert "qctrun filter INPUT --out" in err
    assert not left_behind(here)


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


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"outputs": [], "options": {}},
        {"outputs": [3], "options": None},
        {"outputs": [{"role": "image", "path": "a.mha"}], "options": {"mask": None, "mask_found": None}},
        {"outputs": [{"role": "image", "path": 3, "sha256": ""}], "options": {"mask": 1}},
        {"outputs": [{"role": "image", "path": "a.mha", "sha256": ""}], "options": {"mask": None}},
    ],
)
def test_a_spoilt_record_of_the_filter_is_bad_input(
    here: Path, qctrun: Program, rest: dict[str, object]
) -> None:
    (here / "qctrun-out").mkdir()
    (here / "qctrun-out" / "filter.run.json").write_text(json.dumps({"schema": "qctrun/run/1", **rest}))
    code, _, err = qctrun("params")
    assert (code, err.count("\n")) == (3, 1)
    assert "filter.run.json" in err


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


def test_the_record_of_params_says_what_computed(here: Path, qctrun: Program) -> None:
    assert qctrun("params", "scan", "--device", "auto").code == 0
    assert read_record(here / "qctrun-out" / "params.run.json")["device"] == {"asked": "auto", "used": "cpu"}


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


def test_a_unit_is_understood_in_any_letters(image: Path, qctrun: Program) -> None:
    image.with_name("density.json").unlink()
    for number, unit in enumerate(("hu", "HU", "Mg/Cm3")):
        words = ["--calibration", "1,0"] * (number < 2)
        code, _, err = qctrun("params", image, "-o", f"{number}", "--unit", unit, "--material", "HA", *words)
        assert code == 0, err
    assert len({table(f"{number}")[0]["bmd_mg_cm3"] for number in range(3)}) == 1


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


def test_missing_onnxruntime_names_the_line_that_installs_it(here: Path) -> None:
    code = f"import sys; sys.modules['onnxruntime'] = None; {RUN}"
    found = subprocess.run(
        [sys.executable, "-c", code, "filter", "scan", "-q"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr.count("\n")) == (5, 1)
    assert "pip install" in found.stderr
    assert not left_behind(here)


def test_memory_that_runs_out_while_filtering_is_exit_code_6(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("qctrun.runtime.filtering.Filter.__call__", too_large)
    code, _, err = qctrun("filter", "scan", "-q")
    assert (code, err.count("\n")) == (6, 1)
    assert not left_behind(here)


def test_a_stop_between_volume_and_record_leaves_neither(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qctrun.runtime.writing.RunRecord.add_to", stop)
    assert qctrun("filter", "scan", "-q").code == 130
    assert not left_behind(here)


def test_control_c_stops_a_running_filter_without_a_trace(here: Path) -> None:
    noise = np.random.default_rng(0).normal(100, 50, (300, 256, 256)).astype(np.float32)
    write(Volume(noise, Grid(noise.shape, scans.SPACING_MM), "mg/cm3", "HA"), here / "images" / "large.mha")
    words = [sys.executable, "-c", RUN, "filter", "images/large.mha", "--out", "--threads", "1"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as running:
        while not (here / "qctrun-out").exists() and running.poll() is None:
            time.sleep(0.02)
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not left_behind(here)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted only by root")
def test_a_full_disk_is_exit_code_7_and_leaves_nothing(here: Path, image: Path, qctrun: Program) -> None:
    disk = here / "images" / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        for verb, source in (("filter", "scan"), ("params", image)):
            code, out, err = qctrun(verb, source, "-q", "-o", disk / "out", "--format", "nrrd")
            assert (code, out, err.count("\n")) == (7, "", 1)
            assert "space" in err
            assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_zip_works_as_its_folder_does(here: Path, qctrun: Program) -> None:
    shutil.make_archive("case7", "zip", here / "scan")
    assert qctrun("filter", "case7.zip", "--out").code == 0
    code, _, err = qctrun("params")
    assert code == 0, err
    (row,) = table("qctrun-out")
    assert row["mask"].endswith("case7.zip/mask.nii.gz")


def test_info_shows_series_that_are_no_volume(here: Path, qctrun: Program) -> None:
    (here / "scan" / "slice007.dcm").unlink()
    code, out, _ = qctrun("info", "scan", "--json")
    facts = json.loads(out)
    (series,) = facts["series"]
    assert (code, facts["format"], series["volume"]) == (0, "dicom", False)
    assert series["size_zyx"] == [scans.SIZE[0] - 1, *scans.SIZE[1:]]
    assert (series["kvp"], series["kernel"]) == (120, "B40")
    assert series["problems"]
    assert (facts["calibration"]["slope"], facts["mask"]) == (0.8, "scan/mask.nii.gz")
    code, out, _ = qctrun("info", "scan")
    assert series["series_uid"] in out
    assert "volume: no" in out


def test_info_shows_why_a_companion_cannot_be_used(here: Path, image: Path, qctrun: Program) -> None:
    (here / "scan" / "calibration.json").write_text('{"slope": 0.8}')
    code, out, _ = qctrun("info", "scan", "--json")
    facts = json.loads(out)
    assert (code, len(facts["series"]), facts["mask"]) == (0, 1, "scan/mask.nii.gz")
    assert "no intercept" in facts["calibration"]["error"]
    code, out, _ = qctrun("info", "scan")
    assert code == 0
    assert "calibration: error scan/calibration.json: wanted slope" in out
    image.with_name("density.json").write_text("{")
    code, out, _ = qctrun("info", image, "--json")
    facts = json.loads(out)
    assert (code, facts["dimensions"], facts["unit"]) == (0, 3, None)
    assert "wanted JSON" in facts["sidecar"]["error"]


def test_a_calibration_that_was_not_used_is_not_named(image: Path, qctrun: Program) -> None:
    line = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": "test rods"}
    image.with_name("calibration.json").write_text(json.dumps(line))
    code, _, err = qctrun("params", image)
    assert code == 0, err
    assert "found in" not in err
    inputs = read_record(Path("qctrun-out/params.run.json"))["inputs"]
    assert [source["role"] for source in inputs] == ["image"]


def test_info_shows_an_image_of_any_dimension(image: Path, qctrun: Program) -> None:
    import SimpleITK as sitk

    facts = json.loads(qctrun("info", image, "--json").out)
    assert (facts["size_xyz"], facts["unit"], facts["material"]) == ([44, 44, 20], "mg/cm3", "HA")
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkUInt8), "flat.mha")
    code, out, _ = qctrun("info", "flat.mha")
    assert code == 0
    assert "dimensions: 2" in out
    Path("broken.nrrd").write_bytes(b"NRRD0004\n")
    code, _, err = qctrun("info", "broken.nrrd")
    assert (code, err.count("\n")) == (3, 1)


def test_companions_that_lie_with_the_slices_are_used(here: Path, qctrun: Program) -> None:
    (here / "case").mkdir()
    (here / "scan").rename(here / "case" / "scan")
    shutil.make_archive("zipped", "zip", here / "case")
    rows = []
    for source in ("case", "zipped.zip"):
        code, _, err = qctrun("params", source, "-o", f"out-{source}")
        assert code == 0, err
        assert "0.8 HU +2 mg/cm3 HA (test rods)" in err
        (row,) = table(f"out-{source}")
        assert row["mask"] == f"{source}/scan/mask.nii.gz"
        rows.append((row["bmd_mg_cm3"], row["voxels"]))
    assert rows[0] == rows[1]


def test_masks_that_contradict_each_other_are_refused_until_one_is_named(here: Path, qctrun: Program) -> None:
    (here / "case").mkdir()
    (here / "scan").rename(here / "case" / "scan")
    other = scans.write_mask(here / "case" / "mask.nii.gz", spacing_mm=1.0)
    for verb in ("filter", "params"):
        code, _, err = qctrun(verb, "case", "-o", verb)
        assert (code, err.count("\n")) == (3, 1)
        assert f"{other.relative_to(here)} and case/scan/mask.nii.gz, which differ" in err
        assert qctrun(verb, "case", "-o", verb, "--mask", "case/scan/mask.nii.gz").code == 0


def test_the_words_on_density_name_who_says_so(image: Path, qctrun: Program) -> None:
    said = "density in mg/cm3 HA, as its sidecar says"
    assert f"{said} (by what line is not known)" in qctrun("params", image).err
    assert qctrun("filter", "scan", "--out", "--overwrite").code == 0
    filtered = "qctrun-out/scan_desc-nnsp_ct.nii.gz"
    err = qctrun("params", filtered, "-o", "other").err
    assert f"{said} (made with 0.8 HU +2 mg/cm3 HA, test rods)" in err
    image.with_name("density.json").unlink()
    words = ("--unit", "mg/cm3", "--material", "HA", "--overwrite")
    assert "as --unit says" in qctrun("params", image, *words).err
    code, _, err = qctrun("params", filtered, "--calibration", "0.7,0", "--overwrite")
    assert (code, err.count("\n")) == (3, 1)
    assert "another line needs the scan in HU" in err
    assert "--unit" not in err


def test_spheres_beyond_a_filtered_mask_are_told_by_params_too(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--out", "--mask", "scan/mask.nii.gz").code == 0
    sidecar = here / "qctrun-out" / "scan_desc-nnsp_ct.json"
    facts = json.loads(sidecar.read_text())
    assert facts["FilterMarginMM"] == 5.0
    # The synthetic scan is smaller than the margin around its mask.
    sidecar.write_text(json.dumps({**facts, "FilteredFraction": 0.5, "FilterMarginMM": 1.0}))
    code, _, err = qctrun("params")
    assert code == 0
    assert "spheres of 4.3 mm mix filtered with raw voxels" in err
    assert any(
        "mix filtered" in text for text in read_record(here / "qctrun-out/params.run.json")["warnings"]
    )


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


def test_info_shows_where_a_series_lies(here: Path, qctrun: Program) -> None:
    (series,) = json.loads(qctrun("info", "scan", "--json").out)["series"]
    assert series["orientation"] == "x to left, y to back, z to head"
    assert series["origin_xyz_mm"] == list(scans.ORIGIN_MM)
    assert series["direction_lps"] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert series["image_orientation_patient"] == [1, 0, 0, 0, 1, 0]
    out = qctrun("info", "scan").out
    assert "    orientation: x to left, y to back, z to head\n" in out
    assert "    origin_xyz_mm: -10 20 30\n" in out
    assert "direction_lps" not in out


def test_info_shows_where_a_turned_slice_without_a_uid_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qctrun: Program
) -> None:
    monkeypatch.chdir(tmp_path)
    axes = dicom_series.rotation(0.0, 0.0, 0.1) @ np.diag([1.0, -1.0, -1.0])
    slices = np.zeros((1, 4, 5), np.int16)
    dicom_series.write_series(tmp_path / "one", slices, axes=axes, SeriesInstanceUID="")
    out = qctrun("info", "one").out
    assert "[1] (no uid)\n" in out
    assert "orientation: x to left, y to front, z to feet (oblique by 5.7 deg)\n" in out
    assert "origin_xyz_mm: 10 -20 30\n" in out
    dicom_series.write_series(
        tmp_path / "two", slices, ImageOrientationPatient=None, ImagePositionPatient=None
    )
    (series,) = json.loads(qctrun("info", "two", "--json").out)["series"]
    assert (series["orientation"], series["origin_xyz_mm"], series["direction_lps"]) == (None, None, None)


def test_a_label_beside_the_mask_has_a_row_and_a_warning(here: Path, qctrun: Program) -> None:
    labels = np.zeros(scans.SIZE, np.float32)
    labels[:, 15:30, 15:30], labels[:3, :3, :3] = 20, 21
    write(Volume(labels, scans.grid(), "1"), here / "images" / "labels.mha")
    code, out, err = qctrun(
        "params", "scan", "--labels", "images/labels.mha", "--label-ids", "20,21", "--json"
    )
    assert code == 0, err
    rows = json.loads(out)
    assert [(row["label_id"], row["labels"]) for row in rows] == [
        (label, "images/labels.mha") for label in (None, 20, 21)
    ]
    assert rows[1]["voxels"] > 0
    assert (rows[2]["voxels"], rows[2]["local_spheres"]) == (0, 0)
    assert rows[2]["bmd_mg_cm3"] is rows[2]["bvtv"] is rows[2]["local_bmd_mean_mg_cm3"] is None
    warned = [line for line in err.splitlines() if "labels without a voxel that counts: 21;" in line]
    assert len(warned) == 1
    assert any("counts: 21;" in text for text in read_record(Path("qctrun-out/params.run.json"))["warnings"])
    assert table("qctrun-out")[2]["bmd_mg_cm3"] == "n/a"


def test_both_records_say_how_the_numbers_were_made(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--out", "--mask", "scan/mask.nii.gz", "--threads", "1").code == 0
    assert qctrun("params").code == 0
    filtered, measured = (read_record(here / "qctrun-out" / f"{v}.run.json") for v in ("filter", "params"))
    line = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": "test rods", "nominal": False}
    assert filtered["calibration"] == {**line, "file": str(here / "scan" / "calibration.json")}
    assert measured["calibration"] == {**line, "file": None}
    for facts in (filtered["scan"], measured["scan"]):
        assert (facts["kvp"], facts["kernel"], facts["manufacturer"]) == (120, "B40", "Synthetic")
        assert facts["series_uid"].startswith("1.2.")
    assert filtered["scan"]["padding_voxels"] == 0
    assert filtered["scan"]["set_aside"] == {"file that is not DICOM": 2}
    assert filtered["filter"]["threads"] == 1
    for facts in (filtered["filter"], measured["filter"]):
        assert facts["sha256"] == filtered["model"]["sha256"]
        assert (facts["margin_mm"], facts["filtered_fraction"] <= 1) == (5.0, True)
    (row,) = table("qctrun-out")
    assert (row["calibration_slope"], row["calibration_intercept_mg_cm3"]) == ("0.8", "2")
    assert row["calibration_source"] == "test rods"
    for name in ("scan_desc-nnsp_ct", "scan_desc-nnsp_ct_thr225_BVTVmap"):
        sidecar = json.loads((here / "qctrun-out" / f"{name}.json").read_text())
        assert sidecar["SeriesInstanceUID"] == filtered["scan"]["series_uid"]
    assert sidecar["StepWidth"] == 10


def test_params_measures_only_the_very_file_that_the_filter_wrote(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--out").code == 0
    image = here / "qctrun-out" / "scan_desc-nnsp_ct.nii.gz"
    sidecar = image.with_name("scan_desc-nnsp_ct.json").read_bytes()
    write(scans.density(), image, overwrite=True)
    image.with_name("scan_desc-nnsp_ct.json").write_bytes(sidecar)
    code, _, err = qctrun("params")
    assert (code, err.count("\n")) == (3, 1)
    assert "filter.run.json names, by its sha256, got another file" in err
    image.unlink()
    code, _, err = qctrun("params")
    assert (code, err.count("\n")) == (3, 1)
    assert "no such file" in err


def test_a_mask_of_the_filter_that_moved_or_changed_is_said(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--out").code == 0
    mask = here / "scan" / "mask.nii.gz"
    assert len(read_record(here / "qctrun-out" / "filter.run.json")["options"]["mask_sha256"]) == 64
    assert "changed" not in qctrun("params", "--out", "qctrun-out").err
    labels = np.zeros(scans.SIZE, np.float32)
    labels[:, 15:30, 15:30] = 1
    write(Volume(labels, scans.grid(), "1"), mask, overwrite=True)
    code, _, err = qctrun("params", "--overwrite")
    assert code == 0, err
    assert "the mask scan/mask.nii.gz has changed since the filter ran" in err
    mask.rename(here / "scan" / "moved.nii.gz")
    code, _, err = qctrun("params", "--overwrite")
    assert (code, err.count("\n")) == (3, 1)
    assert f"{mask}: " in err
    assert "say --mask FILE" in err
    assert qctrun("params", "--overwrite", "--mask", "scan/moved.nii.gz").code == 0


def test_params_falls_back_to_the_folder_of_the_last_filter(here: Path, qctrun: Program) -> None:
    code, _, err = qctrun("params", "--out", "lab")
    assert (code, err.count("\n"), err.count("type: ")) == (2, 1, 1)
    assert "lab or qctrun-out" in err
    assert qctrun("filter", "scan", "--out").code == 0
    code, _, err = qctrun("params", "--out", "lab")
    assert code == 0, err
    assert "no record of a filter run in lab, so that of ./qctrun-out is taken" in err
    assert (here / "lab" / "params.csv").is_file()
    assert not (here / "qctrun-out" / "params.csv").exists()


def test_model_and_device_are_looked_at_before_the_scan(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qctrun.runtime.reading.scans.read_dicom", lambda *_, **__: pytest.fail("read"))
    assert qctrun("filter", "scan", "--model", "nowhere.onnx").code == 4
    assert qctrun("filter", "scan", "--device", "cuda:99").code == 5


def test_a_folder_that_nobody_typed_is_not_blamed(here: Path, qctrun: Program) -> None:
    (here / "qctrun-out").mkdir()
    for words in (["filter"], ["filter", "--out"]):
        code, _, err = qctrun(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert "INPUT is missing; " in err
    (here / "my scan").mkdir()
    assert "qctrun filter 'my scan' --out" in qctrun("filter", "--out", "my scan").err


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


def test_sigterm_stops_a_running_filter_without_a_trace(here: Path) -> None:
    noise = np.random.default_rng(0).normal(100, 50, (300, 256, 256)).astype(np.float32)
    write(Volume(noise, Grid(noise.shape, scans.SPACING_MM), "mg/cm3", "HA"), here / "images" / "large.mha")
    words = [sys.executable, "-c", RUN, "filter", "images/large.mha", "--out", "--threads", "1"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as running:
        while not (here / "qctrun-out").exists() and running.poll() is None:
            time.sleep(0.02)
        time.sleep(0.5)
        running.terminate()
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert err.splitlines()[-1] == "qctrun: error: interrupted"
    assert not left_behind(here)
