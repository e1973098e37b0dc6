"""torch -> ONNX: a graph for any volume size with the weights and the card inside, compared with torch."""

import contextlib
import copy
import inspect
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from qctrun.runtime.errors import ModelError
from qctrun.runtime.filtering.engines import Engine
from qctrun.runtime.filtering.engines.onnx_cpu import OnnxCpuEngine
from qctrun.runtime.filtering.model import Model, ModelCard, parse_model, with_card
from qctrun.runtime.filtering.session import Session
from qctrun.runtime.filtering.windows import plan
from qctrun.runtime.volume import FloatArray
from qctrun.runtime.writing import Staging

OPSET = 18
PARITY_TOLERANCE = 1e-4
"""Largest difference between torch and onnxruntime, relative to the largest value."""
WINDOW_TOLERANCE = 1e-5
"""Likewise between windows and one piece; a card with too small a halo misses it."""

PARITY_SIZES = ((1, 1, 1), (2, 3, 5), (9, 17, 17), (13, 25, 26), (24, 45, 38))
WINDOWED_SIZE, WINDOW_VOXELS = (23, 43, 41), 13 * 25 * 25


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A network as the bytes of an ONNX file, after it was compared with torch.

    Attributes
    ----------
    data : bytes
        The file.
    difference : float
        Largest relative difference between torch and onnxruntime that was found.
    """

    data: bytes
    difference: float


def exported(network: torch.nn.Module, card: ModelCard) -> ExportedModel:
    """Turn a network into an ONNX model that `qctrun.runtime.filtering.Filter` runs.

    The model takes "volume" and gives "filtered", both float32 (1, 1, z, y, x) of any size, and holds no word
    about the machine that made it; the same network and card give the same bytes.

    Parameters
    ----------
    network : torch module
        Called with a tensor (1, 1, z, y, x), and with `same=True` where its `forward` knows that word.
        The result must have the input's size. The network is not changed.
    card : ModelCard
        What to say of it; the digest is set here.

    Raises
    ------
    ModelError
        When torch and onnxruntime differ by more than 1e-4, when windows with the card's halo differ
        from one piece, or when the network is no filter of one volume.
    """
    whole = _SameSize(copy.deepcopy(network).cpu()).eval()
    model = parse_model(with_card(_graph(whole), card), Path(card.name))
    return ExportedModel(model.data, _prove(whole, model))


def export_onnx(
    network: torch.nn.Module, path: str | Path, card: ModelCard, *, overwrite: bool = False
) -> float:
    """Write a network as an ONNX file; see `exported`.

    Parameters
    ----------
    network, card
        As in `exported`.
    path : path
        Where to write.
    overwrite : bool
        Whether a file that is already there may be replaced.

    Returns
    -------
    float
        Largest relative difference between torch and onnxruntime that was found.

    Raises
    ------
    ModelError
        As `exported`. No file is left then.
    OutputExistsError, OutputError
        When the file exists or cannot be written.
    """
    path = Path(path)
    with Staging(path.parent, (path.name,), overwrite=overwrite) as staging:
        model = exported(network, card)
        staging.add_bytes(path.name, model.data)
        staging.commit()
    return model.difference


class _SameSize(torch.nn.Module):
    """The network as it runs in production: every layer padded, so that the size stays."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.words = {"same": True} if "same" in inspect.signature(network.forward).parameters else {}

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.network(volume, **self.words)
        return result


def _graph(whole: torch.nn.Module) -> bytes:
    axes = {2: torch.export.Dim("z"), 3: torch.export.Dim("y"), 4: torch.export.Dim("x")}
    with _quiet():
        program = torch.onnx.export(
            whole,
            (torch.zeros(1, 1, 11, 19, 21),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["volume"],
            output_names=["filtered"],
            dynamic_shapes=(axes,),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return bytes(_bare(program.model_proto).SerializeToString(deterministic=True))


def _bare(model: Any) -> Any:
    """Take out what torch says about its own source files.

    Shapes of the values in between stay: layout changes on a GPU need their rank.
    """
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    return model


def _prove(whole: torch.nn.Module, model: Model) -> float:
    """Compare with torch on sizes odd, even and tiny, and windows with one piece."""
    Session(model, "cpu", backend="onnxruntime")  # it opens and keeps the size
    engine = OnnxCpuEngine(model, threads=2)  # the graph as it is, not what a session would make of it
    volumes = [_noise(size) for size in PARITY_SIZES]
    difference = max(_difference(engine.run(volume), _torch(whole, volume)) for volume in volumes)
    _require(difference, PARITY_TOLERANCE, "onnxruntime", "torch")
    volume = _noise(WINDOWED_SIZE)
    miss = _difference(_windowed(engine, model.card, volume), engine.run(volume))
    _require(miss, WINDOW_TOLERANCE, "windows with the card's halo", "one piece")
    return difference


def _windowed(engine: Engine, card: ModelCard, volume: FloatArray) -> FloatArray:
    result = np.empty_like(volume)
    for window in plan(WINDOWED_SIZE, card.halo, WINDOW_VOXELS):
        result[window.put] = engine.run(volume[window.take])[window.keep]
    return result


def _torch(whole: torch.nn.Module, volume: FloatArray) -> FloatArray:
    with torch.no_grad():
        found: FloatArray = whole(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    return found


def _noise(size: tuple[int, int, int]) -> FloatArray:
    return np.random.default_rng(0).normal(200, 300, size).astype(np.float32)


def _difference(found: FloatArray, wanted: FloatArray) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))


def _require(difference: float, tolerance: float, what: str, other: str) -> None:
    if not difference <= tolerance:
        raise ModelError("export", wanted=f"{what} within {tolerance:g} of {other}", got=f"{difference:.2g}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch warns about its own future and about packages that this graph does not need."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
