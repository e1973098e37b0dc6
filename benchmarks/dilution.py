"""How well a regression on the reference finds a scan's line: noise, spheres, misregistration, cortex, metal.

    python benchmarks/dilution.py --json benchmarks/results/dilution.json --figure docs/dilution.png

The five vertebrae of the in-silico study (23 x 26 x 26 mm) are scanned eight times at each tube current with the
scanner's own misplacement, gain and bias off, so the true slope is 1 and what is found beyond it is error. The
reference has the noise of HR-pQCT, 18 mg/cm3 in voxels of 82 um, averaged onto the paper's grid. The mask is a
cylinder of 24 mm, 22 mm high; its rim of 1 mm is left out as `reference_line` does it.

Ways: "ours" is what `reference_line` does: the scan regressed on the reference and on its curvatures, turned round;
"plain" the same without curvatures; "other way" the reference regressed on the scan; "Deming" both with errors, whose
sizes come from two repetitions and from what is known of the reference. "whole spheres" is
"ours" about voxels whose sphere lies wholly in the mask. Every 13th voxel counts. In "cortex" a shell
of bone lies around a cylinder of 24 mm; in "metal" a bead of 3 mm that is in the scan alone. Needs no torch.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dilution_figure import draw
from scipy import ndimage

from qctrun.runtime.calibrating.agreeing import agreeing, sharpened_line
from qctrun.runtime.calibrating.low_pass import curvatures, sphere_means, without_rim
from qctrun.runtime.resampling import Line, resampled, weights
from qctrun.runtime.volume import Grid
from qctrun.train.insilico.bone import FINE_SPACING_MM
from qctrun.train.insilico.fields import filtered, shift_response
from qctrun.train.insilico.hrpqct import HRPQCT_SPACING_MM, hrpqct_noise
from qctrun.train.insilico.phantom import RANDOM_FIELD_BLUR_MM, Phantom
from qctrun.train.insilico.scanner import BINNING, PAPER_SPACING_MM, Scanner, reference
from qctrun.train.insilico.study import STUDY_SIZE, VERTEBRAE, study_phantom
from qctrun.train.machine import cpu_words

CURRENTS_MAS = (50.0, 100.0, 250.0, 360.0)
DIAMETERS_MM = (3.0, 5.0, 8.0)
SHIFTS_MM = (0.0, 0.1, 0.5)
SCANS, DIRECTIONS = 8, 4
RADIUS_MM, HEIGHT_MM = 12.0, 22.0
CORTEX_MM, CORTEX_MG_CM3 = 0.6, 800.0
METAL_RADIUS_MM, METAL_HU = 1.5, 4000.0
MAIN_MAS, MAIN_MM = 100.0, 5.0
EVERY = 13

GRID = Grid(STUDY_SIZE, PAPER_SPACING_MM)
Doubles = npt.NDArray[np.float64]
Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Way = Callable[[Doubles, list[Doubles], Doubles], float]
Found = dict[tuple[str, float, float, float, str], list[float]]
"""Slope errors by scene, diameter, tube current, shift and way."""


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--figure", type=Path, help="where the picture goes")
    parser.add_argument("--scans", type=int, default=SCANS, help="scans of each vertebra and tube current")
    parser.add_argument("--vertebrae", type=int, default=VERTEBRAE, help="how many of the study's five")
    arguments = parser.parse_args()
    found: Found = defaultdict(list)
    for index in range(arguments.vertebrae):
        phantom = study_phantom(index, Scanner(offset_mm=0, jitter_mm=0, gain=1, gain_spread=0))
        for key, error in measured(phantom, arguments.scans):
            found[key].append(error)
    rows = [_row(*key, errors) for key, errors in found.items()]
    print(f"{'scene':24} {'mm':>3} {'mAs':>4} {'shift':>5} {'way':13}   median  95 %   mean, % of the slope")
    for row in rows:
        told = (
            f"{row['scene']:24} {row['diameter_mm']:3g} {row['mas']:4g} {row['shift_mm']:5g} {row['way']:13}"
        )
        print(f"{told} {row['median']:8.2f} {row['p95']:5.2f} {row['mean']:+6.2f}")
    if arguments.json:
        about = {
            "machine": cpu_words(),
            "vertebrae": arguments.vertebrae,
            "scans": arguments.scans,
            "unit": "% of the true slope: median and 95 % quantile of the size, mean and 95 % range of the error",
        }
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        draw(rows, arguments.figure)


def measured(phantom: Phantom, scans: int) -> Iterator[tuple[tuple[str, float, float, float, str], float]]:
    """Every condition and the slope's error in it, in per cent, for each scan of a vertebra."""
    rng = np.random.default_rng((phantom.seed, 77))
    noises = [phantom.scanner.noise(STUDY_SIZE, MAIN_MAS, phantom.level, rng) for _ in range(scans)]
    whole = _cylinder(RADIUS_MM)
    inside = without_rim(whole, GRID)
    noisy = phantom.truth + _reference_noise(rng)
    moved = {mm: [_moved(phantom.signal, mm, rng) for _ in range(DIRECTIONS)] for mm in SHIFTS_MM if mm}
    deep = ndimage.distance_transform_edt(inside, sampling=PAPER_SPACING_MM)[inside][::EVERY]
    for diameter in DIAMETERS_MM:
        grain = _means(noises, inside, diameter)
        x, *curved = _means([noisy, *curvatures(noisy, inside, GRID)], inside, diameter)
        (clear,) = _means([phantom.truth], inside, diameter)
        (signal,) = _means([phantom.signal], inside, diameter)
        ways = _ways(_deming_ratio(grain, x - clear))
        for mas in CURRENTS_MAS:
            factor = np.sqrt(MAIN_MAS / mas)
            for each in grain:
                for name, way in ways.items():
                    yield ("noise", diameter, mas, 0.0, name), way(x, curved, signal + factor * each)
        for mm, shifted in moved.items():
            for each, y in zip(grain, cycle(_means(shifted, inside, diameter)), strict=False):
                for name in ("ours", "plain"):
                    yield ("shift", diameter, MAIN_MAS, mm, name), ways[name](x, curved, y + each)
        if diameter == MAIN_MM:
            plain = {name: ways[name] for name in ("ours", "plain")}
            clean = _means(curvatures(phantom.truth, inside, GRID), inside, diameter)
            (bias,) = _means([phantom.bias], inside, diameter)
            for each in grain:
                for name, way in plain.items():
                    here = diameter, MAIN_MAS, 0.0, name
                    yield ("noise-free reference", *here), way(clear, clean, signal + each)
                    yield ("smooth bias of the scan", *here), way(x, curved, signal + bias + each)
                within = deep >= diameter / 2
                error = ways["ours"](x[within], [c[within] for c in curved], (signal + each)[within])
                yield ("noise", diameter, MAIN_MAS, 0.0, "whole spheres"), error
            for name, way in plain.items():
                yield ("noise-free scan", diameter, 0.0, 0.0, name), way(x, curved, signal)
    yield from _disturbed(phantom, noisy, noises)


