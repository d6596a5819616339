"""Images of nobody, and where the real ones are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.support.programs import ROOT

DATA = Path(os.environ.get("DICOM_NODE_REAL_DATA", ROOT.parent / "shared" / "data"))


def make_image(**attributes: Any) -> FileDataset:
    """A small valid chest radiograph (CR), every attribute replaceable; of nobody."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = ComputedRadiographyImageStorage
    image.SOPInstanceUID = generate_uid(None)
    image.StudyInstanceUID = generate_uid(None)
    image.SeriesInstanceUID = generate_uid(None)
    image.Modality = "CR"
    image.BodyPartExamined = "CHEST"
    image.ViewPosition = "PA"
    image.StudyDescription = "Chest"
    image.SeriesDescription = "PA"
    image.PatientName = "TEST^NOBODY"
    image.PatientID = "TEST-1"
    image.PatientBirthDate = image.PatientSex = ""
    image.StudyDate = "20260101"
    image.StudyTime = "120000"
    image.StudyID = image.AccessionNumber = image.ReferringPhysicianName = ""
    image.SeriesNumber = image.InstanceNumber = 1
    image.Rows = image.Columns = 64
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth = 2048, 4096
    image.PixelData = np.arange(64 * 64, dtype=np.uint16).tobytes()
    for name, value in attributes.items():
        setattr(image, name, value)
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def reading_text(**changes: Any) -> str:
    """A reading as the index keeps it: JSON, every attribute replaceable; of no image, with no finding."""
    whole = {"model": {"notice": ""}, "sources": [], "seconds": {}, "classes": [], "findings": []}
    return json.dumps({**whole, **changes})
