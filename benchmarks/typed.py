"""Type the commands of a page for real, in order, in an empty folder, and hold its output against what the page shows.

    python benchmarks/typed.py docs/your-scanner.md --work walk          # prints the page anew, to paste from
    python benchmarks/typed.py docs/your-scanner.md --work walk --check  # says what is not printed any more

In blocks without a language, lines that start with "$ " are commands, and what follows is their output, shortened
where "..." stands. Other blocks whose first line is "# NAME" are files of that name. Numbers may differ from the page.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Typed:
    """A command, the output that the page shows for it, and what it has printed."""

    command: str
    shown: list[str] = field(default_factory=list)
    printed: str = ""
    status: int = 0

    @property
    def missing(self) -> list[str]:
        """Lines that are shown but are not printed, numbers aside."""
        printed = {_words(line) for line in self.printed.splitlines()}
        return [line for line in self.shown if line.strip() != "..." and not _is_in(line, printed)]


def typed(page: Path, work: Path, changed: Callable[[str], str] = str) -> Iterator[Typed]:
    """Type all commands of a page in a folder, each after `changed` has seen it; files are written as they come."""
    for kind, lines in _blocks(page.read_text(encoding="utf-8")):
        if kind and lines and (name := re.fullmatch(r"# ([\w.-]+\.\w+)", lines[0])):
            (work / name[1]).write_text(changed("\n".join(lines) + "\n"), encoding="utf-8")
        for one in _commands(lines) if not kind else ():
            done = subprocess.run(
                ["bash", "-c", changed(one.command)],
                cwd=work,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            )
            one.printed, one.status = done.stdout, done.returncode
            yield one


def main() -> None:
    """Type a page; exit 1 when a command fails, or a line that is shown is not printed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder to type in")
    parser.add_argument("--check", action="store_true", help="say what is not printed any more")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    good = True
    for one in typed(options.page, options.work):
        print(f"$ {one.command}", flush=True)
        print(
            "\n".join(f"not printed: {line}" for line in one.missing) if options.check else one.printed,
            flush=True,
        )
        good &= not one.status and not (options.check and one.missing)
    sys.exit(0 if good else 1)


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2].splitlines()


def _commands(lines: list[str]) -> list[Typed]:
    found: list[Typed] = []
    for line in lines:
        if line.startswith("$ "):
            found.append(Typed(line[2:]))
        elif found and found[-1].command.endswith("\\"):
            found[-1].command += "\n" + line
        elif found:
            found[-1].shown.append(line)
    return found


def _words(line: str) -> str:
    """A line without its numbers and gaps, which differ from one machine to the next."""
    return re.sub(r"[-+]?[\d.]+(e[-+]?\d+)?|\s", "", line)


def _is_in(line: str, printed: set[str]) -> bool:
    """Whether some line begins like this one; a line may be cut short by "..."."""
    start, cut, _ = line.partition("...")
    words = _words(start)
    return any(one.startswith(words) for one in printed) if cut else words in printed


if __name__ == "__main__":
    main()
