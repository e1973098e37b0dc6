"""What the study finds, as values: one quantity under one filter at one tube current in one fold."""

from dataclasses import dataclass

from qctrun.runtime.measuring.metrics import Metrics

QUANTITIES = ("voxel", "BMD", "TMD", "BV/TV")
"""Quantities in the order of the paper's tables."""

UNITS = {"voxel": "mg/cm3", "BMD": "mg/cm3", "TMD": "mg/cm3", "BV/TV": "%"}

SPLITS = {
    "positions": "the paper's: other positions in the same five vertebrae, whose tissue overlaps",
    "vertebrae": "leave one vertebra out: the tested vertebra was never seen",
    "donors": "real L1 anatomy of donors never seen",
    "simulated": "the network of `donors` on the five vertebrae, none of which it has seen",
}
"""How training and test data are held apart, and what that shows."""


@dataclass(frozen=True, slots=True)
class Result:
    """Statistics of one quantity.

    Attributes
    ----------
    split : str
        One of `SPLITS`.
    fold : int
        From 1 on.
    filter : str
        `raw`, the name of a filter, or `BMD line`.
    mas : float
        Tube current-time product, mAs.
    quantity : str
        One of `QUANTITIES`; BV/TV in percent.
    threshold_mg_cm3 : float, optional
        Of TMD and BV/TV; None for the others.
    metrics : Metrics
        Over the data points of the fold's test set, clustered by vertebra; `given` was raw BMD.
    """

    split: str
    fold: int
    filter: str
    mas: float
    quantity: str
    threshold_mg_cm3: float | None
    metrics: Metrics
