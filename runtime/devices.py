"""The words that name what computes, and how much of it."""

import os
import re
from numbers import Integral

from qctrun.runtime.errors import UsageError

DEVICE_WORDS = "auto, cpu, cuda or cuda:N"
BACKENDS = ("auto", "onnxruntime", "openvino")
"""What computes the filter on the CPU."""
PRECISIONS = ("fp32", "tf32", "fp16")
"""Arithmetic of the filter's convolutions."""


MOST_THREADS = 256
"""Libraries that are asked for many more take minutes to start them."""


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


def check_filtering(device: str, backend: str, precision: str) -> None:
    """Check the words that say how to filter, each for itself and together.

    Raises
    ------
    UsageError
        When one is unknown, or when a backend of the CPU or an arithmetic of a GPU is wanted elsewhere.
    """
    for name, word, known in (("backend", backend, BACKENDS), ("precision", precision, PRECISIONS)):
        if word not in known:
            raise UsageError(name, wanted=f"{', '.join(known[:-1])} or {known[-1]}", got=repr(word))
    if backend == "openvino" and device.startswith("cuda"):
        mend = "use the backend auto"
        raise UsageError("backend openvino", wanted="the device cpu", got=device, mend=mend)
    if precision != "fp32" and (device == "cpu" or backend == "openvino"):
        mend = "use the device cuda, or the precision fp32"
        raise UsageError(f"precision {precision}", wanted="a GPU", got="the CPU", mend=mend)


def parse_threads(threads: int | None) -> int:
    """How many CPU threads to use: as many as asked for, else all that the process may use.

    Raises
    ------
    UsageError
        When it is no whole number of at least 1.
    """
    if threads is None:
        return len(os.sched_getaffinity(0))
    if isinstance(threads, bool) or not isinstance(threads, Integral) or not 1 <= threads <= MOST_THREADS:
        raise UsageError("threads", wanted=f"a whole number from 1 to {MOST_THREADS}", got=repr(threads))
    return int(threads)
