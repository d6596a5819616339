"""The job "withdraw": the results of an earlier reading are rejected at a destination by a key object (IHE RAD, IOCM).

The destination then hides them. The key object is sent when the destination has the results that take their place, and
has committed to them where it commits. It names those of the earlier results that the destination answered as stored,
and never an image. It is made once, stored, and recorded before it is sent: every attempt sends the same file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_node.config.settings import Peer, Profile, Settings
from dicom_node.delivery.rejection_note import TITLES, rejection_note
from dicom_node.delivery.send_job import judge
from dicom_node.errors import Permanent
from dicom_node.index.index import Index
from dicom_node.index.rows import REJECTION, Job, NewResult, Withdrawal
from dicom_node.jobs.worker import Done
from dicom_node.log import logger
from dicom_node.network.requestor import NoContextError, Requestor, uncompressed
from dicom_node.network.storage_scu import Response, store
from dicom_node.storage.spool import Spool

_SERIES_OFFSET = 600  # above the numbers of every model's results


class Withdrawer:
    """Does the job "withdraw" for one destination; ``site`` names this installation in the key objects."""

    def __init__(
        self,
        settings: Settings,
        peer: Peer,
        index: Index,
        spool: Spool,
        site: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._peer = peer
        self._index = index
        self._spool = spool
        self._site = site
        self._clock = clock
        self._requestor = Requestor(settings.node.ae_title, peer, uncompressed((KeyObjectSelectionDocumentStorage,)))

    def __call__(self, job: Job) -> Done:
        """Reject results.

        Raises:
            Retryable: the destination could not be reached, or could not store the key object now.
            Permanent: the later results are not there, the destination refuses the key object, or none can be made.
        """
        withdrawal = self._index.withdrawal(job)
        if withdrawal is None:
            raise Permanent("the index knows nothing of what was to be withdrawn")
        if missing := self._index.successors_missing(job):
            raise Permanent(f"the earlier results stay at {self._peer.name}: {missing}")
        if not withdrawal.objects:
            return Done(f"{self._peer.name} has none of the earlier results", "nothing to withdraw")
        note, file = self._note_of(withdrawal)
        judge(self._send(file), self._peer)
        _, meaning = TITLES[withdrawal.reason]
        count = len(withdrawal.objects)
        told = f"withdrawn at {self._peer.name}: {count} object{'s' * (count != 1)} ({meaning})"
        logger().info("result.withdrawn", instance=note, peer=self._peer.name, objects=count, reason=meaning)
        return Done(told)

    def close(self) -> None:
        """Release the association. Called when there is nothing to withdraw."""
        self._requestor.release()

    def _send(self, file: Path) -> Response:
        reason = f"{self._peer.name} does not take key objects: set iocm = false there, or have it take them"
        try:
            response = store(self._requestor, file)
        except NoContextError as error:
            raise Permanent(reason) from error
        if response is None:
            raise Permanent(reason)
        return response

    def _note_of(self, withdrawal: Withdrawal) -> tuple[str, Path]:
        """The key object's UID and file; it is made and recorded if there is none.

        Raises:
            Permanent: the file is gone: another one would be sent under the UID of one that may have arrived.
        """
        known = self._index.result(withdrawal.note) if withdrawal.note is not None else None
        if known is not None:
            if not self._spool.path(known.file).is_file():
                raise Permanent("the key object's file is gone from the data folder")
            return known.sop_instance_uid, self._spool.path(known.file)
        now = self._clock()
        number = self._peer.series_number_base or Profile().series_number_base
        try:
            note = rejection_note(
                withdrawal,
                self._patient_of(withdrawal),
                site=self._site,
                series_number=number + _SERIES_OFFSET,
                now=now,
            )
        except InvalidDicomError as error:
            raise Permanent("the file of a result is damaged, so that its patient cannot be copied") from error
        (part,) = self._spool.write_parts([[note.content]])
        (name,) = self._spool.adopt([(part, note.sop_instance_uid)])
        self._index.add_note(
            withdrawal,
            NewResult(
                note.sop_instance_uid,
                KeyObjectSelectionDocumentStorage,
                note.series,
                max(each.position for each in withdrawal.objects) + 1,
                REJECTION,
                name,
                len(note.content),
                REJECTION,
            ),
            now,
        )
        return note.sop_instance_uid, self._spool.path(name)

    def _patient_of(self, withdrawal: Withdrawal) -> Path:
        """The file of a rejected result; of one that takes their place, if retention has removed all of the former."""
        for each in (*withdrawal.objects, *withdrawal.successors):
            path = self._spool.path(each.file)
            if each.removed is None and path.is_file():
                return path
        raise Permanent("no file of these results is left whose patient and study a key object could have")
