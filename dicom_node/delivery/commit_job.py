"""The job "commit": storage commitment for the results that a destination has stored (PS3.4 annex J, push model).

The node requests commitment by N-ACTION. The answer is an N-EVENT-REPORT. It comes on the same association, or minutes
or hours later on one that the destination requests. In both cases `note_report` records it, and the job, which waits in
the queue, goes on:

* Every object is committed: the delivery is done.
* The destination does not have an object (0112): the object is sent again, then commitment is requested again.
* The destination could not tell (0110, 0213 and others): commitment is requested again.
* The destination does not commit to a kind of object (0119, 0122): the delivery fails and shows why. IT can change this
  at the destination, or switch commitment off for it.
* There is no answer: commitment is requested again, under another transaction UID.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.config.settings import Peer, Settings
from dicom_node.dicom.attributes import items, uid_of
from dicom_node.dicom.commitment import (
    ALL_COMMITTED,
    CLASS_CONFLICT,
    CLASS_NOT_SUPPORTED,
    NO_SUCH_OBJECT,
    SOME_FAILED,
    references,
)
from dicom_node.errors import Permanent, Retryable, Waits
from dicom_node.index.index import Index
from dicom_node.index.rows import Ask, Job
from dicom_node.jobs.worker import Done
from dicom_node.log import logger, where
from dicom_node.network.requestor import NoContextError, Requestor, uncompressed

_NEVER = {
    CLASS_CONFLICT: "it has an object of another class under this UID",
    CLASS_NOT_SUPPORTED: "it commits to no objects of this class",
}
# Statuses of an N-ACTION (PS3.7 10.1.4 and annex C) that another request would get again.
_FINAL = {0x0118, 0x0119, 0x0122, 0x0123, 0x0124, 0x0211, 0x0212}
_LINGER_SECONDS = 10.0  # the association stays open this long for an answer on it
_FIRST_WAIT, _LONGEST_WAIT = 300.0, 3600.0  # without an answer, the time until the next request
_FIRST_REST, _LONGEST_REST = 1.0, 3600.0  # after an answer that does not commit, the time until the next request


class Committer:
    """Does the job "commit" for one destination; ``on_answer`` gets its name when it has answered."""

    def __init__(
        self,
        settings: Settings,
        peer: Peer,
        index: Index,
        *,
        on_answer: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._peer = peer
        self._index = index
        self._clock = clock
        self._asked = 0.0  # the time of the last request (`time.monotonic`)
        self._open: set[str] = set()  # transactions of the open association that are not answered
        self._on_answer = on_answer
        self._requestor = Requestor(
            settings.node.ae_title,
            peer,
            uncompressed((StorageCommitmentPushModel,)),
            handlers=((evt.EVT_N_EVENT_REPORT, self._on_report),),
        )

    def __call__(self, job: Job) -> Done:
        """Look at the answers so far, and request commitment for what is not committed yet.

        Raises:
            Waits: commitment is requested, and the answer has not come.
            Retryable: the request could not be made.
            Permanent: the destination does not commit.
        """
        objects = self._index.to_commit(job)
        asks = self._index.asks_of(job)
        if not objects:
            return Done() if self._index.has_committed(job) else Done("nothing is stored there", "nothing to commit")
        self._mind(asks)
        transaction_uid = self._ask(job, objects)
        unanswered = sum(ask.answered is None for ask in asks)
        wait = min(_FIRST_WAIT * 2.0**unanswered, _LONGEST_WAIT)
        raise Waits(
            f"{self._peer.name} is asked to commit to {len(objects)} objects",
            wait,
            came=lambda: self._index.is_answered(transaction_uid),
            begins=not asks,
        )

    def idle(self) -> None:
        """Called when there is nothing to request. The association stays open for a while, for answers on it."""
        if not self._open or time.monotonic() - self._asked > _LINGER_SECONDS or not self._requestor.is_open:
            self.close()

    def close(self) -> None:
        """Release the association."""
        self._open.clear()
        self._requestor.release()

    def _mind(self, asks: list[Ask]) -> None:
        """Look at the answers to earlier requests, and return if it is time for the next one.

        Raises:
            Permanent: the destination does not commit.
            Waits: it is too early.
        """
        if not asks:
            return
        last, now = asks[-1], self._clock()
        if last.refusal:
            raise Permanent(f"{self._requestor.name} does not commit: {last.refusal}")
        if last.answered is None:
            return  # the job has waited for its whole time, and no answer came
        failures = sum(ask.answered is not None for ask in asks)
        rest = min(_FIRST_REST * 4.0 ** (failures - 1), _LONGEST_REST)
        if (left := last.answered + rest - now) > 0:
            raise Waits(f"{self._peer.name} did not commit to everything, and is asked again", left)

    def _ask(self, job: Job, objects: list[tuple[str, str]]) -> str:
        """Request commitment under a new transaction UID, recorded before an answer can come; returns that UID."""
        try:
            association = self._requestor.open()
        except NoContextError as error:
            raise Permanent(
                f"{self._requestor.name} offers no storage commitment: have it switched on there for our AE title, or "
                f"set commitment = false on peer {self._peer.name}"
            ) from error
        transaction_uid = str(generate_uid(prefix=None))
        self._index.note_ask(transaction_uid, job, self._clock())
        self._asked = time.monotonic()
        self._open.add(transaction_uid)
        try:
            status, _ = association.send_n_action(
                references(transaction_uid, objects), 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except (RuntimeError, OSError) as error:
            raise self._requestor.broken("asking for commitment") from error
        if "Status" not in status:
            raise self._requestor.lost()  # the destination may have received the request all the same
        if status.Status != 0x0000:
            self._open.discard(transaction_uid)
            self._index.forget_ask(transaction_uid)
            answer = f"{self._requestor.name} answered {status.Status:04X} when asked for commitment"
            raise Permanent(answer) if status.Status in _FINAL else Retryable(answer)
        return transaction_uid

    def _on_report(self, event: Any) -> tuple[int, None]:
        status, transaction_uid = note_report(
            self._index, event.event_type, lambda: event.event_information, self._clock(), self._on_answer
        )
        self._open.discard(transaction_uid)
        return status, None


def note_report(
    index: Index, event_type: int, decode: Callable[[], Dataset], now: float, on_answer: Callable[[str], None]
) -> tuple[int, str]:
    """Record an N-EVENT-REPORT of a destination, whatever association it came on.

    ``decode`` gives its event information. Every byte of it is hostile until checked; it counts only for what was asked
    under its transaction UID, which only the destination knows.

    Returns:
        the status to answer, and the transaction UID (empty where it cannot be read).
    """
    transaction_uid = ""
    try:
        information = decode()
        transaction_uid = uid_of(information, "TransactionUID")
        committed = {uid_of(item, "ReferencedSOPInstanceUID") for item in items(information, "ReferencedSOPSequence")}
        failed = {
            uid_of(item, "ReferencedSOPInstanceUID"): int(item.FailureReason)
            for item in items(information, "FailedSOPSequence")
        }
    except Exception as error:  # whatever pydicom raises on hostile bytes
        logger().warning("commitment.refused", reason="the answer cannot be read", error=where(error))
        return 0x0115, transaction_uid
    if event_type not in (ALL_COMMITTED, SOME_FAILED):
        return 0x0113, transaction_uid
    missing = [uid for uid, reason in failed.items() if reason == NO_SUCH_OBJECT]
    refusal = next((f"{reason:04X}, {_NEVER[reason]}" for reason in failed.values() if reason in _NEVER), "")
    peer = index.settle_ask(transaction_uid, committed - set(failed), missing, refusal, now)
    if peer is None:
        logger().warning("commitment.refused", reason="nobody asked for what it answers")
        return 0x0112, transaction_uid
    log = logger().bind(peer=peer, objects=len(committed))
    if failed:
        reasons = ", ".join(f"{reason:04X}" for reason in sorted(set(failed.values())))
        log.warning("commitment.failed", reason=f"{len(failed)} objects are not committed to: {reasons}")
    else:
        log.info("commitment.given")
    on_answer(peer)
    return 0x0000, transaction_uid
