"""AIM and ISQ files, byte by byte from their layout, without the library that reads them."""

import struct

import numpy as np

MU_SCALING, SLOPE, INTERCEPT, MU_WATER = 8192, 1619.07703, -394.095001, 0.2409
TYPES = {
    "int8": 0x00010001,
    "uint8": 0x00160001,
    "int16": 0x00020002,
    "uint16": 0x00170002,
    "float32": 0x001A0004,
}
RUNS, TWO_VALUES, BITS = 0x00080002, 0x00150001, 0x00060001
PATIENT = "DOE^JANE 1950"
LOG = {
    "Created by": "ISQ_TO_AIM (IPL)",
    "Time": "14-MAR-2013 12:24:42.20",
    "Original file": "dk0:[microct.data.00000123]D0000123.ISQ;1",
    "Original Creation-Date": "14-MAR-2013 11:02:13.60",
    "Orig-ISQ-Dim-p": "1536       1536        110",
    "Orig-ISQ-Dim-um": "125952     125952       9020",
    "Patient Name": PATIENT,
    "Index Patient": "123",
    "Index Measurement": "456",
    "Site": "20",
    "Scanner ID": "3330",
    "Energy [V]": "59400",
    "Intensity [uA]": "900",
    "Mu_Scaling": f"{MU_SCALING}",
    "Calibration Data": "60 kVp, BH: 200 mg HA/ccm, Scaling 8192",
    "Calib. default unit type": "2 (Density)",
    "Density: unit": "mg HA/ccm",
    "Density: slope": f"{SLOPE:.8e}",
    "Density: intercept": f"{INTERCEPT:.8e}",
    "HU: mu water": f"{MU_WATER}",
    "Parameter name": "Linear Attenuation",
    "Parameter units": "[1/cm]",
    "Scaled by factor": "8192.00000",
    "Minimum data value": "-1500.00000",
}
"""The log of an AIM that was made from the scan of a nobody."""


def stored(shape=(4, 5, 6), dtype=np.int16, seed=0):
    """Numbers as a scanner stores them, from air to cortical bone."""
    return np.random.default_rng(seed).integers(-1500, 15000, shape).astype(dtype)


def density_of(numbers, slope=SLOPE, intercept=INTERCEPT, mu_scaling=MU_SCALING):
    """mg/cm3 of stored numbers, in doubles: first mu in 1/cm, then the line."""
    return np.asarray(numbers, np.float64) / mu_scaling * slope + intercept


def log_text(**changes):
    """The log in words; None takes a line away. Keys are named by their letters and digits alone."""
    lines = {key: changes.pop(_plain(key), value) for key, value in LOG.items()}
    assert not changes, changes
    said = [f"{key:<30}{value:<50}" for key, value in lines.items() if value is not None]
    return "! \n! Processing Log \n!\n!" + 79 * "-" + "\n" + "\n".join(said) + "\n"


def write_aim(
    path, values, *, version=20, kind=None, pos=(0, 0, 0), off=(0, 0, 0), el=(0.082,) * 3, log=None, **lies
):
    """Write voxels (z, y, x) as an AIM of version 20 or 30; places and sizes run (x, y, z).

    `kind` packs a mask; `lies` replace `dim` (x, y, z), `type` or `data_bytes` of the header.
    """
    body = pack(values, kind, off, version)
    kind = lies.get("type", kind or TYPES[values.dtype.name])
    places = (*pos, *lies.get("dim", values.shape[::-1]), *off, *12 * (0,))
    text = (log_text() if log is None else log).encode("latin-1")
    if version == 30:
        block = struct.pack("<4i", 24, 0, 0, kind) + struct.pack("<21q", *places)
        block += struct.pack("<3q", *(round(mm * 1e6) for mm in el)) + bytes(16)
        start, layout, size = b"AIMDATA_V030   \0", "<5q", 40
    else:
        block = struct.pack("<6i", 16, 0, 0, 0, 0, kind) + struct.pack("<21i", *places)
        block += b"".join(map(vax_single, el)) + bytes(20)
        start, layout, size = b"", "<5i", 20
    lengths = struct.pack(layout, size, len(block), len(text), lies.get("data_bytes", len(body)), 0)
    path.write_bytes(start + lengths + block + text + body)
    return path


