"""The training losses: squared errors of the bone parameters themselves (Eq. 10-12, method section 5).

The output patch is exactly one sphere of 4.3 mm across, so every parameter map is one masked mean a patch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qctrun.runtime.measuring.kernels.formulas import FLOOR, FUZZY_WIDTH_MG_CM3
from qctrun.runtime.measuring.sphere import Sphere

THRESHOLDS_MG_CM3 = tuple(float(t) for t in range(125, 326, 25))
"""Thresholds t over which the TMD and BV/TV losses are summed."""

NNSP_WEIGHTS = {"TMD": 0.64, "BVTV": 0.32, "BMD": 0.04}
"""w_f of the structure-preserving loss (Eq. 12)."""


@dataclass(frozen=True)
class PatchParameters:
    """Parameters of a batch of patches: `bmd` (batch), `bvtv` and `tmd` (batch, threshold); mg/cm3, fractions."""

    bmd: Tensor
    bvtv: Tensor
    tmd: Tensor


class PatchSphere:
    """The one sphere in a patch, and the parameters inside it.

    Parameters
    ----------
    spacing_mm : (float, float, float)
        Grid of the patches (z, y, x).
    diameter_mm : float
        4.3 mm fills the 13 x 25 x 25 voxels of the paper's output patch.
    thresholds_mg_cm3 : sequence of float
        Thresholds t.
    """

    def __init__(
        self,
        spacing_mm: tuple[float, float, float],
        diameter_mm: float = 4.3,
        thresholds_mg_cm3: tuple[float, ...] = THRESHOLDS_MG_CM3,
    ) -> None:
        mask = Sphere(spacing_mm, diameter_mm).mask()
        self.size = mask.shape
        self.inside = torch.from_numpy(np.flatnonzero(mask))
        self.thresholds = torch.tensor(thresholds_mg_cm3)

    def parameters(self, patches: Tensor) -> PatchParameters:
        """BMD, BV/TV_t and TMD_t (Eq. 6-8, fuzzy step) of patches (batch, 1, z, y, x) of the sphere's own size."""
        if tuple(patches.shape[-3:]) != self.size:
            raise ValueError(f"patches: wanted size {self.size}, got {tuple(patches.shape[-3:])}")
        density = patches.flatten(1)[:, self.inside]
        bone = torch.sigmoid((density[:, None] - self.thresholds[:, None]) / FUZZY_WIDTH_MG_CM3)
        bvtv = bone.mean(dim=2)
        mineral = torch.einsum("bv,btv->bt", density, bone) / density.shape[1]
        return PatchParameters(density.mean(dim=1), bvtv, mineral / softly_positive(bvtv))


def softly_positive(fraction: Tensor, smallest: float = FLOOR) -> Tensor:
    """plus_e(x) = e ln(1 + exp(x / e - 1)) + e, never below e (Eq. 4)."""
    return smallest * torch.nn.functional.softplus(fraction / smallest - 1) + smallest


def threshold_weights(thresholds_mg_cm3: Tensor, mean: float = 225.0, spread: float = 100.0) -> Tensor:
    """b_t: the normal density at each threshold, normalised to sum 1 (Eq. 11)."""
    density = torch.exp(-0.5 * ((thresholds_mg_cm3 - mean) / spread) ** 2)
    return density / density.sum()


class ParameterLoss:
    """L = sum_f w_f a_f L_f over f in {TMD, BV/TV, BMD} (Eq. 10-12).

    Parameters
    ----------
    sphere : PatchSphere
        Where the parameters are taken.
    weights : mapping of "TMD", "BVTV", "BMD" to w_f
        The mixture.
    scales : mapping of the same to a_f, optional
        From `scales_of`; one each when absent.
    """

    def __init__(
        self,
        sphere: PatchSphere,
        weights: dict[str, float] = NNSP_WEIGHTS,
        scales: dict[str, float] | None = None,
    ) -> None:
        self.sphere = sphere
        self.weights = weights
        self.scales = scales or dict.fromkeys(weights, 1.0)
        self.by_threshold = threshold_weights(sphere.thresholds)

    def terms(self, output: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The unscaled squared errors, one number each: L_f / a_f."""
        got, want = self.sphere.parameters(output), self.sphere.parameters(truth)
        return {
            "BMD": torch.mean((got.bmd - want.bmd) ** 2),
            "BVTV": (torch.mean((got.bvtv - want.bvtv) ** 2, dim=0) * self.by_threshold).sum(),
            "TMD": (torch.mean((got.tmd - want.tmd) ** 2, dim=0) * self.by_threshold).sum(),
        }

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """The loss of a batch: about one for unfiltered data once the scales are set."""
        terms = self.terms(output, truth)
        total = sum(self.weights[name] * self.scales[name] * terms[name] for name in self.weights)
        assert isinstance(total, Tensor)
        return total


def scales_of(terms: list[dict[str, Tensor]]) -> dict[str, float]:
    """a_f from the terms of the unfiltered training batches: each L_f averages one on them."""
    return {name: 1.0 / float(torch.stack([term[name] for term in terms]).mean()) for name in terms[0]}
