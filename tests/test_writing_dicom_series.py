"""Derived CT series: the same place and density in every reader, within the quantum of 16 bits."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import enhanced_dataset, heights, rotation, sequence
from dicom_sources import CROOKED, LINE, PATIENT, faults, scan, stored, written
from hypothesis import given
from hypothesis import strategies as st

from qctrun.runtime import Grid, Volume, read, write, write_dicom
from qctrun.runtime.errors import InputError
from qctrun.runtime.writing.dicom.series import rescaling

AXES = {**CROOKED, "oblique": rotation(0.3, -0.5, 1.1)}
SPACING = (1.25, 0.35, 0.7)


def placed(folder: Path, axes: Any) -> Volume:
    return scan(folder, spacing=SPACING, axes=axes, origin=(-101.5, 20.25, 1003.125))


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_it_reads_back_at_the_same_place_with_its_material_and_calibration(tmp_path: Path, axes: Any) -> None:
    volume = placed(tmp_path / "scan", axes).warn("careful")
    found = read(write_dicom(volume, tmp_path / "out" / "ct"))
    assert not volume.grid.difference(found.grid)
    assert np.abs(found.array - volume.array).max() <= 1 / 32
    assert (found.unit, found.material) == ("mg/cm3", "HA")
    assert found.provenance["calibration"] == volume.provenance["calibration"]
    assert found.provenance["density_from"] == "tags"
    assert "careful" in found.warnings
    assert found.provenance["scan"]["kvp"] == 120
    assert found.provenance["scan"]["manufacturer"] == "ACME"


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_simpleitk_reads_it_at_the_same_place(tmp_path: Path, axes: Any) -> None:
    volume = placed(tmp_path / "scan", axes)
    folder = write_dicom(volume, tmp_path / "ct")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    found = Grid(volume.grid.size, image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection())
    assert not volume.grid.difference(found)
    assert np.abs(sitk.GetArrayFromImage(image) - volume.array).max() <= 1 / 32


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_dcm2niix_reads_it_at_the_same_place(tmp_path: Path, axes: Any) -> None:
    volume = placed(tmp_path / "scan", axes)
    write_dicom(volume, tmp_path / "ct")
    words = ["dcm2niix", "-o", tmp_path, "-f", "out", "-b", "n", tmp_path / "ct"]
    subprocess.run(words, check=True, capture_output=True)
    image: Any = nibabel.load(tmp_path / "out.nii")
    values = np.asarray(image.dataobj)
    for index in ((0, 0, 0), (4, 5, 6), (2, 1, 3)):
        world = np.append(volume.grid.world(index) * [-1, -1, 1], 1)  # LPS to RAS
        i, j, k = np.rint(np.linalg.inv(image.affine) @ world)[:3].astype(int)
        np.testing.assert_allclose(image.affine @ [i, j, k, 1], world, atol=0.002)
        assert abs(values[i, j, k] - volume.array[index]) <= 1 / 32 + 1e-3


def test_study_and_patient_are_the_scans_and_the_series_is_new(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan", LossyImageCompression="01", LossyImageCompressionRatio="7")
    source = {float(each.ImagePositionPatient[2]): each for each in written(tmp_path / "scan")}
    slices = written(write_dicom(volume, tmp_path / "ct"))
    for number, each in enumerate(slices, start=1):
        old = source[float(each.ImagePositionPatient[2])]
        for name in (
            *PATIENT,
            "FrameOfReferenceUID",
            "KVP",
            "ConvolutionKernel",
            "LossyImageCompressionRatio",
        ):
            if name not in ("SeriesNumber", "SeriesDescription"):
                assert each[name].value == old[name].value, name
        assert each.SeriesInstanceUID != old.SeriesInstanceUID
        assert each.SOPInstanceUID != old.SOPInstanceUID
        assert (each.SeriesNumber, each.InstanceNumber) == (903, number)
        assert each.SeriesDescription == "LWS 0,6 B60 density mg/cm3 HA"
        assert each.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        (reference,) = each.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == old.SOPInstanceUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        (series,) = each.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == old.SeriesInstanceUID
        scanner, processor = each.ContributingEquipmentSequence
        assert (scanner.Manufacturer, processor.Manufacturer) == ("ACME", "qctrun")
        assert each.Manufacturer == "qctrun" and each.SoftwareVersions == processor.SoftwareVersions
        assert (each.RescaleType, each.BurnedInAnnotation, each.ContentQualification) == (
            "MGML",
            "NO",
            "RESEARCH",
        )
        assert "0.8 HU +2" in each.DerivationDescription and "not for diagnosis" in each.DerivationDescription
        (mapping,) = each.RealWorldValueMappingSequence
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "mg/cm3"
        assert (
            mapping.QuantityDefinitionSequence[1].ConceptCodeSequence[0].CodeMeaning
            == "Calcium Hydroxyapatite"
        )
    assert len({each.SOPInstanceUID for each in slices}) == len(slices) == volume.grid.size[0]
    assert len({each.SeriesInstanceUID for each in slices}) == 1


def test_private_tags_of_the_scan_are_left_behind(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan")
    for each in written(tmp_path / "scan"):
        each.private_block(0x0029, "MAKER", create=True).add_new(1, "LO", "hidden words")
        each.save_as(each.filename)
    folder = write_dicom(volume, tmp_path / "ct")
    assert not any(b"hidden words" in path.read_bytes() for path in folder.iterdir())


def test_equal_results_have_equal_uids_and_bytes_and_others_have_not(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan")
    first = write_dicom(volume, tmp_path / "1")
    again = write_dicom(read(tmp_path / "scan", calibration=(0.8, 2.0), material="HA"), tmp_path / "2")
    for one, other in zip(sorted(first.iterdir()), sorted(again.iterdir()), strict=True):
        assert one.read_bytes() == other.read_bytes()
    changed = volume.array.copy()
    changed[4, 5, 6] += 0.01  # less than the quantum
    aside = Grid(volume.grid.size, volume.grid.spacing, (10.5, -20.0, 30.0))
    elsewhere = Volume(volume.array, aside, "mg/cm3", "HA", volume.provenance)
    moved = [
        volume.with_array(changed),
        volume.warn("other"),
        elsewhere,
        scan(tmp_path / "scan", PatientName="Else"),
    ]
    uids = {written(first)[0].SOPInstanceUID}
    for k, each in enumerate(moved):
        uids |= {one.SOPInstanceUID for one in written(write_dicom(each, tmp_path / f"other-{k}"))[:1]}
    assert len(uids) == 5


def test_where_the_scan_lies_is_in_no_object_and_changes_nothing(tmp_path: Path) -> None:
    scan(tmp_path / "Other Name")
    shutil.copytree(tmp_path / "Other Name", tmp_path / "copy")
    volumes = [read(tmp_path / name, calibration=LINE, material="HA") for name in ("Other Name", "copy")]
    first, again = (write_dicom(each, tmp_path / f"{k}") for k, each in enumerate(volumes))
    for one, other in zip(sorted(first.iterdir()), sorted(again.iterdir()), strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert b"Other Name" not in one.read_bytes() and str(tmp_path).encode() not in one.read_bytes()


@pytest.mark.parametrize(
    ("number", "wanted"),
    [(b"12a4  ", 900), (b"1\\2   ", 900), (b"9e99  ", 900), (b"123456", 124356), (b"-5    ", 895)],
)
def test_a_number_that_is_none_still_gives_a_series_one(tmp_path: Path, number: bytes, wanted: int) -> None:
    scan(tmp_path / "scan", SeriesNumber=654321)
    for path in (tmp_path / "scan").iterdir():
        path.write_bytes(path.read_bytes().replace(b"654321", number))
    folder = write_dicom(read(tmp_path / "scan", calibration=LINE, material="HA"), tmp_path / "ct")
    assert written(folder)[0].SeriesNumber == wanted
    assert not faults(folder / "slice-0001.dcm")


def test_what_a_viewer_is_told_of_the_numbers_is_true(tmp_path: Path) -> None:
    line = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": "guess", "nominal": True}
    volume = scan(tmp_path / "scan")
    volume = volume.with_array(volume.array, provenance={**volume.provenance, "calibration": line})
    for each, plane in zip(written(write_dicom(volume, tmp_path / "ct")), volume.array, strict=True):
        (mapping,) = each.RealWorldValueMappingSequence
        real = each.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
        assert np.abs(real - plane).max() <= 1 / 32
        assert "NOMINAL, not measured" in each.DerivationDescription


def test_how_much_was_filtered_is_read_back(tmp_path: Path) -> None:
    told = {"model": "nnsp", "version": "2", "sha256": "ab", "filtered_fraction": 0.25, "margin_mm": 5.0}
    volume = scan(tmp_path / "scan")
    volume = volume.with_array(volume.array, provenance={**volume.provenance, "filter": told})
    found = read(write_dicom(volume, tmp_path / "ct"))
    assert found.provenance["filter"] == {**told, "outside": "raw"}


def test_the_largest_number_of_a_series_is_not_passed(tmp_path: Path) -> None:
    folder = write_dicom(scan(tmp_path / "scan", SeriesNumber=2**31 - 1), tmp_path / "ct")
    assert written(folder)[0].SeriesNumber < 2**31


@given(lowest=st.floats(-3000, 3000), span=st.floats(0, 32000))
def test_the_worst_error_of_16_bits_is_below_half_a_mg(lowest: float, span: float) -> None:
    values = np.linspace(lowest, lowest + span, 12, dtype=np.float32).reshape(3, 2, 2)
    step, first = rescaling(Volume(values, Grid((3, 2, 2), (1, 1, 1)), "mg/cm3", "HA"))
    kept = np.rint((values.astype(float) - first) / step)
    assert kept.min() >= 0 and kept.max() <= 65535
    back = np.float32(kept.astype(np.float32) * np.float32(step) + np.float32(first))
    assert np.abs(back - values).max() <= min(step / 2, 0.25) < 0.5
    if span < 4000:
        assert step == 1 / 16


def test_metal_and_air_survive_together(tmp_path: Path) -> None:
    values = stored().astype(np.int16)
    values[0, 0, 0], values[4, 5, 6] = -8192, 31743
    volume = scan(tmp_path / "scan", values)
    found = read(write_dicom(volume, tmp_path / "ct"))
    assert volume.array.max() > 25000 and volume.array.min() < -6000
    assert np.abs(found.array - volume.array).max() <= 0.25


@pytest.mark.parametrize(
    ("array", "unit", "words"),
    [([0, 40000], "mg/cm3", "within 32768 mg/cm3"), ([0, np.nan], "mg/cm3", "NaN"), ([0, 1], "1", "density")],
)
def test_what_16_bits_cannot_hold_is_refused(tmp_path: Path, array: Any, unit: Any, words: str) -> None:
    volume = scan(tmp_path / "scan", stored((2, 1, 1)))
    values = np.reshape(np.float32(array), (2, 1, 1))
    with pytest.raises(InputError, match=words):
        write_dicom(volume.with_array(values, unit=unit, material=None), tmp_path / "ct")
    assert not (tmp_path / "ct").exists()


def test_a_scan_without_study_and_patient_gets_what_every_object_must_have(tmp_path: Path) -> None:
    bare = dict.fromkeys((*PATIENT, "FrameOfReferenceUID", "KVP", "Manufacturer"))
    volume = scan(tmp_path / "scan", **bare)
    slices = written(write_dicom(volume, tmp_path / "ct"))
    assert len({(each.StudyInstanceUID, each.FrameOfReferenceUID) for each in slices}) == 1
    assert slices[0].PatientName == "" and slices[0].SeriesNumber == 900
    assert not faults(tmp_path / "ct" / "slice-0001.dcm")


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_dciodvfy_finds_no_error(tmp_path: Path, axes: Any) -> None:
    folder = write_dicom(placed(tmp_path / "scan", axes), tmp_path / "ct")
    assert not faults(folder / "slice-0003.dcm")


def test_slices_between_those_of_the_scan_lie_right_and_name_the_nearest(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan", axes=AXES["oblique"], spacing=(2.0, 0.5, 0.5))
    grid = volume.grid
    finer = Grid((9, 12, 14), (1.0, 0.25, 0.25), grid.origin, grid.direction)
    array = volume.array.repeat(2, 0)[:9].repeat(2, 1).repeat(2, 2)
    step = {"what": "onto the model's grid", "interpolation": "cubic B-spline"}
    known = {**volume.provenance, "resampling": [step]}
    folder = write_dicom(Volume(array, finer, "mg/cm3", "HA", known), tmp_path / "ct")
    found = read(folder)
    assert not finer.difference(found.grid)
    assert found.provenance["resampling"] == [step]
    uids = [header.SOPInstanceUID for header in sorted(written(tmp_path / "scan"), key=height)]
    slices = written(folder)
    for k in range(0, 9, 2):
        assert slices[k].SourceImageSequence[0].ReferencedSOPInstanceUID == uids[k // 2]
    assert "113085" in {code.CodeValue for code in slices[0].DerivationCodeSequence}
    assert slices[0].SliceThickness == 1.0
    assert not faults(folder / "slice-0002.dcm")


def test_frames_of_an_enhanced_object_are_named_one_by_one(tmp_path: Path) -> None:
    order = [2, 0, 1]
    values = stored((3, 6, 7))
    told = {**PATIENT, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}
    (tmp_path / "scan").mkdir()
    dataset = enhanced_dataset(values, heights([0.7 * k for k in order]), **told)
    dataset.save_as(tmp_path / "scan" / "object.dcm", enforce_file_format=True)
    volume = read(tmp_path / "scan", calibration=(1.0, 0.0), material="HA")
    slices = written(write_dicom(volume, tmp_path / "ct"))
    assert [each.SourceImageSequence[0].ReferencedFrameNumber for each in slices] == [2, 3, 1]
    assert (slices[0].KVP, slices[0].ConvolutionKernel, slices[0].PatientName) == (120, "B60", "Müller^Änne")
    np.testing.assert_array_equal(read(tmp_path / "ct").array, volume.array)
    assert not faults(tmp_path / "ct" / "slice-0001.dcm")


@pytest.mark.parametrize("material", ["HA", "K2HPO4"])
def test_without_the_private_block_the_material_is_read_from_the_derivation(
    tmp_path: Path, material: Any
) -> None:
    scan(tmp_path / "scan")
    line = {"slope": 0.8, "intercept": 2.0, "material": material, "source": "Prüfkörper 7"}
    (tmp_path / "line.json").write_text(json.dumps(line))
    volume = read(tmp_path / "scan", calibration=tmp_path / "line.json")
    folder = write_dicom(volume, tmp_path / "ct")
    found = read(folder)
    assert found.provenance["calibration"]["source"] == "Prüfkörper 7"
    assert (found.material, written(folder)[0].file_meta.TransferSyntaxUID.is_little_endian) == (
        material,
        True,
    )
    for each in written(folder):
        each.remove_private_tags()
        each.save_as(each.filename)
    found = read(folder)
    assert (found.unit, found.material) == ("mg/cm3", material)
    assert found.provenance["calibration"]["slope"] is None


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_broken_values_of_the_scan_are_left_out_and_names_kept(tmp_path: Path) -> None:
    config = pydicom.config.settings
    mode, config.writing_validation_mode = config.writing_validation_mode, pydicom.config.IGNORE
    try:
        broken = {
            "PatientBirthDate": "01-Jan-1950",
            "BodyPartExamined": "lumbar spine!",
            "PatientID": "9" * 70,
        }
        told = {"PatientIdentityRemoved": "YES", "DeidentificationMethod": ""}
        volume = scan(tmp_path / "scan", **broken, **told)
    finally:
        config.writing_validation_mode = mode
    first = written(write_dicom(volume, tmp_path / "ct"))[0]
    assert (first.PatientBirthDate, first.PatientID) == ("", "9" * 70)
    assert "BodyPartExamined" not in first and first.DeidentificationMethod
    found = [fault for fault in faults(tmp_path / "ct" / "slice-0001.dcm") if "Patient ID" not in fault]
    assert not [fault for fault in found if "invalid data values" not in fault]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_code_that_breaks_the_rules_is_left_out_as_a_whole(tmp_path: Path) -> None:
    sound, broken = (sequence(CodeValue=value, CodingSchemeDesignator="X", CodeMeaning="Y") for value in "AB")
    broken[0].add_new("CodeValue", "SH", "B" * 20)
    folder = write_dicom(
        scan(tmp_path / "scan", ProcedureCodeSequence=sound, AnatomicRegionSequence=broken), tmp_path / "ct"
    )
    first = written(folder)[0]
    assert first.ProcedureCodeSequence[0].CodeValue == "A" and "AnatomicRegionSequence" not in first
    assert not faults(folder / "slice-0001.dcm")


def test_one_volume_of_several_in_a_series_refers_to_its_own_slices(tmp_path: Path) -> None:
    own = {}
    for kernel in ("B30", "B60"):
        scan(tmp_path / kernel, ConvolutionKernel=kernel)
        own[kernel] = {each.SOPInstanceUID for each in written(tmp_path / kernel)}
        shutil.copytree(tmp_path / kernel, tmp_path / "both" / kernel)
    for part in ("1", "2"):
        volume = read(tmp_path / "both", series_uid=f"1.2.3/{part}", calibration=(0.8, 2.0), material="HA")
        slices = written(write_dicom(volume, tmp_path / part))
        named = {each.SourceImageSequence[0].ReferencedSOPInstanceUID for each in slices}
        assert named == own[volume.provenance["scan"]["kernel"]]


def test_a_zip_and_an_image_made_of_it_name_the_same_study(tmp_path: Path) -> None:
    scan(tmp_path / "scan")
    archive = shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "scan")
    volume = read(archive, calibration=(0.8, 2.0), material="HA")
    image = read(write(volume, tmp_path / "image.nii.gz"))
    for name, each in (("a", volume), ("b", image)):
        first = written(write_dicom(each, tmp_path / name))[0]
        assert (first.StudyInstanceUID, first.PatientID) == ("1.2.3.4.5", "4711")
        assert first.SourceImageSequence[0].ReferencedSOPInstanceUID


def test_an_image_without_a_scan_is_refused(tmp_path: Path) -> None:
    array = np.ones((2, 3, 4), np.float32)
    volume = Volume(array, Grid(array.shape, (1, 1, 1)), "mg/cm3", "HA")
    with pytest.raises(InputError, match="read from a DICOM scan"):
        write_dicom(volume, tmp_path / "ct")
    with pytest.raises(InputError, match=r"a\.mha: --format dicom.*whose it is, got none"):
        write_dicom(read(write(volume, tmp_path / "a.mha")), tmp_path / "ct")
    volume = scan(tmp_path / "scan")
    image = read(write(volume, tmp_path / "b.mha"))
    shutil.rmtree(tmp_path / "scan")
    with pytest.raises(InputError, match="its source"):
        write_dicom(image, tmp_path / "ct")
    assert not (tmp_path / "ct").exists()


def height(dataset: Any) -> float:
    return float(AXES["oblique"][:, 2] @ np.array(dataset.ImagePositionPatient, float))
