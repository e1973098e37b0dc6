"""Enhanced multi-frame CT: objects written here frame by frame, and what other readers make of them."""

import json
import shutil
import subprocess
import tracemalloc

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_series import SHARED, enhanced_dataset, heights, rotation, write_series
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import describe, list_series, read

AS_HU = (1.0, 0.0)
ORDER = [3, 0, 4, 1, 2]
"""In which place of the volume each frame of the object lies."""


def stored(slices=5, rows=6, columns=7, seed=1):
    return np.random.default_rng(seed).integers(-1000, 2000, (slices, rows, columns), dtype=np.int16)


def save(folder, dataset, name="object.dcm", **options):
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(folder / name, enforce_file_format=True, **options)
    return folder / name


def volume_of(folder, **options):
    return read(folder, calibration=AS_HU, material="HA", **options)


def refused(folder, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        volume_of(folder, **options)
    assert "\n" not in str(caught.value)


def test_frames_come_out_in_order_and_in_place_with_their_own_rescale(tmp_path):
    values, axes = stored(), rotation(0.3, -0.5, 1.1)
    frames = heights([0.7 * k for k in ORDER], axes)
    for k, frame in enumerate(frames):
        frame |= {"RescaleSlope": 1.0 + k, "RescaleIntercept": -10.0 * k, "RescaleType": "HU"}
    turned = {**SHARED, "PixelSpacing": [0.3, 0.4], "ImageOrientationPatient": [*axes[:, :2].T.ravel()]}
    save(tmp_path, enhanced_dataset(values, frames, turned, SliceThickness="5"))
    volume = volume_of(tmp_path)
    for k, place in enumerate(ORDER):
        np.testing.assert_allclose(volume.array[place], values[k] * (1.0 + k) - 10 * k, rtol=1e-6)
        position = frames[k]["ImagePositionPatient"]
        np.testing.assert_allclose(volume.grid.world((place, 0, 0)), position, atol=1e-9)
    np.testing.assert_allclose(volume.grid.spacing, (0.7, 0.3, 0.4), atol=1e-9)
    np.testing.assert_allclose(np.reshape(volume.grid.direction, (3, 3)), axes, atol=1e-9)
    scan, (source,) = volume.provenance["scan"], volume.provenance["inputs"]
    assert (scan["kvp"], scan["kernel"], source["files"]) == (120, "B60", 1)


def test_what_a_frame_says_comes_before_what_all_share(tmp_path):
    values = stored(2)
    frames = heights([0, 2])
    frames[1] |= {"RescaleSlope": 3.0, "RescaleIntercept": 5.0, "RescaleType": "HU"}
    save(tmp_path, enhanced_dataset(values, frames))
    expected = np.stack([values[0], values[1] * 3.0 + 5])
    np.testing.assert_array_equal(volume_of(tmp_path).array, expected)


@pytest.mark.parametrize(
    "pack", ["big endian", "deflated", "RLE", "JPEG 2000", "offset table", "no offset table"]
)
def test_packed_frames_equal_plain_ones(tmp_path, pack):
    values = stored(4, 32, 32)
    dataset = enhanced_dataset(values, heights([0, 1, 2, 3]), RescaleIntercept=None)
    if pack == "big endian":
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = values.astype(">i2").tobytes()
        save(tmp_path, dataset, implicit_vr=False, little_endian=False)
    elif pack == "deflated":
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        save(tmp_path, dataset)
    else:
        syntax = RLELossless if pack == "RLE" else JPEG2000Lossless
        dataset.compress(syntax, generate_instance_uid=False)
        frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=4))
        if pack == "offset table":
            packed = encapsulate_extended(frames)
            dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = packed
        elif pack == "no offset table":
            dataset.PixelData = encapsulate(frames, has_bot=False)
        save(tmp_path, dataset)
    np.testing.assert_array_equal(volume_of(tmp_path).array, values)


def test_an_object_cut_into_several_is_one_volume_and_a_missing_part_is_named(tmp_path):
    values = stored(6)
    for part in range(3):
        frames = heights([2 * part, 2 * part + 1])
        numbers = {"InConcatenationNumber": part + 1, "InConcatenationTotalNumber": 3}
        dataset = enhanced_dataset(values[2 * part : 2 * part + 2], frames, ConcatenationUID="7.7", **numbers)
        save(tmp_path, dataset, f"{9 - part}.dcm")
    volume = volume_of(tmp_path)
    np.testing.assert_array_equal(volume.array, values)
    assert volume.provenance["inputs"][0]["files"] == 3
    (tmp_path / "7.dcm").unlink()
    refused(tmp_path, "1 of the 3 objects of a concatenation missing")


