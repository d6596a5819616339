"""The attributes that a reading or its results depend on: what a second send of an instance must not change unseen.

`tests/storage/test_compared.py` traces what `ai` and `results` read of images, and fails where an attribute is read
that is not listed here. A sequence is compared with everything in it.
"""

from __future__ import annotations

from pydicom.datadict import tag_for_keyword


def _tags(*keywords: str) -> frozenset[int]:
    return frozenset(int(tag) for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None)


# A model may read adults alone, or take a size that is usual for a woman.
_PATIENT = _tags(
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
)
# Which side is which. The functional groups say it of enhanced images, frame by frame.
_SIDE = _tags(
    "ViewPosition",
    "PatientOrientation",
    "ImageOrientationPatient",
    "Laterality",
    "ImageLaterality",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
# How many pixels there are, and what their stored values mean.
_PIXELS = _tags(
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "LUTDescriptor",  # at the top level no standard object has these two; pydicom asks for them all the same
    "LUTData",
)
SAFETY = _PATIENT | _SIDE | _PIXELS
"""What an earlier reading said may be of somebody else, or of the other side, if one of these changes."""

COMPARED = SAFETY | _tags(
    # What the image is, and which route and model take it.
    *("SOPClassUID", "ImageType", "Modality", "PresentationIntentType", "BodyPartExamined", "BurnedInAnnotation"),
    *("StudyDescription", "SeriesDescription", "SeriesNumber", "InstanceNumber", "SeriesInstanceUID"),
    # What results copy.
    *("StudyDate", "StudyTime", "StudyID", "TimezoneOffsetFromUTC", "ReferringPhysicianName", "InstitutionName"),
    *("StationName", "PositionReferenceIndicator", "FrameOfReferenceUID"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    # The order.
    *("AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferencedStudySequence", "RequestAttributesSequence"),
    *("RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence"),
    *("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"),
    # Sizes and places.
    *("ImagePositionPatient", "PixelSpacing", "PixelSpacingCalibrationType", "ImagerPixelSpacing"),
    *("NominalScannedPixelSpacing", "PixelAspectRatio", "SliceThickness"),
    # How it is displayed, which is also what a model sees of a radiograph.
    *("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence"),
    *("PresentationLUTShape", "PixelPaddingValue", "PixelPaddingRangeLimit", "ShutterShape"),
    *("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge"),
    *("ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter"),
    *("VerticesOfThePolygonalShutter", "ShutterPresentationValue"),
    # Which images are one stack of slices.
    *("AcquisitionNumber", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime"),
    *("TemporalPositionIdentifier", "TriggerTime", "EchoTime", "EchoNumbers", "KVP", "ConvolutionKernel"),
    *("DiffusionBValue", "ComplexImageComponent", "ContrastBolusAgent", "ContrastBolusAgentSequence"),
)
"""All that is compared, `SAFETY` included."""

OTHERWISE = {
    **dict.fromkeys(_tags("SpecificCharacterSet"), "texts are compared as it decodes them"),
    **dict.fromkeys(_tags("SOPInstanceUID", "StudyInstanceUID"), "they are the key of an instance"),
    **dict.fromkeys(
        _tags("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable"),
        "pixels are compared as they are encoded, or decoded by the reading process",
    ),
}
"""What is read too, and is compared in another way, or needs no comparison, with the reason."""
