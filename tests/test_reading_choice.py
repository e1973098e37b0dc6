"""Folders as archives hand them out: several volumes, time points, copies, renderings, and tags that mislead."""

import json
import shutil

import numpy as np
import pydicom
import pytest
from dicom_series import sequence, slice_dataset, write_series
from pydicom.dataset import Dataset

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import describe, find_beside, read

AS_HU = (1.0, 0.0)


def stored(slices=4, rows=5, columns=6, seed=1):
    return np.random.default_rng(seed).integers(-1000, 2000, (slices, rows, columns), dtype=np.int16)


def volume_of(folder, **options):
    return read(folder, calibration=AS_HU, material="HA", **options)


def refused(folder, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        volume_of(folder, **options)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def verdicts(folder):
    return [series["verdict"] for series in describe(folder)["series"]]


PHASES = {
    "AcquisitionNumber": ("AcquisitionNumber 7", ["7", "12"]),
    "TemporalPositionIdentifier": ("TemporalPositionIdentifier 1", ["1", "2"]),
    "TriggerTime": ("TriggerTime 0.5", ["0.5", "600"]),
    "AcquisitionTime": ("AcquisitionTime 1 of 2", ["101500.25", "101530"]),
    "AcquisitionDateTime": ("AcquisitionDateTime 1 of 2", ["20260101101500", "20260102090000"]),
    "ConvolutionKernel": ("ConvolutionKernel B30", ["B30", "B70"]),
    "KVP": ("KVP 80", ["80", "140"]),
    "ImageType": (r"ImageType DERIVED", [["DERIVED", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "AXIAL"]]),
}


@pytest.mark.parametrize("tag", PHASES)
def test_volumes_at_one_place_are_told_apart_by_a_tag_and_never_mixed(tmp_path, tag):
    label, values = PHASES[tag]
    early, late = stored(seed=1), stored(seed=2)
    write_series(tmp_path, early, prefix="x", **{tag: values[0]})
    write_series(tmp_path, late, prefix="a", **{tag: values[1]})
    refused(tmp_path, rf"got 2: \[1\] 1\.2\.3/1, 4 slices.*{label}.*--series-uid 1\.2\.3/1")
    for name, expected in (("1.2.3/1", early), ("1.2.3/2", late)):
        volume = volume_of(tmp_path, series_uid=name)
        np.testing.assert_array_equal(volume.array, expected)
        assert volume.provenance["scan"]["series_uid"] == "1.2.3"
    assert verdicts(tmp_path) == ["candidate", "candidate"]
    assert "2026" not in str(describe(tmp_path))


def test_two_kernels_at_three_times_are_six_volumes(tmp_path):
    for number in range(6):
        tags = {"ConvolutionKernel": f"B{number // 3}", "AcquisitionNumber": number % 3 + 1}
        write_series(tmp_path, stored(seed=number), prefix=f"{number}", **tags)
    refused(tmp_path, r"got 6: .*ConvolutionKernel B1, AcquisitionNumber 3")
    np.testing.assert_array_equal(volume_of(tmp_path, series_uid="1.2.3/6").array, stored(seed=5))


def test_two_voltages_half_a_slice_apart_are_two_volumes(tmp_path):
    write_series(tmp_path, stored(seed=1), prefix="a", heights=[0, 1, 2, 3], KVP="80")
    write_series(tmp_path, stored(seed=2), prefix="b", heights=[0.5, 1.5, 2.5, 3.5], KVP="140")
    refused(tmp_path, "got 2: .*KVP 80.*KVP 140")
    assert volume_of(tmp_path, series_uid="1.2.3/2").grid.spacing[0] == 1.0


def test_slices_with_a_time_of_their_own_stay_one_volume_and_a_gap_stays_a_gap(tmp_path):
    values = stored(6)
    for k, plane in enumerate(values):
        tags = {"AcquisitionNumber": k + 1, "AcquisitionTime": f"10150{k}"}
        dataset = slice_dataset(plane, (0, 0, k), **tags)
        dataset.save_as(tmp_path / f"{k}", enforce_file_format=True)
    np.testing.assert_array_equal(volume_of(tmp_path).array, values)
    other = tmp_path / "slabs"
    write_series(other, values, heights=[0, 1, 2, 4, 5, 6], AcquisitionNumber=1)
    for path in sorted(other.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionNumber = 1 + (dataset.ImagePositionPatient[2] > 33)
        dataset.save_as(path)
    refused(other, r"1 slice\(s\) missing")


def test_an_incomplete_time_point_makes_no_candidates(tmp_path):
    write_series(tmp_path, stored(4), prefix="a", AcquisitionNumber=1)
    write_series(tmp_path, stored(3), prefix="b", heights=[0, 1, 3], AcquisitionNumber=2)
    refused(tmp_path, "3 of 7 slices repeat a position")


def test_copies_are_left_out_and_another_image_of_the_same_name_is_not(tmp_path):
    values = stored()
    paths = write_series(tmp_path / "a", values)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    volume = volume_of(tmp_path)
    np.testing.assert_array_equal(volume.array, values)
    assert volume.provenance["inputs"][0]["files"] == 4
    assert "left out beside the volume: 4 duplicate files" in volume.warnings
    dataset = pydicom.dcmread(tmp_path / "b" / paths[0].name)
    dataset.RescaleIntercept = "1"
    dataset.save_as(tmp_path / "b" / paths[0].name)
    refused(tmp_path, "1 of 5 slices repeat a position")


def test_bolus_tracking_screenshots_and_scouts_leave_no_doubt(tmp_path):
    values = stored()
    write_series(tmp_path, values)
    write_series(tmp_path, stored(9), heights=[2.0] * 9, SeriesInstanceUID="5.1", prefix="bolus")
    nowhere = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    write_series(tmp_path, stored(3), SeriesInstanceUID="5.2", prefix="shot", **nowhere)
    for number, words in enumerate((["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY", "MIP"])):
        write_series(tmp_path, stored(), SeriesInstanceUID=f"6.{number}", prefix=f"{number}", ImageType=words)
    volume = volume_of(tmp_path)
    np.testing.assert_array_equal(volume.array, values)
    for words in (
        "left out 9 slices at one place beside the volume (series 5.1)",
        "left out 3 slices without a place beside the volume (series 5.2)",
        "left out beside the volume: 4 localizers, 4 projections",
    ):
        assert words in volume.warnings
    assert sorted(verdict.split(":")[0] for verdict in verdicts(tmp_path)) == [
        "left out",
        "left out",
        "taken",
    ]


def test_a_broken_series_beside_a_sound_one_is_not_passed_over(tmp_path):
    write_series(tmp_path, stored(), prefix="a")
    write_series(tmp_path, stored(), heights=[0, 1, 3, 4], SeriesInstanceUID="9.9", prefix="b")
    refused(tmp_path, r"got 2: .*9\.9, 4 slices")
    assert [verdict.split(":")[0] for verdict in verdicts(tmp_path)] == ["candidate", "refused"]
    assert volume_of(tmp_path, series_uid="1.2.3").grid.size == (4, 5, 6)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"], "projection"),
        (["DERIVED", "SECONDARY", "MPR", "MINIP"], "projection"),
        (["DERIVED", "SECONDARY", "AXIAL", "CSA MIP"], "projection"),
        (["ORIGINAL", "PROJECTION IMAGE", "AXIAL"], "projection"),
        (["DERIVED", "SECONDARY", "VRT"], "3-D rendering"),
        (["DERIVED", "SECONDARY", "CT_SOM5 VRT"], "3-D rendering"),
        (["DERIVED", "SECONDARY", "CPR"], "curved reformat"),
    ],
)
def test_renderings_and_projections_are_set_aside_by_name(tmp_path, words, kind):
    write_series(tmp_path, stored(), ImageType=words)
    refused(tmp_path, f"got 4 {kind}s")


