"""AIM and ISQ files that are damaged, lie or ask for what is not there: refused in one line, before memory is taken."""

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scanco_files import (
    BITS,
    INTERCEPT,
    LOG,
    PATIENT,
    RUNS,
    SLOPE,
    TWO_VALUES,
    density_of,
    log_text,
    stored,
    write_aim,
    write_isq,
)

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import describe, load_label_map, read, scanco
from qctrun.runtime.reading.images import load
from qctrun.runtime.reading.scanco_header import DensityLine

pytest.importorskip("itk")

MASK = np.where(np.random.default_rng(2).random((5, 6, 7)) > 0.5, 127, 0).astype(np.int8)


def refused(path, match, how=read):
    with pytest.raises(InputError, match=match) as caught:
        how(path)
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert "\n" not in said and str(path) in said
    assert PATIENT not in said


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"densityslope": None}, "density calibration in its header, got none: no density slope; give"),
        ({"densityintercept": None}, "none: no density intercept"),
        ({"densityunit": None}, "none: no density unit"),
        ({"muscaling": None}, "none: no Mu_Scaling"),
        ({"densityunit": "1/cm"}, "density unit: wanted mg HA/ccm, got '1/cm'; calibrate"),
        ({"densityunit": "g HA/ccm"}, "got 'g HA/ccm'"),
        ({"densityunit": "HU"}, "got 'HU'"),
        ({"densityslope": "-1619.0"}, "density slope: wanted a sound calibration, got -1619"),
        ({"densityslope": "0"}, "density slope: wanted a sound calibration, got 0"),
        ({"muscaling": "0", "scaledbyfactor": None}, "mu scaling: wanted a sound calibration, got 0"),
        ({"muscaling": "-8192", "scaledbyfactor": None}, "mu scaling: wanted a sound"),
        (
            {"muscaling": "4096", "scaledbyfactor": None},
            "scaling 8192 in its calibration text and 4096 for its voxels",
        ),
        (
            {"parameterunits": "[mm]"},
            "voxels of attenuation, 1/cm, got 'mm' by its log; give the scan itself",
        ),
        ({"scaledbyfactor": "1.0"}, "1.0 by the last step in its log and 8192 by its calibration"),
        ({"densityslope": "1e20"}, "density slope: wanted a sound"),
        ({"densityslope": "nan"}, "a log without a number for Density: slope"),
        ({"densityslope": "1e999"}, "a log without a number for Density: slope"),
        ({"site": "99999999999999999999"}, "a log without a number for Site"),
        ({"energyv": "high"}, r"a log without a number for Energy \[V\]"),
        ({"origisqdimp": "1536 1536"}, "a log without a number for Orig-ISQ-Dim-p"),
        (
            {"patientname": PATIENT + "x" * 400},
            "413 characters for Patient Name, where Scanco has at most 41",
        ),
        ({"calibrationdata": "x" * 66}, "66 characters for Calibration Data"),
        ({"time": "x" * 32}, "32 characters for Time"),
        ({"densityunit": "mg HA/ccm" + "x" * 9}, "18 characters for Density: unit"),
    ],
)
def test_calibrations_and_logs_that_cannot_be_used(tmp_path, changes, match):
    path = write_aim(tmp_path / "a.aim", stored(), log=log_text(**changes))
    refused(path, match)
    if "a log" not in match and "characters" not in match:  # what a mask does not need may be wrong in it
        assert load_label_map(write_aim(tmp_path / "m.aim", MASK, log=log_text(**changes))).present == (127,)


@pytest.mark.parametrize(
    ("log", "match"),
    [
        ("", "none: no Mu_Scaling"),
        (log_text() + "\nmore\n", "a log whose line 29 is empty, where itk-ioscanco stops"),
        (
            log_text() + "Density: slope                1600.0\n",
            "'1.61907703e.03' and '1600.0' for Density: slope",
        ),
        (log_text().rstrip("\n"), "a log that ends within the line 'Minimum data value'"),
        (log_text() + "Site\n", "a log without a number for Site"),
    ],
)
def test_logs_that_are_none(tmp_path, log, match):
    refused(write_aim(tmp_path / "a.aim", stored(), log=log), match)


