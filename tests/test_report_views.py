"""Planes of a volume: where they are cut, how they are turned, what the letters at their edges say."""

from itertools import permutations, product

import numpy as np
import pytest
from dicom_series import rotation
from report_pages import pixels

from qctrun.runtime.volume import Grid
from qctrun.runtime.writing.report.pictures import GREY, Scale, draw_plane
from qctrun.runtime.writing.report.views import bounding_box, planes_of

SIZE, SPACING = (12, 14, 16), (1.5, 1.0, 0.5)
STRAIGHT = [
    np.eye(3)[:, list(order)] * signs
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
SIDES = {"R": (0, -1), "L": (0, 1), "A": (1, -1), "P": (1, 1), "I": (2, -1), "S": (2, 1)}


def grid_of(axes=None, size=SIZE, spacing=SPACING):
    return Grid(size, spacing, (3.0, -4.0, 5.0), np.ravel(np.eye(3) if axes is None else axes))


def by_name(planes):
    return {plane.name: plane for plane in planes}


def positions(grid):
    """World coordinates (L, P, S) of every voxel."""
    steps = np.indices(grid.size)[::-1] * np.reshape(grid.spacing[::-1], (3, 1, 1, 1))
    return np.tensordot(np.reshape(grid.direction, (3, 3)), steps, axes=1)


def test_planes_of_an_upright_scan_are_named_and_lettered_as_a_radiologist_holds_them():
    planes = by_name(planes_of(grid_of(), None))
    assert planes["axial"].edges == ("R", "L", "A", "P")
    assert planes["sagittal"].edges == ("A", "P", "S", "I")
    assert planes["coronal"].edges == ("R", "L", "S", "I")
    assert [planes[name].axis for name in ("axial", "sagittal", "coronal")] == [0, 2, 1]


@pytest.mark.parametrize("axes", STRAIGHT)
def test_each_letter_stands_where_the_patient_has_that_side_in_every_order_of_axes(axes):
    grid = grid_of(axes)
    world = positions(grid)
    for plane in planes_of(grid, None):
        for letter, side in zip(plane.edges, ("left", "right", "top", "bottom"), strict=True):
            axis, sign = SIDES[letter]
            picture = plane.cut(sign * world[axis])
            lines = {"left": picture[:, 0], "right": picture[:, -1], "top": picture[0], "bottom": picture[-1]}
            assert lines[side].min() == pytest.approx(picture.max()), (plane.name, letter)


def test_an_oblique_edge_carries_two_letters_the_nearer_first():
    planes = by_name(planes_of(grid_of(rotation(np.radians(25), 0, 0)), None))
    assert planes["axial"].edges == ("RA", "LP", "AL", "PR")
    assert planes["coronal"].edges[2:] == ("S", "I")


def test_a_slight_tilt_is_not_worth_a_letter():
    planes = by_name(planes_of(grid_of(rotation(0, 0, np.radians(10))), None))
    assert planes["axial"].edges == ("R", "L", "A", "P")


def test_two_vertebrae_are_cut_through_one_of_them_and_not_between():
    grid = grid_of(size=(60, 40, 40), spacing=(1.0, 1.0, 1.0))
    mask = np.zeros(grid.size, bool)
    mask[5:20, 10:30, 10:30] = mask[40:55, 10:30, 10:30] = True
    plane = by_name(planes_of(grid, mask))["axial"]
    assert mask[plane.index].any()
    assert bounding_box(grid, mask) == (slice(5, 55), slice(10, 30), slice(10, 30))


@pytest.mark.parametrize("flip", [1, -1])
def test_several_axial_planes_come_from_head_to_foot_evenly_through_the_mask(flip):
    axes = np.diag([1.0, 1.0, flip])
    grid = grid_of(axes, size=(60, 20, 20), spacing=(1.0, 1.0, 1.0))
    mask = np.zeros(grid.size, bool)
    mask[10:50, 5:15, 5:15] = True
    axial = [plane.index for plane in planes_of(grid, mask, 4) if plane.name == "axial"]
    assert axial == [45, 35, 25, 15][::flip]


def test_more_planes_than_slices_are_each_shown_once():
    mask = np.zeros(SIZE, bool)
    mask[4:7] = True
    axial = [plane.index for plane in planes_of(grid_of(), mask, 24) if plane.name == "axial"]
    assert axial == [6, 5, 4]


def test_all_planes_show_the_same_width_and_all_of_the_mask():
    grid = grid_of(size=(40, 80, 60), spacing=(5.0, 0.8, 0.8))
    mask = np.zeros(grid.size, bool)
    mask[8:12, 20:60, 10:30] = True
    planes = planes_of(grid, mask)
    assert len({plane.field_mm[1] for plane in planes}) == 1
    for plane in planes:
        inside = plane.cut(mask)
        assert inside.any()
        assert inside.sum() == np.take(mask, plane.index, plane.axis).sum()


def test_a_single_voxel_is_a_mask_too():
    mask = np.zeros(SIZE, bool)
    mask[0, 13, 15] = True
    assert [plane.index for plane in planes_of(grid_of(), mask)] == [0, 15, 13]


def test_a_picture_is_in_true_millimetres_with_each_value_at_its_place():
    grid = grid_of(size=(10, 20, 40), spacing=(3.0, 2.0, 1.0))
    array = np.full(grid.size, GREY.low, np.float32)
    plane = by_name(planes_of(grid, None))["axial"]
    array[plane.index, 4, 30] = GREY.high  # 8 to 10 mm from the front, 30 to 31 mm from the right side
    picture = pixels(draw_plane(plane, plane.cut(array), "t"))
    high, wide = plane.field_mm
    step = picture.shape[1] / wide
    top = (high - 40.0) / 2  # the field is higher than the volume
    spot = picture[int((top + 9.0) * step), int(30.5 * step)]
    assert tuple(spot) == (255, 255, 255)
    assert tuple(picture[int((top + 9.0) * step), int(25.5 * step)]) == (0, 0, 0)
    assert picture.shape[:2] == (round(640 * high / wide) + 100, 640)


def test_a_map_has_the_colours_of_its_bar_and_lets_the_scan_be_seen_where_it_has_no_value():
    import matplotlib

    grid = grid_of(size=(10, 40, 40), spacing=(1.0, 1.0, 1.0))
    plane = by_name(planes_of(grid, None))["axial"]
    values = np.full(grid.size, 30.0, np.float32)
    values[:, :, 20:] = np.nan
    density = np.full(grid.size, GREY.high, np.float32)
    scale = Scale(0.0, 40.0, "%", "viridis")
    picture = pixels(draw_plane(plane, plane.cut(density), "t", values=plane.cut(values), scale=scale))
    wanted = np.rint(255 * np.array(matplotlib.colormaps["viridis"](0.75)[:3]))
    assert np.abs(picture[200, 160].astype(int) - wanted).max() <= 1
    assert tuple(picture[200, 480]) == (255, 255, 255)


def test_the_outline_runs_around_the_mask_and_not_through_it():
    grid = grid_of(size=(10, 40, 40), spacing=(1.0, 1.0, 1.0))
    plane = by_name(planes_of(grid, None))["axial"]
    mask = np.zeros(grid.size, np.int32)
    mask[:, 10:30, 10:30] = 1
    density = plane.cut(np.full(grid.size, GREY.low, np.float32))
    plain = pixels(draw_plane(plane, density, "t")).astype(int)
    outlined = pixels(draw_plane(plane, density, "t", outline=plane.cut(mask))).astype(int)
    changed = (plain != outlined).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert np.abs(np.array([rows[0], rows[-1], columns[0], columns[-1]]) - [160, 480, 160, 480]).max() <= 3
    assert not changed[200:440, 200:440].any()
