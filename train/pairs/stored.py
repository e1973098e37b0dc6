"""Volumes as entries of the cache, and back."""

from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.volume import Grid, Volume
from qctrun.train.pairs.cache import Entry
from qctrun.train.pairs.fixed import Fixed


def facts_of(volume: Volume) -> dict[str, Any]:
    """All of a volume but its numbers."""
    grid = volume.grid
    place = {"size": grid.size, "spacing": grid.spacing, "origin": grid.origin, "direction": grid.direction}
    told = {"unit": volume.unit, "material": volume.material, "provenance": volume.provenance}
    return {"grid": place, **told}


def volume_of(facts: dict[str, Any], array: npt.NDArray[Any]) -> Volume:
    """The volume whose facts these are."""
    return Volume(array, Grid(**facts["grid"]), facts["unit"], facts["material"], facts["provenance"])


def entry_of_fixed(fixed: Fixed) -> Entry:
    """A reference on the study's grid."""
    facts = {"volume": facts_of(fixed.density), "fixed": fixed.facts}
    return Entry(facts, {"density": fixed.density.array, "mask": fixed.mask})


def fixed_of(entry: Entry) -> Fixed:
    """What `entry_of_fixed` was given."""
    density = volume_of(entry.facts["volume"], entry.arrays["density"])
    return Fixed(density, entry.arrays["mask"], entry.facts["fixed"])


def packed_picture(picture: bytes | None) -> dict[str, npt.NDArray[np.uint8]]:
    """A PNG as an array of its bytes; nothing where there is none."""
    return {} if picture is None else {"picture": np.frombuffer(picture, np.uint8)}


def picture_of(entry: Entry) -> bytes | None:
    """The PNG of an entry."""
    found = entry.arrays.get("picture")
    return None if found is None else found.tobytes()
