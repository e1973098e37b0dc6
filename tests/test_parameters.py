"""Global BMD, BV/TV and TMD (Eq. 1-3): cases that a reader can work out by hand."""

import numpy as np
import pytest

import oracles
from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.measuring import map_means, parameters
from qctrun.runtime.volume import Grid, Volume

SPACING_MM = (2.0, 0.5, 0.25)
VOXEL_MM3 = 0.25


def volume_of(array, unit="mg/cm3") -> Volume:
    array = np.asarray(array, np.float32)
    return Volume(array, Grid(size=array.shape, spacing=SPACING_MM), unit=unit)


EIGHT = volume_of([[[0, 100], [200, 300]], [[400, 200], [100, 0]]])
"""Sum 1300; at least 200: 200, 300, 400, 200, which sum to 1100; at least 201: 300 and 400."""


def test_eight_voxels_by_hand():
    (at_200,) = parameters(EIGHT, (200.0,))
    assert at_200.label is None
    assert at_200.threshold_mg_cm3 == 200
    assert at_200.voxels == 8
    assert at_200.volume_mm3 == pytest.approx(8 * VOXEL_MM3)
    assert at_200.bmd_mg_cm3 == pytest.approx(162.5)
    assert at_200.bvtv == pytest.approx(0.5)
    assert at_200.tmd_mg_cm3 == pytest.approx(275)
    assert at_200.bone_voxels == 4


def test_a_row_for_each_threshold_in_the_order_asked_for():
    rows = parameters(EIGHT, (201.0, 400.0, 100.0))
    assert [row.threshold_mg_cm3 for row in rows] == [201, 400, 100]
    assert [row.bvtv for row in rows] == pytest.approx([2 / 8, 1 / 8, 6 / 8])
    assert [row.tmd_mg_cm3 for row in rows] == pytest.approx([350, 400, 1300 / 6])
    assert [row.bmd_mg_cm3 for row in rows] == pytest.approx([162.5] * 3)


def test_no_bone_is_missing_and_not_zero():
    (row,) = parameters(EIGHT, (401.0,))
    assert row.tmd_mg_cm3 is None
    assert row.bvtv == 0
    assert row.bone_voxels == 0


def test_a_voxel_at_the_threshold_is_bone_and_one_just_below_is_not():
    just_below = np.nextafter(np.float32(200), np.float32(0))
    (row,) = parameters(volume_of([[[200, just_below]]]), (200.0,))
    assert row.bone_voxels == 1
    assert row.tmd_mg_cm3 == 200


def test_a_mask_chooses_the_voxels():
    mask = np.zeros((2, 2, 2), bool)
    mask[0] = True
    (row,) = parameters(EIGHT, (200.0,), mask=mask)
    assert (row.label, row.voxels, row.bone_voxels) == (None, 4, 2)
    assert row.volume_mm3 == pytest.approx(4 * VOXEL_MM3)
    assert row.bmd_mg_cm3 == pytest.approx(150)
    assert row.bvtv == pytest.approx(0.5)
    assert row.tmd_mg_cm3 == pytest.approx(250)


def test_rows_for_the_whole_and_for_each_label():
    labels = np.array([[[20, 20], [0, 0]], [[21, 21], [21, 0]]], np.int32)
    rows = parameters(EIGHT, (200.0, 300.0), labels=labels)
    by_key = {(row.label, row.threshold_mg_cm3): row for row in rows}
    assert len(rows) == len(by_key) == 6
    assert {label for label, _ in by_key} == {None, 20, 21}
    # Label 20 holds 0 and 100, label 21 holds 400, 200 and 100; the background holds no label of its own.
    assert by_key[20, 200.0].tmd_mg_cm3 is None
    assert by_key[20, 200.0].bmd_mg_cm3 == pytest.approx(50)
    assert by_key[21, 200.0].bvtv == pytest.approx(2 / 3)
    assert by_key[21, 200.0].tmd_mg_cm3 == pytest.approx(300)
    assert by_key[21, 300.0].bone_voxels == 1
    assert by_key[21, 300.0].volume_mm3 == pytest.approx(3 * VOXEL_MM3)
    assert by_key[None, 200.0].voxels == 8


def test_labels_count_only_inside_the_mask():
    labels = np.full((2, 2, 2), 7, np.int32)
    mask = np.zeros((2, 2, 2), bool)
    mask[1] = True
    rows = parameters(EIGHT, (200.0,), mask=mask, labels=labels)
    assert {row.label: row.voxels for row in rows} == {None: 4, 7: 4}
    assert {row.bmd_mg_cm3 for row in rows} == {175.0}


def test_random_voxels_agree_with_the_oracle():
    rng = np.random.default_rng(1)
    array = rng.normal(150, 170, (9, 10, 11)).astype(np.float32)
    mask = rng.random(array.shape) < 0.4
    for row in parameters(volume_of(array), (100.0, 225.0, 500.0), mask=mask):
        want = oracles.parameters(array, row.threshold_mg_cm3, mask)
        assert (row.voxels, row.bone_voxels) == (want.voxels, want.bone_voxels)
        assert row.bmd_mg_cm3 == pytest.approx(want.bmd_mg_cm3, rel=1e-9)
        assert row.bvtv == pytest.approx(want.bvtv, rel=1e-12)
        assert row.tmd_mg_cm3 == pytest.approx(want.tmd_mg_cm3, rel=1e-9)


