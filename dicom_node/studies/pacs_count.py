"""The number of instances that a PACS has of a study, by C-FIND (NumberOfStudyRelatedInstances, PS3.4 C.3.4)."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.config.settings import Peer
from dicom_node.errors import Retryable
from dicom_node.log import logger, where
from dicom_node.network.requestor import Requestor, uncompressed

_SETTLED_SECONDS = 1.0  # the same number twice, this far apart: the PACS receives nothing of the study now
_AGAIN_SECONDS = 5.0  # the time until the next query if there was no number, or a higher one than ours
_IDLE_SECONDS = 10.0
_REMEMBERED_SECONDS = 3600.0
_PENDING = (0xFF00, 0xFF01)


@dataclass(slots=True)
class _Asked:
    """What is known of a study that has received nothing since a time (epoch seconds)."""

    since: float
    asked: float  # the time of the last query, which may still wait in the queue
    count: int | None = None
    settled: int | None = None


class Counter:
    """Queries one peer in a thread of its own, so that no caller waits for the answer."""

    def __init__(self, ae_title: str, peer: Peer, clock: Callable[[], float] = time.monotonic) -> None:
        self._peer = peer
        self._clock = clock
        self._requestor = Requestor(ae_title, peer, uncompressed((StudyRootQueryRetrieveInformationModelFind,)))
        self._known: dict[str, _Asked] = {}
        self._lock = threading.Lock()
        self._wanted: queue.SimpleQueue[tuple[str, float, float] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"count-{peer.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the query that it makes now; wait at most 15 s for it."""
        self._wanted.put(None)
        self._thread.join(timeout=15.0)

    def count(self, study: str, since: float) -> int | None:
        """How many instances the peer has of a study that has received nothing ``since`` a time (epoch seconds).

        None if the peer has not given the same number twice; the next query is made in the background.
        """
        now = self._clock()
        with self._lock:
            known = self._known.get(study)
            if known is None or known.since != since:
                for old in [uid for uid, one in self._known.items() if one.asked < now - _REMEMBERED_SECONDS]:
                    del self._known[old]
                known = self._known[study] = _Asked(since, now)
                self._wanted.put((study, since, now))
            elif now - known.asked >= (
                _SETTLED_SECONDS if known.count is not None and known.settled is None else _AGAIN_SECONDS
            ):
                known.asked = now
                self._wanted.put((study, since, now))
            return known.settled

    def _run(self) -> None:
        while True:
            try:
                wanted = self._wanted.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                self._requestor.release()
                continue
            if wanted is None:
                self._requestor.release()
                return
            study, since, when = wanted
            if self._clock() - when > _AGAIN_SECONDS:
                continue  # it has waited behind other queries too long; `count` queues it again if it is still wanted
            try:
                count = self._ask(study)
            except Retryable as error:
                logger().warning("count.failed", study=study, peer=self._peer.name, reason=str(error))
                count = None
            except Exception as error:  # an answer that breaks the standard may lead to any error
                logger().warning("count.failed", study=study, peer=self._peer.name, error=where(error))
                self._requestor.abort()
                count = None
            with self._lock:
                known = self._known.get(study)
                if known is not None and known.since == since:
                    known.settled = count if count == known.count else None
                    known.count = count

    def _ask(self, study: str) -> int | None:
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study
        query.NumberOfStudyRelatedInstances = None
        found: Any = None
        answers = self._requestor.open().send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
        for status, identifier in answers:
            if "Status" not in status:
                self._requestor.abort()
                raise Retryable("no answer, or the connection was lost")
            if status.Status in _PENDING and identifier is not None and identifier.get("StudyInstanceUID") == study:
                found = identifier.get("NumberOfStudyRelatedInstances")
        return int(found) if found not in (None, "") else None
