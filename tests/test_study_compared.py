"""Settings of the compared filters: chosen once, kept, and begun anew for other scans."""

import json

import numpy as np
import pytest

from qctrun.runtime.errors import InputError, OutputError
from qctrun.train.insilico import random_field_phantom
from qctrun.train.study import bm4d, compared
from qctrun.train.study.compared import chosen_filters
from qctrun.train.study.judge import Sample
from qctrun.train.study.subjects import Subject


@pytest.fixture(scope="module")
def samples():
    phantom = random_field_phantom((25, 48, 48), seed=3)
    return [Sample(Subject("a", "a", lambda: phantom), np.array([0]))]


def chosen(samples, record, said, names=("Gaussian",), currents=(100.0,)):
    return chosen_filters(samples, currents, names, record, said.append)


def test_a_choice_is_kept_and_not_made_twice(samples, tmp_path, monkeypatch):
    record, said = tmp_path / "work" / "filters.json", []
    first = chosen(samples, record, said, currents=(100.0, 360.0))
    assert [len(first.filters[mas]) for mas in (100.0, 360.0)] == [1, 1]
    assert len(said) == 2
    kept = json.loads(record.read_text())["filters"]["Gaussian"]
    for mas in ("100", "360"):
        scores = {json.dumps(one["setting"]): one["score"] for one in kept[mas]["tried"]}
        assert scores[json.dumps(kept[mas]["setting"])] == min(scores.values())

    def never(*_):
        raise AssertionError("chosen again")

    monkeypatch.setattr(compared, "tuned", never)
    again = chosen(samples, record, said, currents=(100.0, 360.0))
    assert len(said) == 2
    scan = samples[0].subject.phantom.scan(100.0, 1)
    for mas in (100.0, 360.0):
        (one,), (other,) = first.filters[mas], again.filters[mas]
        assert (one.name, one.version) == (other.name, other.version)
        np.testing.assert_array_equal(one.apply(scan), other.apply(scan))


@pytest.mark.parametrize("changed", [{"simulator": "0"}, {"subjects": ["b"]}])
def test_a_record_of_other_scans_is_begun_anew(samples, tmp_path, changed):
    record, said = tmp_path / "filters.json", []
    chosen(samples, record, said)
    record.write_text(json.dumps({**json.loads(record.read_text()), **changed}))
    chosen(samples, record, said)
    assert len(said) == 2


def test_a_filter_that_is_not_installed_is_left_out_with_a_note(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(bm4d, "import_module", lambda name: (_ for _ in ()).throw(ImportError("no bm4d")))
    found = chosen(samples, tmp_path / "filters.json", [], ("BM4D", "Gaussian"), (100.0, 360.0))
    assert [one.name for one in found.filters[100.0]] == ["Gaussian"]
    (note,) = found.notes
    assert note.startswith("BM4D is left out: ")


def test_a_setting_that_is_tried_no_more_is_named(samples, tmp_path):
    record = tmp_path / "filters.json"
    chosen(samples, record, [])
    held = json.loads(record.read_text())
    held["filters"]["Gaussian"]["100"]["setting"] = {"sigma_mm": 7.0}
    record.write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"a setting of Gaussian that is tried, got .*7\.0"):
        chosen(samples, record, [])


def test_a_folder_that_cannot_be_made_is_named(samples, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*filters\.json"):
        chosen(samples, tmp_path / "file" / "filters.json", [])
