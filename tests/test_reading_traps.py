"""Scans whose tags mislead: what was stored at a place must be read there, or not at all."""

import json

import numpy as np
import pydicom
import pytest
from dicom_series import SHARED, enhanced_dataset, heights, rotation, sequence, slice_dataset, write_series
from pydicom.uid import JPEGLSLossless

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read, read_labels
from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing import write

AS_HU = (1.0, 0.0)
X, Y, Z = np.eye(3)
PATIENTS = {
    "head first supine": (X, Y),
    "head first prone": (-X, -Y),
    "feet first": (-X, Y),
    "mirrored": (X, -Y),
    "sagittal": (Y, -Z),
    "coronal": (X, -Z),
    "oblique": tuple(rotation(0.3, -0.2, 0.5)[:, :2].T),
}
SPACING = (2.0, 0.4, 0.9)


def volume_of(folder, **options):
    return read(folder, calibration=AS_HU, material="HA", **options)


def stored(slices=6, rows=5, columns=7, seed=1):
    return np.random.default_rng(seed).integers(-1000, 2000, (slices, rows, columns), dtype=np.int16)


def hu_at(world):
    """A number for each place in the patient, in tenths of HU."""
    return np.rint(10 * (100 + np.asarray(world) @ (3.1, 2.3, 1.7)))


def placed(position, axes, rows=5, columns=7):
    """Stored values of a slice, by the places that its tags give its pixels."""
    r, c = np.indices((rows, columns))
    return hu_at(
        position + np.multiply.outer(c * SPACING[2], axes[0]) + np.multiply.outer(r * SPACING[1], axes[1])
    )


@pytest.mark.parametrize("lies", PATIENTS)
def test_values_lie_at_the_places_of_their_tags_however_the_patient_lies(tmp_path, lies):
    axes = PATIENTS[lies]
    for k in range(6):
        position = np.array([10.0, -20.0, 30.0]) + 2 * k * np.cross(*axes)
        dataset = slice_dataset(
            placed(position, axes).astype(np.int16),
            position,
            PixelSpacing=list(SPACING[1:]),
            ImageOrientationPatient=[round(float(v), 9) for v in np.ravel(axes)],
            RescaleSlope="0.1",
            PatientPosition="HFS",  # of the table and not of the image
        )
        dataset.save_as(tmp_path / f"{5 * k % 6}", enforce_file_format=True)
    volume = volume_of(tmp_path)
    assert volume.grid.spacing == pytest.approx(SPACING, abs=1e-5)
    for index in np.ndindex(volume.array.shape):
        assert volume.array[index] == pytest.approx(hu_at(volume.grid.world(index)) / 10, abs=0.11)


