"""Landmarks: a small CSV file, and the usual slips told by name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import Grid
from qctrun.train.pairs.landmarks import OUTSIDE_MM, Landmarks, read_landmarks, require_inside

HEAD = "reference_x,reference_y,reference_z,scan_x,scan_y,scan_z\n"
ROWS = "1,2,3,4,5,6\n7,8,9,10,11,12\n-1,-2.5,0,1e1,0,0\n"
REFERENCE = Grid((40, 50, 60), (0.5, 0.4, 0.4), (20.0, 30.0, 50.0))
SCAN = Grid((60, 80, 80), (0.4, 0.3, 0.3), (-90.0, 40.0, -700.0))


def points_of(grid: Grid) -> Landmarks:
    index = np.array([[0.1, 0.2, 0.3], [0.8, 0.3, 0.4], [0.5, 0.9, 0.7]]) * grid.size
    return np.array([grid.world((z, y, x)) for z, y, x in index.tolist()])


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "points.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_are_read_by_the_names_of_their_columns(tmp_path: Path) -> None:
    found = read_landmarks(written(tmp_path, HEAD + ROWS, "utf-8-sig"))
    np.testing.assert_array_equal(found, [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [-1, -2.5, 0, 10, 0, 0]])
    turned = "scan_z,scan_y,scan_x,note,reference_x,reference_y,reference_z\n" + "6,5,4,tip,1,2,3\n" * 3
    np.testing.assert_array_equal(read_landmarks(written(tmp_path, turned))[2], [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD.replace(",", ";") + ROWS.replace(",", ";"), "no reference_x in 'reference_x;reference_y"),
        (HEAD + '"1,5",2,3,4,5,6\n' * 3, "line 2: reference_x: wanted a finite number of mm, got '1,5'"),
        (HEAD + "1,5,2,5,3,5,4,5,5,5,6,5\n" * 3, "line 2: wanted 6 values, got more; write 1.5"),
        (HEAD + "1,2,3,4,5\n" * 3, "line 2: scan_z"),
        (HEAD + "1,2,3,4,5,nan\n" * 3, "scan_z"),
        (HEAD + "1,2,3,4,5,6\n" * 2, "3 points or more, got 2"),
        ("", "no reference_x"),
        ("\0" * 100, "small CSV"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_landmarks(written(tmp_path, text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="UTF-8"):
        read_landmarks(written(tmp_path, HEAD + ROWS, "utf-16"))
    with pytest.raises(InputError, match="cannot be read"):
        read_landmarks(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("slip", "words"),
    [
        (lambda reference, scan: (reference, scan * [-1, -1, 1]), "points of the scan.*seem to be RAS"),
        (lambda reference, scan: (reference * [-1, -1, 1], scan * [-1, -1, 1]), "of the reference.*RAS"),
        (lambda reference, scan: (scan, reference), "exchanged"),
        (lambda reference, scan: (reference, scan[:, ::-1]), "order z, y, x"),
        (lambda reference, scan: (reference / 1000, scan / 1000), "metres"),
        (lambda reference, scan: (reference / 10, scan / 10), "cm: give mm"),
        (lambda reference, scan: (reference + 500, scan), "these two images"),
    ],
)
def test_slips_are_named(slip, words: str) -> None:
    right = points_of(REFERENCE), points_of(SCAN)
    require_inside(np.column_stack(right), REFERENCE, SCAN)
    with pytest.raises(InputError, match=words) as caught:
        require_inside(np.column_stack(slip(*right)), REFERENCE, SCAN)
    assert "3 of 3 outside" in str(caught.value)


def test_where_points_should_lie_is_told() -> None:
    with pytest.raises(InputError, match=r"x -90 to -66, y 40 to 64, z -700 to -676 mm \(LPS\)"):
        require_inside(np.column_stack([points_of(REFERENCE), points_of(SCAN) + 500]), REFERENCE, SCAN)


@given(st.tuples(*[st.floats(0, 1)] * 3), st.integers(0, 2), st.sampled_from([-1, 1]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_inside_is_along_the_axes_of_the_image(
    share: tuple[float, ...], axis: int, side: int, seed: int
) -> None:
    """A point of a tilted image is inside, and outside when it is moved beyond a face."""
    axes = Rotation.random(random_state=seed).as_matrix()
    grid = Grid((40, 50, 60), (0.5, 0.4, 0.3), (-100.0, 7.0, 900.0), tuple(axes.ravel()))
    z, y, x = (np.array(share) * (np.array(grid.size) - 1)).tolist()
    inside = np.array([grid.world((z, y, x))])
    require_inside(np.column_stack([inside, inside]), grid, grid)
    length = (np.array(grid.size[::-1]) - 1) * grid.spacing[::-1]
    beyond = inside + side * (length[axis] + OUTSIDE_MM + 0.1) * axes[:, axis]
    with pytest.raises(InputError, match="1 of 1 outside"):
        require_inside(np.column_stack([inside, beyond]), grid, grid)
