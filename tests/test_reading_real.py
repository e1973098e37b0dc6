"""Scans that nobody here made: places against the position tags and SimpleITK, hard folders one by one."""

import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import list_series, read, read_labels
from qctrun.runtime.reading.headers import read_headers
from qctrun.runtime.reading.pixels import stored_pixels

pytestmark = pytest.mark.data

SCANS = {
    "qct_phantom_legs": ((9, 512, 512), (0.625, 0.671875, 0.671875)),
    "spine_ct_1mm/scan.zip": ((137, 512, 512), (1.0, 0.78125, 0.78125)),
    "lumbar_ct_5mm/CRLM-CT-1004.zip": ((41, 512, 512), (5.0, 0.796875, 0.796875)),
    "thoracic_ct_jpeg2000/example_ct_dicom": ((20, 512, 512), (2.0, 0.9765625, 0.9765625)),
    "dicom_hard/N04_philips_mixed_localizer_dose_patientinfo_dicomdir.zip": (
        (28, 512, 512),
        (5.0, 0.451171875, 0.451171875),
    ),
    "dicom_hard/N10_rescale_slope_varies_between_slices": ((2, 2, 3), (0.5, 0.43, 0.43)),
    "dicom_hard/N30_oblique_rotated_axes_created_by_simpleitk_slope0.001": ((3, 50, 100), (4.5, 3.5, 2.5)),
    "dicom_hard/N31_overlapping_slices_thickness1.25_spacing1.0": ((3, 512, 512), (1.0, 0.810547, 0.810547)),
    "dicom_hard/N34_tiny_3slice_ct_38x23": ((3, 38, 23), (2.5, 0.7, 0.7)),
}

REFUSED = {
    "N01_ge_tilt18.5_variable_spacing_4.2_7.4mm.zip": (
        r"tilt or shear of 18\.5 deg.*uneven gaps along the normal: 4\.002 x13, 6\.999 x13, 1\.081 x1 mm"
    ),
    "N05_siemens_tilt_no_tilt_tag_4slices": r"tilt or shear of 14\.0 deg",
    "N06_ge_missing_slice_5_5_10": r"5\.000 x2, 10\.000 x1 mm; 1 slice\(s\) missing after IM-0001-0009-0001.dcm",
    "N12_4d_19_timepoints_same_positions": r"one CT series, got 19: .*4 slices of 2 x 3, 0\.5 x 0\.43 x 0\.43 mm",
    "N14_same_ct_slice_in_16_transfer_syntaxes": "15 of 16 slices repeat a position",
    "N16_missing_pixel_spacing_and_missing_pixel_data": "got 1 SR object, 1 US object",
    "N18_14bit_ct_unc_j2kr_j2ki_set": "2 of 3 slices repeat a position",
    "N20_flipped_y_axis_j2k_null_thickness_UN_vr": r"1 slice of 512 x 512.*a single slice \(2-D\)",
    "N23_localizer_only": "got 1 localizer",
    "N26_ct_sop_but_3d_rendering_no_geometry": "got 2 3-D renderings",
    "N35_duplicate_positions/dupe-positions.zip": r"repeat a position.*first: CT26.dcm and CT28.dcm.*112\.500",
}


@pytest.fixture(scope="module")
def scan(data):
    """Read each scan once, as HU."""
    cache = {}

    def scan_of(name):
        if name not in cache:
            cache[name] = read(data / name, unit="HU", calibration=(1.0, 0.0), material="HA")
        return cache[name]

    return scan_of


@pytest.mark.parametrize("name", SCANS)
def test_every_slice_lies_where_its_own_tags_put_it(data, scan, name):
    grid = scan(name).grid
    size, spacing = SCANS[name]
    assert grid.size == size
    np.testing.assert_allclose(grid.spacing, spacing, atol=1e-4)
    assert np.linalg.det(np.reshape(grid.direction, (3, 3))) == pytest.approx(1)
    series = next(s for s in list_series(data / name) if s.grid is not None)
    for k, header in enumerate(series.headers):
        np.testing.assert_allclose(grid.world((k, 0, 0)), header.position, atol=2e-3)


@pytest.mark.parametrize(
    "name",
    [
        "qct_phantom_legs",
        "thoracic_ct_jpeg2000/example_ct_dicom",
        "dicom_hard/N30_oblique_rotated_axes_created_by_simpleitk_slope0.001",
        "dicom_hard/N31_overlapping_slices_thickness1.25_spacing1.0",
        "dicom_hard/N34_tiny_3slice_ct_38x23",
        "lumbar_ct_5mm/CRLM-CT-1004.zip",
        "spine_ct_1mm/scan.zip",
    ],
)
def test_simpleitk_sees_the_same_numbers_at_the_same_places(data, scan, name, tmp_path):
    volume, folder = scan(name), data / name
    if name.endswith(".zip"):
        folder = tmp_path
        zipfile.ZipFile(data / name).extractall(folder)
    headers, _ = read_headers(folder)
    names = [str(h.path) for h in sorted(headers, key=lambda h: np.dot(h.position, _normal(h)))]
    image = sitk.ReadImage(names, sitk.sitkFloat64)
    for index in ((0, 0, 0), (7, 9, 2), (22, 37, 1)):
        ours = volume.grid.world(index[::-1])
        np.testing.assert_allclose(ours, image.TransformIndexToPhysicalPoint(index), atol=2e-3)
    theirs = sitk.GetArrayViewFromImage(image)
    same = np.isclose(volume.array, theirs, rtol=1e-6, atol=1e-4)
    # Only the padding outside of the scan circle may differ: air here, the scanner's own mark there.
    assert (volume.array[~same] == -1000).all()
    assert (theirs[~same] < -1024).all()
    assert (~same).sum() == volume.provenance["scan"]["padding_voxels"]


