"""Tilted and uneven stacks: what was laid down at true places in space must be found there again."""

import json

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import UPRIGHT, rotation, slice_dataset
from scipy.ndimage import binary_erosion

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import list_series, read, read_labels
from qctrun.runtime.reading.dicom import read_dicom
from qctrun.runtime.reading.mending import mended, mending_of
from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing import write

ORIGIN = np.array([10.0, -20.0, 30.0])
SPACING = (0.6, 0.5)
EVEN = np.arange(8) * 2.0
UNEVEN = np.array([0, 2.0, 4.0, 6.0, 7.0, 10.2, 13.4, 16.6])
LEAN = (0.31, -0.12)
"""mm down the rows and along the columns for every mm along the normal: a tilt of 18 degrees."""


def places(heights, lean=LEAN, axes=UPRIGHT, size=(30, 26)):
    """World positions (slices, rows, columns, xyz) of all samples."""
    r, c = np.indices(size)
    down = np.multiply.outer(heights, np.full(size, lean[0])) + r * SPACING[0]
    along = np.multiply.outer(heights, np.full(size, lean[1])) + c * SPACING[1]
    up = np.multiply.outer(heights, np.ones(size))
    return ORIGIN + np.stack([along, down, up], axis=-1) @ axes.T


def write_stack(folder, values, heights, lean=LEAN, axes=UPRIGHT, **tags):
    """A leaning stack of slices on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    corners = places(heights, lean, axes, values.shape[1:])[:, 0, 0]
    for k, (stored, corner) in enumerate(zip(values, corners, strict=True)):
        own = {"PixelSpacing": list(SPACING), "ImageOrientationPatient": [*axes[:, 0], *axes[:, 1]], **tags}
        own["ImageOrientationPatient"] = [round(float(v), 10) for v in own["ImageOrientationPatient"]]
        dataset = slice_dataset(stored, corner, **own)
        dataset.ImagePositionPatient = [round(float(v), 9) for v in corner]
        dataset.save_as(folder / f"{(k * 5) % 23:02d}.dcm", enforce_file_format=True)
    return folder


def plan_of(folder, heights, lean=LEAN, axes=UPRIGHT, size=(30, 26)):
    """The plan for a stack at these places, whatever it holds."""
    write_stack(folder, np.zeros((len(heights), *size), np.int16), heights, lean, axes)
    (series,) = list_series(folder)
    return mending_of(series, folder)


def world(grid):
    """World positions (z, y, x, xyz) of the voxels of a grid."""
    z, y, x = np.indices(grid.size)
    steps = np.stack([x * grid.spacing[2], y * grid.spacing[1], z * grid.spacing[0]], axis=-1)
    return np.asarray(grid.origin) + steps @ np.reshape(grid.direction, (3, 3)).T


def covered(grid, heights, lean=LEAN, axes=UPRIGHT, size=(30, 26), margin=0.0):
    """Voxels between the pixel centres of the stack, by their world positions alone, `margin` mm inside."""
    along, down, up = np.moveaxis((world(grid) - ORIGIN) @ axes, -1, 0)
    inside = np.ones(grid.size, bool)
    for place, tilt, mm, pixels in (
        (down, lean[0], SPACING[0], size[0]),
        (along, lean[1], SPACING[1], size[1]),
    ):
        start = place - tilt * up
        inside &= (start >= margin - 1e-6) & (start <= (pixels - 1) * mm - margin + 1e-6)
    return inside


def quadratic(xyz):
    """A polynomial of degree 2 in all directions together, HU."""
    x, y, z = np.moveaxis(xyz - ORIGIN, -1, 0)
    return 40 + 3 * x - 5 * y + 7 * z + 0.8 * x * y - 0.5 * y * z + 0.4 * x**2 - 0.3 * y**2 + 0.9 * z**2


def wave(xyz):
    """Waves of 24 mm, HU."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    return 300 * np.sin(2 * np.pi * x / 24) * np.cos(2 * np.pi * (y + z) / 24)


CASES = [
    pytest.param(EVEN, LEAN, id="tilt"),
    pytest.param(UNEVEN, (0.0, 0.0), id="uneven"),
    pytest.param(UNEVEN, LEAN, id="both"),
    pytest.param(UNEVEN[:3], LEAN, id="three slices"),
]


