"""`qctrun calibrate` as it is typed: what it writes, says and refuses."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import PATIENT, write_series
from phantom_scans import Scene, centres, scan

from qctrun.runtime.calibrating.phantoms import shipped
from qctrun.runtime.volume import Volume
from qctrun.runtime.writing import write

QRM = shipped()["qrm-bdc-6"]
OUTPUTS = ["calibrate.run.json", "calibration.json", "calibration.png"]


def series(folder: Path, scene: Scene = Scene(), phantom=QRM) -> Path:  # noqa: B008
    volume = scan(scene, phantom)
    write_series(folder, np.rint(volume.array).astype(np.int16), spacing=scene.spacing)
    return folder


@pytest.fixture
def scanned(fresh):
    return series(fresh / "scan")


def test_the_line_is_written_shown_and_used(scanned, fresh, qctrun):
    said = qctrun("calibrate", scanned, "--phantom", "qrm-bdc-6")
    assert said.code == 0, said.err
    assert sorted(path.name for path in (fresh / "qctrun-out").iterdir()) == OUTPUTS
    lines = said.out.splitlines()
    assert lines[0].split() == ["density", "HU", "SD", "SD", "of", "slices", "shading", "off", "the", "line"]
    assert [float(line.split()[0]) for line in lines[1:7]] == [0, 100, 200, 400, 600, 800]
    assert lines[7].startswith("mg HA/cm3 = 0.8")
    line = json.loads((fresh / "qctrun-out/calibration.json").read_text())
    assert line["schema"] == "qctrun/calibration/1"
    assert (line["slope"], line["intercept"]) == (pytest.approx(0.8, rel=0.01), pytest.approx(6.4, abs=3))
    assert {"residual_mg_cm3", "slope_se", "intercept_se_mg_cm3", "rods"} <= set(line["error"])
    assert [rod["density_mg_cm3"] for rod in line["rods"]] == list(QRM.densities_mg_cm3)
    assert line["phantom"]["name"] == "qrm-bdc-6"
    assert "use it by --calibration qctrun-out/calibration.json" in said.err
    record = json.loads((fresh / "qctrun-out/calibrate.run.json").read_text())
    assert [output["path"] for output in record["outputs"]] == ["calibration.png", "calibration.json"]
    assert record["calibration"]["slope"] == line["slope"]

    used = qctrun("params", scanned, "--calibration", "qctrun-out/calibration.json", "--out", "measured")
    assert used.code == 0, used.err
    assert "phantom qrm-bdc-6: 6 of 6 rods, found" in used.err
    known = json.loads((fresh / "measured/params.run.json").read_text())["calibration"]
    assert (known["error"], known["source"]) == (line["error"], line["source"])
    sidecar = json.loads((fresh / "measured/scan_BMDmap.json").read_text())
    assert sidecar["Calibration"]["error"] == line["error"]
    (fresh / "qctrun-out/calibration.json").rename(scanned / "calibration.json")
    assert "found in" in qctrun("params", scanned, "--out", "beside").err


def test_the_picture_shows_something_and_nothing_names_the_patient(scanned, fresh, qctrun):
    assert qctrun("calibrate", scanned, "--phantom", "qrm-bdc-6").code == 0
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(fresh / "qctrun-out/calibration.png")))
    assert min(picture.shape[:2]) > 800
    assert picture[..., :3].std() > 30
    for path in (fresh / "qctrun-out").iterdir():
        assert PATIENT.encode() not in path.read_bytes()


def test_json_goes_to_stdout_as_the_file_has_it(scanned, fresh, qctrun):
    said = qctrun("calibrate", scanned, "--phantom", "qrm-bdc-6", "--json", "-q")
    assert json.loads(said.out) == json.loads((fresh / "qctrun-out/calibration.json").read_text())
    assert said.err == ""


def test_given_rods_and_slices_are_taken(scanned, fresh, qctrun):
    places = ";".join(f"{x:.1f},{y:.1f}" for x, y in centres(Scene(), 6))
    said = qctrun("calibrate", scanned, "--phantom", "qrm-bdc-6", "--rods", places, "--slices", "1-2")
    assert said.code == 0, said.err
    line = json.loads((fresh / "qctrun-out/calibration.json").read_text())
    assert "6 of 6 rods, given, slices 1 to 2" in line["source"]
    assert line["slope"] == pytest.approx(0.8, rel=0.01)


def test_slices_restrict_the_search_too(scanned, fresh, qctrun):
    said = qctrun("calibrate", scanned, "--phantom", "qrm-bdc-6", "--slices", "1-2")
    assert said.code == 0, said.err
    assert "found, slices 1 to 2" in json.loads((fresh / "qctrun-out/calibration.json").read_text())["source"]


def test_a_scan_with_uneven_gaps_is_calibrated_when_it_may_be_mended(fresh, qctrun):
    volume = scan(Scene(slices=4), QRM)
    write_series(
        fresh / "scan",
        np.rint(volume.array).astype(np.int16),
        spacing=Scene().spacing,
        heights=[0, 2, 4.5, 7],
    )
    words = ("calibrate", "scan", "--phantom", "qrm-bdc-6")
    refused = qctrun(*words)
    assert (refused.code, "--allow-resample" in refused.err) == (3, True)
    mended = qctrun(*words, "--allow-resample")
    assert mended.code == 0, mended.err
    assert "mended by one cubic B-spline" in mended.err
    assert json.loads((fresh / "qctrun-out/calibration.json").read_text())["slope"] == pytest.approx(
        0.8, rel=0.02
    )


def test_without_matplotlib_the_line_is_written_and_the_absence_said(scanned, fresh, qctrun, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    said = qctrun("calibrate", scanned, "--phantom", "qrm-bdc-6")
    assert said.code == 0
    assert "no calibration.png was made: picture: wanted matplotlib" in said.err
    assert 'pip install "qctrun[report]"' in said.err
    assert sorted(path.name for path in (fresh / "qctrun-out").iterdir()) == OUTPUTS[:2]


def test_a_scan_without_a_phantom_is_refused_and_leaves_nothing(fresh, qctrun):
    said = qctrun("calibrate", series(fresh / "scan", phantom=None), "--phantom", "qrm-bdc-6")
    assert said.code == 3
    assert "wanted the 6 rods of qrm-bdc-6" in said.err
    assert said.err.count("\n") == 1
    assert not (fresh / "qctrun-out").exists()


def test_outputs_are_replaced_only_when_told(scanned, fresh, qctrun):
    words = ("calibrate", scanned, "--phantom", "qrm-bdc-6")
    (fresh / "qctrun-out").mkdir()
    (fresh / "qctrun-out/calibration.json").write_text("mine")
    assert qctrun(*words).code == 2
    assert (fresh / "qctrun-out/calibration.json").read_text() == "mine"
    assert qctrun(*words, "--overwrite").code == 0


def test_a_full_disk_leaves_nothing(scanned, fresh, qctrun, monkeypatch):
    from qctrun.runtime.writing import Staging

    def full(self, name, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Staging, "add_bytes", full)
    assert qctrun("calibrate", scanned, "--phantom", "qrm-bdc-6").code == 7
    assert not (fresh / "qctrun-out").exists()


def test_a_line_to_k2hpo4_stays_out_of_a_model_for_ha(fresh, qctrun):
    own = (Path(__file__).parents[1] / "runtime/calibrating/phantoms/mindways-3.toml").read_text()
    (fresh / "mine.toml").write_text(own + "\nrod_diameter_mm = [16, 20]\nspacing_mm = [32, 36]\n")
    folder = series(fresh / "scan", Scene(gain=1.45), shipped()["mindways-3"])
    said = qctrun("calibrate", folder, "--phantom", "mine.toml")
    assert said.code == 0, said.err
    assert "put those of your phantom's certificate into a copy" in said.err
    assert json.loads((fresh / "qctrun-out/calibration.json").read_text())["material"] == "K2HPO4"
    roles = [
        each["role"] for each in json.loads((fresh / "qctrun-out/calibrate.run.json").read_text())["inputs"]
    ]
    assert "phantom" in roles
    refused = qctrun("filter", folder, "--calibration", "qctrun-out/calibration.json", "--out", "f")
    assert refused.code in (3, 4)
    assert "K2HPO4" in refused.err


def test_a_reference_scan_gives_the_paper_s_line(fresh, qctrun):
    scene = Scene(spacing=(1.0, 1.0, 1.0), slices=9, noise=30)
    volume = scan(scene, QRM)
    folder = series(fresh / "scan", scene)
    grid = read_grid(folder)
    inside = np.zeros(grid.size, np.float32)
    inside[3:6, 10:60, 60:180] = 1
    density = Volume(0.8 * volume.array + 6.4, grid, "mg/cm3", "HA")
    write(density, fresh / "truth" / "reference.nii.gz")
    write(Volume(inside, grid, "1"), fresh / "truth" / "mask.nii.gz")
    words = ("calibrate", folder, "--reference", fresh / "truth/reference.nii.gz")
    assert "needs --mask FILE" in qctrun(*words).err
    said = qctrun(*words, "--mask", fresh / "truth/mask.nii.gz")
    assert said.code == 0, said.err
    line = json.loads((fresh / "qctrun-out/calibration.json").read_text())
    assert (line["slope"], line["intercept"]) == (pytest.approx(0.8, rel=0.01), pytest.approx(6.4, abs=1))
    assert sorted(path.name for path in (fresh / "qctrun-out").iterdir()) == OUTPUTS
    roles = {
        each["role"] for each in json.loads((fresh / "qctrun-out/calibrate.run.json").read_text())["inputs"]
    }
    assert {"image", "reference", "mask"} <= roles
    write(replace(density, grid=replace(grid, origin=(0, 0, 0))), fresh / "elsewhere.nii.gz")
    moved = qctrun(
        "calibrate",
        folder,
        "--reference",
        "elsewhere.nii.gz",
        "--mask",
        fresh / "truth/mask.nii.gz",
        "-o",
        "b",
    )
    assert moved.code == 3
    assert "register the reference to the scan" in moved.err


def read_grid(folder):
    from qctrun.runtime.reading import read_hu

    return read_hu(folder).grid


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ((), "wanted --phantom NAME or --reference FILE"),
        (("--phantom", "qrm-bdc-6", "--reference", "x"), "one of them"),
        (("--phantom", "qrm"), "wanted b-mas-200"),
        (("--phantom", "qrm-bdc-6", "--rods", "1,2;3"), "wanted COLUMN,ROW"),
        (("--phantom", "qrm-bdc-6", "--rods", "1,nan"), "wanted COLUMN,ROW"),
        (("--phantom", "qrm-bdc-6", "--slices", "8-3"), "wanted FIRST-LAST"),
        (("--phantom", "qrm-bdc-6", "--mask", "m.nii.gz"), "--mask is for --reference"),
        (("--reference", "x.nii.gz", "--rods", "1,2"), "--rods is for --phantom"),
    ],
)
def test_words_that_make_no_sense_are_refused(scanned, qctrun, words, match):
    said = qctrun("calibrate", scanned, *words)
    assert said.code == 2
    assert match in said.err


def test_phantoms_are_listed_without_a_scan(qctrun):
    said = qctrun("calibrate", "--list-phantoms")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == list(shipped())


def test_density_is_not_calibrated_again(image, qctrun):
    said = qctrun("calibrate", image, "--phantom", "qrm-bdc-6")
    assert said.code == 3
    assert "wanted a scan in HU, got one in mg/cm3" in said.err


def test_a_line_in_the_folder_of_outputs_is_pointed_at_and_not_taken(scanned, fresh, qctrun):
    assert qctrun("calibrate", scanned, "--phantom", "qrm-bdc-6").code == 0
    said = qctrun("params", scanned)
    assert said.code == 0, said.err
    assert "NOMINAL CALIBRATION" in said.err
    assert "if it belongs to this scan: --calibration qctrun-out/calibration.json" in said.err
    used = qctrun("params", scanned, "--overwrite", "--calibration", "qctrun-out/calibration.json")
    assert used.code == 0, used.err
    assert "is not used" not in used.err
