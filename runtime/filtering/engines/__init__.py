"""What computes a window: one engine for each library and device, all with one face.

Engines import their library when they are made, so that importing these modules costs nothing.
"""

import re
from typing import Protocol

from qctrun.runtime.errors import DeviceError, ModelError, OutOfMemoryError, QctrunError
from qctrun.runtime.filtering.model import MEND
from qctrun.runtime.volume import FloatArray

REINSTALL = 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "qctrun[cuda]"'
UPDATE_DRIVER = "update the NVIDIA driver (580 or newer; nvidia-smi shows which one is there)"

_OUT_OF_MEMORY = r"alloc|out of memory|available memory of"
_FAULTS = (
    (
        r"driver version is insufficient|CUDA failure (35|803)\b",
        "an NVIDIA driver as new as onnxruntime's CUDA",
        UPDATE_DRIVER,
    ),
    (
        r"cudnn.*not.?(implemented|available|found|loaded|enabled)|not.?implemented.*cudnn|libcudnn",
        "cuDNN for 3-D convolutions",
        REINSTALL,
    ),
    (
        r"CUDA failure (4|46|214|7\d\d|999)\b|illegal memory access|launch failure|device.* lost",
        "a GPU that stays",
        'the GPU was lost, look at nvidia-smi; start again, or use the device "cpu"',
    ),
)
"""Pattern of what onnxruntime says, what was wanted, and the mend."""


class Engine(Protocol):
    """A model that has been opened by one library on one device; calls from several threads are safe."""

    @property
    def provider(self) -> str:
        """The library's own name of what computes."""

    def run(self, window: FloatArray) -> FloatArray:
        """Filter one window, float32 (z, y, x), mg/cm3; the result may be shared with nobody else."""


def as_ours(
    error: Exception, device: str, *, wanted: str = "a filtered window", mend: str = 'try the device "cpu"'
) -> QctrunError:
    """What a library has raised, as one of our errors; known faults have their own mend."""
    text = line(error)
    if isinstance(error, MemoryError) or re.search(_OUT_OF_MEMORY, text, re.IGNORECASE):
        mend = "close other programs or give a mask"
        return OutOfMemoryError(f"device {device}", wanted="memory for a window", got=text, mend=mend)
    for pattern, known_wanted, known_mend in _FAULTS:
        if re.search(pattern, text, re.IGNORECASE):
            wanted, mend = known_wanted, known_mend
            break
    return DeviceError(f"device {device}", wanted=wanted, got=text, mend=mend)


def require_size(found: FloatArray, wanted: tuple[int, ...]) -> None:
    """Raise a ModelError where a result has not the size of its window."""
    if found.shape != wanted:
        got = f"{found.shape} from {wanted}"
        raise ModelError("model", wanted="a result of the input's size", got=got, mend=MEND)


def line(error: Exception) -> str:
    """The first line of what an exception says."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
