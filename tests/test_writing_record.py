"""The run record and the order in which a run's files appear."""

import hashlib
import json
from pathlib import Path

import pytest
import scans

from qctrun.runtime.errors import InputError, OutputError, OutputExistsError
from qctrun.runtime.json_files import json_text
from qctrun.runtime.volume import Volume
from qctrun.runtime.writing import RunRecord, Staging, read_record, stage_image


def test_a_record_names_what_was_read_and_written(tmp_path: Path) -> None:
    mask = tmp_path / "mask.bin"
    mask.write_bytes(b"mask")
    record = RunRecord("filter", ["qctrun", "filter"], {"thresholds": (200.0,), "out": tmp_path})
    with record.stage("read"):
        record.add_input("mask", mask)
    with Staging(tmp_path / "out", ["a.json", "a.mha", "filter.run.json"]) as staging:
        image, _ = stage_image(staging, scans.density(), "a.mha")
        record.add_output("image", "a.mha", image, scans.grid())
        record.add_to(staging, "filter.run.json")
        staging.commit()
    found = read_record(tmp_path / "out" / "filter.run.json")
    assert found["schema"] == "qctrun/run/1"
    assert found["options"] == {"thresholds": [200.0], "out": str(tmp_path)}
    digest = hashlib.sha256(b"mask").hexdigest()
    assert found["inputs"] == [{"role": "mask", "path": str(mask), "sha256": digest}]
    (output,) = found["outputs"]
    assert output["sha256"] == hashlib.sha256((tmp_path / "out" / "a.mha").read_bytes()).hexdigest()
    assert output["geometry"]["spacing_zyx_mm"] == list(scans.SPACING_MM)
    assert {"qctrun", "python", "numpy", "SimpleITK"} <= found["versions"].keys()
    assert found["seconds"].keys() == {"read", "total"}
    assert found["peak_memory_mb"] > 10
    assert found["exit_code"] == 0


def test_a_record_of_a_volume_keeps_its_sources(tmp_path: Path) -> None:
    record = RunRecord("params", [], {})
    source = {"path": str(tmp_path), "sha256": "00", "files": 3, "format": "dicom"}
    record.add_volume(Volume(scans.density().array, scans.grid(), "HU", provenance={"inputs": [source]}))
    (found,) = record.inputs
    assert found == {**source, "role": "image", "geometry": found["geometry"]}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "other/1"}'])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "filter.run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"filter\.run\.json.*run record"):
        read_record(path)


def test_files_appear_together_and_the_seal_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        moved.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    with Staging(tmp_path / "out", ["b.csv", "a.json", "z.run.json"]) as staging:
        for name in ("z.run.json", "a.json", "b.csv"):
            staging.add_text(name, name)
        assert all(path.name.startswith(".qctrun-") for path in (tmp_path / "out").iterdir())
        staging.commit()
    assert moved == ["b.csv", "a.json", "z.run.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(moved)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_a_move_that_fails_takes_back_the_others(
    tmp_path: Path, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if Path(target).name == "b":
            raise kind
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with (
        pytest.raises((KeyboardInterrupt, OutputError)),
        Staging(tmp_path / "new" / "out", ["a", "b", "seal"]) as staging,
    ):
        for name in staging.names:
            staging.add_text(name, name)
        staging.commit()
    assert not (tmp_path / "new").exists()


def test_an_old_seal_never_stands_beside_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seal").write_text("old")

    def look(self: Path, target: Path) -> Path:
        assert not (tmp_path / "seal").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", look)
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path, ["a", "seal"], overwrite=True) as staging:
        staging.add_text("a", "new")
        staging.add_text("seal", "new")
        staging.commit()
    assert not list(tmp_path.iterdir())


def earlier_run(folder: Path, *listed: object, schema: str = "qctrun/run/1") -> None:
    """What an earlier run has left: a record that lists outputs, and these outputs."""
    folder.mkdir()
    (folder / "mine.mha").write_text("mine")
    (folder / "a.json").write_text("old")
    (folder / "a.mha").write_text("old")
    outputs = [{"path": path} for path in listed]
    (folder / "filter.run.json").write_text(json.dumps({"schema": schema, "outputs": outputs}))


