"""Proof that `qctrun pairs` finds its way back: a simulated laboratory, nothing aligned, against what only it knows.

    python benchmarks/pairs.py --work runs/pairs-proof --json benchmarks/results/pairs.json --docs docs
    python benchmarks/pairs.py --small              # three small specimens, two scans each: does everything run?

1. `qctrun study lab` writes five specimens of 40 x 40 x 30 mm, each with HR-pQCT at 82 um and nine QCT scans.
2. `qctrun pairs` registers and calibrates them; timed specimen by specimen, and once more with everything cached.
3. Each scan's transform and slope are held against the true ones.
4. Two networks with the same recipe and seed: one on these pairs, one on perfectly aligned scans. Needs torch.
5. Table, page and figure; every demand of the issue with what was wanted, what came, and whether it is met.

Stopped at any moment, the same command goes on; --until pairs, found or networks ends it earlier.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pairs_found import compared
from pairs_page import demands, table_text, write_page
from pairs_steps import laboratory, timed

from qctrun.train.machine import cpu_words

STEPS = ("pairs", "found", "networks")
SMALL_LAB = ("--specimens", "3", "--size", "18,24,24", "--currents", "100,360", "--repetitions", "1")


def main() -> None:
    """Do the steps that are asked for, print, write and draw."""
    options = _options()
    names = laboratory(options.work, _lab_words(options))
    found: dict[str, Any] = {"machine": cpu_words(), "lab": _lab_words(options), "specimens": names}
    found["times"] = timed(options.work, names)
    if options.until != "pairs":
        found["scans"] = compared(options.work, names)
    if options.until == "networks":
        from pairs_networks import networks

        found["recipe"] = _recipe(options)
        found["networks"] = networks(options.work, found["recipe"], options.seeds, options.threads)
    found["demands"] = demands(found)
    print(table_text(found), end="")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        write_page(found, options.docs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, default=Path("runs/pairs-proof"), help="where everything lies that is made")
    add("--small", action="store_true", help="a quick one")
    add("--specimens", type=int, default=5, help="how many, three or more")
    add("--until", choices=STEPS, default=STEPS[-1], help="the last step")
    add("--recipe", default="nnsp-short", help="of the networks")
    add("--epochs", type=int, help="of the networks; default 4, small: 1")
    add("--seeds", type=int, default=1, help="how often both are trained")
    add("--threads", type=int, default=2, help="of the training")
    add("--json", type=Path, help="where the results go")
    add("--docs", type=Path, help="folder for pairs-proof.md and pairs-proof.png")
    return parser.parse_args()


def _lab_words(options: argparse.Namespace) -> list[str]:
    return list(SMALL_LAB) if options.small else ["--specimens", str(options.specimens)]


def _recipe(options: argparse.Namespace) -> dict[str, Any]:
    from qctrun.train.recipe import load_recipe

    epochs = options.epochs or (1 if options.small else 4)
    recipe = replace(load_recipe(options.recipe), epochs=epochs, patience=epochs)
    if options.small:
        recipe = replace(recipe, steps_per_epoch=40)
    return {name: value for name, value in asdict(recipe).items() if value is not None}


if __name__ == "__main__":
    main()
