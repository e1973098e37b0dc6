"""Repeated measurements with a truth, and what their statistics are without the wrapping."""

import numpy as np
import numpy.typing as npt

from qctrun.runtime.measuring.metrics import STATISTICS, Metrics

Doubles = npt.NDArray[np.float64]


def example(seed: int, points: int = 40, repetitions: int = 3) -> tuple[Doubles, Doubles, Doubles]:
    """Plausible BMD values (repetition, point), their truth, and something known beside."""
    random = np.random.default_rng(seed)
    y = random.normal(115, 30, points)
    fixed = 3 + 0.95 * y + random.normal(0, 6, points)
    x = fixed + random.normal(0, 2, (repetitions, 1)) + random.normal(0, 5, (repetitions, points))
    return x, y, y + random.normal(0, 20, (repetitions, points))


def plain(found: Metrics) -> dict[str, float]:
    """The statistics that have a value; accuracy errors without their flags."""
    values = {name: getattr(found, name) for name in STATISTICS}
    return {name: getattr(value, "value", value) for name, value in values.items() if value is not None}
