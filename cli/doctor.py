"""`qctrun doctor`: what of this machine can be used, and what is missing."""

from typing import TYPE_CHECKING

import click

from qctrun.cli.call import Call
from qctrun.cli.options import verb
from qctrun.runtime.devices import MOST_THREADS

if TYPE_CHECKING:
    from qctrun.runtime.doctor import Examination

_UNUSABLE = 5


@verb("doctor")
@click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), metavar="N", help="CPU threads; default: all."
)
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@click.pass_context
def command(context: click.Context, call: Call, threads: int | None, as_json: bool) -> None:
    """Show what of this machine can be used, and how to mend what is missing.

    Versions, processor, GPUs, the shipped model, the cache of compiled kernels, and every engine of the
    filter: opened, compared with onnxruntime on the CPU, and timed on a small window. Nothing is changed.
    What is missing may well be of no use here: the filter works where one engine is ok. The exit code
    is 5 where none is.
    """
    from qctrun.runtime.doctor import examine
    from qctrun.runtime.json_files import json_text

    found = examine(threads)
    click.echo(json_text(found.as_dict()) if as_json else _table(found), nl=False)
    if not found.usable:
        call.error("nothing here can filter; see above how to mend it")
        context.exit(_UNUSABLE)


def _table(found: "Examination") -> str:
    width = max(len(one.name) for one in found.findings)
    lines = []
    for one in found.findings:
        lines.append(f"{one.state:<7}  {one.name:<{width}}  {one.found}")
        if one.mend:
            lines.append(f"{'':<7}  {'':<{width}}  -> {one.mend}")
    return "\n".join(lines) + "\n"
