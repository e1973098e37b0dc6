"""Names of labels: lookup files as other tools write them, and names that lie in a label map or beside it."""

import gzip
import json
import struct
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.reading import load_label_map
from qctrun.runtime.reading.label_names import VERTEBRAE, ids_of, read_names
from qctrun.runtime.reading.own_names import own_names

LOOKUPS = {
    "plain.json": '{"20": "L1", "21": "L2", "0": "background"}',
    "dataset.json": '{"labels": {"background": 0, "L1": 20, "L2": 21}, "numTraining": 3}',
    "first_nnunet.json": '{"labels": {"0": "background", "20": "L1", "21": "L2"}}',
    "ours.json": '{"LabelNames": {"20": "L1", "21": "L2"}, "PeeledMM": 3.0}',
    "dseg.tsv": "index\tname\tabbreviation\tcolor\n0\tBackground\tBG\t#000000\n"
    "20\tL1\tA\t#ff0000\n21\tL2\tB\t#00ff00\n",
    "index.csv": "name,index\nL1,20\nL2,21\n",
    "slicer.csv": 'LabelValue,Name,Color_R,Color_G,Color_B,Color_A\n20,L1,1,2,3,255\n21,"L2",1,2,3,255\n',
    "snap.txt": "####\n# ITK-SnAP Label Description File\n# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL\n####\n"
    '    0     0    0    0        0  0  0    "Clear Label"\n'
    '   20   255    0    0        1  1  1    "L1"\n   21     0  255    0      0.5  1  1    "L2"\n',
    "snap.label": '20 255 0 0 1 1 1 "L1"\n21 0 255 0 1 0 1 "L2"\n',
    "colours.ctbl": "# Color table file /home/someone/x.ctbl\n# 3 values\n0 Background 0 0 0 0\n"
    "20 L1 128 174 128 255\n21 L2 241 214 145 255\n22 (none) 0 0 0 0\n",
    "colours.txt": "# Color table file\n20 L1 128 174 128 255\r\n21 L2 241 214 145 255\r\n",
}


