"""Group commit: instances that several threads record at the same time share one transaction, and so one fsync."""

from __future__ import annotations

import threading

from dicom_node.index.index import Index
from dicom_node.index.rows import NewInstance


class Commits:
    """Records received instances. It may be used from any number of threads.

    A thread that finds no commit in progress commits at once, with everything that waits by then. It does not wait for
    further instances.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._turn = threading.Lock()
        self._listing = threading.Lock()
        self._waiting: list[_Commit] = []

    def add(self, new: NewInstance, now: float) -> None:
        """Record an instance durably.

        Raises:
            sqlite3.Error: it is not recorded.
        """
        mine = _Commit(new, now)
        with self._listing:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                with self._listing:
                    waiting, self._waiting = self._waiting, []
                self._commit(waiting)
        if mine.error is not None:
            raise mine.error

    def _commit(self, waiting: list[_Commit]) -> None:
        try:
            with self._index.transaction():
                for one in waiting:
                    self._index.add_instance(one.new, one.now)
        except Exception as error:
            if len(waiting) == 1:
                waiting[0].error = error
            else:  # one instance may be the cause: record each alone, so that the others are kept
                for one in waiting:
                    self._commit([one])
        for one in waiting:
            one.done = True


class _Commit:
    """An instance that waits to be recorded, and whether that went well."""

    __slots__ = ("done", "error", "new", "now")

    def __init__(self, new: NewInstance, now: float) -> None:
        self.new = new
        self.now = now
        self.done = False
        self.error: Exception | None = None
