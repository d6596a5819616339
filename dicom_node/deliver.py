"""The job "send": a result file -> C-STORE to one destination, over an association that is kept while there is work.

What an answer means (PS3.4 B.2.3, PS3.7 C.5):

* 0000 and the warnings B0xx: the PACS has it.
* A9xx, Cxxx, 0117, 0122, 0124: refused for good; another try would be answered the same.
* a SOP class that the PACS does not take at negotiation: not taken, and the study says so; it gets the others. Where it
  takes none of what a reading led to, that is refused for good.
* everything else (A7xx out of resources, 0110, 0213, rejections, aborts, time-outs, a PACS that is down): tried again.
"""

from __future__ import annotations

import time
from typing import Any

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import evt

from dicom_node.answers import Verdict, rejection, verdict
from dicom_node.config import Peer, Settings
from dicom_node.db import NOT_TAKEN, Index
from dicom_node.errors import Permanent, Retryable
from dicom_node.log import logger
from dicom_node.net import accepted_syntaxes, application_entity, as_implicit, on_open
from dicom_node.schema import Job, StoredResult
from dicom_node.spool import Spool
from dicom_node.worker import Done

#: What we make; one association proposes these and no more.
RESULT_CLASSES = (
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SegmentationStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
)

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0


class Sender:
    """Does the job "send" for one destination."""

    def __init__(self, settings: Settings, peer: Peer, index: Index, spool: Spool) -> None:
        self._settings = settings
        self._peer = peer
        self._index = index
        self._spool = spool
        self._association: Any = None

    def __call__(self, job: Job) -> Done:
        """Send one result.

        Raises:
            Retryable: the PACS could not be reached, or could not take it now.
            Permanent: the PACS refused it for good.
        """
        result = self._index.result(job.subject)
        if result is not None and result.removed is not None:
            raise Permanent("retention has removed the result's file, so it cannot be sent any more")
        if result is None or not self._spool.path(result.file).is_file():
            raise Permanent("the result's file is gone from the data folder")
        began = time.perf_counter()
        association = self._open()
        syntaxes = accepted_syntaxes(association, result.sop_class_uid)
        if not syntaxes:
            return self._not_taken(association, job, result)
        status = self._send(association, result, syntaxes)
        log = logger().bind(instance=result.sop_instance_uid, role=result.role, peer=self._peer.name)
        _judge(status, self._peer)
        seconds = round(time.perf_counter() - began, 3)
        if status:
            log.warning("result.delivered", status=f"{status:04X}", seconds=seconds, reason="stored with a warning")
        else:
            log.info("result.delivered", seconds=seconds)
        return Done(reason=f"stored with warning {status:04X}" if status else "")

    def close(self) -> None:
        """Release the association; called when there is nothing to send."""
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.release()

    def _open(self) -> Any:
        if self._association is not None and self._association.is_established:
            return self._association
        ae = application_entity(self._settings.node.ae_title)
        ae.connection_timeout = _CONNECT_SECONDS
        ae.acse_timeout = _CONNECT_SECONDS
        ae.dimse_timeout = _ANSWER_SECONDS
        ae.network_timeout = _ANSWER_SECONDS
        for sop_class in RESULT_CLASSES:
            # Each syntax in a context of its own: the file is sent as it is wherever the PACS takes Explicit VR.
            ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
            ae.add_requested_context(sop_class, ImplicitVRLittleEndian)
        peer = self._peer
        connected: list[bool] = []
        try:
            association = ae.associate(
                peer.host,
                peer.port,
                ae_title=peer.ae_title,
                max_pdu=0,
                evt_handlers=[(evt.EVT_CONN_OPEN, _on_connected, [connected])],
            )
        except (OSError, UnicodeError) as error:  # pynetdicom looks the name up before it connects
            raise Retryable(f"{self._named()}: its host name cannot be resolved") from error
        if association.is_established:
            self._association = association
            return association
        raise Retryable(f"{self._named()}: {self._why_not(association, bool(connected))}")

    def _named(self) -> str:
        peer = self._peer
        return f"{peer.name} ({peer.ae_title} at {peer.host}:{peer.port})"

    def _why_not(self, association: Any, connected: bool) -> str:
        if association.is_rejected:
            answer = association.acceptor.primitive
            ours, theirs, name = self._settings.node.ae_title, self._peer.ae_title, self._peer.name
            told = rejection(answer.result_source, answer.diagnostic, ours=ours, theirs=theirs, peer=name)
            return f"it rejected the association: {': '.join(filter(None, told))}"
        if not connected:
            return "no connection: nothing listens there, or a firewall is in between"
        if not association.accepted_contexts and association.rejected_contexts:
            return "it accepts none of our SOP classes"
        return "it took the connection but did not answer the association request"

    def _not_taken(self, association: Any, job: Job, result: StoredResult) -> Done:
        """Go on without an object of a class that the PACS refused at negotiation, if it takes another of the run."""
        reason = f"{self._named()} does not take {UID(result.sop_class_uid).name}"
        wanted = self._index.classes_sent(job.run_key or "", self._peer.name)
        if not any(accepted_syntaxes(association, sop_class) for sop_class in wanted):
            raise Permanent(reason)
        logger().warning(
            "result.not_taken", instance=result.sop_instance_uid, role=result.role, peer=self._peer.name, reason=reason
        )
        return Done(reason=f"{NOT_TAKEN} {reason}")

    def _send(self, association: Any, result: StoredResult, accepted: set[str]) -> int:
        path = self._spool.path(result.file)
        what: Any = path if ExplicitVRLittleEndian in accepted else as_implicit(path)
        try:
            answer = association.send_c_store(what)
        except (RuntimeError, OSError) as error:
            self._drop()
            raise Retryable(f"{self._named()}: the association broke while sending") from error
        if "Status" not in answer:
            self._drop()
            raise Retryable(f"{self._named()}: no answer within {_ANSWER_SECONDS:g} s, or the connection was lost")
        return int(answer.Status)

    def _drop(self) -> None:
        association, self._association = self._association, None
        if association is not None and not association.is_released and not association.is_aborted:
            association.abort()


def _judge(status: int, peer: Peer) -> None:
    meaning = verdict(status)
    if meaning is Verdict.STORED:
        return
    answer = f"{peer.name} ({peer.ae_title}) answered {status:04X}"
    if meaning is Verdict.REFUSED:
        raise Permanent(f"{answer}: it refuses this object")
    raise Retryable(f"{answer}: it cannot take it now")


def _on_connected(event: Any, connected: list[bool]) -> None:
    connected.append(True)
    on_open(event)
