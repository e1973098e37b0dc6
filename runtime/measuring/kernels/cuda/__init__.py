"""Local maps and their statistics on an NVIDIA GPU, compiled by numba-cuda; `host.py` has the face of `cpu.py`."""
