"""The ONNX file and its card: what the model was made for, and proof that it is the one it says."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Self

from qctrun.runtime.digests import sha256_of_bytes
from qctrun.runtime.errors import ModelError
from qctrun.runtime.filtering import wire

SCHEMA = "qctrun/model/1"
CARD_KEY = "qctrun"

MAX_BYTES = 2**28
"""Of a model file; the shipped one has half a million."""
DOMAINS = frozenset({b"", b"ai.onnx"})
"""Where operators may come from: ONNX's own, not a library's that somebody has to load."""

# Field numbers of onnx.proto.
MODEL_GRAPH, MODEL_OPSETS, MODEL_METADATA, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 8, 14, 20, 25
OPSET_DOMAIN = 1
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_ATTRIBUTE, NODE_DOMAIN = 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS, ATTRIBUTE_PARTS = 5, 10, (6, 11, 22, 23)
TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2

MEND = 'export it with qctrun ("qctrun export"), or use the shipped model'


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a reader of filtered numbers has to know about the model, and what the windows need.

    Attributes
    ----------
    name, version : str
        Which model it is.
    spacing_mm : (float, float, float)
        Voxel spacing (z, y, x) of the training data, mm.
    channels : ints
        Output channels of the hidden layers; with them goes the memory that a window takes.
    halo : (int, int, int)
        Voxels (z, y, x) on each side that an output voxel depends on.
    unit, material : str
        Of the numbers that go in and come out.
    training : mapping
        Data, donors, steps, seconds, machine.
    scores : mapping
        What it reached on donors that it never saw.
    licence : str
        SPDX name.
    sha256 : str
        Digest of graph and weights: the file without its metadata. Set when the card is written.
    """

    name: str
    version: str
    spacing_mm: tuple[float, float, float]
    channels: tuple[int, ...]
    halo: tuple[int, int, int] = (4, 8, 8)
    unit: str = "mg/cm3"
    material: str = "HA"
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "Apache-2.0"
    sha256: str = ""

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps({"schema": SCHEMA, **self.as_dict()}, sort_keys=True)

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a card.

        Raises
        ------
        ModelError
            When it is no JSON object, of another schema, or when a value is missing or of another kind.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ModelError("model card", wanted="JSON", got=str(error), mend=MEND) from None
        schema = values.get("schema") if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise ModelError("model card", wanted=f"schema {SCHEMA}", got=repr(schema), mend="update qctrun")
        try:
            return cls(**_checked(values))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("model card", wanted="all its values", got=str(error), mend=MEND) from None


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model file that has been read and checked.

    Attributes
    ----------
    path : Path
        Where it was read from.
    card : ModelCard
        What it says of itself.
    data : bytes
        The file. The session is opened from these bytes, so that what was checked is what runs.
    sha256 : str
        Digest of the file.
    """

    path: Path
    card: ModelCard
    data: bytes = field(repr=False)
    sha256: str


def load_model(path: str | Path | None = None) -> Model:
    """Read a model, its card, and check that graph and weights are what the card says.

    Parameters
    ----------
    path : path, optional
        An ONNX file with a card; without it the shipped one.

    Raises
    ------
    ModelError
        When the file is missing, is not ONNX, has no card or one of another schema, keeps its weights
        in another file, or was changed after its card was written.
    """
    path = Path(path) if path is not None else shipped_model()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"model {path}", wanted="an ONNX file", got=error.strerror or str(error)) from None
    return parse_model(data, path)


def shipped_model() -> Path:
    """Path of the model that comes with the package."""
    return Path(str(resources.files("qctrun.runtime.filtering.models") / "nnsp.onnx"))


def parse_model(data: bytes, path: Path) -> Model:
    """Check the bytes of a model file; `path` is what error messages call it. Raises as `load_model`."""
    what = f"model {path}"
    if len(data) > MAX_BYTES:
        raise ModelError(what, wanted=f"at most {MAX_BYTES} bytes", got="more", mend=MEND)
    try:
        _refuse_foreign(data)
        metadata, digest, external = _inspect(data)
    except ValueError as error:
        raise ModelError(what, wanted="an ONNX file", got=str(error)) from None
    if external:
        raise ModelError(what, wanted="weights inside the file", got="weights in another file", mend=MEND)
    if CARD_KEY not in metadata:
        raise ModelError(what, wanted=f'a card (metadata "{CARD_KEY}")', got="none", mend=MEND)
    card = ModelCard.from_json(metadata[CARD_KEY])
    if card.sha256 != digest:
        raise ModelError(
            what,
            wanted=f"graph and weights with sha256 {card.sha256[:12]}",
            got=digest[:12],
            mend="the file is damaged or was edited: take a fresh copy",
        )
    return Model(path, card, data, sha256_of_bytes(data))


def with_card(data: bytes, card: ModelCard) -> bytes:
    """The same model with this card instead of its metadata; the digest is set here.

    Parameters
    ----------
    data : bytes
        A serialised ONNX model.
    card : ModelCard
        Its `sha256` is ignored.

    Raises
    ------
    ModelError
        When the bytes are no ONNX model.
    """
    try:
        graph = b"".join(part.whole for part in wire.fields(data) if part.number != MODEL_METADATA)
        digest = _inspect(graph)[1]
    except ValueError as error:
        raise ModelError("model", wanted="an ONNX file", got=str(error)) from None
    text = dataclasses.replace(card, sha256=digest).to_json()
    entry = wire.text_field(ENTRY_KEY, CARD_KEY) + wire.text_field(ENTRY_VALUE, text)
    return graph + wire.text_field(MODEL_METADATA, entry)


def _inspect(data: bytes) -> tuple[dict[str, str], str, bool]:
    """Metadata, digest of everything else, and whether any weight lies outside the file."""
    metadata: dict[str, str] = {}
    digest = hashlib.sha256()
    external = graphs = 0
    for part in wire.fields(data):
        if part.number == MODEL_METADATA:
            entry = {item.number: item.payload.decode() for item in wire.fields(part.payload)}
            metadata[entry.get(ENTRY_KEY, "")] = entry.get(ENTRY_VALUE, "")
            continue
        digest.update(part.whole)
        if part.number == MODEL_GRAPH and part.kind == wire.LENGTH:
            graphs += 1
            external += any(map(_is_external, _weights(part.payload)))
    if graphs != 1:
        raise ValueError("no graph inside")
    return metadata, digest.hexdigest(), bool(external)


def _refuse_foreign(data: bytes) -> None:
    """Refuse what a filter does not need, and what a library would have to look for elsewhere."""
    domains: list[bytes] = []
    for part in wire.fields(data):
        if part.number in (MODEL_TRAINING, MODEL_FUNCTIONS):
            raise ValueError("functions or training beside the graph")
        if part.number == MODEL_OPSETS:
            domains += _all(part.payload, OPSET_DOMAIN)
        if part.number == MODEL_GRAPH and part.kind == wire.LENGTH:
            if any(True for _ in _all(part.payload, GRAPH_SPARSE)):
                raise ValueError("sparse weights")
            domains += (name for node in _all(part.payload, GRAPH_NODE) for name in _all(node, NODE_DOMAIN))
    strange = [name for name in domains if name not in DOMAINS]
    if strange:
        raise ValueError(f"operators of {strange[0].decode('latin-1')[:80]}, which are not ONNX's own")


def _weights(graph: bytes) -> Iterator[bytes]:
    """All tensors of a graph: its initialisers and those in the attributes of its nodes.

    Raises
    ------
    ValueError
        When a node holds a graph of its own, or something else that this does not look into.
    """
    yield from _all(graph, GRAPH_INITIALIZER)
    for node in _all(graph, GRAPH_NODE):
        for attribute in _all(node, NODE_ATTRIBUTE):
            for part in wire.fields(attribute):
                if part.number in ATTRIBUTE_PARTS:
                    raise ValueError("a graph inside of a node")
                if part.number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
                    yield part.payload


def _all(message: bytes, number: int) -> Iterator[bytes]:
    return (part.payload for part in wire.fields(message) if part.number == number)


def _is_external(tensor: bytes) -> bool:
    return any(
        part.number == TENSOR_EXTERNAL_DATA or (part.number == TENSOR_DATA_LOCATION and part.payload != b"\0")
        for part in wire.fields(tensor)
    )


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Only the card's own keys, lists as tuples; a later writer of the same schema may say more."""
    known = {item.name: values[item.name] for item in dataclasses.fields(ModelCard)}
    for name in ("name", "version", "unit", "material", "licence", "sha256"):
        if not isinstance(known[name], str):
            raise TypeError(f"{name} {known[name]!r}")
    for name in ("training", "scores"):
        if not isinstance(known[name], dict):
            raise TypeError(f"{name} {known[name]!r}")
    known["spacing_mm"] = _numbers(known["spacing_mm"], float, "spacing_mm", least=1e-6, length=3)
    known["halo"] = _numbers(known["halo"], int, "halo", least=0, length=3)
    known["channels"] = _numbers(known["channels"], int, "channels", least=1)
    return known


def _numbers(values: Any, kind: type, name: str, *, least: float, length: int = 0) -> tuple[Any, ...]:
    numbers = tuple(kind(value) for value in values)
    if not numbers or min(numbers) < least or (length and len(numbers) != length):
        raise ValueError(f"{name} {values!r}")
    return numbers
