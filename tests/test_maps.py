"""Local maps against the oracle, and the promises around them: NaN, masks, threads, errors."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import oracles
from qctrun.runtime.errors import DeviceError, InputError, UsageError
from qctrun.runtime.measuring import local_maps
from qctrun.runtime.measuring.kernels.formulas import soft_positive
from qctrun.runtime.volume import Grid, Volume

PAPER = oracles.PAPER_SPACING_MM
NINE_THRESHOLDS = tuple(float(t) for t in range(125, 326, 25))


def volume_of(array, spacing_mm=PAPER, **more) -> Volume:
    return Volume(array, Grid(size=array.shape, spacing=spacing_mm), unit="mg/cm3", **more)


def bone_like(size, seed=0):
    """Marrow near 0 with noise, a fifth of the voxels bone of about 600 mg/cm3."""
    rng = np.random.default_rng(seed)
    bone = rng.random(size) < 0.2
    return (rng.normal(0, 120, size) + 600 * bone).astype(np.float32)


def size_around(spacing_mm, diameter_mm, room=(3, 4, 5)):
    """A volume in which `room` voxels have their whole sphere inside."""
    ball = oracles.sphere(spacing_mm, diameter_mm)
    return tuple(side - 1 + r for side, r in zip(ball.shape, room, strict=True))


def arrays(maps):
    return {key: volume.array for key, volume in maps.items()}


def assert_agrees(array, spacing_mm, thresholds, diameter_mm, **options):
    got = local_maps(volume_of(array, spacing_mm), thresholds, diameter_mm, threads=2, **options)
    want = oracles.local_maps(array, spacing_mm, thresholds, diameter_mm, **options)
    oracles.assert_maps_agree(arrays(got), want)


def assert_same_bits(one, other):
    assert set(one) == set(other)
    for key in one:
        np.testing.assert_array_equal(one[key].array, other[key].array, err_msg=str(key), strict=True)


# Against the oracle


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
@pytest.mark.parametrize(
    ("spacing_mm", "diameter_mm"),
    [
        (PAPER, 0.516),
        (PAPER, 1.548),
        (PAPER, 2.924),
        (PAPER, 4.3),
        ((0.172, 0.34, 0.172), 4.3),
        ((0.172, 0.172, 0.34), 2.924),
        ((0.3, 0.3, 0.3), 4.3),
        ((0.25, 0.25, 0.6), 4.3),
        ((0.6, 0.25, 0.25), 4.3),
        ((1.0, 0.7, 0.7), 10.0),
        ((0.5, 0.31, 0.44), 3.7),
    ],
)
def test_maps_agree_with_the_oracle(spacing_mm, diameter_mm, step):
    array = bone_like(size_around(spacing_mm, diameter_mm))
    assert_agrees(array, spacing_mm, (200.0, 225.0), diameter_mm, step=step)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_several_thresholds_in_one_pass(count):
    array = bone_like(size_around(PAPER, 2.924), seed=count)
    assert_agrees(array, PAPER, NINE_THRESHOLDS[:count], 2.924)


def test_more_voxels_than_one_tile():
    array = bone_like((9, 75, 140), seed=3)
    assert_agrees(array, PAPER, (225.0,), 1.548)


def test_thresholds_in_any_order():
    array = bone_like(size_around(PAPER, 1.548), seed=4)
    assert_agrees(array, PAPER, (225, 200.5, 250), 1.548)


def test_hundreds_of_voxels_at_the_thresholds():
    """Densities in steps of 25, so that a good part of them lies exactly on a threshold."""
    array = 25 * np.round(bone_like(size_around(PAPER, 2.924)) / 25)
    assert_agrees(array, PAPER, (200.0, 225.0), 2.924, step="hard")


@pytest.mark.parametrize("mean_mg_cm3", [-900, 200, 1700, 3000])
def test_small_deviations_survive_a_large_mean(mean_mg_cm3):
    rng = np.random.default_rng(5)
    array = rng.normal(mean_mg_cm3, 8, size_around(PAPER, 4.3)).astype(np.float32)
    assert_agrees(array, PAPER, (200.0, 1700.0), 4.3)


def test_small_deviations_survive_steep_edges_elsewhere():
    """Air at -1000 and metal at 3000 in the same rows must not cost the quiet part its digits."""
    rng = np.random.default_rng(6)
    array = rng.normal(1700, 8, size_around(PAPER, 2.924, room=(3, 4, 60))).astype(np.float32)
    array[..., 40:] = -1000
    array[..., 60:] = 3000
    assert_agrees(array, PAPER, (225.0,), 2.924)


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
@pytest.mark.parametrize(("bone_mg_cm3", "marrow_mg_cm3"), [(412.34567, 3.14159), (3000, 58.6)])
def test_tmd_holds_where_bone_is_rare(bone_mg_cm3, marrow_mg_cm3, step):
    """Just over 1 % bone: whatever is lost per voxel is multiplied by a hundred.

    The fuzzy step of 58.6 mg/cm3 is 6e-8: small enough to be lost, the same in all the marrow, and of weight where
    the bone is as dense as metal.
    """
    size = size_around(PAPER, 4.3)
    is_bone = np.random.default_rng(7).random(size) < 0.0125
    array = np.where(is_bone, bone_mg_cm3, marrow_mg_cm3).astype(np.float32)
    assert_agrees(array, PAPER, (225.0,), 4.3, step=step)


extremes = pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda rng, size: np.full(size, 30000.0), id="all 30000"),
        pytest.param(lambda rng, size: np.full(size, -30000.0), id="all -30000"),
        pytest.param(lambda rng, size: rng.choice([-30000.0, 30000.0], size), id="both"),
        pytest.param(lambda rng, size: rng.normal(1700, 8, size), id="bone cement"),
    ],
)


@extremes
def test_the_largest_sphere_does_not_overflow(draw):
    """A sphere of 10 mm on 0.2 mm voxels holds 65267 of them, and 1961 in its largest disc."""
    spacing_mm = (0.2, 0.2, 0.2)
    array = draw(np.random.default_rng(8), size_around(spacing_mm, 10.0, room=(2, 2, 3))).astype(np.float32)
    assert_agrees(array, spacing_mm, (225.0,), 10.0)


@extremes
def test_half_a_million_voxels_in_one_sphere(draw):
    """10 mm on 0.1 mm voxels, where one sphere fits: its maps are plain statistics of the voxels in it."""
    spacing_mm = (0.1, 0.1, 0.1)
    ball = oracles.sphere(spacing_mm, 10.0)
    array = draw(np.random.default_rng(9), ball.shape).astype(np.float32)
    maps = local_maps(volume_of(array, spacing_mm), (225.0,), 10.0, threads=2)
    inside = array[ball].astype(np.float64)
    bone = oracles.soft_step(inside - 225)
    got = {key: float(volume.array[50, 50, 50]) for key, volume in maps.items()}
    assert got["BMD"] == pytest.approx(inside.mean(), abs=0.05)
    assert got["SD"] == pytest.approx(inside.std(ddof=1), abs=0.05)
    assert got["BVTV", 225.0] == pytest.approx(bone.mean(), abs=1e-5)
    tmd = (bone * inside).mean() / oracles.plus_e(bone.mean())
    assert got["TMD", 225.0] == pytest.approx(tmd, abs=0.05)


# Steps


def test_a_voxel_at_the_threshold_is_bone():
    size = size_around(PAPER, 1.548)
    at, below = np.full(size, 200, np.float32), np.full(size, np.nextafter(np.float32(200), np.float32(0)))
    middle = tuple(n // 2 for n in size)
    maps = local_maps(volume_of(at), (200.0,), 1.548, step="hard")
    assert maps["BVTV", 200.0].array[middle] == 1
    assert maps["TMD", 200.0].array[middle] == pytest.approx(200, abs=0.05)
    maps = local_maps(volume_of(below), (200.0,), 1.548, step="hard")
    assert maps["BVTV", 200.0].array[middle] == 0
    assert maps["TMD", 200.0].array[middle] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("excess_mg_cm3", "bvtv"),
    # 1 / (1 + exp(-x)) for x = 0, 1, -1, 2 and far outside.
    [(0, 0.5), (10, 0.731059), (-10, 0.268941), (20, 0.880797), (9000, 1.0), (-9000, 0.0)],
)
def test_the_fuzzy_step_is_ten_mg_cm3_wide(excess_mg_cm3, bvtv):
    array = np.full(size_around(PAPER, 1.548), 225 + excess_mg_cm3, np.float32)
    middle = tuple(n // 2 for n in array.shape)
    assert oracles.soft_step(excess_mg_cm3) == pytest.approx(bvtv, abs=1e-6)
    assert local_maps(volume_of(array), (225.0,), 1.548)["BVTV", 225.0].array[middle] == pytest.approx(
        bvtv, abs=1e-5
    )


@pytest.mark.parametrize(("multiple", "plus"), [(0.0, 1.313), (3.5, 3.579)])
def test_the_soft_positive_part_at_the_papers_points(multiple, plus):
    assert oracles.plus_e(multiple * 1e-4) == pytest.approx(plus * 1e-4, abs=5e-8)
    assert soft_positive(multiple * 1e-4) == pytest.approx(plus * 1e-4, abs=5e-8)


def test_the_soft_positive_part_is_nothing_but_a_floor():
    fractions = np.linspace(0, 1, 1001)
    assert (oracles.plus_e(fractions) >= 1e-4).all()
    np.testing.assert_allclose(oracles.plus_e(fractions[2:]), fractions[2:], rtol=1e-3)
    np.testing.assert_allclose([soft_positive(x) for x in fractions], oracles.plus_e(fractions), rtol=1e-12)


def test_tmd_divides_by_the_soft_positive_part():
    """One bone voxel of 1000 mg/cm3 in a sphere of n = 4125: x = 1/n = 2.424e, so TMD = 1000 x / plus_e(x).

    plus_e(2.424e) = e ln(1 + exp(1.424)) + e = 2.640e: the map says 918.3, where a plain quotient says 1000
    and a quotient by max(x, e) as well.
    """
    array = np.zeros(size_around(PAPER, 4.3, room=(1, 1, 1)), np.float32)
    middle = tuple(n // 2 for n in array.shape)
    array[middle] = 1000
    tmd = local_maps(volume_of(array), (225.0,), 4.3, step="hard")["TMD", 225.0].array[middle]
    assert tmd == pytest.approx(918.3, abs=0.2)


def test_tmd_tends_to_zero_without_bone():
    array = np.full(size_around(PAPER, 1.548), 25, np.float32)
    middle = tuple(n // 2 for n in array.shape)
    for step in ("fuzzy", "hard"):
        tmd = local_maps(volume_of(array), (225.0,), 1.548, step=step)["TMD", 225.0].array[middle]
        assert tmd == pytest.approx(0, abs=1e-3)


# Where there is a value, and what comes back


def test_values_exactly_where_the_whole_sphere_is_inside():
    array = bone_like((9, 17, 21))
    known = np.zeros(array.shape, bool)
    known[2:-2, 4:-4, 4:-4] = True
    for volume in local_maps(volume_of(array), (200.0, 225.0), 1.548).values():
        np.testing.assert_array_equal(np.isfinite(volume.array), known)


def test_a_volume_as_large_as_the_sphere_has_one_value():
    array = bone_like((13, 25, 25))
    for volume in local_maps(volume_of(array), (225.0,)).values():
        assert np.argwhere(np.isfinite(volume.array)).tolist() == [[6, 12, 12]]


@pytest.mark.parametrize("size", [(4, 30, 30), (30, 8, 30), (30, 30, 8), (1, 1, 1)])
def test_a_volume_smaller_than_the_sphere_has_no_values(size):
    for volume in local_maps(volume_of(bone_like(size)), (225.0,), 1.548).values():
        assert np.isnan(volume.array).all()


def test_the_maps_lie_on_the_volumes_grid_and_say_their_units():
    grid = Grid(
        size=(7, 12, 13), spacing=PAPER, origin=(-10.0, 20.0, 30.5), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    )
    provenance = {"stem": "case", "warnings": ["a nominal line"]}
    volume = Volume(bone_like(grid.size), grid, unit="mg/cm3", material="HA", provenance=provenance)
    before = volume.array.copy()
    maps = local_maps(volume, (200, 225.5), 1.548)
    assert set(maps) == {"BMD", "SD", ("BVTV", 200), ("TMD", 200), ("BVTV", 225.5), ("TMD", 225.5)}
    for key, result in maps.items():
        assert result.grid == grid
        assert result.array.dtype == np.float32
        assert result.unit == ("1" if key[0] == "BVTV" else "mg/cm3")
        assert result.material == "HA"
        assert "a nominal line" in result.warnings
    np.testing.assert_array_equal(volume.array, before)


def test_the_defaults_are_the_papers():
    array = bone_like(size_around(PAPER, 4.3))
    named = local_maps(volume_of(array), (225.0,), diameter_mm=4.3, step="fuzzy")
    assert_same_bits(local_maps(volume_of(array), (225.0,)), named)


def test_an_array_that_must_not_be_written_to_is_measured():
    array = bone_like((7, 12, 13))
    expected = local_maps(volume_of(array), (225.0,), 1.548)
    array = array.copy()
    array.flags.writeable = False
    assert_same_bits(local_maps(volume_of(array), (225.0,), 1.548), expected)


def test_progress_counts_up_to_its_total():
    calls = []
    local_maps(volume_of(bone_like((9, 30, 30))), (225.0,), 1.548, progress=lambda *call: calls.append(call))
    done, totals = zip(*calls, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]


# Masks


def blobs(size, seed=9):
    """A mask of scattered voxels and a box that reaches the border."""
    mask = np.random.default_rng(seed).random(size) < 0.03
    mask[: size[0] - 1, 3 : size[1] - 3, 4:] = True
    return mask


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_a_mask_selects_centres_and_does_not_clip_spheres(step):
    array = bone_like((11, 24, 27))
    mask = blobs(array.shape)
    whole = local_maps(volume_of(array), (200.0, 225.0), 1.548, step=step)
    masked = local_maps(volume_of(array), (200.0, 225.0), 1.548, step=step, mask=mask)
    assert_same_bits(masked, {k: v.with_array(np.where(mask, v.array, np.nan)) for k, v in whole.items()})
    assert_agrees(array, PAPER, (200.0, 225.0), 1.548, step=step, mask=mask)


def test_inside_keeps_only_spheres_that_lie_in_the_mask():
    array = bone_like((11, 24, 27))
    mask = blobs(array.shape)
    mask[5, 12, 12] = False
    whole = local_maps(volume_of(array), (225.0,), 1.548)
    kept = local_maps(volume_of(array), (225.0,), 1.548, mask=mask, inside=True)
    assert_agrees(array, PAPER, (225.0,), 1.548, mask=mask, inside=True)
    for key, result in kept.items():
        known = np.isfinite(result.array)
        assert 0 < known.sum() < np.isfinite(whole[key].array).sum()
        np.testing.assert_array_equal(result.array[known], whole[key].array[known])


def test_inside_agrees_for_a_large_sphere():
    array = bone_like(size_around(PAPER, 4.3))
    mask = np.ones(array.shape, bool)
    mask[0, 14, 14] = False
    assert_agrees(array, PAPER, (225.0,), 4.3, mask=mask, inside=True)


def test_a_full_mask_changes_nothing():
    array = bone_like((9, 17, 21))
    whole = local_maps(volume_of(array), (225.0,), 1.548)
    everywhere = np.ones(array.shape, bool)
    assert_same_bits(local_maps(volume_of(array), (225.0,), 1.548, mask=everywhere), whole)
    assert_same_bits(local_maps(volume_of(array), (225.0,), 1.548, mask=everywhere, inside=True), whole)


@pytest.mark.parametrize("voxel", [(4, 8, 10), (2, 4, 4), (6, 12, 16), (0, 0, 0)])
def test_a_mask_of_one_voxel(voxel):
    array = bone_like((9, 17, 21))
    mask = np.zeros(array.shape, bool)
    mask[voxel] = True
    whole = local_maps(volume_of(array), (225.0,), 1.548)
    masked = local_maps(volume_of(array), (225.0,), 1.548, mask=mask)
    assert_same_bits(masked, {k: v.with_array(np.where(mask, v.array, np.nan)) for k, v in whole.items()})


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_what_lies_far_from_the_mask_does_not_show(step):
    array = bone_like((20, 40, 90))
    array[10:], array[:, 20:], array[..., 50:] = 30000, -30000, 3000
    mask = np.zeros(array.shape, bool)
    mask[3:6, 6:15, 6:42] = True
    whole = local_maps(volume_of(array), (200.0, 225.0), 1.548, step=step)
    masked = local_maps(volume_of(array), (200.0, 225.0), 1.548, step=step, mask=mask)
    assert_same_bits(masked, {k: v.with_array(np.where(mask, v.array, np.nan)) for k, v in whole.items()})
    assert_agrees(array, PAPER, (225.0,), 1.548, step=step, mask=mask)


# The same bits, however the work is divided


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_the_number_of_threads_does_not_show(step):
    volume = volume_of(bone_like((30, 50, 70)))
    one = local_maps(volume, (200.0, 225.0), 2.924, step=step, threads=1)
    assert_same_bits(local_maps(volume, (200.0, 225.0), 2.924, step=step, threads=2), one)
    assert_same_bits(local_maps(volume, (200.0, 225.0), 2.924, step=step), one)


def test_two_callers_at_once_get_what_each_gets_alone():
    volumes = [volume_of(bone_like((20, 50, 60), seed)) for seed in range(6)]

    def measure(volume):
        return local_maps(volume, (200.0, 225.0), 2.924, threads=2)

    alone = [measure(volume) for volume in volumes]
    with ThreadPoolExecutor(max_workers=2) as pool:
        together = list(pool.map(measure, volumes))
    for one, other in zip(alone, together, strict=True):
        assert_same_bits(one, other)


# What is refused


def test_hounsfield_units_are_refused():
    array = bone_like((9, 17, 21))
    with pytest.raises(InputError, match="HU"):
        local_maps(Volume(array, Grid(size=array.shape, spacing=PAPER), unit="HU"), (200.0,), 1.548)


@pytest.mark.parametrize(
    "thresholds",
    [(), (-200.0,), (200.0, -1.0), (float("nan"),), (float("inf"),), (200.0, 200.0), (200, 225, 200.0)],
    ids=str,
)
def test_senseless_thresholds_are_refused(thresholds):
    with pytest.raises(UsageError, match="threshold"):
        local_maps(volume_of(bone_like((9, 17, 21))), thresholds, 1.548)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_volume_that_is_not_finite_is_refused(bad):
    array = bone_like((9, 17, 21))
    array[1, 2, 3] = bad
    with pytest.raises(InputError, match=r"\(1, 2, 3\)"):
        local_maps(volume_of(array), (200.0,), 1.548)


def test_a_mask_of_another_shape_is_refused():
    array = bone_like((9, 17, 21))
    with pytest.raises(InputError, match="mask"):
        local_maps(volume_of(array), (200.0,), 1.548, mask=np.ones((9, 17, 20), bool))


def test_an_empty_mask_is_refused():
    array = bone_like((9, 17, 21))
    with pytest.raises(InputError, match="mask"):
        local_maps(volume_of(array), (200.0,), 1.548, mask=np.zeros(array.shape, bool))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_a_mask_of_whole_numbers_is_where_they_are_not_0(kind, inside):
    array = bone_like((9, 17, 21))
    mask = np.zeros(array.shape, bool)
    mask[:, 3:-3, 2:-2] = True
    numbers = np.where(mask, 2, 0).astype(kind)
    found = local_maps(volume_of(array), (200.0,), 1.548, mask=numbers, inside=inside)
    wanted = local_maps(volume_of(array), (200.0,), 1.548, mask=mask, inside=inside)
    assert np.isfinite(wanted["BMD"].array).any()
    for key, volume in wanted.items():
        np.testing.assert_array_equal(found[key].array, volume.array)


def test_a_mask_of_fractions_is_refused():
    array = bone_like((9, 17, 21))
    with pytest.raises(InputError, match="mask: wanted bool or whole numbers, got an array of float64"):
        local_maps(volume_of(array), (200.0,), 1.548, mask=np.ones(array.shape))


def test_the_maps_say_which_device_made_them():
    for device in ("auto", "cpu"):
        maps = local_maps(volume_of(bone_like((9, 17, 21))), (200.0,), 1.548, device=device)
        assert {volume.provenance["map"]["device"] for volume in maps.values()} == {"cpu"}


def test_inside_needs_a_mask_to_be_inside_of():
    with pytest.raises(UsageError, match="mask"):
        local_maps(volume_of(bone_like((9, 17, 21))), (200.0,), 1.548, inside=True)


def test_an_unknown_step_is_refused():
    with pytest.raises(UsageError, match="step"):
        local_maps(volume_of(bone_like((9, 17, 21))), (200.0,), 1.548, step="smooth")


def test_an_unknown_device_is_refused():
    with pytest.raises(UsageError, match="device"):
        local_maps(volume_of(bone_like((9, 17, 21))), (200.0,), 1.548, device="toaster")


@pytest.mark.parametrize("threads", [0, -1])
def test_a_senseless_number_of_threads_is_refused(threads):
    with pytest.raises(UsageError, match="threads"):
        local_maps(volume_of(bone_like((9, 17, 21))), (200.0,), 1.548, threads=threads)


def test_cuda_without_a_gpu_is_an_error_and_no_quiet_cpu_run(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceError) as caught:
        local_maps(volume_of(bone_like((9, 17, 21))), (200.0,), 1.548, device="cuda")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threads": 1.5}, r"threads: wanted a whole number of at least 1, got 1\.5"),
        ({"threads": True}, "threads"),
        ({"device": "cpu:xyz"}, "device: wanted auto, cpu, cuda or cuda:N, got 'cpu:xyz'"),
        ({"device": None}, "device"),
        ({"thresholds": "225"}, r"thresholds: wanted .*mg/cm3 like \(200, 225\), got '225'"),
        ({"thresholds": 225}, "got 225"),
    ],
)
def test_words_without_sense_are_refused(options, match):
    with pytest.raises(UsageError, match=match):
        local_maps(volume_of(bone_like((9, 9, 9))), **{"thresholds": (225,), "diameter_mm": 1.0, **options})


@pytest.mark.parametrize(
    ("made", "diameter_mm", "warned"),
    [
        ({"outside": "raw", "margin_mm": 0.5}, 1.2, True),
        ({"outside": "raw", "margin_mm": 0.5}, 1.0, False),
        ({"margin_mm": 0.5}, 1.2, False),
        ({"outside": "raw"}, 1.2, False),
        ({"margin_mm": None}, 1.2, False),
        (None, 1.2, False),
    ],
)
def test_spheres_that_reach_beyond_what_was_filtered_are_told(made, diameter_mm, warned):
    volume = volume_of(bone_like((9, 12, 12)), provenance={"filter": made})
    warnings = local_maps(volume, (225,), diameter_mm)["BMD"].warnings
    assert [text.startswith("spheres of 1.2 mm mix filtered with raw voxels") for text in warnings] == [
        True
    ] * warned


@pytest.mark.parametrize(
    ("masked", "inside", "words"),
    [
        (True, False, "no sphere of 1 mm with its centre in the mask lies wholly in the volume"),
        (True, True, "no sphere of 1 mm lies wholly in the mask"),
    ],
)
def test_empty_maps_say_whose_fault_it_is(masked, inside, words):
    array = bone_like((9, 12, 12))
    mask = np.zeros(array.shape, bool)
    mask[0, 0, 0] = masked
    (warning,) = local_maps(volume_of(array), (225,), 1.0, mask=mask, inside=inside)["BMD"].warnings
    assert words in warning
