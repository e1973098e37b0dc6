"""Muon for the hidden layers, Adam for the rest: against their definitions, and resumed."""

import copy

import numpy as np
import pytest
from tiny_training import recipe

torch = pytest.importorskip("torch")

from qctrun.train.network import NNSP  # noqa: E402
from qctrun.train.optimizers import MuonWithAdam  # noqa: E402
from qctrun.train.state import started  # noqa: E402

RATE = 0.01
MUON = recipe(optimizer="muon", channels=(4, 3, 2, 2, 3), learning_rate=RATE)


def network():
    return started(MUON, None, "cpu").network


def give_gradients(of, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in of.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def moved(optimizer, of, steps, seed=0):
    """The weights after so many steps along random gradients."""
    for step in range(steps):
        give_gradients(of, seed + step)
        optimizer.step()
    return [weight.detach().clone() for weight in of.parameters()]


def test_the_first_step_of_a_hidden_layer_is_nearly_orthogonal_and_as_large_as_adams():
    net = network()
    before = [layer.weight.detach().clone() for layer in net.layers]
    moved(MuonWithAdam(net, RATE), net, 1)
    for layer, old in list(zip(net.layers, before, strict=True))[1:-1]:
        matrix = (old - layer.weight.detach()).permute(0, 2, 3, 4, 1).flatten(1).double().numpy()
        rows, columns = matrix.shape
        size = RATE * 0.2 * np.sqrt(max(rows, columns))
        values = np.linalg.svd(matrix, compute_uv=False) / size
        assert np.all((values > 0.6) & (values < 1.3))
        assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.2 * RATE, rel=0.3)


def test_a_hidden_layers_step_points_along_the_nearest_orthogonal_matrix():
    net = network()
    old = net.layers[1].weight.detach().clone()
    give_gradients(net, 3)
    gradient = net.layers[1].weight.grad.permute(0, 2, 3, 4, 1).flatten(1).double().numpy()
    MuonWithAdam(net, RATE).step()
    step = (old - net.layers[1].weight.detach()).permute(0, 2, 3, 4, 1).flatten(1).double().numpy()
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    polar = left @ right
    cosine = np.sum(step * polar) / np.linalg.norm(step) / np.linalg.norm(polar)
    assert cosine > 0.97


def test_first_and_last_layer_and_biases_move_as_with_adam():
    net, twin = network(), network()
    got = moved(MuonWithAdam(net, RATE), net, 3)
    want = moved(torch.optim.Adam(twin.parameters(), lr=RATE), twin, 3)
    names = [name for name, _ in net.named_parameters()]
    hidden = {f"layers.{i}.weight" for i in range(1, 5)}
    same = {name for name, a, b in zip(names, got, want, strict=True) if torch.equal(a, b)}
    assert same == set(names) - hidden


def test_the_rate_of_the_group_moves_both_parts():
    net = network()
    optimizer = MuonWithAdam(net, RATE)
    optimizer.param_groups[0]["lr"] = 0.0
    before = [weight.detach().clone() for weight in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, moved(optimizer, net, 2), strict=True))


def test_a_resumed_run_is_the_same():
    state = started(MUON, None, "cpu")
    moved(state.optimizer, state.network, 3)
    kept = copy.deepcopy(state.parts())
    want = moved(state.optimizer, state.network, 2, seed=7)
    again = started(MUON, None, "cpu")
    again.network.load_state_dict(kept["weights"])
    again.optimizer.load_state_dict(kept["optimizer"])
    got = moved(again.optimizer, again.network, 2, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_weights_that_would_be_copied_are_refused():
    with pytest.raises(ValueError, match="channels-last"):
        MuonWithAdam(NNSP((4, 3, 2, 2, 3)), RATE)
