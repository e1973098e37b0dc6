"""Links, strange and long names, inputs that must stay as they are, and runs that meet in one folder."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scans
from conftest import Program
from dicom_series import write_series

from qctrun.runtime.errors import InputError, OutputError, OutputExistsError
from qctrun.runtime.reading import describe, find_beside, list_series, read
from qctrun.runtime.writing import write
from qctrun.runtime.writing.files import Staging, replace_file

VALUES = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
ODD = {
    "newline": "line\nbreak",
    "emoji": "🦴 Wirbel 椎骨",
    "escape": "bell\a\x1b[31m",
    "quotes": "a'b\"c;$(touch pwned)`x`",
    "dash": "--overwrite",
    "dots": "...",
    "percent": "%s%03d{}",
}


def tree(folder):
    """Everything in a folder: kind, times and contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[path.relative_to(folder)] = path.lstat().st_mode, path.lstat().st_mtime_ns, content
    return found


def test_links_to_slices_and_to_the_folder_are_followed(tmp_path):
    paths = write_series(tmp_path / "store", VALUES)
    (tmp_path / "scan").mkdir()
    for number, path in enumerate(paths):
        (tmp_path / "scan" / str(number)).symlink_to(path)
    (tmp_path / "link").symlink_to("scan")
    for path in (tmp_path / "scan", tmp_path / "link"):
        np.testing.assert_array_equal(read(path, calibration=(1.0, 0.0)).array, VALUES)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("nowhere", "leads nowhere"),
        ("loop", "leads nowhere"),
        ("../scan", "to a folder"),
        ("..", "to a folder"),
        ("/", "to a folder"),
    ],
)
def test_links_behind_which_slices_would_be_missing_are_refused(tmp_path, target, kind):
    write_series(tmp_path / "scan", VALUES)
    (tmp_path / "scan" / "loop").symlink_to(target)
    for look in (read, describe, list_series, find_beside):
        with pytest.raises(
            InputError, match=f"scan/loop: wanted files of the scan.*a link (that|to).*{kind[-6:]}"
        ):
            look(tmp_path / "scan")


def test_a_path_that_is_a_loop_or_leads_nowhere_is_bad_input(tmp_path):
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    (tmp_path / "gone.nii").symlink_to("nowhere.nii")
    for name in ("loop.nii", "gone.nii"):
        with pytest.raises(InputError, match=rf"{name}: (no such file|cannot be read)"):
            read(tmp_path / name, unit="HU", calibration=(1.0, 0.0))


def test_pipes_and_devices_in_a_scan_are_no_files_of_it(tmp_path):
    write_series(tmp_path / "scan", VALUES)
    os.mkfifo(tmp_path / "scan" / "pipe.dcm")  # opening it would wait for ever
    np.testing.assert_array_equal(read(tmp_path / "scan", calibration=(1.0, 0.0)).array, VALUES)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_an_output_that_is_a_link_is_replaced_and_never_written_through(tmp_path, overwrite, there):
    victim = tmp_path / "victim"
    if there:
        victim.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.run.json").symlink_to(victim)
    if not overwrite:
        with pytest.raises(OutputExistsError), Staging(out, ["a.run.json"]):
            pytest.fail("it went on to work")
        assert (out / "a.run.json").is_symlink()
    else:
        with Staging(out, ["a.run.json"], overwrite=True) as staging:
            staging.add_text("a.run.json", "new")
            staging.commit()
        assert not (out / "a.run.json").is_symlink()
        assert (out / "a.run.json").read_text() == "new"
    assert (victim.read_text() == "precious") if there else not victim.exists()


def test_a_checkpoint_is_not_written_through_a_link_that_waits_for_it(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".a.pt.part").symlink_to("victim")
    replace_file(tmp_path / "a.pt", b"new")
    assert ((tmp_path / "a.pt").read_bytes(), (tmp_path / "victim").read_text()) == (b"new", "precious")


