"""A training run on disk: saved whole or not at all, read without running code, and only gone on with by its own."""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qctrun.runtime.errors import InputError
from qctrun.runtime.writing.files import replace_file
from qctrun.train.network import NNSP
from qctrun.train.recipe import Recipe, recipe_of

CHECKPOINT = "checkpoint.pt"

KEPT = ("scales", "epoch", "seconds", "best_loss", "best_epoch", "best_weights", "lines")
"""What a checkpoint holds beside the recipe and the states of network, optimizer, schedule and average."""

WRITTEN = {"recipe", "data", "weights", "optimizer", "schedule", "averaged", *KEPT}


def save_checkpoint(path: Path, recipe: Recipe, data: dict[str, list[str]], parts: dict[str, Any]) -> None:
    """Write a checkpoint: the recipe, the names of the phantoms of each part, and the parts of the run's state.

    Raises
    ------
    OutputError
        When the disk refuses; the earlier checkpoint is still there then.
    """
    content = io.BytesIO()
    torch.save({"recipe": asdict(recipe), "data": data, **parts}, content)
    replace_file(path, content.getvalue())


def checkpoint_of(path: Path, recipe: Recipe, data: dict[str, list[str]]) -> dict[str, Any] | None:
    """The checkpoint to go on with, None where there is none; one of another recipe or other data is refused.

    Raises
    ------
    InputError
        Naming what differs.
    """
    if not path.exists():
        return None
    before, saved = load_checkpoint(path)
    # When a run ends may be decided anew; what it does until then may not, and a cosine is drawn to its end.
    free = {"name", "minutes"} | ({"epochs"} if recipe.rate != "cosine" else set())
    old, new = ({k: v for k, v in asdict(one).items() if k not in free} for one in (before, recipe))
    differing = [f"{name} {old[name]}" for name in new if old[name] != new[name]]
    differing += [f"other {part} data" for part in data if saved["data"].get(part) != data[part]]
    if differing:
        raise InputError(
            f"checkpoint {path}",
            wanted="one of this recipe and this data",
            got=", ".join(differing),
            mend="name another folder",
        )
    return saved


def load_checkpoint(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """Read a checkpoint without running any code in it.

    Raises
    ------
    InputError
        When the file is missing or is no checkpoint.
    """
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        if missing := WRITTEN - set(saved):
            raise KeyError(f"no {', '.join(sorted(missing))}")
        return recipe_of(saved["recipe"]), saved
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {path}", wanted="a file", got="nothing there") from error
    except Exception as error:
        raise InputError(
            f"checkpoint {path}", wanted="a checkpoint written by training", got=str(error)[:80]
        ) from error


def trained_network(path: Path) -> tuple[Recipe, NNSP, dict[str, Any]]:
    """The network of a checkpoint's best epoch, its recipe and the rest of the checkpoint."""
    recipe, saved = load_checkpoint(path)
    network = NNSP(recipe.channels, residual=recipe.residual)
    network.load_state_dict(saved["best_weights"])
    return recipe, network.eval(), saved
