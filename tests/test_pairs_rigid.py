"""Rigid transforms: hand cases, the group, and SimpleITK's own idea of the same."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qctrun.runtime.errors import InputError
from qctrun.train.pairs.rigid import Rigid, angle_between, distance

QUARTER_ABOUT_Z = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
POINTS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [3, -4, 5]])

angles = st.floats(-180, 180)
shifts = st.floats(-1000, 1000)


def rigid(turn: tuple[float, ...], shift: tuple[float, ...]) -> Rigid:
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    return Rigid(tuple(matrix.ravel()), tuple(shift))


rigids = st.builds(rigid, st.tuples(angles, angles, angles), st.tuples(shifts, shifts, shifts))


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    moved = Rigid(QUARTER_ABOUT_Z, (10.0, 0.0, 0.0)).points(POINTS)
    np.testing.assert_allclose(moved, [[10, 0, 0], [10, 1, 0], [9, 0, 0], [10, 0, 1], [14, 3, 5]])


def test_the_last_to_be_said_is_the_first_to_be_done() -> None:
    turn, shift = Rigid(QUARTER_ABOUT_Z), Rigid(offset_mm=(1.0, 0.0, 0.0))
    np.testing.assert_allclose(turn.after(shift).points([[0, 0, 0]]), [[0, 1, 0]])
    np.testing.assert_allclose(shift.after(turn).points([[0, 0, 0]]), [[1, 0, 0]])


@given(rigids, rigids)
@settings(max_examples=30, deadline=None)
def test_inverse_and_order(one: Rigid, other: Rigid) -> None:
    np.testing.assert_allclose(one.inverse().points(one.points(POINTS)), POINTS, atol=1e-9)
    np.testing.assert_allclose(one.after(other).points(POINTS), one.points(other.points(POINTS)), atol=1e-9)


@given(rigids)
@settings(max_examples=30, deadline=None)
def test_simpleitk_moves_points_alike_and_gives_the_transform_back(one: Rigid) -> None:
    theirs = one.to_sitk()
    np.testing.assert_allclose(
        [theirs.TransformPoint(p) for p in POINTS.tolist()], one.points(POINTS), atol=1e-9
    )
    assert distance(Rigid.from_sitk(theirs), one, POINTS)[1] < 1e-8


def test_a_euler_transform_about_a_centre_keeps_its_points() -> None:
    euler = sitk.Euler3DTransform((5.0, -7.0, 300.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    expected = [euler.TransformPoint(p) for p in POINTS.tolist()]
    np.testing.assert_allclose(Rigid.from_sitk(euler).points(POINTS), expected, atol=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 0.1, 30.0, 90.0, 179.9])
def test_angles_large_and_tiny(degrees: float) -> None:
    base = rigid((20.0, 30.0, -40.0), (1.0, 2.0, 3.0))
    turned = base.after(rigid((0.0, degrees, 0.0), (4.0, 5.0, 6.0)))
    assert angle_between(base, turned) == pytest.approx(degrees, abs=1e-6)
    assert rigid((degrees, 0.0, 0.0), (0.0, 0.0, 0.0)).angle_deg == pytest.approx(degrees, abs=1e-6)


def test_distance_is_mean_and_largest() -> None:
    mean, most = distance(Rigid(), Rigid(QUARTER_ABOUT_Z), [[0, 0, 9], [1, 0, 0], [2, 0, 0]])
    assert (mean, most) == pytest.approx((2**0.5, 2 * 2**0.5))


@given(rigids)
@settings(max_examples=20, deadline=None)
def test_json_takes_it_and_gives_it_back(one: Rigid) -> None:
    assert Rigid.from_dict(json.loads(json.dumps(one.as_dict()))) == one


@pytest.mark.parametrize(
    ("matrix", "offset", "word"),
    [
        ((-1.0, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 0), "mirror"),
        ((1.01, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 0), "stretches"),
        ((1.0, 0.1, 0, 0, 1, 0, 0, 0, 1), (0, 0, 0), "stretches"),
        ((1.0, 0, 0, 0, 1, 0, 0, 0), (0, 0, 0), "8 and 3 numbers"),
        ((1.0, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, float("nan")), "finite"),
    ],
)
def test_what_is_not_rigid_is_refused(
    matrix: tuple[float, ...], offset: tuple[float, ...], word: str
) -> None:
    with pytest.raises(InputError, match=word):
        Rigid(matrix, offset)


@pytest.mark.parametrize("told", [{}, {"matrix": [1.0] * 9}, {"matrix": None, "offset_mm": [0.0] * 3}])
def test_json_of_something_else_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(InputError, match="rigid transform"):
        Rigid.from_dict(told)
