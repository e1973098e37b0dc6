"""Registration against known poses, its starts, its refusals, and the one resampling."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from posed_bone import bone, mask_points, pose, scan

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import Grid, Volume
from qctrun.train.pairs import register as registering
from qctrun.train.pairs.choices import RegistrationChoice
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.pyramid import LEVELS, image_of, scene_of
from qctrun.train.pairs.register import register, resampled
from qctrun.train.pairs.rigid import Rigid, angle_between, distance
from qctrun.train.pairs.starts import from_landmarks, from_moments, from_search

POSE = pose((5.0, -7.0, 8.0), (3.0, -2.0, 1.5))
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few points: what is tested does not hang on the last hundredth of a millimetre."""
    monkeypatch.setattr(
        registering, "LEVELS", tuple(replace(level, points=min(level.points, 15_000)) for level in LEVELS)
    )


def test_finds_the_pose_of_a_noisy_scan_from_both_starts() -> None:
    fixed, _ = bone()
    steps: list[tuple[int, int]] = []
    found = register(
        fixed, scan(POSE, mas=100.0), RegistrationChoice(), progress=lambda *at: steps.append(at)
    )
    for one in (found.transform, found.second):
        assert distance(one, POSE, mask_points(fixed))[0] < 0.04
        assert angle_between(one, POSE) < 0.2  # a bone of 18 mm: 0.2 degrees move its rim by 0.02 mm
    assert found.metric == pytest.approx(found.second_metric, rel=0.1)
    assert abs(found.facts["stretch_percent"]) < 0.5
    assert [level["voxel_mm"] for level in found.facts["levels"]] == [2.0, 1.4, 0.7, 0.35, 0.0]
    assert steps[-1] == (10, 10)
    assert sorted(steps) == steps


@pytest.mark.usefixtures("quick")
def test_landmarks_lead_where_no_search_does() -> None:
    fixed, _ = bone()
    upside_down = pose((0.0, 178.0, 95.0), (2.0, 1.0, -1.0))
    points = mask_points(fixed)[::200]
    noise = np.random.default_rng(3).normal(0, 0.4, points.shape)
    marks = np.column_stack([points, upside_down.points(points) + noise])
    found = register(fixed, scan(upside_down), RegistrationChoice("correlation"), marks)
    assert found.facts["starts"][0] == "landmarks"
    assert 0.2 < found.facts["landmarks_rms_mm"] < 1.0
    assert distance(found.transform, upside_down, mask_points(fixed))[0] < 0.05
    assert 0 < found.metric < 1


@pytest.mark.usefixtures("quick")
def test_a_spacing_that_is_off_by_one_percent_is_measured() -> None:
    fixed, _ = bone()
    moving = scan(POSE)
    z, y, x = moving.grid.spacing
    low = moving.grid.origin
    grid = Grid(moving.grid.size, (1.01 * z, y, x), (low[0], low[1], 1.01 * low[2]))
    found = register(fixed, replace(moving, grid=grid), RegistrationChoice())
    assert found.facts["stretch_percent"] == pytest.approx(1.0, abs=0.3)


@pytest.mark.usefixtures("quick")
def test_same_digits_whatever_the_number_of_threads() -> None:
    fixed, _ = bone()
    threads, found = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), []
    try:
        for number in (1, 3):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
            found.append(register(fixed, scan(POSE), RegistrationChoice()))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    assert found[0] == found[1]


