"""DICOM series written here, whose geometry and values are known to the last digit."""

import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import PATIENT, rotation, slice_dataset, write_series
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.reading import list_series, read
from qctrun.runtime.reading.headers import Header
from qctrun.runtime.reading.stacks import stacked

AS_HU = (1.0, 0.0)


def stored(slices=4, rows=5, columns=6, seed=1):
    return np.random.default_rng(seed).integers(-1000, 2000, (slices, rows, columns), dtype=np.int16)


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        read(path, calibration=AS_HU, material="HA", **options)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_a_series_of_shuffled_names_comes_out_in_order_and_in_place(tmp_path):
    values = stored()
    axes = rotation(0.3, -0.5, 1.1)
    paths = write_series(tmp_path, values, spacing=(0.7, 0.3, 0.4), axes=axes)
    volume = read(tmp_path, calibration=AS_HU, material="HA")
    np.testing.assert_array_equal(volume.array, values)
    np.testing.assert_allclose(volume.grid.spacing, (0.7, 0.3, 0.4), atol=1e-6)
    np.testing.assert_allclose(np.reshape(volume.grid.direction, (3, 3)), axes, atol=1e-7)
    assert np.linalg.det(np.reshape(volume.grid.direction, (3, 3))) == pytest.approx(1)
    for k, path in enumerate(paths):
        position = pydicom.dcmread(path).ImagePositionPatient
        np.testing.assert_allclose(volume.grid.world((k, 0, 0)), [float(v) for v in position], atol=2e-6)


def test_a_column_axis_pointing_up_reverses_the_slices_and_not_the_patient(tmp_path):
    values = stored()
    flipped = np.diag([1.0, -1.0, -1.0])
    write_series(tmp_path, values, axes=flipped, origin=(0, 0, 50), spacing=(2.0, 0.5, 0.5))
    grid = read(tmp_path, calibration=AS_HU, material="HA").grid
    np.testing.assert_allclose(grid.world((3, 0, 0)), (0, 0, 44))
    np.testing.assert_allclose(grid.world((0, 1, 0)), (0, -0.5, 50))


angles = st.floats(-3.1, 3.1)


@given(angles, angles, angles, st.floats(0.1, 8), st.integers(2, 40), st.randoms(use_true_random=False))
def test_any_rotation_spacing_and_file_order_gives_the_tags_own_places(a, b, c, gap, count, shuffle):
    axes = rotation(a, b, c)
    positions = [tuple(np.round(np.array([5.0, -7.0, 11.0]) + k * gap * axes[:, 2], 6)) for k in range(count)]
    orientation = tuple(np.round(axes[:, :2].T.ravel(), 6))
    headers = [header(str(k), position, orientation) for k, position in enumerate(positions)]
    shuffle.shuffle(headers)
    (series,) = stacked(headers)
    assert series.problems == ()
    assert [path.name for path in series.files] == [str(k) for k in range(count)]
    assert series.grid is not None
    for k, position in enumerate(positions):
        np.testing.assert_allclose(series.grid.world((k, 0, 0)), position, atol=2e-3)


@given(st.integers(3, 60), st.data())
def test_a_missing_inner_slice_never_passes(count, data):
    absent = data.draw(st.integers(1, count - 1))
    upright = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    headers = [header(str(k), (0.0, 0.0, 0.6 * k), upright) for k in range(count + 1) if k != absent]
    (series,) = stacked(headers)
    assert series.grid is None
    if count > 3:
        assert f"1 slice(s) missing after {absent - 1}" in series.problems[0]


def header(name, position, orientation):
    return Header(
        path=Path(name),
        series_uid="1",
        description="",
        frame_uid="2",
        rows=4,
        columns=4,
        position=position,
        orientation=orientation,
        pixel_spacing_mm=(0.5, 0.5),
        thickness_mm=None,
        slope=1.0,
        intercept=0.0,
        rescale_type="",
        padding=None,
        lossy=False,
        kvp=120.0,
        kernel="",
        manufacturer="",
    )


def test_positions_written_with_one_decimal_are_even_enough(tmp_path):
    heights = np.round(np.arange(20) * 1.25, 1)
    write_series(tmp_path, stored(20), heights=heights)
    spacing = read(tmp_path, calibration=AS_HU, material="HA").grid.spacing
    assert spacing[0] == pytest.approx(heights[-1] / 19)


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    values = stored(3)
    write_series(tmp_path, values, slopes=["1", "0.5", "2"], RescaleIntercept="-1024")
    volume = read(tmp_path, calibration=AS_HU, material="HA")
    expected = values * np.array([1, 0.5, 2])[:, None, None] - 1024
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)


