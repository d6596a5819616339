"""A phantom as a Digital X-Ray Image - For Presentation (PS3.3 section A.26), as a machine in a hospital sends it.

The patient is invented. Every UID is derived from the seed, so that the same phantom is the same object.
"""

from __future__ import annotations

from datetime import datetime
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from ai.phantom.draw import Phantom

DX_FOR_PRESENTATION = UID("1.2.840.10008.5.1.4.1.1.1.1")
_IMPLEMENTATION = UID(f"2.25.{uuid5(NAMESPACE_OID, 'dicom-node phantom').int}")


def phantom_uid(seed: int, role: str) -> str:
    """The UID (2.25, PS3.5 section B.2) of a phantom's study, series or instance."""
    return f"2.25.{uuid5(NAMESPACE_OID, f'dicom-node phantom {role} {seed}').int}"


def to_dicom(
    phantom: Phantom,
    *,
    seed: int,
    now: datetime,
    study_uid: str | None = None,
    series_uid: str | None = None,
    sop_uid: str | None = None,
    patient_id: str | None = None,
    patient_name: str | None = None,
    accession_number: str | None = None,
    instance_number: int = 1,
) -> FileDataset:
    """The data set of a phantom, Explicit VR Little Endian, ready for ``save_as`` or C-STORE.

    Args:
        phantom: the drawn radiograph.
        seed: decides the identifiers and UIDs that are None.
        now: the date and time of the study and the image.
        study_uid: Study Instance UID, to put several phantoms into one study.
        series_uid: Series Instance UID, to put several phantoms into one series.
        sop_uid: SOP Instance UID.
        patient_id: None is "PHANTOM-" and the seed.
        patient_name: None is "PHANTOM^CHEST " and the seed.
        accession_number: None is "PH" and the seed.
        instance_number: the number of the image in the series.
    """
    instance = UID(sop_uid or phantom_uid(seed, "instance"))
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = DX_FOR_PRESENTATION
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "DICOM_NODE_PH"
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID = DX_FOR_PRESENTATION
    data.SOPInstanceUID = instance
    data.StudyInstanceUID = study_uid or phantom_uid(seed, "study")
    data.SeriesInstanceUID = series_uid or phantom_uid(seed, "series")
    data.PatientName = patient_name or f"PHANTOM^CHEST {seed}"
    data.PatientID = patient_id or f"PHANTOM-{seed}"
    data.AccessionNumber = accession_number or f"PH{seed}"[:16]
    data.InstanceNumber = instance_number
    _describe_study(data, seed, now)
    _describe_acquisition(data, phantom)
    _describe_pixels(data, phantom)
    return data


def _coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def _describe_study(data: Dataset, seed: int, now: datetime) -> None:
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    data.PatientBirthDate = f"{1940 + seed % 60}0101"
    data.PatientSex = "O"
    data.PatientComments = "Procedural phantom: no patient"
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = date
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = time
    data.InstanceCreationDate, data.InstanceCreationTime = date, time
    data.StudyID = str(seed)[:16]
    data.StudyDescription = "Chest radiograph (phantom)"
    data.ReferringPhysicianName = ""
    data.Modality = "DX"
    data.PresentationIntentType = "FOR PRESENTATION"
    data.SeriesNumber = 1
    data.Manufacturer = "dicom-node"
    data.ManufacturerModelName = "Procedural chest phantom"
    data.DeviceSerialNumber = "PHANTOM"
    data.SoftwareVersions = "1"
    data.InstitutionName = "Phantom hospital"
    data.PerformedProcedureStepDescription = "Chest"


def _describe_acquisition(data: Dataset, phantom: Phantom) -> None:
    data.SeriesDescription = f"Chest {phantom.view}"
    data.ProtocolName = f"Chest {phantom.view}"
    data.BodyPartExamined = "CHEST"
    data.AnatomicRegionSequence = [_coded("51185008", "SCT", "Chest")]
    view = ("399348003", "antero-posterior") if phantom.view == "AP" else ("272460009", "postero-anterior")
    data.ViewCodeSequence = [_coded(view[0], "SCT", view[1])]
    data.ViewCodeSequence[0].ViewModifierCodeSequence = []
    data.ViewPosition = phantom.view
    data.ImageLaterality = "U"
    # Rows run to the patient's left, columns to the feet, as chest radiographs are displayed.
    data.PatientOrientation = ["L", "F"]
    data.DetectorType = "DIRECT"
    data.DetectorID = "PHANTOM"
    data.PositionerType = ""
    data.KVP = "120"
    spacing = f"{phantom.pixel_spacing_mm:.6f}"
    data.ImagerPixelSpacing = [spacing, spacing]
    data.PixelSpacing = [spacing, spacing]
    data.PixelSpacingCalibrationType = "GEOMETRY"
    data.PixelSpacingCalibrationDescription = "Drawn at this scale"


def _describe_pixels(data: Dataset, phantom: Phantom) -> None:
    data.ImageType = ["ORIGINAL", "PRIMARY", ""]
    data.AcquisitionContextSequence = []
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = phantom.photometric
    data.Rows, data.Columns = phantom.pixels.shape
    data.BitsAllocated = 16
    data.BitsStored = phantom.bits_stored
    data.HighBit = phantom.bits_stored - 1
    data.PixelRepresentation = 0
    data.PixelIntensityRelationship = "LOG"
    inverse = phantom.photometric == "MONOCHROME1"
    # Sign 1: a larger stored value means more beam reached the detector (PS3.3 section C.8.11.3.1.2).
    data.PixelIntensityRelationshipSign = 1 if inverse else -1
    data.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    data.RescaleIntercept = "0"
    data.RescaleSlope = "1"
    data.RescaleType = "US"
    data.BurnedInAnnotation = "NO"
    data.LossyImageCompression = "00"
    data.WindowCenter = str(phantom.window_center)
    data.WindowWidth = str(phantom.window_width)
    data.WindowCenterWidthExplanation = "NORMAL"
    data.PixelData = np.ascontiguousarray(phantom.pixels, dtype="<u2").tobytes()
    data["PixelData"].VR = "OW"
