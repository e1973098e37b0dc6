"""The judge of docs/dicom.md: what the tags contradict is found wrong, whoever made it; qctrun is wrong on none."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_series import rotation, slice_dataset, write_series

HOUSE = Path(__file__).parent.parent / "benchmarks"
GAP, DOWN, ALONG = 1.5, 0.6, 0.5


@pytest.fixture
def truth(monkeypatch):
    monkeypatch.syspath_prepend(HOUSE)
    import dicom_truth

    return dicom_truth


@pytest.fixture
def cases(monkeypatch):
    for needed in ("highdicom", "nibabel"):
        pytest.importorskip(needed)
    monkeypatch.syspath_prepend(HOUSE)
    import dicom_cases

    return dicom_cases


@pytest.fixture
def series(tmp_path, truth):
    """A smooth volume on disk, its stacks as the judge sees them, and a volume that holds exactly that."""
    axes = rotation(0.2, -0.4, 0.9)
    z, y, x = np.indices((12, 30, 32))
    values = np.rint(300 * np.sin(x / 3) * np.cos(y / 4) + 200 * np.sin(z / 1.7)).astype(np.int16)
    write_series(tmp_path, values, spacing=(GAP, DOWN, ALONG), axes=axes, origin=(0, 0, 0))
    affine = np.eye(4)
    affine[:3, :3] = axes[:, ::-1] * [GAP, DOWN, ALONG]
    return truth.stacks_of(truth.planes_of(tmp_path)), truth.Made(values, affine)


def moved(made, change):
    """The same numbers at places that are changed by a 4 x 4 matrix in index space."""
    return dataclasses.replace(made, affine=made.affine @ change)


def test_the_very_slices_at_their_places_are_right(series, truth):
    stacks, made = series
    assert truth.judge(made, stacks) == "right"
    back_to_front = np.diag([-1.0, 1, 1, 1])
    back_to_front[0, 3] = 11
    same = dataclasses.replace(moved(made, back_to_front), array=made.array[::-1])
    assert truth.judge(same, stacks) == "right", "an order of slices is no place"
    assert [truth.is_sound(stack) for stack in stacks] == [True]
    assert truth.in_words(stacks[0]) == "12 x 30 x 32, gaps 1.500 x11 mm"


@pytest.mark.parametrize(
    "fault", ["spacing", "origin", "order", "shear", "turned", "values", "one slice's values"]
)
def test_every_kind_of_fault_is_found(series, truth, fault):
    stacks, made = series
    change, array = np.eye(4), made.array.copy()
    if fault == "spacing":
        change[0, 0] = 1.1
    elif fault == "origin":
        change[1, 3] = 2.0
    elif fault == "order":
        array = array[::-1]
    elif fault == "shear":
        change[1, 0] = 0.6
    elif fault == "turned":
        array = array[:, ::-1]
    elif fault == "values":
        array = array + 3000
    else:
        array[4] += 5
    wrong = dataclasses.replace(moved(made, change), array=array)
    verdict = truth.judge(wrong, stacks)
    assert verdict not in truth.GOOD or (fault == "one slice's values" and verdict == "right, resampled")


@pytest.mark.parametrize("off_mm", [0.0, 1.0])
def test_a_resampled_volume_is_judged_by_its_place(series, truth, off_mm):
    from scipy.ndimage import zoom

    stacks, made = series
    fine = zoom(made.array.astype(float), (2, 1, 1), order=3, grid_mode=False)
    change = np.diag([11 / 23, 1, 1, 1.0])
    change[1, 3] = off_mm / DOWN
    verdict = truth.judge(truth.Made(fine, made.affine @ change), stacks)
    assert verdict == ("wrong" if off_mm else "right, resampled")


def test_pictures_without_geometry_make_no_volume(tmp_path, truth):
    bare = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": None}
    one = slice_dataset(np.zeros((8, 8), np.int16), (0, 0, 0))
    for tag in bare:
        delattr(one, tag)
    one.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    stacks = truth.stacks_of(truth.planes_of(tmp_path))
    assert truth.judge(truth.Made(np.zeros((1, 8, 8)), np.eye(4)), stacks) == "makes geometry up"


def test_a_fault_of_this_program_fails_the_script(cases):
    for verdict in ("silently wrong", "wrong, with a warning", "refused, though sound"):
        bad = cases.Cell(verdict, "", "")
        row = cases.Row("X", "", dict.fromkeys(cases.COLUMNS, bad))
        assert len(cases.faults_of(row)) == 2
    good = cases.Row("X", "", dict.fromkeys(cases.COLUMNS, cases.Cell("refused", "", "")))
    assert cases.faults_of(good) == []


EXPECTED = {
    "N01": ("refused", "right, resampled", True),
    "N05": ("refused", "right, resampled", True),
    "N06": ("refused", "refused", True),
    "N10": ("right", "right", False),
    "N12": ("refused", "refused", False),
    "N16": ("refused", "refused", True),
    "N26": ("refused", "refused", True),
    "N30": ("refused", "refused", False),
    "N31": ("right", "right", False),
    "N35": ("refused", "refused", True),
}
"""What qctrun makes of a case without and with --allow-resample, and whether SimpleITK's reader is wrong."""


@pytest.mark.data
@pytest.mark.parametrize("name", EXPECTED)
def test_qctrun_is_silently_wrong_on_no_hard_case(cases, data, name):
    (source,) = [path for path in cases.cases(data) if f"/{name}_" in str(path)]
    row = cases.row_of(source)
    assert cases.faults_of(row) == []
    plain, allowed, theirs = EXPECTED[name]
    assert [row.cells[column].verdict for column in cases.COLUMNS[:2]] == [plain, allowed]
    assert ("wrong" in row.cells["SimpleITK"].verdict) == theirs


@pytest.mark.data
@pytest.mark.slow
def test_the_page_is_up_to_date(cases, data):
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    words = [sys.executable, str(HOUSE / "dicom_cases.py"), "--check"]
    # The script's neighbours are found beside it, also where the interpreter leaves a script's folder out.
    env = {**os.environ, "PYTHONPATH": str(HOUSE)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
