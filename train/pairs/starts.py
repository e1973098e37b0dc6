"""Where a registration starts: from the middles of the bone, from a coarse search, or from points somebody has seen."""

from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import BoolArray
from qctrun.train.pairs.landmarks import Landmarks
from qctrun.train.pairs.pyramid import LEVELS, Scene
from qctrun.train.pairs.rigid import Points, Rigid

BONE_MG_CM3 = 250.0
"""What a millimetre of cortex reaches in voxels of 1.4 mm, and neither marrow, embedding nor water does."""
BONE_HU = BONE_MG_CM3 / 0.8
"""The same on the nominal line of 120 kVp; bone kernels and other voltages change it too little to matter here."""

SEARCHED_DEG = (-9.0, 0.0, 9.0)
"""Turns about each axis that the coarse search tries."""
FEWEST_OVERLAPPING = 0.8
"""The share of the reference that must lie within the scan at a place the search may take."""

LEAST_BONE = 0.1
"""A scan with less than this share of the reference's bone holds something else."""

MOVED_MM, MOVED_DEG = 2.0, 4.0
"""How far a second start lies from the first where there is no other."""

FLATTEST_MM = 1.0
"""Landmarks must stretch so far across their longest line, or a turn about it is anybody's guess."""


def from_moments(reference: Any, scan: Any) -> Rigid | None:
    """No turn, and the middle of the reference's bone on that of the scan's.

    Bone is the largest connected piece above a threshold, filled: no table, no rods, no air.

    Parameters
    ----------
    reference, scan : SimpleITK images
        In mg/cm3 and in HU, both of about 1.4 mm.

    Returns
    -------
    Rigid or None
        None where the reference or the scan has nothing above the threshold.
    """
    middles = [_middle(image, limit) for image, limit in ((reference, BONE_MG_CM3), (scan, BONE_HU))]
    if middles[0] is None or middles[1] is None:
        return None
    return Rigid(offset_mm=tuple(middles[1] - middles[0]))


def from_search(reference: Any, inside: Any, scan: Any) -> Rigid | None:
    """The best of all places in the scan and of 27 turns, by the correlation where the turned reference lies.

    Parameters
    ----------
    reference, scan : SimpleITK images of about 2.8 mm
    inside : SimpleITK float image on the reference's grid
        1 where the reference counts.

    Returns
    -------
    Rigid or None
        None where no place holds enough of the reference.
    """
    size = [(n - 1) / 2 for n in reference.GetSize()]
    centre = np.asarray(reference.TransformContinuousIndexToPhysicalPoint(size))
    found = [_best_place(reference, inside, scan, centre, turns) for turns in product(SEARCHED_DEG, repeat=3)]
    value, best = max(found, key=lambda one: one[0])
    return best if value > 0 else None


def from_landmarks(points_mm: Landmarks) -> tuple[Rigid, float]:
    """The rigid transform that takes points of the reference nearest to those of the scan (Kabsch, least squares).

    Parameters
    ----------
    points_mm : float array (n, 6)
        x, y, z in the reference's world, and in the scan's.

    Returns
    -------
    Rigid
    float
        Root mean square distance that is left, mm.

    Raises
    ------
    InputError
        When there are fewer than three points, they lie on a line, or a mirror image would fit them better than
        any rotation.
    """
    points = np.asarray(points_mm, np.float64)
    if points.ndim != 2 or points.shape[1:] != (6,) or len(points) < 3 or not np.isfinite(points).all():
        raise InputError("landmarks", wanted="3 or more rows of six numbers", got=f"shape {points.shape}")
    here, there = points[:, :3], points[:, 3:]
    middles = here.mean(0), there.mean(0)
    spreads = [np.linalg.svd(side - middle)[1] for side, middle in zip((here, there), middles, strict=True)]
    if any(spread[1] / np.sqrt(len(points)) < FLATTEST_MM for spread in spreads):
        widest = max(spread[0] for spread in spreads) / np.sqrt(len(points))
        got = f"points on a line, or all at one place (about {widest:.2g} mm apart at most)"
        mend = "add a point off the line; they should be in mm"
        raise InputError("landmarks", wanted="points that span a plane", got=got, mend=mend)
    left, sizes, right = np.linalg.svd((there - middles[1]).T @ (here - middles[0]))
    mirrored = np.linalg.det(left @ right) < 0
    # Points of one plane fit a rotation and a mirror image alike: the smallest size is then nothing.
    if mirrored and sizes[2] > 1e-3 * sizes[1]:
        raise InputError(
            "landmarks",
            wanted="points that a rotation takes to each other",
            got="points that fit a mirror image better",
            mend="look for two rows whose points are exchanged, or for an axis of the wrong sign",
        )
    turn = left @ np.diag([1.0, 1.0, -1.0 if mirrored else 1.0]) @ right
    found = Rigid(tuple(turn.ravel()), tuple(middles[1] - turn @ middles[0]))
    apart = np.linalg.norm(found.points(here) - there, axis=1)
    return found, float(np.sqrt(np.mean(apart**2)))


