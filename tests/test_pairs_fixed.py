"""The reference on the study's grid: where its voxels lie, what they hold, and which of them count."""

import json
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import rotation
from hypothesis import given, settings
from hypothesis import strategies as st

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.measuring.peel import peel
from qctrun.runtime.volume import Grid, Volume
from qctrun.train.pairs.choices import Specimen
from qctrun.train.pairs.fixed import fixed_volume, read_reference

SPACINGS = [(0.34, 0.172, 0.172), (0.3, 0.25, 0.2), (0.082, 0.082, 0.082), (0.05, 0.3, 0.082)]
FINE_MM = (0.082, 0.082, 0.082)
SIZE = (21, 24, 26)
TURNED = rotation(0.12, -0.1, 0.15)


def everywhere(size=SIZE):
    return np.ones(size, bool)


def density(array, grid=None):
    return Volume(array, grid or Grid(np.shape(array), FINE_MM), "mg/cm3", "HA")


def world_of(grid):
    """World points (x, y, z) of all voxels, (z, y, x, 3)."""
    steps = np.stack(np.indices(grid.size)[::-1], axis=-1) * grid.spacing[::-1]
    return steps @ np.reshape(grid.direction, (3, 3)).T + grid.origin


def slanted(grid):
    """A volume that is affine in the world: each voxel's value tells its place."""
    return density(100 + world_of(grid) @ [7.0, -3.0, 5.0], grid)


MIRRORED = Grid(SIZE, FINE_MM, direction=np.diag([-1.0, 1.0, 1.0]))

# Columns are the world directions of the image axes x, y, z.
ORDERS = {
    "upright": np.eye(3),
    "tilted": TURNED,
    "long axis last in memory": np.eye(3)[:, [2, 0, 1]],
    "long axis in the middle": np.eye(3)[:, [1, 2, 0]],
    "upside down": np.diag([-1.0, 1.0, -1.0]),
    "tilted, another order": TURNED @ np.eye(3)[:, [2, 1, 0]] @ np.diag([1.0, -1.0, 1.0]),
}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("axes", ORDERS.values(), ids=ORDERS)
def test_each_voxel_holds_what_lies_at_its_place(axes, spacing):
    """The mean of an affine field over a voxel is its value at the centre: values, places and axes in one."""
    grid = Grid(SIZE, (0.082, 0.09, 0.1), (3.0, -20.0, 7.0), axes)
    fixed = fixed_volume(slanted(grid), everywhere(), spacing)
    wanted = 100 + world_of(fixed.density.grid) @ [7.0, -3.0, 5.0]
    np.testing.assert_allclose(fixed.density.array, wanted, atol=1e-3)
    assert fixed.density.grid.spacing == pytest.approx(spacing)
    assert fixed.mask.all()


@pytest.mark.parametrize("axes", ORDERS.values(), ids=ORDERS)
def test_the_slices_lie_across_the_long_axis_and_the_axes_are_right_handed(axes):
    fixed = fixed_volume(slanted(Grid(SIZE, FINE_MM, direction=axes)), everywhere(), (0.34, 0.172, 0.172))
    found = np.reshape(fixed.density.grid.direction, (3, 3))
    assert np.abs(found[2]).argmax() == 2
    assert np.linalg.det(found) == pytest.approx(1)


@pytest.mark.parametrize("name", ["upright", "tilted", "upside down"])
def test_axes_that_are_right_stay_as_they_are_stored(name):
    fixed = fixed_volume(slanted(Grid(SIZE, FINE_MM, direction=ORDERS[name])), everywhere(), FINE_MM)
    assert fixed.density.grid.direction == pytest.approx(ORDERS[name].ravel())
    assert fixed.density.warnings == ()
    assert fixed.facts["axes"] == "as stored"


@pytest.mark.parametrize(("name", "axis"), [("long axis last in memory", 2), ("long axis in the middle", 1)])
def test_axes_that_are_turned_are_told(name, axis):
    fixed = fixed_volume(slanted(Grid(SIZE, FINE_MM, direction=ORDERS[name])), everywhere(), FINE_MM)
    assert len(fixed.density.warnings) == 1
    assert f"axis {axis} " in fixed.density.warnings[0]
    assert fixed.facts["axes"] == "turned"


