"""Two networks on the same patches, one from what `qctrun pairs` made, one from perfectly aligned scans; needs torch.

Specimens are split by donor as `qctrun train --pairs` does it. Both networks are judged on the donor that is held out,
in aligned scans, against the truth without noise.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from pairs_steps import LAB, PAIRS, kept

from qctrun.train.insilico.laboratory import aligned
from qctrun.train.pairs.dataset import PAIRS as DATASET
from qctrun.train.pairs.dataset import PairedSpecimen, join, read_pairs, write_specimen

CURRENTS_MAS = (100.0, 360.0)
KINDS = ("aligned", "pairs")
Row = dict[str, Any]


def networks(work: Path, recipe: dict[str, Any], seeds: int, threads: int) -> dict[str, Any]:
    """Train both, as often as there are seeds, and score them.

    Returns
    -------
    dict
        `positions` of each part, and `rows`: seed, kind, mAs, quantity, filter, RMSE (mg/cm3 or points of BV/TV).
    """
    _align(work)
    rows = []
    for seed in range(seeds):
        for kind in KINDS:
            key = [recipe, seed, kind, _stamp(work)]
            path = work / "networks" / f"{kind}-{seed}.json"
            rows += kept(
                path, key, lambda kind=kind, seed=seed: _scored(work, kind, {**recipe, "seed": seed}, threads)
            )
    return {"positions": _positions(work), "rows": rows}


def _align(work: Path) -> None:
    """Write the specimens of the dataset once more, their scans laid over the reference by their true poses."""
    found = read_pairs(work / PAIRS)
    path = work / "aligned" / DATASET
    if path.is_file() and path.stat().st_mtime > (work / PAIRS / DATASET).stat().st_mtime:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for specimen in found.specimens:
        print(f"aligning {specimen.name}", flush=True)
        parts.append(path.with_name(f"{specimen.name}.h5"))
        same = _same(aligned(work / LAB, specimen.name, found.spacing_mm), specimen)
        write_specimen(parts[-1], same, found.spacing_mm, found.material)
    join(parts, path, {"alignment": "true poses and lines"})


def _same(true: PairedSpecimen, found: PairedSpecimen) -> PairedSpecimen:
    """Of the aligned specimen the very scans and patches that the dataset has."""
    known = list(zip(true.currents_mas.tolist(), true.repetitions.tolist(), strict=True))
    wanted = list(zip(found.currents_mas.tolist(), found.repetitions.tolist(), strict=True))
    return replace(
        true,
        scans=np.asarray(true.scans)[[known.index(each) for each in wanted]],
        currents_mas=found.currents_mas,
        repetitions=found.repetitions,
        positions=found.positions,
    )


def _scored(work: Path, kind: str, values: dict[str, Any], threads: int) -> list[Row]:
    import torch

    from qctrun.train.evaluate import scores
    from qctrun.train.fit import fit
    from qctrun.train.paired import donors_apart
    from qctrun.train.recipe import recipe_of

    torch.set_num_threads(threads)
    recipe, out = recipe_of(values), work / "networks" / f"{kind}-{values['seed']}"
    split = donors_apart(recipe, out, work / kind)
    test = _split(work, "aligned").test
    told = _told(kind, recipe.epochs)
    state = fit(recipe, split.train, split.validation, out, data=split.names, device="cpu", report=told)
    found = scores(state.network.eval(), split.train, test, CURRENTS_MAS)
    return [{"seed": values["seed"], "kind": kind, **asdict(row)} for row in found]


def _told(kind: str, epochs: int) -> Callable[[dict[str, float]], None]:
    return lambda line: print(
        f"{kind}: epoch {line['epoch']:.0f} of {epochs}, validation {line['validation_loss']:.4f}, "
        f"{line['epoch_seconds']:.0f} s",
        flush=True,
    )


def _split(work: Path, kind: str) -> Any:
    from qctrun.train.paired import PairedFolds

    whole = PairedFolds(read_pairs(work / kind))
    return whole.split(whole.held_apart(), {}, "donors")


def _positions(work: Path) -> dict[str, int]:
    split = _split(work, PAIRS)
    return {part: len(getattr(split, part)) for part in ("train", "validation", "test")}


def _stamp(work: Path) -> str:
    """Which dataset it was."""
    return read_pairs(work / PAIRS).digest[:16]