def moved(start: Rigid, middle_mm: Points) -> Rigid:
    """A start beside another one: shifted, and turned about the middle of the bone."""
    axis = np.array([1.0, -1.0, 1.0]) / np.sqrt(3)
    turn = Rotation.from_rotvec(np.radians(MOVED_DEG) * axis).as_matrix()
    shift = middle_mm - turn @ middle_mm + MOVED_MM / np.sqrt(3)
    return start.after(Rigid(tuple(turn.ravel()), tuple(shift)))


def require_bone(scene: Scene) -> None:
    """Refuse a scan that holds hardly any bone where its reference does.

    Raises
    ------
    InputError
    """
    reference, _, scan = scene.level(LEVELS[1])
    volumes = []
    for image, limit in ((reference, BONE_MG_CM3), (scan, BONE_HU)):
        bone = bone_of(image, limit)
        volumes.append(0.0 if bone is None else float(bone.sum() * np.prod(image.GetSpacing())))
    if volumes[1] < LEAST_BONE * volumes[0]:
        raise InputError(
            "scan to register",
            wanted=f"bone: the reference has {volumes[0] / 1000:.3g} cm3 of it",
            got=f"{volumes[1] / 1000:.2g} cm3 in one piece above {BONE_HU:.0f} HU",
            mend="is this a scan of this specimen, in HU?",
        )


def bone_of(image: Any, limit: float) -> BoolArray | None:
    """The largest connected piece of an image above a limit, filled, (z, y, x); None where there is nothing."""
    import SimpleITK as sitk

    pieces, count = ndimage.label(sitk.GetArrayViewFromImage(image) > limit)
    if not count:
        return None
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    filled: BoolArray = ndimage.binary_fill_holes(largest)
    return filled


def _middle(image: Any, limit: float) -> Points | None:
    bone = bone_of(image, limit)
    if bone is None:
        return None
    z, y, x = np.argwhere(bone).mean(0).tolist()
    return np.asarray(image.TransformContinuousIndexToPhysicalPoint((x, y, z)))


def _best_place(
    reference: Any, inside: Any, scan: Any, centre: Points, turns_deg: tuple[float, ...]
) -> tuple[float, Rigid]:
    """The best shift of the reference after a turn about its centre, and the correlation there."""
    import SimpleITK as sitk

    turn = sitk.Euler3DTransform(tuple(centre), *np.radians(turns_deg).tolist())
    frame = _frame(reference, scan, centre)
    back = turn.GetInverse()
    turned, counts = (
        sitk.Resample(image, frame, back, sitk.sitkLinear, 0.0) for image in (reference, inside)
    )
    counts = sitk.Cast(counts > 0.5, sitk.sitkFloat32)
    fewest = int(FEWEST_OVERLAPPING * sitk.GetArrayViewFromImage(counts).sum())
    # The filter wants one physical space; places are counted in voxels of the scan here.
    whole, part, everywhere, some = (
        sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image))
        for image in (scan, turned, scan * 0 + 1, counts)
    )
    likeness = sitk.MaskedFFTNormalizedCorrelation(whole, part, everywhere, some, fewest)
    values = sitk.GetArrayViewFromImage(likeness)
    peak = np.unravel_index(int(np.argmax(values)), values.shape)
    first = [float(at - (n - 1)) for at, n in zip(peak[::-1], turned.GetSize(), strict=True)]
    shift = np.asarray(scan.TransformContinuousIndexToPhysicalPoint(first)) - np.asarray(turned.GetOrigin())
    return float(values[peak]), Rigid(offset_mm=tuple(shift)).after(Rigid.from_sitk(turn))


def _frame(reference: Any, scan: Any, centre: Points) -> Any:
    """A grid of the scan's axes and voxels about a centre, wide enough for a slightly turned reference."""
    import SimpleITK as sitk

    axes = np.reshape(scan.GetDirection(), (3, 3)).T @ np.reshape(reference.GetDirection(), (3, 3))
    length = np.abs(axes) @ (np.asarray(reference.GetSize()) * np.asarray(reference.GetSpacing()))
    size = np.ceil(length / np.asarray(scan.GetSpacing())).astype(int) + 4
    frame = sitk.Image(size.tolist(), sitk.sitkFloat32)
    frame.SetSpacing(scan.GetSpacing())
    frame.SetDirection(scan.GetDirection())
    middle = np.asarray(frame.TransformContinuousIndexToPhysicalPoint([(int(n) - 1) / 2 for n in size]))
    frame.SetOrigin(tuple(centre - middle))
    return frame
