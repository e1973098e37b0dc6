"""`filter`, then `params`: what the one hands to the other."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scans
from cli_outputs import RUN, left_behind, table
from conftest import Program

from qctrun.runtime import Volume, read, write
from qctrun.runtime.writing import read_record


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

    rows = table("params", out)
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


def test_both_records_say_how_the_numbers_were_made(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--out", "--mask", "scan/mask.nii.gz", "--threads", "1").code == 0
    assert qctrun("params").code == 0
    filtered, measured = (read_record(here / "qctrun-out" / f"{v}.run.json") for v in ("filter", "params"))
    line = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": "test rods", "nominal": False}
    line |= {"error": None, "measured_in": None}
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
    (row,) = table("params")
    assert (row["calibration_slope"], row["calibration_intercept_mg_cm3"]) == ("0.8", "2")
    assert row["calibration_source"] == "test rods"
    for name in ("scan_desc-nnsp_ct", "scan_desc-nnsp_ct_thr225_BVTVmap"):
        sidecar = json.loads((here / "qctrun-out" / f"{name}.json").read_text())
        assert sidecar["SeriesInstanceUID"] == filtered["scan"]["series_uid"]
    assert sidecar["StepWidth"] == 10


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
    assert {row["calibration_nominal"] for row in table("params", out)} == {"true"}
    assert qctrun("filter", "scan", "-o", "strict", "--strict").code == 3


def test_a_zip_works_as_its_folder_does(here: Path, qctrun: Program) -> None:
    shutil.make_archive("case7", "zip", here / "scan")
    assert qctrun("filter", "case7.zip", "--out").code == 0
    code, _, err = qctrun("params")
    assert code == 0, err
    (row,) = table("params")
    assert row["mask"].endswith("case7.zip/mask.nii.gz")


def test_params_without_input_and_without_a_filtered_volume_says_what_to_type(
    here: Path, qctrun: Program
) -> None:
    code, _, err = qctrun("params", "--thresholds", "200")
    assert (code, err.count("\n")) == (2, 1)
    assert "qctrun filter INPUT --out" in err
    assert not left_behind(here)


def test_params_never_measures_what_a_filter_wrote_into_another_folder(here: Path, qctrun: Program) -> None:
    # In a loop over scans one filter run fails; ./qctrun-out is still there, from another scan.
    assert qctrun("filter", "scan", "--out").code == 0
    assert qctrun("filter", "nowhere", "--out", "the lab").code == 3
    code, _, err = qctrun("params", "--out", "the lab")
    assert (code, err.count("\n"), err.count("type: ")) == (2, 1, 1)
    assert "qctrun filter INPUT --out 'the lab'" in err
    assert not (here / "the lab").exists()


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
