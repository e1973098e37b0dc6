"""The program as a whole: help, exit codes, one line for every failure."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from conftest import Program

from qctrun.cli import main as program_module
from qctrun.cli.call import Call
from qctrun.cli.failures import EXIT_CODES, guarded
from qctrun.cli.main import VERBS, program
from qctrun.runtime import errors
from qctrun.runtime.formats import FORMATS

HEAVY = ("numpy", "SimpleITK", "numba", "pydicom", "scipy", "onnxruntime", "torch", "tqdm", "matplotlib")


def fresh(code: str, *words: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A fresh interpreter that runs a line of code."""
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from qctrun.cli.main import main; code = main(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    found = fresh(code, *words)
    assert (found.returncode, found.stderr) == (0, "[]\n")


def test_the_python_face_is_light_and_complete() -> None:
    code = (
        "import sys, qctrun.runtime as r;"
        f"print([name for name in {HEAVY} if name in sys.modules], [n for n in r.__all__ if not getattr(r, n)]);"
        "from qctrun.runtime import Filter, Grid, Volume, local_maps, parameters, read, write;"
        "print('onnxruntime' in sys.modules, 'torch' in sys.modules, 'click' in sys.modules)"
    )
    assert fresh(code).stdout == "[] []\nFalse False False\n"


def test_the_python_face_has_no_other_names() -> None:
    import qctrun.runtime

    assert set(qctrun.runtime.__all__) <= set(dir(qctrun.runtime))
    with pytest.raises(AttributeError, match="no attribute 'reed'"):
        _ = qctrun.runtime.reed  # type: ignore[attr-defined]


def test_help_lists_verbs_and_exit_codes(qctrun: Program) -> None:
    code, out, err = qctrun("--help")
    assert (code, err) == (0, "")
    assert all(f"\n  {verb} " in out for verb in VERBS)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")]
    assert all(f"{number:>5}  " in out for number in {0, 6, 8, 130, *(kind.exit_code for kind in kinds)})


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_names_every_option_and_the_exit_codes(qctrun: Program, verb: str) -> None:
    code, out, err = qctrun(verb, "--help")
    assert (code, err) == (0, "")
    command = program.get_command(click.Context(program), verb)
    assert command is not None
    for param in command.params:
        assert all(name in out for name in param.opts if name.startswith("-")), param.name
        assert isinstance(param, click.Argument) or getattr(param, "help", None), param.name
    assert all(line.strip() in out for line in EXIT_CODES.splitlines()[1:])


def test_the_formats_on_offer_are_those_that_can_be_written() -> None:
    for verb in ("filter", "params"):
        command = program.get_command(click.Context(program), verb)
        assert command is not None
        (option,) = (param for param in command.params if param.name == "fmt")
        assert option.default == FORMATS[0]
        assert option.process_value(click.Context(command), ",".join(FORMATS)) == FORMATS


def test_the_version_is_that_of_the_package(qctrun: Program) -> None:
    from importlib.metadata import version

    assert qctrun("--version") == (0, f"qctrun {version('qctrun')}\n", "")


def test_no_words_at_all_show_the_help_and_fail(qctrun: Program) -> None:
    code, out, err = qctrun()
    assert (code, out) == (2, "")
    assert "Usage: qctrun" in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["filtre"], "No such command 'filtre'"),
        (["info"], "INPUT"),
        (["filter", "--nonsense"], "--nonsense"),
        (["filter", "x", "--device", "tpu"], "--device"),
        (["filter", "x", "--format", "png"], "--format"),
        (["filter", "x", "--threads", "0"], "--threads"),
        (["filter", "x", "--material", "chalk"], "--material"),
        (["params", "x", "--unit", "furlongs"], "--unit"),
        (["params", "x", "--diameter", "0"], "--diameter"),
        (["params", "x", "--step", "soft"], "--step"),
        (["params", "x", "--thresholds", "200,x"], "--thresholds"),
        (["params", "x", "--thresholds", ""], "--thresholds"),
        (["params", "x", "--thresholds", "200,,250"], "--thresholds"),
        (["params", "x", "--thresholds", "-200"], "--thresholds"),
        (["params", "x", "--thresholds", "0"], "--thresholds"),
        (["params", "x", "--thresholds", "nan"], "--thresholds"),
        (["params", "x", "--labels", "l.nii", "--label-ids", "20,-3"], "--label-ids"),
        (["params", "x", "--label-ids", "20"], "--labels"),
        (["params", "x", "--inside"], "--mask"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(
    qctrun: Program, words: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = qctrun(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("qctrun: error: ")
    assert reason in err
    assert not list(tmp_path.iterdir())


def interrupted() -> int:
    raise KeyboardInterrupt


def too_large() -> int:
    raise MemoryError


def full() -> int:
    raise OSError(28, "No space left on device")


def strange() -> int:
    raise ZeroDivisionError("two\nlines")


@pytest.mark.parametrize(("action", "code"), [(interrupted, 130), (too_large, 6), (strange, 1)])
def test_what_nobody_expects_is_one_line_too(
    action: Callable[[], int], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(action, Call()) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:15]) == ("", 1, "qctrun: error: ")


def test_a_traceback_is_shown_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    guarded(strange, Call(verbosity=1))
    assert "Traceback" not in capsys.readouterr().err
    guarded(strange, Call(verbosity=2))
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_behind_stdout_is_exit_code_7(tmp_path: Path) -> None:
    code = "import sys; from qctrun.cli.main import main; sys.exit(main(['--help']))"
    with Path("/dev/full").open("w") as disk:
        found = subprocess.run([sys.executable, "-c", code], stdout=disk, stderr=-1, text=True, check=False)
    assert found.returncode == 7
    assert found.stderr == (
        "qctrun: error: cannot write, got No space left on device; free some space or choose another folder\n"
    )


def test_quiet_silences_words_but_not_errors(capsys: pytest.CaptureFixture[str]) -> None:
    call = Call(quiet=True)
    call.say("a word")
    call.warn("a warning")
    call.error("an error")
    assert capsys.readouterr() == ("", "qctrun: error: an error\n")


def test_no_bar_is_drawn_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with Call().progress("filtering") as progress:
        progress(0, 2)
        progress(2, 2)
    assert capsys.readouterr() == ("", "")


def on_a_terminal(code: str) -> str:
    """What a terminal of 80 columns gets on stderr from a line of code."""
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    code = f"from qctrun.cli.call import Call; call = Call()\n{code}"
    subprocess.run([sys.executable, "-c", code], stderr=side, check=True)
    os.close(side)
    said = os.read(terminal, 100_000).decode()
    os.close(terminal)
    return said


def seen(said: str) -> list[str]:
    """The lines that are left on the screen: a carriage return goes back to the start of its line."""
    lines = []
    for line in said.split("\n"):
        shown = ""
        for part in line.removesuffix("\r").split("\r"):
            part = part.replace("\x1b[A", "")
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_a_bar_is_drawn_on_a_terminal() -> None:
    said = on_a_terminal("with call.progress('filtering') as show: show(0, 2); show(2, 2)")
    assert "filtering" in said
    assert seen(said) == [""]


def test_words_behind_a_full_bar_start_on_an_empty_line() -> None:
    said = on_a_terminal(
        "with call.progress('simulating') as show:\n"
        "    for done in range(1, 4): show(done, 3)\n"
        "    call.say('epoch 1')\n"
        "    call.say('epoch 2')"
    )
    assert seen(said) == ["qctrun: epoch 1", "qctrun: epoch 2", ""]
    assert "simulating" not in said.partition("epoch 1")[2]


def test_words_beside_an_open_bar_stand_above_it() -> None:
    said = on_a_terminal(
        "with call.progress('filtering') as show:\n"
        "    show(1, 3)\n"
        "    call.warn('careful')\n"
        "    show(2, 3)\n"
        "call.say('done')"
    )
    assert seen(said) == ["qctrun: warning: careful", "qctrun: done", ""]
    assert "filtering" in said.partition("careful")[2]


def test_a_second_round_gets_a_bar_of_its_own() -> None:
    said = on_a_terminal(
        "with call.progress('maps') as show:\n    show(1, 1); call.say('between'); show(0, 2); show(2, 2)"
    )
    assert "maps" in said.partition("between")[2]
    assert seen(said) == ["qctrun: between", ""]


def test_a_verb_that_is_not_called_is_not_loaded(monkeypatch: pytest.MonkeyPatch, qctrun: Program) -> None:
    monkeypatch.setitem(program_module.VERBS, "absent", "A verb without a module.")
    assert "absent" in qctrun("--help").out
    code, _, err = qctrun("absent")
    assert (code, err.count("\n")) == (1, 1)


def test_sigterm_is_an_interruption_only_while_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_module, "_run", lambda call: os.kill(os.getpid(), signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert program_module.main(["--version"]) == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        monkeypatch.setattr(program_module, "_run", lambda call: 0)
        assert program_module.main(["--version"]) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_program_runs_outside_of_the_main_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(program_module.main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_the_help_says_what_inside_means_with_labels(qctrun: Program) -> None:
    assert "union of all labels" in " ".join(qctrun("params", "--help").out.split())


def test_a_warning_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    call = Call()
    for _ in range(2):  # `filter --params` reads a mask twice
        call.warn("the mask was resampled")
        call.warn("no phantom")
    assert capsys.readouterr().err.count("warning: ") == 2
