"""The size of a finding in mm: the sides of its box, if the source gives its pixel size (PS3.3 10.7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.dataset import Dataset

from ai.contract import Region
from dicom_node.results.source import on_image
from dicom_node.results.source_bytes import numbers_of, text_of
from dicom_node.results.words.language import Words

_PROJECTIONS = frozenset(["CR", "DX", "MG", "RF", "XA", "IO", "PX", "RG", "DR"])


@dataclass(frozen=True, slots=True)
class Size:
    """The sides of a finding's box in mm, the longer one first.

    ``at_detector``: the size is the one on the detector of a projection radiograph, where the diverging beam magnifies.
    """

    long: float
    short: float
    at_detector: bool


def size_of(region: Region, header: Dataset) -> Size | None:
    """The size of a region. None if the source's pixel spacing is absent, malformed or of unknown meaning.

    PS3.3 10.7: the Pixel Spacing of a slice is valid in the patient. That of a projection is valid there only if it was
    calibrated: the source says so, or it differs from Imager Pixel Spacing. Otherwise both are those of the detector.
    """
    spacing, at_detector = _spacing(header)
    if spacing is None:
        return None
    left, top, right, bottom = on_image(region, header)
    height, width = (bottom - top) * spacing[0], (right - left) * spacing[1]
    if not (0 < height < 10_000 and 0 < width < 10_000):  # ten metres: the spacing is no spacing
        return None
    return Size(max(height, width), min(height, width), at_detector)


def caveat(sizes: Iterable[Size], words: Words) -> str:
    """How far sizes can be trusted, without a full stop."""
    at_detector = any(size.at_detector for size in sizes)
    return words.sides_of_box + (f"; {words.at_detector}" if at_detector else "")


def _spacing(header: Dataset) -> tuple[tuple[float, float] | None, bool]:
    """The spacing between rows and between columns in mm (or None), and whether it is that of the detector."""
    spacing, imager = _pair(header, "PixelSpacing"), _pair(header, "ImagerPixelSpacing")
    # A spacing that is the detector's is that of a projection, whatever modality the image claims to be.
    if text_of(header, "Modality") not in _PROJECTIONS and (imager is None or imager != spacing):
        return spacing or _shared_spacing(header), False
    if spacing is None:
        return imager, True
    calibrated = bool(text_of(header, "PixelSpacingCalibrationType")) or (imager is not None and imager != spacing)
    return spacing, not calibrated


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