@pytest.mark.parametrize(("heights", "lean"), CASES)
def test_a_quadratic_field_comes_out_exactly_at_its_true_places(tmp_path, heights, lean):
    axes = rotation(0.3, -0.5, 1.1)
    plan = plan_of(tmp_path, heights, lean, axes)
    values = quadratic(places(heights, lean, axes)).astype(np.float32)
    found, _ = mended(values, plan, "mg/cm3")
    # A slice has no samples beyond its own edge: from there on as far as neighbours shift, it is continued.
    reach = max(map(abs, lean)) * 30
    inside = covered(plan.grid, heights, lean, axes, margin=min(reach, 5.5))
    assert inside.sum() >= 100
    np.testing.assert_allclose(found[inside], quadratic(world(plan.grid))[inside], atol=0.01)


def test_a_tilt_alone_is_exact_up_to_the_very_edge_of_each_slice(tmp_path):
    plan = plan_of(tmp_path, EVEN)
    found, _ = mended(quadratic(places(EVEN)).astype(np.float32), plan, "mg/cm3")
    inside = covered(plan.grid, EVEN)
    np.testing.assert_allclose(found[inside], quadratic(world(plan.grid))[inside], atol=0.005)


def test_a_smooth_field_comes_out_within_the_error_of_cubic_splines(tmp_path):
    for heights, margin, bound in ((EVEN, 0.0, 0.005), (UNEVEN, 2.0, 3.0)):
        plan = plan_of(tmp_path / str(bound), heights)
        found, _ = mended(wave(places(heights)).astype(np.float32), plan, "mg/cm3")
        inside = covered(plan.grid, heights, margin=margin)
        error = np.abs(found - wave(world(plan.grid)))[inside].max()
        assert error < bound, "of waves of 300 HU, sampled every 2 to 3.2 mm along the normal"


def test_even_leaning_slices_agree_with_simpleitk(tmp_path):
    """ITK can hold an even stack that leans: its third axis is the lean. Its spline sees the same samples."""
    values = np.random.default_rng(3).normal(0, 300, (8, 30, 26)).astype(np.float32)
    plan = plan_of(tmp_path, EVEN)
    image = sitk.GetImageFromArray(values)
    along = np.array([LEAN[1], LEAN[0], 1.0])
    image.SetSpacing((SPACING[1], SPACING[0], 2.0 * float(np.linalg.norm(along))))
    image.SetDirection(np.column_stack([[1, 0, 0], [0, 1, 0], along / np.linalg.norm(along)]).ravel())
    image.SetOrigin(ORIGIN)
    like = sitk.Image(plan.grid.size[::-1], sitk.sitkFloat32)
    like.SetSpacing(plan.grid.spacing[::-1])
    like.SetOrigin(plan.grid.origin)
    like.SetDirection(plan.grid.direction)
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, like, sitk.Transform(), sitk.sitkBSpline, 0.0))
    ours, _ = mended(values, plan, "mg/cm3")
    # Away from the edges, where ITK mirrors the samples and these splines do not.
    inside = covered(plan.grid, EVEN, margin=5.0)
    inside[[0, -1]] = False
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=0.6)
    assert np.abs(ours[inside]).max() > 500


@pytest.mark.parametrize(("heights", "lean"), CASES[:3])
def test_a_plate_and_a_ball_keep_their_place_in_space(tmp_path, heights, lean):
    axes = rotation(0.1, 0.2, -0.3)
    plan = plan_of(tmp_path, heights, lean, axes)
    middle = ORIGIN + axes @ [5.3, 9.7, 8.0]

    def ball(xyz):
        return 1000 * np.exp(-((xyz - middle) ** 2).sum(axis=-1) / (2 * 1.8**2))

    def plate(xyz):
        return 1000 * np.exp(-(((xyz - middle) @ axes[:, 2]) ** 2) / (2 * 2.2**2))

    everywhere = world(plan.grid)
    found, _ = mended(ball(places(heights, lean, axes)).astype(np.float32), plan, "mg/cm3")
    centre = (everywhere * found[..., None]).sum(axis=(0, 1, 2)) / found.sum()
    np.testing.assert_allclose(centre, middle, atol=0.12)
    found, _ = mended(plate(places(heights, lean, axes)).astype(np.float32), plan, "mg/cm3")
    inside = covered(plan.grid, heights, lean, axes, margin=3.0)
    height = ((everywhere - middle) @ axes[:, 2])[inside]
    assert (height * found[inside]).sum() / found[inside].sum() == pytest.approx(0, abs=0.12)