def run_again(folder: Path, **words: object) -> tuple[str, ...]:
    names = ["a.json", "a.nrrd", "filter.run.json"]
    with Staging(folder, names, overwrite=True, **words) as staging:  # type: ignore[arg-type]
        for name in names:
            staging.add_text(name, "new")
        assert (folder / "a.mha").read_text() == "old"
        return staging.commit()


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_overwriting_takes_away_what_the_old_record_lists(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    earlier_run(folder, "a.mha", "a.json", "gone.mha")
    assert run_again(folder) == ("a.mha",)
    assert texts(folder) == dict.fromkeys(("a.json", "a.nrrd", "filter.run.json"), "new") | {
        "mine.mha": "mine"
    }


@pytest.mark.parametrize("listed", ["../outside.mha", "sub/inside.mha", "..", ".", "", None, 3])
def test_overwriting_removes_nothing_that_a_record_has_no_right_to(tmp_path: Path, listed: object) -> None:
    folder = tmp_path / "out"
    earlier_run(folder, listed, str(tmp_path / "outside.mha"))
    (folder / "sub").mkdir()
    kept = [tmp_path / "outside.mha", folder / "sub" / "inside.mha", folder / "a.mha"]
    for path in kept:
        path.write_text("old")
    assert run_again(folder) == ()
    assert all(path.read_text() == "old" for path in kept)


@pytest.mark.parametrize("text", ["", "[]", '{"outputs": [{"path": "a.mha"}]}', '{"schema": "qctrun/run/1"}'])
def test_overwriting_something_that_is_no_record_removes_nothing(tmp_path: Path, text: str) -> None:
    earlier_run(tmp_path / "out", "a.mha")
    (tmp_path / "out" / "filter.run.json").write_text(text)
    assert run_again(tmp_path / "out") == ()
    assert (tmp_path / "out" / "a.mha").exists()


def test_a_run_that_is_not_finished_removes_nothing(tmp_path: Path) -> None:
    earlier_run(tmp_path / "out", "a.mha")
    before = texts(tmp_path / "out")
    names = ["a.json", "a.nrrd", "filter.run.json"]
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path / "out", names, overwrite=True) as staging:
        staging.add_text("a.json", "new")
        raise KeyboardInterrupt
    assert texts(tmp_path / "out") == before


def test_what_a_run_reads_is_never_replaced(tmp_path: Path) -> None:
    earlier_run(tmp_path / "out", "a.mha", "a.json")
    before = texts(tmp_path / "out")
    for name in ("a.mha", "a.json"):
        with pytest.raises(OutputExistsError, match=f"{name}.*another folder"):
            run_again(tmp_path / "out", inputs=[tmp_path / "out" / name])
    assert texts(tmp_path / "out") == before
    assert run_again(tmp_path / "out", inputs=[tmp_path / "out" / "mine.mha", tmp_path / "nowhere"])


def test_a_folder_that_others_use_meanwhile_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path / "out", ["a"]) as staging:
        (staging.folder / "theirs").touch()
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_json_has_no_nan() -> None:
    assert json.loads(json_text({"a": [float("nan"), (1, Path("b"))]})) == {"a": [None, [1, "b"]]}


def test_of_two_runs_at_once_one_wins_and_the_other_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    names = ["a.json", "a.mha", "filter.run.json"]
    with Staging(folder, names) as first, Staging(folder, names) as second:
        for staging, text in ((first, "first"), (second, "second")):
            for name in names:
                staging.add_text(name, text)
        first.commit()
        with pytest.raises(OutputExistsError, match=r"a\.json.*meanwhile"):
            second.commit()
    assert texts(folder) == dict.fromkeys(names, "first")


def test_two_runs_at_once_cannot_share_a_record(tmp_path: Path) -> None:
    folder, seal = tmp_path / "out", "filter.run.json"
    with Staging(folder, ["b.mha", seal]) as second:
        with Staging(folder, ["a.mha", seal]) as first:
            for staging, text in ((first, "first"), (second, "second")):
                for name in staging.names:
                    staging.add_text(name, text)
            first.commit()
        with pytest.raises(OutputExistsError, match=r"filter\.run\.json"):
            second.commit()
    assert texts(folder) == {"a.mha": "first", seal: "first"}


def test_a_record_says_how_the_numbers_were_made(tmp_path: Path) -> None:
    line = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": "rods", "nominal": False}
    scan = {"kvp": 120.0, "kernel": "B40", "series_uid": "1.2.3", "padding_voxels": 7, "set_aside": {"SR": 1}}
    model = {"model": "nnsp", "version": "1", "sha256": "00", "filtered_fraction": 0.5, "margin_mm": 5.0}
    known = {"calibration": line, "calibration_file": "scan/calibration.json", "scan": scan, "filter": model}
    record = RunRecord("params", [], {})
    record.add_volume(Volume(scans.density().array, scans.grid(), "mg/cm3", "HA", known))
    found = json.loads(json_text(record.as_dict()))
    assert found["calibration"] == {**line, "file": str(Path("scan/calibration.json").resolve())}
    assert (found["scan"], found["filter"]) == (scan, model)


def test_an_input_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mask.nii").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"mask\.nii: cannot be read: Permission denied"):
        RunRecord("params", [], {}).add_input("mask", tmp_path / "mask.nii")


def test_a_run_goes_on_when_the_one_that_made_the_folder_is_stopped(tmp_path: Path) -> None:
    first = Staging(tmp_path / "new" / "out", ["a", "seal"])
    first.__enter__()
    with Staging(tmp_path / "new" / "out", ["b", "seal"]) as second:
        first.__exit__(None, None, None)
        assert not (tmp_path / "new").exists()
        for name in second.names:
            second.add_text(name, name)
        second.commit()
    assert texts(tmp_path / "new" / "out") == {"b": "b", "seal": "seal"}
