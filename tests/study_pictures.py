"""Made-up data of the shapes that the study's figures take."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Doubles = npt.NDArray[np.float64]
Image = npt.NDArray[np.float64]

NAMES = (
    "truth",
    "raw, 100 mAs",
    "NNBMD, 100 mAs",
    "NNSP, 100 mAs",
    "raw, 360 mAs",
    "NNBMD, 360 mAs",
    "NNSP, 360 mAs",
)


def logs(folds: int = 3, epochs: int = 60, start: float = 1.0) -> list[dict[str, list[float]]]:
    random = np.random.default_rng(folds)
    epoch = np.arange(1, epochs + 1)
    falling = start * (0.05 + 0.5 / epoch)
    columns = {"train_loss": 1.0, "validation_loss": 1.1, "watch_loss": 1.3}
    return [
        {"epoch": epoch.tolist()}
        | {
            name: (factor * falling * random.normal(1, 0.03, epochs)).tolist()
            for name, factor in columns.items()
        }
        for _ in range(folds)
    ]


def distributions(points: int = 4000) -> dict[float, dict[str, dict[str, Doubles]]]:
    random = np.random.default_rng(1)
    truth = {"voxel": (116, 127), "BMD": (116, 35), "TMD": (334, 30), "BV/TV": (17, 7)}
    raw = {"voxel": (117, 330), "BMD": (118, 34), "TMD": (453, 30), "BV/TV": (37, 4)}
    spread = {"truth": truth, "NNSP": truth, "raw": raw}
    return {
        mas: {name: {q: random.normal(*of, points) for q, of in one.items()} for name, one in spread.items()}
        for mas in (100.0, 360.0)
    }


def maps(height: int = 60, width: int = 90) -> dict[str, dict[str, Image]]:
    random = np.random.default_rng(2)
    smooth = ndimage.gaussian_filter(random.normal(size=(height, width)), 8)
    smooth /= smooth.std()
    found = {}
    for name in NAMES:
        noise = {"t": 0.0, "r": 1.5, "N": 0.3}[name[0]]
        blur = ndimage.gaussian_filter(random.normal(size=smooth.shape), 3) * 8 * noise
        inside = np.hypot(*np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]) < 0.9
        of = {"BMD": (116, 35), "TMD": (334, 30), "BV/TV": (17, 7)}
        found[name] = {"voxel": 116 + 120 * smooth + 200 * noise * random.normal(size=smooth.shape)} | {
            q: np.where(inside, mean + sd * (smooth + blur), np.nan) for q, (mean, sd) in of.items()
        }
    return found


def scatter(points: int = 120) -> dict[str, dict[str, tuple[Doubles, Doubles]]]:
    random = np.random.default_rng(3)
    offsets = {"truth": (0, 0), "raw, 100 mAs": (120, 20), "NNSP, 100 mAs": (1, 0.3)}
    return {
        name: {
            f"vertebra {number}": (
                random.normal(320 + 8 * number + tmd, 14, points),
                random.normal(10 + 4 * number + bvtv, 2.5, points),
            )
            for number in range(1, 6)
        }
        for name, (tmd, bvtv) in offsets.items()
    }


def shares() -> dict[tuple[str, float], dict[str, dict[float, float]]]:
    starts = {
        "Gaussian": 60,
        "NLM": 70,
        "Wiener": 50,
        "BM4D": 90,
        "BM4D-PSD": 65,
        "NNBMD": 45,
        "NNSP": 17,
        "BMD line": 30,
    }
    return {
        (quantity, mas): {
            name: {float(t): start * mas**0.3 / 4 * (1 + (t - 225) ** 2 / 4e4) for t in range(125, 326, 25)}
            for name, start in starts.items()
        }
        for quantity in ("TMD", "BV/TV")
        for mas in (100.0, 250.0, 360.0)
    }