@pytest.mark.parametrize(
    "words",
    [["DERIVED", "SECONDARY", "MPR"], ["DERIVED", "SECONDARY"], ["ORIGINAL", "PRIMARY", "AXIAL", "ADD"]],
)
def test_reformats_with_sound_geometry_are_read(tmp_path, words):
    values = stored()
    write_series(tmp_path, values, ImageType=words)
    np.testing.assert_array_equal(volume_of(tmp_path).array, values)


@pytest.mark.parametrize(
    ("storage", "modality", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.104.1", "CT", "document"),
        ("1.2.840.10008.5.1.4.1.1.88.67", "SR", "SR object"),
        ("1.2.840.10008.5.1.4.1.1.88.67", "CT", "report"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "PR", "PR object"),
        ("1.2.840.10008.5.1.4.1.1.30", "OT", "parametric map"),
        ("1.2.840.10008.5.1.4.1.1.7.2", "CT", "secondary capture"),
    ],
)
def test_what_else_a_study_holds_is_set_aside(tmp_path, storage, modality, kind):
    write_series(tmp_path, stored())
    other = slice_dataset(
        stored()[0], (0, 0, 0), SOPClassUID=storage, Modality=modality, SeriesInstanceUID="8"
    )
    if kind in ("document", "report"):
        del other.PixelData
    other.save_as(tmp_path / "other", enforce_file_format=True)
    assert volume_of(tmp_path).provenance["scan"]["set_aside"] == {kind: 1}