@pytest.mark.parametrize("version", [20, 30])
@pytest.mark.parametrize(
    ("lies", "match"),
    [
        ({"dim": (6, 5, 400)}, "240 bytes of voxels where the header asks for 24000"),
        ({"dim": (6, 5, 0)}, "6 x 5 x 0 voxels"),
        ({"dim": (6, -5, -4)}, "6 x -5 x -4 voxels"),
        ({"data_bytes": 10**6}, "voxels of 1000000 bytes in a file of"),
        ({"data_bytes": -1}, "voxels of -1 bytes"),
        ({"type": 0x00030004}, "type 0x00030004; write it with IPL as short"),
        ({"type": 0x00040004}, "type 0x00040004"),
        ({"type": 0}, "type 0x00000000"),
        ({"el": (0.0, 0.082, 0.082)}, r"voxels of 0.001 to 5 mm, got 0 x 0.082 x 0.082 mm"),
        ({"el": (0.082, 0.082, -0.082)}, "got 0.082 x 0.082 x -0.082 mm"),
        ({"el": (82.0, 82.0, 82.0)}, "got 82 x 82 x 82 mm"),
        ({"off": (0, 3, 0)}, "an offset of"),
        ({"off": (0, 0, -1)}, "an offset of"),
    ],
)
def test_aim_headers_that_lie(tmp_path, version, lies, match):
    refused(write_aim(tmp_path / "a.aim", stored(), version=version, **lies), match)
    if "el" not in lies:
        refused(tmp_path / "a.aim", match, describe)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"b52": 400, "b64": 32800}, "240 bytes of voxels where the header asks for 24000"),
        ({"b44": 0, "b56": 1}, "voxels"),
        ({"b48": -5}, "6 x -5 x 4 voxels"),
        ({"b56": 0}, "voxels of 0.001 to 5 mm, got 0 x"),
        ({"b60": -410}, "got 0.082 x -0.082 x 0.082 mm"),
        ({"b64": 0}, "a scout view"),
        ({"b16": 9}, "a scout view"),
        ({"b72": 164}, "slices 164 um apart by their increment, 82 by their extent"),
        ({"b88": 0}, "mu scaling: wanted a sound calibration, got 0"),
        ({"b88": 4096}, "scaling 8192 in its calibration text and 4096"),
        ({"b508": 2**30}, "a header of"),
        ({"b508": -7}, "a header of -3072 bytes"),
        ({"b508": 100}, "a header of 51712 bytes in a file of"),
        ({"section_blocks": 1}, "a calibration of 1 blocks"),
        ({"section_blocks": -1}, "a section of -1 blocks"),
        ({"section_blocks": 2000}, "a section of 2000 blocks"),
        ({"unit": "1/cm"}, "density unit: wanted mg HA/ccm, got '1/cm'"),
        ({"slope": -1.0}, "density slope: wanted a sound calibration, got -1"),
        ({"calibrated": False}, "none: no calibration section; give"),
        ({"unit": ""}, "none: no density unit"),
    ],
)
def test_isq_headers_that_lie(tmp_path, fields, match):
    refused(write_isq(tmp_path / "a.isq", stored(), **fields), match)


@pytest.mark.parametrize("name", ["a.aim", "b.aim", "c.isq", "m.aim"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, name):
    path = tmp_path / name
    if name == "m.aim":
        write_aim(path, MASK, kind=RUNS)
    else:
        (write_isq if name == "c.isq" else write_aim)(
            path, stored(), **({"version": 30} if name == "b.aim" else {})
        )
    whole = path.read_bytes()
    for length in {*range(0, 600, 23), *range(600, len(whole), 131), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, "a whole (AIM|ISQ) file", load)
    path.write_bytes(whole)
    load(path)


@pytest.mark.parametrize(
    ("name", "data"), [("a.aim", b"no"), ("a.isq", bytes(5000)), ("a.aim", b"\x1f\x8b" * 400)]
)
def test_another_file_under_such_a_name_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, "a file that does not begin as one")


