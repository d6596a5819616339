"""The way into the cage of a process that may have threads already, or that others start in their own way."""

from __future__ import annotations

import ctypes
import os
import signal
import warnings
from collections.abc import Callable
from typing import Final

from ai import cage

_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)


def enter_alone(wanted: cage.Cage, before: Callable[[], None]) -> None:
    """Call ``before`` and enter a cage; where this process has threads, go on in a fork of it, which has one.

    The main module of a foreign program may start threads while it is imported, which would stay outside. The first
    process then only waits: the fork ends with it, and it ends as the fork does.

    Raises:
        OSError: the system has a wall and refuses to build it.
    """
    if cage.threads() > 1:
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # nothing of the other threads is used afterwards
            child = os.fork()
        if child:
            _end_as(child)
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    before()
    cage.enter(wanted)


def _end_as(child: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    os._exit(max(status, 0))
