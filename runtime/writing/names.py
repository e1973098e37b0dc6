"""How the outputs are called: `<stem>_desc-nnsp_ct.nii.gz`, `<stem>_thr200_BVTVmap.nii.gz`, ..."""

from collections.abc import Iterable
from pathlib import PurePath

from qctrun.runtime.errors import UsageError
from qctrun.runtime.formats import DICOM, WRITABLE, suffix_of
from qctrun.runtime.volume import MapKey

TABLE_NAME = "params.csv"
DICTIONARY_NAME = "params.json"

_FILTERED = "_desc-nnsp_ct"


def filtered_stem(stem: str) -> str:
    """What the filtered volume of the scan called `stem` is called."""
    return f"{stem}{_FILTERED}"


def filtered_name(stem: str, fmt: str = "nii.gz") -> str:
    """File name of the filtered volume of the scan called `stem`; of DICOM a folder, which ends in `/`."""
    return filtered_stem(stem) + ("/" if fmt == DICOM else f".{fmt}")


def map_name(stem: str, key: MapKey, fmt: str = "nii.gz") -> str:
    """File name of one parameter map of the volume called `stem`."""
    suffix = "dcm" if fmt == DICOM else fmt
    if isinstance(key, str):
        return f"{stem}_{key}map.{suffix}"
    quantity, threshold_mg_cm3 = key
    return f"{stem}_thr{threshold_mg_cm3:.10g}_{quantity}map.{suffix}"


def peeled_name(stem: str) -> str:
    """File name of the inside of the mask called `stem`."""
    return f"{stem}_desc-peeled_mask.nii.gz"


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


def is_dicom_output(name: str) -> bool:
    """Whether an output of this name is DICOM: a folder of slices or a map."""
    return name.endswith(("/", ".dcm"))


def with_sidecars(images: Iterable[str]) -> list[str]:
    """Names of images with those of their sidecars before them, each once; DICOM needs none."""
    names: dict[str, None] = {}
    for image in images:
        if not is_dicom_output(image):
            names[sidecar_name(image)] = None
        names[image] = None
    return list(names)


def sidecar_name(name: str) -> str:
    """File name of the JSON sidecar of the image called `name`: its suffix replaced by `.json`."""
    return name[: -len(image_suffix(PurePath(name)))] + ".json"
