"""Masks and label maps: on the scan's grid or refused, turned but never resampled."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import rotation

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read_labels
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


def test_another_size_is_refused(tmp_path):
    sitk.WriteImage(image_of(labels()[:, :, :4]), str(tmp_path / "m.mha"))
    refused(tmp_path / "m.mha", r"scan against mask: size \(3, 4, 5\) against \(3, 4, 4\).*resample the mask")


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
