"""Image files that are no volume, cut, or hold what no scan can."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from image_files import numbers, read_hu, refused, write_image

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read_labels


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_flat_and_four_dimensional_images_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkFloat32), str(path))
    refused(path, "a 3-D volume, got [23]-D")
    sitk.WriteImage(sitk.Image([4, 5, 1], sitk.sitkFloat32), str(path))
    refused(path, "a 3-D volume")
    sitk.WriteImage(sitk.Image([4, 5, 3, 2], sitk.sitkFloat32), str(path))
    refused(path, "a 3-D volume, got 4-D")
    sitk.WriteImage(sitk.Image([4, 5, 3], sitk.sitkVectorFloat32, 3), str(path))
    refused(path, "a 3-D volume|one number in a voxel")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nan_and_infinity_are_refused_with_their_place(tmp_path, suffix, bad, kind):
    values = numbers(kind)
    values[1, 2, 3] = bad
    write_image(tmp_path / f"a{suffix}", values)
    refused(tmp_path / f"a{suffix}", r"1 voxel of NaN or infinity, the first at \(z, y, x\) = \(1, 2, 3\)")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_cut_and_foreign_files_are_refused_in_one_line(tmp_path, capfd, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, numbers(np.float64))
    whole = path.read_bytes()
    for length in (0, 20, 200, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        refused(path, rf"a{suffix}: wanted")
    path.write_bytes(b"These are words and no image at all. " * 40)
    refused(path, rf"a{suffix}: wanted")
    assert capfd.readouterr() == ("", "")


def test_a_header_whose_voxels_are_elsewhere_needs_them(tmp_path):
    write_image(tmp_path / "a.mhd", numbers())
    raw = (tmp_path / "a.raw").read_bytes()
    (tmp_path / "a.raw").write_bytes(raw[:-1])
    refused(tmp_path / "a.mhd", "239 bytes of voxels where the header asks for 240")
    (tmp_path / "a.raw").unlink()
    refused(tmp_path / "a.mhd", r"no voxel file a\.raw beside it")
    header = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(header.replace("a.raw", "LIST"))
    refused(tmp_path / "a.mhd", "voxels in one file, got LIST")


def test_a_header_that_asks_for_more_than_the_file_is_refused_before_memory_is_taken(tmp_path):
    write_image(tmp_path / "a.nii", numbers())
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    refused(tmp_path / "a.nii", "bytes of voxels where the header asks for 65536000000000")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    refused(tmp_path / "a.nii.gz", "bytes of voxels where the header asks for 65536000000000")


def test_another_spelling_of_local_is_a_file_name_as_for_the_library(tmp_path, capfd):
    path = tmp_path / "a.mha"
    write_image(path, numbers())
    path.write_bytes(path.read_bytes().replace(b"= LOCAL", b"= lOcAl"))
    refused(path, "no voxel file lOcAl beside it")
    assert capfd.readouterr() == ("", "")


def test_labels_refuse_a_file_that_is_no_image(tmp_path):
    write_image(tmp_path / "a.nii.gz", numbers())
    grid = read_hu(tmp_path / "a.nii.gz").grid
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "mask.nii.gz", grid)
    with pytest.raises(InputError, match=r"a NIfTI, MHA, NRRD or AIM file, got dicom"):
        read_labels(tmp_path, grid)
