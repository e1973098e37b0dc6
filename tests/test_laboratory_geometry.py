"""Beads in a simulated study, found again in its files by other readers and other sums than those of the package."""

import json
import shutil
import subprocess

import nibabel
import numpy as np
import pydicom
import pytest

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read_density, read_hu
from qctrun.train.insilico import Scanner, laboratory
from qctrun.train.insilico.bone import FINE_SPACING_MM
from qctrun.train.insilico.lab_plan import LabStudy
from qctrun.train.insilico.laboratory import write_study
from qctrun.train.insilico.specimen import fine_size, rows
from qctrun.train.insilico.vertebra import SOFT_TISSUE_MG_CM3
from qctrun.train.pairs.fixed import fixed_volume, require_right_handed
from qctrun.train.pairs.register import resampled
from qctrun.train.pairs.rigid import Rigid

STUDY = LabStudy(3, 1, (16.0, 20.0, 20.0), (360.0,), 1)
BEADS_MM = np.array([[-5.0, -6.0, -4.0], [6.0, -4.5, 3.5], [-3.0, 5.5, 4.5], [4.0, 6.0, -4.0]])
"""(x, y, z) from the middle of the specimen, along its own axes."""
NEAR_MM = 1.6
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def beads(body, character, size_mm, rng):
    """In place of bone: Gaussians of 0.2 mm in soft tissue."""
    tissue = np.full(fine_size(size_mm), SOFT_TISSUE_MG_CM3, np.float32)
    z, y, x = rows(tissue.shape, FINE_SPACING_MM)
    for bead in BEADS_MM:
        along = [
            np.exp(-0.5 * ((row - at) / 0.2) ** 2) for row, at in zip((z, y, x), bead[::-1], strict=True)
        ]
        tissue += 4000 * np.einsum("i,j,k->ijk", *along).astype(np.float32)
    return tissue


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A study of beads without noise."""
    folder = tmp_path_factory.mktemp("beads") / "lab"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(laboratory, "fine_tissue", beads)
        patched.setattr(laboratory, "hrpqct_noise", lambda size, rng: np.zeros(size, np.float32))
        patched.setattr(Scanner, "noise", lambda self, size, *others: np.zeros(size, np.float32))
        write_study(folder, STUDY)
    return folder


def centres(array, affine, guesses):
    """Centres of mass above the medium near some places; `affine` takes an index of the array to LPS mm."""
    found = []
    for guess in guesses:
        middle = np.rint(np.linalg.solve(affine, [*guess, 1])[:3]).astype(int)
        room = np.ceil(NEAR_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int) + 1
        index = np.indices(tuple(2 * room + 1)).reshape(3, -1) + (middle - room)[:, None]
        places = (affine[:3, :3] @ index).T + affine[:3, 3]
        near = np.linalg.norm(places - guess, axis=1) < NEAR_MM
        values = array[tuple(index[:, near])].astype(float)
        values = values - np.median(values)  # most of the ball is medium
        found.append((values[:, None] * places[near]).sum(0) / values.sum())
    return np.array(found)


def affine_of(grid):
    """Of an array (z, y, x)."""
    axes = np.reshape(grid.direction, (3, 3)) * grid.spacing[::-1]
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = axes[:, ::-1], grid.origin
    return made


def read_by_pydicom(folder):
    """HU (column, row, slice) and the affine of the standard's equation C.7.6.2.1-1."""
    slices = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda one: one.ImagePositionPatient[2])
    first, last = slices[0], slices[-1]
    array = np.stack([one.pixel_array.T * one.RescaleSlope + one.RescaleIntercept for one in slices], -1)
    made, (down, along) = np.eye(4), first.PixelSpacing
    made[:3, 0] = np.array(first.ImageOrientationPatient[:3], float) * along
    made[:3, 1] = np.array(first.ImageOrientationPatient[3:], float) * down
    start, end = (np.array(one.ImagePositionPatient, float) for one in (first, last))
    made[:3, 2], made[:3, 3] = (end - start) / (len(slices) - 1), start
    return array, made