def test_an_isq_under_the_name_of_an_aim_is_refused(tmp_path):
    refused(write_isq(tmp_path / "a.aim", stored()), "does not begin as one of version 020 or 030")
    refused(write_aim(tmp_path / "a.isq", stored()), "does not begin as one")


@pytest.mark.parametrize("kind", [RUNS, TWO_VALUES])
@pytest.mark.parametrize("change", ["shorter", "longer", "size"])
def test_runs_that_do_not_fill_the_mask_are_refused(tmp_path, kind, change):
    path = write_aim(tmp_path / "m.aim", MASK, kind=kind)
    data = bytearray(path.read_bytes())
    first = 160 + struct.unpack_from("<i", data, 8)[0]
    if change == "size":
        struct.pack_into("<i", data, first, 2**30)
    else:
        at = first + (5 if kind == RUNS else 6)
        data[at] = data[at] - 1 if change == "shorter" else data[at] + 1
    path.write_bytes(data)
    refused(
        path, "another number of bytes" if change == "size" else "runs of .* voxels where", load_label_map
    )


def test_bits_that_do_not_fill_the_mask_are_refused(tmp_path):
    path = write_aim(tmp_path / "m.aim", MASK, kind=BITS, dim=(70, 60, 50))
    refused(path, r"37 bytes of voxels where the header asks for 26251", load_label_map)


def test_a_mask_is_no_scan(tmp_path):
    for kind in (None, RUNS):
        refused(
            write_aim(tmp_path / "m.aim", MASK, kind=kind), "wanted a scan, got a mask .*give it as --mask"
        )


def test_a_scan_is_no_mask(tmp_path):
    refused(write_aim(tmp_path / "a.aim", stored()), "labels of 0", load_label_map)


def test_one_slice_is_no_volume(tmp_path):
    refused(write_aim(tmp_path / "a.aim", stored((1, 5, 6))), "a 3-D volume, got one of 6 x 5 x 1 voxels")


@pytest.mark.parametrize("name", ["a.aim", "a.isq"])
@pytest.mark.parametrize(
    ("lie", "match"),
    [
        ({"position": (0, 0, 7)}, "got origin"),
        ({"spacing_mm": (0.082, 0.082, 0.1)}, "got spacing"),
        ({"dimensions": (4, 6, 5)}, "got size"),
        ({"density": DensityLine(4096.0, SLOPE, INTERCEPT, "HA")}, "got mu scaling"),
    ],
)
def test_a_header_that_itk_understands_otherwise_is_refused(tmp_path, monkeypatch, name, lie, match):
    path = (write_aim if name == "a.aim" else write_isq)(tmp_path / name, stored())
    ours = replace(scanco._header(path), **lie)
    monkeypatch.setattr(scanco, "_header", lambda _: ours)
    refused(path, match + r" .* by itk-ioscanco and .* by its header")


def test_floats_that_are_no_numbers_are_refused(tmp_path):
    numbers = stored().astype(np.float32)
    numbers[1, 2, 3] = np.nan
    refused(write_aim(tmp_path / "a.aim", numbers), r"1 voxel of NaN or infinity, the first at .*1, 2, 3")


def test_claims_of_many_voxels_take_no_memory(tmp_path):
    """A process with 256 MiB to spare refuses them; ITK never sees them."""
    write_aim(tmp_path / "first.aim", stored())
    huge = (2**20, 2**20, 2**10)
    write_aim(tmp_path / "a.aim", stored(), dim=huge)
    write_aim(tmp_path / "b.aim", stored(), version=30, dim=huge)
    write_isq(
        tmp_path / "c.isq",
        stored(),
        b44=2**20,
        b48=2**20,
        b52=2**10,
        b56=82 << 20,
        b60=82 << 20,
        b64=82 << 10,
    )
    for number, kind in enumerate((RUNS, TWO_VALUES, BITS)):
        write_aim(tmp_path / f"m{number}.aim", MASK, kind=kind, dim=huge)
    code = (
        "import json, resource, sys\n"
        "from pathlib import Path\n"
        "from qctrun.runtime.errors import InputError\n"
        "from qctrun.runtime.reading.images import load\n"
        "load(Path('first.aim'))\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        load(Path(name))\n"
        "    except InputError as error:\n        print(error)\n"
    )
    names = ["a.aim", "b.aim", "c.isq", "m0.aim", "m1.aim", "m2.aim"]
    said = _alone(code, tmp_path, *names).splitlines()
    assert len(said) == len(names)
    assert all("where the header asks for" in words for words in said), said


