"""NIfTI, MHA and NRRD files against what nibabel and SimpleITK say about them."""

import gzip
import hashlib
import json
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import rotation

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import describe, read, read_labels, stem_of
from qctrun.runtime.writing import write

AS_HU = (1.0, 0.0)
LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
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


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        read(path, **{"calibration": AS_HU, "unit": "HU", "material": "HA", **options})
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


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
    (source,) = read(path, unit="HU", calibration=AS_HU, material="HA").provenance["inputs"]
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
    volume = read(tmp_path / "a.nii", unit="HU", calibration=AS_HU, material="HA")
    np.testing.assert_allclose(volume.array, stored.transpose(2, 1, 0), atol=1e-4)


def test_the_unit_comes_from_the_sidecar_or_the_call_and_never_from_nowhere(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_image(path, numbers())
    refused(path, r"known unit.*--unit hu or mg/cm3, or write Units into a\.json", unit=None)
    refused(path, "--unit: wanted hu or mg/cm3, got 'mgcc'", unit="mgcc")
    refused(path, "--material: wanted HA or K2HPO4, got 'CaCO3'", material="CaCO3")
    write_image(path, numbers(), Units="hu")
    refused(path, "mg/cm3 as --unit says, got HU in its sidecar", unit="mg/cm3")
    write_image(path, numbers(), Units="1")
    refused(path, "Units in its sidecar", unit=None)
    (tmp_path / "a.json").write_text("{")
    refused(path, "a.json: wanted JSON")
    (tmp_path / "a.json").write_text("[]")
    refused(path, "a.json: wanted a JSON object, got list")


def test_density_needs_a_material_and_no_calibration(tmp_path):
    path = tmp_path / "a.mha"
    write_image(path, numbers(np.float32), Units="mg/cm3")
    refused(path, "material of its density", unit=None, material=None, calibration=None)
    volume = read(path, material="k2hpo4")
    assert (volume.unit, volume.material) == ("mg/cm3", "K2HPO4")
    assert volume.provenance["calibration"]["nominal"] is False
    assert volume.warnings == ()
    refused(path, "calibrated already", unit=None)
    write_image(path, numbers(np.float32), Units="mg/cm3", CalibrationMaterial="HA")
    assert read(path).material == "HA"
    refused(path, "K2HPO4 as --material says, got HA", unit=None, calibration=None, material="K2HPO4")


def test_a_nominal_line_stays_nominal_through_a_file(tmp_path):
    path = tmp_path / "a.mha"
    line = {"slope": 0.8, "intercept": 0.0, "material": "HA", "source": "nominal line", "nominal": True}
    write_image(path, numbers(np.float32), Units="mg/cm3", CalibrationMaterial="HA", Calibration=line)
    volume = read(path)
    assert volume.provenance["calibration"] == line
    assert volume.warnings[0].startswith("NOMINAL CALIBRATION")
    with pytest.raises(InputError, match="measured calibration"):
        read(path, strict=True)


def test_the_sidecar_tells_the_tube_voltage(tmp_path):
    path = tmp_path / "a.mha"
    write_image(path, numbers(), Units="HU", KVP=120)
    volume = read(path)
    assert volume.provenance["calibration"]["nominal"] is True
    np.testing.assert_allclose(volume.array, 0.8 * numbers(), rtol=1e-6)
    write_image(path, numbers(), Units="HU", KVP="high")
    refused(path, "KVP: wanted a number", unit=None)


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


def test_labels_refuse_a_file_that_is_no_image(tmp_path):
    write_image(tmp_path / "a.nii.gz", numbers())
    grid = read(tmp_path / "a.nii.gz", unit="HU", calibration=AS_HU, material="HA").grid
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "mask.nii.gz", grid)
    with pytest.raises(InputError, match=r"a NIfTI, MHA or NRRD file, got dicom"):
        read_labels(tmp_path, grid)


@pytest.mark.parametrize("place", ["LOCAL", "Local", "local"])
@pytest.mark.parametrize(("kind", "dtype"), METAIMAGE_TYPES.items())
def test_every_metaimage_type_has_the_width_that_its_library_gives_it(tmp_path, kind, dtype, place):
    low = 0 if np.dtype(dtype).kind == "u" else -100
    values = np.random.default_rng(4).integers(low, 100, (4, 5, 6)).astype(dtype)
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["DimSize = 6 5 4", f"ElementType = {kind}", f"ElementDataFile = {place}", ""]
    path = tmp_path / "a.mha"
    path.write_bytes("\n".join(lines).encode() + values.tobytes())
    volume = read(path, unit="HU", calibration=AS_HU, material="HA")
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    np.testing.assert_array_equal(volume.array, values)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, f"{values.nbytes - 1} bytes of voxels where the header asks for {values.nbytes}")


