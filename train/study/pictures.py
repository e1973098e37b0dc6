"""The arrays behind the study's figures, from its readings, logs and networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime import Grid, Volume, local_maps
from qctrun.runtime.volume import FloatArray
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.study import figures
from qctrun.train.study.judge import Fold, Sample, values
from qctrun.train.study.measure import TABLE_THRESHOLD_MG_CM3
from qctrun.train.study.networks import log_of
from qctrun.train.study.over_folds import threshold_shares
from qctrun.train.study.results import QUANTITIES, Result
from qctrun.train.study.run import Study
from qctrun.train.study.subjects import RAW, Applied, Subject

DRAWN_MAS = (100.0, 360.0)
MAPPED = 0
"""The vertebra whose maps are drawn: the one that the first fold of `vertebrae` leaves out."""

Array = npt.NDArray[Any]


def drawn(study: Study, results: Sequence[Result]) -> dict[str, bytes]:
    """All figures as PNG, by file name."""
    fold = study.data.fold("positions", 1)
    networks = study.networks("positions", 1)
    pictures = {
        "error-curves.png": figures.error_curves(_logs(study)),
        "histograms.png": figures.histograms(_samples(study, fold, networks)),
        "sample-maps.png": figures.sample_maps(_maps(study.data.vertebrae[MAPPED], _unseen(study, networks))),
        "tmd-bvtv.png": figures.tmd_against_bvtv(_points(study, fold, networks)),
    }
    for split in dict.fromkeys(split for split, _ in study.folds):
        shares = threshold_shares(results, split)
        pictures[f"thresholds-{split}.png"] = figures.share_over_threshold(shares)
    study.data.forget()
    return pictures


def _unseen(study: Study, networks: Sequence[Applied]) -> Sequence[Applied]:
    """Networks that have not seen the first vertebra, where there are some."""
    return study.networks("vertebrae", 1) if "vertebrae" in study.splits else networks


def _logs(study: Study) -> dict[str, list[dict[str, list[float]]]]:
    logs: dict[str, list[dict[str, list[float]]]] = {}
    for split, fold in study.folds:
        runs = study.runs(split, fold).items() if split != "simulated" else ()
        for name, run in runs:
            logs.setdefault(f"{name}, {split}", []).append(log_of(study.work / run.folder))
    return logs


def _samples(
    study: Study, fold: Fold, networks: Sequence[Applied]
) -> dict[float, dict[str, dict[str, npt.ArrayLike]]]:
    """Values of the fold's test by tube current, source and quantity."""
    found: dict[float, dict[str, dict[str, npt.ArrayLike]]] = {}
    for mas in DRAWN_MAS:
        by_name: dict[str, dict[str, npt.ArrayLike]] = {
            "truth": {},
            "raw": {},
            **{one.name: {} for one in networks},
        }
        for quantity in QUANTITIES:
            threshold = TABLE_THRESHOLD_MG_CM3 if quantity in ("TMD", "BV/TV") else None
            for applied in (RAW, *networks):
                x, y, _ = values(fold.test, study.store, mas, applied, quantity, threshold)
                by_name[applied.name][quantity] = x.ravel()
                by_name["truth"][quantity] = y
        found[mas] = by_name
    return found


def _points(study: Study, fold: Fold, networks: Sequence[Applied]) -> dict[str, dict[str, figures.Points]]:
    """TMD and BV/TV of the test patches of each vertebra: truth, raw and networks at both tube currents."""
    panels: dict[str, dict[str, figures.Points]] = {"truth": {}}
    for mas in DRAWN_MAS:
        for applied in (RAW, *networks):
            panels[f"{applied.name}, {mas:g} mAs"] = {}
    for sample in fold.test:
        for mas in DRAWN_MAS:
            for applied in (RAW, *networks):
                tmd, bvtv = (_pair(study, sample, mas, applied, quantity) for quantity in ("TMD", "BV/TV"))
                panels[f"{applied.name}, {mas:g} mAs"][sample.subject.name] = (tmd[0], bvtv[0])
                panels["truth"][sample.subject.name] = (tmd[1], bvtv[1])
    return panels


def _pair(study: Study, sample: Sample, mas: float, applied: Applied, quantity: str) -> tuple[Array, Array]:
    """The first repetition and the truth."""
    x, y, _ = values([sample], study.store, mas, applied, quantity, TABLE_THRESHOLD_MG_CM3)
    return x[0], y


def _maps(subject: Subject, networks: Sequence[Applied]) -> Mapping[str, Mapping[str, npt.ArrayLike]]:
    """The middle slice of a vertebra: truth, and raw and filtered scans at both tube currents."""
    columns = {"truth": _slice(subject.phantom.truth)}
    for mas in DRAWN_MAS:
        scan = subject.phantom.scan(mas, 0)
        for applied in (RAW, *networks):
            columns[f"{applied.name}, {mas:g} mAs"] = _slice(applied.apply(scan))
    return columns


def _slice(volume: FloatArray) -> dict[str, npt.ArrayLike]:
    maps = local_maps(
        Volume(volume, Grid(volume.shape, PAPER_SPACING_MM), "mg/cm3"), [TABLE_THRESHOLD_MG_CM3]
    )
    z = volume.shape[0] // 2
    return {
        "voxel": volume[z],
        "BMD": maps["BMD"].array[z],
        "TMD": maps["TMD", TABLE_THRESHOLD_MG_CM3].array[z],
        "BV/TV": 100 * np.asarray(maps["BVTV", TABLE_THRESHOLD_MG_CM3].array[z]),
    }
