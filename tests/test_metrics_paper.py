"""The statistics against the paper's own tables: what Eq. 13-15 say must give what Tables 1-2 print."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from qctrun.runtime.measuring.metrics import metrics
from qctrun.runtime.measuring.reference import paper_tables, paper_value

SD_TRUTH = {"voxel": 127.05, "BMD": 34.35, "TMD": 29.855, "BV/TV": 6.795}
"""The one SD(y) that all rows of a quantity imply by their PSNR."""

ROWS = [
    (table, quantity, name)
    for table in (1, 2)
    for quantity in SD_TRUTH
    for name in ("raw", "BM4D", "NNBMD", "NNSP")
]
BOUNDS = [(2, "voxel", "raw"), (2, "voxel", "BM4D")]


def cells(row: tuple[int, str, str]) -> dict[str, float]:
    return {
        name: paper_value(*row, name).mean for name in ("dAvg", "SD", "RMSE", "AE", "PE", "PSNR", "adjR2")
    }


def rebuilt(row: tuple[int, str, str], points: int = 40_000) -> tuple[npt.NDArray[np.float64], ...]:
    """Three repetitions and a truth that have just this dAvg, SD, RMSE and PE, and the SD(y) of the quantity."""
    paper, sd_truth = cells(row), SD_TRUTH[row[1]]
    random = np.random.default_rng(0)
    # Three directions without mean or correlation, each of variance 1.
    directions, _ = np.linalg.qr(np.column_stack([np.ones(points), random.normal(size=(points, 3))]))
    along_truth, beside, noise = math.sqrt(points) * directions[:, 1:].T
    within = (paper["PE"] * paper["SD"] / sd_truth) ** 2
    of_means = paper["SD"] ** 2 - 2 / 3 * within
    mse_of_means = paper["RMSE"] ** 2 - 2 / 3 * within
    covariance = (paper["dAvg"] ** 2 + of_means + sd_truth**2 - mse_of_means) / 2
    slope = covariance / sd_truth
    mean = paper["dAvg"] + slope * along_truth + math.sqrt(of_means - slope**2) * beside
    return mean + math.sqrt(within) * np.array([[-1.0], [0.0], [1.0]]) * noise, sd_truth * along_truth


def test_the_tables_are_whole() -> None:
    tables = paper_tables()
    assert len(tables) == 2 * 4 * 4 * 7 + 4 * 2
    assert [cell.mas for cell in tables if cell.statistic == "RMSE"] == [360] * 16 + [100] * 16
    assert paper_value(3, "TMD", "truth", "mean").mean == 334.54
    assert {(c.table, c.quantity, c.filter) for c in tables if c.is_bound} == set(BOUNDS)
    assert all((cell.half_range is None) == (cell.table == 3) for cell in tables)
    with pytest.raises(KeyError):
        paper_value(1, "SMI", "raw", "RMSE")


@pytest.mark.parametrize("row", [row for row in ROWS if row not in BOUNDS], ids=str)
def test_the_accuracy_error_follows_from_rmse_and_precision(row: tuple[int, str, str]) -> None:
    """Eq. 14 and 15 for N = 3: AE^2 = RMSE^2 - (7/6)(PE SD(x)/SD(y))^2, on all 30 cells with a value."""
    paper = cells(row)
    noise = (paper["PE"] * paper["SD"] / SD_TRUTH[row[1]]) ** 2
    assert math.sqrt(paper["RMSE"] ** 2 - 7 / 6 * noise) == pytest.approx(paper["AE"], abs=0.04)


@pytest.mark.parametrize("row", BOUNDS, ids=str)
def test_the_two_bounds_are_those_of_a_negative_bracket(row: tuple[int, str, str]) -> None:
    paper = cells(row)
    noise = (paper["PE"] * paper["SD"] / SD_TRUTH[row[1]]) ** 2
    assert paper["RMSE"] ** 2 < 7 / 6 * noise
    assert paper["PE"] / math.sqrt(2) == pytest.approx(paper["AE"], abs=0.006)


@pytest.mark.parametrize("quantity", SD_TRUTH)
def test_the_natural_logarithm_gives_one_spread_of_the_truth(quantity: str) -> None:
    """3 SD(y) = RMSE exp(PSNR/20) within the rounding of the table; with 10^(PSNR/20) nothing fits."""
    rows = [cells(row) for row in ROWS if row[1] == quantity]
    natural = [row["RMSE"] * math.exp(row["PSNR"] / 20) / 3 for row in rows]
    decimal = [row["RMSE"] * 10 ** (row["PSNR"] / 20) / 3 for row in rows]
    assert natural == pytest.approx([SD_TRUTH[quantity]] * 8, rel=0.003)
    assert max(decimal) > 1.5 * min(decimal)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_data_of_a_row_have_the_other_cells_of_that_row(row: tuple[int, str, str]) -> None:
    """Data made to have four cells of a row: the statistics find these, and AE, PSNR and adj. R2 as printed."""
    paper = cells(row)
    found = metrics(*rebuilt(row), resamples=0)
    assert found.d_avg == pytest.approx(paper["dAvg"], abs=1e-6)
    assert found.sd == pytest.approx(paper["SD"], rel=1e-4)
    assert found.sd_truth == pytest.approx(SD_TRUTH[row[1]], rel=1e-4)
    assert found.rmse == pytest.approx(paper["RMSE"], rel=1e-4)
    assert found.pe == pytest.approx(paper["PE"], rel=1e-4)
    assert found.ae_paper is not None
    assert found.ae_paper.is_bound == (row in BOUNDS)
    assert found.ae_paper.value == pytest.approx(paper["AE"], abs=0.05)
    assert found.psnr_paper == pytest.approx(paper["PSNR"], abs=0.06)
    assert found.psnr_db == pytest.approx(paper["PSNR"] / math.log(10), abs=0.03)
    # Two decimals of dAvg, RMSE and SD leave the correlation of the largest offsets open by so much.
    assert found.adj_r2_percent == pytest.approx(paper["adjR2"], abs=1.2)


def test_the_paper_prints_no_adjusted_r2() -> None:
    """1 - SSE/SST of raw TMD at 100 mAs is far below zero; the table prints the squared correlation."""
    row = (2, "TMD", "raw")
    x, y = rebuilt(row)
    assert 1 - np.mean((x - y) ** 2) / np.var(y) < -10
    assert 0 < cells(row)["adjR2"] < 5
