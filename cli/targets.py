"""What `qctrun params` measures: what was typed, or what the last filter run has left."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import click

from qctrun.cli.call import Call
from qctrun.runtime.errors import InputError

_NO_RECORD = "INPUT is missing, and no filter run has left its record in {0}; write INPUT, or first: {1}"


@dataclass(frozen=True, slots=True)
class Target:
    """What to measure: an image, and the mask that goes with it."""

    image: Path
    mask: Path | None


def target_of(
    call: Call, source: Path | None, out: Path, mask: Path | None, series_uid: str | None
) -> Target:
    """The input as typed, or else what the last filter run has written; and the mask, typed or found."""
    from qctrun.runtime.reading import find_mask
    from qctrun.runtime.writing import record_name

    if source is None:
        record = _record_of_filter(out / record_name("filter"))
        target = _of_filter(call, record, mask)
        call.say(f"measuring {target.image}, named by {record}")
    else:
        target = Target(source, mask or find_mask(source, series_uid=series_uid))
    if mask is None and target.mask is not None:
        call.say(f"found the mask {near(target.mask)}")
    return target


def near(path: Path) -> Path:
    """A path as a person likes to read it; tables and records keep it whole."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) and here != here.parent else path


def _record_of_filter(record: Path) -> Path:
    """The record in the folder of --out, and in no other: after a filter that failed, it would be of another scan."""
    if not record.is_file():
        first = f"qctrun filter INPUT --out {shlex.quote(str(record.parent))}"
        raise click.UsageError(_NO_RECORD.format(record.parent, first))
    return record


def _of_filter(call: Call, path: Path, mask: Path | None) -> Target:
    """What a filter run has written and which mask goes with it, both as its record says."""
    from qctrun.runtime.writing import read_record

    record = read_record(path)
    try:
        options = record["options"]
        image = next(output for output in record["outputs"] if output["role"] == "image")
        name, digest = Path(image["path"]), str(image["sha256"])
        named = options["mask"] or options["mask_found"]
        recorded = Path(named) if named else None
    except (KeyError, TypeError, StopIteration) as error:
        got = "one that names no image or no mask"
        mend = "run qctrun filter again, or give INPUT"
        raise InputError(str(path), wanted="the record of a filter run", got=got, mend=mend) from error
    _require_same(path.parent / name, digest, path)
    if mask is None and recorded is not None:
        _look_at_mask(call, recorded, options.get("mask_sha256"), path)
    return Target(path.parent / name, mask or recorded)


def _require_same(image: Path, digest: str, record: Path) -> None:
    """Refuse a file that has taken the place of the one that the filter wrote."""
    from qctrun.runtime.writing import sum_of

    if (found := sum_of(image)) != digest:
        raise InputError(
            str(image),
            wanted=f"the file that {record} names, by its sha256",
            got="another file" if found else "no such file",
            mend="run qctrun filter again, or give INPUT",
        )


def _look_at_mask(call: Call, mask: Path, digest: str | None, record: Path) -> None:
    """Refuse a mask that has moved; say of one that it has changed."""
    from qctrun.runtime.writing import sum_of

    if not any(path.is_file() for path in (mask, *mask.parents)):  # it may lie in a zip
        raise InputError(
            str(mask), wanted=f"the mask that {record} names", got="no such file", mend="say --mask FILE"
        )
    if digest is not None and sum_of(mask) != digest:
        call.warn(f"the mask {near(mask)} has changed since the filter ran")
