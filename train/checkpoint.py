"""A training run on disk: saved whole or not at all, read without running code, and only gone on with by its own."""

import io
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qctrun.runtime.errors import InputError
from qctrun.runtime.writing.files import writing
from qctrun.train.network import NNSP
from qctrun.train.recipe import Recipe

CHECKPOINT = "checkpoint.pt"

KEPT = ("scales", "epoch", "seconds", "best_loss", "best_epoch", "best_weights")
"""What a checkpoint holds beside the recipe and the states of network, optimizer and schedule."""


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
    # When a run ends may be decided anew; what it does until then may not.
    free = {"minutes": None, "epochs": 0}
    old, new = ({**asdict(one), **free} for one in (before, recipe))
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
        saved = torch.load(path, weights_only=True)
        missing = {"recipe", "data", "weights", "optimizer", "schedule", *KEPT} - set(saved)
        if missing:
            raise KeyError(f"no {', '.join(sorted(missing))}")
        return Recipe(**{**saved["recipe"], "channels": tuple(saved["recipe"]["channels"])}), saved
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


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of an earlier one, whole or not at all: there is never a moment without one.

    Raises
    ------
    OutputError
        When the disk refuses; the earlier file is still there then.
    """
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