def test_many_voxels_lose_no_digits():
    """A float32 sum over four million voxels of 1700.1 would be off by more than 1 mg/cm3."""
    array = np.full((64, 256, 256), 1700.1, np.float32)
    (row,) = parameters(volume_of(array), (200.0,))
    assert row.bmd_mg_cm3 == pytest.approx(float(np.float32(1700.1)), abs=1e-6)
    assert row.tmd_mg_cm3 == pytest.approx(float(np.float32(1700.1)), abs=1e-6)
    assert row.bmd_sd_mg_cm3 == pytest.approx(0, abs=1e-3)


def test_the_spread_is_that_of_the_voxels():
    array = np.random.default_rng(2).normal(1700, 8, (20, 50, 50)).astype(np.float32)
    (row,) = parameters(volume_of(array), (200.0,))
    assert row.bmd_sd_mg_cm3 == pytest.approx(float(array.std(dtype=np.float64, ddof=1)), rel=1e-4)


def test_the_rows_are_plain_numbers():
    for row in parameters(EIGHT, (200,), labels=np.ones((2, 2, 2), np.int32)):
        assert row.label is None or type(row.label) is int
        assert type(row.voxels) is int
        assert type(row.bone_voxels) is int
        for value in (row.threshold_mg_cm3, row.volume_mm3, row.bmd_mg_cm3, row.bmd_sd_mg_cm3, row.bvtv):
            assert type(value) is float


def test_the_spread_of_eight_voxels_by_hand():
    """About 162.5: 2 x 162.5^2 + 2 x 62.5^2 + 2 x 37.5^2 + 137.5^2 + 237.5^2 = 138750, over n - 1 = 7."""
    (row,) = parameters(EIGHT, (200.0,))
    assert row.bmd_sd_mg_cm3 == pytest.approx((138750 / 7) ** 0.5)


# The means of local maps


def maps_by_hand():
    nan = np.nan
    return {
        "BMD": volume_of([[[100, 200, 300, nan]]]),
        ("BVTV", 200.0): volume_of([[[0.0, 0.009, 0.2, nan]]], unit="1"),
        ("TMD", 200.0): volume_of([[[0, 90, 450, nan]]]),
    }


def test_a_mean_over_a_map_leaves_out_what_has_no_value_and_counts_what_rests_on_nothing():
    found = map_means(maps_by_hand())
    assert found.spheres == 3
    assert found.means == pytest.approx({"BMD": 200, ("BVTV", 200.0): 0.209 / 3, ("TMD", 200.0): 180})
    assert found.hardly_bone == {200.0: 2}


def test_a_mean_over_a_map_within_a_mask():
    found = map_means(maps_by_hand(), np.array([[[False, True, True, True]]]))
    assert found.spheres == 2
    assert found.means["BMD"] == pytest.approx(250)
    assert found.hardly_bone == {200.0: 1}


def test_a_map_without_values_has_no_mean():
    found = map_means(maps_by_hand(), np.array([[[False, False, False, True]]]))
    assert found.spheres == 0
    assert set(found.means.values()) == {None}
    assert found.hardly_bone == {200.0: 0}


# What is refused


def test_hounsfield_units_are_refused():
    with pytest.raises(InputError, match="HU"):
        parameters(volume_of(np.zeros((2, 2, 2)), unit="HU"), (200.0,))


@pytest.mark.parametrize(
    "thresholds", [(), (-1.0,), (float("nan"),), (float("inf"),), (200.0, 200.0)], ids=str
)
def test_senseless_thresholds_are_refused(thresholds):
    with pytest.raises(UsageError, match="threshold"):
        parameters(EIGHT, thresholds)


def test_a_volume_that_is_not_finite_is_refused():
    array = np.zeros((2, 2, 2), np.float32)
    array[1, 0, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        parameters(volume_of(array), (200.0,))


@pytest.mark.parametrize("what", ["mask", "labels"])
def test_another_shape_is_refused(what):
    other = {"mask": np.ones((2, 2, 3), bool), "labels": np.ones((2, 2, 3), np.int32)}[what]
    with pytest.raises(InputError, match=what.rstrip("s")):
        parameters(EIGHT, (200.0,), **{what: other})


def test_an_empty_mask_is_refused():
    with pytest.raises(InputError, match="mask"):
        parameters(EIGHT, (200.0,), mask=np.zeros((2, 2, 2), bool))


def test_a_mask_of_whole_numbers_is_where_they_are_not_0_and_one_of_fractions_is_refused():
    mask = np.zeros((2, 2, 2), np.int16)
    mask[0], mask[1, 0, 0] = 3, -1
    assert parameters(EIGHT, (200.0,), mask=mask) == parameters(EIGHT, (200.0,), mask=mask != 0)
    assert map_means({"BMD": EIGHT}, mask) == map_means({"BMD": EIGHT}, mask != 0)
    for measure in (lambda m: parameters(EIGHT, (200.0,), mask=m), lambda m: map_means({"BMD": EIGHT}, m)):
        with pytest.raises(InputError, match="mask: wanted bool or whole numbers"):
            measure(mask.astype(np.float32))


def test_a_label_that_the_mask_does_not_touch_says_0_voxels_and_has_no_values():
    labels = np.array([[[20, 20], [20, 20]], [[21, 21], [21, 21]]], np.int32)
    mask = np.zeros((2, 2, 2), bool)
    mask[0] = True
    rows = parameters(EIGHT, (200.0, 300.0), mask=mask, labels=labels)
    assert [(row.label, row.voxels) for row in rows] == [(None, 4)] * 2 + [(20, 4)] * 2 + [(21, 0)] * 2
    for row in rows[4:]:
        assert (row.volume_mm3, row.bone_voxels, row.tmd_mg_cm3) == (0, 0, None)
        assert np.isnan([row.bmd_mg_cm3, row.bmd_sd_mg_cm3, row.bvtv]).all()
