"""--format: any set of NIfTI, MHA, NRRD and DICOM in one run, each listed in the record, all of it or nothing."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import scans
import SimpleITK as sitk
from cli_outputs import left_behind
from conftest import Program
from dicom_series import rotation
from dicom_sources import scan, stored
from test_cli_filter_params import CPU, RECORDS, assert_same_record

from qctrun.runtime import read
from qctrun.runtime.writing import read_record

STEM = "scan_desc-nnsp_ct"
SMALL = ("--thresholds", "200", "--diameter", "1.5")


def listed(verb: str, folder: str = "qctrun-out") -> list[str]:
    return [output["path"] for output in read_record(Path(folder) / f"{verb}.run.json")["outputs"]]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_every_format_of_a_run_holds_the_same_volume(here: Path, qctrun: Program) -> None:
    code, _, err = qctrun("filter", "scan", "--format", "nrrd, DICOM,nii.gz,mha,nrrd", *CPU)
    assert code == 0, err
    images = [f"{STEM}.nrrd", f"{STEM}/", f"{STEM}.nii.gz", f"{STEM}.mha"]
    assert listed("filter") == [*images, f"{STEM}.json"]
    assert read_record(here / "qctrun-out" / "filter.run.json")["options"]["format"] == [
        "nrrd",
        "dicom",
        "nii.gz",
        "mha",
    ]
    names = {path.name for path in (here / "qctrun-out").iterdir()}
    assert names == {*(name.strip("/") for name in images), f"{STEM}.json", "filter.run.json"}
    volumes = [read(here / "qctrun-out" / name) for name in images]
    for each in volumes:
        assert (each.unit, each.material) == ("mg/cm3", "HA")
        assert not each.grid.difference(scans.grid())
        assert each.provenance["calibration"] == volumes[0].provenance["calibration"]
        assert each.provenance["filter"]["sha256"] == volumes[0].provenance["filter"]["sha256"]
        np.testing.assert_allclose(each.array, volumes[0].array, atol=1 / 32)
    np.testing.assert_array_equal(volumes[2].array, volumes[0].array)


@pytest.mark.parametrize("formats", ["nii.gz,dicom", "dicom,nrrd", "mha,nii.gz"])
def test_together_writes_what_the_two_commands_write(here: Path, qctrun: Program, formats: str) -> None:
    words = ("--format", formats, *CPU)
    assert qctrun("filter", "scan", *words).code == 0
    code, printed, err = qctrun("params", *words, *SMALL)
    assert code == 0, err
    apart = Path("qctrun-out").rename("apart")
    code, out, err = qctrun("filter", "scan", "--params", *words, *SMALL)
    assert code == 0, err
    assert out == printed
    one, other = tree(Path("qctrun-out")), tree(apart)
    assert one.keys() == other.keys()
    # A map refers to the series by the place where it was read.
    for name in one.keys() - set(RECORDS):
        assert one[name] == other[name], name
    for name in RECORDS:
        assert_same_record(read_record(Path("qctrun-out") / name), read_record(apart / name))


def test_params_takes_the_first_format_and_a_derived_series_carries_all_it_needs(
    here: Path, qctrun: Program
) -> None:
    assert qctrun("filter", "scan", "--format", "dicom,nii.gz", *CPU).code == 0
    code, _, err = qctrun("params", "--format", "dicom", *CPU, *SMALL)
    assert code == 0, err
    assert f"measuring qctrun-out/{STEM}, named by" in err
    assert "test rods" in err
    filtered, measured = (read_record(here / "qctrun-out" / name) for name in RECORDS)
    (source,) = (each for each in measured["inputs"] if each["role"] == "image")
    assert source["sha256"] == filtered["outputs"][0]["sha256"]
    assert measured["calibration"]["source"] == "test rods"
    first = pydicom.dcmread(here / "scan" / "slice000.dcm")
    for name in [name for name in listed("params") if name.endswith(".dcm")]:
        found = pydicom.dcmread(here / "qctrun-out" / name)
        assert found.PatientID == first.PatientID and found.StudyInstanceUID == first.StudyInstanceUID
        assert found.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert len(found.SharedFunctionalGroupsSequence) == 1


def test_a_derived_series_that_was_changed_is_not_measured_unseen(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--format", "dicom", *CPU).code == 0
    (here / "qctrun-out" / STEM / "slice-0003.dcm").unlink()
    code, _, err = qctrun("params", *CPU)
    assert (code, err.count("\n")) == (3, 1)
    assert "by its sha256, got another file" in err
    shutil.rmtree(here / "qctrun-out" / STEM)
    assert "no such file" in qctrun("params", *CPU).err


def test_another_set_of_formats_replaces_the_whole_earlier_run(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--format", "dicom,nii.gz", *CPU).code == 0
    code, _, err = qctrun("filter", "scan", "--format", "dicom", *CPU)
    assert (code, err.count("\n")) == (2, 1) and "--overwrite" in err
    code, _, err = qctrun("filter", "scan", "--format", "mha", "--overwrite", *CPU)
    assert code == 0, err
    assert f"{STEM}/" in err and f"{STEM}.nii.gz" in err
    assert {path.name for path in (here / "qctrun-out").iterdir()} == {
        f"{STEM}.mha",
        f"{STEM}.json",
        "filter.run.json",
    }
    assert qctrun("filter", "scan", "--format", "dicom", "--overwrite", *CPU).code == 0
    (here / "qctrun-out" / STEM / "notes.txt").write_text("mine")
    code, _, err = qctrun("filter", "scan", "--format", "dicom", "--overwrite", *CPU)
    assert (code, err.count("\n")) == (2, 1) and "notes.txt" in err


def test_no_output_but_dicom_names_the_patient(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--params", "--format", "nii.gz,dicom,mha,nrrd", *CPU, *SMALL).code == 0
    named = {name for name, content in tree(here / "qctrun-out").items() if b"Nobody" in content}
    assert named and all(name.endswith(".dcm") for name in named)
    assert {name for name in tree(here / "qctrun-out") if name.endswith(".dcm")} == named


def test_simpleitk_finds_series_and_nifti_at_one_place(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--format", "nii.gz,dicom", *CPU).code == 0
    folder = here / "qctrun-out" / STEM
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    series, image = reader.Execute(), sitk.ReadImage(f"{folder}.nii.gz")
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(series, name)(), getattr(image, name)(), atol=1e-5)
    difference = sitk.GetArrayFromImage(series) - sitk.GetArrayFromImage(image)
    assert np.abs(difference).max() <= 1 / 32


@pytest.mark.parametrize("verb", [("filter",), ("filter", "--params"), ("params",)])
def test_dicom_of_an_image_without_a_scan_is_refused_before_any_work(
    here: Path, image: Path, qctrun: Program, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qctrun.runtime.reading.scans.read_image", lambda *_, **__: pytest.fail("read"))
    code, _, err = qctrun(*verb, image, "--format", "nii.gz,dicom")
    assert (code, err.count("\n")) == (3, 1)
    assert "density.nii.gz: --format dicom" in err and "leave dicom out of --format" in err
    assert not left_behind(here)


def test_maps_as_dicom_need_their_library_and_say_so_first(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    code, _, err = qctrun("params", "scan", "--format", "dicom", "-q")
    assert (code, err.count("\n")) == (5, 1)
    assert 'pip install "qctrun[dicom]"' in err
    assert (
        qctrun("filter", "scan", "--format", "dicom", *CPU).code == 0
    )  # a series needs no more than reading does


@pytest.mark.parametrize("word", ["png", "", "nii.gz,", "nii.gz;mha", "dicom,png"])
def test_an_unknown_format_is_a_usage_error(here: Path, qctrun: Program, word: str) -> None:
    code, _, err = qctrun("filter", "scan", "--format", word)
    assert (code, err.count("\n")) == (2, 1)
    assert "one or more of nii.gz, mha, nrrd, dicom" in err


@pytest.mark.parametrize(
    "place",
    [
        "qctrun.runtime.writing.dicom.series.uids_of",
        "qctrun.runtime.writing.dicom.maps.uids_of",
        "qctrun.runtime.writing.RunRecord.add_to",
    ],
)
def test_a_stop_in_between_leaves_nothing(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, stop)
        assert qctrun("filter", "scan", "--params", "--format", "nii.gz,dicom", *CPU, *SMALL).code == 130
    assert not left_behind(here)


def test_the_models_grid_and_back_lies_where_the_scan_lies(here: Path, qctrun: Program) -> None:
    volume = scan(
        here / "coarse", stored((12, 24, 22)), spacing=(0.7, 0.4, 0.4), axes=rotation(0.2, 0.1, -0.3)
    )
    words = ("--calibration", "0.8,2", "--material", "HA", "--format", "dicom,nrrd", "--grid", "model", *CPU)
    code, _, err = qctrun("filter", "coarse", *words)
    assert code == 0, err
    found = [read(here / "qctrun-out" / f"coarse_desc-nnsp_ct{end}") for end in ("", ".nrrd")]
    for each in found:
        assert not volume.grid.difference(each.grid)
        whats = [step["what"] for step in each.provenance["resampling"]]
        assert whats == ["onto the model's grid", "back onto the scan's grid"]
    np.testing.assert_allclose(found[0].array, found[1].array, atol=1 / 16)
    first = pydicom.dcmread(here / "qctrun-out" / "coarse_desc-nnsp_ct" / "slice-0001.dcm")
    assert "onto the model's grid" in first.DerivationDescription
