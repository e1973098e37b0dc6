"""How the outputs are called: `<stem>_desc-nnsp_ct.nii.gz`, `<stem>_thr200_BVTVmap.nii.gz`, ..."""

from pathlib import PurePath

from qctrun.runtime.errors import UsageError
from qctrun.runtime.formats import WRITABLE, suffix_of
from qctrun.runtime.volume import MapKey

TABLE_NAME = "params.csv"
DICTIONARY_NAME = "params.json"

_FILTERED = "_desc-nnsp_ct"


def filtered_name(stem: str, fmt: str = "nii.gz") -> str:
    """File name of the filtered volume of the scan called `stem`."""
    return f"{stem}{_FILTERED}.{fmt}"


def map_name(stem: str, key: MapKey, fmt: str = "nii.gz") -> str:
    """File name of one parameter map of the volume called `stem`."""
    if isinstance(key, str):
        return f"{stem}_{key}map.{fmt}"
    quantity, threshold_mg_cm3 = key
    return f"{stem}_thr{threshold_mg_cm3:.10g}_{quantity}map.{fmt}"


def record_name(verb: str) -> str:
    """File name of the record of a run of `verb`."""
    return f"{verb}.run.json"


def case_of(stem: str) -> str:
    """The case that a volume belongs to: its stem, without what the filter added."""
    return stem.removesuffix(_FILTERED)


def image_suffix(path: PurePath) -> str:
    """The suffix of a path that an image can be written to, `.nii.gz` taken as one.

    Raises
    ------
    UsageError
        When it is none that can be written.
    """
    suffix = suffix_of(path, WRITABLE)
    if not suffix:
        wanted = f"a file name that ends in {', '.join(WRITABLE)}"
        raise UsageError(path.name, wanted=wanted, got=repr(path.suffix))
    return suffix


def sidecar_name(name: str) -> str:
    """File name of the JSON sidecar of the image called `name`: its suffix replaced by `.json`."""
    return name[: -len(image_suffix(PurePath(name)))] + ".json"
