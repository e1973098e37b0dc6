"""A scan laid over its reference: rigid, five levels from coarse to fine, twice from different starts (SimpleITK).

The reference stands still; a point of its world is looked up in the scan. The scan itself is resampled only once, by
`resampled`, from its raw voxels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from qctrun.runtime.errors import InputError
from qctrun.runtime.resampling import INTERPOLATION, REACH
from qctrun.runtime.volume import Grid, Progress, Volume
from qctrun.train.pairs.choices import RegistrationChoice
from qctrun.train.pairs.descent import descend, nowhere, stretch_percent
from qctrun.train.pairs.fixed import Fixed, require_right_handed
from qctrun.train.pairs.landmarks import Landmarks, require_inside
from qctrun.train.pairs.pyramid import LEVELS, Scene, cropped, image_of, scene_of
from qctrun.train.pairs.rigid import Rigid, distance
from qctrun.train.pairs.starts import (
    from_landmarks,
    from_moments,
    from_search,
    moved,
    require_bone,
)

LEAST_FIELD = 0.5
"""A scan's field must have this share of the volume of the mask's box."""
SAME_START_MM = 3.0
"""Starts that the coarse levels leave further apart do not both lie in the right valley."""
SEEDS = (1, 2)
"""For the points at which the metric is evaluated, from the first start and from the second."""

_COARSE = 2
"""Levels that see the whole scan; the finer ones see it around the bone."""


@dataclass(frozen=True, slots=True)
class Registered:
    """Where a scan lies.

    Attributes
    ----------
    transform : Rigid
        From the reference's world to the scan's.
    second : Rigid
        The same, found from another start and at other points.
    metric, second_metric : float
        At the finest level: mutual information in nats, or the squared correlation. The larger, the better.
    facts : dict of JSON values
        How it was found: `metric`, `starts`, `landmarks_rms_mm`, `levels`,
        `second_levels`, and `stretch_percent`: the longest or shortest way to be found when the scan may also be
        stretched and sheared, in percent of its length. It is about 0, but for a wrong spacing or a gantry tilt.
    """

    transform: Rigid
    second: Rigid
    metric: float
    second_metric: float
    facts: dict[str, Any]


def register(
    fixed: Fixed,
    scan: Volume,
    choice: RegistrationChoice,
    landmarks: Landmarks | None = None,
    progress: Progress | None = None,
) -> Registered:
    """Find the turn and the shift that lay a scan over its reference.

    Two starts go down the two coarse levels: the middles of the bone (or the landmarks), and a coarse search. The
    one with the better metric is the first; the other one is the second, or the first moved by 2 mm and 4 degrees
    where the other one went astray. Both then go down the three fine levels. Seeds are fixed and one thread
    sums, so a result repeats to the last digit whatever the number of cores.

    Parameters
    ----------
    fixed : Fixed
        The reference. The metric looks at the mask and 5 mm around it: most of what tells the pose is cortex.
    scan : Volume
        In HU, on its own grid.
    choice : RegistrationChoice
    landmarks : float array (n, 6), optional
        Points seen in both, x, y, z in the reference's world and in the scan's, mm; three or more.
    progress : callable, optional

    Raises
    ------
    InputError
        When the scan is not in HU, one of the two is left-handed, the scan is much smaller than the reference or
        holds no bone, landmarks lie outside of the images or fit no rotation, or nothing overlaps.
    """
    _require_scan(fixed, scan)
    if landmarks is not None:
        require_inside(landmarks, fixed.density.grid, scan.grid)
    scene = scene_of(fixed, scan)
    require_bone(scene)
    steps = _Steps(progress, total=2 * len(LEVELS))
    names, starts, rms = _starts(scene, landmarks)
    coarse = [descend(scene, start, LEVELS[:_COARSE], choice, SEEDS[0], steps) for start in starts]
    order = sorted(range(len(coarse)), key=lambda i: -coarse[i].metric)
    first = coarse[order[0]]
    told = [names[i] for i in order]
    apart = distance(first.rigid, coarse[order[-1]].rigid, scene.corners_mm)[0]
    if len(order) == 2 and apart <= SAME_START_MM:
        second = coarse[order[1]]
    else:
        told = [told[0], f"{told[0]}, moved by 2 mm and 4 degrees"]
        again = moved(first.rigid, scene.middle_mm)
        second = descend(scene, again, LEVELS[:_COARSE], choice, SEEDS[0], steps)
    near = scene.around(first.rigid, second.rigid)
    found, other = (
        descend(near, start.rigid, LEVELS[_COARSE:], choice, seed, steps)
        for start, seed in zip((first, second), SEEDS, strict=True)
    )
    facts = {
        "metric": choice.metric,
        "starts": told,
        "landmarks_rms_mm": rms,
        "stretch_percent": stretch_percent(near, found.rigid, choice, SEEDS[0]),
        "levels": [*first.levels, *found.levels],
        "second_levels": [*second.levels, *other.levels],
    }
    return Registered(found.rigid, other.rigid, found.metric, other.metric, facts)


def resampled(scan: Volume, transform: Rigid, grid: Grid) -> Volume:
    """A scan on the reference's grid by one cubic B-spline through its raw voxels.

    Returns
    -------
    Volume
        The scan's unit; NaN where the scan does not reach. The values of the spline at the voxels' centres: where
        the grid is coarser than the scan, nothing is averaged.
    """
    import SimpleITK as sitk

    source = cropped(image_of(scan.array, scan.grid), [transform.points(_corners(grid))], voxels=REACH)
    target = sitk.Image([int(n) for n in grid.size[::-1]], sitk.sitkUInt8)
    target.SetSpacing(grid.spacing[::-1])
    target.SetOrigin(grid.origin)
    target.SetDirection(grid.direction)
    image = sitk.Resample(
        source, target, transform.to_sitk(), sitk.sitkBSpline, float("nan"), sitk.sitkFloat32
    )
    array = sitk.GetArrayFromImage(image)
    step = {
        "what": "laid over the reference",
        "interpolation": INTERPOLATION,
        "from_spacing_zyx_mm": list(scan.grid.spacing),
        "to_spacing_zyx_mm": list(grid.spacing),
        "transform": transform.as_dict(),
        "voxels_outside": int(np.isnan(array).sum()),
    }
    steps = [*(scan.provenance.get("resampling") or ()), step]
    return Volume(array, grid, scan.unit, scan.material, {**scan.provenance, "resampling": steps})


class _Steps:
    """Counts levels for whoever wants to know."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self) -> None:
        self.done = min(self.done + 1, self.total)
        if self.progress is not None:
            self.progress(self.done, self.total)


