"""The training losses: squared errors of the bone parameters themselves (Eq. 10-12, method section 5).

On the paper's grid the output patch is exactly one sphere of 4.3 mm across, so every map of the structure-preserving
loss is one masked mean a patch; on other grids it is the sphere of `sphere_mm`, in the middle. Plain denoising looks
through smaller spheres, wherever they lie wholly inside the patch.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring.kernels.formulas import FLOOR, FUZZY_WIDTH_MG_CM3
from qctrun.runtime.measuring.sphere import TIE_TOLERANCE, Sphere
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.raster import OUTPUT
from qctrun.train.recipe import LOSS_WEIGHTS, Recipe

THRESHOLDS_MG_CM3 = tuple(float(t) for t in range(125, 326, 25))
"""Thresholds t over which the TMD and BV/TV losses are summed."""

NNSP_WEIGHTS = LOSS_WEIGHTS["nnsp"]
NNBMD_WEIGHTS = LOSS_WEIGHTS["nnbmd"]

DENOISING_MM = (0.516, 1.548, 2.924)
"""Diameters of the spheres of plain denoising: of both its BMD terms and of its SD (method section 5)."""
SPHERE_MM = 4.3
"""Diameter of the sphere in which parameters are measured."""
LEAST_SPHERE_MM = 2.0
"""A smaller one holds hardly more than one trabecula and the gap beside it."""

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class PatchParameters:
    """Parameters of a batch of patches: `bmd` (batch), `bvtv` and `tmd` (batch, threshold); mg/cm3, fractions."""

    bmd: Tensor
    bvtv: Tensor
    tmd: Tensor


def sphere_mm(spacing_mm: Spacing) -> float:
    """Diameter of the sphere in an output patch of 13 x 25 x 25 voxels: 4.3 mm, or the largest that fits.

    Voxels of the paper's size are just filled by 4.3 mm. In larger ones the same sphere leaves a rim that is not
    looked at; smaller ones do not hold it, and parameters are then those of a smaller sphere.

    Raises
    ------
    InputError
        When not even 2 mm fit.
    """
    fits = _room_mm(spacing_mm)
    if fits < LEAST_SPHERE_MM:
        z, y, x = OUTPUT
        raise InputError(
            _in_words(spacing_mm),
            wanted=f"voxels of which {z} x {y} x {x} hold a sphere of {LEAST_SPHERE_MM:g} mm or more",
            got=f"one of {fits:.2f} mm",
            mend="take a larger spacing_mm in the study file",
        )
    return SPHERE_MM if fits > SPHERE_MM * (1 - TIE_TOLERANCE) else fits


class PatchSphere:
    """The one sphere in a patch, and the parameters inside it.

    Parameters
    ----------
    spacing_mm : (float, float, float)
        Grid of the patches (z, y, x); it decides the diameter, see `sphere_mm`.
    thresholds_mg_cm3 : sequence of float
        Thresholds t.
    device : str
        Where the patches will lie.
    """

    def __init__(
        self,
        spacing_mm: Spacing,
        thresholds_mg_cm3: tuple[float, ...] = THRESHOLDS_MG_CM3,
        device: str = "cpu",
    ) -> None:
        mask = _in_the_middle(Sphere(spacing_mm, sphere_mm(spacing_mm)).mask())
        self.size = mask.shape
        self.inside = torch.from_numpy(np.flatnonzero(mask)).to(device)
        self.thresholds = torch.tensor(thresholds_mg_cm3, device=device)

    def parameters(self, patches: Tensor) -> PatchParameters:
        """BMD, BV/TV_t and TMD_t (Eq. 6-8, fuzzy step) of patches (batch, 1, 13, 25, 25)."""
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


class Loss(ABC):
    """L = sum_f w_f a_f L_f over the terms f (Eq. 10).

    Parameters
    ----------
    weights : mapping of the terms to w_f
        The mixture.
    scales : mapping of the terms to a_f, optional
        From `scales_of`; one each when absent.
    """

    def __init__(self, weights: dict[str, float], scales: dict[str, float] | None = None) -> None:
        self.weights = weights
        self.scales = scales or dict.fromkeys(weights, 1.0)

    @abstractmethod
    def terms(self, output: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The unscaled squared errors, one number each: L_f / a_f."""

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """The loss of a batch: about one for unfiltered data once the scales are set."""
        terms = self.terms(output, truth)
        total = sum(self.weights[name] * self.scales[name] * terms[name] for name in self.weights)
        assert isinstance(total, Tensor)
        return total


