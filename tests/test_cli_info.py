"""`qctrun info`: what a scan or an image says of itself."""

import json
from pathlib import Path

import dicom_series
import numpy as np
import scans
from conftest import Program


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
    assert series["verdict"].startswith("refused: uneven gaps")
    code, out, _ = qctrun("info", "scan")
    (row,) = [line for line in out.splitlines() if line.startswith("[1]")]
    assert row.split()[:3] == ["[1]", "refused", str(scans.SIZE[0] - 1)]
    assert series["series_uid"] in row
    assert "slice(s) missing" in row
    assert "volume: no" in qctrun("info", "scan", "-v").out


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


def test_info_shows_where_a_series_lies(here: Path, qctrun: Program) -> None:
    (series,) = json.loads(qctrun("info", "scan", "--json").out)["series"]
    assert series["orientation"] == "x to left, y to back, z to head"
    assert series["origin_xyz_mm"] == list(scans.ORIGIN_MM)
    assert series["direction_lps"] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert series["image_orientation_patient"] == [1, 0, 0, 0, 1, 0]
    out = qctrun("info", "scan", "-v").out
    assert "    orientation: x to left, y to back, z to head\n" in out
    assert "    origin_xyz_mm: -10 20 30\n" in out
    assert "direction_lps" not in out


def test_info_shows_where_a_turned_slice_without_a_uid_lies(fresh: Path, qctrun: Program) -> None:
    axes = dicom_series.rotation(0.0, 0.0, 0.1) @ np.diag([1.0, -1.0, -1.0])
    slices = np.zeros((1, 4, 5), np.int16)
    dicom_series.write_series(fresh / "one", slices, axes=axes, SeriesInstanceUID="")
    out = qctrun("info", "one", "-v").out
    assert " LAI~ " in out
    assert "[1] (no uid)\n" in out
    assert "orientation: x to left, y to front, z to feet (oblique by 5.7 deg)\n" in out
    assert "origin_xyz_mm: 10 -20 30\n" in out
    dicom_series.write_series(fresh / "two", slices, ImageOrientationPatient=None, ImagePositionPatient=None)
    (series,) = json.loads(qctrun("info", "two", "--json").out)["series"]
    assert (series["orientation"], series["origin_xyz_mm"], series["direction_lps"]) == (None, None, None)


def test_info_shows_the_line_an_image_was_made_with(here: Path, image: Path, qctrun: Program) -> None:
    assert "made_with: none" in qctrun("info", image).out
    sidecar = image.with_name("density.json")
    facts = json.loads(sidecar.read_text())
    line = {"slope": 0.79, "intercept": 3.0, "material": "HA", "source": "rods", "error": {"rods": [1, 2]}}
    sidecar.write_text(json.dumps({**facts, "Calibration": line}))
    assert "made_with: 0.79 HU +3 mg/cm3 HA (rods)\n" in qctrun("info", image).out
    assert json.loads(qctrun("info", image, "--json").out)["made_with"]["error"] == line["error"]
    for spoilt in ({"slope": "x"}, {**line, "intercept": [1]}, {**line, "material": 3}):
        sidecar.write_text(json.dumps({**facts, "Calibration": spoilt}))
        code, out, _ = qctrun("info", image)
        assert (code, "made_with: error " in out) == (0, True)


def test_a_line_with_its_error_is_one_short_line(here: Path, qctrun: Program) -> None:
    line = {
        "slope": 0.79,
        "intercept": -3.0,
        "material": "HA",
        "source": "rods",
        "error": {"rods": [{"hu": 1}] * 6},
    }
    (here / "scan" / "calibration.json").write_text(json.dumps(line))
    assert "calibration: 0.79 HU -3 mg/cm3 HA (rods)\n" in qctrun("info", "scan").out


def test_what_a_folder_holds_is_counted_in_english(fresh: Path, qctrun: Program) -> None:
    (fresh / "notes").mkdir()
    for name in ("a.txt", "b.png"):
        (fresh / "notes" / name).write_bytes(b"no picture")
    code, _, err = qctrun("filter", "notes")
    assert (code, err.count("\n")) == (3, 1)
    assert "got 2 files that are not DICOM" in err
