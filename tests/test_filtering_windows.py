"""Windows against one piece, and what a mask leaves out."""

import filtering_models as models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qctrun.runtime.filtering import windows
from qctrun.runtime.filtering.session import Session
from qctrun.runtime.filtering.windows import bounding_box, grow, plan, plan_alike, plan_needed

HALO = (4, 8, 8)
sizes = st.tuples(*[st.integers(1, 60)] * 3)
halos = st.tuples(*[st.integers(0, 9)] * 3)


@pytest.fixture(scope="module")
def session():
    """Only what a window keeps is computed."""
    found = Session(models.loaded(models.nnsp()), "cpu", threads=2, backend="onnxruntime")
    assert found.slicewise
    return found


def noise(size, seed=0):
    return np.random.default_rng(seed).normal(200, 200, size).astype(np.float32)


def run(session, volume, plan):
    result = np.full_like(volume, np.nan)
    for window in plan:
        result[window.put] = session.run(volume[window.take], window.keep)
    return result


def assert_same(found, wanted):
    assert np.max(np.abs(found - wanted)) <= 1e-5 * np.max(np.abs(wanted))


@settings(max_examples=15, deadline=None)
@given(sizes, st.integers(10_000, 60_000))
def test_windows_equal_one_piece(session, size, limit):
    volume = noise(size)
    assert_same(run(session, volume, plan(size, HALO, limit)), session.run(volume))


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        ((1, 1, 1), 1),
        ((1, 60, 1), 40),
        ((3, 5, 7), 1),
        ((4, 8, 8), 1),
        ((12, 20, 19), 1),
        ((30, 17, 18), 9 * 17 * 17),
        ((60, 20, 20), 11 * 19 * 19),
        ((8, 60, 60), 8 * 30 * 30),
    ],
)
def test_windows_equal_one_piece_at_the_edges(session, size, limit):
    volume = noise(size)
    assert_same(run(session, volume, plan(size, HALO, limit)), session.run(volume))


def test_too_small_a_halo_is_seen(session):
    """The comparison above would notice a halo that is one voxel short on any axis."""
    volume = noise((24, 40, 40))
    whole = session.run(volume)
    for halo in ((3, 8, 8), (4, 7, 8), (4, 8, 7)):
        found = run(session, volume, plan(volume.shape, halo, 12_000))
        assert np.max(np.abs(found - whole)) > 1e-5 * np.max(np.abs(whole))


def test_receptive_field(session):
    """One voxel reaches 9 x 17 x 17 voxels of the result, and none beyond."""
    volume = noise((15, 25, 27))
    touched = volume.copy()
    touched[7, 12, 13] += 3000
    changed = session.run(touched) != session.run(volume)
    box = bounding_box(changed)
    assert box == (slice(3, 12), slice(4, 21), slice(5, 22))


@settings(max_examples=40, deadline=None)
@given(sizes, halos, st.integers(1, 8))
def test_cover_once_with_whole_halo(size, halo, times):
    smallest = int(np.prod([2 * h + 2 for h in halo]))
    planned = plan(size, halo, limit=smallest * times)
    covered = np.zeros(size, int)
    for window in planned:
        covered[window.put] += 1
        for n, h, take, put, keep in zip(size, halo, window.take, window.put, window.keep, strict=True):
            assert take.start <= max(0, put.start - h) and take.stop >= min(n, put.stop + h)
            assert (keep.start + take.start, keep.stop + take.start) == (put.start, put.stop)
    assert (covered == 1).all()
    assert max(window.voxels for window in planned) <= smallest * times
    assert len({tuple(part.stop - part.start for part in window.take) for window in planned}) == 1


def test_limit_below_the_smallest_window():
    assert {window.voxels for window in plan((12, 20, 20), HALO, 1)} == {9 * 17 * 17}


@st.composite
def masks(draw):
    size = draw(sizes)
    mask = np.zeros(size, bool)
    for _ in range(draw(st.integers(1, 3))):
        first = [draw(st.integers(0, n - 1)) for n in size]
        mask[tuple(slice(f, f + draw(st.integers(1, 12))) for f in first)] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(5_000, 40_000), st.sampled_from([None, (2, 4, 4)]))
def test_masked_windows_equal_one_piece(session, need, limit, reach):
    volume = noise(need.shape)
    planned = plan_needed(need, HALO, limit, reach)
    found, wanted = run(session, volume, planned), session.run(volume)
    assert_same(found[need], wanted[need])
    assert max(window.voxels for window in planned) <= limit


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(5_000, 40_000), st.sampled_from([0, 40]))
def test_masked_windows_cover_once_and_are_tight(need, limit, price):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "SLICE_PRICE", price)
        found = plan_needed(need, HALO, limit)
    covered = np.zeros(need.shape, int)
    for window in found:
        covered[window.put] += 1
        assert bounding_box(need[window.put]) == tuple(slice(0, p.stop - p.start) for p in window.put)
    assert (covered[need] == 1).all() and covered.max() == 1


@settings(max_examples=20, deadline=None)
@given(masks(), st.integers(5_000, 40_000))
def test_windows_of_one_shape(session, need, limit):
    volume = noise(need.shape)
    found = plan_alike(need, HALO, limit)
    assert_same(run(session, volume, found)[need], session.run(volume)[need])
    assert len({tuple(part.stop - part.start for part in window.take) for window in found}) == 1


def steps(thick):
    """A stair of four steps along z and y, as wide and as high as a window need not be."""
    need = np.zeros((4 * thick, 160, 50), bool)
    for step in range(4):
        need[step * thick : (step + 1) * thick, 40 * step : 40 * step + 40, 9:41] = True
    return need


def test_a_stair_is_cut_into_its_steps_where_that_pays():
    deep = plan_needed(steps(40), HALO, 10**7, (2, 4, 4))
    assert sorted(window.put[:2] for window in deep) == [
        (slice(40 * step, 40 * step + 40), slice(40 * step, 40 * step + 40)) for step in range(4)
    ]
    # Opening graphs would take longer than the empty corners of a thin one.
    assert len(plan_needed(steps(1), HALO, 10**7, (2, 4, 4))) == 1


def test_what_is_not_kept_costs_less():
    """Cuts that do not pay where each window computes all of its halo, and do where it computes half."""
    need = steps(10)
    assert len(plan_needed(need, HALO, 10**7)) < len(plan_needed(need, HALO, 10**7, (2, 4, 4)))


def test_cost_follows_the_mask():
    need = np.zeros((60, 200, 200), bool)
    need[30, 100, 100] = True
    (window,) = plan_needed(need, HALO, 10**6)
    assert window.voxels == 9 * 17 * 17
    need[2, 5, 5] = True
    assert sum(window.voxels for window in plan_needed(need, HALO, 10**5)) < 0.05 * need.size


def test_nothing_needed():
    assert plan_needed(np.zeros((5, 5, 5), bool), HALO, 1000) == []
    assert plan_alike(np.zeros((5, 5, 5), bool), HALO, 1000) == []


@settings(deadline=None)
@given(masks(), st.tuples(*[st.integers(0, 30)] * 3))
def test_grow(mask, margin):
    wanted = np.zeros_like(mask)
    for voxel in np.argwhere(mask):
        wanted[tuple(slice(max(0, v - m), v + m + 1) for v, m in zip(voxel, margin, strict=True))] = True
    assert np.array_equal(grow(mask, margin), wanted)
