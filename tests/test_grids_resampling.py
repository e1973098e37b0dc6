"""From one row of voxels to another: splines, averages over wider voxels, and the model's grid around a scan."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from qctrun.runtime import Grid, Volume
from qctrun.runtime.errors import OutOfMemoryError
from qctrun.runtime.filtering import grids
from qctrun.runtime.filtering.grids import detour, model_grid, on_model_grid
from qctrun.runtime.resampling import Line, resampled, weights

MODEL_MM = (0.34, 0.172, 0.172)
OBLIQUE = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


def lines(spacing_mm, other_mm, count, count_other, off_mm=0.03):
    return Line(0.0, spacing_mm, count), Line(off_mm, other_mm, count_other)


def test_from_two_voxels_by_hand():
    """A straight line through both, and on beyond them; wider voxels take the line's mean, which is its middle."""
    np.testing.assert_allclose(
        weights(Line(0, 1, 2), Line(-0.5, 0.5, 4)), [[1.5, -0.5], [1, 0], [0.5, 0.5], [0, 1]], atol=1e-12
    )
    np.testing.assert_allclose(weights(Line(0, 1, 2), Line(0.5, 2, 1)), [[0.5, 0.5]], atol=1e-12)
    assert weights(Line(0, 1, 1), Line(-0.4, 0.2, 5)).tolist() == [[1.0]] * 5


def test_onto_itself_nothing_is_changed():
    assert np.array_equal(weights(Line(1.5, 0.3, 5), Line(1.5, 0.3, 5)), np.eye(5))
    np.testing.assert_allclose(weights(Line(0, 1, 20), Line(4, 1, 9)), np.eye(20)[4:13], atol=1e-12)


@pytest.mark.parametrize(("spacing_mm", "other_mm"), [(0.5, 0.172), (0.2, 0.172), (0.172, 0.5), (0.1, 0.34)])
def test_splines_of_simpleitk_and_means_of_dense_samples(spacing_mm, other_mm):
    """Well inside, where no way to go on beyond the ends can show."""
    values = np.random.default_rng(0).normal(0, 300, 60)
    wide = max(1.0, other_mm / spacing_mm)
    middle = np.arange(20, 40, 0.37)
    target = Line(middle[0] * spacing_mm, other_mm, int((middle[-1] - middle[0]) * spacing_mm / other_mm))
    got = weights(Line(0, spacing_mm, 60), target) @ values
    image = sitk.GetImageFromArray(np.tile(values, (8, 1)))
    offsets = ((np.arange(400) + 0.5) / 400 - 0.5) * wide if wide > 1 else np.zeros(1)
    coefficients = sitk.GetArrayFromImage(sitk.BSplineDecomposition(image, 3))[4]
    at = target.centres_mm[:, None] / spacing_mm + offsets
    near = np.floor(at).astype(int)[..., None] + np.arange(-1, 3)
    far = np.abs(at[..., None] - near)
    cubic = np.where(far < 1, 2 / 3 - far**2 + far**3 / 2, np.clip(2 - far, 0, None) ** 3 / 6)
    np.testing.assert_allclose(got, (cubic * coefficients[near]).sum(-1).mean(-1), atol=0.02)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 24)] * 3),
    spacing=st.tuples(*[st.floats(0.06, 1.2)] * 3),
    slopes=st.tuples(*[st.floats(-9, 9)] * 4),
)
def test_constant_and_affine_volumes_stay_what_they_are_up_to_the_faces(size, spacing, slopes):
    scan = Grid(size, spacing)
    way = detour(scan, MODEL_MM, (4, 8, 8), None)
    if way is None:
        return
    mm = np.meshgrid(*(np.arange(n) * s for n, s in zip(size, spacing, strict=True)), indexing="ij")
    single = [1 in pair for pair in zip(size, way.model.size, strict=True)]  # one voxel has no slope
    parts = [0.0 if one else slope for one, slope in zip(single, slopes, strict=False)]
    ramp = 100 * slopes[3] + sum(slope * place for slope, place in zip(parts, mm, strict=True))
    there = way.there(ramp.astype(np.float32))
    start = [model.start_mm for _, model in way.lines]
    far = np.meshgrid(
        *(o + np.arange(n) * s for o, n, s in zip(start, way.model.size, way.model.spacing, strict=True)),
        indexing="ij",
    )
    wanted = 100 * slopes[3] + sum(slope * place for slope, place in zip(parts, far, strict=True))
    close = {"rtol": 5e-6, "atol": 1e-3}  # what single precision leaves of some thousand mg/cm3
    np.testing.assert_allclose(there, wanted, **close)
    np.testing.assert_allclose(way.back(there), ramp, **close)


