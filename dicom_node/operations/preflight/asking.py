"""Query and retrieve of the test study: Study Root FIND and GET (PS3.4 annex C), no more of them than is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from dicom_node.delivery.accepted import contexts
from dicom_node.network.requestor import uncompressed
from dicom_node.network.status import comment, status_text
from dicom_node.operations.preflight.reach import NoAnswerError, NoAssociationError, Target

_FIND = str(StudyRootQueryRetrieveInformationModelFind)
_GET = str(StudyRootQueryRetrieveInformationModelGet)
_MOST_RESPONSES = 500
_PENDING = {0xFF00, 0xFF01}

#: Return keys by level, and those of them that every archive must support (PS3.4 C.6.2.1: R and U).
KEYS = {
    "STUDY": (
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "StudyDescription",
        "ReferringPhysicianName",
    ),
    "SERIES": ("Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "SeriesDate", "SeriesTime"),
    "IMAGE": (
        "SOPClassUID",
        "InstanceNumber",
        "Rows",
        "Columns",
        "NumberOfFrames",
        "ContentDate",
        "ContentTime",
        "ContentLabel",
    ),
}
REQUIRED = frozenset(
    [
        "PatientName",
        "PatientID",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "Modality",
        "SeriesNumber",
        "InstanceNumber",
    ]
)
_UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class Finder:
    """Queries over one association."""

    def __init__(self, association: Any) -> None:
        self._association = association

    def study(self, study: str) -> Dataset | None:
        """The study; None if the PACS does not find it."""
        return self._find("STUDY", StudyInstanceUID=study).get(study)

    def series(self, study: str) -> dict[str, Dataset]:
        """Every series of a study, by its UID."""
        return self._find("SERIES", StudyInstanceUID=study)

    def instances(self, study: str, series: str) -> dict[str, Dataset]:
        """Every instance of a series, by its UID."""
        return self._find("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series)

    def _find(self, level: str, **uids: str) -> dict[str, Dataset]:
        """Responses of a level by their unique key.

        Raises:
            NoAnswerError: the PACS failed, ended the association, or sent far more than was asked for.
        """
        query = Dataset()
        query.QueryRetrieveLevel = level
        for keyword in (*KEYS[level], _UNIQUE[level]):
            setattr(query, keyword, None if keyword in {"Rows", "Columns"} else "")
        for keyword, uid in uids.items():
            setattr(query, keyword, uid)
        found: dict[str, Dataset] = {}
        answers = _answers(lambda: self._association.send_c_find(query, _FIND))
        for number, (status, identifier) in enumerate(answers, start=1):
            if status not in _PENDING:
                return found
            if number > _MOST_RESPONSES:
                self._association.abort()
                raise NoAnswerError(f"more than {_MOST_RESPONSES} responses to a query for one study: broken off")
            if identifier is not None:
                found[_uid(identifier, _UNIQUE[level])] = identifier
        raise NoAnswerError("the association ended in the middle of a query")


@contextmanager
def finder(target: Target) -> Iterator[Finder]:
    """Queries over an association of its own.

    Raises:
        NoAssociationError: there is no association; with ``contexts`` if the PACS refuses the SOP class.
    """
    with target.call(uncompressed((_FIND,))) as requestor:
        yield Finder(requestor.association)


def get_study(target: Target, study: str, wanted: dict[str, str]) -> dict[str, Dataset]:
    """Get a study's objects back by C-GET.

    Args:
        target: the PACS.
        study: the Study Instance UID.
        wanted: SOP Class UID by SOP Instance UID; other objects are discarded.

    Raises:
        NoAssociationError: as for :func:`finder`.
        NoAnswerError: the PACS failed, or ended the association.
    """
    taken: dict[str, bytes] = {}

    def on_store(event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid in wanted:
            taken[uid] = event.encoded_dataset()
        return 0x0000

    classes = list(dict.fromkeys(wanted.values()))
    roles = [build_role(sop_class, scp_role=True) for sop_class in classes]
    with target.call(
        [*uncompressed((_GET,)), *contexts(classes)], roles=roles, handlers=((evt.EVT_C_STORE, on_store),)
    ) as requestor:
        if not requestor.accepted(_GET):
            refused = [one for one in requestor.contexts if one.sop_class == _GET]
            raise NoAssociationError("it does not offer C-GET", refused)
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study
        for status, _ in _answers(lambda: requestor.association.send_c_get(query, _GET)):
            if status not in _PENDING:
                break
    return {uid: _parsed(content) for uid, content in taken.items()}


def _answers(send: Callable[[], Any]) -> Iterator[tuple[int, Dataset | None]]:
    """The responses of a query: the pending ones, then the final one of success.

    Raises:
        NoAnswerError: the final response is another, or there is none.
    """
    try:
        for status, identifier in send():
            if "Status" not in status:
                raise NoAnswerError("it did not answer the query, or ended the association at it")
            code = int(status.Status)
            # B000 of a C-GET: some sub-operations failed. The objects that are missing are told one by one.
            if code not in {0x0000, 0xB000, *_PENDING}:
                raise NoAnswerError(f"it answered the query {status_text(code)}{comment(status)}")
            yield code, identifier
    except (RuntimeError, ValueError, OSError) as error:
        raise NoAnswerError("the association ended before the query") from error


def _uid(identifier: Dataset, keyword: str) -> str:
    try:
        return str(identifier[keyword].value)
    except Exception:  # absent, or it cannot be decoded
        return ""


def _parsed(content: bytes) -> Dataset:
    try:
        return pydicom.dcmread(BytesIO(content), force=True)
    except Exception:  # it cannot be decoded: then every attribute counts as removed
        return Dataset()
