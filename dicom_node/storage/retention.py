"""Retention: removes the images and results of old, finished studies. What the index records of them stays.

The removal is recorded first, then the files are deleted. A crash in between leaves files that the index calls removed;
the next look deletes them. The reverse, a recorded file that does not exist, cannot happen. If an image comes again
meanwhile, it is stored again: `Store.remove` and `Store.put` hold the same lock.

A study with an image that we have committed to keep (storage commitment, PS3.4 annex J) is kept for
``retention.committed_days`` after that; without this key for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dicom_node.config.holder import SettingsHolder
from dicom_node.index.index import Index
from dicom_node.index.rows import StudyRow
from dicom_node.log import logger, where
from dicom_node.storage.ingest import Store
from dicom_node.storage.spool import Spool

_LOOK_SECONDS = 60.0
_AT_ONCE = 20  # studies of one query
_FINISHED = ("delivered", "no route", "no eligible series")  # a failed study is kept until somebody has handled it
_DAY = 86400.0


class Retention:
    """Looks once a minute, in its own thread, for files to remove: the oldest study first, one study at a time.

    ``last_byte`` returns when an open association last brought images of a study (epoch seconds; 0 if none does). Such
    a study may still be incomplete and is kept. ``doubts`` says why the clock is not to be trusted (empty: it is):
    nothing is old until somebody has confirmed it.
    """

    def __init__(
        self,
        settings: SettingsHolder,
        index: Index,
        spool: Spool,
        store: Store,
        clock: Callable[[], float] = time.time,
        *,
        last_byte: Callable[[str], float] = lambda _study: 0.0,
        doubts: Callable[[], str] = lambda: "",
    ) -> None:
        self._settings = settings
        self._index = index
        self._spool = spool
        self._store = store
        self._clock = clock
        self._last_byte = last_byte
        self._doubts = doubts
        self._told: tuple[str, float] = ("", 0.0)  # what the log says of the clock, and when it did (`time.monotonic`)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it. A removal that it leaves unfinished is recorded."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = _LOOK_SECONDS
            try:
                self.look()
            except Exception as error:  # the index or the disk fails: log it and try again later
                logger().error("retention.failed", error=where(error))

    def look(self) -> int:
        """Delete what an earlier removal left, then remove what is old enough.

        Returns:
            how many studies were removed because they are old enough.
        """
        for study in self._index.leftover():
            if self._stopping.is_set():
                return 0
            self._delete(study, "the rest of an earlier removal, which the end of the node or an error interrupted")
        days = self._settings.current.retention.days
        if days is None or self._waits():
            return 0
        removed, before, after = 0, self._clock() - days * _DAY, (float("-inf"), "")
        while rows := self._index.old_studies(before, after, _AT_ONCE):
            for row in rows:
                room = self._room()
                if room is None or self._stopping.is_set():
                    return removed
                began = time.monotonic()
                if self._remove(row, before, days, room):
                    removed += 1
                    self._stopping.wait(time.monotonic() - began)  # leave half of the disk's time to receiving
            after = (rows[-1].last_received, rows[-1].study)
        return removed

    def _waits(self) -> bool:
        """Whether the clock is in doubt; the log tells it once a day."""
        doubt = self._doubts()
        if doubt and (doubt != self._told[0] or time.monotonic() - self._told[1] > _DAY):
            fix = "set the machine's clock right (best by NTP), then run: dicom-node clock --confirm"
            logger().warning("retention.waits", reason=f"{doubt}; nothing is removed", fix=fix)
            self._told = (doubt, time.monotonic())
        return bool(doubt)

    def _room(self) -> str | None:
        """None while enough disk space is free to keep old studies; otherwise what the log says about the space."""
        wanted = self._settings.current.retention.free_gb
        if wanted is None:
            return ""
        free = self._spool.free(now=True) / 1e9
        return None if free >= wanted else f"; {free:.2f} GB are free, and retention.free_gb is {wanted:g}"

    def _remove(self, row: StudyRow, before: float, days: float, room: str) -> bool:
        study, now = row.study, self._clock()
        if row.state not in _FINISHED or self._last_byte(study):
            return False
        kept_for = self._settings.current.retention.committed_days
        committed_before = None if kept_for is None else now - kept_for * _DAY
        if not self._index.remove_files(study, row.revision, before, now, committed_before=committed_before):
            return False
        ended = max(filter(None, (row.completed, row.read, row.delivered)))
        age = f"{row.state}, finished {(now - ended) / _DAY:.1f} days ago; retention.days is {days:g}"
        self._delete(study, age + room)
        return True

    def _delete(self, study: str, reason: str) -> None:
        """Delete the files of a study that are recorded as removed, and log it."""
        log = logger().bind(study=study)
        images, results = self._index.removed_files(study)
        try:
            sizes = [self._store.remove(study, uid) for uid in images]
            sizes += [self._spool.delete(file) for file in results]
            self._spool.sync_deletions()
        except OSError as error:
            fix = "repair the disk or the permissions in data_dir; the node tries again once a minute"
            log.error("retention.failed", error=where(error), reason=error.strerror or "", fix=fix)
            return
        self._index.nothing_left(study)
        log.info("study.removed", removed=sum(map(bool, sizes)), bytes=sum(sizes), reason=reason)