class ParameterLoss(Loss):
    """The structure-preserving loss: f in {TMD, BV/TV, BMD} of one sphere a patch (Eq. 10-12)."""

    def __init__(
        self,
        sphere: PatchSphere,
        weights: dict[str, float] = NNSP_WEIGHTS,
        scales: dict[str, float] | None = None,
    ) -> None:
        super().__init__(weights, scales)
        self.sphere = sphere
        self.by_threshold = threshold_weights(sphere.thresholds)

    def terms(self, output: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The unscaled squared errors, one number each: L_f / a_f."""
        got, want = self.sphere.parameters(output), self.sphere.parameters(truth)
        return {
            "BMD": torch.mean((got.bmd - want.bmd) ** 2),
            "BVTV": (torch.mean((got.bvtv - want.bvtv) ** 2, dim=0) * self.by_threshold).sum(),
            "TMD": (torch.mean((got.tmd - want.tmd) ** 2, dim=0) * self.by_threshold).sum(),
        }


class DenoisingLoss(Loss):
    """Plain denoising (NNBMD): voxels, BMD over 0.516 and 1.548 mm, SD over 2.924 mm (method section 5)."""

    def __init__(
        self,
        spacing_mm: Spacing,
        weights: dict[str, float] = NNBMD_WEIGHTS,
        scales: dict[str, float] | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(weights, scales)
        _require_denoising_fits(spacing_mm)
        self.small, self.middle, self.large = (
            SphereMeans(spacing_mm, diameter, device) for diameter in DENOISING_MM
        )

    def terms(self, output: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The unscaled squared errors, one number each: L_f / a_f."""
        return {
            "voxel": torch.mean((output - truth) ** 2),
            # A mean is linear: that of the difference is the difference of the means.
            "BMD 0.516 mm": torch.mean(self.small(output - truth) ** 2),
            "BMD 1.548 mm": torch.mean(self.middle(output - truth) ** 2),
            "SD 2.924 mm": torch.mean((local_sd(output, self.large) - local_sd(truth, self.large)) ** 2),
        }


class SphereMeans:
    """Means over a sphere, at every voxel around which it lies wholly inside the patch.

    Slices are taken for channels of a flat convolution, whose weights are the sphere's discs: several times
    faster than a convolution of one channel in three dimensions, and the same sum.
    """

    def __init__(self, spacing_mm: Spacing, diameter_mm: float, device: str = "cpu") -> None:
        mask = Sphere(spacing_mm, diameter_mm).mask()
        self.voxels = int(mask.sum())
        self.discs = torch.from_numpy(mask).float().to(device)

    def __call__(self, patches: Tensor) -> Tensor:
        """Means of patches (batch, 1, z, y, x): (batch, z', y', x'), smaller by the sphere's size less one."""
        slices, high = patches.shape[2], len(self.discs)
        shape = (slices - high + 1, slices, *self.discs.shape[1:])
        banded = torch.zeros(shape, dtype=patches.dtype, device=patches.device)
        for at in range(len(banded)):
            banded[at, at : at + high] = self.discs
        return torch.nn.functional.conv2d(patches[:, 0], banded) / self.voxels


def local_sd(patches: Tensor, sphere: SphereMeans) -> Tensor:
    """SD over the sphere (Eq. 9), its bracket clamped at 0; the gradient is 0 where the SD is."""
    # A constant changes no SD, and taken off it leaves float32 its digits.
    centred = patches - patches.detach().mean(dim=(1, 2, 3, 4), keepdim=True)
    bracket = sphere(centred**2) - sphere(centred) ** 2
    varies = bracket > 0
    spread = torch.sqrt(torch.where(varies, bracket, 1.0) / (1 - 1 / sphere.voxels))
    return torch.where(varies, spread, 0.0)


def loss_of(recipe: Recipe, device: str = "cpu", spacing_mm: Spacing = PAPER_SPACING_MM) -> Loss:
    """The loss that a recipe names, with its mixture, on a grid.

    Raises
    ------
    InputError
        When the loss's spheres do not fit on it.
    """
    weights = recipe.weights or LOSS_WEIGHTS[recipe.loss]
    if recipe.loss == "nnbmd":
        return DenoisingLoss(spacing_mm, weights, device=device)
    return ParameterLoss(PatchSphere(spacing_mm, device=device), weights)


def _in_the_middle(ball: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A sphere in an output patch; both have odd sides."""
    rims = ((whole - part) // 2 for whole, part in zip(OUTPUT, ball.shape, strict=True))
    return np.pad(ball, [(rim, rim) for rim in rims])


def _require_denoising_fits(spacing_mm: Spacing) -> None:
    least, most = 2 * min(spacing_mm), _room_mm(spacing_mm)
    if least > min(DENOISING_MM) * (1 + TIE_TOLERANCE) or most < max(DENOISING_MM) * (1 - TIE_TOLERANCE):
        raise InputError(
            f"loss nnbmd on {_in_words(spacing_mm)}",
            wanted=f"room in a patch for spheres of {min(DENOISING_MM):g} to {max(DENOISING_MM):g} mm",
            got=f"room for {least:.3g} to {most:.3g} mm",
            mend="take a recipe with loss nnsp, or another spacing_mm in the study file",
        )


def _room_mm(spacing_mm: Spacing) -> float:
    """The largest sphere that an output patch holds."""
    return min(count * step for count, step in zip(OUTPUT, spacing_mm, strict=True))


def _in_words(spacing_mm: Spacing) -> str:
    return f"a grid of {' x '.join(f'{step:g}' for step in spacing_mm)} mm"


def scales_of(terms: list[dict[str, Tensor]]) -> dict[str, float]:
    """a_f from the terms of the unfiltered training batches: each L_f averages one on them."""
    return {name: 1.0 / float(torch.stack([term[name] for term in terms]).mean()) for name in terms[0]}