def test_time_points_and_orientations_in_one_object_are_candidates(tmp_path):
    values = stored(8)
    frames = [
        {**frame, "TemporalPositionIndex": 2 - k % 2} for k, frame in enumerate(heights([0, 0, 1, 1, 2, 2]))
    ]
    sideways = {"ImageOrientationPatient": [0.0, 1, 0, 0, 0, 1]}
    frames += [{"ImagePositionPatient": [float(k), 0.0, 0.0], **sideways} for k in range(2)]
    save(tmp_path, enhanced_dataset(values, frames))
    refused(tmp_path, r"got 3: .*1\.2\.3/1, 3 slices.*TemporalPositionIndex 1.*2 slices.*orientation 2 of 2")
    for name, chosen in (("1.2.3/1", [1, 3, 5]), ("1.2.3/2", [0, 2, 4]), ("1.2.3/3", [6, 7])):
        np.testing.assert_array_equal(volume_of(tmp_path, series_uid=name).array, values[chosen])


def test_scouts_and_projections_among_the_frames_are_set_aside(tmp_path):
    values = stored(6)
    frames = [
        {**frame, "frame_type": ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]} for frame in heights(range(6))
    ]
    frames[0]["frame_type"] = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    frames[5]["frame_type"] = ["DERIVED", "PRIMARY", "AXIAL", "MAXIMUM"]
    save(tmp_path, enhanced_dataset(values, frames))
    volume = volume_of(tmp_path)
    np.testing.assert_array_equal(volume.array, values[1:5])
    assert volume.provenance["scan"]["set_aside"] == {"localizer": 1, "projection": 1}
    assert "left out beside the volume: 1 localizer, 1 projection" in volume.warnings


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.PerFrameFunctionalGroupsSequence.pop(), "5 frames, and functional groups of 4"),
        (
            lambda d: delattr(d, "PerFrameFunctionalGroupsSequence"),
            "without PerFrameFunctionalGroupsSequence",
        ),
        (lambda d: delattr(d, "SharedFunctionalGroupsSequence"), "no ImageOrientationPatient in 5 of 5"),
        (lambda d: setattr(d, "NumberOfFrames", 6), "6 frames, and functional groups of 5"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-84]), "object.dcm: wanted a CT slice"),
        (
            lambda d: delattr(d.PerFrameFunctionalGroupsSequence[2], "PlanePositionSequence"),
            r"no ImagePositionPatient in 1 of 5 slices \(first: object.dcm frame 3\)",
        ),
    ],
)
def test_broken_objects_are_refused_by_name(tmp_path, change, match):
    dataset = enhanced_dataset(stored(), heights(range(5)))
    change(dataset)
    save(tmp_path, dataset)
    refused(tmp_path, match)


def test_a_missing_frame_and_mixed_kilovolts_are_seen(tmp_path):
    save(tmp_path / "gap", enhanced_dataset(stored(), heights([0, 1, 2, 4, 5])))
    refused(tmp_path / "gap", r"1 slice\(s\) missing after object.dcm frame 3")
    frames = heights(range(5))
    frames[2]["KVP"] = 80.0
    save(tmp_path / "kvp", enhanced_dataset(stored(), frames))
    volume = volume_of(tmp_path / "kvp")
    assert volume.provenance["scan"]["kvp"] is None
    assert any("80 and 120 kVp" in warning for warning in volume.warnings)
    with pytest.raises(InputError, match="tube voltage is unknown"):
        read(tmp_path / "kvp")


def test_info_shows_an_object_of_many_frames(tmp_path):
    save(tmp_path, enhanced_dataset(stored(), heights(range(5))))
    (series,) = describe(tmp_path)["series"]
    assert (series["size_zyx"], series["files"], series["verdict"]) == ((5, 6, 7), 1, "taken")