def test_another_spelling_of_local_is_a_file_name_as_for_the_library(tmp_path, capfd):
    path = tmp_path / "a.mha"
    write_image(path, numbers())
    path.write_bytes(path.read_bytes().replace(b"= LOCAL", b"= lOcAl"))
    refused(path, "no voxel file lOcAl beside it")
    assert capfd.readouterr() == ("", "")


def test_a_sidecar_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "a.mha"
    write_image(path, numbers())
    (tmp_path / "a.json").write_text(json.dumps({"Units": "HU"}), "utf-8-sig")
    assert read(path, calibration=AS_HU, material="HA").unit == "mg/cm3"


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
    with pytest.raises(InputError, match="by sform"):
        read_labels(path, read_grid_of(tmp_path))


def read_grid_of(folder):
    write_nifti(folder / "plain.nii", affine())
    return read(folder / "plain.nii", unit="HU", calibration=AS_HU, material="HA").grid


@pytest.mark.parametrize(
    "turn", [(0.5, -0.2, 0.1), (np.pi, 0.0, 0.0), (0.0, np.pi, 0.0), (0.0, 3.1413, 3.1414)]
)
@pytest.mark.parametrize("handed", [1.0, -1.0])
def test_two_places_that_agree_are_one(tmp_path, turn, handed):
    path, matrix = tmp_path / "a.nii", affine(turn=turn, handed=handed)
    for forms in ((matrix, matrix), (matrix, None), (None, matrix)):
        write_nifti(path, *forms)
        volume = read(path, unit="HU", calibration=AS_HU, material="HA")
        assert volume.warnings == ()
        np.testing.assert_allclose(
            volume.grid.world((3, 4, 5)), (LPS_OF_RAS @ matrix @ [5, 4, 3, 1])[:3], atol=1e-2
        )


def test_a_matrix_with_another_spacing_than_pixdim_is_refused(tmp_path):
    write_nifti(tmp_path / "a.nii", sform=affine(), pixdim=(0.25, 0.5, 2.0))
    refused(tmp_path / "a.nii", r"0\.25 x 0\.5 x 2 mm by pixdim; 0\.25 x 0\.5 x 1\.5 mm by sform")


def test_an_image_without_a_place_is_read_with_a_warning(tmp_path):
    write_nifti(tmp_path / "a.nii", pixdim=(0.5, 0.5, 3.0))
    volume = read(tmp_path / "a.nii", unit="HU", calibration=AS_HU, material="HA")
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


def test_a_sheared_image_is_to_be_resampled(tmp_path):
    shear = np.eye(4)
    shear[0, 1] = 0.2
    path = tmp_path / "a.nii"
    write_nifti(path, sform=shear)
    refused(path, "resample it to perpendicular axes")


def test_the_sidecar_tells_of_the_scanner_and_the_filter(tmp_path):
    path = tmp_path / "a.mha"
    said = {"ConvolutionKernel": "B60", "Manufacturer": "ACME", "SeriesInstanceUID": "1.2.3", "KVP": 120}
    model = {"ModelName": "nnsp", "ModelVersion": "2", "FilteredFraction": 0.25, "FilterMarginMM": 5.0}
    write_image(path, numbers(np.float32), Units="mg/cm3", CalibrationMaterial="HA", **said, **model)
    provenance = read(path).provenance
    scan = {"kvp": 120, "kernel": "B60", "manufacturer": "ACME", "series_uid": "1.2.3"}
    assert provenance["scan"] == scan
    made = {"model": "nnsp", "version": "2", "sha256": "", "outside": "raw"}
    assert provenance["filter"] == {**made, "filtered_fraction": 0.25, "margin_mm": 5.0}
    again = read(write(read(path), tmp_path / "b.mha")).provenance
    assert (again["scan"], again["filter"]["margin_mm"]) == (scan, 5.0)


def test_density_whose_line_nobody_knows_gets_none(tmp_path):
    path = tmp_path / "a.mha"
    write_image(path, numbers(np.float32), Units="mg/cm3", CalibrationMaterial="HA")
    first = read(path)
    line = first.provenance["calibration"]
    assert (line["slope"], line["intercept"], line["material"]) == (None, None, "HA")
    assert first.provenance["density_from"] == "sidecar"
    again = read(write(first, tmp_path / "b.mha"))
    assert again.provenance["calibration"] == line
    refused(
        path, "as its sidecar says; leave --calibration away; another line needs the scan in HU", unit=None
    )
    bare = tmp_path / "c.mha"
    write_image(bare, numbers(np.float32))
    assert read(bare, unit="mg/cm3", material="HA").provenance["density_from"] == "call"
    refused(bare, "as --unit says; leave --calibration away, or say --unit hu", unit="mg/cm3")


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
