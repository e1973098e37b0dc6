"""AIM and ISQ: density by the header's own calibration, at the place that the header states, and masks."""

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from scanco_files import (
    BITS,
    INTERCEPT,
    MU_SCALING,
    MU_WATER,
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
from qctrun.runtime.reading import describe, load_label_map, read, read_hu, read_labels, stem_of
from qctrun.runtime.volume import Grid

itk = pytest.importorskip("itk")


def mask(shape=(7, 9, 11), seed=1):
    """A mask of 127, with runs that are longer than a byte counts."""
    found = np.zeros(shape, np.int8)
    found[2:-1, 1:-1, 3:-2] = 127
    found[np.random.default_rng(seed).random(shape) > 0.9] = 0
    return found


def by_itk(path, pixel):
    """What ITK makes of a file when it is left to itself, and its reader."""
    source = itk.ScancoImageIO.New()
    reader = itk.ImageFileReader[itk.Image[pixel, 3]].New(FileName=str(path), ImageIO=source)
    reader.Update()
    return itk.array_from_image(reader.GetOutput()), source


def test_a_stored_number_by_hand(tmp_path):
    """8192 is 1 per cm: 1000 + 50 mg HA/cm3; 0 is the intercept; water, 0.25 per cm, comes to 300."""
    log = log_text(densityslope="1000.0", densityintercept="50.0", humuwater="0.25")
    numbers = np.array([[[8192, 0], [2048, -8192]], [[4096, 16384], [1, 2]]], np.int16)
    volume = read(write_aim(tmp_path / "a.aim", numbers, log=log))
    assert volume.array.dtype == np.float32
    wanted = [[[1050, 50], [300, -950]], [[550, 2050], [50 + 1000 / 8192, 50 + 2000 / 8192]]]
    np.testing.assert_allclose(volume.array, wanted, rtol=1e-6)
    assert any("puts water at 300 mg/cm3" in words for words in volume.warnings)


@pytest.mark.parametrize("version", [20, 30])
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_an_aim_is_density_where_its_header_puts_it(tmp_path, version, dtype):
    numbers = np.abs(stored()).astype(dtype) if dtype == "uint16" else stored().astype(dtype)
    path = write_aim(
        tmp_path / "a.AIM", numbers, version=version, pos=(3, 40, -500), el=(0.082, 0.0607, 0.0305)
    )
    volume = read(path)
    assert (volume.unit, volume.material) == ("mg/cm3", "HA")
    np.testing.assert_allclose(volume.array, density_of(numbers), rtol=1e-6, atol=1e-3)
    wanted = Grid((4, 5, 6), (0.0305, 0.0607, 0.082), (3 * 0.082, 40 * 0.0607, -500 * 0.0305))
    assert not volume.grid.difference(wanted)
    assert volume.grid.spacing == wanted.spacing  # the short number, not what a single makes of it
    assert volume.warnings == () or "resampled before" in volume.warnings[0]


@pytest.mark.parametrize(("multi", "before"), [(True, 0), (False, 0), (True, 3), (False, 2)])
def test_an_isq_is_density_by_its_calibration_section(tmp_path, multi, before):
    numbers = stored()
    volume = read(write_isq(tmp_path / "C0000001.ISQ", numbers, um=60.7, multi=multi, before=before))
    assert (volume.unit, volume.material, volume.warnings) == ("mg/cm3", "HA", ())
    np.testing.assert_allclose(volume.array, density_of(numbers), rtol=1e-6, atol=1e-3)
    assert volume.grid.size == (4, 5, 6)
    np.testing.assert_allclose(volume.grid.spacing, 0.0607, rtol=2e-3)  # extents are whole micrometres
    assert volume.grid.origin == (0.0, 0.0, 0.0)
    assert volume.provenance["scan"]["kvp"] == 59.4


def test_both_kinds_and_both_versions_hold_the_same_density(tmp_path):
    numbers = stored()
    paths = (
        write_aim(tmp_path / "a.aim", numbers),
        write_aim(tmp_path / "b.aim", numbers, version=30),
        write_isq(tmp_path / "c.isq", numbers),
    )
    first, *others = (read(path) for path in paths)
    for other in others:
        np.testing.assert_array_equal(other.array, first.array)
        assert not other.grid.difference(first.grid)


@pytest.mark.parametrize("kind", ["aim 20", "aim 30", "isq"])
def test_density_agrees_with_itks_own_hounsfield_units(tmp_path, kind):
    """ITK turns numbers into HU by mu of water and cuts them off; back from there it is at most 1 HU away."""
    numbers = stored()
    if kind == "isq":
        path = write_isq(tmp_path / "a.isq", numbers)
    else:
        path = write_aim(tmp_path / "a.aim", numbers, version=int(kind[-2:]), pos=(3, 4, 5))
    hu, source = by_itk(path, itk.SS)
    volume = read(path)
    assert source.GetMuScaling() == MU_SCALING
    assert source.GetMuWater() == pytest.approx(MU_WATER)
    assert source.GetRescaleSlope() == pytest.approx(SLOPE)
    assert source.GetRescaleIntercept() == pytest.approx(INTERCEPT)
    assert source.GetRescaleUnits() == "mg HA/ccm"
    mu = MU_WATER * (1 + hu / 1000)
    one_hu = SLOPE * MU_WATER / 1000
    assert 0.1 < np.abs(mu * SLOPE + INTERCEPT - volume.array).max() <= one_hu
    image = itk.imread(str(path))
    np.testing.assert_allclose(image.GetSpacing(), volume.grid.spacing[::-1], rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), volume.grid.origin, rtol=1e-6)


