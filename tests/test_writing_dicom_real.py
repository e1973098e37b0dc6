"""Derived objects of real scans: no fault by dciodvfy, and the same place and numbers when read again."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_sources import faults

from qctrun.runtime import Grid, read, write_dicom

pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")

SCANS = {
    "zip of a GE scan": "lumbar_ct_5mm/CRLM-CT-1004.zip",
    "birth date that is none": "qct_phantom_legs",
    "JPEG 2000, blank UIDs": "thoracic_ct_jpeg2000",
    "tilted gantry, mended": "dicom_hard/N05_siemens_tilt_no_tilt_tag_4slices",
    "other objects beside it": "dicom_hard/N04_philips_mixed_localizer_dose_patientinfo_dicomdir.zip",
    "overlapping slices": "dicom_hard/N31_overlapping_slices_thickness1.25_spacing1.0",
}


@pytest.mark.parametrize("name", SCANS.values(), ids=SCANS)
def test_series_and_map_of_a_real_scan(tmp_path: Path, data: Path, name: str) -> None:
    volume = read(data / name, calibration=(0.8, 0.0), material="HA", allow_resample=True)
    folder, path = write_dicom(volume, tmp_path / "ct"), write_dicom(volume, tmp_path / "map.dcm")
    found = read(folder)
    assert not volume.grid.difference(found.grid)
    assert np.abs(found.array - volume.array).max() <= 1 / 32
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    place = Grid(volume.grid.size, image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection())
    assert not volume.grid.difference(place)
    frames = np.frombuffer(pydicom.dcmread(path).FloatPixelData, "<u4").reshape(volume.array.shape)
    np.testing.assert_array_equal(frames[::-1], volume.array.view("u4"))
    for each in (path, folder / "slice-0001.dcm", max(folder.iterdir())):
        assert not faults(each)
