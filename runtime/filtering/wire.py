"""The few bytes of protobuf that a model's card, checksum and graph need, so that the runtime needs no `onnx`.

A message is a row of fields, each a tag (number and wire type) and a payload. ONNX keeps everything
that matters here on the outer levels: the graph, its initialisers and the metadata of the model.
"""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field: its number, its wire type, its payload, and all its bytes with the tag."""

    number: int
    kind: int
    payload: bytes
    whole: bytes


def fields(message: bytes) -> Iterator[Field]:
    """Walk over the top level of a message.

    Raises
    ------
    ValueError
        When the bytes are no protobuf message.
    """
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        kind = tag & 7
        first, at = _payload(message, at, kind)
        if tag >> 3 == 0 or at > len(message):
            raise ValueError(f"no protobuf field at byte {start}")
        yield Field(tag >> 3, kind, message[first:at], message[start:at])


def text_field(number: int, text: str | bytes) -> bytes:
    """One length-delimited field, ready to be appended to a message."""
    payload = text.encode() if isinstance(text, str) else text
    return _as_varint(number << 3 | LENGTH) + _as_varint(len(payload)) + payload


def number_field(number: int, value: int) -> bytes:
    """One field of a number from 0 on, ready to be appended to a message."""
    return _as_varint(number << 3 | VARINT) + _as_varint(value)


def numbers(payload: bytes) -> list[int]:
    """The numbers in a payload: one in a field of its own, any count where they are packed.

    Raises
    ------
    ValueError
        When the bytes are no such numbers.
    """
    found, at = [], 0
    while at < len(payload):
        value, at = _varint(payload, at)
        found.append(value)
    return found


def _payload(message: bytes, at: int, kind: int) -> tuple[int, int]:
    if kind == VARINT:
        return at, _varint(message, at)[1]
    if kind == LENGTH:
        length, at = _varint(message, at)
        return at, at + length
    if kind in (FIXED64, FIXED32):
        return at, at + (8 if kind == FIXED64 else 4)
    raise ValueError(f"no protobuf wire type {kind} at byte {at}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"no protobuf number at byte {at}")


def _as_varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