def test_what_itk_writes_is_read(tmp_path):
    """Its writer goes by way of HU in whole numbers, so that a stored number may come back 2 lower."""
    numbers = stored()
    source = itk.ScancoImageIO.New()
    image = itk.Image[itk.SS, 3]
    path = write_aim(tmp_path / "a.aim", numbers, pos=(3, 4, 5))
    reader = itk.ImageFileReader[image].New(FileName=str(path), ImageIO=source)
    reader.Update()
    target = tmp_path / "by itk.aim"
    itk.ImageFileWriter[image].New(Input=reader.GetOutput(), FileName=str(target), ImageIO=source).Update()
    volume = read(target)
    assert not volume.grid.difference(read(path).grid)
    assert np.abs(volume.array - density_of(numbers)).max() <= 2 * SLOPE / MU_SCALING + 1e-3


@pytest.mark.parametrize("version", [20, 30])
@pytest.mark.parametrize("kind", [None, RUNS, TWO_VALUES, BITS])
@pytest.mark.parametrize("shape", [(7, 9, 11), (6, 8, 10), (30, 31, 33)])
def test_masks_are_unpacked(tmp_path, version, kind, shape):
    """Their log holds the calibration of their scan, which must not touch their values."""
    wanted = mask(shape)
    labels = load_label_map(write_aim(tmp_path / "m.aim", wanted, version=version, kind=kind, pos=(1, 2, 3)))
    assert labels.array.dtype == np.int32
    np.testing.assert_array_equal(labels.array, wanted)
    np.testing.assert_allclose(labels.grid.origin, (0.082, 0.164, 0.246))


@pytest.mark.parametrize("kind", [None, RUNS, TWO_VALUES, BITS])
def test_a_border_does_not_count(tmp_path, kind):
    """Runs leave it out, bits and plain voxels hold it; its voxels mean nothing in any of them."""
    wanted = mask()
    border = np.ones(wanted.shape, bool)
    border[3:-3, 2:-2, 1:-1] = False
    full = np.where(border, np.int8(127), wanted)
    labels = load_label_map(
        write_aim(tmp_path / "m.aim", full, kind=kind, off=(1, 2, 3), pos=(10, 20, 30), version=30)
    )
    np.testing.assert_array_equal(labels.array, wanted[3:-3, 2:-2, 1:-1])
    np.testing.assert_allclose(labels.grid.origin, np.multiply((11, 22, 33), 0.082))


