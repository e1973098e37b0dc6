"""JSON in and out: objects with one-line errors, values in JSON's own types."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qctrun.runtime.errors import InputError


def read_json(path: Path, name: Path | None = None, *, schema: str = "") -> dict[str, Any]:
    """Read a JSON object from a UTF-8 file, with or without a byte order mark.

    Parameters
    ----------
    path : Path
        The file.
    name : Path, optional
        What messages call it, where that is not `path`.
    schema : str, optional
        What its key `schema` must say.

    Raises
    ------
    InputError
        When the file is not there or holds something else.
    """
    name = name or path
    try:
        values = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}", wanted="JSON", got=" ".join(str(error).split())) from error
    if not isinstance(values, dict):
        raise InputError(f"{name}", wanted="a JSON object", got=type(values).__name__)
    if schema and values.get("schema") != schema:
        raise InputError(f"{name}", wanted=f"schema {schema}", got=repr(values.get("schema")))
    return values


def json_text(value: Any) -> str:
    """`value` as indented JSON; NaN and infinity become null, NumPy's scalars numbers, paths text."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name need not be UTF-8; its strange bytes become JSON's own escapes, and come back from them.
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
