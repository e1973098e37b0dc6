"""Zips that nobody should trust: refused in one line, nothing unpacked where it should not be."""

import os
import stat
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_series

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import find_beside, list_series, read, read_labels, sources
from qctrun.runtime.volume import Grid

VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
GRID = Grid((2, 3, 4), (1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path_factory, monkeypatch):
    """Where zips are unpacked, for nobody else."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


def zip_of(path, *members, way=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", way) as archive:
        warnings.simplefilter("ignore")  # a name that stands twice
        for member, content in members:
            member.compress_type = way
            archive.writestr(member, content)
    return path


def zip_of_scan(tmp_path, name="scan.zip", **options):
    write_series(tmp_path / "scan", VALUES)
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", **options) as archive:
        for file in sorted((tmp_path / "scan").iterdir()):
            with archive.open(f"scan/{file.name}", "w", force_zip64=True) as member:
                member.write(file.read_bytes())
    return path


def refused(path, match):
    """Every door that a zip comes in by refuses it, in one line, and leaves no file behind."""
    for look in (read, list_series, find_beside, lambda zipped: read_labels(zipped / "mask.nii.gz", GRID)):
        with pytest.raises(InputError, match=match) as caught:
            look(path)
        assert str(caught.value).isprintable()
    assert not list(Path(tempfile.gettempdir()).iterdir())
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def member(name, mode=0o644, kind=stat.S_IFREG):
    found = zipfile.ZipInfo(name)
    found.external_attr = (kind | mode) << 16
    return found


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../out",
            "a/../../out",
            "/etc/out",
            "//host/share",
            "..",
            "C:/out",
            "C:out",
            "..\\out",
            "\\\\host\\out",
        ),
        *("a\\..\\..\\out", "./../out"),
    ],
)
def test_members_that_lead_outside_are_refused(tmp_path, name):
    refused(zip_of(tmp_path / "a.zip", (member(name), b"x")), "plain files below one folder")


def test_links_are_refused(tmp_path):
    link = member("link", 0o777, stat.S_IFLNK)
    refused(zip_of(tmp_path / "a.zip", (link, b"/etc/passwd")), "plain files below one folder")


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "./a"), ("b/a", "b//a"), ("a", "a/b"), ("x/y/z", "x/y"), ("mask.nii.gz",) * 2]
)
def test_names_that_stand_twice_are_refused(tmp_path, names):
    path = zip_of(tmp_path / "a.zip", *((member(name), name.encode()) for name in names))
    refused(path, r"each name once, got member '.*' twice")


@pytest.mark.parametrize(
    "name", ["line\nbreak", "bell\a", "n" * 256, "d/" * 520 + "a", "\u202egnp.exe", "ä" * 128]
)
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    refused(zip_of(tmp_path / "a.zip", (member(name), b"x")), "names that a file can have")


def test_names_in_other_letters_are_taken(tmp_path):
    write_series(tmp_path / "scan", VALUES)
    with zipfile.ZipFile(tmp_path / "🦴.zip", "w") as archive:
        for file in sorted((tmp_path / "scan").iterdir()):
            archive.write(file, f"Wirbelsäule 椎/🦴 {file.name}")
    volume = read(tmp_path / "🦴.zip", calibration=(1.0, 0.0))
    np.testing.assert_array_equal(volume.array, VALUES)
    assert volume.provenance["slice_folders"] == ["Wirbelsäule 椎"]


@pytest.mark.parametrize("way", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_ways_to_pack_without_a_bound_on_memory_are_refused(tmp_path, way):
    refused(
        zip_of(tmp_path / "a.zip", (member("a"), bytes(100)), way=way), "members stored or deflated, got a: "
    )


def test_encrypted_members_are_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", (member("a"), b"secret"))
    data = bytearray(path.read_bytes())
    data[6] |= 1  # in the local header
    data[data.index(b"PK\1\2") + 8] |= 1  # and in the list of members
    path.write_bytes(data)
    refused(path, "a plain zip, got a: encrypted")


def test_many_bytes_from_few_are_refused_before_any_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "FREE_ZIP_BYTES", 10**6)
    path = zip_of(tmp_path / "a.zip", *((member(str(k)), bytes(10**6)) for k in range(3)))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    refused(path, r"the size of a CT scan, got 3 files, 3 MiB unpacked from 0\.0 MiB")


def test_the_size_of_all_files_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ZIP_BYTES", 1000)
    refused(zip_of(tmp_path / "a.zip", (member("a"), os.urandom(1001))), "the size of a CT scan")


def test_members_that_share_their_bytes_do_not_hide_the_ratio(tmp_path, monkeypatch):
    """Many entries of the list lead to one block: each by itself is harmless, their sum is no file that exists."""
    monkeypatch.setattr(sources, "FREE_ZIP_BYTES", 10**6)
    path = zip_of(tmp_path / "a.zip", (member("a000"), bytes(10**4) + os.urandom(9000)))
    data = path.read_bytes()
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry = data[start:end]
    entries = b"".join(entry.replace(b"a000", b"a%03d" % k) for k in range(900))
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 900, 900, len(entries), start, 0)
    monkeypatch.setattr(sources, "MAX_ZIP_RATIO", 100)
    path.write_bytes(data[:start] + entries + tail)
    refused(path, "the size of a CT scan, got 900 files, 16 MiB unpacked from 0.1 MiB")


def test_a_list_of_members_without_end_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ZIP_LIST", 4000)
    path = zip_of(tmp_path / "a.zip", *((member(f"{k:04d}"), b"") for k in range(100)))
    monkeypatch.setattr(zipfile.ZipFile, "__init__", None)
    refused(path, r"the size of a CT scan, got a list of members of \d+ bytes")


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ZIP_MEMBERS", 9)
    refused(zip_of(tmp_path / "a.zip", *((member(str(k)), b"") for k in range(10))), "got 10 files")


@pytest.mark.parametrize("stated", [10, 10**6, 2**32 - 2])
def test_a_stated_size_that_is_not_the_true_one_ends_in_a_refusal(tmp_path, stated):
    """The list says another size than the bytes have; no more than it says is written, and the sum gives it away."""
    path = zip_of(tmp_path / "a.zip", (member("slice.dcm"), bytes(50_000)))
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        struct.pack_into("<I", data, data.index(mark) + at, stated)
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a whole zip file|a plain zip|the size of a CT scan"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 2e7
    tracemalloc.stop()
    assert [one.name for one in tmp_path.iterdir()] == ["a.zip"]


def test_a_zip_in_a_zip_stays_closed(tmp_path):
    inner = zip_of(tmp_path / "inner.zip", (member("a"), b"x")).read_bytes()
    (tmp_path / "inner.zip").unlink()
    path = zip_of(tmp_path / "a.zip", (member("inner.zip"), inner))
    with pytest.raises(InputError, match="a CT series of DICOM slices, got 1 file that is not DICOM"):
        read(path)


def test_large_form_members_are_read_and_checked_like_others(tmp_path):
    path = zip_of_scan(tmp_path)
    np.testing.assert_array_equal(read(path, calibration=(1.0, 0.0)).array, VALUES)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="a whole zip file"):
        read(path)


def test_large_form_sizes_count_for_the_limits(tmp_path):
    """A member of 2^40 bytes by its extra field."""
    path = zip_of(tmp_path / "a.zip", (member("a"), b"x"))
    data = path.read_bytes()
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry = bytearray(data[start:end])
    extra = struct.pack("<HHQ", 1, 8, 2**40)
    struct.pack_into("<I", entry, 24, 2**32 - 1)
    struct.pack_into("<H", entry, 30, len(extra))
    entry += extra
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), start, 0)
    path.write_bytes(data[:start] + entry + tail)
    refused(path, "got 1 files, 1048576 MiB unpacked")


def test_a_device_or_pipe_is_unpacked_as_the_plain_file_that_its_bytes_are(tmp_path):
    for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK):
        path = zip_of(tmp_path / "a.zip", (member("pipe", 0o666, kind), b"x"))
        with pytest.raises(InputError, match="got 1 file that is not DICOM"):
            read(path)
