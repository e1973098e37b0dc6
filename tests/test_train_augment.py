"""The sixteen symmetries of a square prism."""

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qctrun.train.augment import SYMMETRIES, augmented, turned  # noqa: E402
from qctrun.train.losses import PatchSphere  # noqa: E402

MARKED = torch.arange(3 * 4 * 4).reshape(1, 3, 4, 4)


def image(symmetry):
    """What a symmetry makes of a patch whose voxels all differ, as something that can be compared."""
    return tuple(turned(MARKED, symmetry).flatten().tolist())


def test_there_are_sixteen_and_they_differ():
    assert len(SYMMETRIES) == 16
    assert len({image(symmetry) for symmetry in SYMMETRIES}) == 16


def test_they_form_a_group():
    images = {image(symmetry): symmetry for symmetry in SYMMETRIES}
    assert tuple(MARKED.flatten().tolist()) in images
    for first in SYMMETRIES:
        products = {tuple(turned(turned(MARKED, first), second).flatten().tolist()) for second in SYMMETRIES}
        assert products == set(images)


def test_slices_stay_slices():
    """Axial: a slice is turned as a whole and lands in its own place or in its mirror's."""
    heights = torch.arange(5.0)[:, None, None].expand(5, 7, 7)
    for symmetry in SYMMETRIES:
        found = turned(heights, symmetry)
        assert torch.equal(found, heights) or torch.equal(found, heights.flip(0))


def test_spheres_measure_the_same():
    patch = torch.from_numpy(np.random.default_rng(0).normal(200, 150, (1, 1, 13, 25, 25)))
    sphere = PatchSphere((0.34, 0.172, 0.172))
    want = sphere.parameters(patch)
    for symmetry in SYMMETRIES:
        got = sphere.parameters(turned(patch, symmetry))
        for name in ("bmd", "bvtv", "tmd"):
            torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-12, atol=1e-12)


def test_scan_and_truth_are_turned_alike():
    """The truth is the scan's inner part before, so it has to be its inner part after."""
    scans = torch.from_numpy(np.random.default_rng(1).standard_normal((40, 1, 9, 21, 21)))
    inner = (..., slice(2, -2), slice(4, -4), slice(4, -4))
    turned_scans, turned_truths = augmented((scans, scans[inner]), torch.Generator().manual_seed(0))
    assert turned_scans.shape == scans.shape
    assert torch.equal(turned_scans[inner], turned_truths)
    assert not torch.equal(turned_scans, scans)


def test_each_item_gets_any_symmetry_evenly():
    batch = MARKED[None].expand(3200, -1, -1, -1, -1)
    (found,) = augmented((batch,), torch.Generator().manual_seed(0))
    counts = Counter(tuple(item.flatten().tolist()) for item in found)
    assert set(counts) == {image(symmetry) for symmetry in SYMMETRIES}
    assert 130 < min(counts.values()) <= max(counts.values()) < 270


def test_same_seed_same_turns():
    batch = torch.from_numpy(np.random.default_rng(2).standard_normal((8, 1, 3, 5, 5)))
    first, again, other = (augmented((batch,), torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
