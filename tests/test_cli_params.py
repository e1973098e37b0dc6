"""`qctrun params` on small synthetic scans, as a user would type it."""

import json
import shutil
from pathlib import Path

import numpy as np
import scans
from cli_outputs import table
from conftest import Program

from qctrun.runtime import Volume, write
from qctrun.runtime.writing import read_record


def test_the_record_of_params_says_what_computed(here: Path, qctrun: Program) -> None:
    assert qctrun("params", "scan", "--device", "auto").code == 0
    assert read_record(here / "qctrun-out" / "params.run.json")["device"] == {"asked": "auto", "used": "cpu"}


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
    assert table("params")[2]["bmd_mg_cm3"] == "n/a"


def test_a_unit_is_understood_in_any_letters(image: Path, qctrun: Program) -> None:
    image.with_name("density.json").unlink()
    for number, unit in enumerate(("hu", "HU", "Mg/Cm3")):
        words = ["--calibration", "1,0"] * (number < 2)
        code, _, err = qctrun("params", image, "-o", f"{number}", "--unit", unit, "--material", "HA", *words)
        assert code == 0, err
    assert len({table("params", f"{number}")[0]["bmd_mg_cm3"] for number in range(3)}) == 1


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


def test_a_calibration_that_was_not_used_is_not_named(image: Path, qctrun: Program) -> None:
    line = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": "test rods"}
    image.with_name("calibration.json").write_text(json.dumps(line))
    code, _, err = qctrun("params", image)
    assert code == 0, err
    assert "found in" not in err
    inputs = read_record(Path("qctrun-out/params.run.json"))["inputs"]
    assert [source["role"] for source in inputs] == ["image"]


def test_companions_that_lie_with_the_slices_are_used(here: Path, qctrun: Program) -> None:
    (here / "case").mkdir()
    (here / "scan").rename(here / "case" / "scan")
    shutil.make_archive("zipped", "zip", here / "case")
    rows = []
    for source in ("case", "zipped.zip"):
        code, _, err = qctrun("params", source, "-o", f"out-{source}")
        assert code == 0, err
        assert "0.8 HU +2 mg/cm3 HA (test rods)" in err
        (row,) = table("params", f"out-{source}")
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


def test_inside_of_nothing_is_a_usage_error(image: Path, qctrun: Program) -> None:
    code, _, err = qctrun("params", image, "--inside")
    assert (code, err.count("\n")) == (2, 1)
    assert "--inside needs --mask FILE or --labels FILE" in err
