"""A finished training run -> an ONNX model with its card, and the same card for people to read."""

from pathlib import Path
from typing import Any

from qctrun.export.pairs_card import trained_on_pairs
from qctrun.export.to_onnx import exported
from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.filtering import ModelCard
from qctrun.runtime.writing import Staging
from qctrun.train.checkpoint import CHECKPOINT, load_checkpoint, trained_network
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.losses import SPHERE_MM
from qctrun.train.network import HALO, NNSP
from qctrun.train.recipe import LOSS_WEIGHTS
from qctrun.train.run import NOTES, read_notes


def export_run(run: Path, path: Path, *, name: str, version: str, overwrite: bool = False) -> float:
    """Export the best network of a training run.

    Parameters
    ----------
    run : Path
        Folder that `qctrun train` has written.
    path : Path
        The model; `path` with the suffix .md gets the card for people.
    name, version : str
        What the model is called.
    overwrite : bool
        Whether an earlier model may be replaced.

    Returns
    -------
    float
        Largest relative difference between torch and onnxruntime.

    Raises
    ------
    UsageError, InputError, ModelError, OutputExistsError, OutputError
        When `path` ends in .md, the run has not finished, the exported model differs, or nothing can be written.
    """
    if path.suffix.lower() == ".md":
        raise UsageError(str(path), wanted="a name for the model, like nnsp.onnx", got="that of its card")
    network, notes = _finished(run)
    for_people = path.with_suffix(".md").name
    with Staging(path.parent, (path.name, for_people), overwrite=overwrite) as staging:
        model = exported(network, _card(network, notes, name, version))
        staging.add_bytes(path.name, model.data)
        staging.add_text(for_people, _for_people(name, version, notes, model.difference))
        staging.commit()
    return model.difference


def loss_of_run(run: Path) -> str:
    """The loss that a run's network was trained with, "nnsp" or "nnbmd": what its model is called by default.

    Raises
    ------
    InputError
        When there is no checkpoint of a training.
    """
    recipe, _ = load_checkpoint(run / CHECKPOINT)
    return recipe.loss


def _finished(run: Path) -> tuple[NNSP, dict[str, Any]]:
    _, network, saved = trained_network(run / CHECKPOINT)
    notes = read_notes(run)
    if notes["epochs"] != saved["epoch"]:
        raise InputError(
            str(run / NOTES),
            wanted=f"scores of epoch {saved['epoch']}, where the checkpoint is",
            got=f"scores of epoch {notes['epochs']}",
            mend="let qctrun train end",
        )
    return network, notes


def _card(network: NNSP, notes: dict[str, Any], name: str, version: str) -> ModelCard:
    z, y, x = HALO
    return ModelCard(
        name=name,
        version=version,
        spacing_mm=_spacing_mm(notes),
        channels=network.channels,
        halo=(z, y, x),
        material=notes.get("material", "HA"),
        training={key: value for key, value in notes.items() if key != "scores"},
        scores=notes["scores"],
    )


def _for_people(name: str, version: str, notes: dict[str, Any], difference: float) -> str:
    recipe = notes["recipe"]
    channels = "-".join(map(str, (*recipe["channels"], 1)))
    form = "residual (its result is added to its input)" if recipe["residual"] else "plain"
    pairs = recipe["truths_per_step"] * recipe["scans_per_truth"]
    spacing = " x ".join(f"{step:g}" for step in _spacing_mm(notes))
    sphere = notes.get("sphere_mm", SPHERE_MM)
    lines = [
        f"# Model card: {name} {version}",
        "",
        f"Density (mg {notes.get('material', 'HA')}/cm3) in, density out; for research, not for diagnosis. Apache-2.0.",
        "",
        f"- **Network**: six 3-D convolutions, channels {channels}, {form}; receptive field 9 x 17 x 17 voxels.",
        f"- **Grid**: made for {spacing} mm (z, y, x); other spacings are outside of what it has seen.",
        *(trained_on_pairs(notes) if "pairs" in notes else _trained_on_simulation(notes)),
        f"- **For how long**: {_counted(notes['epochs'], 'epoch')} of {_counted(recipe['steps_per_epoch'], 'step')} "
        f"of {_counted(pairs, 'pair')}, {_counted(round(notes['seconds'] / 60), 'minute')}, "
        f"{_kept(notes)}; "
        f"{notes['machine']}, torch {notes['torch']}.",
        f"- **How**: {_how(recipe)}; {notes['seconds_per_epoch']:g} s an epoch.",
        f"- **Exported** within {difference:.1e} of torch (relative, largest of five sizes).",
        "",
        f"## Scores on {_unseen(notes['donors'])}",
        "",
        f"Threshold 225 mg/cm3, fuzzy step, spheres of {sphere:g} mm. `BMD line` is a straight line from the raw",
        "scan's BMD, fitted to the training donors: it sees no structure, and a filter that does not beat it",
        "knows nothing beyond density. `R2 beyond BMD` is what remains of the correlation with the truth once a line",
        "in raw BMD is taken from both.",
        f"Test donors: {_list(notes['donors']['test'])}; {notes['patches']['test']} patches, "
        f"{'all their scans' if 'pairs' in notes else 'three scans each'}.",
    ]
    for kind, rows in notes["scores"].items():
        lines += ["", f"### {kind}", "", *_table(rows), "", *_plainly(rows)]
    return "\n".join(lines) + "\n"


