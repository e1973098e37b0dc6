"""Every failure as one line on stderr and an exit code that a script can rely on."""

import errno
import os
import sys
from collections.abc import Callable

import click

from qctrun.cli.call import Call
from qctrun.runtime.errors import OutputError, QctrunError

EXIT_CODES = """\b
Exit codes:
    0  ok
    1  unexpected error
    2  usage: an option, a missing input, an output that exists without --overwrite
    3  bad input
    4  model missing or not usable
    5  device asked for not usable, or onnxruntime absent
    6  out of memory
    7  cannot write: disk full, no permission
    8  a batch finished with failures
  130  interrupted, by Ctrl-C or SIGTERM
Errors are one line on stderr; -vv shows the traceback."""

_OUT_OF_MEMORY = 6
_CANNOT_WRITE = OutputError.exit_code
_INTERRUPTED = 130
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def guarded(action: Callable[[], int], call: Call) -> int:
    """Run `action`; say in one line why it failed, if it did, and return the exit code."""
    try:
        code = action()
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if call.verbosity > 1:
            import traceback

            traceback.print_exc()
        code, message = _judged(error)
        call.error(message)
        return code


def _judged(error: BaseException) -> tuple[int, str]:
    if isinstance(error, QctrunError):
        return error.exit_code, str(error)
    if isinstance(error, click.ClickException):
        return error.exit_code, f"{error.format_message().rstrip('.')}; {_help_line(error)}"
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return _INTERRUPTED, "interrupted"
    if isinstance(error, MemoryError):
        return _OUT_OF_MEMORY, "out of memory; crop the scan to the bone, or use a machine with more"
    if isinstance(error, OSError) and error.errno in _DISK:
        _close_stdout()
        return _CANNOT_WRITE, f"cannot write, got {error.strerror}; free some space or choose another folder"
    return 1, f"unexpected {type(error).__name__}: {error}; say -vv to see where"


def _help_line(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"type: {context.command_path if context else 'qctrun'} --help"


def _close_stdout() -> None:
    """Point stdout nowhere, or the interpreter would try the full disk again on its way out."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