def test_two_slices_are_a_volume_and_one_is_not(tmp_path):
    write_series(tmp_path / "two", stored(2), spacing=(3.0, 0.5, 0.5))
    assert read(tmp_path / "two", calibration=AS_HU, material="HA").grid.spacing[0] == 3.0
    write_series(tmp_path / "one", stored(1))
    refused(tmp_path / "one", r"1 slice of 5 x 6.*a single slice \(2-D\)")


def test_padding_becomes_air_only_where_no_tissue_can_be(tmp_path):
    values = stored(3)
    values[:, 0, 0] = -2000
    for path in write_series(tmp_path / "circle", values, RescaleIntercept="-1024"):
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", "US", 63536)  # -2000 without its sign, as scanners write it
        dataset.save_as(path)
    volume = read(tmp_path / "circle", calibration=AS_HU, material="HA")
    assert (volume.array[:, 0, 0] == -1000).all()
    assert volume.array[0, 1, 1] == values[0, 1, 1] - 1024
    assert volume.provenance["scan"]["padding_voxels"] == 3
    values[:, 0, 0] = 0
    write_series(tmp_path / "water", values, PixelPaddingValue=0)
    np.testing.assert_array_equal(read(tmp_path / "water", calibration=AS_HU, material="HA").array, values)


@pytest.mark.parametrize("signed", [True, False])
def test_bits_beside_the_stored_ones_are_shifted_out(tmp_path, signed):
    true = np.array([[[-5, 700], [-2048, 2047]]] * 2) if signed else np.array([[[5, 700], [0, 4095]]] * 2)
    dirty = (true & 0x0FFF | 0x5000).astype(np.uint16)
    values = dirty.view(np.int16) if signed else dirty
    write_series(tmp_path, values, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read(tmp_path, calibration=AS_HU, material="HA").array, true)


def test_packed_pixels_equal_plain_ones(tmp_path):
    values = stored(3, 8, 8)
    for path in write_series(tmp_path, values, RescaleIntercept="-24"):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read(tmp_path, calibration=AS_HU, material="HA").array, values - 24)


def test_malformed_tags_that_say_nothing_about_place_or_value_do_not_matter(tmp_path):
    values = stored(3)
    for path in write_series(tmp_path, values, SliceThickness="", KVP="120"):
        raw = path.read_bytes().replace(PATIENT.encode(), b"\xff\xfe\x00\x01  broken "[: len(PATIENT)])
        path.write_bytes(raw)
    volume = read(tmp_path, calibration=AS_HU, material="HA")
    np.testing.assert_array_equal(volume.array, values)
    assert volume.provenance["scan"]["slice_thickness_mm"] is None


def test_the_record_names_the_scan_and_never_the_patient(tmp_path):
    paths = write_series(tmp_path / "case", stored())
    volume = read(tmp_path / "case", calibration=AS_HU, material="HA")
    record = volume.provenance
    (source,) = record["inputs"]
    assert source["path"] == str(tmp_path / "case")
    assert (source["files"], source["format"]) == (4, "dicom")
    assert record["stem"] == "case"
    assert record["scan"]["kvp"] == 120
    assert record["scan"]["kernel"] == "B60"
    assert record["scan"]["manufacturer"] == "ACME"
    assert record["scan"]["series_uid"] == "1.2.3"
    assert "Secret" not in str(record)
    assert "4711" not in str(record)
    # The digest is that of the slices: names, place on disk and other files do not count.
    (tmp_path / "other").mkdir()
    for k, path in enumerate(paths):
        shutil.copy(path, tmp_path / "other" / f"{k}.dcm")
    (tmp_path / "other" / "notes.txt").write_text("not a slice")
    assert read(tmp_path / "other", calibration=AS_HU).provenance["inputs"][0]["sha256"] == source["sha256"]


def test_everything_else_in_the_folder_is_set_aside_and_counted(tmp_path):
    values = stored()
    write_series(tmp_path / "a" / "b", values)
    extras = {
        "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "secondary capture": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        "3-D rendering": {"ImageType": ["DERIVED", "SECONDARY", "3D"]},
        "MR object": {"Modality": "MR"},
    }
    for name, tags in extras.items():
        write_series(tmp_path / name, values[:1], SeriesInstanceUID="9", **tags)
    (tmp_path / "mask.nii.gz").write_bytes(b"a mask lies in the folder, too")
    volume = read(tmp_path, calibration=AS_HU, material="HA")
    np.testing.assert_array_equal(volume.array, values)
    assert volume.provenance["scan"]["set_aside"] == {**dict.fromkeys(extras, 1), "file that is not DICOM": 1}


