"""The warm processes of a node, and the processors that they share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Processors:
    """The processors of a machine, shared by the processes that read at the same time.

    Two networks with a thread each are faster than one with two, and threads that wait for each other on processors
    that others use are slower than none.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._busy = 0
        self._lock = threading.Lock()

    @contextmanager
    def shared(self) -> Iterator[int]:
        """Read within; how many threads the network may have."""
        with self._lock:
            self._busy += 1
            threads = max(1, self._count // self._busy)
        try:
            yield threads
        finally:
            with self._lock:
                self._busy -= 1
