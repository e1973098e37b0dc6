"""The words that name what computes, and how much of it."""

import os
import re
from numbers import Integral

from qctrun.runtime.errors import UsageError

DEVICE_WORDS = "auto, cpu, cuda or cuda:N"


def parse_device(device: str) -> str:
    """Where to try: "cpu" or "cuda:N"; "auto" means the first GPU.

    Raises
    ------
    UsageError
        When it is none of auto, cpu, cuda and cuda:N.
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        raise UsageError("device", wanted=DEVICE_WORDS, got=repr(device))
    return "cuda:0" if device in ("auto", "cuda") else device


def parse_threads(threads: int | None) -> int:
    """How many CPU threads to use: as many as asked for, else all that the process may use.

    Raises
    ------
    UsageError
        When it is no whole number of at least 1.
    """
    if threads is None:
        return len(os.sched_getaffinity(0))
    if isinstance(threads, bool) or not isinstance(threads, Integral) or threads < 1:
        raise UsageError("threads", wanted="a whole number of at least 1", got=repr(threads))
    return int(threads)
