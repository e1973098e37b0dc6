"""The house of benchmarks at tiny sizes: turns are fair, outputs are compared, files say on what they were made."""

import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qctrun.runtime import Volume, local_maps

HOUSE = Path(__file__).parent.parent / "benchmarks"
RESULTS = sorted((HOUSE / "results").glob("*.json"))
WITH_MACHINE = {"race", "settings", "rows", "not_run", "processor", "cores", "instruction_sets", "versions"}


@pytest.fixture
def racing(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module("racing", monkeypatch)


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of the house, imported as its neighbours import it."""
    monkeypatch.syspath_prepend(HOUSE)
    return importlib.import_module(name)


def script(name: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """A script of the house, run as a person would."""
    path = os.pathsep.join((str(HOUSE), os.environ.get("PYTHONPATH", "")))
    return subprocess.run(
        [sys.executable, str(HOUSE / name), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_contenders_take_turns_in_changing_order(racing: Any) -> None:
    calls: list[str] = []
    seconds = racing.race({name: lambda name=name: calls.append(name) for name in "abc"}, 12, warm=2)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys("abc", 12)
    assert calls[:6] == list("aabbcc")
    rounds = [tuple(calls[i : i + 3]) for i in range(6, len(calls), 3)]
    assert all(sorted(turn) == list("abc") for turn in rounds)
    assert len(set(rounds)) > 2


def test_ratios_say_how_many_times_as_long_as_ours(racing: Any) -> None:
    found = racing.summary({"ours": [1.0, 2.0, 9.0], "other": [5.0, 3.0, 4.0]}, "ours")
    assert found["ours"] == {"median_s": 2.0, "least_s": 1.0, "ratio": 1.0, "rounds": 3}
    assert found["other"] == {"median_s": 4.0, "least_s": 3.0, "ratio": 2.0, "rounds": 3}


def test_differences_are_relative_and_leave_out_what_has_no_value(racing: Any) -> None:
    expected = np.array([4.0, -8.0, np.nan])
    assert racing.difference(np.array([4.0, -7.0, 5.0]), expected) == 0.125
    with pytest.raises(AssertionError, match="is not"):
        racing.difference(np.zeros(2), expected)
    with pytest.raises(AssertionError, match="no voxel"):
        racing.difference(np.full(3, np.nan), expected)


def test_memory_is_that_of_a_process_of_its_own(racing: Any, tmp_path: Path) -> None:
    ballast = np.ones(50_000_000)  # 400 MB, which the child must not be charged with
    child = tmp_path / "race.py"
    child.write_text(
        "import sys, numpy, racing; racing.tell_memory(lambda: numpy.ones(int(sys.argv[1]), numpy.int8))"
    )
    small, large = (racing.peak_memory_mb(child, size) for size in ("1", "100000000"))
    assert small["own_mb"] < 10
    assert 95 < large["own_mb"] < 130
    assert large["own_mb"] < large["peak_mb"] < ballast.nbytes / 1e6


def test_a_file_says_machine_and_versions_but_no_names(racing: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one.json"
    racing.write(
        path, "one", {"size": (1, 2, 3)}, [{"scene": "s", "name": "n"}], {"peer": "is not installed"}
    )
    text = path.read_text()
    report = json.loads(text)
    assert set(report) >= WITH_MACHINE
    assert (report["race"], report["not_run"]) == ("one", {"peer": "is not installed"})
    assert report["cores"] >= 1
    assert {"qctrun", "numpy", "numba"} <= set(report["versions"])
    assert platform.node() not in text
    assert str(HOUSE.parent) not in text


def test_a_table_names_who_did_not_run(racing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"scene": "s", "name": "a", "median_s": 1.5, "ratio": 1.0}, {"scene": "s", "name": "b"}]
    racing.print_table(rows, {"c": "is not installed"})
    said = capsys.readouterr().out
    assert said.splitlines()[1:] == [
        "s",
        "         median s       ratio",
        "  a           1.5        1.00",
        "  b                          ",
        "  not run: c: is not installed",
    ]


@pytest.mark.slow
def test_filters_are_compared_in_what_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = module("filter_cpu", monkeypatch)
    monkeypatch.setattr(filters, "_memory", lambda *words: {})
    monkeypatch.delitem(filters.CONTENDERS, "torch compiled")  # compiling takes half a minute

    def twice(threads: int) -> Any:
        return lambda volume: 2 * volume

    def absent(threads: int) -> Any:
        raise ImportError("no such peer")

    monkeypatch.setitem(filters.CONTENDERS, "wrong", twice)
    monkeypatch.setitem(filters.CONTENDERS, "absent", absent)
    rows, not_run = filters.whole((20, 40, 40), 1, 1)
    differences = {row["name"]: row["difference"] for row in rows}
    assert not_run["absent"] == "no such peer"
    assert differences.pop("wrong") > 0.1
    assert max(differences.values()) < 1e-5
    assert len(differences) > 2


@pytest.mark.slow
def test_maps_are_compared_in_what_they_sum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = module("maps_cpu", monkeypatch)
    path = tmp_path / "maps_cpu.json"
    monkeypatch.setattr(maps, "peak_memory_mb", lambda *words: {})
    monkeypatch.setattr(maps, "SMALL", (14, 30, 30))
    monkeypatch.setattr(maps, "WHOLE", (*maps.WHOLE, "wrong"))
    monkeypatch.setitem(maps.CONTENDERS, "wrong", lambda *words: np.square)
    words = ["--size=16,34,34", "--rounds=1", "--diameter=3", "--thresholds=200", "--threads=1"]
    monkeypatch.setattr(sys, "argv", ["maps_cpu.py", *words, f"--json={path}"])
    maps.main()
    report = json.loads(path.read_text())
    assert set(report) >= WITH_MACHINE
    differences = {row["name"]: row["difference"] for row in report["rows"]}
    assert differences.pop("wrong") > 0.1
    assert max(differences.values()) < 1e-3
    assert len(differences) > 4


@pytest.mark.slow
def test_a_point_of_a_curve_is_raced(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = module("scaling", monkeypatch)
    rows = scaling.measured(scaling.Point("volume", (14, 30, 30), thresholds=2), 2, 5.0)
    assert [row["name"] for row in rows] == ["maps", "scipy fft, shared sphere", "filter"]
    assert all(row["median_s"] > 0 and row["voxels"] == 14 * 30 * 30 for row in rows)


def test_the_curves_are_the_promised_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = module("scaling", monkeypatch)
    points = list(scaling.points(False, 2))
    by = {scene: [p for p in points if p.scene == scene] for scene in ("volume", "diameter", "thresholds")}
    assert {(64, 64, 64), (128, 512, 512), (256, 512, 512)} <= {p.size for p in by["volume"]}
    assert [p.diameter_mm for p in by["diameter"]] == [2, 3, 4.3, 6, 8, 10]
    assert {p.thresholds for p in by["thresholds"]} >= {1, 9}
    assert {1, 2} <= {p.threads for p in points if p.scene == "threads"}


@pytest.mark.slow
def test_the_stages_of_both_verbs_are_timed(tmp_path: Path) -> None:
    done = script("run.py", "--quick", "command", "--json", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "command.json").read_text())["rows"]
    assert {"import click", "qctrun --help", "qctrun --version"} <= {row["name"] for row in rows}
    for verb, stages in (("filter", {"start", "model", "read", "filter", "write"}), ("params", {"maps"})):
        for scene in {row["scene"] for row in rows if row["scene"].startswith(verb)}:
            named = {row["name"]: row["median_s"] for row in rows if row["scene"] == scene}
            assert stages < set(named)
            whole = named.pop("whole command")
            assert sum(named.values()) == pytest.approx(whole, rel=0.01)
    assert "command, start-up" in done.stdout


def test_without_a_gpu_its_race_is_named_with_the_reason(racing: Any, tmp_path: Path) -> None:
    if racing.gpu():
        pytest.skip("there is a GPU")
    alone = script("gpu.py")
    assert (alone.returncode, alone.stdout, len(alone.stderr.splitlines())) == (5, "", 1)
    done = script("run.py", "--quick", "gpu", "--json", tmp_path)
    assert done.returncode == 0
    assert "gpu not run: no CUDA device that works" in done.stdout


class Pretended:
    """A trip, its stream and an event in one: steps are counted, and each mark is 10 ms after the last."""

    def __init__(self) -> None:
        self.stream, self.calls = self, []
        self.at = 0

    def __getattr__(self, step: str) -> Any:
        return lambda: self.calls.append(step)

    def record(self, stream: "Pretended") -> None:
        self.at = stream.at = stream.at + 10

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: "Pretended") -> float:
        return later.at - self.at


def test_steps_are_timed_apart_and_held_against_the_goals(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import cuda

    gpu, trip = module("gpu", monkeypatch), Pretended()
    monkeypatch.setattr(gpu, "_trip", lambda shape: trip)
    monkeypatch.setattr(cuda, "event", Pretended)
    rows, verdicts = gpu.trip((8, 8, 8), 4)
    assert trip.calls == list(gpu.STEPS) * 7
    assert [row["median_s"] for row in rows[:4]] == pytest.approx([0.01] * 4)
    assert rows[4]["name"] == "whole trip"
    assert all("met" in verdict for verdict in verdicts)
    monkeypatch.setattr(gpu, "GOAL_S", 0.0)
    assert ["MISSED" in verdict for verdict in gpu.trip((8, 8, 8), 2)[1]] == [True, False]


def test_numbers_of_the_gpu_are_held_against_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = module("gpu", monkeypatch)

    def wrong(volume: Volume, *words: Any, device: str) -> Any:
        maps = local_maps(volume, *words, device="cpu")
        if device == "cuda":
            maps["SD"].array.setflags(write=True)
            maps["SD"].array[10, 20, 20] *= 1.5
        return maps

    monkeypatch.setattr(gpu, "CHECKED", (20, 40, 40))
    monkeypatch.setattr(gpu, "local_maps", wrong)
    rows = {row["name"]: row for row in gpu.checked_maps()}
    assert (rows["BMD"]["difference"], rows["BMD"]["voxels_that_differ"]) == (0, 0)
    assert rows["SD"]["difference"] > 0.3
    assert rows["SD"]["voxels_that_differ"] == 1


@pytest.mark.gpu
def test_the_gpu_is_checked_and_timed(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    done = script("gpu.py", "--size", "32,96,96", "--rounds", 3, "--json", path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert {"upload", "filter", "maps", "download", "whole trip"} <= {row["name"] for row in rows}


def test_a_race_that_fails_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = module("run", monkeypatch)
    (tmp_path / "gpu.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "--json", str(tmp_path), "gpu"])
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # a child needs a real file
    assert run.main() == 1
    assert "gpu not run: failed with exit code 3" in capsys.readouterr().out


def test_an_unknown_race_is_refused() -> None:
    done = script("run.py", "flter")
    assert done.returncode == 2
    assert "got flter" in done.stderr


def test_the_picture_shows_bars_and_curves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = module("figure", monkeypatch)
    bars = [
        {"scene": "s", "name": n, "median_s": r, "ratio": r} for n, r in (("qctrun", 1.0), ("peer", 40.0))
    ]
    places = {"voxels": 10, "diameter_mm": 4.3, "thresholds": 3}
    curves = [
        {"by": by, "name": name, "median_s": 0.1 * step, **{key: step * n for key, n in places.items()}}
        for by, (_, _, names) in figure.CURVES.items()
        for name in names
        for step in (1, 2)
    ]
    sizes = []
    for reports in ({}, {"maps_cpu": {"rows": bars}, "scaling": {"rows": curves}}):
        figure.draw(reports, tmp_path / "picture.png") if reports else None
        sizes.append((tmp_path / "picture.png").exists())
    assert sizes == [False, True]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_published_results_say_on_what_they_were_measured(path: Path) -> None:
    report = json.loads(path.read_text())
    assert {"machine", "processor"} & set(report)
    if "race" in report:
        assert set(report) >= WITH_MACHINE
        assert report["race"] == path.stem