def test_the_field_holds_the_whole_stack_and_air_where_nothing_was_scanned(tmp_path):
    values = np.full((8, 30, 26), 100, np.int16)
    write_stack(tmp_path, values, UNEVEN)
    volume = read_dicom(tmp_path, allow_resample=True)
    beyond = ~covered(volume.grid, UNEVEN, margin=-0.31)
    near = ~covered(volume.grid, UNEVEN, margin=-0.24)
    assert set(np.unique(volume.array[beyond])) == {-1000}
    np.testing.assert_allclose(volume.array[~near], 100, atol=1e-3)
    (entry,) = volume.provenance["resampling"]
    assert entry["voxels_outside"] == (volume.array == -1000).sum()
    first, last = places(UNEVEN)[0].reshape(-1, 3), places(UNEVEN)[-1].reshape(-1, 3)
    corners = np.array([volume.grid.world(tuple(n - 1 for n in volume.grid.size)), volume.grid.origin])
    for xyz in (first, last):
        assert (xyz <= corners[0] + 1e-6).all() and (xyz >= corners[1] - 1e-6).all()


@pytest.mark.parametrize(("heights", "swing_hu"), [(EVEN, 40), (UNEVEN, 283)])
def test_what_was_not_scanned_does_not_ring_into_the_body(tmp_path, heights, swing_hu):
    """The scan circle cuts tissue of 60 HU; with air in place of its padding the same splines would swing."""
    r, c = np.indices((60, 56))
    circle = np.hypot(r - 30, c - 28) < 24
    values = np.repeat(np.where(circle, 60, -2000).astype(np.int16)[None], 8, axis=0)
    write_stack(tmp_path, values, heights, PixelPaddingValue=-2000)
    volume = read_dicom(tmp_path, allow_resample=True)
    air = volume.array == -1000
    assert volume.provenance["resampling"][0]["voxels_outside"] == air.sum()
    np.testing.assert_allclose(volume.array[~air], 60, atol=1e-3)
    assert (~air).sum() == pytest.approx(circle.sum() * volume.grid.size[0], rel=0.01)
    (series,) = list_series(tmp_path)
    naive, _ = mended(np.maximum(values, -1000).astype(np.float32), mending_of(series, tmp_path), "HU")
    deep = np.array([binary_erosion(plane, iterations=2) for plane in ~air])
    assert np.abs(naive - 60)[deep].max() == pytest.approx(swing_hu, abs=1)


def test_each_voxel_takes_the_scan_circle_of_the_slice_that_is_nearest(tmp_path):
    r, c = np.indices((60, 56))
    circles = np.array([np.hypot(r - 30, c - 28) < 16 + k for k in range(8)])
    write_stack(tmp_path, np.where(circles, 60, -2000).astype(np.int16), EVEN)  # no tag names the padding
    found = read_dicom(tmp_path, allow_resample=True).array
    np.testing.assert_allclose((found > -1000).sum(axis=(1, 2)), circles.sum(axis=(1, 2)), rtol=0.01)


def test_half_a_pixel_costs_an_eighth_of_the_noise_and_no_mean(tmp_path):
    heights, lean = EVEN, (0.15, 0.0)  # every second slice lies half a pixel off
    noise = np.random.default_rng(2).normal(0, 100, (8, 200, 200)).astype(np.float32)
    found, _ = mended(noise, plan_of(tmp_path, heights, lean, size=(200, 200)), "mg/cm3")
    inner = found[:, 10:190, 10:190]
    np.testing.assert_allclose(inner[::2].std(), 100, rtol=0.01)
    np.testing.assert_allclose(inner[1::2].std(), 87, rtol=0.01)
    np.testing.assert_allclose(inner.mean(axis=(1, 2)), noise[:, 10:190, 10:190].mean(axis=(1, 2)), atol=1)


