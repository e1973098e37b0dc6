"""What computed, in words for tables and cards, without naming a host."""

import os
import platform
from pathlib import Path


def cpu_words() -> str:
    """Cores this process may use, and the processor's name."""
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores, {names[0] if names else platform.machine()}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
