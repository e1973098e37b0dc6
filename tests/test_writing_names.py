"""Names of the outputs, as the documents state them."""

import pytest

from qctrun.runtime.errors import UsageError
from qctrun.runtime.writing.names import case_of, filtered_name, map_name, record_name, sidecar_name


def test_names_follow_the_documents() -> None:
    assert filtered_name("scan") == "scan_desc-nnsp_ct.nii.gz"
    assert filtered_name("scan", "mha") == "scan_desc-nnsp_ct.mha"
    assert map_name("scan", "BMD") == "scan_BMDmap.nii.gz"
    assert map_name("scan", "SD", "nrrd") == "scan_SDmap.nrrd"
    assert map_name("scan", ("BVTV", 200)) == "scan_thr200_BVTVmap.nii.gz"
    assert map_name("scan", ("TMD", 212.5)) == "scan_thr212.5_TMDmap.nii.gz"
    assert record_name("filter") == "filter.run.json"


@pytest.mark.parametrize("name", ["a.b.nii.gz", "a.b.nii", "a.b.mha", "a.b.nrrd", "a.b.NRRD"])
def test_a_sidecar_has_the_name_of_its_image(name: str) -> None:
    assert sidecar_name(name) == "a.b.json"


def test_a_sidecar_of_no_image_is_refused() -> None:
    with pytest.raises(UsageError):
        sidecar_name("table.csv")


def test_a_filtered_volume_belongs_to_the_case_of_its_scan() -> None:
    assert case_of("scan") == "scan"
    assert case_of(filtered_name("scan").removesuffix(".nii.gz")) == "scan"
