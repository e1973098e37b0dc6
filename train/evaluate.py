"""How near a filter comes to the truth, patch by patch, beside what density alone would tell."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qctrun.runtime.measuring.metrics import metrics
from qctrun.train.losses import PatchSphere
from qctrun.train.network import NNSP, crop_halo
from qctrun.train.patches import Pair, Patches

QUANTITIES = ("BMD", "TMD", "BV/TV")
Values = npt.NDArray[np.float64]
Table = dict[str, Values]


@dataclass(frozen=True)
class Score:
    """One row of the table: a quantity under a filter at one tube current.

    Attributes
    ----------
    d_avg, rmse : float
        Mean difference to the truth and root mean squared error; mg/cm3, or percent for BV/TV.
    share_of_raw : float
        RMSE as a share of the raw scan's, percent.
    r2 : float
        Squared correlation with the truth, percent (the paper's "adj. R2").
    r2_beyond_bmd : float
        The same after a straight line in raw BMD is taken from both, percent: what is known beyond density.
        NaN where nothing is left to correlate.
    """

    mas: float
    quantity: str
    filter: str
    d_avg: float
    rmse: float
    share_of_raw: float
    r2: float
    r2_beyond_bmd: float


def measured(
    patches: Patches, pairs: Sequence[Pair], network: NNSP | None, sphere: PatchSphere, batch: int = 32
) -> tuple[Table, Table]:
    """BMD (mg/cm3), TMD (mg/cm3) and BV/TV (percent) of patches in these scans, filtered or raw, and their truth."""
    got: list[npt.NDArray[np.float64]] = []
    want: list[npt.NDArray[np.float64]] = []
    with torch.inference_mode():
        for first in range(0, len(pairs), batch):
            scans, truths = patches.batch(pairs[first : first + batch])
            got.append(_columns(network(scans) if network else crop_halo(scans), sphere))
            want.append(_columns(truths, sphere))
    return _table(got), _table(want)


def scores(
    network: NNSP,
    train: Patches,
    test: Patches,
    currents_mas: Sequence[float],
    threshold_mg_cm3: float = 225.0,
    *,
    name: str = "NNSP",
) -> list[Score]:
    """Score raw scans, the network (as `name`) and the BMD line on patches that none of them has seen.

    The BMD line predicts each parameter from the raw scan's BMD by a straight line fitted to the training
    patches at the same tube current: what a filter must beat to have seen structure (method section 11). Where
    none of them was scanned at it, they are taken at the nearest.
    """
    sphere = PatchSphere(test.spacing_mm, thresholds_mg_cm3=(threshold_mg_cm3,))
    rows = []
    for mas in currents_mas:
        raw, truth = _joined([measured(test, pairs, None, sphere) for pairs in test.pairs_at(mas)])
        filtered, _ = _joined([measured(test, pairs, network, sphere) for pairs in test.pairs_at(mas)])
        fitted_at = min(train.currents_mas, key=lambda known: abs(known - mas))
        known = [measured(train, pairs, None, sphere) for pairs in train.pairs_at(fitted_at)]
        line = bmd_line(*_joined(known), raw)
        rows += [
            _score(mas, quantity, whose, table, raw, truth)
            for quantity in QUANTITIES
            for whose, table in (("raw", raw), (name, filtered), ("BMD line", line))
        ]
    return rows


def bmd_line(train_raw: Table, train_truth: Table, raw: Table) -> Table:
    """Predict every parameter from raw BMD by straight lines fitted to training patches."""
    lines = {quantity: _line(train_raw["BMD"], train_truth[quantity]) for quantity in QUANTITIES}
    return {quantity: slope * raw["BMD"] + at_zero for quantity, (slope, at_zero) in lines.items()}


def as_text(rows: Sequence[Score]) -> str:
    """The scores as a table for people, RMSE as a share of raw beside its size."""
    names = ("mAs", "quantity", "filter", "dAvg", "RMSE", "% of raw", "R2 %", "beyond BMD")
    head = "{:>5} {:>8} {:>8} {:>8} {:>8} {:>9} {:>6} {:>11}".format(*names)
    lines = [
        f"{r.mas:5g} {r.quantity:>8} {r.filter:>8} {r.d_avg:8.2f} {r.rmse:8.2f} {r.share_of_raw:9.1f} "
        f"{r.r2:6.1f} {r.r2_beyond_bmd:11.1f}"
        for r in rows
    ]
    return "\n".join([head, *lines]).replace("nan", "n/a")


def as_rows(rows: Sequence[Score]) -> list[dict[str, Any]]:
    """The scores as JSON values, rounded for a model card; None for what is undefined."""
    return [{name: _rounded(value) for name, value in asdict(row).items()} for row in rows]


def from_rows(rows: Sequence[dict[str, Any]]) -> list[Score]:
    """The scores from what `as_rows` gave."""
    return [Score(**{name: _known(value) for name, value in row.items()}) for row in rows]


def _rounded(value: float | str) -> float | str | None:
    if isinstance(value, str):
        return value
    return round(value, 2) if np.isfinite(value) else None


def _known(value: Any) -> Any:
    return float("nan") if value is None else value


def _columns(patches: torch.Tensor, sphere: PatchSphere) -> npt.NDArray[np.float64]:
    found = sphere.parameters(patches)
    return torch.stack([found.bmd, found.tmd[:, 0], 100 * found.bvtv[:, 0]]).double().numpy()


def _table(parts: list[npt.NDArray[np.float64]]) -> Table:
    return dict(zip(QUANTITIES, np.concatenate(parts, axis=1), strict=True))


def _joined(parts: list[tuple[Table, Table]]) -> tuple[Table, Table]:
    got, want = (
        {q: np.concatenate([part[side][q] for part in parts]) for q in QUANTITIES} for side in (0, 1)
    )
    return got, want


def _score(mas: float, quantity: str, name: str, table: Table, raw: Table, truth: Table) -> Score:
    want, bmd = truth[quantity], raw["BMD"]
    found, unfiltered = (metrics(x[quantity][None], want, given=bmd, resamples=0) for x in (table, raw))
    error, raw_error = _number(found.rmse), _number(unfiltered.rmse)
    return Score(
        mas=mas,
        quantity=quantity,
        filter=name,
        d_avg=_number(found.d_avg),
        rmse=error,
        share_of_raw=100 * error / raw_error if raw_error else float("nan"),
        r2=_number(found.adj_r2_percent),
        r2_beyond_bmd=_number(found.partial_r2_percent),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _line(x: Values, y: Values) -> tuple[float, float]:
    """Slope and value at zero of the least-squares line; level where x does not vary."""
    spread = float(np.var(x))
    slope = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())
