"""How much of the truth's structure a raw scan holds: ridge regression on the energies of spatial bands.

    python benchmarks/texture.py --microct l1_microct/ --json benchmarks/results/texture.json

Each patch of the study's five vertebrae is described by the mean of its scan, the energies of seven bands between
0.1 and 1 mm, the energies along each axis and the skewness of smoothed scans; a ridge regression (quadratic, no
network) predicts TMD and BV/TV at 225 mg/cm3 in the paper's split by positions and with each vertebra left out. It
makes no volume and no map, so it is no filter; it says what a filter could know. `BMD and true TMD` is what
would be known of BV/TV if TMD had no error at all: what is left comes from the errors of the scan's BMD.
`no noise` are the same scans at an endless tube current: what is left is misplacement and the scan's own
calibration error, of which no filter can know. With `--microct` the same is learnt from the micro-CT cubes of the
training's donors and tested on those of donors never seen, also at tube currents that training never saw: there with
the partial R2 beyond raw BMD.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from qctrun.runtime.measuring.metrics import metrics
from qctrun.train.dataset import planned
from qctrun.train.folds import by_owner, by_position
from qctrun.train.insilico.phantom import Phantom, cube_seed, microct_phantom
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.insilico.study import VERTEBRAE, study_phantom
from qctrun.train.machine import cpu_words
from qctrun.train.raster import REPETITIONS, centre, corners
from qctrun.train.study.measure import spheres

SIGMAS_MM = (0.1, 0.15, 0.22, 0.32, 0.45, 0.65, 1.0)
AXIS_SIGMA_MM, SPHERE_SIGMA_MM = 0.25, 1.15
SMOOTHED = (2, 3, 4)
"""Which of the smoothed scans show their skewness."""
RIDGE = 1.0
THRESHOLD_MG_CM3 = 225.0
QUANTITIES = ("TMD", "BV/TV", "BMD")
NO_NOISE_MAS = 1e12
DONORS_MAS = (NO_NOISE_MAS, 360.0, 200.0, 100.0, 50.0)

Array = npt.NDArray[np.float64]


def smooth(volume: npt.NDArray[Any], sigma_mm: float, axis: int | None = None) -> npt.NDArray[Any]:
    """A Gaussian in mm, along all axes or one."""
    sigmas = [sigma_mm / d if axis in (None, i) else 0 for i, d in enumerate(PAPER_SPACING_MM)]
    return np.asarray(ndimage.gaussian_filter(volume, sigmas, truncate=3))


def described(scan: npt.NDArray[np.float32], at: tuple[npt.NDArray[np.intp], ...]) -> Array:
    """Features (patch, feature) of the neighbourhoods of these voxels."""

    def around(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return smooth(values, SPHERE_SIGMA_MM)[at]

    levels = [scan, *(smooth(scan, sigma) for sigma in SIGMAS_MM)]
    columns = [around(scan)]
    columns += [np.log(around((fine - coarse) ** 2)) for fine, coarse in pairwise(levels)]
    columns += [np.log(around((scan - smooth(scan, AXIS_SIGMA_MM, axis)) ** 2)) for axis in range(3)]
    for number in SMOOTHED:
        centred = levels[number] - smooth(levels[number], 1.0)
        variance = around(centred**2)
        columns += [around(centred**3) / variance**1.5, around(np.abs(centred)) / np.sqrt(variance)]
    return np.stack(columns, axis=1).astype(np.float64)


def data(phantom: Phantom, mas: float) -> tuple[Array, Array]:
    """Features (repetition, patch, feature), the first of them BMD, and truths (patch, quantity)."""
    where = corners(phantom.truth.shape)
    at = tuple(np.transpose([centre(corner) for corner in where]))
    truth = spheres(phantom.truth, where, [THRESHOLD_MG_CM3])
    features = np.stack([described(phantom.scan(mas, number), at) for number in range(REPETITIONS)])
    values = (truth["TMD"][0], truth["BV/TV"][0], truth["BMD"])
    return features, np.stack(values, axis=1).astype(np.float64)


def predicted(train: Array, truth: Array, test: Array) -> Array:
    """What a quadratic ridge regression on the features of `train` says of `test`: (repetition, patch, quantity)."""
    mean, spread = (getattr(train, name)(axis=(0, 1)) for name in ("mean", "std"))

    def terms(features: Array) -> Array:
        z = ((features - mean) / spread).reshape(-1, features.shape[2])
        return np.hstack([z, z**2, np.ones((len(z), 1))])

    x, y = terms(train), np.tile(truth, (REPETITIONS, 1))
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    return np.asarray(terms(test) @ weights).reshape(*test.shape[:2], -1)


def judged(features: Array, truth: Array) -> dict[str, Any]:
    """RMSE and explained variance of both splits, for BMD alone and for all features."""
    owners = np.repeat(np.arange(VERTEBRAE), len(truth) // VERTEBRAE)
    positions = [by_position(len(truth), fold) for fold in range(1, 6)]
    vertebrae = [by_owner(owners, one) for one in range(VERTEBRAE)]
    found: dict[str, Any] = {}
    for split, folds in (("positions", positions), ("vertebrae", vertebrae)):
        true_tmd = np.broadcast_to(truth[:, :1], (REPETITIONS, len(truth), 1))
        told = np.concatenate([features[..., :1], true_tmd, features[..., :1] * true_tmd], axis=2)
        for words, kept in (
            ("BMD alone", features[..., :1]),
            ("all features", features),
            ("BMD and true TMD", told),
        ):
            wrong = np.concatenate(
                [
                    predicted(kept[:, parts.train], truth[parts.train], kept[:, parts.test])
                    - truth[parts.test]
                    for parts in folds
                ],
                axis=1,
            )
            errors = np.sqrt((wrong**2).mean(axis=(0, 1)))
            found[f"{split}, {words}"] = {
                name: {
                    "rmse": round(float(e), 2),
                    "explained_percent": round(float(100 * (1 - (e / s) ** 2)), 1),
                }
                for name, e, s in zip(QUANTITIES, errors, truth.std(axis=0), strict=True)
            }
    return found


def judged_on_donors(folder: Path) -> dict[str, Any]:
    """The same on micro-CT cubes of donors never seen, by tube current: RMSE, and partial R2 beyond raw BMD."""
    train, _, test = planned(folder).cubes
    found: dict[str, Any] = {}
    for mas in DONORS_MAS:
        (features, truth), (unseen, wanted) = (
            together([data(microct_phantom(path, cube_seed(path)), mas) for path in paths])
            for paths in (train, test)
        )
        values = predicted(features, truth, unseen)
        line = predicted(features[..., :1], truth, unseen[..., :1])
        found[named(mas)] = {
            name: {
                "rmse": rmse(values[..., i] - wanted[:, i]),
                "rmse_of_bmd_alone": rmse(line[..., i] - wanted[:, i]),
                "partial_r2_percent": beyond_bmd(values[..., i], wanted[:, i], unseen[..., 0]),
            }
            for i, name in enumerate(QUANTITIES)
        }
    return found


def named(mas: float) -> str:
    """A tube current for people."""
    return "no noise" if mas == NO_NOISE_MAS else f"{mas:g} mAs"


def rmse(wrong: Array) -> float:
    """Root mean squared error."""
    return round(float(np.sqrt(np.mean(wrong**2))), 2)


def beyond_bmd(values: Array, truth: Array, bmd: Array) -> float:
    """Partial R2, percent, once a straight line in raw BMD is taken from both."""
    found = metrics(values, truth, given=bmd, resamples=0).partial_r2_percent
    assert found is not None
    return round(found, 1)


def together(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Features and truths of several phantoms as one."""
    features, truths = zip(*parts, strict=True)
    return np.concatenate(features, axis=1), np.concatenate(truths)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--microct", type=Path, help="folder of the public L1 micro-CT cubes")
    arguments = parser.parse_args()
    phantoms = [study_phantom(index) for index in range(VERTEBRAE)]
    found: dict[str, Any] = {"machine": cpu_words()}
    for mas in (NO_NOISE_MAS, 360.0, 100.0):
        found[named(mas)] = judged(*together([data(phantom, mas) for phantom in phantoms]))
    if arguments.microct:
        found["donors never seen"] = judged_on_donors(arguments.microct)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
