"""What highdicom gets wrong, mended in one place, each with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from dicom_node.results.encode import local_time
from dicom_node.results.run import Run
from dicom_node.results.source import Source
from dicom_node.results.source_bytes import tag_of


def mend_secondary_capture(dataset: Dataset, run: Run, source: Source) -> None:
    """Set what highdicom's SCImage sets otherwise or not at all, in place."""
    at = local_time(run, source.header)
    # It stamps the clock's time.
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    dataset.ImageType = ["DERIVED", "SECONDARY"]  # it adds OTHER, a value of no defined meaning
    dataset.ConversionType = "WSD"  # it says DI, digitized interface: the picture was made on a workstation
    dataset.BurnedInAnnotation = "YES"  # it leaves this open, and the scores are burned in
    # It demands an orientation: the source's, and empty (type 2C) where the source does not know it.
    dataset.PatientOrientation = None


def set_picture(dataset: Dataset, rgb: NDArray[np.uint8]) -> None:
    """Put the pixels (rows x columns x 3) into a finished Secondary Capture: highdicom copies a picture twice.

    They are not copied here either: the picture is not to be written to any more.
    """
    dataset.Rows, dataset.Columns = rgb.shape[:2]
    pixels: Any = np.ascontiguousarray(rgb).data.cast("B")
    tag = tag_of("PixelData")
    # 8 bits allocated are bytes (PS3.5 A.2); highdicom leaves OB or OW open.
    dataset[tag] = RawDataElement(tag, "OB", len(pixels), pixels, 0, False, True)


def add_inferred_from(measurement: Dataset, region: Dataset) -> None:
    """Hang a region under the measurement that was inferred from it (PS3.16 TID 320), in place.

    TID 320 gives that SCOORD no concept name; highdicom can neither build one without a name nor collect the evidence
    of a document that holds one, and it allows none in a planar ROI at all: so it is added to the finished document.
    """
    inferred = Dataset()
    inferred.RelationshipType = "INFERRED FROM"
    inferred.ValueType = "SCOORD"
    inferred.GraphicType = region.GraphicType
    inferred.GraphicData = region.GraphicData
    inferred.ContentSequence = list(region.ContentSequence)
    # Its content items refuse an unnamed child when it is assigned as an attribute.
    tag = tag_of("ContentSequence")
    measurement[tag] = DataElement(tag, "SQ", [inferred])