def test_highdicom_sees_the_same_in_its_own_legacy_object_and_in_ours(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    values, axes = stored(6, 16, 16), rotation(0.2, 0.4, -0.3)
    tags = {"StudyInstanceUID": "1.2.9", "StudyDate": "20200101", "StudyTime": "120000", "SeriesNumber": 1}
    tags |= {"AccessionNumber": "", "PatientBirthDate": "", "PatientSex": "", "StudyID": ""}
    tags |= {
        "ReferringPhysicianName": "",
        "PatientPosition": "HFS",
        "AcquisitionNumber": 1,
        "DataCollectionDiameter": 500,
    }
    tags |= {"AcquisitionDateTime": "20200101120000"}
    classic = tmp_path / "classic"
    paths = write_series(classic, values, axes=axes, spacing=(1.5, 0.6, 0.7), RescaleIntercept="-24", **tags)
    legacy = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        [pydicom.dcmread(path) for path in paths],
        series_instance_uid="1.2.77",
        series_number=2,
        sop_instance_uid="1.2.78",
        instance_number=1,
    )
    assert legacy.SOPClassUID == LegacyConvertedEnhancedCTImageStorage
    path = save(tmp_path / "legacy", legacy)
    ours, before = volume_of(tmp_path / "legacy"), volume_of(classic)
    np.testing.assert_array_equal(ours.array, before.array)
    assert ours.grid.difference(before.grid) == ""
    theirs = highdicom.imread(path).get_volume()
    _same_as_highdicom(ours, theirs)


def test_highdicom_and_dcm2niix_see_the_same_in_an_enhanced_object(tmp_path):
    values, axes = stored(5, 16, 20), rotation(0.2, 0.4, -0.3)
    turned = {**SHARED, "RescaleIntercept": -24.0, "ImageOrientationPatient": [*axes[:, :2].T.ravel()]}
    frames = heights([1.5 * k for k in ORDER], axes)
    for k, frame in zip(ORDER, frames, strict=True):
        frame |= {"StackID": "1", "InStackPositionNumber": k + 1}
    dataset = enhanced_dataset(
        values, frames, turned, StudyInstanceUID="1.2.9", InstanceNumber=1, SeriesNumber=1
    )
    path = save(tmp_path / "scan", dataset)
    ours = volume_of(tmp_path / "scan")
    highdicom = pytest.importorskip("highdicom")
    _same_as_highdicom(ours, highdicom.imread(path).get_volume())
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    subprocess.run(["dcm2niix", "-z", "n", "-f", "it", "-o", tmp_path, tmp_path / "scan"], check=True)
    image = nibabel.load(tmp_path / "it.nii")
    points = np.argwhere(np.ones(ours.array.shape))[::37]
    world = np.array([ours.grid.world(tuple(point)) for point in points]) * (-1, -1, 1)
    index = nibabel.affines.apply_affine(np.linalg.inv(image.affine), world)
    np.testing.assert_allclose(index, np.rint(index), atol=2e-3)
    found = np.asarray(image.dataobj)[tuple(np.rint(index).astype(int).T)]
    np.testing.assert_array_equal(found, ours.array[tuple(points.T)])


def _same_as_highdicom(ours, theirs):
    """The same value at the same place in the patient, whatever the order of the axes."""
    points = np.argwhere(np.ones(ours.array.shape))[::29]
    world = np.array([ours.grid.world(tuple(point)) for point in points])
    index = nibabel.affines.apply_affine(np.linalg.inv(theirs.affine), world)
    np.testing.assert_allclose(index, np.rint(index), atol=2e-3)
    found = theirs.array[tuple(np.rint(index).astype(int).T)]
    np.testing.assert_allclose(found, ours.array[tuple(points.T)], rtol=1e-6)


def test_a_large_object_is_read_frame_by_frame(tmp_path):
    values = stored(64, 128, 128)
    save(tmp_path, enhanced_dataset(values, heights(range(64))))
    tracemalloc.start()
    volume = volume_of(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.array, values)
    assert peak < 4 * values.size + values.nbytes // 2


def test_the_program_reads_and_lists_frames(tmp_path, qctrun):
    save(tmp_path / "scan", enhanced_dataset(stored(), heights(range(5))))
    code, out, _ = qctrun("info", tmp_path / "scan", "--json")
    (series,) = json.loads(out)["series"]
    assert (code, series["volume"], series["name"]) == (0, True, "1.2.3")
    assert len(list_series(tmp_path / "scan")) == 1
