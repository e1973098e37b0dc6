"""The measurement of regression dilution: its ways find a line that is known, and flatten it as they must."""

import importlib
from pathlib import Path

import numpy as np
import pytest

HOUSE = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def dilution(monkeypatch):
    """The script, imported as it imports its neighbours."""
    monkeypatch.syspath_prepend(HOUSE)
    return importlib.import_module("dilution")


def test_without_noise_every_way_finds_the_slope(dilution):
    x = np.random.default_rng(0).normal(150, 50, 3000)
    curved = [np.random.default_rng(seed).normal(0, 1, x.size) for seed in (1, 2)]
    for name, way in dilution._ways(1.0).items():
        assert way(x, curved, x) == pytest.approx(0, abs=1e-6), name
    assert dilution._ways(1.0)["ours"](x, curved, x / 1.1) == pytest.approx(10, abs=1e-6)


def test_noise_of_the_scan_flattens_the_other_way_alone(dilution):
    """By 1 / (1 + noise variance / variance) = 0.8, as the theory of regression has it."""
    rng = np.random.default_rng(0)
    x = rng.normal(150, 50, 100_000)
    y = x + rng.normal(0, 25, x.size)
    curved = [rng.normal(0, 1, x.size)]
    ways = dilution._ways(1e9)  # all noise is the scan's
    assert ways["other way"](x, curved, y) == pytest.approx(-20, abs=0.5)
    for name in ("ours", "plain", "Deming"):
        assert ways[name](x, curved, y) == pytest.approx(0, abs=1), name


def test_the_ratio_of_noise_comes_from_repetitions(dilution):
    rng = np.random.default_rng(0)
    grain = [rng.normal(0, 6, 50_000) for _ in range(3)]
    assert dilution._deming_ratio(grain, rng.normal(0, 2, 50_000)) == pytest.approx(9, rel=0.05)


def test_a_row_sums_up_errors_of_both_signs(dilution):
    row = dilution._row("noise", 5.0, 100.0, 0.0, "ours", [-3.0, 1.0, 2.0])
    assert (row["median"], row["mean"], row["scans"]) == (2.0, 0.0, 3)
    assert row["range95"][0] < 0 < row["range95"][1]