def _disturbed(
    phantom: Phantom, noisy: Array, noises: list[Array]
) -> Iterator[tuple[tuple[str, float, float, float, str], float]]:
    """The same with a cortex around the mask, a mask that reaches into it, and metal, with and without the remedy."""
    in_scan, in_reference = _shell(phantom.scanner)
    bead = METAL_HU * _bead()
    ours = _ways(0.0)["ours"]
    scenes = {
        "cortex": (RADIUS_MM, in_scan, in_reference),
        "cortex, mask 0.3 mm wider": (RADIUS_MM + 0.3, in_scan, in_reference),
        "metal": (RADIUS_MM, bead, np.zeros_like(bead)),
    }
    for scene, (radius, more, there) in scenes.items():
        whole = _cylinder(radius)
        peeled = without_rim(whole, GRID)
        truth = noisy + there
        for name, inside in (("ours", peeled), ("with rim", whole)):
            if scene == "metal" and name == "with rim":
                continue
            x, *curved = _means([truth, *curvatures(truth, inside, GRID)], inside, MAIN_MM)
            for y in _means([phantom.signal + more + each for each in noises], inside, MAIN_MM):
                yield (scene, MAIN_MM, MAIN_MAS, 0.0, name), ours(x, curved, y)
                if scene == "metal":
                    yield (scene, MAIN_MM, MAIN_MAS, 0.0, "all kept"), _everything(x, curved, y)


def _ways(ratio: float) -> dict[str, Way]:
    """Slope errors in per cent of the slope 1."""

    def ours(x: Doubles, curved: list[Doubles], y: Doubles) -> float:
        line, _ = sharpened_line(x, y, curved, agreeing(x, y, curved), x.size)
        return 100 * (line.slope - 1)

    def plain(x: Doubles, curved: list[Doubles], y: Doubles) -> float:
        (xx, xy), _ = np.cov(x, y)
        return float(100 * (xx / xy - 1))

    def other(x: Doubles, curved: list[Doubles], y: Doubles) -> float:
        _, (xy, yy) = np.cov(x, y)
        return float(100 * (xy / yy - 1))

    def deming(x: Doubles, curved: list[Doubles], y: Doubles) -> float:
        (xx, xy), (_, yy) = np.cov(x, y)
        apart = yy - ratio * xx
        return float(100 * (2 * xy / (apart + np.hypot(apart, 2 * np.sqrt(ratio) * xy)) - 1))

    return {"ours": ours, "plain": plain, "other way": other, "Deming": deming}


