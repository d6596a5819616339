"""The job "send": C-STORE of one result file to one destination. The association is kept while there is work.

What the answer of the PACS leads to (`dicom_node.network.status` has the table; PS3.4 B.2.3, PS3.7 annex C):

* 0000 and the warnings Bxxx: the result is delivered.
* A9xx, Cxxx, 0117, 0122, 0124: the job fails permanently, since another try would get the same answer.
* The PACS does not accept the SOP class at the negotiation: the result is left out, the study says so, and the PACS
  gets the other results. If the PACS accepts none of the SOP classes of the reading, the job fails permanently.
* The PACS does not accept the transfer syntax of compressed pixels: it gets them decompressed, under the same UID.
* Everything else (A7xx out of resources, 0110, 0213, rejections, aborts, time-outs, a PACS that is down): the job is
  tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicom_node.config.settings import Peer, Settings
from dicom_node.delivery.accepted import contexts, in_words, note
from dicom_node.dicom.attributes import LABEL_MAP
from dicom_node.errors import Permanent, Retryable
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, StoredResult
from dicom_node.jobs.worker import Done
from dicom_node.log import logger
from dicom_node.network.attempt import Attempt
from dicom_node.network.requestor import Requestor, Timeouts
from dicom_node.network.status import Verdict
from dicom_node.network.storage_scu import Response, store
from dicom_node.storage.spool import Spool

#: The SOP classes of results; the association proposes these and no others.
RESULT_CLASSES = (
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SegmentationStorage,
    LABEL_MAP,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
)


class Sender:
    """Does the job "send" for one destination; ``timeouts`` are for its associations, None for the usual ones."""

    def __init__(
        self,
        settings: Settings,
        peer: Peer,
        index: Index,
        spool: Spool,
        timeouts: Timeouts | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._peer = peer
        self._index = index
        self._spool = spool
        self._clock = clock
        self._noted: Attempt | None = None
        self._requestor = Requestor(settings.node.ae_title, peer, contexts(RESULT_CLASSES), timeouts=timeouts)

    def __call__(self, job: Job) -> Done:
        """Send one result.

        Raises:
            Retryable: the PACS could not be reached, or could not store it now.
            Permanent: the PACS refused it permanently, or there is no file to send.
        """
        result = self._index.result(job.subject)
        if result is not None and result.removed is not None:
            raise Permanent("retention has removed the result's file, so it cannot be sent any more")
        if result is None or not self._spool.path(result.file).is_file():
            raise Permanent("the result's file is gone from the data folder")
        began = time.perf_counter()
        try:
            response = store(self._requestor, self._spool.path(result.file))
        finally:
            self._note_accepted()
        if response is None:
            return self._not_taken(job, result)
        status = response.status
        log = logger().bind(instance=result.sop_instance_uid, role=result.role, peer=self._peer.name)
        judge(response, self._peer)
        seconds = round(time.perf_counter() - began, 3)
        if status:
            log.warning("result.delivered", status=f"{status:04X}", seconds=seconds, reason="stored with a warning")
        else:
            log.info("result.delivered", seconds=seconds)
        return Done(reason=f"stored with warning {status:04X}" if status else "")

    def close(self) -> None:
        """Release the association. Called when there is nothing to send."""
        self._requestor.release()

    def _note_accepted(self) -> None:
        """Record what the PACS accepted, if an association was requested since the last time."""
        attempt = self._requestor.attempt
        if attempt is None or attempt is self._noted:
            return
        self._noted = attempt
        if note(self._index, self._peer.name, attempt, self._clock()):
            logger().info("destination.accepts", peer=self._peer.name, reason=in_words(attempt))

    def _not_taken(self, job: Job, result: StoredResult) -> Done:
        """Leave out a result whose SOP class the PACS did not accept, if it accepted another class of the run."""
        reason = f"{self._requestor.name} does not take {UID(result.sop_class_uid).name}"
        wanted = self._index.classes_sent(job.run_key or "", self._peer.name)
        if not any(self._requestor.accepted(sop_class) for sop_class in wanted):
            raise Permanent(reason)
        logger().warning(
            "result.not_taken", instance=result.sop_instance_uid, role=result.role, peer=self._peer.name, reason=reason
        )
        return Done(f"not taken: {reason}", "not taken")


def judge(response: Response, peer: Peer) -> None:
    """Return if the peer has stored the object.

    Raises:
        Permanent: it will never store it.
        Retryable: it may store it later.
    """
    if response.verdict is Verdict.STORED:
        return
    answer = f"{peer.name} ({peer.ae_title}) answered {response.status:04X}"
    if response.verdict is Verdict.REFUSED:
        raise Permanent(f"{answer}: it refuses this object")
    raise Retryable(f"{answer}: it cannot take it now")
