"""Simulated scans of a patient on a calibration phantom, with known rods, for tests of what finds them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qctrun.runtime.calibrating.phantoms import Phantom
from qctrun.runtime.volume import Grid, Volume


@dataclass(frozen=True)
class Scene:
    """How a phantom lies under a patient; lengths in mm."""

    gain: float = 1.25
    offset: float = -8.0
    spacing: tuple[float, float, float] = (2.5, 1.0, 1.0)
    slices: int = 3
    width: float = 240.0
    height: float = 120.0
    rod_spacing: float = 34.0
    diameter: float = 18.0
    x: float = 120.0
    y: float = 82.0
    tilt_degrees: float = 0.0
    bend: float = 1.9
    askew: float = 0.0
    flipped: bool = False
    noise: float = 20.0
    body: float = -10.0
    phantom_slices: tuple[int, int] | None = None
    pulled: Sequence[float] = ()
    drift: float = 0.0
    seed: int = 0


def centres(scene: Scene, rods: int, z: int = 0) -> np.ndarray:
    """Centres (rod, 2) as (column, row) in voxels in slice z, in the phantom's order."""
    at = np.arange(rods) - (rods - 1) / 2
    x = at * scene.rod_spacing
    y = -scene.bend / 2 * at**2
    turn = np.deg2rad(scene.tilt_degrees)
    along = np.cos(turn) * x - np.sin(turn) * y
    down = np.sin(turn) * x + np.cos(turn) * y
    places = np.stack([scene.x + along, scene.y + down + scene.askew * z * scene.spacing[0]], axis=1)
    places = places[::-1] if scene.flipped else places
    return places / np.array(scene.spacing[:0:-1])


def rods_hu(scene: Scene, phantom: Phantom) -> np.ndarray:
    """CT numbers of the rods: what the line of the scene makes of them, and what pulls them."""
    hu = scene.gain * np.array(phantom.densities_mg_cm3) + scene.offset + np.array(phantom.water_hu)
    return hu + np.resize(scene.pulled or [0.0], len(hu))


def scan(scene: Scene, phantom: Phantom | None) -> Volume:
    """The scan in HU; without a phantom only the patient, her spine and the table."""
    dy, dx = scene.spacing[1:]
    size = (scene.slices, round(scene.height / dy), round(scene.width / dx))
    y, x = (np.arange(n) * d for n, d in zip(size[1:], (dy, dx), strict=True))
    y, x = np.meshgrid(y, x, indexing="ij")
    slices = [_slice(scene, phantom, z, y, x) for z in range(size[0])]
    array = ndimage.gaussian_filter(np.stack(slices), (0, 0.6 / dy, 0.6 / dx))
    grain = np.random.default_rng(scene.seed).normal(0, 1, size)
    grain = ndimage.gaussian_filter(grain, (0, 0.5, 0.5))
    array += grain / grain.std() * scene.noise
    return Volume(
        array.astype(np.float32), Grid(size, scene.spacing), "HU", provenance={"scan": {"kvp": 120.0}}
    )


def _slice(scene: Scene, phantom: Phantom | None, z: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    image = np.full(y.shape, -1000.0)
    middle = scene.width / 2
    image[((x - middle) / 100) ** 2 + (y / 58) ** 2 < 1] = 40
    image[np.hypot(x - middle, y - 22) < 20] = 180
    image[np.hypot(x - middle, y - 45) < 6] = 700
    image[np.hypot(x - middle + 55, y - 20) < 9] = 60
    image[(np.abs(y - 110) < 1.5) & (np.abs(x - middle) < 110)] = 0
    first, last = scene.phantom_slices or (0, scene.slices - 1)
    if phantom is None or not first <= z <= last:
        return image
    places = centres(scene, phantom.rods, z) * np.array(scene.spacing[:0:-1])
    for here in np.linspace(0, 1, 200):
        k = here * (phantom.rods - 1)
        centre = [np.interp(k, np.arange(phantom.rods), places[:, axis]) for axis in (0, 1)]
        image[np.hypot(x - centre[0], y - centre[1]) < scene.diameter / 2 + 5] = scene.body
    for (cx, cy), hu in zip(places, rods_hu(scene, phantom), strict=True):
        image[np.hypot(x - cx, y - cy) < scene.diameter / 2] = hu + scene.drift * z
    return image
