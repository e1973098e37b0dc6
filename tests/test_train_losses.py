"""The losses: the paper's numbers, the parameters against float64 sums, the gradient against differences."""

import numpy as np
import pytest

import oracles

torch = pytest.importorskip("torch")

from qctrun.train.losses import (  # noqa: E402
    NNSP_WEIGHTS,
    THRESHOLDS_MG_CM3,
    ParameterLoss,
    PatchSphere,
    scales_of,
    softly_positive,
    threshold_weights,
)

SPACING_MM = (0.34, 0.172, 0.172)
OUTPUT = (13, 25, 25)


def bone_like(batch, seed=0, size=OUTPUT):
    """Densities from marrow to bone, so that every threshold divides them."""
    return np.random.default_rng(seed).gamma(1.0, 150.0, (batch, 1, *size)) - 30


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def test_thresholds_are_125_to_325():
    assert THRESHOLDS_MG_CM3 == (125, 150, 175, 200, 225, 250, 275, 300, 325)


def test_threshold_weights_of_the_paper():
    b = threshold_weights(torch.tensor(THRESHOLDS_MG_CM3, dtype=torch.float64)).numpy()
    half = [0.0817, 0.1016, 0.1188, 0.1305]
    np.testing.assert_allclose(b, [*half, 0.1347, *half[::-1]], atol=5e-5)
    assert b.sum() == pytest.approx(1)


def test_loss_uses_the_threshold_weights():
    loss = ParameterLoss(PatchSphere(SPACING_MM))
    np.testing.assert_allclose(loss.by_threshold[[0, 4, 8]], [0.0817, 0.1347, 0.0817], atol=5e-5)


def test_mixture_is_the_paper_s():
    assert NNSP_WEIGHTS == {"TMD": 0.64, "BVTV": 0.32, "BMD": 0.04}
    assert sum(NNSP_WEIGHTS.values()) == pytest.approx(1)


@pytest.mark.parametrize(("x", "value"), [(0.0, 1.313e-4), (3.5e-4, 3.579e-4)])
def test_softly_positive_of_the_paper(x, value):
    assert softly_positive(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(value, abs=5e-8)


def test_softly_positive_is_the_oracle_s():
    x = np.concatenate([np.linspace(-1e-3, 2e-3, 301), np.linspace(0, 1, 101)])
    found = softly_positive(tensor(x)).numpy()
    np.testing.assert_allclose(found, oracles.plus_e(x), rtol=1e-12)
    assert (found >= 1e-4).all()
    assert np.all(np.diff(found[:301]) >= 0)


def test_one_sphere_fills_the_output_patch():
    sphere = PatchSphere(SPACING_MM)
    assert tuple(sphere.size) == OUTPUT
    assert len(sphere.inside) == 4125


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-6), (np.float32, 2e-5)])
def test_parameters_against_the_maps_oracle(dtype, rtol):
    """The one voxel of the output patch's middle, in the maps of the brute-force oracle."""
    patches = bone_like(4)
    found = PatchSphere(SPACING_MM).parameters(tensor(patches.astype(dtype)))
    assert found.bmd.shape == (4,)
    assert found.bvtv.shape == found.tmd.shape == (4, 9)
    for index, patch in enumerate(patches):
        maps = oracles.local_maps(patch[0], SPACING_MM, THRESHOLDS_MG_CM3)
        middle = (6, 12, 12)
        np.testing.assert_allclose(found.bmd[index], maps["BMD"][middle], rtol=rtol)
        for k, t in enumerate(THRESHOLDS_MG_CM3):
            np.testing.assert_allclose(found.bvtv[index, k], maps["BVTV", t][middle], rtol=rtol)
            np.testing.assert_allclose(found.tmd[index, k], maps["TMD", t][middle], rtol=rtol)


@pytest.mark.parametrize("density", [-500.0, 0.0, 225.0, 3000.0])
def test_parameters_of_a_constant_patch(density):
    found = PatchSphere(SPACING_MM, thresholds_mg_cm3=(225.0,)).parameters(
        torch.full((1, 1, *OUTPUT), density, dtype=torch.float64)
    )
    bone = float(oracles.soft_step(density - 225))
    assert found.bmd.item() == pytest.approx(density, rel=1e-5)
    assert found.bvtv.item() == pytest.approx(bone, rel=1e-5, abs=1e-12)
    assert found.tmd.item() == pytest.approx(density * bone / float(oracles.plus_e(bone)), rel=1e-5, abs=1e-9)