def told(lab):
    (scan,) = json.loads((lab / "truth.json").read_text())["specimens"][0]["scans"]
    return scan


def in_reference(lab):
    """Where the beads lie in the reference's world, by nibabel."""
    image = nibabel.load(lab / "A1" / "hrpqct.nii.gz")
    affine = LPS @ image.affine
    middle = affine @ [*(np.array(image.shape) - 1) / 2, 1]
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return centres(image.get_fdata(), affine, middle[:3] + BEADS_MM @ axes.T)


def test_beads_of_the_reference_lie_where_they_were_put(lab):
    """Their distances, whatever the place of the reference in its world."""
    found = in_reference(lab)
    want = np.linalg.norm(BEADS_MM[:, None] - BEADS_MM[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=-1), want, atol=0.01)


def test_beads_of_the_scan_lie_where_the_truth_says(lab):
    """The files by pydicom alone, the transform by numpy alone."""
    transform = told(lab)["transform"]
    want = in_reference(lab) @ np.reshape(transform["matrix"], (3, 3)).T + transform["offset_mm"]
    found = centres(*read_by_pydicom(lab / "A1" / "360mAs-1"), want)
    np.testing.assert_allclose(found, want, atol=0.02)
    # ... and the ball in which they are looked for does not pull them to its middle.
    again = centres(*read_by_pydicom(lab / "A1" / "360mAs-1"), want + 0.1)
    np.testing.assert_allclose(again, want, atol=0.04)


def test_beads_come_to_lie_on_the_reference_through_the_files(lab):
    """As `qctrun pairs` goes: read, averaged onto the study's grid, resampled by the true transform."""
    reference = read_density(lab / "A1" / "hrpqct.nii.gz")
    fixed = fixed_volume(reference, np.ones(reference.grid.size, bool), (0.34, 0.172, 0.172))
    scan = resampled(
        read_hu(lab / "A1" / "360mAs-1"), Rigid.from_dict(told(lab)["transform"]), fixed.density.grid
    )
    want = in_reference(lab)
    affine = affine_of(scan.grid)
    np.testing.assert_allclose(centres(fixed.density.array, affine, want), want, atol=0.02)
    np.testing.assert_allclose(centres(scan.array, affine, want), want, atol=0.02)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
def test_slices_are_what_the_standard_wants(lab):
    """By dicom3tools; of a type 2 element it asks only that it is there."""
    files = sorted((lab / "A1" / "360mAs-1").iterdir())
    for path in (files[0], files[-1]):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr, said.stderr


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_dcm2niix_puts_voxels_where_read_hu_does(lab, tmp_path):
    """Its rows run from back to front: left-handed in its order of voxels, and right in its geometry."""
    folder = lab / "A1" / "360mAs-1"
    words = ["dcm2niix", "-o", str(tmp_path), "-f", "scan", "-z", "n", "-b", "n", str(folder)]
    subprocess.run(words, capture_output=True, check=True)
    image, scan = nibabel.load(tmp_path / "scan.nii"), read_hu(folder)
    assert np.linalg.det(LPS @ image.affine) < 0
    index = np.random.default_rng(0).integers(0, image.shape, (200, 3))
    there = (LPS @ image.affine @ np.column_stack([index, np.ones(200)]).T)[:3].T
    own = np.linalg.solve(affine_of(scan.grid), np.column_stack([there, np.ones(200)]).T)[:3].T
    np.testing.assert_allclose(own, np.rint(own), atol=0.01)  # its header holds float32
    values = np.asarray(image.dataobj)[tuple(index.T)]
    np.testing.assert_array_equal(values, scan.array[tuple(np.rint(own).astype(int).T)])
    with pytest.raises(InputError, match="dcm2niix"):
        require_right_handed(read_hu(tmp_path / "scan.nii", unit="HU").grid, "scan")