def test_palettes_are_no_slices(tmp_path):
    write_series(tmp_path, stored(), PhotometricInterpretation="PALETTE COLOR")
    refused(tmp_path, "got 4 colour pictures")


def lookup_table():
    table = sequence(ModalityLUTType="HU")
    table[0].add_new("LUTDescriptor", "US", [4, 0, 16])
    table[0].add_new("LUTData", "US", [0, 1, 2, 3])
    return table


def mapped(unit):
    units = sequence(CodeValue=unit, CodingSchemeDesignator="UCUM", CodeMeaning="unit")
    return sequence(MeasurementUnitsCodeSequence=units, RealWorldValueSlope=2.0, RealWorldValueIntercept=0.0)


def change(folder, edit):
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        edit(dataset)
        dataset.save_as(path)


def test_numbers_that_no_slope_gives_are_refused_whatever_the_call_says(tmp_path):
    write_series(tmp_path / "lut", stored(), RescaleSlope=None, RescaleIntercept=None)
    change(tmp_path / "lut", lambda d: setattr(d, "ModalityLUTSequence", lookup_table()))
    write_series(tmp_path / "comma", stored(), RescaleSlope="0.25")
    for path in (tmp_path / "comma").iterdir():
        path.write_bytes(path.read_bytes().replace(b"0.25", b"0,25"))
    for options in ({}, {"unit": "hu"}):
        refused(tmp_path / "lut", "a ModalityLUTSequence in place of rescale slope", **options)
        refused(tmp_path / "comma", "RescaleSlope '0,25' is no number in 4 of 4 slices", **options)


def test_a_real_world_mapping_says_the_unit_where_no_rescale_type_does(tmp_path):
    write_series(tmp_path, stored())
    change(tmp_path, lambda d: setattr(d, "RealWorldValueMappingSequence", mapped("[hnsf'U]")))
    assert volume_of(tmp_path).array.shape == (4, 5, 6)
    change(tmp_path, lambda d: setattr(d, "RealWorldValueMappingSequence", mapped("10*23/ml")))
    refused(tmp_path, r"rescale type 10\*23/ML")


def test_a_range_of_padding_becomes_air_and_its_sign_does_not_matter(tmp_path):
    values = stored()
    values[:, 0, 0], values[:, 0, 1], values[:, 0, 2] = -3000, -2900, -2800
    write_series(tmp_path / "signed", values)
    change(tmp_path / "signed", lambda d: _pad(d, "US", 65536 - 3000, 65536 - 2900))
    write_series(tmp_path / "unsigned", values.view(np.uint16), RescaleIntercept="-65536")
    change(tmp_path / "unsigned", lambda d: _pad(d, "SS", -3000, -2900))
    volume = volume_of(tmp_path / "signed")
    assert volume.array[:, 0, :3].tolist() == [[-1000, -1000, -2800]] * 4
    assert volume.provenance["scan"]["padding_voxels"] == 8
    other = volume_of(tmp_path / "unsigned")
    assert other.array[:, 0, :3].tolist() == [[-1000, -1000, -2800]] * 4


def _pad(dataset, kind, value, limit):
    dataset.add_new("PixelPaddingValue", kind, value)
    dataset.add_new("PixelPaddingRangeLimit", kind, limit)


