"""One picture that shows what the filter buys, in the manner of the paper's figure 4."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import QctrunError
from qctrun.train.insilico.demonstration import MapKey, Measured, rmse

NAMES = ("raw", "filtered", "truth")


def draw(found: Mapping[str, Measured], threshold_mg_cm3: float, path: Path) -> None:
    """Draw slices of raw, filtered and truth with their BMD, TMD and BV/TV maps and absolute errors.

    Parameters
    ----------
    found : mapping of "raw", "filtered" and "truth"
        The three, measured over the same mask.
    threshold_mg_cm3 : float
        Which threshold's TMD and BV/TV maps are shown.
    path : Path
        The PNG to write.

    Raises
    ------
    QctrunError
        When matplotlib is not installed.
    """
    figure_module = require_matplotlib()
    keys: tuple[MapKey, ...] = ("BMD", ("TMD", threshold_mg_cm3), ("BVTV", threshold_mg_cm3))
    figure = figure_module.Figure(figsize=(21, 9), layout="constrained")
    axes = figure.subplots(3, 7)
    window = _window(found["truth"].maps["BMD"].array)
    for row, name in zip(axes, NAMES, strict=True):
        _slice(row[0], found[name], name, window)
        for column, key in enumerate(keys):
            _map(figure, row[1 + column], found, name, key, window)
            _error(figure, row[4 + column], found, name, key, window)
    grid = found["raw"].volume.grid
    figure.suptitle(
        f"axial slice {window[0]}, spacing {grid.spacing[2]:g} x {grid.spacing[1]:g} x {grid.spacing[0]:g} mm, "
        f"spheres of 4.3 mm, threshold {threshold_mg_cm3:g} mg/cm³: simulated data, research use"
    )
    figure.savefig(path, dpi=80)


def require_matplotlib() -> Any:
    """The drawing module, or the line that installs it.

    Raises
    ------
    QctrunError
        When matplotlib is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        mend = 'type: pip install "qctrun[report]"'
        raise QctrunError("picture", wanted="matplotlib", got="not installed", mend=mend) from error
    return matplotlib.figure


def _window(array: npt.NDArray[np.float32]) -> tuple[int, slice, slice]:
    """The middle slice that has values, and a margin of 24 voxels around them."""
    valued = np.isfinite(array)
    z = int(np.median(np.flatnonzero(valued.any(axis=(1, 2)))))
    rows, columns = (np.flatnonzero(valued[z].any(axis=axis)) for axis in (1, 0))
    y, x = (slice(max(0, int(i[0]) - 24), int(i[-1]) + 25) for i in (rows, columns))
    return z, y, x


def _slice(axis: Any, one: Measured, name: str, window: tuple[int, slice, slice]) -> None:
    axis.imshow(one.volume.array[window], cmap="gray", vmin=-200, vmax=800)
    axis.set_title(f"{name}: density −200 to 800 mg/cm³", fontsize=9)
    axis.axis("off")


def _map(
    figure: Any,
    axis: Any,
    found: Mapping[str, Measured],
    name: str,
    key: MapKey,
    window: tuple[int, slice, slice],
) -> None:
    scale, unit, label = _described(key)
    low, high = np.nanpercentile(found["truth"].maps[key].array[window] * scale, (1, 99))
    room = 0.25 * (high - low)
    image = axis.imshow(
        found[name].maps[key].array[window] * scale, cmap="viridis", vmin=max(0, low - room), vmax=high + room
    )
    axis.set_title(f"{name}: {label}, {unit}", fontsize=9)
    axis.axis("off")
    figure.colorbar(image, ax=axis, shrink=0.8, extend="both")


def _error(
    figure: Any,
    axis: Any,
    found: Mapping[str, Measured],
    name: str,
    key: MapKey,
    window: tuple[int, slice, slice],
) -> None:
    axis.axis("off")
    if name == "truth":
        return
    scale, unit, label = _described(key)
    got, want = found[name].maps[key], found["truth"].maps[key]
    # Both rows share the raw row's scale, so that what is left of the error is seen.
    high = np.nanpercentile(np.abs(found["raw"].maps[key].array[window] - want.array[window]) * scale, 99)
    error = np.abs(got.array[window] - want.array[window]) * scale
    image = axis.imshow(error, cmap="magma", vmin=0, vmax=high)
    axis.set_title(f"{name}: |error| of {label}, RMSE {rmse(got, want) * scale:.3g} {unit}", fontsize=9)
    figure.colorbar(image, ax=axis, shrink=0.8, extend="both")


def _described(key: MapKey) -> tuple[float, str, str]:
    """Factor for the picture, unit and name of a map."""
    name = key[0] if isinstance(key, tuple) else key
    return (100.0, "%", "BV/TV") if name == "BVTV" else (1.0, "mg/cm³", name)
