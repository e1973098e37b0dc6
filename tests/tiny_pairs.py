"""Small datasets of pairs: blobs of bone, and scans of them that are too dense by a known shift."""

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from qctrun.train.pairs.dataset import PAIRS, PairedSpecimen, join, write_specimen
from qctrun.train.raster import corners

SPACING_MM = (0.34, 0.172, 0.172)
SIZE = (29, 57, 57)
"""Room for eight patches."""
SHIFT_MG_CM3 = 60.0
NINE = (100.0,) * 3 + (250.0,) * 3 + (360.0,) * 3
SMALL = {"size": (22, 42, 43), "currents": (100.0, 100.0, 250.0), "positions": [(0, 0, 0), (1, 1, 2)]}
"""A specimen that is written and read at once."""
HEADER = {"registration": {"metric": "mutual information"}, "calibration": {"by": "reference", "slope": None}}


def specimen(name, donor="", *, seed=0, currents=NINE, size=SIZE, positions=None, scans=None):
    """Blobs about 225 +- 100 mg/cm3, known in every scan; each donor has its own seed."""
    rng = np.random.default_rng((seed, *name.encode()))
    blobs = ndimage.gaussian_filter(rng.standard_normal(size), 1.5)
    truth = (225 + 100 * blobs / blobs.std()).astype(np.float32)
    seen = [truth + SHIFT_MG_CM3 + rng.normal(0, 5, size).astype(np.float32) for _ in currents]
    return PairedSpecimen(
        name=name,
        donor=donor or name[0],
        truth=truth,
        mask=np.ones(size, bool),
        scans=np.array(seen, np.float32).reshape(-1, *size) if scans is None else scans,
        currents_mas=np.array(currents, float),
        repetitions=np.array([list(currents[:i]).count(mas) + 1 for i, mas in enumerate(currents)], int),
        positions=np.array(corners(size) if positions is None else positions, int),
        provenance=provenance(currents),
    )


def small(name="A1", **changes):
    """A small specimen, of two patches and three scans."""
    return specimen(name, **{**SMALL, **changes})


def provenance(currents):
    """In the form in which `qctrun pairs` notes it."""
    scans = [
        {
            "name": f"{mas:g}mAs-{number}",
            "accepted": number == 1,
            "verdict": {"good": number != 1, "local_shift_mm": 0.01 * number, "overlap": 1.0},
            "calibration": {
                "slope": 0.8 + number / 100,
                "intercept": 2.0,
                "source": "regression on the reference",
            },
            "provenance": {
                "inputs": [{"path": f"/home/someone/{mas:g}.nii", "sha256": "0"}],
                "scan": {"kvp": 120.0, "kernel": "B70s", "manufacturer": "MAKER", "series_uid": "1.2.840.99"},
            },
        }
        for number, mas in enumerate(currents)
    ]
    return {"reference": {"provenance": {"scan": {"manufacturer": "OTHER"}}}, "scans": scans}


def dataset(folder: Path, *specimens, spacing_mm=SPACING_MM, material="HA", header=HEADER):
    """These specimens as the folder of a study; returns it."""
    parts = folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    paths = [parts / f"{each.name}.h5" for each in specimens]
    for path, each in zip(paths, specimens, strict=True):
        write_specimen(path, each, spacing_mm, material)
    join(paths, folder / PAIRS, header)
    return folder


class OneAtATime(Sequence):
    """Scans that are made when they are asked for; knows how many of them are alive at once."""

    def __init__(self, count, size):
        self.count, self.size, self.alive, self.most, self.asked = count, size, weakref.WeakSet(), 0, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError
        self.asked.append(index)
        scan = np.full(self.size, float(index), np.float32).view(_Scan)
        self.alive.add(scan)
        self.most = max(self.most, len(self.alive))
        return scan


class _Scan(np.ndarray):
    __hash__ = object.__hash__
