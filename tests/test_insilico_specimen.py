"""The simulated vertebral body, its HR-pQCT scan, and what is drawn for a study before anything is simulated."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.json_files import json_text
from qctrun.runtime.resampling import Line, resampled, weights
from qctrun.train.insilico import PAPER_SPACING_MM
from qctrun.train.insilico.bone import FINE_SPACING_MM, Character
from qctrun.train.insilico.hrpqct import HRPQCT_SPACING_MM, hrpqct_noise, hrpqct_signal, hrpqct_size
from qctrun.train.insilico.lab_plan import LabStudy, planned, read_truth, scan_grid, truth_of
from qctrun.train.insilico.phantom import spongiosa
from qctrun.train.insilico.scanner import BINNING, reference
from qctrun.train.insilico.specimen import Body, fine_tissue, rows

SIZE_MM = (30.0, 40.0, 40.0)
COARSE_MM = (0.5, 0.5, 0.5)
COARSE = (60, 80, 80)


def body(seed=0, size_mm=SIZE_MM):
    return Body.draw(size_mm, np.random.default_rng(seed))


# The body


@pytest.mark.parametrize("seed", range(6))
def test_bone_lies_in_its_box_and_fills_it(seed):
    bone = body(seed).mask(COARSE, COARSE_MM, -0.9)
    faces = [np.take(bone, edge, axis) for axis in range(3) for edge in (0, -1)]
    assert not any(face.any() for face in faces)
    assert bone.mean() > 0.5
    low, high = np.argwhere(bone).min(0), np.argwhere(bone).max(0)
    assert ((high - low + 1) * 0.5 > (26, 33, 33)).all()


@pytest.mark.parametrize("seed", range(3))
def test_no_turn_and_no_mirror_makes_it_fit_itself(seed):
    """Each other place leaves several percent of the bone uncovered, far more than noise could hide."""
    bone = body(seed).mask(COARSE, COARSE_MM, -0.9)
    for degrees in (10, 45, 90, 120, 180, 270):
        turned = ndimage.rotate(bone.astype(np.float32), degrees, (1, 2), reshape=False, order=1) > 0.5
        assert (turned ^ bone).sum() / bone.sum() > 0.025, degrees
    for axes in ((0, 1), (0, 2)):
        assert (np.flip(bone, axes) ^ bone).sum() / bone.sum() > 0.025, axes


def test_depth_is_the_distance_from_the_surface():
    """Never more than the distance, which the masks and the cortex go by, and little less."""
    shape = body(1)
    depth = shape.depth(*rows(COARSE, COARSE_MM))
    distance = ndimage.distance_transform_edt(depth > 0, sampling=COARSE_MM)
    inner = depth > 1
    assert (depth[inner] <= distance[inner] + 0.5).all()
    assert np.median(depth[inner] / distance[inner]) > 0.85


def test_cortex_and_medium_of_the_tissue():
    size_mm = (16.0, 20.0, 20.0)
    shape = body(2, size_mm)
    tissue = fine_tissue(shape, Character(), size_mm, np.random.default_rng(0))
    z, y, x = rows(tissue.shape, FINE_SPACING_MM)
    depth = np.concatenate([shape.depth(z[i : i + 1], y, x) for i in range(len(z))])
    np.testing.assert_allclose(tissue[depth < -1.0], 32, atol=1e-3)
    np.testing.assert_allclose(tissue[(depth > -0.8) & (depth < -0.1)], 900, atol=1e-3)
    core = tissue[depth > 0.1]
    assert 80 < core.mean() < 170
    assert core.max() <= 1060 + 1e-3
    # At its faces it goes on as on the other side.
    assert all(np.ptp(np.take(tissue, edge, axis)) < 1e-3 for axis in range(3) for edge in (0, -1))


# HR-pQCT


def test_hrpqct_averages_to_the_truth_of_the_paper():
    """Its voxels averaged onto the paper's grid are what the simulator's reference gives there.

    That one takes for an average the mean of 4 x 2 x 2 samples, which passes a little more of the finest waves.
    """
    tissue = spongiosa((192, 168, 168), Character(), np.random.default_rng(1))
    z, y, x = (np.array(tissue.shape) * FINE_SPACING_MM).tolist()
    scan = hrpqct_signal(tissue, (z, y, x))
    size = tuple(n // b for n, b in zip(tissue.shape, BINNING, strict=True))
    lines = [
        weights(Line(-(m - 1) / 2 * step, step, m), Line(-(n - 1) / 2 * wide, wide, n))
        for m, step, n, wide in zip(scan.shape, HRPQCT_SPACING_MM, size, PAPER_SPACING_MM, strict=True)
    ]
    found, want = resampled(scan, (lines[0], lines[1], lines[2])), reference(tissue, 0.09)
    inner = (slice(3, -3),) * 3
    assert want[inner].std() > 80
    assert (found - want)[inner].std() < 0.03 * want[inner].std()
    assert (found - want)[inner].mean() == pytest.approx(0, abs=0.3)


def test_hrpqct_noise():
    noise = hrpqct_noise((60, 80, 80), np.random.default_rng(2)).astype(float)
    assert noise.std() == pytest.approx(18, rel=1e-3)
    for axis in range(3):
        neighbours = np.mean(noise * np.roll(noise, 1, axis)) / np.mean(noise**2)
        assert neighbours == pytest.approx(np.exp(-((0.082 / 0.12) ** 2)), abs=0.02)


def test_hrpqct_of_the_whole_box():
    assert hrpqct_size(SIZE_MM) == (366, 488, 488)


# The plan


def test_a_scan_is_the_same_whatever_else_is_asked_for():
    few, many = LabStudy(7, 2, currents_mas=(100.0,), repetitions=1), LabStudy(7)
    assert planned(few)[1].scans[0] == planned(many)[1].scans[0]
    assert planned(few)[1].place == planned(many)[1].place
    assert planned(replace(many, seed=8))[1].scans[0].pose != planned(many)[1].scans[0].pose


def test_poses_and_lines_are_those_of_a_lab():
    """Up to 10 mm and 10 degrees, no two alike, no common origin; a line about 0.8 HU + 0."""
    specimens = [each for seed in range(20) for each in planned(LabStudy(seed))]
    scans = [(each, scan) for each in specimens for scan in each.scans]
    assert len(scans) == 900
    angles = np.array([scan.pose.angle_deg for _, scan in scans])
    assert angles.max() <= 10
    assert np.quantile(angles, [0.1, 0.5, 0.9]) == pytest.approx([1, 5, 9], abs=0.7)
    middles = np.array([scan.pose.points([each.place.offset_mm])[0] for each, scan in scans])
    shifts = np.linalg.norm(middles - [scan.centre_mm for _, scan in scans], axis=1)
    assert shifts.max() <= 10
    assert np.median(shifts) == pytest.approx(5, abs=0.7)
    offsets = np.linalg.norm(middles - [each.place.offset_mm for each, _ in scans], axis=1)
    assert np.median(offsets) > 50
    slopes, intercepts = np.array([(scan.slope, scan.intercept) for _, scan in scans]).T
    assert slopes.mean() == pytest.approx(0.8, rel=0.005)
    assert slopes.std() == pytest.approx(0.024, rel=0.1)
    assert abs(intercepts.mean()) < 0.5
    assert intercepts.std() == pytest.approx(3, rel=0.1)
    assert len({scan.seed for _, scan in scans}) == 900


def test_field_of_view_holds_the_bone_in_every_pose():
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * 3, indexing="ij")).reshape(3, -1).T
    for seed in range(20):
        study = LabStudy(seed)
        for each in planned(study):
            shape = Body.draw(study.size_mm, np.random.default_rng(seed))
            z, y, x = rows(COARSE, COARSE_MM)
            bone = np.argwhere(shape.depth(z, y, x) > -1.2)[::50, ::-1]
            places = np.stack([axis[i] for axis, i in zip((x, y, z), bone.T, strict=True)], -1)
            for scan in each.scans[:3]:
                grid = scan_grid(study, scan)
                ends = np.array([grid.world(tuple(corner * (np.array(grid.size) - 1))) for corner in corners])
                there = scan.pose.after(each.place).points(places)
                assert (there > ends.min(0)).all()
                assert (there < ends.max(0)).all()


def test_truth_is_read_back(tmp_path):
    study = LabStudy(3, 2, currents_mas=(100.0, 360.0), repetitions=2)
    path = tmp_path / "truth.json"
    path.write_text(json_text(truth_of(study, planned(study))))
    assert read_truth(tmp_path) == (study, planned(study))
    path.write_text(path.read_text().replace('"slope": 0.', '"slope": 1.', 1))
    with pytest.raises(InputError, match="do not follow"):
        read_truth(tmp_path)
    path.write_text(path.read_text().replace('"repetitions": 2', '"repetitions": 0'))
    with pytest.raises(InputError, match="repetitions"):
        read_truth(tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"specimens": 6}, "specimens"),
        ({"size_mm": (10, 40, 40)}, "size"),
        ({"size_mm": (30, 40, 400)}, "size"),
        ({"spacing_mm": (0.4, 0.05, 0.05)}, "spacing"),
        ({"currents_mas": ()}, "currents"),
        ({"currents_mas": (0.5,)}, "currents"),
        ({"currents_mas": (100.0, 100.00001)}, "each once"),
        ({"repetitions": 0}, "repetitions"),
    ],
    ids=str,
)
def test_studies_that_make_no_sense(options, named):
    with pytest.raises(UsageError, match=named):
        LabStudy(**options)
