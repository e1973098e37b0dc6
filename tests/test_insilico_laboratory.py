"""A simulated study on disk: read as a lab would read it, held against what only the simulator knows."""

import shutil
import tomllib

import numpy as np
import pytest
from scipy import ndimage

from qctrun.runtime import read
from qctrun.runtime.errors import InputError, OutputError, OutputExistsError
from qctrun.runtime.json_files import read_json
from qctrun.runtime.reading import read_hu, read_labels
from qctrun.train.insilico import laboratory
from qctrun.train.insilico.lab_plan import LabStudy, planned, read_truth
from qctrun.train.insilico.laboratory import aligned, reference_of, simulated, write_study
from qctrun.train.pairs.rigid import Rigid
from qctrun.train.pairs.study_file import load_study

TINY = LabStudy(5, 1, (16.0, 20.0, 20.0), (100.0, 360.0), 1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "lab"
    assert write_study(folder, TINY) == ["A1/trabecular_mask.nii.gz", "A1/100mAs-1", "A1/360mAs-1"]
    return folder


@pytest.fixture(scope="module")
def clean():
    """The noise-free reference, and its mask."""
    return reference_of(TINY, simulated(TINY, planned(TINY)[0]))


def laid_over(scan, pose, grid):
    """A scan in HU at the voxels of a reference: SciPy's spline, apart from everything in the package."""
    axes = np.reshape(grid.direction, (3, 3))
    z, y, x = np.indices(grid.size, dtype=float)
    steps = np.stack([x, y, z], -1) * grid.spacing[::-1]
    places = pose.points((np.asarray(grid.origin) + steps @ axes.T).reshape(-1, 3))
    index = (places - scan.grid.origin)[:, ::-1] / scan.grid.spacing
    return ndimage.map_coordinates(scan.array, index.T, order=3, mode="constant", cval=np.nan).reshape(
        grid.size
    )


def every_fourth(volume):
    """A coarser grid of the same place, and the values there after a blur over 1 mm."""
    sigma = [1 / d for d in volume.grid.spacing]
    # Beyond the box the jar goes on.
    smooth = ndimage.gaussian_filter(volume.array, sigma, mode="constant", cval=32)[::4, ::4, ::4]
    return type(volume.grid)(
        smooth.shape, tuple(4 * d for d in volume.grid.spacing), volume.grid.origin, volume.grid.direction
    ), smooth


def test_reference_reads_as_density_with_noise_and_axes_of_its_own(lab, clean):
    volume, (want, mask) = read(lab / "A1" / "hrpqct.nii.gz"), clean
    assert (volume.unit, volume.material, volume.warnings) == ("mg/cm3", "HA", ())
    assert volume.grid.difference(want.grid) == ""
    assert volume.grid.size == (195, 244, 244)
    assert not np.allclose(volume.grid.direction, np.eye(3).ravel(), atol=1e-3)
    assert np.linalg.norm(volume.grid.world((97, 121.5, 121.5))) > 1
    assert (volume.array - want.array).std() == pytest.approx(18, rel=0.01)
    trabecular = read_labels(lab / "A1" / "trabecular_mask.nii.gz", volume.grid) > 0
    np.testing.assert_array_equal(trabecular, mask)
    bone = read_labels(lab / "A1" / "bone_mask.nii.gz", volume.grid) > 0
    assert (bone | ~trabecular).all()
    # Bone is dense, what is around it is not; the mask keeps 1.9 mm from the outside.
    assert want.array[~bone & ~ndimage.binary_dilation(bone, iterations=4)].max() < 60
    distance = ndimage.distance_transform_edt(bone, sampling=volume.grid.spacing)
    assert distance[trabecular].min() > 1.8


@pytest.mark.parametrize("mas", [100, 360])
def test_scan_is_where_its_pose_says_and_dense_as_its_line_says(lab, clean, mas):
    """The line inverts to 2 %, what the two blurs differ by, and 0.3 mm to any side the two fit worse."""
    scan = read_hu(lab / "A1" / f"{mas}mAs-1")
    told = next(
        each
        for each in read_json(lab / "truth.json")["specimens"][0]["scans"]
        if each["name"] == f"{mas}mAs-1"
    )
    pose = Rigid.from_dict(told["transform"])
    want, mask = clean
    grid, smooth = every_fourth(want)
    inside = mask[::4, ::4, ::4]

    def found(pose):
        blurred = ndimage.gaussian_filter(scan.array, [1 / d for d in scan.grid.spacing])
        return laid_over(type(scan)(blurred, scan.grid, "HU"), pose, grid)

    there = found(pose)
    assert np.isfinite(there).all()
    bone = read_labels(lab / "A1" / "bone_mask.nii.gz", want.grid)[::4, ::4, ::4] > 0
    # Across the cortex, whose contrast is far above the noise of these means.
    slope = np.cov(there[bone], smooth[bone])[0, 1] / np.var(smooth[bone], ddof=1)
    assert 1 / slope == pytest.approx(told["slope"], rel=0.02)
    assert there[inside].mean() * told["slope"] + told["intercept"] == pytest.approx(
        smooth[inside].mean(), abs=4
    )
    best = np.corrcoef(there[bone], smooth[bone])[0, 1]
    assert best > 0.97
    for axis in range(3):
        for step in (-0.3, 0.3):
            moved = Rigid(pose.matrix, tuple(np.asarray(pose.offset_mm) + step * np.eye(3)[axis]))
            assert np.corrcoef(found(moved)[bone], smooth[bone])[0, 1] < best


def test_noise_of_the_scans(lab):
    """In the medium beside the bone, by dose; in HU it is that of the simulator over the slope."""
    _, (specimen,) = read_truth(lab)
    for scan in specimen.scans:
        volume = read_hu(lab / "A1" / scan.name)
        array = volume.array
        middle = scan.pose.points([specimen.place.offset_mm])[0] - volume.grid.origin
        index = np.rint(middle[::-1] / volume.grid.spacing).astype(int)
        # Above the bone and still in the jar.
        part = array[
            index[0] + 26 : index[0] + 30, index[1] - 20 : index[1] + 20, index[2] - 20 : index[2] + 20
        ]
        want = np.sqrt(30700 * 360 / scan.mas) / scan.slope
        assert part.std() == pytest.approx(want, rel=0.3)
        assert part.mean() == pytest.approx((32 - scan.intercept) / scan.slope, abs=want / 15)
        assert array[:3].mean() == pytest.approx(-1000, abs=want / 15)


def test_study_file_names_what_is_there_and_nothing_of_the_truth(lab):
    study = load_study(lab / "study.toml")
    assert [(each.name, each.donor) for each in study.specimens] == [("A1", "A")]
    (specimen,) = study.specimens
    assert specimen.reference.is_file()
    assert specimen.mask.is_file()
    assert [(scan.name, scan.tube_current_mas) for scan in specimen.scans] == [
        ("100mAs-1", 100),
        ("360mAs-1", 360),
    ]
    assert all(len(list(scan.path.glob("*.dcm"))) > 80 for scan in specimen.scans)
    told = str(tomllib.loads((lab / "study.toml").read_text()))
    assert "slope" not in told
    assert "truth" not in told
    series = {read_hu(scan.path).provenance["scan"]["series_uid"] for scan in specimen.scans}
    assert len(series) == 2


# Stopped and resumed


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_whole_is_not_made_again(lab, monkeypatch):
    monkeypatch.setattr(laboratory, "simulated", lambda *arguments: pytest.fail("nothing is missing"))
    before = files_of(lab)
    assert write_study(lab, TINY) == []
    assert files_of(lab) == before


def test_reference_that_somebody_has_deleted_is_made_again(lab, tmp_path):
    folder = tmp_path / "lab"
    shutil.copytree(lab, folder)
    before = files_of(folder)
    (folder / "A1" / "hrpqct.nii.gz").unlink()
    assert write_study(folder, TINY) == ["A1/trabecular_mask.nii.gz"]
    assert files_of(folder) == before


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=str)
def test_stopped_scan_is_not_there_and_comes_out_the_same(lab, tmp_path, monkeypatch, fault):
    folder = tmp_path / "lab"
    shutil.copytree(lab, folder)
    before = files_of(folder)
    shutil.rmtree(folder / "A1" / "360mAs-1")
    left = folder / "A1" / ".qctrun-360mAs-1"
    left.mkdir()
    (left / "0001.dcm").write_bytes(b"of a run that was killed")

    def stopped(array, spacing_mm, hidden, **more):
        assert list(hidden.iterdir()) == []
        (hidden / "0001.dcm").write_bytes(b"half a series")
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(laboratory, "write_series", stopped)
        with pytest.raises(OutputError if isinstance(fault, OSError) else KeyboardInterrupt):
            write_study(folder, TINY)
    assert not (folder / "A1" / "360mAs-1").exists()
    assert not left.exists()
    if isinstance(fault, OSError):
        steps = []
        assert write_study(folder, TINY, lambda done, total: steps.append((done, total))) == ["A1/360mAs-1"]
        assert steps == [(3, 3)]
        assert files_of(folder) == before


