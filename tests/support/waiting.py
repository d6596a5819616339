"""Waiting for what is to happen, for as long as this machine needs.

A time limit in a test is meant for a quiet machine. On a slow or busy one it is multiplied by `patience`: what the
session's start measured, or the load now where that is more. ``DICOM_NODE_TEST_PATIENCE`` replaces the measure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

PATIENCE = "DICOM_NODE_TEST_PATIENCE"
"""The environment variable that holds the session's factor; workers and inner sessions inherit it."""

_LOOPS, _QUIET_SECONDS = 200_000, 0.006  # an empty loop of this length, on one processor of a quiet machine of 2025
_ROUNDS = 12
_GREATEST = 30.0


class _Seen:
    greatest = 1.0  # so that a limit that is taken later is no shorter than one that was taken before


def measure() -> float:
    """How many times slower than a quiet machine this one is now: the mean of some rounds, so that pauses count."""
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        for _ in range(_LOOPS):
            pass
    return (time.perf_counter() - began) / (_ROUNDS * _QUIET_SECONDS)


def begin() -> None:
    """Measure once for this session and all processes that it starts."""
    if PATIENCE not in os.environ:
        os.environ[PATIENCE] = f"{_bounded(measure()):.2f}"


def patience() -> float:
    """The factor by which limits of time grow, 1 to 30; within a process it never shrinks."""
    waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
    _Seen.greatest = max(_Seen.greatest, _bounded(max(float(os.environ.get(PATIENCE, "1")), waiting)))
    return _Seen.greatest


def _bounded(factor: float) -> float:
    return min(max(factor, 1.0), _GREATEST)


def scaled(seconds: float) -> float:
    """A time limit, in seconds on a quiet machine, as it is on this one."""
    return seconds * patience()


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Wait for something to become true and return it; ``seconds`` are a quiet machine's."""
    began = time.monotonic()
    while time.monotonic() - began < scaled(seconds):
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s, times {patience():.1f} on this machine: {what}")
