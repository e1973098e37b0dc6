"""The edges of whole numbers: where 32 bits end and where 64 do."""

from fractions import Fraction

import numpy as np
import pytest

from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring.kernels import cpu, fixed_point
from qctrun.runtime.measuring.sphere import Sphere


def middle(sphere, array, thresholds=(225.0,), fuzzy=False):
    """BMD, SD, BV/TV and TMD of the one sphere in an array of its size."""
    wanted = np.zeros(sphere.size, bool)
    wanted[sphere.half_size] = True
    bmd, sd, bvtv, tmd = cpu.measure(array, wanted, sphere.half_widths, thresholds, fuzzy, 1, None)
    return [float(each[sphere.half_size]) for each in (bmd, sd, bvtv[0], tmd[0])]


def test_spheres_of_half_a_million_voxels_hold_all_densities_and_two_million_half_of_them():
    fixed_point.density(-65536, 65536, 2**19 - 1, 1)
    fixed_point.density(-32768, 32768, 2_000_000, 1)
    with pytest.raises(InputError, match="sphere: wanted fewer voxels"):
        fixed_point.density(-65536, 65536, 2**19, 1)


def test_the_largest_sphere_of_the_largest_densities_is_right_to_the_last_bit():
    """10 mm on 0.1 mm voxels: 523305 of the 524287 voxels whose squares 64 bits hold."""
    sphere = Sphere((0.1, 0.1, 0.1), 10.0)
    array = np.random.default_rng(0).choice([-65536.0, 65536.0], sphere.size).astype(np.float32)
    high = int((array[sphere.mask()] > 0).sum())
    n, contrast = sphere.voxels, 131072
    bmd, sd, *_ = middle(sphere, array)
    assert bmd == np.float32(Fraction(contrast * high, n) - 65536)
    assert sd == np.float32(contrast * np.sqrt(float(Fraction(high * (n - high), n * (n - 1)))))


@pytest.mark.parametrize("quanta", range(-2, 4))
def test_discs_just_within_and_just_beyond_32_bits(quanta):
    """All of the sphere at the high end of the range, one voxel beside it at the low end."""
    sphere = Sphere((1.0, 0.1, 0.1), 4.3)
    high = (2**31 // sphere.disc_voxels - 2 + quanta) / 64
    array = np.full(sphere.size, high, np.float32)
    array[0, 0, 0] = -high
    kind = fixed_point.density(-high, high, sphere.voxels, sphere.disc_voxels).disc
    assert kind == (np.int32 if quanta <= 0 else np.int64)
    assert middle(sphere, array) == [high, 0, 1, high]


@pytest.mark.parametrize(("quarters", "kind"), [(-4, np.int32), (-1, np.int32), (1, np.int64), (4, np.int64)])
def test_excesses_just_within_and_just_beyond_32_bits(quarters, kind):
    sphere = Sphere((1.0, 0.1, 0.1), 4.3)
    switch = 225 + 2 * (2**31 // sphere.disc_voxels) / fixed_point.EXCESS_SCALE - 3
    high = (round(4 * switch) + quarters) / 4
    assert fixed_point.excess(high, 225.0, sphere.disc_voxels).disc == kind
    assert middle(sphere, np.full(sphere.size, high, np.float32)) == [high, 0, 1, high]
