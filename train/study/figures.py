"""The study's figures, each as the bytes of a PNG, drawn from arrays that are given."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.extras import library
from qctrun.train.study.over_folds import STRUCTURE

Array = npt.NDArray[Any]
Points = tuple[npt.ArrayLike, npt.ArrayLike]
"""TMD in mg/cm3 and BV/TV in percent of the same patches."""

DPI = 110
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
"""Okabe and Ito's colours, which the colour-blind tell apart."""
_LOOKS = {
    "truth": ("#000000", "-", "o"),
    "raw": ("#8C8C8C", "-", "."),
    "Gaussian": ("#56B4E9", "-", "v"),
    "NLM": ("#E69F00", "-", "s"),
    "TV": ("#E69F00", "--", "p"),
    "Wiener": ("#009E73", "-", "^"),
    "BM4D": ("#CC79A7", "-", "D"),
    "BM4D-PSD": ("#CC79A7", "--", "d"),
    "NNBMD": ("#0072B2", "-", "P"),
    "NNSP": ("#D55E00", "-", "o"),
    "BMD line": ("#000000", ":", "x"),
}
"""Colour, line and marker of what is compared: no two share all three."""
_AXES = {
    "voxel": "density of a voxel, mg/cm³",
    "BMD": "BMD, mg/cm³",
    "TMD": "TMD, mg/cm³",
    "BV/TV": "BV/TV, %",
}
_LOSSES = {
    "train_loss": ("training", PALETTE[0], "-"),
    "validation_loss": ("validation", PALETTE[1], "--"),
    "watch_loss": ("test, watched only", PALETTE[6], ":"),
}


