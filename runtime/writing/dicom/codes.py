"""Coded words of derived objects: quantities, units, materials, purposes; own ones in the scheme 99QCTRUN."""

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from qctrun.runtime.volume import Material, Volume

SCHEME = "99QCTRUN"

SMOOTHING = Code("113087", "DCM", "Smoothing")
RESAMPLING = Code("113085", "DCM", "Spatial resampling")
LOCAL = Code("LOCAL", SCHEME, "Bone parameter of the sphere about each voxel")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")

MG_CM3 = Code("mg/cm3", "UCUM", "mg/cm3")
MILLIMETRE = Code("mm", "UCUM", "mm")
NO_UNITS = Code("1", "UCUM", "no units")

QUANTITY = Code("246205007", "SCT", "Quantity")
THRESHOLD = Code("122411", "DCM", "Threshold Value")
DIAMETER = Code("81827009", "SCT", "Diameter")
MATERIAL = Code("MATERIAL", SCHEME, "Calibration material")

QUANTITIES = {
    "BMD": Code("BMD", SCHEME, "Bone mineral density"),
    "SD": Code("SD", SCHEME, "Standard deviation of bone mineral density"),
    "BVTV": Code("BVTV", SCHEME, "Bone volume fraction"),
    "TMD": Code("TMD", SCHEME, "Tissue mineral density"),
}
MATERIALS: dict[Material, Code] = {
    "HA": Code("256579008", "SCT", "Calcium Hydroxyapatite"),
    "K2HPO4": Code("K2HPO4", SCHEME, "Dipotassium hydrogen phosphate"),
}


def item(code: Code) -> Dataset:
    """A code as the item of a code sequence."""
    dataset = Dataset()
    dataset.CodeValue, dataset.CodingSchemeDesignator = code.value, code.scheme_designator
    dataset.CodeMeaning = code.meaning
    return dataset


def quantity_of(volume: Volume) -> Code:
    """What the numbers of a volume are: of a local map its quantity, else density."""
    how = volume.provenance.get("map") or {}
    return QUANTITIES[str(how.get("quantity", "BMD"))]


def unit_of(volume: Volume) -> Code:
    """The unit of a volume of density or of fractions."""
    return NO_UNITS if volume.unit == "1" else MG_CM3


def definition(volume: Volume) -> list[Dataset]:
    """The quantity in coded words: what it is, of which material, and of a local map its threshold and sphere."""
    items = [_coded(QUANTITY, quantity_of(volume))]
    if volume.material is not None:
        items.append(_coded(MATERIAL, MATERIALS[volume.material]))
    how = volume.provenance.get("map") or {}
    if "threshold_mg_cm3" in how:
        items.append(_number(THRESHOLD, how["threshold_mg_cm3"], MG_CM3))
    if "diameter_mm" in how:
        items.append(_number(DIAMETER, how["diameter_mm"], MILLIMETRE))
    return items


def scheme() -> Dataset:
    """What the designator of the own codes stands for."""
    dataset = Dataset()
    dataset.CodingSchemeDesignator = SCHEME
    dataset.CodingSchemeName = "Codes of qctrun, bone parameters from quantitative CT"
    return dataset


def _coded(name: Code, value: Code) -> Dataset:
    dataset = Dataset()
    dataset.ValueType = "CODE"
    dataset.ConceptNameCodeSequence, dataset.ConceptCodeSequence = [item(name)], [item(value)]
    return dataset


def _number(name: Code, value: float, unit: Code) -> Dataset:
    dataset = Dataset()
    dataset.ValueType, dataset.NumericValue = "NUMERIC", f"{value:.10g}"
    dataset.ConceptNameCodeSequence, dataset.MeasurementUnitsCodeSequence = [item(name)], [item(unit)]
    return dataset