def test_an_even_straight_stack_is_left_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).integers(-900, 900, (8, 30, 26), dtype=np.int16)
    write_stack(tmp_path, values, EVEN, (0.0, 0.0))
    plain, allowed = read_dicom(tmp_path), read_dicom(tmp_path, allow_resample=True)
    np.testing.assert_array_equal(plain.array, allowed.array)
    assert plain.grid == allowed.grid
    assert allowed.provenance == plain.provenance


@pytest.mark.parametrize(
    ("heights", "spacing"),
    [
        (EVEN, 2.0),
        (np.r_[np.arange(6) * 2.0, 10 + np.arange(1, 6) * 3.0], 25 / 12),  # as fine as the finer zone
        (np.r_[np.arange(6) * 4.0, 21.1, 21.1 + np.arange(1, 6) * 4.0], 41.1 / 10),  # not as one stray pair
    ],
)
def test_the_new_spacing_is_that_of_the_finer_zone(tmp_path, heights, spacing):
    grid = plan_of(tmp_path, heights).grid
    assert grid.spacing[0] == pytest.approx(spacing)
    assert (grid.size[0] - 1) * grid.spacing[0] == pytest.approx(heights[-1])
    assert grid.spacing[0] >= np.diff(heights).min() - 1e-9


def test_the_grid_is_upright_right_handed_and_of_the_slices_own_axes(tmp_path):
    axes = rotation(0.3, -0.5, 1.1)
    grid = plan_of(tmp_path, UNEVEN, axes=axes).grid
    np.testing.assert_allclose(np.reshape(grid.direction, (3, 3)), axes, atol=1e-9)
    assert np.linalg.det(np.reshape(grid.direction, (3, 3))) == pytest.approx(1)
    assert grid.spacing[1:] == SPACING


@pytest.mark.parametrize(
    ("heights", "why"),
    [
        ([0, 5, 10, 20], r"gap of 10\.000 mm after slice 3 where others are 5\.000 mm \(missing slices\)"),
        ([0, 4, 8, 22, 29, 36, 43], "missing slices"),
        ([0, 5, 10, 20, 30, 35, 40], "missing slices"),
        ([0, 2, 2, 4, 7], "repeat a position"),
        (np.cumsum(1.5 ** np.arange(12)), r"gaps from 1\.500 to 86\.498 mm"),
        ([0, 1e200, 2e200, 3.5e200], "with --allow-resample"),
        ([0, 4, 8, 12, 12.1, 19, 26, 33], r"slices 0\.100 mm apart .* noise would grow"),
    ],
)
def test_missing_repeated_and_touching_slices_are_not_bridged(tmp_path, heights, why):
    heights = np.asarray(heights, float)
    write_stack(tmp_path, np.zeros((len(heights), 8, 8), np.int16), heights)
    with pytest.raises(InputError, match=why):
        read_dicom(tmp_path, allow_resample=True)
    with pytest.raises(InputError) as plain:
        read_dicom(tmp_path)
    assert "--allow-resample" not in str(plain.value), "what it does not mend is not promised"


def test_slices_that_step_to_all_sides_are_no_tilt(tmp_path):
    for k, corner in enumerate([(0, 0, 0), (3, 0, 2), (0, 0, 4), (3, 0, 6)]):
        slice_dataset(np.zeros((8, 8), np.int16), corner).save_as(
            tmp_path / f"{k}.dcm", enforce_file_format=True
        )
    with pytest.raises(InputError, match=r"beside a straight line"):
        read_dicom(tmp_path, allow_resample=True)


def test_a_field_of_nothing_but_air_is_not_made(tmp_path):
    heights = np.arange(4) * 200.0
    write_stack(tmp_path, np.zeros((4, 8, 8), np.int16), heights)
    with pytest.raises(InputError, match=r"leans over a field of 755 times as many voxels"):
        read_dicom(tmp_path, allow_resample=True)


def test_no_gantry_leans_by_half_a_right_angle(tmp_path):
    write_stack(tmp_path, np.zeros((4, 8, 8), np.int16), EVEN[:4], (1.2, 0.0))
    with pytest.raises(InputError, match=r"a lean of 50\.2 deg"):
        read_dicom(tmp_path, allow_resample=True)


