"""The program `qctrun`: finds the verb, runs it, and turns whatever happens into an exit code."""

import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from qctrun.cli.call import Call
from qctrun.cli.failures import EXIT_CODES, guarded
from qctrun.runtime.version import VERSION

VERBS = {
    "filter": "Filter a scan with the bone-parameter-aware network.",
    "params": "Measure BMD, BV/TV and TMD: one table and local maps.",
    "calibrate": "Find a phantom's rods in a scan and fit its line from HU to density.",
    "peel": "Take the trabecular inside of a vertebral mask.",
    "metrics": "Precision and accuracy of repeated measurements.",
    "demo": "Make a simulated scan, filter and measure it, and show the gain.",
    "info": "Show what is in a file or folder, also when it is not a volume.",
    "report": "Make one HTML page about a run, with its pictures.",
    "doctor": "Show what of this machine can be used, and what is missing.",
    "pairs": "Register and calibrate scans of two scanners into data to train on.",
    "train": "Train a filter on simulated scans, or on real pairs.",
    "study": "Reproduce the paper's tables on simulated scans.",
    "export": "Turn a trained filter into an ONNX model and check it.",
}
"""What each verb is for. `qctrun.cli.<verb>` holds its `command` and is imported when it is called."""


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"qctrun.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=_Verbs, epilog=EXIT_CODES, subcommand_metavar="VERB ...", context_settings={"max_content_width": 110}
)
@click.version_option(VERSION, message="%(prog)s %(version)s")
@click.help_option("-h", "--help")
def program() -> None:
    """Make clinical quantitative-CT scans of vertebrae measurable.

    \b
    qctrun filter scan/ --out
    qctrun params --thresholds 200,225,250

    The first line filters the scan, the second measures what the first has written into ./qctrun-out/.
    Data go to stdout, words to stderr. Each verb has its own --help.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    call = Call(tuple(sys.argv[1:] if argv is None else argv))
    with _stopped_by_sigterm():
        return guarded(lambda: _run(call), call)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM, as batch systems and containers send it, ends a run as Ctrl-C does: hidden files are taken away."""
    in_main = threading.current_thread() is threading.main_thread()  # only there handlers can be set
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(call: Call) -> int:
    if not call.argv:
        click.echo(program.get_help(click.Context(program, info_name="qctrun")), err=True)
        return 2
    return program.main(list(call.argv), prog_name="qctrun", standalone_mode=False, obj=call) or 0


if __name__ == "__main__":
    sys.exit(main())