def error_curves(runs: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> bytes:
    """Loss over the epochs, a panel for each recipe and a line for each fold.

    Parameters
    ----------
    runs : mapping of a recipe's name to the logs of its folds
        Each log has `epoch`, `train_loss`, `validation_loss` and where there is one `watch_loss`.
    """
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure, panels = _figure(max(5, 3.4 * columns), 3.4 * rows, rows, columns)
    for axis, (name, logs) in zip(panels, runs.items(), strict=False):
        for column, (label, colour, line) in _LOSSES.items():
            for number, log in enumerate(one for one in logs if column in one):
                shown = label if number == 0 else None
                axis.plot(log["epoch"], log[column], line, color=colour, lw=1.3, label=shown)
        _finish(axis, "epoch", "loss (unfiltered scans: 1)", f"{name}, {_counted(len(logs), 'fold')}")
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
        axis.legend(fontsize=9, frameon=False)
    for axis in panels[len(runs) :]:
        axis.set_visible(False)
    return _png(figure)


def histograms(samples: Mapping[float, Mapping[str, Mapping[str, npt.ArrayLike]]]) -> bytes:
    """Distributions at each tube current: a row of panels each, a panel for each quantity.

    Parameters
    ----------
    samples : mapping of tube current (mAs) to mapping of `raw`, a filter's name or `truth` to mapping of quantity
        Values in mg/cm3, BV/TV in percent; NaN is left out.
    """
    quantities = list(
        dict.fromkeys(q for by_name in samples.values() for one in by_name.values() for q in one)
    )
    figure, panels = _figure(2.7 * len(quantities), 2.6 * len(samples) + 0.4, len(samples), len(quantities))
    cells = [(mas, quantity) for mas in samples for quantity in quantities]
    edges = {quantity: _edges(samples, quantity) for quantity in quantities}
    for axis, (mas, quantity) in zip(panels, cells, strict=True):
        shown = {name: _finite(one[quantity]) for name, one in samples[mas].items() if quantity in one}
        for name, values in shown.items():
            colour, line, _ = _look(name)
            style = {"histtype": "step", "lw": 1.6, "color": colour, "ls": line, "label": name}
            axis.hist(values, edges[quantity], density=True, **style)
        _finish(axis, _AXES[quantity], "probability density" if axis is panels[0] else "", f"{mas:g} mAs")
        axis.set_yticks([])
    _legend_below(figure, panels)
    return _png(figure)


def sample_maps(columns: Mapping[str, Mapping[str, npt.ArrayLike]]) -> bytes:
    """The same slice of several volumes with their BMD, TMD and BV/TV maps, a row for each on one scale.

    Parameters
    ----------
    columns : mapping of a name (`truth`, `raw, 100 mAs`, ...) to mapping of quantity to array (y, x)
        `voxel`, `BMD` and `TMD` in mg/cm3, `BV/TV` in percent, NaN where there is no value. The colours of a row
        are those of `truth`, and below each of the others stands its RMSE over the slice.
    """
    quantities = list(next(iter(columns.values())))
    height, width = np.shape(columns["truth"][quantities[0]])
    side = 10.0 / len(columns)
    figure, panels = _figure(
        12, (side * height / width + 0.28) * len(quantities) + 0.4, len(quantities), len(columns)
    )
    for row, quantity in enumerate(quantities):
        truth = np.asarray(columns["truth"][quantity], np.float64)
        low, high = _window(quantity, truth)
        axes = panels[row * len(columns) : (row + 1) * len(columns)]
        for axis, (name, maps) in zip(axes, columns.items(), strict=True):
            values = np.asarray(maps[quantity], np.float64)
            image = axis.imshow(
                values, cmap="gray" if quantity == "voxel" else "viridis", vmin=low, vmax=high
            )
            axis.set(xticks=[], yticks=[])
            axis.set_title(name if row == 0 else "", fontsize=10)
            if name != "truth":
                rmse = np.sqrt(np.nanmean((values - truth) ** 2))
                axis.set_xlabel(f"RMSE {rmse:.3g}", fontsize=9, labelpad=2)
        bar = figure.colorbar(image, ax=axes, extend="both", pad=0.01, aspect=14)
        bar.set_label(_AXES[quantity].removeprefix("density of a "), fontsize=9)
    return _png(figure)


def tmd_against_bvtv(panels: Mapping[str, Mapping[str, Points]]) -> bytes:
    """TMD against BV/TV of all patches, a panel for each source, with the convex hull of each vertebra.

    Parameters
    ----------
    panels : mapping of a source (`truth` first) to mapping of vertebra to (TMD, BV/TV)
        Arrays (patch), mg/cm3 and percent. The hulls of `truth` are drawn in all panels, in grey.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = _figure(3.4 * columns, 3.3 * rows + 0.4, rows, columns, sharex=True, sharey=True)
    truth = panels.get("truth", {})
    for axis, (name, vertebrae) in zip(axes, panels.items(), strict=False):
        for points in truth.values() if name != "truth" else ():
            _hull(axis, points, "#8C8C8C", "--")
        for number, (vertebra, points) in enumerate(vertebrae.items()):
            colour = PALETTE[number % len(PALETTE)]
            tmd, bvtv = points
            style = {"marker": "osv^DPX*"[number % 8], "s": 9, "alpha": 0.5, "linewidths": 0}
            axis.scatter(bvtv, tmd, color=colour, label=vertebra, **style)
            _hull(axis, points, colour, "-")
        _finish(axis, _AXES["BV/TV"], _AXES["TMD"], name)
        axis.label_outer()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _legend_below(figure, axes, markerscale=2)
    return _png(figure)


def share_over_threshold(shares: Mapping[tuple[str, float], Mapping[str, Mapping[float, float]]]) -> bytes:
    """RMSE as a percentage of raw over the threshold, a panel for each quantity and tube current.

    Parameters
    ----------
    shares : mapping of (quantity, mAs) to mapping of filter to mapping of threshold (mg/cm3) to percent
    """
    currents = sorted({mas for _, mas in shares})
    figure, panels = _figure(3.4 * len(currents) + 0.6, 6.2, 2, len(currents), sharex=True, sharey="row")
    for axis, key in zip(
        panels, [(quantity, mas) for quantity in STRUCTURE for mas in currents], strict=True
    ):
        axis.axhline(100, color=_look("raw")[0], lw=1.6, label="raw")
        for name, by_threshold in shares.get(key, {}).items():
            colour, line, marker = _look(name)
            width = 2.4 if name == "NNSP" else 1.4
            thresholds = sorted(by_threshold)
            values = [by_threshold[one] for one in thresholds]
            axis.plot(thresholds, values, line, color=colour, marker=marker, ms=5, lw=width, label=name)
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
        _finish(axis, "threshold, mg/cm³", "RMSE, % of raw", f"{key[0]}, {key[1]:g} mAs")
        axis.label_outer()
    _legend_below(figure, panels)
    return _png(figure)


def _figure(width: float, height: float, rows: int, columns: int, **shared: Any) -> tuple[Any, list[Any]]:
    figure = library("matplotlib.figure", "picture").Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def _finish(axis: Any, x: str, y: str, title: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_title(title, fontsize=10)
    axis.grid(color="#E5E5E5", lw=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _plain_ticks(axis: Any) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5 of each decade, written as numbers."""
    import matplotlib.ticker

    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _legend_below(figure: Any, axes: Sequence[Any], **style: Any) -> None:
    """One legend of what is in any of the panels; a filter may be missing in some."""
    known = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(known, key=lambda name: list(_LOOKS).index(name) if name in _LOOKS else len(_LOOKS))
    handles = [known[label] for label in labels]
    columns = len(labels) if len(labels) <= 8 else -(-len(labels) // 2)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, **style)


def _hull(axis: Any, points: Points, colour: str, line: str) -> None:
    """The outline of the points; none where they lie on a line or are fewer than three."""
    from scipy.spatial import ConvexHull, QhullError

    tmd, bvtv = (np.asarray(one, np.float64) for one in points)
    inside = np.column_stack([bvtv, tmd])[np.isfinite(bvtv) & np.isfinite(tmd)]
    try:
        corners = inside[ConvexHull(inside).vertices]
    except (QhullError, ValueError):
        return
    axis.plot(*np.vstack([corners, corners[:1]]).T, line, color=colour, lw=1.2)


def _window(quantity: str, truth: Array) -> tuple[float, float]:
    if quantity == "voxel":
        return -200.0, 800.0
    low, high = np.nanpercentile(truth, (1, 99))
    room = 0.25 * (high - low)
    return max(0.0, float(low - room)), float(high + room)


def _finite(values: npt.ArrayLike) -> Array:
    array = np.asarray(values, np.float64).ravel()
    return array[np.isfinite(array)]


def _edges(samples: Mapping[float, Mapping[str, Mapping[str, npt.ArrayLike]]], quantity: str) -> Array:
    """Bins that hold 99.6 % of each sample at every tube current."""
    values = [
        _finite(one[quantity]) for by_name in samples.values() for one in by_name.values() if quantity in one
    ]
    ends = np.array([np.percentile(one, (0.2, 99.8)) for one in values if one.size])
    return np.linspace(ends[:, 0].min(), ends[:, 1].max(), 61)


def _look(name: str) -> tuple[str, str, str]:
    return _LOOKS.get(name, (PALETTE[5], "-.", "*"))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _png(figure: Any) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=DPI, metadata={"Software": None})
    return held.getvalue()
