"""Removes the images and results of studies that are done with and old enough; what was read and sent stays known.

It is recorded that files are removed before the first of them is. A crash in between leaves files that nothing says are
there, and never a row that says that one is there which is not; what is left is deleted at the next look. An image that
comes again meanwhile is kept again: `Store.remove` and `Store.put` take turns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dicom_node.config.settings import Retention as RetentionSettings
from dicom_node.index.index import Index
from dicom_node.index.rows import StudyRow
from dicom_node.log import logger, where
from dicom_node.storage.ingest import Store
from dicom_node.storage.spool import Spool

_LOOK_SECONDS = 60.0
_AT_ONCE = 20  # studies that the index is asked for
_DONE_WITH = ("delivered", "no route", "no eligible series")  # one that failed is kept until somebody has seen to it
_DAY = 86400.0


class Retention:
    """Looks once a minute, in a thread of its own, for files to remove: the oldest study first, one at a time.

    ``last_byte`` tells of open associations that brought images of a study (0: none is): it may not be through.
    """

    def __init__(
        self,
        settings: RetentionSettings,
        index: Index,
        spool: Spool,
        store: Store,
        clock: Callable[[], float] = time.time,
        *,
        last_byte: Callable[[str], float] = lambda _study: 0.0,
    ) -> None:
        self._settings = settings
        self._index = index
        self._spool = spool
        self._store = store
        self._clock = clock
        self._last_byte = last_byte
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it leaves is recorded."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = _LOOK_SECONDS
            try:
                self.look()
            except Exception as error:  # the index or the disk is in trouble: say so and try again, for ever
                logger().error("retention.failed", error=where(error))

    def look(self) -> int:
        """Delete what an earlier removal left, and remove what is to be removed now.

        Returns:
            how many studies that was.
        """
        for study in self._index.leftover():
            if self._stopping.is_set():
                return 0
            self._delete(study, "the rest of what was being removed when the node ended, or could not be")
        days = self._settings.days
        if days is None:
            return 0
        removed, before, after = 0, self._clock() - days * _DAY, (float("-inf"), "")
        while rows := self._index.old_studies(before, after, _AT_ONCE):
            for row in rows:
                room = self._room()
                if room is None or self._stopping.is_set():
                    return removed
                began = time.monotonic()
                if self._remove(row, before, room):
                    removed += 1
                    self._stopping.wait(time.monotonic() - began)  # half of the disk's time is for receiving
            after = (rows[-1].last_received, rows[-1].study)
        return removed

    def _room(self) -> str | None:
        """What is to be said of the room on the disk; None while there is enough to keep what is old."""
        wanted = self._settings.free_gb
        if wanted is None:
            return ""
        free = self._spool.free(now=True) / 1e9
        return None if free >= wanted else f"; {free:.2f} GB are free, and retention.free_gb is {wanted:g}"

    def _remove(self, row: StudyRow, before: float, room: str) -> bool:
        study, now = row.study, self._clock()
        if row.state not in _DONE_WITH or self._last_byte(study):
            return False
        if not self._index.remove_files(study, row.revision, before, now):
            return False
        ended = max(filter(None, (row.completed, row.read, row.delivered)))
        age = f"{row.state}, done with {(now - ended) / _DAY:.1f} days ago; retention.days is {self._settings.days:g}"
        self._delete(study, age + room)
        return True

    def _delete(self, study: str, reason: str) -> None:
        """Delete what is recorded as removed of a study, and log it."""
        log = logger().bind(study=study)
        images, results = self._index.removed_files(study)
        try:
            sizes = [self._store.remove(uid) for uid in images]
            sizes += [self._spool.delete(file) for file in results]
            self._spool.settle()
        except OSError as error:
            fix = "mend the disk or the rights in data_dir; it is tried again once a minute"
            log.error("retention.failed", error=where(error), reason=error.strerror or "", fix=fix)
            return
        self._index.nothing_left(study)
        log.info("study.removed", removed=sum(map(bool, sizes)), bytes=sum(sizes), reason=reason)