def test_the_mask_is_turned_with_the_reference():
    mask = np.zeros(SIZE, bool)
    mask[2:9, 5:20, 3:12] = True
    grid = Grid(SIZE, FINE_MM, direction=ORDERS["tilted, another order"])
    reference = slanted(grid)
    fixed = fixed_volume(reference, mask, FINE_MM)
    # The values are unique, and the spacing is the reference's: no voxel is averaged.
    np.testing.assert_allclose(
        np.sort(fixed.density.array[fixed.mask]), np.sort(reference.array[mask]), atol=1e-3
    )


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_mean_of_a_wave_is_that_over_the_voxel_s_width(spacing):
    """The mean of cos(kx) over a width w is cos(kx) sinc(kw / 2); a narrower voxel is sampled at its centre."""
    grid = Grid((60, 60, 60), FINE_MM)
    wave = 2 * np.pi / 1.1
    points = world_of(grid)
    for axis in range(3):
        fixed = fixed_volume(
            density(np.cos(wave * points[..., 2 - axis]), grid), everywhere((60,) * 3), spacing
        )
        centres = world_of(fixed.density.grid)[..., 2 - axis]
        width = spacing[axis] if spacing[axis] > 0.082 else 0
        wanted = np.cos(wave * centres) * np.sinc(wave * width / 2 / np.pi)
        inside = np.abs(centres - 30 * 0.082) < 1.4  # the straight lines at the faces are no wave
        np.testing.assert_allclose(fixed.density.array[inside], wanted[inside], atol=3e-4)


def test_the_grid_has_the_middle_of_the_reference_and_stays_in_it():
    grid = Grid((100, 111, 122), FINE_MM, (5.0, 6.0, 7.0), TURNED)
    fixed = fixed_volume(density(np.zeros(grid.size), grid), everywhere(grid.size), (0.34, 0.172, 0.172))
    middle = [fixed.density.grid.world([(n - 1) / 2 for n in fixed.density.grid.size])]
    np.testing.assert_allclose(middle, [grid.world([(n - 1) / 2 for n in grid.size])], atol=1e-9)
    for own, coarse, n, voxels in zip(
        FINE_MM, (0.34, 0.172, 0.172), grid.size, fixed.density.grid.size, strict=True
    ):
        assert n * own - coarse < voxels * coarse <= n * own


