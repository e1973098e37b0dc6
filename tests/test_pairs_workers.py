"""Processes that walk specimens: what they tell, how they fail, and how they are stopped."""

import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from cli_outputs import RUN
from pair_studies import make_study

from qctrun.runtime.errors import InputError, OutOfMemoryError, OutputError
from qctrun.train.pairs import workers
from qctrun.train.pairs.cache import Cache
from qctrun.train.pairs.choices import Specimen, StudyFile
from qctrun.train.pairs.study_file import load_study
from qctrun.train.pairs.workers import walk_all


@pytest.fixture
def study(fresh: Path) -> StudyFile:
    """Two specimens whose references are rubbish, so that their walks are short."""
    path = make_study(fresh)
    for name in ("A1", "B1"):
        (fresh / name / "reference.nii.gz").write_bytes(b"rubbish")
    return load_study(path)


def silent(_: object) -> None:
    """Whoever does not listen."""


@pytest.mark.parametrize("jobs", [1, 2])
def test_workers_bring_back_what_they_walked(study: StudyFile, jobs: int) -> None:
    said: list[str] = []
    moved: list[float] = []
    found = walk_all(study, study.specimens, Cache(Path("cache")), jobs, said.append, moved.append)
    assert sorted(each.name for each in found) == ["A1", "B1"]
    assert all("reference.nii.gz" in each.failures[0] for each in found)
    assert sorted(said) == sorted(f"refused: {each.failures[0]}" for each in found)
    assert moved[-1] == 3


def test_the_number_of_workers_changes_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of matrices are summed in another order by more threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    before = dict(os.environ)
    for jobs in (1, 2):
        with workers._threads_shared(jobs):
            assert {os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"1"}
            assert os.environ["NUMBA_NUM_THREADS"] == "1"
    assert dict(os.environ) == before


def test_the_first_worker_is_as_deaf_as_all_others() -> None:
    """Else Ctrl-C at a terminal shows its traceback: multiprocessing starts a helper with it, and unblocks signals."""
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    with workers._deaf():
        resource_tracker.ensure_running()
        assert {signal.SIGINT, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_what_the_machine_refuses_stops_all(study: StudyFile) -> None:
    Path("cache").write_bytes(b"a file in the place of the folder")
    sound = load_study(make_study(Path("sound")))
    with pytest.raises(OutputError, match="specimen A1"):
        walk_all(sound, sound.specimens, Cache(Path("cache")), 1, silent, silent)


def test_a_worker_that_is_killed_is_no_silence(study: StudyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    started = workers._started

    def killed(*words: object) -> workers._Worker:
        worker = started(*words)  # type: ignore[arg-type]
        os.kill(worker.process.pid, signal.SIGKILL)
        return worker

    monkeypatch.setattr(workers, "_started", killed)
    with pytest.raises(OutOfMemoryError, match="exit status -9"):
        walk_all(study, study.specimens, Cache(Path("cache")), 2, silent, silent)


def test_errors_survive_the_way_between_processes() -> None:
    for error in (InputError("it", wanted="a", got="b", mend="c"), OutputError("full")):
        again = pickle.loads(pickle.dumps(workers._told(error, Specimen("A1", "A", Path(), Path()))))
        assert type(again) is type(error)
        assert str(again) == f"specimen A1: {error}"
    assert isinstance(workers._told(MemoryError(), Specimen("A1", "A", Path(), Path())), OutOfMemoryError)
    assert "ZeroDivisionError" in str(
        workers._told(ZeroDivisionError("x"), Specimen("A1", "A", Path(), Path()))
    )


def alive(group: int) -> bool:
    """Whether a group of processes still has one."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_the_cache_and_goes_on(fresh: Path, number: signal.Signals) -> None:
    make_study(fresh, (60, 120, 120))
    words = [sys.executable, "-c", RUN, "pairs", "study.toml", "--out", "pairs", "--jobs", "2"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        while not list(Path("pairs").glob(".cache/*/fixed.npz")) and running.poll() is None:
            time.sleep(0.02)
        if number == signal.SIGINT:
            os.killpg(running.pid, number)  # as a terminal sends it: to the workers, too
        else:
            running.send_signal(number)
        _, err = running.communicate(timeout=60)
    while alive(running.pid):  # workers of a killed run end when they find that nobody listens
        time.sleep(0.05)
    assert running.returncode == (-9 if number == signal.SIGKILL else 130), err
    assert "Traceback" not in err
    assert {path.name for path in Path("pairs").iterdir()} == {".cache"}
    assert number == signal.SIGKILL or not list(Path("pairs").rglob("*.part"))
    with Cache(Path("pairs/.cache")).alone():  # the folder is free again
        assert not list(Path("pairs").rglob("*.part"))