@pytest.mark.parametrize("intercept", [-1024, -8192])
def test_padding_of_unsigned_pixels_is_air_and_no_metal(tmp_path, intercept):
    values = (stored() - intercept).astype(np.uint16)
    values[:, 0, 0] = 63536
    write_series(tmp_path, values, RescaleIntercept=str(intercept))
    for path in sorted(tmp_path.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", "US", 63536)
        dataset.save_as(path)
    volume = volume_of(tmp_path)
    assert (volume.array[:, 0, 0] == -1000).all()
    assert volume.provenance["scan"]["padding_voxels"] == 6
    np.testing.assert_array_equal(volume.array[:, 1:], stored()[:, 1:])
    assert not volume.warnings


def test_such_padding_is_not_scanned_where_the_stack_is_mended(tmp_path):
    values = np.full((8, 12, 12), 1124, np.uint16)
    values[:, :, :3] = 63536
    write_series(tmp_path, values, heights=[0, 1, 2, 3, 4.5, 6, 7.5, 9], RescaleIntercept="-1024")
    for path in sorted(tmp_path.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", "US", 63536)
        dataset.save_as(path)
    volume = volume_of(tmp_path, allow_resample=True)
    assert (volume.array[:, :, :3] == -1000).all()
    np.testing.assert_allclose(volume.array[:, :, 3:], 100, atol=1e-3)


def test_values_of_no_tissue_are_told(tmp_path):
    values = stored().astype(np.uint16)  # what was below 0 is above 64000 now
    write_series(tmp_path, values)
    count = int((values > 32767).sum())
    (told,) = volume_of(tmp_path).warnings
    assert told.startswith(f"{count} voxels lie above 32767 HU, up to {values.max()}")


def test_two_patients_under_one_uid_are_two_volumes(tmp_path):
    write_series(tmp_path, stored(), prefix="a", StudyInstanceUID="1.7")
    write_series(tmp_path, stored(seed=2), heights=range(6, 12), prefix="b", StudyInstanceUID="1.8")
    with pytest.raises(InputError, match=r"got 2: .*study 1 of 2.*study 2 of 2"):
        volume_of(tmp_path)
    np.testing.assert_array_equal(volume_of(tmp_path, series_uid="1.2.3/2").array, stored(seed=2))


def test_a_study_of_its_own_for_each_slice_says_nothing(tmp_path):
    for k, path in enumerate(write_series(tmp_path, stored())):
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID = f"1.7.{k + 1}"
        dataset.save_as(path)
    np.testing.assert_array_equal(volume_of(tmp_path).array, stored())


def test_two_acquisitions_between_each_other_are_told(tmp_path):
    write_series(tmp_path, stored(), prefix="a", AcquisitionNumber=1)
    assert not volume_of(tmp_path).warnings
    write_series(tmp_path, stored(), heights=np.arange(6) + 0.5, prefix="b", AcquisitionNumber=2)
    volume = volume_of(tmp_path)
    assert volume.array.shape[0] == 12
    assert any("AcquisitionNumber 1 and AcquisitionNumber 2 lie between" in told for told in volume.warnings)


def enhanced(folder, change):
    """An Enhanced object whose frames are changed before it is written."""
    dataset = enhanced_dataset(stored(), heights(range(6)), SHARED)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        change(frame)
    dataset.save_as(folder / "object", enforce_file_format=True)
    return folder


def test_a_makers_own_group_says_nothing_of_a_frame(tmp_path):
    def own_header(frame):
        block = frame.private_block(0x2005, "A MAKER", create=True)
        block.add_new(0x0F, "SQ", sequence(RescaleSlope="7", ImagePositionPatient=[1, 2, 3]))

    np.testing.assert_array_equal(volume_of(enhanced(tmp_path, own_header)).array, stored())


@pytest.mark.parametrize(("second", "kvp"), [("120", 120), ("80", None)])
@pytest.mark.parametrize("home", ["CTAdditionalXRaySourceSequence", "CTXRayDetailsSequence"])
def test_two_tubes_of_different_voltage_leave_it_open(tmp_path, second, kvp, home):
    def another_tube(frame):
        tubes = [] if home.startswith("CTAdd") else sequence(KVP="120")
        setattr(frame, home, [*tubes, *sequence(KVP=second)])

    folder = enhanced(tmp_path, another_tube)
    assert volume_of(folder).provenance["scan"]["kvp"] == kvp
    if kvp is None:
        with pytest.raises(InputError, match="tube voltage is unknown"):
            read(folder)


def test_a_mask_resampled_onto_a_mended_tilt_is_told(tmp_path, qctrun):
    for k in range(12):
        values = np.full((30, 30), 300 + k, np.int16)
        dataset = slice_dataset(values, (0, 0.3 * 2 * k, 2 * k))
        dataset.save_as(tmp_path / f"scan{k}", enforce_file_format=True)
    scan = tmp_path / "scan"
    scan.mkdir()
    for k in range(12):
        (tmp_path / f"scan{k}").rename(scan / f"{k}")
    drawn = Grid((12, 30, 30), (float(np.hypot(2, 0.6)), 0.5, 0.5))  # as series readers see the stack
    mask = write(Volume(np.ones(drawn.size), drawn, "1"), tmp_path / "drawn.nii.gz")
    words = ("params", scan, "--allow-resample", "--mask", mask, "--resample-labels", "-o", tmp_path / "out")
    said = qctrun(*words, "--calibration", "1,0", "--material", "HA", "--device", "cpu")
    assert said.code == 0, said.err
    told = "drawn.nii.gz was not drawn on the mended scan (gantry tilt of 16.7 deg mended)"
    assert told in said.err
    record = json.loads((tmp_path / "out" / "params.run.json").read_text())
    assert any(told in warning for warning in record["warnings"])


def test_two_acquisitions_that_share_one_slice_are_refused(tmp_path):
    write_series(tmp_path, stored(), prefix="a", AcquisitionNumber=1)
    write_series(tmp_path, stored(seed=2), heights=range(5, 11), prefix="b", AcquisitionNumber=2)
    with pytest.raises(InputError, match="1 of 12 slices repeat a position"):
        volume_of(tmp_path)


def test_pixels_in_the_upper_bits_are_shifted_down(tmp_path):
    low = np.random.default_rng(3).integers(0, 16, (4, 5, 6), dtype=np.int16)
    values = stored(4, 5, 6)
    write_series(tmp_path, np.int16(16) * values + low, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(volume_of(tmp_path).array, values)
    frames = enhanced_dataset(np.int16(16) * values + low, heights(range(4)), BitsStored=12, HighBit=15)
    (tmp_path / "frames").mkdir()
    frames.save_as(tmp_path / "frames" / "object", enforce_file_format=True)
    np.testing.assert_array_equal(volume_of(tmp_path / "frames").array, values)


def test_packed_pixels_in_the_upper_bits_are_refused(tmp_path):
    pytest.importorskip("jpeg_ls")
    for path in write_series(tmp_path, stored(4, 16, 16)):
        dataset = pydicom.dcmread(path)
        dataset.compress(JPEGLSLossless)
        dataset.BitsStored = 12
        dataset.save_as(path)
    with pytest.raises(InputError, match="12 bits below bit 15 in packed pixels"):
        volume_of(tmp_path)


def test_colours_are_set_aside(tmp_path):
    write_series(tmp_path, stored())
    coloured = slice_dataset(stored(1, 5, 21)[0], (10, -20, 36), Columns=7)
    coloured.SamplesPerPixel, coloured.PhotometricInterpretation, coloured.PlanarConfiguration = 3, "RGB", 0
    coloured.save_as(tmp_path / "rgb", enforce_file_format=True)
    volume = volume_of(tmp_path)
    assert volume.provenance["scan"]["set_aside"] == {"colour picture": 1}


def test_a_part_of_the_grid_whose_spacing_drifts_away_is_refused(tmp_path):
    scan = Grid((4, 400, 400), (1.0, 0.4, 0.4))
    for drift, sound in ((0.00002, True), (0.0004, False)):
        part = Grid(
            (4, 390, 390), (1.0, 0.4 + drift, 0.4 + drift)
        )  # beyond 0.02 mm the last voxels are others
        path = write(Volume(np.ones(part.size), part, "1"), tmp_path / f"{sound}.nii.gz")
        if sound:
            assert read_labels(path, scan).sum() == 4 * 390 * 390
            continue
        with pytest.raises(InputError, match="size"):
            read_labels(path, scan)
