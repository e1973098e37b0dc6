"""The network: its receptive field, its two sizes, and how it begins."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qctrun.train.insilico import random_field_phantom  # noqa: E402
from qctrun.train.network import (  # noqa: E402
    DEFAULT_CHANNELS,
    DENSITY_SCALE_MG_CM3,
    HALO,
    KERNELS,
    NNSP,
    crop_halo,
)

RECEPTIVE_FIELD = (9, 17, 17)


def all_pass(residual=False):
    """A network of positive weights: with positive input no ReLU closes, so every path counts."""
    network = NNSP((2, 2, 2, 2, 2), residual=residual).double()
    for layer in network.layers:
        torch.nn.init.uniform_(layer.weight, 0.1, 1.0)
        torch.nn.init.constant_(layer.bias, 0.1)
    return network


def noisy(size, seed=0, batch=1):
    numbers = np.random.default_rng(seed).normal(115, 300, (batch, 1, *size)).astype(np.float32)
    return torch.from_numpy(numbers)


def box_of(changed):
    """Extent (z, y, x) and first index of the voxels that are not zero."""
    places = np.argwhere(changed)
    return tuple(np.ptp(places, axis=0) + 1), tuple(places.min(axis=0))


def test_layers_of_the_paper():
    assert KERNELS == ((3, 5, 5), (3, 5, 5), (1, 3, 3), (3, 3, 3), (1, 3, 3), (3, 3, 3))
    assert HALO == (4, 8, 8)
    layers = NNSP().layers
    assert [tuple(layer.kernel_size) for layer in layers] == list(KERNELS)
    assert [layer.out_channels for layer in layers] == [*DEFAULT_CHANNELS, 1] == [32, 16, 8, 8, 16, 1]
    assert layers[0].in_channels == 1


def test_default_has_about_45000_weights():
    assert sum(p.numel() for p in NNSP().parameters()) == pytest.approx(45_000, rel=0.1)


@pytest.mark.parametrize("residual", [True, False])
def test_receptive_field_by_gradient(residual):
    volume = torch.full((1, 1, 21, 41, 41), 200.0, dtype=torch.float64, requires_grad=True)
    all_pass(residual)(volume)[0, 0, 6, 12, 12].backward()
    size, first = box_of(volume.grad[0, 0].numpy())
    assert size == RECEPTIVE_FIELD
    # Output voxel 6, 12, 12 of the valid result stands for input voxel 10, 20, 20.
    assert first == (10 - 4, 20 - 8, 20 - 8)


@pytest.mark.parametrize("same", [True, False])
def test_receptive_field_by_perturbation(same):
    network = all_pass()
    volume = torch.full((1, 1, 21, 41, 41), 200.0, dtype=torch.float64)
    nudged = volume.clone()
    nudged[0, 0, 10, 20, 20] += 100
    with torch.no_grad():
        size, first = box_of((network(nudged, same=same) - network(volume, same=same))[0, 0].numpy())
    assert size == RECEPTIVE_FIELD
    assert first == ((6, 12, 12) if same else (2, 4, 4))


def test_valid_patch_is_the_paper_s():
    assert NNSP()(noisy((21, 41, 41), batch=3)).shape == (3, 1, 13, 25, 25)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5), (9, 17, 17), (8, 16, 16), (7, 30, 11)])
def test_same_keeps_every_size(size):
    assert NNSP((8, 4, 4, 4, 8))(noisy(size), same=True).shape == (1, 1, *size)


@pytest.mark.parametrize("residual", [True, False])
def test_inner_part_of_same_is_valid(residual):
    network = all_pass(residual)
    volume = noisy((21, 35, 38)).double()
    with torch.no_grad():
        torch.testing.assert_close(crop_halo(network(volume, same=True)), network(volume))


def test_same_pads_every_layer_with_zeros():
    """Padding in every layer differs from padding the volume once, which is the wrong thing near a border."""
    network = all_pass()
    volume = torch.full((1, 1, 9, 17, 17), 200.0, dtype=torch.float64)
    with torch.no_grad():
        once = network(torch.nn.functional.pad(volume, (8, 8, 8, 8, 4, 4)))
        layers = volume / 300
        for index, layer in enumerate(network.layers):
            wide = torch.nn.functional.pad(
                layers, [k // 2 for k in layer.kernel_size[::-1] for _ in range(2)]
            )
            layers = torch.nn.functional.conv3d(wide, layer.weight, layer.bias)
            layers = layers if index == 5 else layers.clamp(min=0)
        found = network(volume, same=True)
    torch.testing.assert_close(found, 300 * layers)
    assert not torch.allclose(found, once)


@pytest.mark.parametrize("seed", range(5))
def test_residual_begins_near_identity(seed):
    torch.manual_seed(seed)
    volume = noisy((13, 25, 25), seed)
    with torch.no_grad():
        change = NNSP()(volume, same=True) - volume
    assert change.abs().mean() < 0.1 * volume.std()
    assert change.mean().abs() < 0.1 * volume.std()


@pytest.fixture(scope="module")
def scans():
    """Simulated scans of four vertebrae at 100 and 360 mAs, as a batch."""
    phantoms = [random_field_phantom((21, 41, 41), seed) for seed in range(4)]
    return torch.from_numpy(np.stack([p.scan(mas, 0) for p in phantoms for mas in (100, 360)])[:, None])


def open_shares(network, scans):
    """Of every hidden layer, the share of voxels (channel) that its ReLU lets through."""
    x, shares = scans / DENSITY_SCALE_MG_CM3, []
    with torch.no_grad():
        for layer in network.layers[:-1]:
            x = torch.nn.functional.conv3d(x, layer.weight, layer.bias).clamp(min=0)
            shares.append((x > 0).float().mean(dim=(0, 2, 3, 4)))
    return shares


@pytest.mark.parametrize("seed", range(0, 20, 4))
def test_every_layer_begins_to_learn(scans, seed):
    """No layer is dead as a whole: most channels are open somewhere, and a gradient reaches the first layer."""
    torch.manual_seed(seed)
    network = NNSP()
    for share in open_shares(network, scans):
        assert (share > 0).float().mean() >= 0.75
        assert share.max() > 0.1
    torch.mean(network(scans[:2]) ** 2).backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in network.layers)


def test_no_relu_begins_dead(scans):
    """What `start_alive` promises, channel by channel, whatever the seed."""
    dead = {}
    for seed in range(20):
        torch.manual_seed(seed)
        network = NNSP()
        network.start_alive()
        closed = [int((share == 0).sum()) for share in open_shares(network, scans)]
        if any(closed):
            dead[seed] = closed
    assert dead == {}, f"dead channels of the five hidden layers by seed: {dead}"


def test_without_the_residual_the_input_is_not_added():
    torch.manual_seed(0)
    plain = NNSP((4, 4, 2, 2, 4), residual=False)
    residual = NNSP((4, 4, 2, 2, 4))
    residual.load_state_dict(plain.state_dict())
    volume = noisy((9, 17, 17))
    with torch.no_grad():
        torch.testing.assert_close(residual(volume), plain(volume) + volume[..., 4:-4, 8:-8, 8:-8])


def test_five_channel_counts_are_wanted():
    with pytest.raises(ValueError, match="wanted 5"):
        NNSP((8, 4, 4, 8))


def test_crop_halo_keeps_the_middle():
    volume = torch.arange(9 * 17 * 17).reshape(9, 17, 17)
    assert crop_halo(volume).tolist() == [[[volume[4, 8, 8].item()]]]