def test_runs_of_more_than_two_values(tmp_path):
    wanted = np.random.default_rng(5).choice(np.array([0, 60, 126, 127], np.int8), (5, 6, 7))
    wanted[2] = 126
    labels = load_label_map(write_aim(tmp_path / "seg.aim", wanted, kind=RUNS))
    np.testing.assert_array_equal(labels.array, wanted)
    assert labels.present == (60, 126, 127)


def test_a_cropped_mask_is_laid_on_its_scan(tmp_path):
    scan = read(write_aim(tmp_path / "scan.aim", stored((20, 22, 24)), pos=(100, 200, 300)))
    part = mask()
    path = write_aim(tmp_path / "trab.aim", part, kind=TWO_VALUES, version=30, pos=(105, 203, 307))
    laid = read_labels(path, scan.grid)
    wanted = np.zeros((20, 22, 24))
    wanted[7:14, 3:12, 5:16] = part
    np.testing.assert_array_equal(laid, wanted)
    shifted = write_aim(tmp_path / "other.aim", part, pos=(105, 203, 307), el=(0.082, 0.082, 0.0607))
    with pytest.raises(InputError, match="the grid of the scan"):
        read_labels(shifted, scan.grid)


@pytest.mark.parametrize("name", ["A.AIM", "a.aim", "A.AIM;1", "a.aim;12", "Aé b.AIM;3"])
def test_names_as_the_scanner_gives_them(tmp_path, name):
    volume = read(write_aim(tmp_path / name, stored()))
    assert volume.provenance["stem"] == stem_of(tmp_path / name) == name.split(".")[0]
    assert volume.provenance["inputs"][0]["format"] == "aim"
    np.testing.assert_allclose(volume.array, density_of(stored()), atol=1e-3)


def test_another_material_is_kept(tmp_path):
    volume = read(write_aim(tmp_path / "a.aim", stored(), log=log_text(densityunit="mg K2HPO4/ccm")))
    assert volume.material == "K2HPO4"
    with pytest.raises(InputError, match="HA as --material says, got K2HPO4 by its header"):
        read(tmp_path / "a.aim", material="HA")


def test_the_call_must_agree_with_the_header(tmp_path):
    path = write_aim(tmp_path / "a.aim", stored())
    assert read(path, unit="mg/cm3", material="HA").provenance["density_from"] == "header"
    with pytest.raises(InputError, match="HU as --unit says"):
        read(path, unit="hu")
    with pytest.raises(InputError, match="calibrated already as its header says"):
        read(path, calibration=(1.0, 0.0))
    with pytest.raises(InputError, match="a scan in HU"):
        read_hu(path)


def test_another_scaling_than_the_usual_counts(tmp_path):
    """Micro-CT scanners store 4096 of 1/cm; a fixed 8192 would halve the density above the intercept."""
    said = log_text(
        muscaling="4096", scaledbyfactor="4096.0", calibrationdata="70 kVp, BH: 200 mg HA/ccm, Scaling 4096"
    )
    wanted = density_of(stored(), mu_scaling=4096)
    np.testing.assert_allclose(
        read(write_aim(tmp_path / "a.aim", stored(), log=said)).array, wanted, atol=2e-3
    )
    isq = write_isq(tmp_path / "a.isq", stored(), b88=4096, text="70 kVp, BH: 200 mg HA/ccm, Scaling 4096")
    np.testing.assert_allclose(read(isq).array, wanted, atol=2e-3)


def test_voxels_that_were_resampled_before_are_told_of(tmp_path):
    volume = read(write_aim(tmp_path / "a.aim", stored(), el=(0.164, 0.164, 0.164)))
    assert "0.164 x 0.164 x 0.164 mm where the scan had 0.082" in volume.warnings[0]


def test_numbers_without_bone_are_told_of(tmp_path):
    """1/cm in a float image is what a script may leave, while the log still says 8192 of 1/cm."""
    numbers = (stored() / MU_SCALING).astype(np.float32)
    volume = read(write_aim(tmp_path / "a.aim", numbers))
    assert "no voxel above -394 mg/cm3" in volume.warnings[0]