def write_isq(path, values, *, um=82.0, calibrated=True, multi=True, before=0, **fields):
    """Write voxels (z, y, x) as an ISQ.

    `fields` are whole numbers by their byte, `b44=...`, or parts of the calibration; `before` blocks of another section
    stand before it.
    """
    first = bytearray(512)
    first[:16] = b"CTDATA-HEADER_V1"
    sizes = values.shape[::-1]
    extents = [round(um * count) for count in sizes]
    numbers = {16: 3, 20: values.nbytes, 24: values.nbytes // 512, 28: 123, 32: 3330}
    numbers |= {44 + 4 * axis: count for axis, count in enumerate(sizes)}
    numbers |= {56 + 4 * axis: extent for axis, extent in enumerate(extents)}
    numbers |= {68: int(um), 72: int(um), 76: 9000, 88: MU_SCALING, 168: 59400, 172: 900}
    rest = _sections(multi, before, fields) if calibrated else b""
    numbers[508] = len(rest) // 512
    numbers |= {int(name[1:]): value for name, value in fields.items() if name[1:].isdecimal()}
    for at, value in numbers.items():
        struct.pack_into("<i", first, at, value)
    first[128:168] = PATIENT.encode().ljust(40)
    path.write_bytes(bytes(first) + rest + values.astype("<i2").tobytes())
    return path


def _sections(multi, before, fields):
    """A directory, a section of something else, and the calibration."""
    directory, block = bytearray(512), bytearray(1024)
    entries = [(b"Other           ", before)] * bool(before) + [(b"Calibration     ", 2)]
    for entry, (name, blocks) in enumerate(entries):
        directory[128 * entry + 8 : 128 * entry + 24] = name
        struct.pack_into("<i", directory, 128 * entry + 24, fields.get("section_blocks", blocks))
    text = fields.get("text", LOG["Calibration Data"])
    block[28:92] = text.encode().ljust(64)
    struct.pack_into("<i", block, 632, 2)
    block[648:664] = fields.get("unit", "mg HA/ccm").encode().ljust(16)
    line = {664: fields.get("slope", SLOPE), 672: fields.get("intercept", INTERCEPT), 688: MU_WATER}
    for at, value in line.items():
        block[at : at + 8] = vax_double(value)
    head = bytearray(512) if multi else bytearray()
    if multi:
        head[8:24] = b"MultiHeader     "
    return bytes(head + directory + bytes(512 * before) + block)


def pack(values, kind, off, version):
    """The bytes of voxels, packed if asked; runs leave out the border."""
    if kind == BITS:
        return _bits(values)
    if kind is None:
        return values.astype(values.dtype.newbyteorder("<")).tobytes()
    x, y, z = off
    inner = values[z : values.shape[0] - z, y : values.shape[1] - y, x : values.shape[2] - x].ravel()
    runs = _runs_of_two(inner) if kind == TWO_VALUES else _runs(inner)
    count = 8 if version == 30 else 4
    return struct.pack("<q", len(runs) + count)[:count] + runs


def _runs(numbers):
    found, current, length = bytearray(), int(numbers[0]), 0
    for value in map(int, numbers):
        if value != current or length == 255:
            found += struct.pack("<bB", current, length)
            current, length = value, 0
        length += 1
    return bytes(found + struct.pack("<bB", current, length))


def _runs_of_two(numbers):
    one = int(numbers[0])
    two = next((int(value) for value in numbers if value != one), 0)
    found, current, length = bytearray(struct.pack("<2b", one, two)), one, 0
    for value in map(int, numbers):
        if value != current:
            found.append(length)
            current, length = value, 0
        elif length == 254:  # 255 stands for 254 of which more follow
            found.append(255)
            length = 0
        length += 1
    return bytes(found + bytes([length]))


def _bits(mask):
    half = [(count + 1) // 2 for count in mask.shape]
    found = np.zeros(half, np.uint8)
    for z, y, x in np.argwhere(mask):
        found[z // 2, y // 2, x // 2] |= 1 << (4 * (z % 2) + 2 * (y % 2) + x % 2)
    return found.tobytes() + struct.pack("<b", int(mask.max()))


def vax_single(value):
    """An F-float: a quarter of it is what IEEE would read from its words in another order."""
    high, low = struct.unpack(">2H", struct.pack(">f", 4 * value))
    return struct.pack("<2H", high, low)


def vax_double(value):
    """A G-float, in the same way."""
    return struct.pack("<4H", *struct.unpack(">4H", struct.pack(">d", 4 * value)))


def _plain(key):
    return "".join(letter for letter in key.lower() if letter.isalnum())
