"""The size of a finding in mm: the axes of its outline, if the source gives its pixel size (PS3.3 10.7)."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

from pydicom.dataset import Dataset

from ai.contract import Finding, Line
from dicom_node.results.source_bytes import numbers_of, text_of

_SLICES = frozenset(["CT", "MR", "PT", "NM"])
"""The modalities whose Pixel Spacing is that of a plane in the patient."""


@dataclass(frozen=True, slots=True)
class Size:
    """The axes of a finding's outline in mm.

    ``at_detector``: the size is the one on the detector of a projection radiograph, where the diverging beam magnifies.
    """

    long: float
    short: float
    at_detector: bool


def size_of(finding: Finding, header: Dataset) -> Size | None:
    """The size of a finding. None if its outline was not measured, or the source does not say how large a pixel is.

    PS3.3 10.7: the Pixel Spacing of a slice is valid in the patient. That of any other image (a projection, a localizer
    of CT, a photograph, a modality that nobody knows) is valid there only if it was calibrated: the source says so, or
    it differs from Imager Pixel Spacing. Imager Pixel Spacing is that of the detector. What a Pixel Spacing alone means
    on such an image is not known, so there is no size.
    """
    if finding.axes is None:
        return None
    spacing, at_detector = _spacing(header)
    if spacing is None:
        return None
    long, short = (_length(line, spacing) for line in (finding.axes.long, finding.axes.short))
    long, short = max(long, short), min(long, short)
    if not 0 < short <= long < 10_000:  # ten metres: the spacing is no spacing
        return None
    return Size(long, short, at_detector)


def _length(line: Line, spacing: tuple[float, float]) -> float:
    (left, top), (right, bottom) = line
    return hypot((right - left) * spacing[1], (bottom - top) * spacing[0])


def _spacing(header: Dataset) -> tuple[tuple[float, float] | None, bool]:
    """The spacing between rows and between columns in mm (or None), and whether it is that of the detector."""
    spacing, imager = _pair(header, "PixelSpacing"), _pair(header, "ImagerPixelSpacing")
    # A spacing that is the detector's is that of a projection, whatever modality the image claims to be.
    if _is_slice(header) and (imager is None or imager != spacing):
        return spacing or _shared_spacing(header), False
    if text_of(header, "PixelSpacingCalibrationType") or (spacing is not None and imager not in (None, spacing)):
        return spacing, False
    return imager, True


def _is_slice(header: Dataset) -> bool:
    modality = text_of(header, "Modality")
    # The localizer of a CT is a projection (PS3.3 C.8.2.1.1.1); that of an MR is a slice.
    kind = text_of(header, "ImageType").split("\\")[2:3]
    return modality in _SLICES and not (modality == "CT" and [each.strip() for each in kind] == ["LOCALIZER"])


def _shared_spacing(header: Dataset) -> tuple[float, float] | None:
    """The spacing of an enhanced multi-frame object, if it is the same for all frames (PS3.3 C.7.6.16.2.1)."""
    try:
        measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    except Exception:  # absent, or no sequence: pydicom raises nearly anything on bytes that are none
        return None
    return _pair(measures, "PixelSpacing")


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    values = numbers_of(dataset, keyword)
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None
