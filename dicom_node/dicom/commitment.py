"""Data sets of storage commitment (PS3.4 annex J): the request and its result."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

ALL_COMMITTED, SOME_FAILED = 1, 2  # event types of a result (PS3.4 J.3.3.1)
# Failure reasons (PS3.3 C.14.1.1).
PROCESSING_FAILURE, NO_SUCH_OBJECT, CLASS_CONFLICT, CLASS_NOT_SUPPORTED = 0x0110, 0x0112, 0x0119, 0x0122


def references(transaction_uid: str, objects: list[tuple[str, str]]) -> Dataset:
    """The action information of a request (PS3.4 table J.3-1).

    Args:
        transaction_uid: identifies the request in its result.
        objects: the SOP Class UID and SOP Instance UID of each object.
    """
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = Sequence(_reference(*each) for each in objects)
    return request


def report(
    transaction_uid: str, committed: list[tuple[str, str]], failed: list[tuple[str, str, int]]
) -> tuple[int, Dataset]:
    """The event type and event information of a result (PS3.4 table J.3-2).

    Args:
        transaction_uid: that of the request.
        committed: the SOP Class UID and SOP Instance UID of each object that will be kept.
        failed: the same of each other object, with its failure reason.
    """
    information = Dataset()
    information.TransactionUID = transaction_uid
    if committed:
        information.ReferencedSOPSequence = Sequence(_reference(*each) for each in committed)
    if failed:
        information.FailedSOPSequence = Sequence(_reference(*each) for each in failed)
    return (SOME_FAILED if failed else ALL_COMMITTED), information


def _reference(sop_class: str, sop_instance: str, failure: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    if failure is not None:
        item.FailureReason = failure
    return item
