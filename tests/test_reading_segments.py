"""DICOM SEG as masks: written by highdicom on a small scan, read onto it."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import scans
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from qctrun.runtime.errors import InputError, RuntimeMissingError
from qctrun.runtime.reading import load_label_map, read, read_label_map

SIZE = (8, 12, 14)
highdicom = pytest.importorskip("highdicom")


def blocks():
    """Two vertebrae as blocks; the outermost slices are empty."""
    values = np.zeros(SIZE, np.uint8)
    values[2:5, 2:8, 3:9], values[5:7, 3:9, 4:11] = 1, 2
    return values


@pytest.fixture
def scan(tmp_path):
    scans.make_series(tmp_path / "scan", size=SIZE)
    return tmp_path / "scan"


def write_seg(path: Path, scan: Path, values, kind="BINARY", names=("L1", "vertebra L2"), **changes):
    """A SEG of these segments on the slices of the scan."""
    slices = sorted((pydicom.dcmread(file) for file in scan.iterdir()), key=lambda ds: ds.InstanceNumber)
    for dataset in slices:
        for word in (
            "PatientBirthDate",
            "PatientSex",
            "StudyID",
            "StudyDate",
            "StudyTime",
            "AccessionNumber",
        ):
            setattr(dataset, word, "")
        dataset.ReferringPhysicianName = ""
    code = highdicom.sr.CodedConcept("51282000", "SCT", "Vertebra")
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=code,
            segmented_property_type=code,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, 1)
    ]
    seg = highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=values,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="ACME",
        manufacturer_model_name="segmenter",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    for word, value in changes.items():
        setattr(seg, word, value)
    seg.save_as(path)
    return path


def laid(path, scan, **options):
    volume = read(scan, calibration=(1.0, 0.0), material="HA")
    frame = volume.provenance["scan"]["frame_of_reference_uid"]
    assert frame
    return read_label_map(path, volume.grid, frame_uid=frame, **options)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("name", ["seg.dcm", "without a suffix"])
def test_segments_become_labels_with_names(tmp_path, scan, kind, name):
    path = write_seg(tmp_path / name, scan, blocks(), kind)
    found = laid(path, scan)
    np.testing.assert_array_equal(found.array, blocks())
    assert found.names == {1: "L1", 2: "vertebra L2"}
    np.testing.assert_array_equal(laid(path, scan, label_ids=("L2",)).array, np.where(blocks() == 2, 2, 0))


def test_slices_that_are_left_out_are_empty(tmp_path, scan):
    values = blocks()
    values[4] = 0
    found = laid(write_seg(tmp_path / "seg.dcm", scan, values), scan)
    np.testing.assert_array_equal(found.array, values)
    assert found.fit["fit"] == "placed by whole voxels"


def test_a_segmentation_alone_keeps_its_own_grid_and_may_lie_in_a_folder(tmp_path, scan):
    (tmp_path / "folder").mkdir()
    write_seg(tmp_path / "folder" / "seg", scan, blocks())
    found = load_label_map(tmp_path / "folder")
    assert found.grid.spacing == pytest.approx(scans.SPACING_MM)
    place = read(scan, calibration=(1.0, 0.0), material="HA").grid
    first = int(np.argwhere(blocks().any(axis=(1, 2)))[0, 0])
    assert found.grid.origin == pytest.approx(place.world((first, 0, 0)))
    assert found.grid.direction == pytest.approx(place.direction)
    with pytest.raises(InputError, match=f"a folder of {SIZE[0]} DICOM files"):
        load_label_map(scan)


def test_another_frame_of_reference_is_refused(tmp_path, scan):
    path = write_seg(tmp_path / "seg.dcm", scan, blocks(), FrameOfReferenceUID="1.2.3")
    with pytest.raises(InputError, match=r"frame of reference of the scan, .*, got 1\.2\.3; take"):
        laid(path, scan)
    volume = read(scan, calibration=(1.0, 0.0), material="HA")
    np.testing.assert_array_equal(read_label_map(path, volume.grid).array, blocks())


def test_overlapping_segments_are_refused(tmp_path, scan):
    both = np.stack([blocks() > 0, blocks() > 1], axis=-1).astype(np.uint8)
    with pytest.raises(InputError, match=r"no overlap.*label map without overlap"):
        laid(write_seg(tmp_path / "seg.dcm", scan, both), scan)


def test_fractions_are_refused(tmp_path, scan):
    values = blocks()[..., None].astype(np.float32).clip(0, 1) * 0.5
    with pytest.raises(InputError, match="a FRACTIONAL SEG; write it as BINARY"):
        laid(write_seg(tmp_path / "seg.dcm", scan, values, "FRACTIONAL", names=("L1",)), scan)


def test_contours_and_other_objects_are_refused_by_name(tmp_path, scan):
    other = pydicom.dcmread(next(scan.iterdir()))
    other.file_meta.MediaStorageSOPClassUID = other.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    other.save_as(tmp_path / "rt.dcm")
    with pytest.raises(InputError, match=r"got contours \(RTSTRUCT\); turn its contours into a label map"):
        laid(tmp_path / "rt.dcm", scan)
    with pytest.raises(InputError, match="a DICOM object of class CT Image Storage"):
        laid(next(scan.iterdir()), scan)


def test_a_damaged_segmentation_is_refused_in_one_line(tmp_path, scan):
    whole = write_seg(tmp_path / "seg.dcm", scan, blocks()).read_bytes()
    rng = np.random.default_rng(3)
    for number in range(60):
        damaged = bytearray(whole)
        if number % 3:
            for place in rng.integers(132, len(whole), 4):
                damaged[place] = rng.integers(256)
        else:
            damaged = damaged[: int(rng.integers(140, len(whole)))]
        (tmp_path / "bad.dcm").write_bytes(damaged)
        try:
            laid(tmp_path / "bad.dcm", scan)
        except InputError as error:
            assert "\n" not in str(error)


def test_without_highdicom_the_mend_is_named(tmp_path, scan, monkeypatch):
    path = write_seg(tmp_path / "seg.dcm", scan, blocks())
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(RuntimeMissingError, match=r'pip install "qctrun\[dicom\]"'):
        laid(path, scan)
