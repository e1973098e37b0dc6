"""A judge of registrations must pass the right ones and name what is wrong with the others."""

import json
from dataclasses import replace

import numpy as np
import pytest
from posed_bone import bone, mask_points, pose, scan

from qctrun.runtime.volume import Volume
from qctrun.train.pairs.blocks import matched
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.judging import Verdict, judged
from qctrun.train.pairs.pictures import draw_checkerboard
from qctrun.train.pairs.register import Registered, resampled
from qctrun.train.pairs.rigid import Rigid

POSE = pose((5.0, -7.0, 8.0), (3.0, -2.0, 1.5))


def verdict_of(
    transform: Rigid = POSE,
    moving: Volume | None = None,
    fixed: Fixed | None = None,
    second: Rigid | None = None,
    metric: float = 0.6,
    stretch_percent: float = 0.1,
) -> Verdict:
    fixed = fixed or bone()[0]
    moving = moving or scan(POSE)
    facts = {"metric": "mutual information", "stretch_percent": stretch_percent}
    registered = Registered(transform, second or transform, metric, metric, facts)
    return judged(fixed, resampled(moving, transform, fixed.density.grid), registered)


@pytest.mark.parametrize("mas", [100.0, 360.0])
def test_the_true_pose_passes(mas: float) -> None:
    verdict = verdict_of(moving=scan(POSE, mas=mas))
    assert verdict.good, verdict.reasons
    assert verdict.reasons == ()
    assert verdict.overlap == 1.0
    assert verdict.inverse_consistency_mm == 0.0
    assert verdict.local_shift_mm < 0.08
    assert verdict.facts["agreeing"] > 0.9
    assert json.loads(json.dumps(verdict.as_dict(), allow_nan=False))["good"] is True


def doubted(verdict: Verdict, word: str) -> None:
    assert not verdict.good
    assert any(word in reason for reason in verdict.reasons), verdict.reasons
    assert all(any(letter.isdigit() for letter in reason) for reason in verdict.reasons)


@pytest.mark.parametrize("shift_mm", [(0.3, 0.0, 0.0), (0.0, -0.2, 0.2)])
def test_a_shift_that_is_left_is_measured(shift_mm: tuple[float, float, float]) -> None:
    verdict = verdict_of(POSE.after(Rigid(offset_mm=shift_mm)))
    doubted(verdict, "off in the median")
    assert verdict.local_shift_mm == pytest.approx(np.linalg.norm(shift_mm), abs=0.06)


def test_a_turn_that_is_left_is_noticed() -> None:
    doubted(verdict_of(POSE.after(pose((0.0, 0.0, 6.0), (0.0, 0.0, 0.0)))), "turned")


def test_another_bone_is_noticed_whatever_its_shape() -> None:
    other, _ = bone(1)
    fixed, _ = bone()
    doubted(verdict_of(fixed=other), "another bone")
    # The same cortex around other trabeculae: only blocks inside the mask can tell.
    array = np.where(fixed.mask, other.density.array, fixed.density.array)
    doubted(verdict_of(fixed=replace(fixed, density=fixed.density.with_array(array))), "another bone")


def test_a_mirror_image_is_noticed() -> None:
    fixed, _ = bone()
    mirror = fixed.density.with_array(fixed.density.array[:, :, ::-1])
    doubted(verdict_of(fixed=Fixed(mirror, fixed.mask[:, :, ::-1].copy(), {})), "mirror")


@pytest.mark.parametrize("percent", [-0.9, 1.0])
def test_a_wrong_spacing_is_noticed(percent: float) -> None:
    doubted(verdict_of(stretch_percent=percent), f"stretched by {percent:+.2f} %")


def test_half_a_bone_is_noticed() -> None:
    moving = scan(POSE)
    grid = replace(moving.grid, size=(32, *moving.grid.size[1:]))
    verdict = verdict_of(moving=Volume(moving.array[:32], grid, "HU"))
    doubted(verdict, "covers")
    assert 0.2 < verdict.overlap < 0.8


def test_no_overlap_at_all_is_judged_too() -> None:
    verdict = verdict_of(Rigid(offset_mm=(1e3, 0.0, 0.0)))
    doubted(verdict, "covers 0.0%")
    assert verdict.as_dict()["local_shift_mm"] is None
    json.dumps(verdict.as_dict(), allow_nan=False)


def test_starts_that_end_apart_and_a_poor_metric_are_doubts() -> None:
    doubted(verdict_of(second=POSE.after(Rigid(offset_mm=(0.2, 0.0, 0.0)))), "two starts ended 0.2 mm")
    doubted(verdict_of(second=POSE.after(pose((0.0, 0.0, 2.0), (0.0, 0.0, 0.0)))), "2 degrees apart")
    doubted(verdict_of(metric=0.01), "mutual information 0.01")


def test_blocks_find_what_was_shifted_by_whole_voxels() -> None:
    fixed, _ = bone()
    moved = np.roll(fixed.density.array, (1, -2, 3), (0, 1, 2))
    blocks = matched(fixed, moved)
    np.testing.assert_allclose(np.median(blocks.shifts_mm, axis=0), [0.34, -0.344, 0.516], atol=0.01)
    assert np.median(blocks.peaks) > 0.97


def test_a_mask_without_room_for_blocks_is_doubted() -> None:
    fixed, _ = bone()
    mask = np.zeros_like(fixed.mask)
    mask[24:27, 60:66, 60:66] = True
    doubted(verdict_of(fixed=replace(fixed, mask=mask)), "blocks of 6 mm")


def test_the_checkerboard_is_a_picture_that_shows_the_scan() -> None:
    pytest.importorskip("matplotlib")
    fixed, _ = bone()
    pictures = []
    for transform in (POSE, POSE, POSE.after(Rigid(offset_mm=(4.0, 0.0, 6.0)))):
        on_grid = resampled(scan(POSE), transform, fixed.density.grid)
        pictures.append(draw_checkerboard(fixed, on_grid, "A1, 360mAs-1", verdict_of(transform)))
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]
    assert len(mask_points(fixed)) > 100
