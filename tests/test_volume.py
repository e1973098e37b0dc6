"""The values that all rooms share: what a grid takes, keeps and refuses."""

import numpy as np
import pytest

from qctrun.runtime import Grid, Volume
from qctrun.runtime.errors import InputError, QctrunError
from qctrun.runtime.volume import require_finite

AXES = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_a_grid_of_any_sequences_is_the_same_grid(kind):
    plain = Grid((3, 4, 5), (1.0, 0.5, 0.25), (1.0, 2.0, 3.0), tuple(AXES.ravel().tolist()))
    given = Grid(kind([3, 4, 5]), kind([1, 0.5, 0.25]), kind([1, 2, 3]), kind(AXES.ravel()))
    assert given == plain and hash(given) == hash(plain) and not given.difference(plain)
    assert Grid((3, 4, 5), (1.0, 0.5, 0.25), (1.0, 2.0, 3.0), AXES) == plain
    assert [type(n) for n in given.size] == [int] * 3
    for numbers in (given.spacing, given.origin, given.direction):
        assert isinstance(numbers, tuple) and {type(n) for n in numbers} == {float}


def test_a_volume_on_a_grid_of_lists_can_be_used():
    volume = Volume(np.zeros((3, 4, 5)), Grid([3, 4, 5], [1, 1, 1]), "mg/cm3", "HA")
    assert volume.grid.size == volume.array.shape


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": (30.5, 4, 5)}, r"size: wanted three positive whole numbers.*got \(30\.5, 4, 5\)"),
        ({"size": 3}, "size: wanted three positive whole numbers"),
        ({"size": (0, 4, 5)}, "size"),
        ({"size": "345"}, "size"),
        ({"size": (3, 4, None)}, "size"),
        ({"size": ((3, 4), 5)}, "size"),
        ({"spacing": 1.0}, r"spacing: wanted three positive numbers of mm \(z, y, x\), got 1\.0"),
        ({"spacing": (1, 1, 0)}, "spacing"),
        ({"spacing": (1, 1, np.nan)}, "spacing"),
        ({"spacing": ("1", "1", "1")}, "spacing"),
        ({"origin": (1, 2)}, "origin: wanted three finite numbers"),
        ({"origin": None}, "origin"),
        ({"direction": np.ones((3, 3))}, "direction: wanted three perpendicular unit axes"),
        ({"direction": 1.0}, "direction"),
        ({"direction": "RAS"}, "direction"),
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(changes, match):
    with pytest.raises(InputError, match=match) as caught:
        Grid(**{"size": (3, 4, 5), "spacing": (1, 1, 1), **changes})
    assert isinstance(caught.value, QctrunError) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("count", "words"), [(1, "got 1 voxel of NaN"), (2, "got 2 voxels of NaN")])
def test_voxels_that_are_not_finite_are_counted(count, words):
    array = np.zeros((2, 3, 4), np.float32)
    array[1, 2, :count] = np.nan
    with pytest.raises(InputError, match=rf"{words} or infinity, the first at .* \(1, 2, 0\)") as caught:
        require_finite(array, "volume")
    assert "HU" not in str(caught.value)