def _everything(x: Doubles, curved: list[Doubles], y: Doubles) -> float:
    return 100 * (sharpened_line(x, y, curved, np.ones(x.size, bool), x.size)[0].slope - 1)


def _deming_ratio(grain: list[Doubles], of_reference: Doubles) -> float:
    """Variance of the scan's noise, from two repetitions, to that of the reference's."""
    return float(np.var(grain[0] - grain[-1]) / 2 / np.var(of_reference))


def _means(arrays: Any, inside: Mask, diameter: float) -> list[Doubles]:
    return [each[::EVERY] for each in sphere_means(list(arrays), inside, GRID, diameter)]


def _row(
    scene: str, diameter: float, mas: float, shift: float, way: str, errors: list[float]
) -> dict[str, Any]:
    sizes = np.abs(errors)
    return {
        "scene": scene,
        "diameter_mm": diameter,
        "mas": mas,
        "shift_mm": shift,
        "way": way,
        "scans": len(errors),
        "median": round(float(np.median(sizes)), 3),
        "p95": round(float(np.quantile(sizes, 0.95)), 3),
        "mean": round(float(np.mean(errors)), 3),
        "range95": [round(float(q), 3) for q in np.quantile(errors, [0.025, 0.975])],
    }


def _places() -> tuple[Doubles, Doubles, Doubles]:
    """Distances (z, y, x) from the middle, mm."""
    z, y, x = (
        (np.arange(n) - (n - 1) / 2) * step for n, step in zip(STUDY_SIZE, PAPER_SPACING_MM, strict=True)
    )
    return z[:, None, None], y[:, None], x


def _cylinder(radius_mm: float) -> Mask:
    z, y, x = _places()
    return (np.hypot(y, x) < radius_mm) & (np.abs(z) < HEIGHT_MM / 2)


def _bead() -> Array:
    """Share of metal, blurred as the scanner blurs; 6 mm off the axis."""
    z, y, x = _places()
    bead = (z**2 + y**2 + (x - 6) ** 2 < METAL_RADIUS_MM**2).astype(np.float32)
    return ndimage.gaussian_filter(bead, [0.3 / step for step in PAPER_SPACING_MM])


def _shell(scanner: Scanner) -> tuple[Array, Array]:
    """What a cortex around the cylinder adds to the scan and to the reference, mg/cm3."""
    size = tuple(n * b for n, b in zip(STUDY_SIZE, BINNING, strict=True))
    y, x = (
        (np.arange(n) - (n - 1) / 2) * step for n, step in zip(size[1:], FINE_SPACING_MM[1:], strict=True)
    )
    away = np.hypot(y[:, None], x) - RADIUS_MM
    plane = CORTEX_MG_CM3 * ((away >= 0) & (away < CORTEX_MM)).astype(np.float32)
    shell = np.ascontiguousarray(np.broadcast_to(plane, size))
    return scanner.signal(shell, (0.0, 0.0, 0.0)), reference(shell, RANDOM_FIELD_BLUR_MM)


def _moved(signal: Array, far_mm: float, rng: np.random.Generator) -> Array:
    """A scan that lies so far off, in a direction of its own."""
    way = rng.standard_normal(3)
    shift = tuple(far_mm * way / np.linalg.norm(way))
    return filtered(signal, shift_response(STUDY_SIZE, PAPER_SPACING_MM, shift))


def _reference_noise(rng: np.random.Generator) -> Array:
    """Noise of HR-pQCT, averaged onto the paper's grid."""
    pairs = []
    for count, step, fine in zip(STUDY_SIZE, PAPER_SPACING_MM, HRPQCT_SPACING_MM, strict=True):
        many = int(np.ceil(count * step / fine)) + 2
        start = ((count - 1) * step - (many - 1) * fine) / 2
        pairs.append((Line(start, fine, many), Line(0.0, step, count)))
    noise = hrpqct_noise(tuple(source.count for source, _ in pairs), rng)
    z, y, x = (weights(source, target) for source, target in pairs)
    return resampled(noise, (z, y, x))


if __name__ == "__main__":
    main()