def test_a_single_slice_of_another_orientation_or_series_is_left_out_with_a_word(tmp_path):
    values = stored()
    write_series(tmp_path, values)
    write_series(tmp_path, values[:1], axes=rotation(0, 0, 1.5), prefix="scout")
    write_series(tmp_path, values[:1], SeriesInstanceUID="5.5", prefix="bolus")
    volume = read(tmp_path, calibration=AS_HU, material="HA")
    np.testing.assert_array_equal(volume.array, values)
    assert sum("left out a single slice" in warning for warning in volume.warnings) == 2


def test_two_series_are_listed_and_one_can_be_chosen(tmp_path):
    soft, hard = stored(seed=2), stored(3, seed=3)
    write_series(tmp_path, soft, SeriesDescription="soft", prefix="s")
    write_series(tmp_path, hard, SeriesInstanceUID="9.9", SeriesDescription="hard", prefix="h")
    refused(tmp_path, r"got 2: .*9\.9 'hard', 3 slices.*1\.2\.3 'soft', 4 slices.*--series-uid")
    refused(tmp_path, "wanted one of these.*9.9", series_uid="7")
    chosen = read(tmp_path, calibration=AS_HU, series_uid="9.9", material="HA")
    np.testing.assert_array_equal(chosen.array, hard)
    assert [series.uid for series in list_series(tmp_path)] == ["9.9", "1.2.3"]


def test_one_series_of_two_volumes_is_chosen_by_a_number_behind_its_uid(tmp_path):
    first, second = stored(seed=4), stored(seed=5)
    write_series(tmp_path, first, prefix="a")
    write_series(tmp_path, second, prefix="b", FrameOfReferenceUID="8.8")
    refused(tmp_path, r"got 2: .*1\.2\.3/2, 4 slices.*frame of reference 2 of 2; choose by --series-uid")
    refused(tmp_path, "got 2", series_uid="1.2.3")
    volume = read(tmp_path, calibration=AS_HU, material="HA", series_uid="1.2.3/2")
    np.testing.assert_array_equal(volume.array, second)
    scan = volume.provenance["scan"]
    assert (scan["series_uid"], scan["series_part"]) == ("1.2.3", 2)


def test_an_image_series_uid_makes_no_sense(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    with pytest.raises(UsageError, match="DICOM"):
        read(tmp_path / "a.nii", series_uid="1", unit="HU")


@pytest.mark.parametrize(
    ("heights", "match"),
    [
        ([0, 1, 2, 4, 5], r"1\.000 x3, 2\.000 x1 mm; 1 slice\(s\) missing after I"),
        ([0, 1, 2.5, 3.2, 4], "uneven gaps along the normal: 1.000 x1, 1.500 x1, 0.700 x1, 0.800 x1 mm"),
        ([0, 1, 1, 2, 2], "2 of 5 slices repeat a position"),
        ([0, 0, 0, 0, 0], "4 of 5 slices repeat a position"),
    ],
)
def test_uneven_slices_are_refused_with_the_numbers(tmp_path, heights, match):
    write_series(tmp_path, stored(5), heights=heights)
    refused(tmp_path, match)


def test_gantry_tilt_is_refused_with_its_angle(tmp_path):
    for k, values in enumerate(stored()):
        position = (0, k * np.tan(np.radians(12)), k)
        slice_dataset(values, position).save_as(tmp_path / str(k), enforce_file_format=True)
    refused(tmp_path, r"tilt or shear of 12\.0 deg: slices shift sideways by up to 0\.64 mm")


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ({"PixelSpacing": None}, "no PixelSpacing in 4 of 4 slices"),
        ({"PixelSpacing": [0, 0.5]}, "PixelSpacing"),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient in 4 of 4 slices"),
        ({"ImageOrientationPatient": None}, "no ImageOrientationPatient in 4 of 4 slices"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "not perpendicular"),
        ({"NumberOfFrames": 3}, "3 frames in an object of CT Image Storage, which has no places for them"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, "without PerFrameFunctionalGroupsSequence"),
        ({"RescaleType": "US"}, "rescale type US.*--unit"),
        (
            {"RescaleType": "MGML"},
            "HU for --calibration, got mg/cm3, calibrated already as its rescale type says",
        ),
        ({"RescaleSlope": None}, "no rescale slope or intercept.*--unit"),
        ({"RescaleSlope": "0"}, "got a rescale slope of 0 in 4 of 4 slices"),
    ],
)
def test_missing_or_strange_tags_are_refused_by_name(tmp_path, tags, match):
    write_series(tmp_path, stored(), **tags)
    refused(tmp_path, match)


