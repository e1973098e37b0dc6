"""What the study finds, as values: one quantity under one filter at one tube current in one fold."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from qctrun.runtime.measuring.metrics import AccuracyError, Metrics

QUANTITIES = ("voxel", "BMD", "TMD", "BV/TV")
"""Quantities in the order of the paper's tables."""

UNITS = {"voxel": "mg/cm3", "BMD": "mg/cm3", "TMD": "mg/cm3", "BV/TV": "%"}

SPLITS = {
    "positions": "the paper's: other positions in the same five vertebrae, whose tissue overlaps",
    "vertebrae": "leave one vertebra out: the tested vertebra was never seen",
    "donors": "real L1 anatomy of donors never seen",
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

    def as_json(self) -> dict[str, Any]:
        """In JSON's own types; `result_of` reads it back."""
        return asdict(self)


def result_of(saved: dict[str, Any]) -> Result:
    """A result from what `Result.as_json` gave."""
    known = {field.name for field in fields(Metrics)}
    numbers = {name: _back(name, value) for name, value in saved["metrics"].items() if name in known}
    return Result(**{**saved, "metrics": Metrics(**numbers)})


def chosen(results: Iterable[Result], **where: object) -> list[Result]:
    """Those results whose attributes have these values."""
    return [one for one in results if all(getattr(one, name) == value for name, value in where.items())]


def _back(name: str, value: Any) -> Any:
    if name in ("ae_paper", "ae_unbiased"):
        return None if value is None else AccuracyError(**value)
    if name == "rms_sd_chi2":
        return None if value is None else tuple(value)
    if name == "intervals":
        return {key: tuple(pair) for key, pair in value.items()}
    return value
