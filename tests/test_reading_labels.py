"""Masks and label maps: turned and placed without interpolation, resampled only when asked, else refused."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import rotation

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read_label_map, read_labels
from qctrun.runtime.volume import Grid

AXES = rotation(0.4, 0.1, -0.7)
GRID = Grid((3, 4, 5), (2.0, 0.5, 0.25), (1.0, 2.0, 3.0), tuple(AXES.ravel().tolist()))


def labels():
    return np.random.default_rng(5).integers(0, 4, GRID.size).astype(np.uint8)


def image_of(values, grid=GRID):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def refused(path, match, grid=GRID, **options):
    with pytest.raises(InputError, match=match) as caught:
        read_labels(path, grid, **options)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
def test_every_format_and_number_type_gives_the_labels(tmp_path, suffix, kind):
    path = tmp_path / f"m{suffix}"
    sitk.WriteImage(image_of(labels().astype(kind)), str(path))
    read = read_labels(path, GRID)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels())


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product([False, True], repeat=3)))
def test_every_order_and_direction_of_axes_is_turned_back_exactly(tmp_path, order, flips):
    stored = sitk.Flip(sitk.PermuteAxes(image_of(labels()), order), flips)
    sitk.WriteImage(stored, str(tmp_path / "m.mha"))
    read = read_labels(tmp_path / "m.mha", GRID)
    np.testing.assert_array_equal(read, labels())
    assert read.flags.c_contiguous


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (Grid((3, 4, 5), (2.0, 0.5, 0.26), GRID.origin, GRID.direction), r"spacing \(2, 0.5, 0.25\) against"),
        (
            Grid((3, 4, 5), GRID.spacing, (1.0, 2.0, 3.1), GRID.direction),
            r"origin \(1, 2, 3\) against \(1, 2, 3.1\)",
        ),
        (Grid((3, 4, 5), GRID.spacing, GRID.origin), "direction"),
    ],
)
def test_another_grid_is_refused_with_both(tmp_path, other, match):
    sitk.WriteImage(image_of(labels(), other), str(tmp_path / "m.mha"))
    refused(tmp_path / "m.mha", match)


def test_another_grid_is_refused_with_the_way_out(tmp_path):
    other = Grid((3, 4, 4), (2.0, 0.5, 0.3), GRID.origin, GRID.direction)
    sitk.WriteImage(image_of(labels()[:, :, :4], other), str(tmp_path / "m.mha"))
    refused(tmp_path / "m.mha", r"scan against mask: size \(3, 4, 5\) against \(3, 4, 4\).*--resample-labels")


@pytest.mark.parametrize(
    ("value", "kind", "match"),
    [
        (0.5, np.float32, "whole numbers.*got 0.5"),
        (np.nan, np.float32, "whole numbers.*got nan"),
        (np.inf, np.float64, "whole numbers.*got inf"),
        (2.0**40, np.float64, "whole numbers"),
        (2**40, np.int64, "whole numbers"),
        (-1, np.int16, "0 \\(background\\) and above, got -1"),
    ],
)
def test_values_that_are_no_labels_are_refused(tmp_path, value, kind, match):
    values = labels().astype(kind)
    values[1, 1, 1] = value
    sitk.WriteImage(image_of(values), str(tmp_path / "m.mha"))
    refused(tmp_path / "m.mha", match)


def test_an_empty_mask_is_refused(tmp_path):
    sitk.WriteImage(image_of(np.zeros(GRID.size, np.uint8)), str(tmp_path / "m.nii.gz"))
    refused(tmp_path / "m.nii.gz", "only background")


def test_only_asked_labels_are_kept(tmp_path):
    sitk.WriteImage(image_of(labels()), str(tmp_path / "m.nii.gz"))
    read = read_labels(tmp_path / "m.nii.gz", GRID, label_ids=(1, 3))
    np.testing.assert_array_equal(read, np.where(labels() == 2, 0, labels()))
    refused(tmp_path / "m.nii.gz", "label 7, got a map of 1, 2, 3", label_ids=(1, 7))
    refused(tmp_path / "m.nii.gz", "label 0", label_ids=(0,))
    refused(tmp_path / "m.nii.gz", "at least one label", label_ids=())


def test_a_series_of_one_volume_is_a_volume(tmp_path):
    one = image_of(labels(), Grid(GRID.size, GRID.spacing, GRID.origin))
    for name in ("m.nrrd", "m.mha", "m.nii.gz"):
        sitk.WriteImage(sitk.JoinSeries([one]), str(tmp_path / name))
        read = read_labels(tmp_path / name, Grid(GRID.size, GRID.spacing, GRID.origin))
        np.testing.assert_array_equal(read, labels())
        sitk.WriteImage(sitk.JoinSeries([one, one]), str(tmp_path / name))
        refused(tmp_path / name, "a 3-D volume, got 4-D")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("flips", [(False,) * 3, (True, False, True)])
def test_a_crop_of_the_same_grid_is_placed_without_interpolation(tmp_path, order, flips):
    part = image_of(labels())[1:4, 1:3, 0:2]  # (x, y, z)
    sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(part, order), flips), str(tmp_path / "m.mha"))
    found = read_label_map(tmp_path / "m.mha", GRID)
    wanted = np.zeros(GRID.size, np.int32)
    wanted[0:2, 1:3, 1:4] = labels()[0:2, 1:3, 1:4]
    np.testing.assert_array_equal(found.array, wanted)
    assert found.fit == {"fit": "placed by whole voxels", "offset_zyx": [0, 1, 1]}
    (note,) = found.notes
    assert "m.mha covers (2, 2, 3) voxels (z, y, x) of the scan's grid, from voxel (0, 1, 1) on" in note


def test_what_a_larger_map_holds_outside_of_the_scan_is_counted(tmp_path):
    whole = np.pad(labels(), ((1, 0), (0, 2), (3, 0)), constant_values=1)
    place = Grid(whole.shape, GRID.spacing, tuple(GRID.world((-1, 0, -3))), GRID.direction)
    sitk.WriteImage(image_of(whole, place), str(tmp_path / "m.nii.gz"))
    found = read_label_map(tmp_path / "m.nii.gz", GRID)
    np.testing.assert_array_equal(found.array, labels())
    assert found.notes[1].startswith(
        f"{whole.size - labels().size} voxels with a label in m.nii.gz lie outside"
    )


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (0, 0.02, 0)])
def test_a_crop_between_the_voxels_is_refused(tmp_path, shift):
    place = Grid((2, 3, 3), GRID.spacing, tuple(GRID.world(shift)), GRID.direction)
    sitk.WriteImage(image_of(labels()[:2, :3, :3], place), str(tmp_path / "m.mha"))
    refused(tmp_path / "m.mha", "origin")


def test_a_crop_whose_spacing_drifts_off_the_grid_is_refused(tmp_path):
    """Spacings that agree to a micrometre, and a last voxel that lies elsewhere all the same."""
    scan = Grid((2, 2, 400), (1.0, 1.0, 0.01))
    place = Grid((2, 2, 300), (1.0, 1.0, 0.0105))
    sitk.WriteImage(image_of(np.ones(place.size, np.uint8), place), str(tmp_path / "m.mha"))
    refused(tmp_path / "m.mha", "size", scan)


@pytest.mark.parametrize("resample", [False, True])
def test_a_map_beside_the_scan_is_refused(tmp_path, resample):
    for spacing in (GRID.spacing, (1.0, 1.0, 1.0)):
        place = Grid(GRID.size, spacing, tuple(GRID.world((300, 0, 0))), GRID.direction)
        sitk.WriteImage(image_of(labels(), place), str(tmp_path / "m.mha"))
        refused(
            tmp_path / "m.mha",
            "inside of the scan" if resample or spacing == GRID.spacing else "--resample-labels",
            resample=resample,
        )


def test_a_map_on_the_grid_is_never_resampled(tmp_path):
    sitk.WriteImage(sitk.Flip(image_of(labels()), (True, False, False)), str(tmp_path / "m.mha"))
    found = read_label_map(tmp_path / "m.mha", GRID, resample=True)
    np.testing.assert_array_equal(found.array, labels())
    assert (found.fit, found.notes) == ({"fit": "axes turned"}, ())


def test_resampling_takes_the_label_at_the_centre_of_each_voxel(tmp_path):
    """Against a loop: the voxel of the map in which the centre of the scan's voxel lies."""
    own = Grid(
        (7, 9, 11), (1.1, 0.45, 0.4), (0.4, 1.5, 2.1), tuple(rotation(0.2, -0.3, 0.5).ravel().tolist())
    )
    values = np.random.default_rng(1).integers(1, 5, own.size).astype(np.uint8)
    sitk.WriteImage(image_of(values, own), str(tmp_path / "m.mha"))
    found = read_label_map(tmp_path / "m.mha", GRID, resample=True)
    wanted = np.zeros(GRID.size, int)
    for place in np.ndindex(GRID.size):
        steps = np.reshape(own.direction, (3, 3)).T @ (GRID.world(place) - np.array(own.origin))
        near = np.rint(steps / own.spacing[::-1]).astype(int)[::-1]
        if ((near >= 0) & (near < own.size)).all():
            wanted[place] = values[tuple(near)]
    assert 0 < (wanted > 0).sum() < wanted.size
    np.testing.assert_array_equal(found.array, wanted)
    assert found.fit["from_spacing_zyx_mm"] == [1.1, 0.45, 0.4]
    assert (
        "resampled to the scan's grid (nearest neighbour, 1.1 x 0.45 x 0.4 to 2 x 0.5 x 0.25 mm"
        in found.notes[0]
    )