@pytest.mark.parametrize("name", LOOKUPS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_form_gives_the_same_names(tmp_path, name, mark):
    (tmp_path / name).write_text(mark + LOOKUPS[name], encoding="utf-8")
    assert read_names(tmp_path / name) == {20: "L1", 21: "L2"}


def test_names_of_several_words_stay_whole(tmp_path):
    (tmp_path / "a.txt").write_text('7 1 2 3 1 1 1 "third  lumbar vertebra"\n8 Wirbelkörper_4 1 2 3 255\n')
    assert read_names(tmp_path / "a.txt") == {7: "third lumbar vertebra", 8: "Wirbelkörper_4"}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.json", '{"L1": "L2"}', "names like"),
        ("a.json", '{"20": 21}', "names like"),
        ("a.json", '{"labels": {"spine": [1, 2]}}', r"'spine': \[1, 2\]"),
        ("a.json", "[1]", "a JSON object"),
        ("a.json", "{", "wanted JSON"),
        ("a.json", '{"0": "background"}', "no name"),
        ("a.json", '{"99999999999": "L1"}', "whole number as label"),
        ("a.csv", "number,word\n1,L1\n", "columns index and name, got number, word"),
        ("a.csv", "index,name\n1.5,L1\n", "line 2.*whole number"),
        ("a.csv", "index,name\n1\n", "line 2: wanted 2 cells"),
        ("a.csv", "index,name\n1,L1\n1,L2\n", "one name a label, got L1 and L2 for 1"),
        ("a.csv", "", "an empty file"),
        ("a.txt", "20 L1\n", "line 1.*'20 L1'"),
        ("a.txt", "# nothing\n", "no name"),
    ],
)
def test_what_is_no_lookup_is_refused_in_one_line(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        read_names(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_not_text_or_too_large_are_refused(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.txt").write_bytes(b" " * (2**24 + 1))
    for name, match in (
        ("a.tsv", "cannot be read"),
        ("b.txt", "UTF-8"),
        ("c.txt", "16 MiB"),
        (".", "cannot be"),
    ):
        with pytest.raises(InputError, match=match):
            read_names(tmp_path / name)


def test_the_vertebrae_of_totalsegmentator_are_those_that_it_writes(data):
    path = data / "thoracic_ct_jpeg2000" / "example_seg_dicom.nii.gz"
    written = own_names(path, path)
    assert len(written) == 117
    assert {label: written[label] for label in VERTEBRAE} == VERTEBRAE == read_names("totalsegmentator")
    assert {label for label, name in written.items() if "vertebrae" in name or name == "sacrum"} == set(
        VERTEBRAE
    )


def test_ids_are_found_by_number_and_by_name():
    names = {20: "L1", 31: "vertebrae_L2", 32: "Vertebra T12", 40: "rib", 41: "RIB", 42: "gone"}
    present = (20, 31, 32, 40, 41, 50)
    assert ids_of(["l1", "L2", "vertebrae_T12", 50, 20], names, present) == (20, 31, 32, 50)
    assert ids_of(["rib", "RIB"], names, present) == (40, 41)
    for asked, match in (
        ("Rib", "several: 40, 41"),
        ("gone", "none among 20 L1, 31 vertebrae_L2"),
        ("1", "none"),
    ):
        with pytest.raises(UsageError, match=match):
            ids_of([asked], names, present)
    with pytest.raises(UsageError, match="labels without names; say --label-names"):
        ids_of(["L1"], {}, present)


def table(*labels):
    """The XML that TotalSegmentator puts into a NIfTI header."""
    rows = "".join(f'<Label Key="{key}" Red="0.0"><![CDATA[{name}]]></Label>\n' for key, name in labels)
    return f'<?xml version="1.0"?> <CaretExtension><LabelTable>\n{rows}</LabelTable></CaretExtension>\n    '.encode()


def nifti(path, *contents, kind=nibabel.Nifti1Image):
    values = np.zeros((4, 4, 4), np.uint8)
    values[1, 1, 1], values[2, 2, 2] = 20, 21
    image = kind(values, np.eye(4))
    for content in contents:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, content))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz"])
def test_names_in_a_nifti_header_are_read(tmp_path, kind, name):
    path = nifti(tmp_path / name, b"a comment", table((20, "L1"), (21, "L 2"), (0, "none")), kind=kind)
    assert own_names(path, path) == {20: "L1", 21: "L 2"}


@pytest.mark.parametrize(
    "content",
    [
        b"<LabelTable><Label Key='1'>",
        b"<LabelTable><Label Key='x'>L1</Label><Label Key='-1'>L2</Label><Label>L3</Label></LabelTable>",
        b"<!DOCTYPE a [<!ENTITY b 'ccc'>]><LabelTable><Label Key='1'>&b;</Label></LabelTable>",
        b"<?xml version='1.0' encoding='nowhere'?><LabelTable/>",
    ],
)
def test_a_damaged_table_in_a_header_has_no_names(tmp_path, content):
    path = nifti(tmp_path / "m.nii", content)
    assert load_label_map(path).names == {}


def test_a_header_that_lies_about_its_extension_has_no_names(tmp_path):
    path = nifti(tmp_path / "m.nii", table((20, "L1")))
    whole = bytearray(path.read_bytes())
    for length in (0, 7, -16, 2**31 - 1):
        struct.pack_into("<i", whole, 352, length)
        path.write_bytes(whole)
        assert own_names(path, path) in ({}, {20: "L1"})
    (tmp_path / "n.nii.gz").write_bytes(gzip.compress(bytes(whole))[:60])
    assert own_names(tmp_path / "n.nii.gz", tmp_path / "n.nii.gz") == {}


def test_segments_of_slicer_are_read_from_a_seg_nrrd(tmp_path):
    values = np.zeros((3, 4, 5), np.uint8)
    values[1, 1, 1:3] = 1, 3
    image = sitk.GetImageFromArray(values)
    fields = {
        "Segment0_LabelValue": "1",
        "Segment0_Name": "L1",
        "Segment1_Name": "L2",
        "Segment1_LabelValue": "3",
    }
    for key, value in {**fields, "Segment2_Name": "without a value", "Segment0_Color": "1 0 0"}.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"), True)
    assert b"Segment0_Name:=L1" in (tmp_path / "s.seg.nrrd").read_bytes()
    found = load_label_map(tmp_path / "s.seg.nrrd")
    assert (found.names, found.present) == ({1: "L1", 3: "L2"}, (1, 3))


def test_the_file_beside_a_map_names_its_labels_unless_the_map_or_the_caller_does(tmp_path):
    path = nifti(tmp_path / "m.nii.gz")
    beside = tmp_path / "m.json"
    beside.write_text(json.dumps({"Units": "1"}))
    assert load_label_map(path).names == {}
    beside.write_text(json.dumps({"LabelNames": {"20": "L1"}}))
    assert load_label_map(path).names == {20: "L1"}
    nifti(path, table((20, "T1")))
    assert load_label_map(path).names == {20: "T1"}
    (tmp_path / "names.json").write_text('{"20": "C1", "21": "C2"}')
    found = load_label_map(path, names=tmp_path / "names.json")
    assert found.names == {20: "C1", 21: "C2"}
    assert found.notes == (
        "m.nii.gz itself calls its labels otherwise than --label-names: 20 T1 (--label-names: C1)",
    )


def test_a_file_beside_a_map_that_is_damaged_matters_only_where_it_is_needed(tmp_path):
    path = nifti(tmp_path / "m.nii.gz")
    (tmp_path / "m.json").write_text('{"LabelNames": {"20": 5}}')
    with pytest.raises(InputError, match=r"m.json: LabelNames: wanted names like"):
        load_label_map(path)
    assert load_label_map(path, names="totalsegmentator").notes == ()


@given(
    st.sampled_from([*LOOKUPS]),
    st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from(list('\t ,;"{}[]:0123456789-eL#\n\\\r\0é'))),
        max_size=8,
    ),
    st.booleans(),
)
@settings(max_examples=400)
def test_a_damaged_lookup_is_read_or_refused_in_one_line(name, changes, cut):
    text = LOOKUPS[name]
    for place, letter in changes:
        at = place % len(text)
        text = text[:at] + letter + (text[at:] if cut else text[at + 1 :])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(text.encode())
        try:
            names = read_names(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert names and all(label > 0 and word.strip() == word != "" for label, word in names.items())
