"""The study's figures: a PNG of the wanted size that shows what it was given."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import study_pictures

from qctrun.train.study import figures

mpl_image = pytest.importorskip("matplotlib.image")

DRAWN: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "curves": (
        lambda: figures.error_curves({"NNSP": study_pictures.logs(), "NNBMD": study_pictures.logs(2)}),
        (374, 748),
    ),
    "histograms": (lambda: figures.histograms(study_pictures.distributions()), (616, 1188)),
    "maps": (lambda: figures.sample_maps(study_pictures.maps()), (586, 1320)),
    "scatter": (lambda: figures.tmd_against_bvtv(study_pictures.scatter()), (407, 1122)),
    "shares": (lambda: figures.share_over_threshold(study_pictures.shares()), (682, 1188)),
}


def pixels(png: bytes) -> npt.NDArray[np.float32]:
    return np.asarray(mpl_image.imread(io.BytesIO(png)))[..., :3]


def near(image: npt.NDArray[np.float32], colour: str) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(image - wanted).max(axis=-1) < 0.03).sum())


@pytest.mark.parametrize("name", DRAWN)
def test_a_png_of_the_wanted_size_that_is_not_blank(name: str) -> None:
    draw, size = DRAWN[name]
    image = pixels(draw())
    assert image.shape[:2] == pytest.approx(size, abs=2)
    assert 0.02 < (image.min(axis=-1) < 0.9).mean() < 0.9


def test_the_same_data_give_the_same_bytes() -> None:
    draw, _ = DRAWN["shares"]
    assert draw() == draw()


def test_a_log_without_a_watched_loss_has_no_line_for_it() -> None:
    logs = study_pictures.logs(1)
    without = [{name: values for name, values in log.items() if name != "watch_loss"} for log in logs]
    whole, less = (pixels(figures.error_curves({"NNSP": one})) for one in (logs, without))
    assert near(whole, figures.PALETTE[0]) > 100
    assert (whole < 0.5).all(axis=-1).sum() > (less < 0.5).all(axis=-1).sum()


def test_every_filter_has_its_own_line() -> None:
    image = pixels(figures.share_over_threshold(study_pictures.shares()))
    colours = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00")
    assert all(near(image, colour) > 200 for colour in colours)
    only = {key: {"NNSP": by_filter["NNSP"]} for key, by_filter in study_pictures.shares().items()}
    alone = pixels(figures.share_over_threshold(only))
    assert near(alone, "#D55E00") > 200
    assert near(alone, "#0072B2") == 0


def test_values_that_are_missing_do_not_change_a_histogram() -> None:
    samples = study_pictures.distributions(500)
    holed = {
        mas: {name: {q: np.append(one[q], np.nan) for q in one} for name, one in by_name.items()}
        for mas, by_name in samples.items()
    }
    assert figures.histograms(holed) == figures.histograms(samples)


def test_maps_share_the_colours_of_the_truth() -> None:
    """A column that is the truth looks like the truth, whatever the others are."""
    columns = study_pictures.maps()
    same = {"truth": columns["truth"], "raw": columns["raw, 100 mAs"], "NNSP": columns["truth"]}
    image = pixels(figures.sample_maps(same))
    # Found by their colours: no label has any, and the colour bars stand behind them.
    coloured = np.ptp(image, axis=-1) > 0.15
    steps = np.diff(coloured.any(axis=0).astype(int))
    spans = zip(np.flatnonzero(steps == 1)[:3] + 1, np.flatnonzero(steps == -1)[:3] + 1, strict=True)
    truth, raw, filtered = (image[:, a:b][coloured[:, a:b]] for a, b in spans)
    assert filtered.mean(axis=0) == pytest.approx(truth.mean(axis=0), abs=0.01)
    assert raw.std(axis=0) != pytest.approx(truth.std(axis=0), abs=0.01)


def test_points_without_a_hull_are_drawn_without_one() -> None:
    line = np.linspace(0, 1, 5)
    one = {
        "truth": {"two points": (line[:2], line[:2]), "a line": (line, line), "none": (line[:0], line[:0])}
    }
    assert (pixels(figures.tmd_against_bvtv(one)) < 0.9).any()
