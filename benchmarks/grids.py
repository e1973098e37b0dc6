"""What voxel size costs, and which grid to filter on: simulated scans at 0.172 to 1 mm, against a known truth.

    python benchmarks/grids.py --json benchmarks/results/grids.json --figure docs/grids.png

Phantoms of random-field bone that no model has seen are scanned at 100 and 360 mAs and sampled on coarser grids as
a scanner does it: kernel, slice profile and dose stay, so the picture and its noise before sampling are the same, and
a voxel holds what the picture has at its centre. The simulated scan on the paper's grid has next to nothing above half
its sampling frequency, so its cosine series is that picture. Noise keeps its strength in each voxel, and what a coarse
grid cannot show folds back into what it can. "thick" slices are averages over their distance, with less noise.

Each scan is measured in spheres of 4.3 mm at every voxel well inside, and over all these voxels, at 225 mg/cm3; the
truth is measured on the model's own grid, where its maps are read at the same places. "truth" is the truth averaged
onto the grid of the scan. Needs no torch; the figure needs matplotlib.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from grids_figure import draw
from scipy import fft, ndimage

from qctrun.runtime import Filter, Grid, Volume, local_maps, parameters
from qctrun.runtime.filtering.grids import on_model_grid
from qctrun.runtime.resampling import Line, resampled, weights
from qctrun.train.insilico import PAPER_SPACING_MM, random_field_phantom
from qctrun.train.machine import cpu_words

SIZE = (60, 136, 136)
SEEDS = (90_001, 90_002, 90_003)
CURRENTS_MAS = (100.0, 360.0)
THRESHOLD_MG_CM3 = 225.0
INSIDE_MM = 3.5
"""So far from the faces is measured: a sphere, and what the network and the splines see around it."""

Array = npt.NDArray[np.float32]
Maps = dict[str, Array]


@dataclass(frozen=True)
class Scene:
    """A grid to scan on: its spacing (z, y, x) and whether slices are averages over their distance."""

    name: str
    spacing_mm: tuple[float, float, float]
    thick: bool = False


SCENES = (
    Scene("the model's", PAPER_SPACING_MM),
    *(Scene(f"{mm:g}", (mm, mm, mm)) for mm in (0.25, 0.35, 0.5, 0.7, 1.0)),
    Scene("0.6 x 0.35", (0.6, 0.35, 0.35)),
    Scene("1 x 0.35", (1.0, 0.35, 0.35)),
    Scene("1 x 0.35, thick slices", (1.0, 0.35, 0.35), thick=True),
)


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--figure", type=Path, help="where the picture goes")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    network = Filter(device="cpu", threads=arguments.threads)
    rows, slices = measured(network)
    found = {
        "machine": cpu_words(),
        "model": f"{network.card.name} {network.card.version}",
        "phantoms": list(SEEDS),
        "size_zyx": list(SIZE),
        "diameter_mm": 4.3,
        "threshold_mg_cm3": THRESHOLD_MG_CM3,
        "rows": rows,
    }
    for row in rows:
        print(*row.values())
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        draw(rows, slices, arguments.figure)


def measured(network: Filter) -> tuple[list[dict[str, Any]], dict[tuple[str, str], Array]]:
    """A row for each current, grid and way; and some slices (y, x) of the first phantom's first scan to look at."""
    errors: dict[tuple[float, str, str], list[dict[str, Any]]] = defaultdict(list)
    slices: dict[tuple[str, str], Array] = {}
    for phantom in (random_field_phantom(SIZE, seed) for seed in SEEDS):
        truth = Volume(phantom.truth, Grid(SIZE, PAPER_SPACING_MM), "mg/cm3", "HA")
        known, whole = maps(truth), over_mask(truth)
        for mas, scene in product(CURRENTS_MAS, SCENES):
            raw = sampled(phantom.scan(mas, 0), scene)
            places = inside(raw.grid)
            wanted = between(known, truth.grid, places)
            for way, volume in ways(raw, truth, network):
                got, all_of_it = nearest(maps(volume), volume.grid, places), over_mask(volume)
                wrong = {key: (got[key] - wanted[key], all_of_it[key] - whole[key]) for key in wanted}
                errors[mas, scene.name, way].append({"sd": volume.array.std(), **wrong})
                if (mas, phantom.seed) == (CURRENTS_MAS[0], SEEDS[0]):
                    slices[scene.name, way] = volume.array[len(volume.array) // 2]
    return [_row(*key, found) for key, found in errors.items()], slices


def _row(mas: float, grid: str, way: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """All phantoms alike: errors in spheres (root mean square, and mean) and the mean error over the mask."""
    row: dict[str, Any] = {"mas": mas, "grid": grid, "way": way}
    row["voxel_sd_mg_cm3"] = round(float(np.mean([each["sd"] for each in found])), 1)
    for key in ("BMD", "TMD", "BV/TV"):
        spheres, mask = zip(*(each[key] for each in found), strict=True)
        squares = [np.square(error, dtype=np.float64).mean() for error in spheres]
        row[key] = {
            "rmse": round(float(np.sqrt(np.mean(squares))), 2),
            "bias": round(float(np.mean([error.mean(dtype=np.float64) for error in spheres])), 2),
            "mask_bias": round(float(np.mean(mask)), 2),
        }
    return row


def ways(raw: Volume, truth: Volume, network: Filter) -> Iterator[tuple[str, Volume]]:
    """What is measured: the truth as these voxels can hold it, the raw scan, and what the filter makes of it."""
    yield "truth", averaged(truth, raw.grid)
    yield "raw", raw
    yield "native", network(raw)
    yield "model", network(raw, grid="model")
    there = network(on_model_grid(raw, network.card.spacing_mm))
    yield "model, measured there", there
    yield "model, sampled back", splined(there, raw.grid)


def sampled(scan: Array, scene: Scene) -> Volume:
    """The scan that a scanner gives on another grid with the same middle: its cosine series at the new centres."""
    lines = []
    for count, old_mm, new_mm in zip(SIZE, PAPER_SPACING_MM, scene.spacing_mm, strict=True):
        voxels = int(count * old_mm / new_mm + 1e-6)
        start = ((count - 1) * old_mm - (voxels - 1) * new_mm) / 2
        lines.append((Line(0.0, old_mm, count), Line(start, new_mm, voxels)))
    wide = (scene.spacing_mm[0] if scene.thick else 0.0, 0.0, 0.0)
    z, y, x = (cosines(old, new, width) for (old, new), width in zip(lines, wide, strict=True))
    array, start = resampled(scan, (z, y, x)), tuple(new.start_mm for _, new in lines)
    return Volume(array, Grid(array.shape, scene.spacing_mm, start[::-1]), "mg/cm3", "HA")


def cosines(old: Line, new: Line, width_mm: float) -> npt.NDArray[np.float64]:
    """Matrix (new, old) of a row's cosine series at the new centres, averaged over a width about them."""
    waves = np.arange(old.count)
    at = (new.centres_mm - old.start_mm) / old.spacing_mm + 0.5
    series = np.cos(np.pi * np.outer(at, waves) / old.count)
    series *= np.sinc(waves * width_mm / old.spacing_mm / (2 * old.count)) / old.count
    series[:, 0] /= 2
    return np.asarray(series @ fft.dct(np.eye(old.count), axis=0))


def maps(volume: Volume) -> Maps:
    """Maps (z, y, x) of spheres of 4.3 mm: BMD and TMD in mg/cm3, BV/TV in percent."""
    found = local_maps(volume, (THRESHOLD_MG_CM3,), device="cpu")
    bmd, bvtv, tmd = (
        found[key].array for key in ("BMD", ("BVTV", THRESHOLD_MG_CM3), ("TMD", THRESHOLD_MG_CM3))
    )
    return {"BMD": bmd, "TMD": tmd, "BV/TV": 100 * bvtv}


def inside(grid: Grid) -> list[npt.NDArray[np.float64]]:
    """Centres (z, y, x) of a grid's voxels that are measured, mm."""
    found = []
    for line, count, spacing in zip(_lines(grid), SIZE, PAPER_SPACING_MM, strict=True):
        far = np.abs(line.centres_mm - (count - 1) * spacing / 2)
        found.append(line.centres_mm[far <= count * spacing / 2 - INSIDE_MM])
    return found


def between(arrays: Maps, grid: Grid, places: list[npt.NDArray[np.float64]]) -> Maps:
    """Maps of the fine grid at places between its voxels."""
    at = np.meshgrid(*_indices(grid, places), indexing="ij")
    return {key: ndimage.map_coordinates(np.nan_to_num(array), at, order=1) for key, array in arrays.items()}


def nearest(arrays: Maps, grid: Grid, places: list[npt.NDArray[np.float64]]) -> Maps:
    """Maps at the voxels nearest to the places: these voxels themselves where the grid is the scan's."""
    at = np.ix_(*(np.rint(index).astype(int) for index in _indices(grid, places)))
    return {key: array[at] for key, array in arrays.items()}


def over_mask(volume: Volume) -> dict[str, float]:
    """The same over all voxels that are measured, with the hard step."""
    box = np.zeros(volume.grid.size, bool)
    box[np.ix_(*(np.rint(index).astype(int) for index in _indices(volume.grid, inside(volume.grid))))] = True
    (found,) = parameters(volume, (THRESHOLD_MG_CM3,), box)
    return {"BMD": found.bmd_mg_cm3, "TMD": found.tmd_mg_cm3 or 0.0, "BV/TV": 100 * found.bvtv}


def averaged(volume: Volume, grid: Grid) -> Volume:
    """A volume on a grid with the same axes, each voxel the mean over its width where it is the wider one."""
    pairs = zip(_lines(volume.grid), _lines(grid), strict=True)
    z, y, x = (weights(old, new) for old, new in pairs)
    return Volume(resampled(volume.array, (z, y, x)), grid, "mg/cm3", "HA")


def splined(volume: Volume, grid: Grid) -> Volume:
    """The same by the value of the cubic B-spline at each voxel's centre."""
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.grid.spacing[::-1])
    image.SetOrigin(volume.grid.origin)
    plan = (grid.size[::-1], sitk.Transform(), sitk.sitkBSpline, grid.origin, grid.spacing[::-1])
    return Volume(sitk.GetArrayFromImage(sitk.Resample(image, *plan)), grid, "mg/cm3", "HA")


def _lines(grid: Grid) -> list[Line]:
    return [Line(*line) for line in zip(grid.origin[::-1], grid.spacing, grid.size, strict=True)]


def _indices(grid: Grid, places: list[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float64]]:
    return [(at - line.start_mm) / line.spacing_mm for at, line in zip(places, _lines(grid), strict=True)]


if __name__ == "__main__":
    main()
