"""What can go wrong, one exception a kind of failure, each with its exit code.

A message is one line that answers four questions: what, wanted, got, how to mend.
Host programs catch `QctrunError`; the command line turns it into `exit_code`.
"""


class QctrunError(Exception):
    """Base of every failure that this package raises on purpose.

    Parameters
    ----------
    what : str
        The thing that failed, named as the user knows it (an option, a path, a tag).
    wanted, got : str, optional
        What would have been right, and what was found.
    mend : str, optional
        What the user can do about it, as an imperative.
    """

    exit_code = 1

    def __init__(self, what: str, *, wanted: str = "", got: str = "", mend: str = "") -> None:
        facts = ", ".join(
            part for part in (f"wanted {wanted}" * bool(wanted), f"got {got}" * bool(got)) if part
        )
        message = f"{what}: {facts}" if facts else what
        super().__init__(one_line(f"{message}; {mend}" if mend else message))


class UsageError(QctrunError):
    """The words of the call do not make sense (exit 2)."""

    exit_code = 2


class OutputExistsError(UsageError):
    """An output is already there and overwriting was not asked for (exit 2)."""


class InputError(QctrunError):
    """What was read is not what it should be: not an image, a gap, another grid, an unknown unit (exit 3)."""

    exit_code = 3


class ModelError(QctrunError):
    """The model is missing, is not ONNX, has no card or another shape (exit 4)."""

    exit_code = 4


class DeviceError(QctrunError):
    """The device that was asked for, or the library that drives it, cannot be used (exit 5)."""

    exit_code = 5


class RuntimeMissingError(DeviceError):
    """onnxruntime is not installed (exit 5)."""


class OutOfMemoryError(QctrunError):
    """The work does not fit into memory (exit 6)."""

    exit_code = 6


class OutputError(QctrunError):
    """A result cannot be written: full disk, no permission (exit 7)."""

    exit_code = 7


def one_line(text: str) -> str:
    """The text with line breaks, control characters and undecodable bytes of file names as visible escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