def test_corners_outside_of_the_sphere_do_not_count():
    patches = tensor(bone_like(1))
    changed = patches.clone()
    changed[..., 0, 0, 0] += 1e4
    sphere = PatchSphere(SPACING_MM)
    assert torch.equal(sphere.parameters(patches).tmd, sphere.parameters(changed).tmd)


def test_another_patch_size_is_refused():
    with pytest.raises(ValueError, match=r"\(13, 25, 25\), got \(21, 41, 41\)"):
        PatchSphere(SPACING_MM).parameters(torch.zeros(1, 1, 21, 41, 41))


def by_hand(output, truth, scales):
    """Eq. 10-12 in NumPy, patch by patch."""
    ball = oracles.sphere(SPACING_MM, 4.3)
    b = np.exp(-0.5 * ((np.array(THRESHOLDS_MG_CM3) - 225) / 100) ** 2)
    b /= b.sum()

    def measured(patch):
        v = patch[0][ball]
        h = oracles.soft_step(v - np.array(THRESHOLDS_MG_CM3)[:, None])
        return v.mean(), h.mean(1), (v * h).mean(1) / oracles.plus_e(h.mean(1))

    got, want = ([measured(patch) for patch in side] for side in (output, truth))
    squares = [
        [(g - w) ** 2 for g, w in zip(one, other, strict=True)] for one, other in zip(got, want, strict=True)
    ]
    bmd, bvtv, tmd = (np.mean([square[k] for square in squares], axis=0) for k in range(3))
    terms = {"BMD": float(bmd), "BVTV": float(b @ bvtv), "TMD": float(b @ tmd)}
    return terms, sum({"TMD": 0.64, "BVTV": 0.32, "BMD": 0.04}[k] * scales[k] * terms[k] for k in terms)


def test_loss_by_hand():
    output, truth = bone_like(3, 1), bone_like(3, 2)
    scales = {"TMD": 0.002, "BVTV": 300.0, "BMD": 0.01}
    loss = ParameterLoss(PatchSphere(SPACING_MM), scales=scales)
    terms, total = by_hand(output, truth, scales)
    found = loss.terms(tensor(output), tensor(truth))
    assert {name: value.item() for name, value in found.items()} == pytest.approx(terms, rel=1e-5)
    assert loss(tensor(output), tensor(truth)).item() == pytest.approx(total, rel=1e-5)


def test_truth_costs_nothing():
    truth = tensor(bone_like(2))
    assert ParameterLoss(PatchSphere(SPACING_MM))(truth, truth).item() == 0


def test_scales_make_unfiltered_losses_average_one():
    sphere = PatchSphere(SPACING_MM)
    batches = [(tensor(bone_like(2, k) + 40 * k), tensor(bone_like(2, 50 + k))) for k in range(5)]
    loss = ParameterLoss(sphere)
    loss.scales = scales_of([loss.terms(*batch) for batch in batches])
    means = {
        name: np.mean([loss.scales[name] * loss.terms(*batch)[name].item() for batch in batches])
        for name in NNSP_WEIGHTS
    }
    assert means == pytest.approx({"TMD": 1, "BVTV": 1, "BMD": 1})
    assert np.mean([loss(*batch).item() for batch in batches]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["TMD", "BVTV", "BMD"])
def test_gradient_by_finite_differences(name):
    """Along random directions and at single voxels, each loss alone, float64."""
    loss = ParameterLoss(PatchSphere(SPACING_MM), weights={name: 1.0}, scales={name: 1.0})
    truth, output = tensor(bone_like(2, 3)), tensor(bone_like(2, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(output, truth), output)
    rng = np.random.default_rng(0)
    ways = [tensor(rng.standard_normal(output.shape)) for _ in range(3)]
    single = torch.zeros_like(output).flatten()
    single[gradient.abs().argmax()] = 1
    for way, step in [*((way, 1e-3) for way in ways), (single.view_as(output), 0.1)]:
        with torch.no_grad():
            slope = (loss(output + step * way, truth) - loss(output - step * way, truth)) / (2 * step)
        assert (gradient * way).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_gradient_is_finite_without_any_bone():
    loss = ParameterLoss(PatchSphere(SPACING_MM))
    output = torch.full((1, 1, *OUTPUT), -2000.0, requires_grad=True)
    loss(output, torch.full((1, 1, *OUTPUT), 100.0)).backward()
    assert torch.isfinite(output.grad).all()
