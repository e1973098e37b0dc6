"""Sums over files: what proves later that a number was computed from these very bytes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 of bytes that are in memory already, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_set(digests: Iterable[str]) -> str:
    """One digest for several files, whatever their order: that of their sorted digests; a single one stays."""
    ordered = sorted(digests)
    return ordered[0] if len(ordered) == 1 else sha256_of_bytes("\n".join(ordered).encode())