def overlap_says(mask, spacing, grid):
    """Voxel by voxel: every voxel of the mask's grid that shares room with this one is set."""
    found = np.zeros(grid.size, bool)
    for index in product(*map(range, grid.size)):
        box = []
        for at, wide, own, n, count in zip(index, grid.spacing, spacing, mask.shape, grid.size, strict=True):
            low = n * own / 2 + (at - count / 2) * wide
            faces = np.arange(n + 1) * own
            shared = np.minimum(faces[1:], low + wide) - np.maximum(faces[:-1], low)
            box.append(np.flatnonzero(shared > 1e-5))
        found[index] = mask[np.ix_(*box)].all()
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(*[st.integers(5, 12)] * 3),
    wide=st.tuples(*[st.sampled_from([0.05, 0.082, 0.1, 0.164, 0.172, 0.21])] * 3),
)
def test_a_voxel_counts_when_it_lies_wholly_inside(seed, size, wide):
    mask = np.random.default_rng(seed).random(size) < 0.97
    mask[tuple(n // 2 for n in size)] = True
    grid = Grid(size, (0.082, 0.082, 0.082))
    try:
        fixed = fixed_volume(density(np.zeros(size), grid), mask, wide)
    except InputError as error:
        assert "wholly inside" in str(error)
        return
    np.testing.assert_array_equal(fixed.mask, overlap_says(mask, grid.spacing, fixed.density.grid))


def test_a_rim_comes_off_on_the_reference_s_own_voxels():
    """A box of 40 voxels loses 5 of them on each side, whatever the study's voxels are."""
    mask = np.zeros((60, 60, 60), bool)
    mask[10:50, 10:50, 10:50] = True
    fixed = fixed_volume(density(np.zeros(mask.shape)), mask, (0.164, 0.082, 0.082), 5 * 0.082)
    kept = np.argwhere(fixed.mask)
    assert kept.min(axis=0).tolist() == [8, 15, 15]
    assert kept.max(axis=0).tolist() == [21, 44, 44]
    assert len(kept) == 14 * 30 * 30
    assert fixed.facts["mask_mm3"] == pytest.approx((40 * 0.082) ** 3)
    assert fixed.facts["peeled_mm3"] == pytest.approx((30 * 0.082) ** 3)
    assert fixed.facts["inside_mm3"] == pytest.approx(28 * 30 * 30 * 0.082**3)
    assert fixed.facts["peel_mm"] == pytest.approx(0.41)


def test_the_peel_of_the_bounding_box_is_that_of_the_whole():
    rng = np.random.default_rng(5)
    mask = np.zeros((40, 44, 46), bool)
    mask[8:38, 6:44, 0:40] = rng.random((30, 38, 40)) < 0.9995  # touches the border of the image too
    grid = Grid(mask.shape, (0.1, 0.082, 0.05))
    wanted, _ = peel(mask.astype(np.int32), grid.spacing, 0.2)
    fixed = fixed_volume(density(np.zeros(mask.shape), grid), mask, grid.spacing, 0.2)
    np.testing.assert_array_equal(fixed.mask, wanted != 0)


def test_a_mask_that_falls_apart_keeps_its_largest_piece_and_says_so():
    mask = np.zeros((20, 20, 60), bool)
    mask[2:18, 2:18, 2:20] = mask[2:18, 2:18, 30:58] = True
    mask[9:11, 9:11, 20:30] = True
    fixed = fixed_volume(density(np.zeros(mask.shape)), mask, FINE_MM, 0.2)
    assert fixed.facts["pieces"] == 2
    assert np.argwhere(fixed.mask)[:, 2].min() >= 30


def test_what_is_known_of_the_reference_is_kept():
    reference = Volume(
        np.zeros(SIZE), Grid(SIZE, FINE_MM), "mg/cm3", "K2HPO4", {"warnings": ["old"], "stem": "a"}
    )
    fixed = fixed_volume(reference, everywhere(), (0.34, 0.172, 0.172))
    assert (fixed.density.unit, fixed.density.material) == ("mg/cm3", "K2HPO4")
    assert fixed.density.warnings == ("old",)
    assert fixed.density.provenance["stem"] == "a"
    (step,) = fixed.density.provenance["resampling"]
    assert step["from_spacing_zyx_mm"] == list(FINE_MM)
    assert step["to_spacing_zyx_mm"] == [0.34, 0.172, 0.172]
    assert json.loads(json.dumps(fixed.facts)) == fixed.facts


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mask": np.zeros(SIZE, bool)}, "mask: .*empty"),
        ({"mask": np.ones((3, 3, 3), bool)}, "mask: .*shape"),
        ({"mask": np.full(SIZE, 0.5)}, "mask: .*float64"),
        ({"reference": Volume(np.zeros(SIZE), Grid(SIZE, FINE_MM), "HU")}, "reference: .*density.*HU"),
        ({"reference": density(np.zeros(SIZE), MIRRORED)}, "reference: wanted right-handed axes"),
        ({"spacing_mm": (3.0, 0.1, 0.1)}, "reference: .*room for voxels of 3 x 0.1 x 0.1 mm"),
        ({"peel_mm": 5.0}, "peeling 5 mm .*nothing.*at most .*0.8"),
        ({"spacing_mm": (1.7, 0.1, 0.1), "peel_mm": 0.2}, "mask of the reference: .*after peeling 0.2 mm"),
    ],
)
def test_what_gives_no_pairs_is_refused(change, match):
    call = {
        "reference": density(np.zeros(SIZE)),
        "mask": everywhere(),
        "spacing_mm": (0.34, 0.172, 0.172),
        **change,
    }
    with pytest.raises(InputError, match=match):
        fixed_volume(**call)


def test_a_negative_rim_is_refused():
    with pytest.raises(UsageError, match="rim"):
        fixed_volume(density(np.zeros(SIZE)), everywhere(), FINE_MM, -1.0)


def image(path, values, *, spacing=FINE_MM, origin=(0.0, 0.0, 0.0), axes=None, **sidecar):
    picture = sitk.GetImageFromArray(values)
    picture.SetSpacing(spacing[::-1])
    picture.SetOrigin(origin)
    picture.SetDirection(np.ravel(np.eye(3) if axes is None else axes).tolist())
    sitk.WriteImage(picture, str(path))
    if sidecar:
        path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(sidecar))
    return path


def specimen(folder, **change):
    files = {"reference": folder / "reference.nii.gz", "mask": folder / "mask.nii.gz"}
    return Specimen(
        **{"name": "A1", "donor": "A", "scans": (), "unit": "mg/cm3", "material": "HA", **files, **change}
    )


@pytest.fixture
def values():
    return np.random.default_rng(1).normal(200, 50, SIZE).astype(np.float32)


def box_mask():
    mask = np.zeros(SIZE, np.uint8)
    mask[3:12, 4:20, 5:22] = 1
    return mask


