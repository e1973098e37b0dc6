"""One call of the program: what was typed, and the words that go back to stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

Progress = Callable[[int, int], None]


@dataclass
class Call:
    """What was typed and how talkative to be; verbs get it with `click.pass_obj`.

    Attributes
    ----------
    argv : tuple of str
        The words after the program's name.
    quiet : bool
        -q: only errors are said.
    verbosity : int
        How many -v were given: 1 says more, 2 shows tracebacks.
    """

    argv: tuple[str, ...] = ()
    quiet: bool = False
    verbosity: int = 0

    def say(self, message: str) -> None:
        """Words for everyone who did not ask for silence."""
        if not self.quiet:
            click.echo(f"qctrun: {message}", err=True)

    def detail(self, message: str) -> None:
        """Words for those who asked for more."""
        if self.verbosity:
            self.say(message)

    def warn(self, message: str) -> None:
        """Words that a reader of the numbers has to know; outputs carry them too."""
        self.say(f"warning: {message}")

    def error(self, message: str) -> None:
        """The one line of a failure; never silenced."""
        click.echo(f"qctrun: error: {' '.join(message.split())}", err=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """A bar on stderr, only on a terminal, moved by the function that the block gets."""
        from tqdm import tqdm

        with tqdm(desc=f"qctrun: {what}", disable=self.quiet or None, leave=False, file=sys.stderr) as bar:

            def show(done: int, total: int) -> None:
                if bar.total != total:
                    bar.reset(total)
                bar.update(done - bar.n)

            yield show
