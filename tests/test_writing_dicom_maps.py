"""Parametric Maps: float32 bit for bit, at the same place, with its unit and quantity in codes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_series import enhanced_dataset, heights, rotation
from dicom_sources import CROOKED, PATIENT, faults, scan, stored

from qctrun.runtime import Grid, Volume, local_maps, read, write_dicom
from qctrun.runtime.errors import InputError, OutputExistsError, RuntimeMissingError
from qctrun.runtime.extras import library
from qctrun.runtime.reading.told import sidecar_in

pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")

AXES = {**CROOKED, "oblique": rotation(0.3, -0.5, 1.1)}
OPTIONS: dict[str, Any] = {"spacing": (1.25, 0.35, 0.7), "origin": (-101.5, 20.25, 1003.125)}


def read_back(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The frames as they stand in the file, as uint32, and where the first voxel of each lies."""
    dataset = pydicom.dcmread(path)
    shape = (int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns)
    frames = np.frombuffer(dataset.FloatPixelData, "<u4").reshape(shape)
    groups = dataset.PerFrameFunctionalGroupsSequence
    places = [group.PlanePositionSequence[0].ImagePositionPatient for group in groups]
    return frames, np.array(places, float)


def assert_same(path: Path, volume: Volume) -> None:
    frames, places = read_back(path)
    normal = np.reshape(volume.grid.direction, (3, 3))[:, 2]
    order = np.argsort(places @ normal)
    np.testing.assert_array_equal(frames[order], volume.array.view("u4"))
    wanted = [volume.grid.world((k, 0, 0)) for k in range(volume.grid.size[0])]
    np.testing.assert_allclose(places[order], wanted, atol=1e-5)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Volume]:
    folder = tmp_path_factory.mktemp("scan")
    volume = scan(folder / "scan", stored((9, 14, 13)) // 2, spacing=(0.5, 0.5, 0.5), origin=(7.0, -8.0, 9.0))
    return local_maps(volume, [200.0, 62.5], 2.0, device="cpu")


@pytest.mark.parametrize("key", ["BMD", "SD", ("BVTV", 62.5), ("TMD", 200.0)], ids=str)
def test_every_map_reads_back_bit_for_bit_and_says_what_it_is(
    tmp_path: Path, measured: dict[Any, Volume], key: Any
) -> None:
    volume = measured[key]
    assert np.isnan(volume.array).any() and np.isfinite(volume.array).any()
    path = write_dicom(volume, tmp_path / "out" / "a_map.dcm")
    assert_same(path, volume)
    dataset = pydicom.dcmread(path)
    quantity, threshold = key if isinstance(key, tuple) else (key, None)
    (mapping,) = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == ("1" if quantity == "BVTV" else "mg/cm3")
    assert mapping.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM"
    first, *others = mapping.QuantityDefinitionSequence
    code = first.ConceptCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == (quantity, "99QCTRUN")
    numbers = {each.ConceptNameCodeSequence[0].CodeMeaning: each.get("NumericValue") for each in others}
    assert numbers.get("Threshold Value") == threshold
    assert numbers["Diameter"] == 2
    units = {each.MeasurementUnitsCodeSequence[0].CodeValue for each in others if "NumericValue" in each}
    assert units == ({"mm"} if threshold is None else {"mm", "mg/cm3"})
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    known = volume.array[np.isfinite(volume.array)]
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == known.max()
    assert np.isnan(dataset.FloatPixelPaddingValue)
    assert (dataset.ContentQualification, dataset.ImageType[:1]) == ("RESEARCH", ["DERIVED"])
    assert ("62.5" in mapping.LUTLabel) == (threshold == 62.5)
    assert sidecar_in(path)["Neighbourhood"]["DiameterMM"] == 2
    assert not faults(path)


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_place_and_values_survive_any_axes(tmp_path: Path, axes: Any) -> None:
    volume = scan(tmp_path / "scan", axes=axes, **OPTIONS)
    path = write_dicom(volume, tmp_path / "bmd.dcm")
    assert_same(path, volume)
    assert not faults(path)


def test_highdicom_finds_the_voxels_where_they_are(tmp_path: Path) -> None:
    import highdicom

    volume = scan(tmp_path / "scan", axes=AXES["oblique"], **OPTIONS)
    found = highdicom.image.imread(write_dicom(volume, tmp_path / "bmd.dcm")).get_volume()
    for index in ((0, 0, 0), (4, 5, 6), (2, 1, 3)):
        place = np.linalg.inv(found.affine) @ np.append(volume.grid.world(index), 1)
        i, j, k = np.rint(place[:3]).astype(int)
        np.testing.assert_allclose(place[:3], [i, j, k], atol=1e-3)
        assert found.array[i, j, k] == volume.array[index]


def test_study_and_frame_of_reference_are_the_scans(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan")
    dataset = pydicom.dcmread(write_dicom(volume, tmp_path / "bmd.dcm"))
    for name in (
        "StudyInstanceUID",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "AccessionNumber",
        "StudyDate",
    ):
        assert dataset[name].value == PATIENT[name], name
    assert dataset.FrameOfReferenceUID == "1.2.3.4"
    assert dataset.SeriesInstanceUID != "1.2.3" and dataset.SeriesNumber == 904
    frame = dataset.PerFrameFunctionalGroupsSequence[0]
    assert len(frame.DerivationImageSequence[0].SourceImageSequence) == 1
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3" and len(series.ReferencedInstanceSequence) == 5
    assert "qctrun" in {each.Manufacturer for each in dataset.ContributingEquipmentSequence}


def test_equal_maps_are_equal_files_and_others_have_other_uids(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan")
    first, again = (write_dicom(volume, tmp_path / f"{k}.dcm") for k in range(2))
    assert first.read_bytes() == again.read_bytes()
    other = write_dicom(volume.with_array(volume.array + 1), tmp_path / "other.dcm")
    assert pydicom.dcmread(first).SOPInstanceUID != pydicom.dcmread(other).SOPInstanceUID


def test_equal_voxels_of_other_kinds_have_other_uids(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan", np.zeros((9, 14, 13), np.int16), spacing=(0.5, 0.5, 0.5))
    volume = volume.with_array(np.zeros_like(volume.array))
    maps = local_maps(volume, [200.0], 2.0, device="cpu")
    np.testing.assert_array_equal(maps["BMD"].array, maps["SD"].array)
    paths = [write_dicom(maps[name], tmp_path / f"{name}.dcm") for name in ("BMD", "SD")]
    paths += [
        write_dicom(volume, tmp_path / "it.dcm"),
        write_dicom(volume, tmp_path / "ct") / "slice-0001.dcm",
    ]
    objects = [pydicom.dcmread(path) for path in paths]
    assert (
        len({each.SOPInstanceUID for each in objects})
        == len({each.SeriesInstanceUID for each in objects})
        == 4
    )


def test_a_date_that_is_none_is_not_taken_over(tmp_path: Path) -> None:
    scan(tmp_path / "scan", ContentDate="20240507", ContentTime="010203")
    for path in (tmp_path / "scan").iterdir():
        path.write_bytes(path.read_bytes().replace(b"20240507", b"07.5.24 ").replace(b"010203", b"990203"))
    volume = read(tmp_path / "scan", calibration=(0.8, 2.0), material="HA")
    path = write_dicom(volume, tmp_path / "map.dcm")
    found = pydicom.dcmread(path)
    assert (found.ContentDate, found.ContentTime) == (PATIENT["StudyDate"], PATIENT["StudyTime"])
    assert not faults(path)


def test_another_grid_and_an_enhanced_source(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan", axes=AXES["oblique"])
    finer = Grid((9, 4, 5), (0.5, 1.0, 1.5), volume.grid.origin, volume.grid.direction)
    array = np.random.default_rng(0).normal(0, 100, finer.size).astype(np.float32)
    moved = Volume(array, finer, "mg/cm3", "HA", volume.provenance)
    path = write_dicom(moved, tmp_path / "finer.dcm")
    assert_same(path, moved)
    assert not faults(path)
    (tmp_path / "enhanced").mkdir()
    told = {**PATIENT, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}
    dataset = enhanced_dataset(stored((3, 6, 7)), heights([1.4, 0.0, 0.7]), **told)
    dataset.save_as(tmp_path / "enhanced" / "object.dcm", enforce_file_format=True)
    volume = read(tmp_path / "enhanced", calibration=(1.0, 0.0), material="HA")
    path = write_dicom(volume, tmp_path / "enhanced.dcm")
    assert_same(path, volume)
    assert not faults(path)


def test_a_map_without_any_value_is_written(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan")
    empty = volume.with_array(np.full_like(volume.array, np.nan))
    path = write_dicom(empty, tmp_path / "empty.dcm")
    assert_same(path, empty)
    assert not faults(path)


def test_what_cannot_be_a_map_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = scan(tmp_path / "scan")
    with pytest.raises(InputError, match="a volume in HU"):
        write_dicom(volume.with_array(volume.array, unit="HU", material=None), tmp_path / "a.dcm")
    write_dicom(volume, tmp_path / "a.dcm")
    with pytest.raises(OutputExistsError, match="overwrite"):
        write_dicom(volume, tmp_path / "a.dcm")
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(RuntimeMissingError, match=r'pip install "qctrun\[dicom\]"'):
        library("highdicom", "DICOM maps")
    with pytest.raises(RuntimeMissingError):
        write_dicom(volume, tmp_path / "b.dcm")
    shutil.rmtree(tmp_path / "scan")
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]
