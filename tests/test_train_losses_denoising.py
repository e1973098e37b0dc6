"""The plain-denoising loss: its maps against the brute-force oracle, its mixture, its gradient."""

import numpy as np
import pytest

import oracles

torch = pytest.importorskip("torch")

from qctrun.train.losses import (  # noqa: E402
    NNBMD_WEIGHTS,
    DenoisingLoss,
    ParameterLoss,
    SphereMeans,
    local_sd,
    loss_of,
    scales_of,
)
from qctrun.train.recipe import Recipe  # noqa: E402

SPACING_MM = (0.34, 0.172, 0.172)
OUTPUT = (13, 25, 25)
SPHERES = {0.516: (9, (13, 23, 23)), 1.548: (193, (9, 17, 17)), 2.924: (1321, (5, 9, 9))}


def bone_like(batch, seed=0):
    return np.random.default_rng(seed).gamma(1.0, 150.0, (batch, 1, *OUTPUT)) - 30


def valid(maps):
    """The part of an oracle's map that has values."""
    inside = ~np.isnan(maps)
    corner, end = np.argwhere(inside).min(axis=0), np.argwhere(inside).max(axis=0) + 1
    return maps[tuple(slice(a, b) for a, b in zip(corner, end, strict=True))]


def by_oracle(output, truth):
    """L_f / a_f, map by map."""
    squares = {name: [] for name in NNBMD_WEIGHTS}
    for one, other in zip(output, truth, strict=True):
        squares["voxel"].append((one - other) ** 2)
        for name, diameter in (("BMD 0.516 mm", 0.516), ("BMD 1.548 mm", 1.548), ("SD 2.924 mm", 2.924)):
            got, want = (
                valid(oracles.local_maps(side[0], SPACING_MM, (), diameter)[name[:3].strip()])
                for side in (one, other)
            )
            squares[name].append((got - want) ** 2)
    return {name: float(np.mean(values)) for name, values in squares.items()}


def test_mixture_of_the_paper():
    wanted = {"voxel": 0.4, "BMD 0.516 mm": 0.1, "BMD 1.548 mm": 0.1, "SD 2.924 mm": 0.4}
    assert wanted == NNBMD_WEIGHTS
    assert sum(NNBMD_WEIGHTS.values()) == pytest.approx(1)


@pytest.mark.parametrize("diameter", SPHERES)
@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-9), (np.float32, 1e-3)])
def test_maps_against_the_oracle(diameter, dtype, atol):
    """Every voxel around which the sphere lies inside, and no other."""
    patches = bone_like(2)
    voxels, size = SPHERES[diameter]
    sphere = SphereMeans(SPACING_MM, diameter)
    assert sphere.voxels == voxels
    given = torch.from_numpy(patches.astype(dtype))
    for name, found in (("BMD", sphere(given)), ("SD", local_sd(given, sphere))):
        assert found.shape == (2, *size)
        assert found.dtype == given.dtype
        for patch, got in zip(patches, found.numpy(), strict=True):
            want = valid(oracles.local_maps(patch[0], SPACING_MM, (), diameter)[name])
            np.testing.assert_allclose(got, want, rtol=0, atol=atol)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_terms_against_the_oracle(memory):
    output, truth = bone_like(2, 1), bone_like(2, 2)
    loss = DenoisingLoss(SPACING_MM)
    given = torch.from_numpy(output).contiguous(memory_format=memory)
    found = loss.terms(given, torch.from_numpy(truth))
    wanted = by_oracle(output, truth)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted, rel=1e-9)
    loss.scales = {"voxel": 2.0, "BMD 0.516 mm": 3.0, "BMD 1.548 mm": 5.0, "SD 2.924 mm": 7.0}
    total = sum(NNBMD_WEIGHTS[name] * loss.scales[name] * wanted[name] for name in wanted)
    assert float(loss(given, torch.from_numpy(truth))) == pytest.approx(total, rel=1e-9)


def test_sd_by_hand():
    """One voxel in a patch of zeros: SD is h / sqrt(n) wherever the sphere holds it, and 0 elsewhere (Eq. 9)."""
    patch = torch.zeros(1, 1, *OUTPUT, dtype=torch.float64)
    patch[0, 0, 6, 12, 12] = 300.0
    found = local_sd(patch, SphereMeans(SPACING_MM, 1.548))
    ball = oracles.sphere(SPACING_MM, 1.548)
    assert int((found > 1e-6).sum()) == ball.sum() == 193
    np.testing.assert_allclose(found[found > 1e-6], 300 / np.sqrt(193), rtol=1e-9)


def test_sd_sees_no_constant():
    patch = torch.from_numpy(bone_like(1).astype(np.float32))
    sphere = SphereMeans(SPACING_MM, 2.924)
    torch.testing.assert_close(local_sd(patch + 3000, sphere), local_sd(patch, sphere), rtol=0, atol=0.01)


@pytest.mark.parametrize("value", [0.0, 123.4, -2000.0])
def test_gradient_is_finite_where_nothing_varies(value):
    output = torch.full((1, 1, *OUTPUT), value, requires_grad=True)
    sd = local_sd(output, SphereMeans(SPACING_MM, 2.924))
    assert float(sd.detach().max()) < 0.01
    DenoisingLoss(SPACING_MM)(output, torch.from_numpy(bone_like(1).astype(np.float32))).backward()
    assert torch.isfinite(output.grad).all()


@pytest.mark.parametrize("name", NNBMD_WEIGHTS)
def test_gradient_by_finite_differences(name):
    loss = DenoisingLoss(SPACING_MM, weights={name: 1.0}, scales={name: 1.0})
    truth, output = (torch.from_numpy(bone_like(2, seed)) for seed in (3, 4))
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(output, truth), output)
    rng = np.random.default_rng(0)
    for _ in range(3):
        way = torch.from_numpy(rng.standard_normal(output.shape))
        with torch.no_grad():
            slope = (loss(output + 1e-3 * way, truth) - loss(output - 1e-3 * way, truth)) / 2e-3
        assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_truth_costs_nothing():
    truth = torch.from_numpy(bone_like(2))
    assert float(DenoisingLoss(SPACING_MM)(truth, truth)) == 0


def test_scales_make_unfiltered_losses_average_one():
    batches = [tuple(torch.from_numpy(bone_like(2, seed)) for seed in (k, 50 + k)) for k in range(3)]
    loss = DenoisingLoss(SPACING_MM)
    loss.scales = scales_of([loss.terms(*batch) for batch in batches])
    assert np.mean([float(loss(*batch)) for batch in batches]) == pytest.approx(1)


def test_the_recipe_picks_the_loss():
    first, second = loss_of(Recipe()), loss_of(Recipe(loss="nnbmd"))
    assert isinstance(first, ParameterLoss)
    assert isinstance(second, DenoisingLoss)
    assert first.sphere.size == OUTPUT
    assert second.weights == NNBMD_WEIGHTS
    mixed = loss_of(Recipe(loss="nnbmd", weights={"voxel": 1.0}))
    output, truth = (torch.from_numpy(bone_like(1, seed)) for seed in (5, 6))
    assert float(mixed(output, truth)) == pytest.approx(float(torch.mean((output - truth) ** 2)))
