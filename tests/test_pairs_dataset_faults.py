"""What is no dataset, or one no more: refused in one line; and what a full disk and a kill leave."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from tiny_pairs import HEADER, SMALL, SPACING_MM, OneAtATime, dataset, small  # noqa: E402

from qctrun.runtime.errors import InputError, OutputError  # noqa: E402
from qctrun.train.pairs.dataset import SCHEMA, join, read_pairs, write_specimen  # noqa: E402


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two specimens of two donors, one without a position."""
    return dataset(tmp_path_factory.mktemp("study"), small("B1", positions=[]), small("A1"))


@pytest.fixture
def copy(study, tmp_path):
    """The dataset, to be spoilt."""
    path = tmp_path / "pairs.h5"
    path.write_bytes((study / "pairs.h5").read_bytes())
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_there(tmp_path):
    assert "qctrun pairs" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "pairs.h5")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04" + bytes(1000), b"a,b\n1,2\n"])
def test_another_kind_of_file(tmp_path, content):
    (tmp_path / "pairs.h5").write_bytes(content)
    assert "pairs.h5" in refused(tmp_path)


def test_another_program_s_hdf5(tmp_path):
    with h5py.File(tmp_path / "pairs.h5", "w") as file:
        file["scans"] = np.zeros((3, 3))
    assert SCHEMA in refused(tmp_path)


def test_a_newer_schema(copy):
    with h5py.File(copy, "r+") as file:
        file.attrs["schema"] = "qctrun/pairs/2"
    assert refused(copy).endswith("update qctrun")


def test_changed_attributes_are_seen(copy):
    with h5py.File(copy, "r+") as file:
        file.attrs["spacing_zyx_mm"] = (0.3, 0.3, 0.3)
    assert "damaged" in refused(copy)


def spoil(group, how):
    if how == "soft link":
        del group["truth"]
        group["truth"] = h5py.SoftLink("/specimens/B1/truth")
    elif how == "external link":
        del group["truth"]
        group["truth"] = h5py.ExternalLink("/etc/hostname", "/truth")
    elif how == "external bytes":
        del group["mask"]
        group.create_dataset("mask", (22, 42, 43), "?", external=[("/etc/passwd", 0, 22 * 42 * 43)])
    elif how == "virtual":
        layout = h5py.VirtualLayout((22, 42, 43), "f4")
        layout[:] = h5py.VirtualSource(".", "/specimens/B1/truth", (22, 42, 43))
        del group["truth"]
        group.create_virtual_dataset("truth", layout)
    elif how == "huge":
        del group["truth"]
        group.create_dataset("truth", (10**6, 10**6, 10**3), "f4", chunks=(100, 100, 100))
    elif how == "another type":
        mask = group["mask"][...]
        del group["mask"]
        group["mask"] = mask.astype("f4")
    elif how == "missing":
        del group["positions"]


@pytest.mark.parametrize(
    "how", ["soft link", "external link", "external bytes", "virtual", "huge", "another type", "missing"]
)
def test_arrays_that_are_not_what_they_should_be(copy, how):
    with h5py.File(copy, "r+") as file:
        spoil(file["specimens/A1"], how)
    assert "pairs.h5" in refused(copy)


def test_a_damaged_file_is_refused_or_harmless(study, tmp_path):
    """Cut, flipped and overwritten bytes: what is not refused is what was written, to the last word."""
    whole = read_pairs(study)
    content, rng = (study / "pairs.h5").read_bytes(), np.random.default_rng(6)
    path, refusals = tmp_path / "pairs.h5", 0
    for case in range(120):
        path.write_bytes(damaged(content, rng, case % 4))
        try:
            found = read_pairs(path)
        except InputError as error:
            assert "\n" not in str(error)
            refusals += 1
            continue
        assert (found.digest, found.header) == (whole.digest, whole.header)
        assert [one.provenance for one in found.specimens] == [one.provenance for one in whole.specimens]
    assert refusals > 60


