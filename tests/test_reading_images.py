"""NIfTI, MHA and NRRD files against what nibabel and SimpleITK say about them."""

import hashlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import rotation
from image_files import AS_HU, LPS_OF_RAS, numbers, read_hu, refused, write_image

from qctrun.runtime.reading import read

METAIMAGE_TYPES = {
    "MET_CHAR": "<i1",
    "MET_UCHAR": "<u1",
    "MET_SHORT": "<i2",
    "MET_USHORT": "<u2",
    "MET_INT": "<i4",
    "MET_UINT": "<u4",
    "MET_LONG": "<i4",
    "MET_ULONG": "<u4",
    "MET_LONG_LONG": "<i8",
    "MET_ULONG_LONG": "<u8",
    "MET_FLOAT": "<f4",
    "MET_DOUBLE": "<f8",
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_every_format_keeps_numbers_and_place(tmp_path, suffix, kind):
    values, axes, path = numbers(kind), rotation(0.2, 0.3, -0.4), tmp_path / f"a.b{suffix}"
    image = write_image(path, values, axes=axes, Units="HU")
    volume = read(path, calibration=AS_HU, material="HA")
    np.testing.assert_array_equal(volume.array, values)
    np.testing.assert_allclose(volume.grid.spacing, (1.5, 0.5, 0.25), rtol=1e-6)
    for index in ((0, 0, 0), (5, 4, 3)):
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(volume.grid.world(index[::-1]), expected, atol=1e-5)
    assert volume.provenance["stem"] == "a.b"
    assert volume.provenance["inputs"][0]["files"] == (2 if suffix in (".mhd", ".nhdr") else 1)


def test_the_digest_is_that_of_the_file(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_image(path, numbers())
    (source,) = read_hu(path).provenance["inputs"]
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (source["format"], source["path"]) == ("nifti", str(path))


@pytest.mark.parametrize("mirrored", [False, True])
def test_left_and_right_handed_nifti_lie_where_nibabel_puts_them(tmp_path, mirrored):
    affine = np.eye(4)
    turned = rotation(0.5, -0.2, 0.1) @ np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0])
    affine[:3, :3] = turned @ np.diag([0.25, 0.5, 1.5])
    affine[:3, 3] = (-7, 8, 9)
    values = numbers()
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), path)
    volume = read(path, unit="hu", calibration=AS_HU, material="HA")
    np.testing.assert_array_equal(volume.array, values)
    image = sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (5, 4, 3), (1, 2, 3)):
        ours = volume.grid.world(index[::-1])
        np.testing.assert_allclose(ours, (LPS_OF_RAS @ affine @ [*index, 1])[:3], atol=1e-4)
        np.testing.assert_allclose(ours, image.TransformIndexToPhysicalPoint(index), atol=1e-5)
    determinant = np.linalg.det(np.reshape(volume.grid.direction, (3, 3)))
    assert determinant == pytest.approx(-1 if mirrored else 1, abs=1e-5)


def test_scaled_nifti_integers_are_rescaled(tmp_path):
    image = nibabel.Nifti1Image(numbers().transpose(2, 1, 0), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "a.nii")
    stored = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
    volume = read_hu(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.array, stored.transpose(2, 1, 0), atol=1e-4)


@pytest.mark.parametrize("place", ["LOCAL", "Local", "local"])
@pytest.mark.parametrize(("kind", "dtype"), METAIMAGE_TYPES.items())
def test_every_metaimage_type_has_the_width_that_its_library_gives_it(tmp_path, kind, dtype, place):
    low = 0 if np.dtype(dtype).kind == "u" else -100
    values = np.random.default_rng(4).integers(low, 100, (4, 5, 6)).astype(dtype)
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["DimSize = 6 5 4", f"ElementType = {kind}", f"ElementDataFile = {place}", ""]
    path = tmp_path / "a.mha"
    path.write_bytes("\n".join(lines).encode() + values.tobytes())
    volume = read_hu(path)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    np.testing.assert_array_equal(volume.array, values)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, f"{values.nbytes - 1} bytes of voxels where the header asks for {values.nbytes}")