def _spacing_mm(notes: dict[str, Any]) -> tuple[float, float, float]:
    """Of the training data; runs of earlier releases do not say it, they were on the paper's grid."""
    z, y, x = notes.get("spacing_mm", PAPER_SPACING_MM)
    return z, y, x


def _trained_on_simulation(notes: dict[str, Any]) -> list[str]:
    return [
        f"- **Trained on**: simulated scans at {_list(notes['tube_currents_mas'])} mAs, "
        f"{notes['repetitions']} of each, of donors {_list(notes['donors']['train'])}",
        f"  ({notes['patches']['train']} patches);",
        f"  stopped by donors {_list(notes['donors']['validation'])}. Donors with a number are micro-CT cubes of human",
        "  L1 (BoneBox, BSD-3-Clause); the others are random-field bone. No scan of a real scanner was seen.",
    ]


def _kept(notes: dict[str, Any]) -> str:
    """Which epoch's weights these are; runs of earlier releases kept the best."""
    return (
        "the last one kept" if notes["recipe"].get("keep") == "last" else f"best epoch {notes['best_epoch']}"
    )


def _how(recipe: dict[str, Any]) -> str:
    weights = recipe["weights"] or LOSS_WEIGHTS[recipe["loss"]]
    mixture = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    kept = f"averaged with decay {recipe['averaging']:g}" if recipe["averaging"] else "not averaged"
    muon = "Muon, " if recipe.get("optimizer") == "muon" else ""
    share = recipe.get("extra_noise", 0)
    noise = f"up to {share:g} of its noise's variance added to each scan, " if share else ""
    return (
        f"recipe {recipe['name']}: loss {recipe['loss']} ({mixture}), {noise}{muon}rate {recipe['learning_rate']:.2g} "
        f"({recipe['rate']}), weights {kept}, trained in {recipe['precision']}"
    )


def _unseen(donors: dict[str, list[str]]) -> str:
    """A split by position tests on other places in the bones that it has trained on."""
    if set(donors["test"]) & set(donors["train"]):
        return "positions never seen in training, in donors that were"
    return "donors never seen in training"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = "| mAs | quantity | filter | dAvg | RMSE | % of raw | R2 % | R2 beyond BMD % |"
    body = (
        f"| {r['mas']:g} | {r['quantity']} | {r['filter']} | {r['d_avg']:.2f} | {r['rmse']:.2f} "
        f"| {_number(r['share_of_raw'])} | {_number(r['r2'])} | {_number(r['r2_beyond_bmd'])} |"
        for r in rows
    )
    return [head, "|---|---|---|---|---|---|---|---|", *body]


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _plainly(rows: list[dict[str, Any]]) -> list[str]:
    """Say in words where the network is worse than a line through BMD, or than no filter."""
    errors = {(r["mas"], r["quantity"], r["filter"]): r["rmse"] for r in rows}
    said = []
    for other, words in (("BMD line", "does not beat the BMD line"), ("raw", "is worse than no filter")):
        places = [
            f"{quantity} at {mas:g} mAs"
            for mas, quantity, name in errors
            if name not in ("raw", "BMD line") and errors[mas, quantity, name] >= errors[mas, quantity, other]
        ]
        said.append(f"- The network {words} in: {', '.join(places) if places else 'no row'}.")
    return said


def _list(values: list[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