def damaged(content: bytes, rng: np.random.Generator, how: int) -> bytes:
    data, at = bytearray(content), int(rng.integers(len(content)))
    if how == 0:
        return bytes(data[:at])
    if how == 1:
        data[at : at + 500] = rng.bytes(len(data[at : at + 500]))
    for place in rng.integers(0, len(data) if how == 2 else 4000, 3):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def program(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run code beside these tests, in a process that may be killed."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    start = "import sys\nfrom pathlib import Path\nfrom tiny_pairs import *\nhere = Path(sys.argv[1])\n"
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )


FULL_DISK = """
    import resource
    from qctrun.runtime.errors import OutputError
    one = specimen("A1", size=(22, 42, 43), currents=(100.0, 250.0), positions=[(0, 0, 0)])
    refusals = written = 0
    for limit in range(10_000, 2_600_000, 97_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for act in (
            lambda: write_specimen(here / "a.h5", one, SPACING_MM, "HA"),
            lambda: join([here / "before.h5"], here / "pairs.h5", {}),
        ):
            try:
                act()
                written += 1
            except OutputError as error:
                assert "file too large" in str(error), error
                refusals += 1
        names = {path.name for path in here.iterdir()}
        assert names <= {"before.h5", "a.h5", "pairs.h5"}, names
    print(refusals, written)
"""


def test_a_full_disk_leaves_nothing_and_breaks_nothing(tmp_path):
    """HDF5 itself dies of a write that is refused; the limit on the size of a file stands in for a full disk."""
    write_specimen(tmp_path / "before.h5", small(), SPACING_MM, "HA")
    done = program(FULL_DISK, tmp_path)
    assert done.returncode == 0, done.stderr
    refusals, written = map(int, done.stdout.split())
    assert refusals > 10
    assert written > 5
    assert read_pairs(tmp_path / "pairs.h5").digest == read_pairs(tmp_path / "before.h5").digest


def test_a_full_disk_keeps_the_earlier_dataset(copy, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = copy.read_bytes()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="free some space"):
        write_specimen(copy, small(), SPACING_MM, "HA")
    assert (copy.read_bytes(), [path.name for path in copy.parent.iterdir()]) == (before, ["pairs.h5"])


KILLED = """
    import os, signal
    class Scans(list):
        def __getitem__(self, index):
            if index == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return list.__getitem__(self, index)
    one = specimen("A1")
    scans = Scans(one.scans)
    write_specimen(here / "pairs.h5", specimen("A1", scans=scans), SPACING_MM, "HA")
"""


def test_a_file_system_that_cannot_set_room_aside(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    write_specimen(tmp_path / "a.h5", small(), SPACING_MM, "HA")
    monkeypatch.delattr(os, "posix_fallocate")
    join([tmp_path / "a.h5"], tmp_path / "pairs.h5", HEADER)
    np.testing.assert_array_equal(read_pairs(tmp_path).specimens[0].scans, small().scans)


def test_a_kill_in_mid_write_keeps_the_earlier_dataset(copy):
    before = copy.read_bytes()
    assert program(KILLED, copy.parent).returncode == -signal.SIGKILL
    assert copy.read_bytes() == before
    assert len(list(copy.parent.iterdir())) == 2
    write_specimen(copy, small("C1"), SPACING_MM, "HA")  # what the killed run left does not stand in the way
    assert read_pairs(copy).donors == ["C"]
    assert [path.name for path in copy.parent.iterdir()] == ["pairs.h5"]


def test_ctrl_c_in_mid_write_leaves_nothing(tmp_path):
    class Interrupted(OneAtATime):
        def __getitem__(self, index):
            if index == 1:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        write_specimen(tmp_path / "a.h5", small(scans=Interrupted(3, SMALL["size"])), SPACING_MM, "HA")
    assert not list(tmp_path.iterdir())