def test_no_name_of_a_patient_gets_out(tmp_path, qctrun):
    """Not into provenance, not into what info prints, not into the record of a run."""
    scan = write_aim(tmp_path / "a.aim", stored((24, 24, 24)), el=(0.5, 0.5, 0.5))
    isq = write_isq(tmp_path / "b.isq", stored())
    trabecular = write_aim(tmp_path / "m.aim", mask((24, 24, 24)), kind=RUNS, el=(0.5, 0.5, 0.5))
    said = [json.dumps(describe(path)) for path in (scan, isq, trabecular)]
    said += [json.dumps(dict(read(path).provenance)) for path in (scan, isq)]
    said += [
        qctrun("info", path, *words).out for path in (scan, isq, trabecular) for words in ((), ("--json",))
    ]
    done = qctrun("params", scan, "--mask", trabecular, "--out", tmp_path / "out", "--device", "cpu")
    assert done.code == 0, done.err
    done = qctrun("peel", trabecular, "--mm", "0.6", "--out", tmp_path / "peeled")
    assert done.code == 0, done.err
    files = [*(tmp_path / "out").iterdir(), *(tmp_path / "peeled").iterdir()]
    assert len(files) > 4
    held = b"".join([*(file.read_bytes() for file in files), *(text.encode() for text in said)])
    for word in (PATIENT, "DOE", "JANE", "D0000123", "11:02"):
        assert word.encode() not in held, word
    assert json.loads((tmp_path / "out" / "params.run.json").read_text())["inputs"]


def test_info_says_what_a_file_holds(tmp_path, qctrun):
    said = qctrun("info", write_aim(tmp_path / "a.AIM;1", stored(), version=30)).out
    assert "format: aim" in said and "AIM 030" in said and "1619.08 mu -394.095 mg HA/cm3" in said
    said = qctrun("info", write_aim(tmp_path / "m.aim", mask(), kind=RUNS)).out
    assert "values: char in run lengths (a mask)" in said and "1619" not in said
    said = qctrun("info", write_isq(tmp_path / "b.isq", stored(), calibrated=False)).out
    assert "no calibration section" in said


def test_headers_and_packed_masks_need_no_itk(tmp_path):
    """Nor does a start, nor the reading of anything else."""
    write_aim(tmp_path / "a.aim", stored())
    write_aim(tmp_path / "m.aim", mask(), kind=RUNS)
    code = (
        "import sys; sys.modules['itk'] = None\n"
        "from qctrun.runtime.reading import describe, load_label_map, read\n"
        "from qctrun.runtime.errors import RuntimeMissingError\n"
        "print(describe('a.aim')['unit'], load_label_map('m.aim').present)\n"
        "try:\n    read('a.aim')\n"
        "except RuntimeMissingError as error:\n    print(error, error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "mg/cm3 (127,)"
    assert 'got not installed; type: pip install "qctrun[scanco]" 5' in second


@pytest.mark.parametrize("name", ["scan.aim", "scan.mha"])
def test_memory_stays_bounded(tmp_path, name):
    """At 82 um: the array that is returned and what is needed beside it, measured in a process of its own."""
    numbers = np.random.default_rng(0).integers(-1500, 15000, (120, 400, 400), dtype=np.int16)
    loaded = ""
    if name.endswith("mha"):
        image = sitk.GetImageFromArray(numbers.astype(np.float32))
        image.SetSpacing((0.082, 0.082, 0.082))
        sitk.WriteImage(image, str(tmp_path / name))
    else:
        write_aim(tmp_path / name, numbers)
        loaded = "import itk; itk.ImageFileReader[itk.Image[itk.SS, 3]], itk.ScancoImageIO\n"
    code = (
        f"import re, sys\n{loaded}"
        "from pathlib import Path\n"
        "def peak():\n"
        "    return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "from qctrun.runtime.reading import read\n"
        "before = peak()\n"
        "volume = read(sys.argv[1], unit='mg/cm3', material='HA')\n"
        "print((peak() - before) / volume.array.nbytes)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) < (3 if name.endswith("mha") else 2), done.stdout