def _normal(header):
    return np.cross(header.orientation[:3], header.orientation[3:])


@pytest.mark.parametrize("name", REFUSED)
def test_hard_folders_are_refused_with_their_reason(data, name):
    with pytest.raises(InputError, match=REFUSED[name]) as caught:
        read(data / "dicom_hard" / name, calibration=(1.0, 0.0), material="HA")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_a_refused_slice_still_shows_its_geometry(data):
    (series,) = list_series(data / "dicom_hard" / "N20_flipped_y_axis_j2k_null_thickness_UN_vr")
    assert series.size == (1, 512, 512)
    assert series.spacing_mm == (None, 0.859375, 0.859375)
    assert series.orientation == (1, 0, 0, 0, -1, 0)
    assert series.thickness_mm is None


def test_one_time_point_of_many_can_be_chosen(data):
    folder = data / "dicom_hard" / "N12_4d_19_timepoints_same_positions"
    uid = list_series(folder)[3].uid
    volume = read(folder, series_uid=uid, calibration=(1.0, 0.0), material="HA")
    assert volume.grid.size == (4, 2, 3)
    assert volume.provenance["scan"]["series_uid"] == uid


def test_other_objects_in_the_folder_are_counted(scan):
    volume = scan("dicom_hard/N04_philips_mixed_localizer_dose_patientinfo_dicomdir.zip")
    expected = {"DICOM directory": 5, "localizer": 1, "secondary capture": 6}
    assert volume.provenance["scan"]["set_aside"] == expected


def test_transfer_syntaxes_without_loss_agree_to_the_bit(data):
    folder = data / "dicom_hard" / "N14_same_ct_slice_in_16_transfer_syntaxes"
    headers, _ = read_headers(folder)
    decoded = {h.path: (stored_pixels(h.path.read_bytes(), h.path), h) for h in headers}
    reference = decoded[folder / "CTImage.dcm"][0].astype(int)
    assert (reference.min(), reference.max()) == (-2000, 2402)
    kept = [pixels for pixels, header in decoded.values() if not header.lossy]
    assert len(kept) == 10
    for pixels in kept:
        np.testing.assert_array_equal(pixels, reference)
    for pixels, header in decoded.values():
        inside = reference > -1024 + 500
        hounsfield = pixels * header.slope + header.intercept
        assert np.abs(hounsfield[inside] - (reference[inside] - 1024)).mean() < max(10, header.slope)


def test_packed_14_bit_pixels_agree_with_plain_ones(data):
    folder = data / "dicom_hard" / "N18_14bit_ct_unc_j2kr_j2ki_set"
    pixels = {
        kind: stored_pixels((folder / f"693_{kind}.dcm").read_bytes(), folder) for kind in ("UNCR", "J2KR")
    }
    np.testing.assert_array_equal(pixels["UNCR"], pixels["J2KR"])


def test_the_rods_of_the_phantom_have_their_published_means(scan):
    volume = scan("qct_phantom_legs")
    rods = {(126, 431): -113.1, (177, 436): -5.9, (228, 441): 178.8, (280, 440): 427.3, (332, 437): 653.2}
    y, x = np.mgrid[:512, :512]
    for (column, row), mean in rods.items():
        disc = (x - column) ** 2 + (y - row) ** 2 <= 9**2
        assert volume.array[:, disc].mean() == pytest.approx(mean, abs=1.0)


def test_a_label_map_stored_in_other_axes_is_laid_on_its_scan(data, scan):
    volume = scan("thoracic_ct_jpeg2000/example_ct_dicom")
    path = data / "thoracic_ct_jpeg2000" / "example_seg_dicom.nii.gz"
    labels = read_labels(path, volume.grid)
    image = sitk.ReadImage(str(path))
    assert labels.shape == volume.array.shape
    points = np.argwhere(labels)[:: max(1, (labels > 0).sum() // 50)]
    for point in points:
        world = volume.grid.world(tuple(point))
        assert image[image.TransformPhysicalPointToIndex(world)] == labels[tuple(point)]


def test_no_calibration_is_nominal_at_120_kvp_and_refused_elsewhere(data):
    volume = read(data / "qct_phantom_legs")
    assert volume.provenance["calibration"]["nominal"] is True
    assert volume.warnings[0].startswith("NOMINAL CALIBRATION")
    with pytest.raises(InputError, match=r"strict.*--calibration"):
        read(data / "qct_phantom_legs", strict=True)
    with pytest.raises(InputError, match=r"tube voltage is 80 kVp.*--calibration"):
        read(data / "dicom_hard" / "N10_rescale_slope_varies_between_slices")
    with pytest.raises(InputError, match=r"tube voltage is unknown"):
        read(data / "dicom_hard" / "N34_tiny_3slice_ct_38x23", unit="hu")