def test_another_study_is_never_mixed_in(lab, tmp_path):
    with pytest.raises(OutputExistsError, match="another one"):
        write_study(lab, LabStudy(6, 1, TINY.size_mm, TINY.currents_mas, 1))
    (tmp_path / "A1").mkdir()
    with pytest.raises(OutputExistsError, match=r"A1 without a truth\.json"):
        write_study(tmp_path, TINY)
    assert not (tmp_path / "truth.json").exists()


# Aligned


def test_aligned_is_the_same_bone_in_both_scanners(lab, clean):
    found = aligned(lab, "A1")
    assert (found.name, found.donor) == ("A1", "A")
    assert list(found.currents_mas) == [100, 360]
    assert list(found.repetitions) == [1, 1]
    assert found.truth.shape == found.mask.shape == found.scans[0].shape
    assert len(found.positions) > 0
    for corner in found.positions:
        box = tuple(slice(c, c + n) for c, n in zip(corner, (21, 41, 41), strict=True))
        assert found.mask[box].all()
    assert found.truth[found.mask].mean() == pytest.approx(clean[0].array[clean[1]].mean(), rel=0.02)
    blurred = ndimage.gaussian_filter(found.truth, 4)
    for scan in found.scans:
        assert np.isfinite(scan[found.mask]).all()
        smooth = ndimage.gaussian_filter(np.nan_to_num(scan), 4)
        assert smooth[found.mask].mean() == pytest.approx(blurred[found.mask].mean(), abs=4)
        inner = ndimage.binary_dilation(found.mask, iterations=6)
        assert np.corrcoef(smooth[inner], blurred[inner])[0, 1] > 0.97


def test_aligned_needs_a_specimen_of_the_study(lab):
    with pytest.raises(InputError, match="A1"):
        aligned(lab, "Z9")
