"""Data sets of storage commitment (PS3.4 annex J): what is asked, and what is answered."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

ALL_COMMITTED, SOME_FAILED = 1, 2  # event types (PS3.4 J.3.3.1)


NO_SUCH_OBJECT, CLASS_CONFLICT, CLASS_NOT_SUPPORTED = 0x0112, 0x0119, 0x0122  # failure reasons (PS3.3 C.14.1.1)


def references(transaction_uid: str, objects: list[tuple[str, str]]) -> Dataset:
    """The action information of a request (PS3.4 table J.3-1); ``objects`` are (SOP class, SOP instance)."""
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = Sequence(_reference(*each) for each in objects)
    return request


def _reference(sop_class: str, sop_instance: str, failure: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    if failure is not None:
        item.FailureReason = failure
    return item


def report(
    transaction_uid: str, held: list[tuple[str, str]], failed: list[tuple[str, str, int]]
) -> tuple[int, Dataset]:
    """The event type and information of an answer (PS3.4 table J.3-2); ``failed`` have their failure reason."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    if held:
        information.ReferencedSOPSequence = Sequence(_reference(*each) for each in held)
    if failed:
        information.FailedSOPSequence = Sequence(_reference(*each) for each in failed)
    return (SOME_FAILED if failed else ALL_COMMITTED), information