def _starts(scene: Scene, landmarks: Landmarks | None) -> tuple[list[str], list[Rigid], float | None]:
    """Names and transforms of the starts that there are, and what landmarks left."""
    search = from_search(*scene.level(LEVELS[0]))
    rms: float | None = None
    if landmarks is not None:
        first, rms = from_landmarks(landmarks)
        found = {"landmarks": first, "search": search}
    else:
        found = {"moments": from_moments(*scene.level(LEVELS[1])[::2]), "search": search}
    there = {name: start for name, start in found.items() if start is not None}
    if not there:
        raise nowhere("neither bone to start from nor a place that fits")
    return list(there), list(there.values()), rms


def _require_scan(fixed: Fixed, scan: Volume) -> None:
    if scan.unit != "HU":
        raise InputError(
            "scan to register", wanted="raw HU", got=scan.unit, mend="bring the scan uncalibrated"
        )
    for what, grid in (("reference", fixed.density.grid), ("scan", scan.grid)):
        require_right_handed(grid, f"geometry of the {what}")
    if not np.isfinite(scan.array).all():
        raise InputError("scan to register", wanted="finite numbers", got="NaN or infinity")
    index = np.argwhere(fixed.mask)
    box = np.prod((np.ptp(index, axis=0) + 1) * fixed.density.grid.spacing)
    field = np.prod(np.asarray(scan.grid.size) * scan.grid.spacing)
    if field < LEAST_FIELD * box:
        raise InputError(
            "field of the scan",
            wanted=f"at least {LEAST_FIELD:.0%} of the {box / 1000:.3g} cm3 of the mask's box",
            got=f"{field / 1000:.3g} cm3",
            mend="is this a scan of this specimen?",
        )


def _corners(grid: Grid) -> Any:
    return np.array(
        [
            grid.world((z, y, x))
            for z in (0, grid.size[0] - 1)
            for y in (0, grid.size[1] - 1)
            for x in (0, grid.size[2] - 1)
        ]
    )