def test_headers_with_bytes_changed_at_random_are_read_or_refused(tmp_path):
    """In a process of its own: what gets past the checks ends up in C++, which would end the process."""
    write_aim(tmp_path / "0.aim", stored(), pos=(1, 2, 3))
    write_aim(tmp_path / "1.aim", stored(), version=30)
    write_isq(tmp_path / "2.isq", stored(), before=2)
    write_aim(tmp_path / "3.aim", MASK, kind=TWO_VALUES, version=30)
    code = (
        "import random, sys\n"
        "from pathlib import Path\n"
        "from qctrun.runtime.errors import InputError\n"
        "from qctrun.runtime.reading import describe\n"
        "from qctrun.runtime.reading.images import load\n"
        "counts = {'read': 0, 'refused': 0}\n"
        "for source in sorted(Path().glob('[0-9].*')):\n"
        "    whole = source.read_bytes()\n"
        "    draw = random.Random(source.name)\n"
        "    for turn in range(120):\n"
        "        data = bytearray(whole)\n"
        "        reach = len(data) if turn % 2 else 300\n"
        "        for _ in range(draw.choice((1, 1, 2, 5))):\n"
        "            at = draw.randrange(min(reach, len(data)))\n"
        "            if draw.random() < 0.8:\n"
        "                data[at] = draw.choice((0, 1, 10, 32, 127, 128, 255, draw.randrange(256)))\n"
        "            else:\n"
        "                more = bytes(draw.choice(b' \\n0x!') for _ in range(draw.randrange(90)))\n"
        "                data[at:at + draw.randrange(9)] = more\n"
        "        target = Path('x' + source.suffix)\n"
        "        target.write_bytes(data)\n"
        "        for how in (describe, load):\n"
        "            try:\n                how(target)\n                counts['read'] += 1\n"
        "            except InputError as error:\n"
        "                assert chr(10) not in str(error) and 'DOE' not in str(error), error\n"
        "                counts['refused'] += 1\n"
        "print(counts['read'], counts['refused'])\n"
    )
    kept, refusals = map(int, _alone(code, tmp_path).split())
    assert kept > 150 and refusals > 150, (kept, refusals)


def test_the_numbers_of_a_log_are_those_that_c_reads(tmp_path):
    """Spellings of one line that two parsers could take for different numbers."""
    for slope in (f"{SLOPE:.8e}", f"{SLOPE:.8E}", f"+{SLOPE}", f"{SLOPE:.5f} (ok)"):
        path = write_aim(tmp_path / "a.aim", stored(), log=log_text(densityslope=slope))
        np.testing.assert_allclose(read(path).array, density_of(stored(), slope=SLOPE), atol=1e-2)
    for slope in ("0x10", "1_619.0", "1,619", "1619.0d0", "1619e", "infinity", "١٦١٩"):
        text = log_text(densityslope="@").encode().replace(b"@", slope.encode()).decode("latin-1")
        refused(
            write_aim(tmp_path / "a.aim", stored(), log=text), "a log without a number for Density: slope"
        )
    assert set(LOG) >= {"Density: slope"} and INTERCEPT < 0


def _alone(code, folder, *words):
    """What a fresh process prints that runs in the folder."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
    )
    assert done.returncode == 0, json.dumps([done.returncode, done.stderr[-2000:]])
    return done.stdout
