"""The order behind an image, as results carry it: which requested procedure they belong to.

Images say it in Request Attributes Sequence (0040,0275) of their series (PS3.3 10.6). So do our pictures, marks,
segmentations and pages, whose bytes are copied. Reports and key images say it in Referenced Request Sequence
(0040,A370) instead (PS3.3 C.17.2), which is made of the same bytes.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from dicom_node.results.source_bytes import (
    charset_terms,
    copied_sequence,
    copy_attributes,
    item_of,
    raw_element,
    sequence_items,
    tag_of,
    value_bytes,
)

ATTRIBUTES = (
    "RequestAttributesSequence",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
)
"""What results take from an image for its order, beside Accession Number and Study Instance UID."""

# Referenced Request Sequence, in the order of the tags; all but the issuer are type 1 or 2.
_TEXTS = (
    "AccessionNumber",
    "StudyInstanceUID",
    "RequestedProcedureDescription",
    "RequestedProcedureID",
    *ATTRIBUTES[1:],
)
_SEQUENCES = ("IssuerOfAccessionNumberSequence", "ReferencedStudySequence", "RequestedProcedureCodeSequence")


def copy_request_attributes(source: Dataset, target: Dataset) -> None:
    """Copy Request Attributes Sequence, in place; for objects with a General Series module."""
    copy_attributes(source, target, ["RequestAttributesSequence"])


def set_referenced_requests(source: Dataset, target: Dataset) -> None:
    """Set Referenced Request Sequence, in place; for reports and key images.

    There is an item for each request that the image names. If it names none and has an Accession Number, there is one
    item with that; else there is no sequence, since nobody knows of a request (type 1C).
    """
    named = sequence_items(source, tag_of("RequestAttributesSequence"))
    if not named and not value_bytes(source, tag_of("AccessionNumber")).strip(b" \0"):
        return
    charset = charset_terms(source)
    items = b"".join(item_of(_request(source, item, charset)) for item in named or [Dataset()])
    tag = tag_of("ReferencedRequestSequence")
    target[tag] = raw_element(tag, items)


def _request(source: Dataset, item: Dataset, charset: list[str]) -> Dataset:
    """One item as raw elements: what the request itself says, else what the image says."""
    request = Dataset()
    for tag in map(tag_of, _TEXTS):
        value = b"" if tag == tag_of("StudyInstanceUID") else value_bytes(item, tag, charset)
        request[tag] = raw_element(tag, value or value_bytes(source, tag))
    for keyword in _SEQUENCES:
        tag = tag_of(keyword)
        value = copied_sequence(item, tag, charset)
        if not value and keyword.startswith("Issuer"):
            value = copied_sequence(source, tag, charset)
        if value or not keyword.startswith("Issuer"):  # the others are type 2
            request[tag] = raw_element(tag, value)
    return request