@pytest.mark.parametrize("spacing", [(0.6, 0.39, 0.39), (0.25, 0.25, 0.25), (0.7, 0.7, 0.7), (0.2, 0.1, 0.1)])
def test_the_mean_over_a_mask_is_kept(spacing):
    """Noise of a raw scan's strength: what goes there and comes back has the same BMD to 1 mg/cm3 in a ball."""
    size = tuple(int(18 / mm) for mm in spacing)
    scan = Grid(size, spacing)
    array = np.random.default_rng(1).normal(110, 300, size).astype(np.float32)
    way = detour(scan, MODEL_MM, (4, 8, 8), None)
    z, y, x = (np.linspace(-1, 1, n) for n in size)
    ball = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < 0.6
    back = way.back(way.there(array))
    assert abs(back[ball].mean(dtype=float) - array[ball].mean(dtype=float)) < 1.0


def test_the_model_s_grid_by_hand():
    """5 mm of 0.5 mm voxels are 29.07 of 0.172: 30, which reach 0.08 mm beyond either face; z stays as it is."""
    grid = model_grid(Grid((9, 10, 10), (0.34, 0.5, 0.5), (10, 20, 30)), MODEL_MM)
    assert (grid.size, grid.spacing) == ((9, 30, 30), MODEL_MM)
    first = -0.25 - (30 * 0.172 - 5) / 2 + 0.086
    np.testing.assert_allclose(grid.origin, (10 + first, 20 + first, 30))


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(*[st.integers(1, 60)] * 3), spacing=st.tuples(*[st.floats(0.05, 2)] * 3))
def test_both_grids_share_axes_and_middle_and_nothing_is_left_out(size, spacing):
    scan = Grid(size, spacing, (5, -6, 7), OBLIQUE)
    grid = model_grid(scan, MODEL_MM)
    assert grid.direction == scan.direction
    middles = [each.world(tuple((n - 1) / 2 for n in each.size)) for each in (scan, grid)]
    np.testing.assert_allclose(*middles, atol=1e-9)
    for n, s, m, t, wanted in zip(*(scan.size, scan.spacing, grid.size, grid.spacing, MODEL_MM), strict=True):
        assert abs(t / wanted - 1) <= 0.01
        assert -1e-5 * n * s <= m * t - n * s < t


def test_a_mirrored_scan_gives_the_mirrored_volume():
    array = np.random.default_rng(2).normal(0, 300, (9, 12, 13)).astype(np.float32)
    way = detour(Grid(array.shape, (0.6, 0.4, 0.3)), MODEL_MM, (4, 8, 8), None)
    mirrored = way.there(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    np.testing.assert_allclose(mirrored, way.there(array), atol=5e-3)


def test_a_scan_on_the_model_s_grid_is_not_resampled():
    scan = Grid((8, 9, 10), (0.342, 0.1715, 0.172))
    volume = Volume(np.ones(scan.size, np.float32), scan, "mg/cm3", "HA")
    assert detour(scan, MODEL_MM, (4, 8, 8), None) is None
    assert on_model_grid(volume, MODEL_MM) is volume


def test_on_the_model_s_grid_one_step_is_told():
    scan = Grid((8, 9, 10), (0.34, 0.4, 0.4))
    before = {"what": "gantry tilt of 3 deg mended"}
    volume = Volume(np.ones(scan.size, np.float32), scan, "HU", provenance={"resampling": [before]})
    there = on_model_grid(volume, MODEL_MM)
    assert (there.grid, there.unit) == (model_grid(scan, MODEL_MM), "HU")
    assert there.provenance["resampling"] == [
        before,
        {
            "what": "onto the model's grid",
            "interpolation": "cubic B-spline",
            "from_spacing_zyx_mm": [0.34, 0.4, 0.4],
            "to_spacing_zyx_mm": [0.34, 0.172, 0.172],
        },
    ]
    assert len(there.warnings) == 1 and "0.34 x 0.4 x 0.4 mm" in there.warnings[0]


def test_what_is_too_large_is_refused_before_it_is_made(monkeypatch):
    """512 x 512 x 128 voxels of 0.39 mm are 193 million; half a byte less than they take is too little."""
    scan = Grid((128, 512, 512), (0.39, 0.39, 0.39))
    way = detour(scan, MODEL_MM, (4, 8, 8), None)
    voxels = 147 * 1161 * 1161
    monkeypatch.setattr(grids, "_free_bytes", lambda: grids.BYTES * voxels - 1)
    with pytest.raises(OutOfMemoryError) as caught:
        way.there(np.broadcast_to(np.float32(0), scan.size))
    for words in ("128 x 512 x 512", "147 x 1161 x 1161 voxels", "MB free", "--mask", "--grid native"):
        assert words in str(caught.value)


def test_free_memory_is_read_or_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(grids, "_MEMINFO", tmp_path / "meminfo")
    assert grids._free_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  2048 kB\n")
    assert grids._free_bytes() == 2**21


def test_resampled_is_each_axis_in_turn():
    array = np.random.default_rng(3).normal(size=(3, 4, 5)).astype(np.float32)
    rows = tuple(np.random.default_rng(n).normal(size=(n + 2, n)) for n in array.shape)
    wanted = np.einsum("zyx,az,by,cx->abc", array, *rows)
    np.testing.assert_allclose(resampled(array, rows), wanted, atol=1e-5)
