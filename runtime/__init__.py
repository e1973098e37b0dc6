"""What a host program embeds: files to volumes, volumes to maps and numbers, results to files.

    from qctrun.runtime import read, Filter, local_maps, parameters, write

    volume = read("scan/", calibration=(0.8, 0.0), material="HA")
    filtered = Filter(device="auto")(volume)
    maps = local_maps(filtered, thresholds=(200, 225, 250))

`filter_and_measure` does the last two in one go, on a GPU without a way back in between.

Every name is loaded when it is first used, so that importing this package costs nothing.
"""

from typing import TYPE_CHECKING

__all__ = [
    "Filter",
    "Grid",
    "Trip",
    "Volume",
    "filter_and_measure",
    "local_maps",
    "parameters",
    "read",
    "write",
    "write_dicom",
]

if TYPE_CHECKING:
    from qctrun.runtime.filtering import Filter
    from qctrun.runtime.measuring.maps import local_maps
    from qctrun.runtime.measuring.parameters import parameters
    from qctrun.runtime.reading import read
    from qctrun.runtime.trip import Trip, filter_and_measure
    from qctrun.runtime.volume import Grid, Volume
    from qctrun.runtime.writing import write, write_dicom
else:
    import importlib

    _HOMES = {
        "Filter": "filtering",
        "Grid": "volume",
        "Trip": "trip",
        "Volume": "volume",
        "filter_and_measure": "trip",
        "local_maps": "measuring",
        "parameters": "measuring",
        "read": "reading",
        "write": "writing",
        "write_dicom": "writing",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
