"""Storage commitment on associations that others open (PS3.4 annex J).

`StorageCommitmentSCP` answers modalities that ask whether we have stored their instances for good. It records a request
before it answers 0000. The report names what we have: the index knows the instance, and its file is whole on the disk.
What we have committed to is recorded before anybody is told, and retention keeps it (`storage.retention`). Where images
are removed and the configuration does not say for how long a commitment binds, none is given.
If the configuration has an address for the caller, the job "promise" brings the report there, so that neither a restart
nor a modality that is switched off loses it; otherwise the report follows the answer on the same association.

`StorageCommitmentReports` takes the reports of archives that we have asked as SCU (`delivery.commit_job`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_role
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Peer, Settings
from dicom_node.dicom.attributes import items, uid_of
from dicom_node.dicom.commitment import CLASS_CONFLICT, NO_SUCH_OBJECT, PROCESSING_FAILURE, report
from dicom_node.errors import Permanent, Retryable
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, Promise
from dicom_node.jobs.worker import Done
from dicom_node.log import logger, where
from dicom_node.network import dimse
from dicom_node.network.requestor import NoContextError, Requestor, uncompressed
from dicom_node.scp.service import CollectingService, Request, Supported
from dicom_node.storage.spool import Spool

_REQUEST_COMMITMENT = 1  # the only action (PS3.4 J.3.2.1)
_DAY = 86400.0


NOT_BOUND = "retention removes images, and retention.committed_days does not say for how long a commitment binds"
BIND = "set retention.committed_days to the days for which images that a modality was promised are kept here"


class StorageCommitmentSCP(CollectingService):
    """Serves N-ACTION; ``on_request`` is called with the name of the peer that a job is to bring the report to.

    It answers (PS3.7 annex C):

    ======  =========================================================================================
    status  when
    ======  =========================================================================================
    0000    recorded; the report follows
    0110    an unexpected error of ours
    0112    the request is not for the well-known SOP instance
    0115    the data set cannot be read, or names no instance
    0123    the action is none of the standard's
    0124    the caller may not store (``may_store = false``)
    ======  =========================================================================================
    """

    supported = (Supported(StorageCommitmentPushModel),)
    commands = frozenset({dimse.N_ACTION_RQ, dimse.N_EVENT_REPORT_RSP})

    def __init__(
        self,
        settings: SettingsHolder,
        index: Index,
        spool: Spool,
        *,
        on_request: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._index = index
        self._spool = spool
        self._on_request = on_request
        self._clock = clock
        self._declined: dict[str, int] = {}  # AE title to the last day (since the epoch) on which the log told it

    def serve(self, request: Request) -> list[Any]:
        """Answer an N-ACTION; the report follows on the same association if the caller has no address."""
        if (status := _checked(request)) != 0x0000:
            return [request.answer(status)]
        try:
            information = request.data_set()
            transaction_uid = uid_of(information, "TransactionUID")
            instances = {
                uid_of(item, "ReferencedSOPInstanceUID"): uid_of(item, "ReferencedSOPClassUID")
                for item in items(information, "ReferencedSOPSequence")
            }
        except Exception as error:  # whatever pydicom raises on hostile bytes
            logger().warning("promise.refused", reason="the request cannot be read", error=where(error))
            return [request.answer(0x0115)]
        if not instances:
            return [request.answer(0x0115)]
        callable_now = {one.name for one in self._settings.current.callable()}
        name = next((one.name for one in request.peer.peers if one.name in callable_now), None)
        promise = Promise(transaction_uid, request.peer.ae_title, instances)
        self._index.add_promise(promise, name, self._clock())
        logger().info("promise.asked", objects=len(instances))
        if name is None:
            return [request.answer(0x0000), self._report_message(promise, request)]
        self._on_request(name)
        return [request.answer(0x0000)]

    def _report_message(self, promise: Promise, request: Request) -> Any:
        event_type, information = self.report(promise)
        message = N_EVENT_REPORT()
        message.MessageID, message.EventTypeID = 1, event_type
        message.AffectedSOPClassUID = StorageCommitmentPushModel
        message.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
        message.EventInformation = request.context.encode(information)
        return message

    def report(self, promise: Promise) -> tuple[int, Dataset]:
        """The event type and information of the report for a request, by what we have now (PS3.4 J.3.3).

        What it names as committed is recorded as such. Event type 2 with failure reason 0110 (processing failure) for
        everything where the configuration does not say for how long a commitment binds.
        """
        if not self._settings.current.retention.commits:
            self._tell_declined(promise.calling_ae)
            refused = [(sop_class, uid, PROCESSING_FAILURE) for uid, sop_class in promise.instances.items()]
            return report(promise.transaction_uid, [], refused)
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
        kept = self._index.note_promised([uid for _, uid in held], self._clock())
        failed += [(sop_class, uid, NO_SUCH_OBJECT) for sop_class, uid in held if uid not in kept]
        held = [each for each in held if each[1] in kept]
        log = logger().bind(calling_ae=promise.calling_ae, objects=len(held))
        if failed:
            log.warning("promise.failed", reason=f"{len(failed)} objects are not here, or of another class")
        else:
            log.info("promise.given")
        return report(promise.transaction_uid, held, failed)

    def tell_at_start(self, asked_before: Iterable[str]) -> None:
        """Log which of the AE titles that have asked before are committed to nothing."""
        if not self._settings.current.retention.commits:
            for calling_ae in asked_before:
                self._tell_declined(calling_ae)

    def _tell_declined(self, calling_ae: str) -> None:
        """Log that nothing is committed to, once a peer and day."""
        day = int(self._clock() // _DAY)
        if self._declined.get(calling_ae) == day:
            return
        self._declined[calling_ae] = day
        logger().warning("promise.declined", calling_ae=calling_ae, reason=NOT_BOUND, fix=BIND)

    def reporter(self, peer: Peer) -> CommitmentReporter:
        """What brings the reports to one peer."""
        return CommitmentReporter(self._settings.current, peer, self._index, self.report)


def _checked(request: Request) -> int:
    """The status of a request that is refused for who asks or what for; otherwise 0000."""
    if not request.peer.may_store:
        return 0x0124
    if request.message.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
        return 0x0112
    return 0x0000 if request.message.ActionTypeID == _REQUEST_COMMITMENT else 0x0123


class StorageCommitmentReports(CollectingService):
    """Serves the N-EVENT-REPORT of an archive that we have asked to commit, on an association that it opens to us.

    ``on_report`` is given the event type and what decodes the event information (it raises whatever pydicom raises on
    hostile bytes), and returns the status.
    """

    supported = (Supported(StorageCommitmentPushModel, peer_is_scp=True),)
    commands = frozenset({dimse.N_EVENT_REPORT_RQ})

    def __init__(self, on_report: Callable[[int, Callable[[], Dataset]], int]) -> None:
        self._on_report = on_report

    def serve(self, request: Request) -> list[Any]:
        """Answer an N-EVENT-REPORT."""
        return [request.answer(self._on_report(request.message.EventTypeID, request.data_set))]


class CommitmentReporter:
    """Does the job "promise" for one peer: brings it the reports of what it asked."""

    def __init__(
        self, settings: Settings, peer: Peer, index: Index, report: Callable[[Promise], tuple[int, Dataset]]
    ) -> None:
        self._index = index
        self._report = report
        # We call as SCP of the service: a requestor is SCU unless the acceptor agrees to the role (PS3.4 J.3.3).
        self._requestor = Requestor(
            settings.node.ae_title,
            peer,
            uncompressed((StorageCommitmentPushModel,)),
            roles=(build_role(StorageCommitmentPushModel, scp_role=True),),
        )

    def __call__(self, job: Job) -> Done:
        """Bring one report.

        Raises:
            Retryable: the peer cannot be reached, or cannot take the report now.
            Permanent: the peer does not take reports, or the request is no longer recorded.
        """
        promise = self._index.promise(int(job.subject))
        if promise is None:
            raise Permanent("what was asked is gone from the index")
        try:
            association = self._requestor.open()
        except NoContextError as error:
            raise Permanent(f"{self._requestor.name} takes no answers to its own requests for commitment") from error
        event_type, information = self._report(promise)
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
        """Release the association; called when there is nothing to report."""
        self._requestor.release()