def test_a_unit_said_on_the_call_fills_what_the_tags_leave_open(tmp_path):
    values = stored()
    write_series(tmp_path / "us", values, RescaleType="US")
    hounsfield = read(tmp_path / "us", unit="hu", calibration=(2.0, 1.0), material="HA")
    np.testing.assert_array_equal(hounsfield.array, values * 2.0 + 1)
    write_series(tmp_path / "mgml", values, RescaleType="MGML")
    density = read(tmp_path / "mgml", unit="mg/cm3", material="K2HPO4")
    np.testing.assert_array_equal(density.array, values)
    assert (density.unit, density.material) == ("mg/cm3", "K2HPO4")
    for options in ({"unit": "mg/cm3"}, {}):
        with pytest.raises(InputError, match=r"material.*--material"):
            read(tmp_path / "mgml", **options)
    with pytest.raises(InputError, match="MGML in the slices"):
        read(tmp_path / "mgml", unit="hu")
    write_series(tmp_path / "hu", values, RescaleType="HU")
    with pytest.raises(InputError, match="rescale type HU in the slices"):
        read(tmp_path / "hu", unit="mg/cm3", material="HA")


def test_missing_pixels_and_cut_files_are_named(tmp_path):
    paths = write_series(tmp_path, stored())
    whole = paths[1].read_bytes()
    for length in (140, 400, 800, len(whole) - 100, len(whole) - 1):
        paths[1].write_bytes(whole[:length])
        refused(tmp_path, f"{paths[1].name}: wanted")
    dataset = pydicom.dcmread(paths[0])
    del dataset.PixelData
    dataset.save_as(paths[0])
    paths[1].write_bytes(whole)
    refused(tmp_path, f"{paths[0].name}: .*no pixel data")
    write_series(tmp_path / "other", stored())
    (tmp_path / "other" / "empty.dcm").write_bytes(b"")
    refused(tmp_path / "other", "empty.dcm: wanted a whole DICOM file")


def test_undecodable_pixels_are_named(tmp_path):
    paths = write_series(tmp_path, stored(3, 8, 8))
    dataset = pydicom.dcmread(paths[-1])
    dataset.PixelData = encapsulate([b"this is not a JPEG 2000 stream"])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(paths[-1])
    refused(tmp_path, f"{paths[-1].name}: wanted a CT slice with readable pixels")


def test_folders_without_a_scan_are_refused(tmp_path):
    refused(tmp_path / "nowhere", "no such file or folder")
    refused(tmp_path, "got nothing")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path, "got 1 file that is not DICOM")
    refused(tmp_path / "notes.txt", "another kind of file")
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    refused(tmp_path, r"give a file itself, such as .*scan\.nii\.gz")
    (path,) = write_series(tmp_path / "one", stored(1))
    refused(path, "one DICOM file; give its folder")


def test_a_zip_reads_as_its_folder_and_leaves_nothing(tmp_path, monkeypatch):
    values = stored()
    write_series(tmp_path / "scan", values)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for path in (tmp_path / "scan").iterdir():
            archive.write(path, f"deep/er/{path.name}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    volume = read(tmp_path / "scan.zip", calibration=AS_HU, material="HA")
    np.testing.assert_array_equal(volume.array, values)
    assert volume.grid.difference(read(tmp_path / "scan", calibration=AS_HU).grid) == ""
    assert volume.provenance["inputs"][0]["format"] == "dicom-zip"
    assert volume.provenance["stem"] == "scan"
    assert len(list_series(tmp_path / "scan.zip")) == 1
    assert list(scratch.iterdir()) == []


def test_reading_takes_little_more_than_the_result(tmp_path):
    values = stored(64, 128, 128)
    write_series(tmp_path, values)
    tracemalloc.start()
    read(tmp_path, calibration=(0.8, 1.0), material="HA")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * values.size + 2**20