def test_missing_geometry_is_no_matter_of_resampling(tmp_path):
    write_stack(tmp_path, np.zeros((4, 8, 8), np.int16), EVEN[:4])
    for file in tmp_path.iterdir():
        one = pydicom.dcmread(file)
        del one.PixelSpacing
        one.save_as(file)
    with pytest.raises(InputError, match="no PixelSpacing in 4 of 4 slices"):
        read_dicom(tmp_path, allow_resample=True)


def test_a_refused_tilt_names_the_option_that_mends_it(tmp_path):
    write_stack(tmp_path, np.zeros((8, 30, 26), np.int16), EVEN)
    with pytest.raises(InputError, match=r"tilt or shear of 18\.4 deg.*say --allow-resample"):
        read(tmp_path, calibration=(1, 0), material="HA")


def test_masks_on_the_mended_grid_are_taken_and_those_on_the_tilted_one_refused(tmp_path):
    write_stack(tmp_path / "scan", np.full((8, 30, 26), 100, np.int16), EVEN)
    volume = read(tmp_path / "scan", calibration=(1, 0), material="HA", allow_resample=True)
    ours = write(Volume(np.ones(volume.grid.size), volume.grid, "1"), tmp_path / "ours.nii.gz")
    assert read_labels(ours, volume.grid).all()
    step = float(np.linalg.norm([*LEAN, 1.0])) * 2.0  # what series readers take for the spacing
    straight = Grid((8, 30, 26), (step, *SPACING), tuple(ORIGIN))
    as_if = write(Volume(np.ones(straight.size), straight, "1"), tmp_path / "as_if.nii.gz")
    with pytest.raises(InputError, match=r"scan against mask: size \(8, 38, 30\) against \(8, 30, 26\)"):
        read_labels(as_if, volume.grid)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([[-0.5, 0, 0], [0, -0.6, 0], [0.24, -0.62, 2.0]])
    nibabel.save(nibabel.Nifti1Image(np.ones((26, 30, 8), np.uint8), affine), tmp_path / "leans.nii.gz")
    with pytest.raises(InputError, match="perpendicular"):
        read_labels(tmp_path / "leans.nii.gz", volume.grid)


@pytest.mark.parametrize("first", ["params", "filter"])
def test_every_output_says_that_the_scan_was_resampled(tmp_path, qctrun, first):
    values = np.random.default_rng(0).integers(-200, 700, (8, 30, 26), dtype=np.int16)
    write_stack(tmp_path / "scan", values, UNEVEN)
    out = tmp_path / "out"
    words = (first, tmp_path / "scan", "--calibration", "0.8,0", "--material", "HA", "-o", out)
    assert qctrun(*words).code == 3
    said = qctrun(*words, "--allow-resample")
    assert said.code == 0
    told = "gantry tilt of 18.4 deg and uneven gaps mended"
    assert told in said.err
    assert first == "params" or qctrun("params", "-o", out).code == 0
    for verb in {first, "params"}:
        record = json.loads((out / f"{verb}.run.json").read_text())
        assert record["options"]["allow_resample"] is (verb == first)
        (entry,) = record["inputs"][0]["resampling"]
        assert entry["what"] == told
        assert entry["interpolation"] == "cubic B-spline"
        assert any(told in warning for warning in record["warnings"])
    sidecars = [*out.glob("*map.json"), *out.glob("*_ct.json")]
    assert len(sidecars) >= 3
    for sidecar in sidecars:
        said_there = json.loads(sidecar.read_text())
        assert said_there["Resampling"] == [entry]
        assert any(told in warning for warning in said_there["Warnings"])


def test_info_says_what_can_be_mended(tmp_path, qctrun):
    write_stack(tmp_path / "leans", np.zeros((8, 30, 26), np.int16), EVEN)
    write_stack(tmp_path / "lacks", np.zeros((4, 30, 26), np.int16), [0.0, 5, 10, 20], (0.0, 0.0))
    assert "--allow-resample mends it" in qctrun("info", tmp_path / "leans").out
    assert "--allow-resample" not in qctrun("info", tmp_path / "lacks").out
