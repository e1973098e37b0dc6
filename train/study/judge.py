"""From readings to statistics: a filter's spheres and voxels against the truth, and what raw BMD alone would tell."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qctrun.runtime.measuring.metrics import RESAMPLES, metrics
from qctrun.train.folds import Numbers
from qctrun.train.raster import corners
from qctrun.train.study.measure import THRESHOLDS_MG_CM3, inside
from qctrun.train.study.results import Result
from qctrun.train.study.store import Store
from qctrun.train.study.subjects import RAW, Applied, Subject

Doubles = npt.NDArray[np.float64]
LINE = "BMD line"

_VALUES = [("BMD", None), *((quantity, t) for quantity in ("TMD", "BV/TV") for t in THRESHOLDS_MG_CM3)]


@dataclass(frozen=True)
class Sample:
    """Some spheres of a subject: the numbers of their patches on its raster, all of them where None."""

    subject: Subject
    numbers: Numbers | None = None


@dataclass(frozen=True)
class Fold:
    """What is judged, and what the BMD line is fitted to.

    Attributes
    ----------
    split, number
        As in `Result`.
    train, test : sequence of Sample
        Nothing of `test` is in `train`.
    """

    split: str
    number: int
    train: Sequence[Sample]
    test: Sequence[Sample]


def judged(
    fold: Fold, store: Store, mas: float, filters: Sequence[Applied], *, resamples: int = RESAMPLES
) -> list[Result]:
    """Statistics of raw scans, of filters and of the BMD line at one tube current (mAs)."""
    raw_bmd = _spheres(fold.test, store, mas, RAW, "BMD", None)
    found = []
    for applied in (RAW, *filters):
        for quantity, threshold in (("voxel", None), *_VALUES):
            x, y, owners = values(fold.test, store, mas, applied, quantity, threshold)
            given = None if quantity == "voxel" else raw_bmd
            judgement = metrics(x, y, clusters=owners, given=given, resamples=resamples)
            found.append(Result(fold.split, fold.number, applied.name, mas, quantity, threshold, judgement))
    return found + list(_line_results(fold, store, mas, raw_bmd, resamples))


def _line_results(fold: Fold, store: Store, mas: float, raw_bmd: Doubles, resamples: int) -> Iterator[Result]:
    """Every parameter predicted from raw BMD by a straight line fitted to the training data (method section 11)."""
    bmd = _spheres(fold.train, store, mas, RAW, "BMD", None)
    owners = _owners(fold.test, len(raw_bmd[0]), store)
    for quantity, threshold in _VALUES:
        truth = _truths(fold.train, store, quantity, threshold)
        slope, intercept = np.polyfit(bmd.ravel(), np.tile(truth, len(bmd)), 1)
        y = _truths(fold.test, store, quantity, threshold)
        judgement = metrics(
            slope * raw_bmd + intercept, y, clusters=owners, given=raw_bmd, resamples=resamples
        )
        yield Result(fold.split, fold.number, LINE, mas, quantity, threshold, judgement)


def values(
    samples: Sequence[Sample],
    store: Store,
    mas: float,
    applied: Applied,
    quantity: str,
    threshold: float | None,
) -> tuple[Doubles, Doubles, list[str]]:
    """Values (repetition, point), their truth (point) and whose each point is."""
    if quantity != "voxel":
        x = _spheres(samples, store, mas, applied, quantity, threshold)
        return x, _truths(samples, store, quantity, threshold), _owners(samples, x.shape[1], store)
    values, truths, owners = [], [], []
    for sample in samples:
        truth = sample.subject.truth(store)
        chosen = _voxels(sample, tuple(int(n) for n in truth["shape"]))
        values.append(sample.subject.scans(store, mas, applied)["voxel"][:, chosen])
        truths.append(truth["voxel"][chosen])
        owners += [sample.subject.donor] * truths[-1].size
    return (
        np.concatenate(values, axis=1).astype(np.float64),
        np.concatenate(truths).astype(np.float64),
        owners,
    )


def _spheres(
    samples: Sequence[Sample],
    store: Store,
    mas: float,
    applied: Applied,
    quantity: str,
    threshold: float | None,
) -> Doubles:
    """Values (repetition, sphere) of all samples, one after the other."""
    parts = [
        _chosen(sample.subject.scans(store, mas, applied)[quantity], sample, threshold) for sample in samples
    ]
    return np.concatenate(parts, axis=1).astype(np.float64)


def _truths(samples: Sequence[Sample], store: Store, quantity: str, threshold: float | None) -> Doubles:
    parts = [_chosen(sample.subject.truth(store)[quantity], sample, threshold) for sample in samples]
    return np.concatenate(parts).astype(np.float64)


def _chosen(
    values: npt.NDArray[np.float32], sample: Sample, threshold: float | None
) -> npt.NDArray[np.float32]:
    """The spheres of a sample, at one threshold: the last two axes are (threshold, sphere), or (sphere) alone."""
    at = values if threshold is None else values[..., THRESHOLDS_MG_CM3.index(threshold), :]
    return at if sample.numbers is None else at[..., sample.numbers]


def _owners(samples: Sequence[Sample], count: int, store: Store) -> list[str]:
    owners = [
        sample.subject.donor
        for sample in samples
        for _ in range(len(_chosen(sample.subject.truth(store)["BMD"], sample, None)))
    ]
    assert len(owners) == count
    return owners


def _voxels(sample: Sample, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    where = corners(shape)
    return inside(shape, where if sample.numbers is None else [where[i] for i in sample.numbers])
