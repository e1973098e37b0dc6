"""Two networks on the same patches, one from what `qctrun pairs` made, one from perfectly aligned scans; needs torch.

Two splits, as `qctrun train --pairs` makes them: by donor, where both networks are judged on a donor that is held out,
and by position, the first fold, where they know other places of all bones. There the networks' own errors are smaller,
so that those of the pairs would show. The judgement is on aligned scans, against the truth without noise.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pairs_steps import LAB, PAIRS, kept

from qctrun.train.insilico.laboratory import aligned
from qctrun.train.pairs.dataset import PAIRS as DATASET
from qctrun.train.pairs.dataset import PairedSpecimen, join, read_pairs, write_specimen

CURRENTS_MAS = (100.0, 360.0)
KINDS = ("aligned", "pairs")
SPLITS = ("donors", "positions")
Row = dict[str, Any]


def networks(work: Path, recipe: dict[str, Any], seeds: int, threads: int) -> dict[str, Any]:
    """Train both in each split, as often as there are seeds, and score them.

    Returns
    -------
    dict of each split
        `positions` of each part, and `rows`: seed, kind, mAs, quantity, filter, RMSE (mg/cm3 or points of BV/TV).
    """
    _align(work)
    return {split: _of_split(work, split, recipe, seeds, threads) for split in SPLITS}


def _of_split(work: Path, split: str, recipe: dict[str, Any], seeds: int, threads: int) -> dict[str, Any]:
    stamp = read_pairs(work / PAIRS).digest[:16]
    rows = []
    for seed, kind in product(range(seeds), KINDS):
        name = f"{split}-{kind}-{seed}"
        make = partial(_scored, work, split, kind, {**recipe, "seed": seed}, threads)
        rows += kept(work / "networks" / f"{name}.json", [recipe, seed, kind, stamp], make)
    parts = _split(work, PAIRS, split)
    return {
        "positions": {part: len(getattr(parts, part)) for part in ("train", "validation", "test")},
        "rows": rows,
    }


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


def _scored(work: Path, split: str, kind: str, values: dict[str, Any], threads: int) -> list[Row]:
    import torch

    from qctrun.train.evaluate import scores
    from qctrun.train.fit import fit
    from qctrun.train.recipe import recipe_of

    torch.set_num_threads(threads)
    recipe, out = recipe_of(values), work / "networks" / f"{split}-{kind}-{values['seed']}"
    own, test = _split(work, kind, split), _split(work, "aligned", split).test
    told = _told(f"{split}, {kind}", recipe.epochs)
    state = fit(recipe, own.train, own.validation, out, data=own.names, device="cpu", report=told)
    found = scores(state.network.eval(), own.train, test, CURRENTS_MAS)
    return [{"seed": values["seed"], "kind": kind, **asdict(row)} for row in found]


def _told(what: str, epochs: int) -> Callable[[dict[str, float]], None]:
    return lambda line: print(
        f"{what}: epoch {line['epoch']:.0f} of {epochs}, validation {line['validation_loss']:.4f}, "
        f"{line['epoch_seconds']:.0f} s",
        flush=True,
    )


def _split(work: Path, kind: str, split: str) -> Any:
    from qctrun.train.paired import PairedFolds

    whole = PairedFolds(read_pairs(work / kind))
    if split == "positions":
        return whole.patches(split, 1)
    return whole.split(whole.held_apart(), {}, split)
