"""Sums over clusters on the simulated GPU, held against the processor's."""

import numpy as np
import pytest

from qctrun.runtime.measuring.metrics import metrics
from qctrun.runtime.measuring.sums import Repeats, cluster_sums


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    from qctrun.runtime.measuring.kernels.cuda import moments as cuda_moments

    monkeypatch.setattr(cuda_moments, "THREADS", 4)
    monkeypatch.setattr(cuda_moments, "POINTS", 5)


@pytest.mark.parametrize("repetitions", [1, 3])
@pytest.mark.parametrize("known", ["nothing", "truth", "truth and given"])
def test_sums_agree_to_rounding(known, repetitions):
    rng = np.random.default_rng(repetitions)
    x = rng.normal(300, 40, (repetitions, 23))
    x[:, 7] = 250.0
    y = None if known == "nothing" else rng.normal(290, 30, 23)
    given = rng.normal(200, 30, 23) if known == "truth and given" else None
    repeats, cluster = Repeats.of(x, y, given), rng.integers(0, 4, 23)
    here = cluster_sums(repeats, cluster, 5)
    there = cluster_sums(repeats, cluster, 5, "cuda:0")
    assert set(there) == set(here)
    for name, want in here.items():
        assert there[name].shape == want.shape
        np.testing.assert_allclose(there[name], want, rtol=1e-12, atol=1e-9, err_msg=name)


def test_metrics_agree():
    rng = np.random.default_rng(5)
    y = rng.normal(290, 30, 20)
    x, clusters = y + rng.normal(0, 10, (2, 20)), np.repeat(["L1", "L2", "L3", "L4"], 5)
    one, other = (metrics(x, y, clusters=clusters, resamples=20, device=device) for device in ("cpu", "cuda"))
    assert one.intervals.keys() == other.intervals.keys()
    for name in ("mean", "sd", "rms_sd", "rmse", "pe", "icc_2_1", "slope"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-11)
