"""An archive that hides what a rejection note names, as IHE RAD, Imaging Object Change Management, has it.

It stands for the archives that hide: no real one can be run here. It holds a note to what such an archive must be able
to rely on, and refuses one that breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage
from pynetdicom import AE, evt
from pynetdicom.presentation import StoragePresentationContexts
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.network.pynetdicom_setup import configure_pynetdicom
from tests.support.peers import associate

TITLES = ("113001", "113037")
_FIND = StudyRootQueryRetrieveInformationModelFind


@dataclass
class HidingArchive:
    """What it holds by SOP Instance UID, the title of the note that rejected an object, and why it refused objects."""

    port: int = 0
    held: dict[str, Dataset] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    notes: list[Dataset] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # the SOP Instance UIDs of what came, notes among them
    refusals: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)  # of these SOP classes it stores, and its answer does not arrive

    def on_store(self, event: Any) -> int:
        """Answer a C-STORE."""
        kept = pydicom.dcmread(BytesIO(event.encoded_dataset()))
        uid = str(kept.SOPInstanceUID)
        self.order.append(uid)
        if uid in self.rejected:
            return self._refuse(f"{uid} was rejected before")
        if uid in self.held and self.held[uid] != kept:
            return self._refuse(f"{uid} came with other content before")
        if kept.SOPClassUID == KeyObjectSelectionDocumentStorage:
            title = kept.ConceptNameCodeSequence[0].CodeValue
            if title in TITLES:
                if reason := self._reject(kept, title):
                    return self._refuse(reason)
                if uid not in self.held:
                    self.notes.append(kept)
        self.held[uid] = kept
        if kept.SOPClassUID in self.lost:
            event.assoc.abort()
        return 0x0000

    def _refuse(self, reason: str) -> int:
        self.refusals.append(reason)
        return 0xC000

    def _reject(self, note: Dataset, title: str) -> str:
        """Hide what a note names; the reason if it names what it must not."""
        (study,) = note.CurrentRequestedProcedureEvidenceSequence
        named = {
            str(one.ReferencedSOPInstanceUID): (str(series.SeriesInstanceUID), str(one.ReferencedSOPClassUID))
            for series in study.ReferencedSeriesSequence
            for one in series.ReferencedSOPSequence
        }
        listed = [item.ReferencedSOPSequence[0] for item in note.ContentSequence if "ReferencedSOPSequence" in item]
        if sorted(named) != sorted(str(one.ReferencedSOPInstanceUID) for one in listed):
            return "its evidence and its content differ"
        for uid, (series, sop_class) in named.items():
            if uid not in self.held:
                return f"it names {uid}, which is not here"
            one = self.held[uid]
            if (one.SeriesInstanceUID, one.SOPClassUID) != (series, sop_class):
                return f"{uid} is not what the note says"
            if (one.StudyInstanceUID, one.PatientID) != (note.StudyInstanceUID, note.PatientID):
                return f"{uid} is of another study or patient than the note"
            if one.Modality in ("CR", "DX", "CT"):
                return f"{uid} is an image"
        self.rejected |= dict.fromkeys(named, title)
        return ""

    def on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        """Answer a C-FIND on IMAGE level: neither what is rejected nor what rejects it."""
        hidden = {*self.rejected, *(str(note.SOPInstanceUID) for note in self.notes)}
        for uid, one in self.held.items():
            if uid not in hidden and one.StudyInstanceUID == event.identifier.StudyInstanceUID:
                answer = Dataset()
                answer.QueryRetrieveLevel = "IMAGE"
                answer.StudyInstanceUID, answer.SeriesInstanceUID = one.StudyInstanceUID, one.SeriesInstanceUID
                answer.SOPInstanceUID = uid
                yield 0xFF00, answer

    def visible(self, study: str) -> set[str]:
        """The SOP Instance UIDs of a study that a viewer would get, asked by C-FIND."""
        association = associate(self.port, (_FIND, ExplicitVRLittleEndian), called="PACS")
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID, query.SOPInstanceUID = "IMAGE", study, ""
        try:
            return {str(one.SOPInstanceUID) for _, one in association.send_c_find(query, _FIND) if one is not None}
        finally:
            association.release()


@contextmanager
def hiding_archive() -> Iterator[HidingArchive]:
    """One on a free port, AE title PACS."""
    configure_pynetdicom()
    archive = HidingArchive()
    ae = AE(ae_title="PACS")
    ae.supported_contexts = StoragePresentationContexts
    ae.add_supported_context(_FIND)
    handlers: list[Any] = [(evt.EVT_C_STORE, archive.on_store), (evt.EVT_C_FIND, archive.on_find)]
    archive.port = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers).server_address[1]
    try:
        yield archive
    finally:
        ae.shutdown()