def test_density_by_rescale_type_needs_only_its_material(tmp_path):
    values = stored()
    write_series(tmp_path / "a", values, RescaleType="MGML")
    assert verdicts(tmp_path / "a") == ["taken: say --material HA or K2HPO4"]
    with pytest.raises(InputError, match="--material"):
        read(tmp_path / "a")
    volume = read(tmp_path / "a", material="K2HPO4")
    np.testing.assert_array_equal(volume.array, values)
    assert (volume.unit, volume.material) == ("mg/cm3", "K2HPO4")
    assert volume.provenance["density_from"] == "tags"
    words = "density in mg/cm3 HA = 0.8 HU +0 (a phantom)"
    write_series(tmp_path / "b", values, RescaleType="MGML", DerivationDescription=words)
    assert verdicts(tmp_path / "b") == ["taken"]
    assert read(tmp_path / "b").material == "HA"
    with pytest.raises(InputError, match="wanted K2HPO4 as --material says, got HA by the tags"):
        read(tmp_path / "b", material="K2HPO4")
    with pytest.raises(InputError, match="HU for --calibration"):
        read(tmp_path / "b", calibration=(0.8, 0.0))


def test_mixed_kernels_and_voltages_are_said(tmp_path):
    write_series(tmp_path, stored())
    first = min(tmp_path.iterdir())
    dataset = pydicom.dcmread(first)
    dataset.KVP, dataset.ConvolutionKernel = "80", "B70"
    dataset.save_as(first)
    volume = volume_of(tmp_path)
    said = " ".join(volume.warnings)
    assert "80 and 120 kVp" in said
    assert "different kernels" in said
    assert volume.provenance["scan"]["kvp"] is None


def test_a_part_finds_the_companions_of_its_own_folder(tmp_path):
    for number in (1, 2):
        folder = tmp_path / "study" / f"phase{number}"
        write_series(folder, stored(seed=number), AcquisitionNumber=number)
        line = {"slope": number, "intercept": 0, "material": "HA"}
        (folder / "calibration.json").write_text(json.dumps(line))
    found = find_beside(tmp_path / "study", series_uid="1.2.3/2").calibration
    assert found == tmp_path / "study" / "phase2" / "calibration.json"


def test_the_table_shows_a_line_for_each_series(tmp_path, qctrun):
    write_series(
        tmp_path, stored(seed=1), prefix="a", AcquisitionNumber=1, SeriesDescription="thin\x1b[31m\nbone"
    )
    write_series(tmp_path, stored(seed=2), prefix="b", AcquisitionNumber=2)
    write_series(tmp_path, stored(1), prefix="c", SeriesInstanceUID="4.4")
    code, out, _ = qctrun("info", tmp_path)
    rows = [line for line in out.splitlines() if line.startswith("[")]
    assert code == 0
    assert [row.split("]")[1].split("  ")[1] for row in rows] == ["candidate", "candidate", "left out"]
    assert "1.2.3/2, AcquisitionNumber 2" in rows[1]
    assert rows[2].endswith("4.4, a single slice (2-D)")
    assert "1 x 0.5 x 0.5" in rows[0]
    assert "\x1b" not in out
    code, _, err = qctrun("filter", tmp_path, "--calibration", "1,0")
    assert (code, err.count("\n")) == (3, 1)
    assert "choose by --series-uid" in err


@pytest.mark.data
def test_the_table_of_a_philips_study(data, qctrun):
    name = "N04_philips_mixed_localizer_dose_patientinfo_dicomdir.zip"
    code, out, _ = qctrun("info", data / "dicom_hard" / name)
    (row,) = [line for line in out.splitlines() if line.startswith("[")]
    assert code == 0
    assert row.split("  ")[1] == "taken"
    assert "5 x 0.4512 x 0.4512" in row
    assert "other_files: DICOM directory 5, localizer 1, secondary capture 6" in out


def test_an_empty_item_where_a_unit_should_stand_does_no_harm(tmp_path):
    write_series(tmp_path, stored())
    change(tmp_path, lambda d: setattr(d, "RealWorldValueMappingSequence", [Dataset()]))
    assert volume_of(tmp_path).unit == "mg/cm3"


def test_the_pixel_size_at_the_detector_is_not_that_in_the_patient(tmp_path):
    write_series(tmp_path, stored(), PixelSpacing=None, ImagerPixelSpacing=[0.5, 0.5])
    refused(tmp_path, "no PixelSpacing in 4 of 4 slices")
