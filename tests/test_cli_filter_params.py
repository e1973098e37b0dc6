"""`qctrun filter --params`: byte for byte what `filter` and then `params` write, and nothing when it fails."""

from pathlib import Path

import numpy as np
import pytest
import scans
from cli_outputs import left_behind
from conftest import Program

from qctrun.runtime import Volume, write
from qctrun.runtime.writing import read_record

RECORDS = ("filter.run.json", "params.run.json")
CPU = ("--device", "cpu", "--threads", "1")


def apart(qctrun: Program, options: tuple[str, ...], measuring: tuple[str, ...]) -> tuple[Path, str]:
    """What the two verbs write one after the other, moved aside, and the table they print."""
    assert qctrun("filter", "scan", *CPU, *options).code == 0
    code, out, err = qctrun("params", *CPU, *options[2:], *measuring)
    assert code == 0, err
    return Path("qctrun-out").rename("apart"), out


@pytest.mark.parametrize(
    ("options", "measuring"),
    [
        ((), ("--thresholds", "200,225", "--diameter", "2")),
        (("--mask", "scan/mask.nii.gz"), ("--inside", "--step", "hard", "--json")),
        ((), ("--labels", "images/labels.nii.gz", "--label-ids", "20,21", "--diameter", "3")),
    ],
)
def test_the_same_bytes_as_the_two_commands(
    here: Path, qctrun: Program, options: tuple[str, ...], measuring: tuple[str, ...]
) -> None:
    write_labels(here)
    folder, printed = apart(qctrun, options, measuring)
    code, out, err = qctrun("filter", "scan", "--params", *CPU, *options, *measuring)
    assert code == 0, err
    assert out == printed
    together = here / "qctrun-out"
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in together.iterdir()} == names
    for name in names - set(RECORDS):
        assert (together / name).read_bytes() == (folder / name).read_bytes(), name
    for name in RECORDS:
        assert_same_record(read_record(together / name), read_record(folder / name))


def test_a_nominal_line_and_a_material_are_told_by_both(here: Path, qctrun: Program) -> None:
    (here / "scan" / "calibration.json").unlink()
    folder, printed = apart(qctrun, (), ("--format", "mha"))
    code, out, err = qctrun("filter", "scan", "--params", *CPU)
    assert (code, out) == (0, printed), err
    assert err.count("NOMINAL") == 1
    for name in ("params.csv", "scan_desc-nnsp_ct_SDmap.json"):
        assert (here / "qctrun-out" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    "words", [("--thresholds", "225"), ("--inside",), ("--json",), ("--labels", "images/labels.nii.gz")]
)
def test_options_of_measuring_need_params(here: Path, qctrun: Program, words: tuple[str, ...]) -> None:
    code, _, err = qctrun("filter", "scan", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{words[0]} is about measuring and needs --params" in err
    assert not left_behind(here)


def test_options_that_lack_another_one_are_refused_before_any_work(here: Path, qctrun: Program) -> None:
    assert "needs --labels" in qctrun("filter", "scan", "--params", "--label-ids", "2").err
    (here / "scan" / "mask.nii.gz").unlink()
    code, _, err = qctrun("filter", "scan", "--params", "--inside")
    assert code == 2 and "--inside needs --mask FILE or --labels FILE" in err
    assert not left_behind(here)


def test_overwriting_replaces_the_whole_of_both_earlier_runs(here: Path, qctrun: Program) -> None:
    words = ("filter", "scan", "--params", *CPU)
    assert qctrun(*words, "--format", "mha", "--thresholds", "200").code == 0
    code, _, err = qctrun(*words)
    assert code == 2 and "--overwrite" in err
    code, _, err = qctrun(*words, "--overwrite")
    assert code == 0, err
    names = {path.name for path in (here / "qctrun-out").iterdir()}
    assert not [name for name in names if name.endswith(".mha") or "thr200" in name]
    assert set(RECORDS) < names and "scan_desc-nnsp_ct.nii.gz" in names


def test_params_after_it_finds_what_it_left(here: Path, qctrun: Program) -> None:
    assert qctrun("filter", "scan", "--params", *CPU).code == 0
    table = (here / "qctrun-out" / "params.csv").read_bytes()
    assert qctrun("params", *CPU, "--overwrite").code == 0
    assert (here / "qctrun-out" / "params.csv").read_bytes() == table


@pytest.mark.parametrize(
    "place",
    [
        "qctrun.cli.filter_params.read_regions",
        "qctrun.runtime.trip.local_maps",
        "qctrun.cli.filter_params.table_rows",
        "qctrun.runtime.writing.csv_text",
    ],
)
def test_a_stop_in_between_leaves_nothing(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, stop)
    assert qctrun("filter", "scan", "--params", *CPU).code == 130
    assert not left_behind(here)


def test_a_folder_that_cannot_be_written_is_said_before_any_work(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qctrun.cli.filter_params.open_network", lambda *_: pytest.fail("opened"))
    (here / "images").mkdir(exist_ok=True)
    (here / "images" / "file").write_text("no folder")
    code, out, err = qctrun("filter", "scan", "--params", "-o", "images/file/out")
    assert (code, out, err.splitlines()[-1][:14]) == (7, "", "qctrun: error:")
    assert not left_behind(here)


def write_labels(here: Path) -> None:
    labels = np.zeros(scans.SIZE, np.float32)
    labels[:, 15:30, 15:22], labels[:, 15:30, 22:30], labels[:3, :3, :3] = 20, 21, 7
    write(Volume(labels, scans.grid(), "1"), here / "images" / "labels.nii.gz")


def assert_same_record(one: dict, other: dict) -> None:
    """But for what differs by nature: when, how long, how much memory, and what was typed."""
    for record in (one, other):
        for name in ("started", "seconds", "peak_memory_mb", "argv", "versions"):
            record.pop(name)
        record["inputs"].sort(key=lambda source: source["path"])
    assert one == other