def test_an_output_folder_may_be_a_link_to_one_and_to_nothing_else(tmp_path):
    (tmp_path / "true").mkdir()
    (tmp_path / "link").symlink_to("true")
    write(scans.density((4, 5, 6)), tmp_path / "link" / "a.nii.gz")
    assert (tmp_path / "true" / "a.nii.gz").is_file()
    for name, target in (("gone", "nowhere"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(OutputError):
            write(scans.density((4, 5, 6)), tmp_path / name / "a.nii.gz")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("length", [256, 5000])
@pytest.mark.parametrize("parts", [1, 40])
def test_paths_that_are_too_long_are_one_line(fresh: Path, qctrun: Program, length: int, parts: int) -> None:
    image = write(scans.density(), fresh / "a.nii.gz")
    name = "/".join(["d" * (length // parts)] * parts) if parts > 1 else "d" * length
    if len(name) < 4096 and parts > 1:
        name = "/".join([name] * 20)
    for words, code in (
        (("info", name), 3),
        (("params", name), 3),
        (("params", image, "--mask", name), 3),
        (("params", image, "--out", name), 7),
    ):
        said = qctrun(*words)
        assert said.code == code, said
        assert len(said.err.splitlines()[-1:]) == 1 and "Traceback" not in said.err
        assert "unexpected" not in said.err


def test_outputs_whose_names_are_too_long_are_seen_before_any_work(fresh: Path, qctrun: Program) -> None:
    image = write(scans.density(), fresh / f"{'a' * 240}.nii.gz")
    said = qctrun("params", image, "--out", "out", "--thresholds", "200")
    assert (said.code, (fresh / "out").exists()) == (7, False)
    assert "choose a shorter name" in said.err


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_odd_names_are_read_written_and_said_in_single_lines(fresh: Path, qctrun: Program, name: str) -> None:
    place = fresh / name
    scan = scans.make_scan(place / name)
    before = tree(place)
    said = qctrun("params", scan, "--out", fresh / "out" / name, "--thresholds", "200", "--material", "HA")
    assert said.code == 0, said.err
    assert all(line.startswith("qctrun: ") and line.isprintable() for line in said.err.splitlines())
    record = json.loads((fresh / "out" / name / "params.run.json").read_text("utf-8"))
    assert record["inputs"][0]["path"] == str(scan)
    for output in record["outputs"]:
        file = fresh / "out" / name / output["path"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == output["sha256"]
    (fresh / "out" / name / "params.csv").read_text("utf-8")
    said = qctrun("info", scan)
    assert said.code == 0 and all(line.isprintable() for line in said.out.splitlines())
    assert json.loads(qctrun("info", scan, "--json").out)["path"] == str(scan)
    said = qctrun("params", scan / name, "--out", "other")
    assert said.code == 3 and all(line.isprintable() for line in said.err.splitlines())
    assert tree(place) == before
    assert not list(fresh.rglob("pwned"))


def test_names_that_are_not_utf8_are_read_where_no_library_stumbles_and_else_refused(
    fresh: Path, qctrun: Program
) -> None:
    """ITK ends the process when it is given such a name."""
    name = os.fsdecode(b"sp\xffine\xfe")
    scans.make_series(fresh / name)
    said = qctrun("params", fresh / name, "--out", "out", "--calibration", "0.8,0", "--thresholds", "200")
    assert said.code == 0, said.err
    record = json.loads((fresh / "out" / "params.run.json").read_text("utf-8"))
    assert record["inputs"][0]["path"] == str(fresh / name)
    assert all((fresh / "out" / output["path"]).is_file() for output in record["outputs"])
    said = qctrun("params", fresh / name, "--out", fresh / name, "--calibration", "0.8,0")
    assert (said.code, "a path that is not UTF-8" in said.err) == (7, True)
    for suffix in (".nii.gz", ".mha", ".nrrd"):
        write(scans.density(), fresh / f"a{suffix}").rename(fresh / name / f"a{suffix}")
        said = qctrun(
            "params", fresh / name / f"a{suffix}", "--out", "other", "--unit", "mg/cm3", "--material", "HA"
        )
        assert (said.code, "a path in UTF-8" in said.err) == (3, True), said.err
        (fresh / "a.json").unlink()


@pytest.mark.parametrize("verb", ["info", "params", "filter"])
def test_no_verb_touches_its_input(fresh: Path, qctrun: Program, verb: str) -> None:
    scans.make_scan(fresh / "in" / "scan")
    write(scans.density(), fresh / "in" / "images" / "a.nii.gz")
    before = tree(fresh / "in")
    for source in (fresh / "in" / "scan", fresh / "in" / "images" / "a.nii.gz"):
        out = () if verb == "info" else ("--out", fresh / f"out-{source.name}")
        said = qctrun(verb, source, *out)
        assert said.code == 0, said.err
    assert tree(fresh / "in") == before


CALL = "import sys; from qctrun.cli.main import main; sys.exit(main(sys.argv[1:]))"


def at_once(folder, *options):
    """Two runs of different inputs into one folder, started together; their exit codes."""
    runs = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                CALL,
                "params",
                f"{name}.nii.gz",
                "--out",
                "out",
                "--thresholds",
                "200",
                *options,
            ],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name in ("first", "second")
    ]
    said = [run.communicate(timeout=100)[1] for run in runs]
    assert not any("Traceback" in words for words in said)
    return sorted(run.returncode for run in runs)


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_two_runs_into_one_folder_are_never_mixed(tmp_path, options):
    for name, factor in (("first", 1.0), ("second", 0.5)):
        volume = scans.density()
        write(volume.with_array(volume.array * factor), tmp_path / f"{name}.nii.gz")
    codes = at_once(tmp_path, *options)
    assert codes == ([0, 0] if options else [0, 2])
    out = tmp_path / "out"
    record = json.loads((out / "params.run.json").read_text())
    listed = {output["path"]: output["sha256"] for output in record["outputs"]}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    assert found.pop("params.run.json")
    assert found.items() >= listed.items()
    winner = Path(record["inputs"][0]["path"]).name.removesuffix(".nii.gz")
    loser = {"first": "second", "second": "first"}[winner]
    assert winner in (out / "params.csv").read_text()
    assert not [name for name in found if loser in name or name.startswith(".")]


def test_commits_that_overwrite_at_the_same_time_leave_one_whole_run(tmp_path):
    """Many rounds of two runs whose moves would interleave, were they let."""
    from concurrent.futures import ThreadPoolExecutor

    def one(who):
        names = [*(f"{k}.txt" for k in range(20)), "a.run.json"]
        with Staging(tmp_path / "out", names, overwrite=True) as staging:
            for name in names:
                staging.add_text(name, who)
            staging.commit()

    for _ in range(8):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, ("first", "second")))
        assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1
