"""One call of the program: what was typed, and the words that go back to stderr."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from qctrun.runtime.errors import one_line

if TYPE_CHECKING:
    from qctrun.runtime.volume import Progress


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
    _bar: Any = field(default=None, init=False, repr=False, compare=False)
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def say(self, message: str) -> None:
        """Words for everyone who did not ask for silence."""
        if self.quiet:
            return
        message = one_line(message)
        if self._bar is None or self._bar.disable:
            click.echo(f"qctrun: {message}", err=True)
        else:  # above the bar, which is drawn again below the words
            self._bar.write(f"qctrun: {message}", file=sys.stderr)

    def detail(self, message: str) -> None:
        """Words for those who asked for more."""
        if self.verbosity:
            self.say(message)

    def warn(self, message: str) -> None:
        """Words that a reader of the numbers has to know, said once; outputs carry them too."""
        if message not in self._warned:
            self._warned.add(message)
            self.say(f"warning: {message}")

    def replaced(self, left_over: Sequence[str]) -> None:
        """Words on what an earlier run had written and this one has not."""
        if left_over:
            self.say(f"removed {len(left_over)} more of the earlier run: {', '.join(left_over)}")

    def error(self, message: str) -> None:
        """The one line of a failure; never silenced."""
        click.echo(f"qctrun: error: {one_line(' '.join(message.split()))}", err=True)

    @contextmanager
    def progress(self, what: str) -> "Iterator[Progress]":
        """A bar on stderr, only on a terminal, moved by the function that the block gets; gone when it is full."""
        self._open_bar(what)

        def show(done: int, total: int) -> None:
            if self._bar is None:  # another round of the same work
                self._open_bar(what)
            if self._bar.total != total:
                self._bar.reset(total)
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._close_bar()

        try:
            yield show
        finally:
            self._close_bar()

    def _open_bar(self, what: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=f"qctrun: {what}", disable=self.quiet or None, leave=False, file=sys.stderr)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
