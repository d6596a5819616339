"""Storage commitment as its provider (PS3.4 annex J): modalities ask whether we have their images for good.

What is asked is recorded before it is answered 0000. The answer names what we have: the index knows it and its file
stands whole on the disk. It goes to the caller's own address where the configuration has one, as the job "promise", so
that a restart or a modality that is switched off loses nothing; otherwise on the association that asked, at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.config.settings import Peer, Settings
from dicom_node.dicom.attributes import items, uid_of
from dicom_node.dicom.commitment import CLASS_CONFLICT, NO_SUCH_OBJECT, report
from dicom_node.errors import Permanent, Retryable
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, Promise
from dicom_node.jobs.worker import Done
from dicom_node.log import logger, where
from dicom_node.network.requestor import NoContextError, Requestor, uncompressed
from dicom_node.scp.access import PeerIdentity
from dicom_node.storage.spool import Spool

_REQUEST_COMMITMENT = 1  # the only action (PS3.4 J.3.2.1)


class Promises:
    """Serves N-ACTION; ``on_asked`` is told the peer that is to get an answer by a job."""

    def __init__(
        self,
        settings: Settings,
        index: Index,
        spool: Spool,
        *,
        on_asked: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._index = index
        self._spool = spool
        self._on_asked = on_asked
        self._clock = clock

    def asked(self, event: Any, caller: PeerIdentity, reports: list[tuple[int, Dataset]]) -> tuple[int, None]:
        """Take a request; where the caller cannot be called back, its answer is put into ``reports``."""
        if not caller.may_store:
            return 0x0124, None
        if event.request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
            return 0x0112, None
        if event.action_type != _REQUEST_COMMITMENT:
            return 0x0123, None
        try:
            transaction_uid = uid_of(event.action_information, "TransactionUID")
            instances = {
                uid_of(item, "ReferencedSOPInstanceUID"): uid_of(item, "ReferencedSOPClassUID")
                for item in items(event.action_information, "ReferencedSOPSequence")
            }
        except Exception as error:  # whatever pydicom raises on hostile bytes
            logger().warning("promise.refused", reason="the request cannot be read", error=where(error))
            return 0x0115, None
        if not instances:
            return 0x0115, None
        peer = next((one for one in caller.peers if one in self._settings.callable()), None)
        name = peer.name if peer is not None else None
        promise = Promise(transaction_uid, caller.ae_title, instances)
        self._index.add_promise(promise, name, self._clock())
        logger().info("promise.asked", objects=len(instances))
        if name is not None:
            self._on_asked(name)
        else:
            reports.append(self.answer(promise))
        return 0x0000, None

    def answer(self, promise: Promise) -> tuple[int, Dataset]:
        """The event type and information that answer a request, by what we have now."""
        there = self._index.held(promise.instances)
        held: list[tuple[str, str]] = []
        failed: list[tuple[str, str, int]] = []
        for uid, sop_class in promise.instances.items():
            known = there.get(uid)
            if known is None or not self._spool.is_whole(known[1], known[2]):
                failed.append((sop_class, uid, NO_SUCH_OBJECT))
            elif known[0] != sop_class:
                failed.append((sop_class, uid, CLASS_CONFLICT))
            else:
                held.append((sop_class, uid))
        log = logger().bind(calling_ae=promise.calling_ae, objects=len(held))
        if failed:
            log.warning("promise.failed", reason=f"{len(failed)} objects are not here, or of another class")
        else:
            log.info("promise.given")
        return report(promise.transaction_uid, held, failed)

    def answerer(self, peer: Peer) -> Answerer:
        """What brings its answers to one peer."""
        return Answerer(self._settings, peer, self._index, self)


class Answerer:
    """Does the job "promise" for one peer."""

    def __init__(self, settings: Settings, peer: Peer, index: Index, promises: Promises) -> None:
        self._index = index
        self._promises = promises
        # We call as the provider of the service, which a caller is not unless the other side agrees (PS3.4 J.3.3).
        self._requestor = Requestor(
            settings.node.ae_title,
            peer,
            uncompressed((StorageCommitmentPushModel,)),
            roles=(build_role(StorageCommitmentPushModel, scp_role=True),),
        )

    def __call__(self, job: Job) -> Done:
        """Bring one answer.

        Raises:
            Retryable: the peer could not be reached, or could not take it now.
            Permanent: it does not take it.
        """
        promise = self._index.promise(int(job.subject))
        if promise is None:
            raise Permanent("what was asked is gone from the index")
        try:
            association = self._requestor.open()
        except NoContextError as error:
            raise Permanent(f"{self._requestor.name} takes no answers to its own requests for commitment") from error
        event_type, information = self._promises.answer(promise)
        try:
            status, _ = association.send_n_event_report(
                information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except (RuntimeError, OSError) as error:
            raise self._requestor.broken("answering") from error
        if "Status" not in status:
            raise self._requestor.lost()
        if status.Status != 0x0000:
            raise Retryable(f"{self._requestor.name} answered {status.Status:04X} when told what we commit to")
        return Done()

    def close(self) -> None:
        """Release the association; called when there is nothing to answer."""
        self._requestor.release()
