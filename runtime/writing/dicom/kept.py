"""What a derived object takes over from the scan: patient, study and place, and how the scan was taken.

Lists of what is kept, not of what is left out: private tags, icons, overlays, references to further objects and
whatever else a scanner adds say nothing true of other pixels.
"""

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset


def _names(text: str) -> list[str]:
    return text.split()


PATIENT = _names("""
    PatientName PatientID IssuerOfPatientID TypeOfPatientID IssuerOfPatientIDQualifiersSequence
    PatientBirthDate PatientBirthTime PatientSex OtherPatientNames OtherPatientIDsSequence EthnicGroup
    PatientComments QualityControlSubject PatientIdentityRemoved DeidentificationMethod
    DeidentificationMethodCodeSequence LongitudinalTemporalInformationModified PatientSpeciesDescription
    PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence BreedRegistrationSequence
    ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization
""")
STUDY = _names("""
    StudyInstanceUID StudyDate StudyTime StudyID StudyDescription AccessionNumber
    IssuerOfAccessionNumberSequence ReferringPhysicianName ProcedureCodeSequence ConsultingPhysicianName
    PhysiciansOfRecord NameOfPhysiciansReadingStudy PatientAge PatientSize PatientWeight
    PatientBodyMassIndex PatientSexNeutered AdmittingDiagnosesDescription MedicalAlerts Allergies
    Occupation SmokingStatus AdditionalPatientHistory PregnancyStatus LastMenstrualDate AdmissionID
    ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID
    ClinicalTrialSiteName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialTimePointID
    ClinicalTrialTimePointDescription ClinicalTrialProtocolEthicsCommitteeName
    ClinicalTrialCoordinatingCenterName
""")
PLACE = ["FrameOfReferenceUID", "PositionReferenceIndicator"]
TEXTS = ["SpecificCharacterSet", "TimezoneOffsetFromUTC"]
SERIES = _names("""
    BodyPartExamined AnatomicRegionSequence ProtocolName PatientPosition Laterality
    PerformingPhysicianName OperatorsName RequestAttributesSequence AnatomicalOrientationType
""")
ACQUISITION = _names("""
    AcquisitionDate AcquisitionTime AcquisitionDateTime AcquisitionNumber IrradiationEventUID ScanOptions
    KVP DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient
    TableHeight RotationDirection ExposureTime XRayTubeCurrent Exposure FilterType GeneratorPower
    FocalSpots ConvolutionKernel RevolutionTime SingleCollimationWidth TotalCollimationWidth TableSpeed
    TableFeedPerRotation SpiralPitchFactor ExposureModulationType CTDIvol CTDIPhantomTypeCodeSequence
    DataCollectionCenterPatient ReconstructionTargetCenterPatient ContrastBolusAgent
    ContrastBolusAgentSequence ContrastBolusRoute ContrastBolusVolume ContrastBolusTotalDose
    ContrastFlowRate ContrastFlowDuration ContrastBolusIngredient ContrastBolusIngredientConcentration
""")
LOSSES = _names("""
    LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod BurnedInAnnotation
    RecognizableVisualFeatures
""")
EQUIPMENT = _names("""
    Manufacturer ManufacturerModelName InstitutionName InstitutionAddress StationName
    InstitutionalDepartmentName DeviceSerialNumber SoftwareVersions DateOfLastCalibration
    TimeOfLastCalibration
""")
REFERENCE = _names("""
    SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesNumber SeriesDescription Modality Rows Columns
    NumberOfFrames PixelSpacing SliceThickness ImagePositionPatient ImageOrientationPatient
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence ImageType ContentDate ContentTime
    SeriesDate SeriesTime
""")
"""The last is what is looked at to refer to the scan, and never copied as it stands."""

ALL = [*PATIENT, *STUDY, *PLACE, *TEXTS, *SERIES, *ACQUISITION, *LOSSES, *EQUIPMENT, *REFERENCE]

EMPTY_IF_UNKNOWN = _names("""
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber
    ReferringPhysicianName PositionReferenceIndicator
""")
"""Tags that every object must have, if only empty (type 2)."""

UNPAIRED = _names("""
    ABDOMEN ABDOMENPELVIS AORTA BLADDER BRAIN CHEST CHESTABDOMEN CHESTABDPELVIS COCCYX COLON CSPINE CTSPINE
    HEAD HEADNECK HEART JAW LARYNX LIVER LSPINE LSSPINE MEDIASTINUM NECK NECKCHEST NECKCHESTABDOMEN
    NECKCHESTABDPELV PANCREAS PELVIS PROSTATE SKULL SPINE SPLEEN SSPINE STERNUM STOMACH TLSPINE TSPINE UTERUS
    WHOLEBODY
""")
"""Parts of the body that have no left and right, as they are spelt in DICOM (PS3.16, annex L)."""


def kept(dataset: Dataset, names: list[str]) -> Dataset:
    """A new dataset with those of these tags that hold something, or must be there, and can be read.

    A date, number or code that breaks the rules of its type is left out: no sound object may hold it. Names and
    numbers that say whose the scan is stay as they are, right or wrong, for an archive to know them again.
    """
    found = Dataset()
    for name in names:
        try:
            if name in dataset and (name in EMPTY_IF_UNKNOWN or not dataset[name].is_empty):
                found[name] = _sound(dataset[name])
        except (
            Exception
        ):  # what a malformed value makes the library raise is open-ended; a derived object goes without
            continue
    return found


def say_side(dataset: Dataset) -> None:
    """Leave the side of the body empty where it is not known, and away where there is none."""
    if dataset.get("BodyPartExamined") in UNPAIRED:
        dataset.pop("Laterality", None)
    elif "Laterality" not in dataset:
        dataset.Laterality = None


def _sound(element: DataElement) -> DataElement:
    whose = element.keyword in _WHOSE and element.VR in ("PN", "LO", "SH", "UI", "LT", "ST")
    if whose or (element.keyword in REFERENCE and element.VR not in ("DA", "TM")):
        return element
    if element.VR == "SQ":
        return DataElement(element.tag, "SQ", [_sound_item(item) for item in element.value])
    return DataElement(element.tag, element.VR, element.value, validation_mode=pydicom.config.RAISE)


def _sound_item(item: Dataset) -> Dataset:
    found = kept(item, [each.keyword for each in item if each.keyword])
    if "CodeValue" in item and "CodeValue" not in found:
        raise ValueError("a code without its value says nothing")
    return found


_WHOSE = frozenset([*PATIENT, *STUDY])
