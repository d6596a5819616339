"""Nobody takes all: places, bytes and the interpreter's time are shared among callers.

A caller is one peer of the configuration, or one address. `Shares` hands out what is limited in number, `Allowance`
what comes back with time. Both are bounded themselves, however many addresses call.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

MOST_BYTES = 64 * 1024 * 1024  # of all data sets that are collected at a time
_PARSED_AT_ONCE = 2
_MOST_CALLERS = 4096  # that an allowance remembers; who was forgotten begins anew


class Shares:
    """Units of which nobody gets more than a multiple of what is left.

    A caller that is alone may take most of them: of 500 places 400, where the multiple is 4. What is left then goes to
    others by the same rule, so that a newcomer finds a unit until all are taken.
    """

    def __init__(self) -> None:
        self._taken: Counter[Hashable] = Counter()
        self._sum = 0
        self._lock = threading.Lock()

    def take(self, holders: Sequence[tuple[Hashable, int]], count: int = 1, *, of: int) -> str:
        """Take units in the name of some holders, each with its multiple.

        Args:
            holders: who takes them, and how many times what is left each may have.
            count: how many.
            of: how many there are.

        Returns:
            Why not: "all" (none are left), "share" (others are to find some, too); empty if they are taken.
        """
        with self._lock:
            left = of - self._sum
            if left < count:
                return "all"
            if any(self._taken[holder] + count - 1 > multiple * (left - count + 1) for holder, multiple in holders):
                return "share"
            self._sum += count
            for holder, _ in holders:
                self._taken[holder] += count
            return ""

    def give_back(self, holders: Sequence[tuple[Hashable, int]], count: int = 1) -> None:
        """Give back what `take` gave in the name of the same holders."""
        with self._lock:
            self._sum -= count
            for holder, _ in holders:
                self._taken[holder] -= count
                if not self._taken[holder]:
                    del self._taken[holder]  # so that it holds the callers that have something, and no others


@dataclass(frozen=True, slots=True)
class Share:
    """What one caller may take of some `Shares`; the arguments are those of `Shares.take`."""

    shares: Shares
    holders: tuple[tuple[Hashable, int], ...]
    of: int

    def take(self, count: int) -> bool:
        """Take units; false if there are none for this caller."""
        return not self.shares.take(self.holders, count, of=self.of)

    def give_back(self, count: int) -> None:
        """Give units back."""
        self.shares.give_back(self.holders, count)


class Collection:
    """What all associations of a server hold of messages that are collected, and how many they parse at a time."""

    def __init__(self) -> None:
        self.turn = threading.BoundedSemaphore(_PARSED_AT_ONCE)
        self._bytes = Shares()

    def share(self, holders: tuple[tuple[Hashable, int], ...]) -> Share:
        """The bytes that a caller may take."""
        return Share(self._bytes, holders, MOST_BYTES)


class Allowance:
    """Seconds of the interpreter's time for each caller: ``burst`` at once, ``rate`` a second in the long run.

    What something costs is known when it is done, so a caller may overdraw once, and then waits.
    """

    def __init__(self, *, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # seconds left, at that time
        self._lock = threading.Lock()

    def has(self, caller: Hashable) -> bool:
        """Whether the caller has something left."""
        with self._lock:
            return self._now(caller)[0] > 0

    def charge(self, caller: Hashable, seconds: float) -> None:
        """Take what something cost."""
        with self._lock:
            left, now = self._now(caller)
            self._left[caller] = max(left - seconds, -self._burst), now
            self._left.move_to_end(caller)
            if len(self._left) > _MOST_CALLERS:
                self._left.popitem(last=False)

    def _now(self, caller: Hashable) -> tuple[float, float]:
        now = self._clock()
        left, then = self._left.get(caller, (self._burst, now))
        return min(left + (now - then) * self._rate, self._burst), now
