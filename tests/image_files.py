"""NIfTI, MHA and NRRD files by nibabel and SimpleITK, and how they are read or refused."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import rotation

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read, stem_of

AS_HU = (1.0, 0.0)
LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def numbers(kind=np.int16):
    return np.random.default_rng(3).integers(-900, 900, (4, 5, 6)).astype(kind)


def write_image(path, values, spacing=(1.5, 0.5, 0.25), origin=(3.0, -4.0, 5.0), axes=None, **sidecar):
    """Write values (z, y, x) by SimpleITK, and a sidecar of the given keys."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    image.SetDirection(np.ravel(np.eye(3) if axes is None else axes).tolist())
    sitk.WriteImage(image, str(path))
    if sidecar:
        path.with_name(stem_of(path) + ".json").write_text(json.dumps(sidecar))
    return image


def write_nifti(path, qform=None, sform=None, pixdim=None, kind=nibabel.Nifti1Image):
    """Write numbers with these affines (code 1), code 0 where there is none, and this pixdim if any."""
    image = kind(numbers().transpose(2, 1, 0), None)
    header = image.header
    for set_form, affine in ((header.set_qform, qform), (header.set_sform, sform)):
        set_form(np.eye(4) if affine is None else affine, int(affine is not None))
    header["pixdim"][1:4] = pixdim or (
        header["pixdim"][1:4] if qform is not None or sform is None else np.linalg.norm(sform[:3, :3], axis=0)
    )
    nibabel.save(kind(numbers().transpose(2, 1, 0), None, header), path)
    stored = nibabel.load(path).header
    assert (stored["qform_code"], stored["sform_code"]) == (qform is not None, sform is not None)


def affine(scale=(0.25, 0.5, 1.5), turn=(0.5, -0.2, 0.1), at=(-7.0, 8.0, 9.0), handed=1.0):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(*turn) @ np.diag([handed, 1.0, 1.0]) @ np.diag(scale)
    matrix[:3, 3] = at
    return matrix


def read_hu(path):
    """The volume in a file of Hounsfield units without a sidecar, its numbers as they are."""
    return read(path, unit="HU", calibration=AS_HU, material="HA")


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        read(path, **{"calibration": AS_HU, "unit": "HU", "material": "HA", **options})
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
