"""Where an image says that it lies: two places, one or none, and axes askew."""

import struct

import nibabel
import numpy as np
import pytest
from image_files import LPS_OF_RAS, affine, numbers, read_hu, refused, write_image, write_nifti

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import describe, read_labels


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(
    "sform",
    [
        affine(scale=(0.25, 0.5, 1.6)),
        affine(turn=(0.51, -0.2, 0.1)),
        affine(at=(-7.0, 8.0, 9.1)),
        affine(handed=-1.0),
        affine() @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_two_places_that_differ_are_refused(tmp_path, sform, kind):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, affine(), sform, kind=kind)
    spacing = " x ".join(f"{mm:.5g}" for mm in np.linalg.norm(sform[:3, :3], axis=0))
    refused(path, rf"0\.25 x 0\.5 x 1\.5 mm by qform.*{spacing} mm by sform.*make qform and sform the same")
    write_nifti(tmp_path / "plain.nii", affine())
    grid = read_hu(tmp_path / "plain.nii").grid
    with pytest.raises(InputError, match="by sform"):
        read_labels(path, grid)


@pytest.mark.parametrize(
    "turn", [(0.5, -0.2, 0.1), (np.pi, 0.0, 0.0), (0.0, np.pi, 0.0), (0.0, 3.1413, 3.1414)]
)
@pytest.mark.parametrize("handed", [1.0, -1.0])
def test_two_places_that_agree_are_one(tmp_path, turn, handed):
    path, matrix = tmp_path / "a.nii", affine(turn=turn, handed=handed)
    for forms in ((matrix, matrix), (matrix, None), (None, matrix)):
        write_nifti(path, *forms)
        volume = read_hu(path)
        assert volume.warnings == ()
        np.testing.assert_allclose(
            volume.grid.world((3, 4, 5)), (LPS_OF_RAS @ matrix @ [5, 4, 3, 1])[:3], atol=1e-2
        )


def test_a_matrix_with_another_spacing_than_pixdim_is_refused(tmp_path):
    write_nifti(tmp_path / "a.nii", sform=affine(), pixdim=(0.25, 0.5, 2.0))
    refused(tmp_path / "a.nii", r"0\.25 x 0\.5 x 2 mm by pixdim; 0\.25 x 0\.5 x 1\.5 mm by sform")


def test_an_image_without_a_place_is_read_with_a_warning(tmp_path):
    write_nifti(tmp_path / "a.nii", pixdim=(0.5, 0.5, 3.0))
    volume = read_hu(tmp_path / "a.nii")
    assert volume.grid.spacing == (3.0, 0.5, 0.5)
    (warning,) = volume.warnings
    assert "a.nii states no orientation and no position" in warning
    assert "0.5 x 0.5 x 3 mm (x, y, z)" in warning


@pytest.mark.parametrize("pixdim", [(0.0, 0.0, 0.0), (0.5, 0.5, np.nan), (0.5, 0.5, -3.0)])
def test_an_image_without_a_spacing_is_refused(tmp_path, capfd, pixdim):
    path = tmp_path / "a.nii"
    write_nifti(path)
    header = bytearray(path.read_bytes())
    struct.pack_into("<3f", header, 80, *pixdim)
    path.write_bytes(header)
    refused(path, "wanted a voxel spacing, got pixdim")
    assert capfd.readouterr() == ("", "")


def test_skewed_axes_are_refused(tmp_path):
    write_image(tmp_path / "a.mha", numbers())
    header = (tmp_path / "a.mha").read_bytes()
    skew = header.replace(b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 0.6 0.8 0 0 0 1")
    assert skew != header
    (tmp_path / "a.mha").write_bytes(skew)
    refused(tmp_path / "a.mha", "a.mha.*(perpendicular|orthogonal)")
    affine = np.eye(4)
    affine[0, 1] = 0.5
    image = nibabel.Nifti1Image(numbers().transpose(2, 1, 0), None)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "b.nii")
    refused(tmp_path / "b.nii", "b.nii")


def test_a_sheared_image_is_to_be_resampled(tmp_path):
    shear = np.eye(4)
    shear[0, 1] = 0.2
    path = tmp_path / "a.nii"
    write_nifti(path, sform=shear)
    refused(path, "resample it to perpendicular axes")


def test_what_a_header_says_of_its_place_is_described(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, affine(), affine())
    assert describe(path)["place"] == "as stated"
    write_nifti(path)
    assert "states no orientation" in describe(path)["place"][0]
    write_nifti(path, affine(), affine(scale=(0.25, 0.5, 1.6)))
    assert "by qform" in describe(path)["place"]["error"]
    write_image(tmp_path / "a.mha", numbers())
    assert "place" not in describe(tmp_path / "a.mha")
