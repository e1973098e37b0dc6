"""NNSP on one page: six 3-D convolutions, receptive field 9 x 17 x 17 voxels (method section 4).

The paper states the kernels and that the channels first decrease and then increase; the numbers of
channels stand only in a lost figure, so they are a parameter here and the default is our choice.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from qctrun.runtime.errors import InputError

KERNELS = ((3, 5, 5), (3, 5, 5), (1, 3, 3), (3, 3, 3), (1, 3, 3), (3, 3, 3))
"""Kernel sizes (z, y, x), first layer first."""

HALO = tuple(sum(kernel[axis] // 2 for kernel in KERNELS) for axis in range(3))
"""Voxels (z, y, x) that the network consumes on each side: (4, 8, 8)."""

DENSITY_SCALE_MG_CM3 = 300.0
"""Inside the network a density of this size is one; it keeps weights and learning rates near one."""

DEFAULT_CHANNELS = (32, 16, 8, 8, 16)

STARTS, OPEN_SHARE = 50, 0.001
"""A start counts when every channel is open at this share of voxels; so many are drawn at the most."""


class NNSP(nn.Module):
    """Density in, density out, mg/cm3; a stack of convolutions with ReLU after all but the last.

    Parameters
    ----------
    channels : five ints
        Output channels of the first five layers; the sixth has one.
    residual : bool
        Whether the network's result is added to its input. It keeps the mean density (BMD) from the first
        step on, which the loss weighs with 0.04 only.
    """

    def __init__(self, channels: Sequence[int] = DEFAULT_CHANNELS, *, residual: bool = True) -> None:
        super().__init__()
        if len(channels) != len(KERNELS) - 1:
            raise ValueError(f"channels: wanted {len(KERNELS) - 1} numbers, got {len(channels)}")
        self.channels = tuple(channels)
        self.residual = residual
        widths = pairwise((1, *channels, 1))
        self.layers = nn.ModuleList(
            nn.Conv3d(before, after, kernel) for (before, after), kernel in zip(widths, KERNELS, strict=True)
        )
        self._draw()

    def start_alive(self) -> None:
        """Draw start values again until every channel is open somewhere: a ReLU that never opens never learns.

        Raises
        ------
        InputError
            When no such start is found, which says that the channels make no sense.
        """
        for _ in range(STARTS):
            if least_open(self, _probe()) >= OPEN_SHARE:
                return
            self._draw()
        raise InputError(
            f"channels {self.channels}", wanted="a start with all alive", got=f"none in {STARTS} draws"
        )

    def _draw(self) -> None:
        """He's start, with small positive biases and a small last layer."""
        for layer in self.layers:
            assert isinstance(layer, nn.Conv3d)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.constant_(layer.bias, 0.01)  # type: ignore[arg-type]
        nn.init.normal_(self.layers[-1].weight, std=1e-3)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, volume: Tensor, same: bool = False) -> Tensor:
        """Filter a batch.

        Parameters
        ----------
        volume : tensor (batch, 1, z, y, x)
            Densities, mg/cm3.
        same : bool
            Zero-pad every layer, so that the result has the input's size (production); otherwise the
            halo is consumed: 21 x 41 x 41 voxels give 13 x 25 x 25 (training).
        """
        x = volume / DENSITY_SCALE_MG_CM3
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Conv3d)
            padding = tuple(k // 2 for k in layer.kernel_size) if same else 0
            x = nn.functional.conv3d(x, layer.weight, layer.bias, padding=padding)
            if index < len(self.layers) - 1:
                x = torch.relu(x)
        x = x * DENSITY_SCALE_MG_CM3
        if not self.residual:
            return x
        return x + (volume if same else crop_halo(volume))


def least_open(network: NNSP, volume: Tensor) -> float:
    """Of all hidden channels, the smallest share of voxels at which the ReLU is open."""
    x, least = volume / DENSITY_SCALE_MG_CM3, 1.0
    with torch.no_grad():
        for layer in network.layers[:-1]:
            x = torch.relu(layer(x))
            least = min(least, float((x > 0).float().mean(dim=(0, 2, 3, 4)).min()))
    return least


def _probe() -> Tensor:
    """Two patches of noise of the mean, the size and about the grain of a scan; always the same."""
    white = torch.randn(2, 1, 23, 43, 43, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.avg_pool3d(white, 3, stride=1)
    return 120 + 250 * smooth / smooth.std()


def crop_halo(volume: Tensor) -> Tensor:
    """Cut away what the network consumes: the part of the input that its valid output stands for."""
    z, y, x = HALO
    return volume[..., z:-z, y:-y, x:-x]
