"""The two lines of the main job on scans that nobody here made: outputs lie where the position tags say."""

import json
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk

from qctrun.cli.main import main

pytestmark = pytest.mark.data

SCANS = [
    "qct_phantom_legs",
    "thoracic_ct_jpeg2000/example_ct_dicom",
    pytest.param("lumbar_ct_5mm/CRLM-CT-1004.zip", marks=pytest.mark.slow),
    pytest.param("spine_ct_1mm/scan.zip", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=SCANS)
def job(request, data, tmp_path_factory):
    """Filter and measure one scan, once for all tests; its source and the folder of outputs."""
    source, out = data / request.param, tmp_path_factory.mktemp("job") / "out"
    assert main(["filter", str(source), "--out", str(out)]) == 0
    assert main(["params", "--out", str(out), "--thresholds", "225"]) == 0
    return source, out


def test_outputs_lie_where_the_position_tags_say(job, tmp_path):
    source, out = job
    wanted = affine_of_tags(source, tmp_path)
    images = sorted(out.glob("*.nii.gz"))
    assert len(images) == 5
    for path in images:
        image = nibabel.load(path)
        np.testing.assert_allclose(image.affine, wanted, atol=2e-3)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert image.header.get_xyzt_units()[0] == "mm"
        through_itk = sitk.ReadImage(str(path))
        corner = through_itk.TransformIndexToPhysicalPoint(tuple(n - 1 for n in through_itk.GetSize()))
        last = wanted @ [*(n - 1 for n in image.shape), 1]
        np.testing.assert_allclose(corner, last[:3] * [-1, -1, 1], atol=0.02)


def test_a_far_spacing_is_said_in_both_records_and_beside_every_image(job):
    _, out = job
    for verb in ("filter", "params"):
        record = json.loads((out / f"{verb}.run.json").read_text())
        assert any("voxel spacing" in warning for warning in record["warnings"])
        assert any("NOMINAL" in warning for warning in record["warnings"])
    for sidecar in out.glob("*_ct*.json"):
        assert any("voxel spacing" in warning for warning in json.loads(sidecar.read_text())["Warnings"])


def affine_of_tags(source: Path, room: Path) -> npt.NDArray[np.float64]:
    """RAS+ affine of the voxels (x, y, z), from the position and orientation tags alone."""
    if source.suffix == ".zip":
        zipfile.ZipFile(source).extractall(room / "unpacked")
        source = room / "unpacked"
    headers = [
        pydicom.dcmread(p, stop_before_pixels=True, force=True) for p in source.rglob("*") if p.is_file()
    ]
    slices = [h for h in headers if "ImagePositionPatient" in h and "PixelSpacing" in h]
    along_row, along_column = np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float)
    normal = np.cross(along_row, along_column)
    positions = sorted(
        (np.array(h.ImagePositionPatient, float) for h in slices), key=lambda p: float(p @ normal)
    )
    between_rows, between_columns = map(float, slices[0].PixelSpacing)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along_row * between_columns, along_column * between_rows, step, positions[0]], axis=1
    )
    return np.diag([-1, -1, 1, 1]) @ affine
