"""The node's clock: epoch seconds that run with a monotonic clock, so that no step of the machine's clock changes a
duration. It follows small differences slowly; a step is taken over by `SteadyClock.adopt` alone.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

#: Seconds by which the machine's clock may differ before it counts as set anew.
STEP_SECONDS = 60.0
_SLOWLY = 0.05  # seconds that are followed in each second
_TIME_ERROR = 5  # what adjtimex(2) returns while the clock is not synchronised


def monotonic() -> float:
    """Seconds since the machine started, those in which it was suspended included where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def is_synchronised() -> bool:
    """Whether the kernel says that time synchronisation (NTP, PTP, a hypervisor's) keeps its clock: adjtimex(2).

    Linux takes this back by itself when somebody sets the clock. False where the system cannot be asked.
    """
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):
        return False
    timex = (ctypes.c_char * 1024)()  # a struct timex, which is smaller, of zeros: read alone (modes = 0)
    return 0 <= int(adjtimex(timex)) < _TIME_ERROR


class SteadyClock:
    """Epoch seconds for every part of the node; safe for all threads.

    Args:
        wall: the machine's clock (epoch seconds).
        marks: a clock that is never set (seconds). If it is ``wall`` itself, as in tests, both always agree.
    """

    def __init__(self, wall: Callable[[], float] = time.time, marks: Callable[[], float] = monotonic) -> None:
        self._wall = wall
        self._marks = marks
        self._lock = threading.Lock()
        self._followed = marks()
        self._offset = self.offset()

    def now(self) -> float:
        """Epoch seconds."""
        return self._marks() + self._offset

    def mark(self) -> float:
        """A moment that no step of the clock moves; `at` says what it is in epoch seconds."""
        return self._marks()

    def at(self, mark: float) -> float:
        """A mark in epoch seconds, as the clock is now; 0 (never) stays 0."""
        return mark + self._offset if mark else 0.0

    def offset(self) -> float:
        """What the machine's clock shows beyond the clock that is never set (s)."""
        return 0.0 if self._wall is self._marks else self._wall() - self._marks()

    def follow(self) -> float:
        """Follow the machine's clock by a twentieth of the time since the last call; call it about once a second.

        Returns:
            the step (s; negative: back) that the machine's clock has made and that is to be adopted; 0.0 if none.
        """
        with self._lock:
            ahead = self.offset() - self._offset
            passed, self._followed = self._marks() - self._followed, self._marks()
            if abs(ahead) > STEP_SECONDS:
                return ahead
            most = _SLOWLY * max(passed, 0.0)
            self._offset += min(max(ahead, -most), most)
            return 0.0

    def adopt(self, step: float) -> None:
        """Take a step over, at once."""
        with self._lock:
            self._offset += step