def refused(fixed: Fixed, moving: Volume, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        register(fixed, moving, RegistrationChoice())
    assert all(word in str(caught.value) for word in words), caught.value


def test_left_handed_geometry_is_refused() -> None:
    fixed, _ = bone()
    moving = scan(POSE)
    refused(fixed, replace(moving, grid=replace(moving.grid, direction=FLIPPED)), "scan", "left-handed")
    grid = replace(fixed.density.grid, direction=FLIPPED)
    refused(replace(fixed, density=replace(fixed.density, grid=grid)), moving, "reference", "left-handed")


def test_what_the_refusal_of_left_handed_axes_advises_helps() -> None:
    """A file as dcm2niix writes it, with its rows from back to front, is the same image after DICOMOrient."""
    moving = image_of(scan(POSE).array, scan(POSE).grid)
    stored = moving[:, ::-1, :]
    assert np.linalg.det(np.reshape(stored.GetDirection(), (3, 3))) < 0
    again = sitk.DICOMOrient(stored, "LPS")
    assert again.GetDirection() == moving.GetDirection()
    np.testing.assert_allclose(again.GetOrigin(), moving.GetOrigin(), atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(again), scan(POSE).array)


REORDERED = {  # order of the axes (x, y, z), and which of the new ones run the other way; all right-handed
    "feet to head": ((0, 1, 2), (False, True, True)),
    "sagittal": ((1, 2, 0), (False, False, False)),
    "coronal": ((0, 2, 1), (False, True, False)),
}


@pytest.mark.parametrize("order", REORDERED)
def test_order_in_which_voxels_are_stored_changes_nothing(order: str) -> None:
    axes, flips = REORDERED[order]
    stored = sitk.Flip(sitk.PermuteAxes(image_of(scan(POSE).array, scan(POSE).grid), axes), flips)
    grid = Grid(stored.GetSize()[::-1], stored.GetSpacing()[::-1], stored.GetOrigin(), stored.GetDirection())
    other = Volume(sitk.GetArrayFromImage(stored), grid, "HU")
    fixed, _ = bone()
    want = resampled(scan(POSE), POSE, fixed.density.grid).array
    np.testing.assert_allclose(resampled(other, POSE, fixed.density.grid).array, want, atol=0.01)
    first, second = (
        from_moments(*scene_of(fixed, each).level(LEVELS[1])[::2]) for each in (scan(POSE), other)
    )
    assert first is not None
    assert second is not None
    # Blocks of voxels begin at another corner.
    assert distance(first, second, mask_points(fixed))[1] < 0.3
    searched = from_search(*scene_of(fixed, other).level(LEVELS[0]))
    assert searched is not None
    assert distance(searched, POSE, mask_points(fixed))[0] < 3


def test_a_scan_of_something_else_is_refused() -> None:
    fixed, _ = bone()
    moving = scan(POSE)
    refused(fixed, moving.with_array(np.full(moving.grid.size, 40.0)), "bone", "312 HU")
    refused(fixed, moving.with_array(moving.array, unit="mg/cm3"), "HU", "mg/cm3")
    small = moving.array[:15, :40, :40]
    refused(fixed, Volume(small, replace(moving.grid, size=small.shape), "HU"), "field", "cm3")
    holed = moving.array.copy()
    holed[0, 0, 0] = np.nan
    refused(fixed, moving.with_array(holed), "finite")


def test_landmarks_outside_of_the_scan_are_refused() -> None:
    fixed, _ = bone()
    points = mask_points(fixed)[::200]
    with pytest.raises(InputError, match="points of the scan"):
        register(fixed, scan(POSE), RegistrationChoice(), np.column_stack([points, points + 500.0]))


SQUARE = np.array([[0.0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0]])
SOLID = np.vstack([SQUARE, [[3.0, 4, 12]]])


@pytest.mark.parametrize("points", [SQUARE, SOLID])
def test_landmarks_give_their_pose(points: np.ndarray) -> None:
    found, rms = from_landmarks(np.column_stack([points, POSE.points(points)]))
    assert distance(found, POSE, points)[1] < 1e-9
    assert rms < 1e-9


def test_landmarks_tell_what_they_leave() -> None:
    outwards = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])  # each by the root of two
    pulled = SQUARE + outwards
    found, rms = from_landmarks(np.column_stack([SQUARE, pulled]))
    assert found.angle_deg == pytest.approx(0, abs=1e-6)
    assert rms == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("points", "word"),
    [
        (np.column_stack([SOLID, SOLID * [-1, 1, 1]]), "mirror"),
        (np.column_stack([SQUARE[:1].repeat(4, 0), SQUARE]), "plane"),
        (np.column_stack([SOLID, SOLID]) / 1000, "in mm"),
        (np.column_stack([np.outer([1, 2, 3, 9], [1, 1, 0])] * 2), "plane"),
        (np.column_stack([SQUARE, SQUARE])[:2], "3 or more"),
        (SQUARE, "six"),
    ],
)
def test_landmarks_that_fix_no_pose_are_refused(points: np.ndarray, word: str) -> None:
    with pytest.raises(InputError, match=word):
        from_landmarks(points)


def ramp_volume() -> Volume:
    grid = Grid((20, 30, 40), (0.5, 0.3, 0.2), (-4.0, -5.0, 100.0))
    z, y, x = np.indices(grid.size)
    return Volume(3 * x * 0.2 - 2 * y * 0.3 + z * 0.5, grid, "HU")


def test_resampled_onto_its_own_grid_a_scan_stays_what_it_is() -> None:
    noise = ramp_volume().with_array(np.random.default_rng(0).normal(0, 300, (20, 30, 40)))
    np.testing.assert_allclose(resampled(noise, Rigid(), noise.grid).array, noise.array, atol=0.02)


def test_resampled_takes_what_lies_at_the_transformed_point() -> None:
    ramp = ramp_volume()
    turn = pose((10.0, -5.0, 20.0), (1.0, -2.0, 103.0))
    grid = Grid((4, 5, 6), (0.34, 0.172, 0.172))
    points = np.array([grid.world(index) for index in np.ndindex(*grid.size)])
    there = turn.points(points) - ramp.grid.origin
    expected = (there @ [3.0, -2.0, 1.0]).reshape(grid.size)
    np.testing.assert_allclose(resampled(ramp, turn, grid).array, expected, atol=0.02)


def test_nothing_is_invented_where_the_scan_does_not_reach() -> None:
    ramp = ramp_volume()
    moved = resampled(ramp, Rigid(offset_mm=(0.0, 0.0, 5.0)), ramp.grid)
    assert np.isnan(moved.array[10:]).all()
    np.testing.assert_allclose(moved.array[:10], ramp.array[10:], atol=0.02)
    (step,) = moved.provenance["resampling"]
    assert step["voxels_outside"] == 10 * 30 * 40
    assert step["interpolation"] == "cubic B-spline"
    far = resampled(ramp, Rigid(offset_mm=(1e4, 0.0, 0.0)), ramp.grid)
    assert np.isnan(far.array).all()