@pytest.mark.parametrize("suffix", ["nii.gz", "mha", "nrrd"])
def test_reference_and_mask_come_as_they_are_stored(tmp_path, values, suffix):
    image(tmp_path / f"reference.{suffix}", values, axes=TURNED)
    image(tmp_path / "mask.nii.gz", box_mask(), axes=TURNED)
    reference, mask = read_reference(specimen(tmp_path, reference=tmp_path / f"reference.{suffix}"))
    np.testing.assert_array_equal(reference.array, values)
    np.testing.assert_array_equal(mask, box_mask() == 1)
    assert (reference.unit, reference.material) == ("mg/cm3", "HA")


@pytest.mark.parametrize("suffix", ["nii.gz", "mha", "nrrd"])
def test_left_handed_axes_survive_each_format_and_are_refused(tmp_path, values, suffix):
    image(tmp_path / f"reference.{suffix}", values, axes=np.diag([-1.0, 1.0, 1.0]))
    image(tmp_path / "mask.nii.gz", box_mask(), axes=np.diag([-1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match=f"reference.{suffix}: wanted right-handed axes"):
        read_reference(specimen(tmp_path, reference=tmp_path / f"reference.{suffix}"))


def test_a_mask_of_a_part_of_the_reference_is_placed(tmp_path, values):
    image(tmp_path / "reference.nii.gz", values)
    image(tmp_path / "mask.nii.gz", box_mask()[3:12, 4:20, 5:22], origin=(5 * 0.082, 4 * 0.082, 3 * 0.082))
    reference, mask = read_reference(specimen(tmp_path))
    np.testing.assert_array_equal(mask, box_mask() == 1)
    assert any("placed there without interpolation" in words for words in reference.warnings)


def test_a_mask_whose_axes_are_stored_otherwise_is_turned(tmp_path, values):
    image(tmp_path / "reference.nii.gz", values)
    axes, far = np.diag([-1.0, 1.0, 1.0]), (SIZE[2] - 1) * 0.082
    image(tmp_path / "mask.nii.gz", box_mask()[..., ::-1].copy(), origin=(far, 0.0, 0.0), axes=axes)
    np.testing.assert_array_equal(read_reference(specimen(tmp_path))[1], box_mask() == 1)


@pytest.mark.parametrize(
    ("mask", "where", "match"),
    [
        (np.zeros(SIZE, np.uint8), {}, "only background"),
        (
            box_mask() * 2 + (np.arange(SIZE[2]) < 9).astype(np.uint8),
            {},
            "one label.*labels 1, 2, 3.*qctrun peel",
        ),
        (
            box_mask(),
            {"spacing": (0.1, 0.1, 0.1)},
            "reference.nii.gz.*spacing .*resample it there by the nearest",
        ),
        (box_mask(), {"origin": (0.04, 0.0, 0.0)}, "grid of reference.nii.gz.*origin"),
        (box_mask(), {"axes": TURNED}, "direction .*draw the mask on the reference itself"),
        (box_mask(), {"origin": (82.0, 0.0, 0.0)}, "mask.nii.gz: wanted .*"),
    ],
    ids=["empty", "labels", "spacing", "half a voxel", "tilted", "beside it"],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, values, mask, where, match):
    image(tmp_path / "reference.nii.gz", values)
    image(tmp_path / "mask.nii.gz", mask, **where)
    with pytest.raises(InputError, match=match):
        read_reference(specimen(tmp_path))


@pytest.mark.parametrize(
    ("change", "sidecar", "match"),
    [
        ({"unit": None}, {"Units": "HU"}, "density in mg/cm3.*HU.*calibrate it before"),
        ({"unit": None}, {}, "a known unit.*none"),
        ({"material": None}, {}, "material of its density.*none"),
        ({"material": "HA"}, {"CalibrationMaterial": "K2HPO4"}, "HA .*K2HPO4 in its sidecar"),
    ],
    ids=["HU", "no unit", "no material", "two materials"],
)
def test_a_reference_that_is_no_density_is_refused(tmp_path, values, change, sidecar, match):
    image(tmp_path / "reference.nii.gz", values, **sidecar)
    image(tmp_path / "mask.nii.gz", box_mask())
    with pytest.raises(InputError, match=match):
        read_reference(specimen(tmp_path, **change))


def test_a_calibration_beside_a_reference_in_hu_makes_no_density_of_it(tmp_path, values):
    image(tmp_path / "reference.nii.gz", values, Units="HU", KVP=120)
    image(tmp_path / "mask.nii.gz", box_mask())
    (tmp_path / "calibration.json").write_text('{"slope": 0.8, "intercept": 0, "material": "HA"}')
    with pytest.raises(InputError, match=r"density in mg/cm3.*HU"):
        read_reference(specimen(tmp_path, unit=None))
