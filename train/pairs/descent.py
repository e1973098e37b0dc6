"""Down the levels of a pyramid from a start: SimpleITK's registration, set so that it repeats to the last digit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qctrun.runtime.errors import InputError
from qctrun.train.pairs.choices import RegistrationChoice
from qctrun.train.pairs.pyramid import LEVELS, Level, Scene
from qctrun.train.pairs.rigid import Rigid

STRETCHED = LEVELS[3]
"""The level at which a stretch is looked for."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a descent ended.

    Attributes
    ----------
    rigid : Rigid
    metric : float
        At the last level; the larger, the better.
    levels : tuple of dicts of JSON values
        `voxel_mm`, `iterations` and `metric` of each.
    """

    rigid: Rigid
    metric: float
    levels: tuple[dict[str, Any], ...]


def descend(
    scene: Scene,
    start: Rigid,
    levels: tuple[Level, ...],
    choice: RegistrationChoice,
    seed: int,
    step: Callable[[], None],
) -> Found:
    """From a start down some levels."""
    import SimpleITK as sitk

    centre = tuple(scene.middle_mm.tolist())
    euler = sitk.Euler3DTransform()
    euler.SetCenter(centre)
    euler.SetMatrix(start.matrix, 1e-6)
    euler.SetTranslation(tuple((start.points([centre])[0] - scene.middle_mm).tolist()))
    told = []
    for level in levels:
        reference, inside, moving = scene.level(level)
        method = _method(choice, level, inside, [scene.arm_mm2] * 3, seed)
        method.SetInitialTransform(euler, True)
        _execute(method, reference, moving)
        step()
        told.append(
            {
                "voxel_mm": level.voxel_mm,
                "iterations": int(method.GetOptimizerIteration()),
                "metric": -float(method.GetMetricValue()),
            }
        )
    return Found(Rigid.from_sitk(euler), told[-1]["metric"], tuple(told))


def stretch_percent(scene: Scene, found: Rigid, choice: RegistrationChoice, seed: int) -> float:
    """What an affine transform finds beyond a rigid one: of three stretches along its own axes the largest."""
    import SimpleITK as sitk

    affine = sitk.AffineTransform(3)
    affine.SetCenter(tuple(scene.middle_mm.tolist()))
    affine.SetMatrix(found.matrix)
    affine.SetTranslation(tuple((found.points([scene.middle_mm])[0] - scene.middle_mm).tolist()))
    reference, inside, moving = scene.level(STRETCHED)
    method = _method(choice, STRETCHED, inside, [scene.arm_mm2 / 2] * 9, seed)
    method.SetInitialTransform(affine, True)
    _execute(method, reference, moving)
    stretches = np.linalg.svd(np.reshape(affine.GetMatrix(), (3, 3)))[1] - 1
    return float(100 * stretches[np.argmax(np.abs(stretches))])


def nowhere(got: str) -> InputError:
    """The refusal of a scan that cannot be laid over its reference."""
    return InputError(
        "registration",
        wanted="a scan that overlaps its reference",
        got=got,
        mend="is this a scan of this specimen? landmarks tell where to start",
    )


def _execute(method: Any, reference: Any, moving: Any) -> None:
    try:
        method.Execute(reference, moving)
    except RuntimeError as error:
        raise nowhere("a place where they do not overlap") from error


def _method(
    choice: RegistrationChoice, level: Level, inside: Any, turn_scales: list[float], seed: int
) -> Any:
    """SimpleITK's registration of one level."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # setting the number of threads leaves the metric's sums in any order
    if choice.metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(level.bins)
    method.SetMetricFixedMask(sitk.Cast(inside > 0.5, sitk.sitkUInt8))
    share = level.points / inside.GetNumberOfPixels()
    if share < 1:
        # Random places between the voxels' centres: a raster of points would favour shifts by whole voxels.
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        level.step_mm,
        level.least_mm,
        level.iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-12,
    )
    # A turn by one radian moves bone by its distance from the axis.
    method.SetOptimizerScales([*turn_scales, 1.0, 1.0, 1.0])
    return method