def test_labels_too_thin_for_the_scan_are_kept_where_they_lie(tmp_path):
    scan = Grid((6, 6, 6), (1.0, 1.0, 1.0))
    values = np.zeros((24, 24, 24), np.uint8)
    values[:, :12, :] = 1
    values[:, 16, :] = 2  # a quarter of a voxel thick, between the centres of the scan's voxels
    values[3, 3, 3] = 3  # inside of label 1
    own = Grid(values.shape, (0.25,) * 3, (-0.375,) * 3)
    sitk.WriteImage(image_of(values, own), str(tmp_path / "m.mha"))
    found = read_label_map(tmp_path / "m.mha", scan, resample=True)
    wanted = np.zeros(scan.size, int)
    wanted[:, :3], wanted[:, 4] = 1, 2
    np.testing.assert_array_equal(found.array, wanted)
    assert "no voxel centre of the scan meets, kept where they lie: 2" in found.notes[1]
    assert found.notes[2].endswith("without a voxel in the scan: 3")


def test_a_coarse_map_on_a_fine_scan_keeps_its_volume(tmp_path):
    scan = Grid((30, 30, 30), (0.4, 0.4, 0.4))
    values = np.zeros((12, 12, 12), np.uint8)
    values[2:9, 3:8, 4:10] = 7
    sitk.WriteImage(image_of(values, Grid(values.shape, (1.0,) * 3)), str(tmp_path / "m.mha"))
    found = read_labels(tmp_path / "m.mha", scan, resample=True)
    assert (found == 7).sum() * scan.voxel_mm3 == pytest.approx(values.astype(bool).sum(), rel=0.2)


def test_labels_are_kept_by_name(tmp_path):
    sitk.WriteImage(image_of(labels()), str(tmp_path / "m.nii.gz"))
    (tmp_path / "names.json").write_text('{"1": "L1", "2": "vertebrae_L2"}')
    found = read_label_map(tmp_path / "m.nii.gz", GRID, ("l2", 3), names=tmp_path / "names.json")
    np.testing.assert_array_equal(found.array, np.where(labels() == 1, 0, labels()))
    assert found.names == {1: "L1", 2: "vertebrae_L2"}


def test_an_asked_label_that_lies_outside_of_the_scan_is_refused(tmp_path):
    whole = np.pad(labels(), ((0, 2), (0, 0), (0, 0)))
    whole[-1, 1, 1] = 9
    sitk.WriteImage(
        image_of(whole, Grid(whole.shape, GRID.spacing, GRID.origin, GRID.direction)), str(tmp_path / "m.mha")
    )
    refused(tmp_path / "m.mha", "label 9, got a map of 1", label_ids=(1, 9))
    found = read_label_map(tmp_path / "m.mha", GRID, (1, 2))
    np.testing.assert_array_equal(found.array, np.where(labels() == 3, 0, labels()))
    assert len(found.notes) == 1  # what is not asked for is not missed
