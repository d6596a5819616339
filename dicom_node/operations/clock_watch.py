"""Watches the machine's clock: tells of a step, recomputes what is scheduled, and says whether the clock is trusted.

Images are removed by their age, so retention waits while nobody has confirmed the clock. Time synchronisation confirms
it (`clock.is_synchronised`), and so does an administrator (``dicom-node clock --confirm``). ``clock.json`` in the data
folder holds what was confirmed: the machine's clock against the seconds since the machine started. It holds for this
start of the machine alone, and for as long as nobody sets the clock.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dicom_node import clock as clocks
from dicom_node.clock import STEP_SECONDS, SteadyClock
from dicom_node.errors import NodeError
from dicom_node.index.index import Index
from dicom_node.log import logger, where
from dicom_node.storage.durable import write_json

CLOCK_FILE: Final = "clock.json"
CONFIRM: Final = "set the machine's clock right (best by NTP), then run: dicom-node clock --confirm"
_LOOK_SECONDS = 1.0
_NOTE_SECONDS = 60.0
_MOVED_SECONDS = 5.0  # by which the offset differs before it is written again


def doubts(data_dir: Path, offset: float, synchronised: Callable[[], bool] = clocks.is_synchronised) -> str:
    """Why the machine's clock is not to be trusted; empty if it is.

    Args:
        data_dir: the node's folder.
        offset: `SteadyClock.offset`.
        synchronised: whether time synchronisation keeps the clock.
    """
    if synchronised():
        return ""
    known = _confirmed(data_dir)
    if known is None:
        return "since this machine started, neither time synchronisation nor an administrator has confirmed its clock"
    if abs(offset - known) > STEP_SECONDS:
        return f"the clock was set {_words(offset - known)} since it was confirmed"
    return ""


def confirm(data_dir: Path, offset: float) -> None:
    """Record that the machine's clock is right.

    Raises:
        NodeError: the folder is not there or belongs to another user, who could not replace the file.
        OSError: it cannot be written.
    """
    if not data_dir.is_dir():
        raise NodeError(f"{data_dir}: is not there; no node has run on this data_dir yet")
    if data_dir.stat().st_uid != os.geteuid():
        raise NodeError(f"{data_dir}: belongs to another user; run this as the user that the node runs as")
    write_json(data_dir / CLOCK_FILE, {"boot": _boot(), "offset": round(offset, 3)})


def _confirmed(data_dir: Path) -> float | None:
    """The confirmed offset; None if there is none for this start of the machine."""
    try:
        content = json.loads((data_dir / CLOCK_FILE).read_bytes())
        return float(content["offset"]) if content["boot"] and content["boot"] == _boot() else None
    except (OSError, ValueError, TypeError, KeyError):  # absent, or damaged: nobody has confirmed anything
        return None


def _boot() -> str:
    """What tells this start of the machine from every other; empty if the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _words(step: float) -> str:
    amount = abs(step)
    unit, name = next(
        (each for each in ((86400, "days"), (3600, "hours"), (60, "minutes")) if amount >= 1.5 * each[0]), (1, "s")
    )
    return f"{'forward' if step > 0 else 'back'} by {amount / unit:.1f} {name}"


class ClockWatch:
    """Looks at the machine's clock once a second, in its own thread; ``on_step`` is called after a step."""

    def __init__(
        self,
        clock: SteadyClock,
        index: Index,
        data_dir: Path,
        *,
        synchronised: Callable[[], bool] = clocks.is_synchronised,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._index = index
        self._data_dir = data_dir
        self._synchronised = synchronised
        self._on_step = on_step
        self._began = clock.now()  # of this run, as the clock is now
        self._tidy_until = 0.0  # a mark
        self._note_after = float("-inf")  # a mark
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def begin(self) -> None:
        """Compare the clock with the last run; put in order what lies ahead of it. Then start the thread.

        Raises:
            sqlite3.Error: the index cannot be read or written.
        """
        now = self._clock.now()
        newest = self._index.newest_time()
        known = None if self._synchronised() else _confirmed(self._data_dir)
        if newest > now + STEP_SECONDS:
            self._tell(now - newest, "compared with the newest image of the index, before this start")
        elif known is not None and abs(self._clock.offset() - known) > STEP_SECONDS:
            self._tell(self._clock.offset() - known, "before this start")
        self._index.no_times_ahead(now)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def doubts(self) -> str:
        """Why the clock is not to be trusted; empty if it is."""
        return doubts(self._data_dir, self._clock.offset(), self._synchronised)

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # the index or the disk fails: log it and try again
                logger().error("clock.failed", error=where(error))
                self._stopping.wait(_NOTE_SECONDS)

    def look(self) -> None:
        """Follow the clock; take a step over, together with every time that the index has by the clock of before."""
        mark = self._clock.mark()
        if (step := self._clock.follow()) != 0.0:
            adopted = False
            try:
                with self._index.transaction():
                    self._index.move_times(self._began, step)
                    self._clock.adopt(step)
                    adopted = True
            except BaseException:
                self._clock.adopt(-step if adopted else 0.0)  # the commit failed: both stay as they were
                raise
            self._began += step
            self._tidy_until = mark + STEP_SECONDS
            self._tell(step, "while the node runs")
            self._on_step()
        if mark < self._tidy_until:  # a thread may have asked the clock before the step and written after it
            self._index.no_times_ahead(self._clock.now())
        if mark >= self._note_after and self._synchronised():
            self._note_after = mark + _NOTE_SECONDS
            known = _confirmed(self._data_dir)
            if known is None or abs(known - self._clock.offset()) > _MOVED_SECONDS:
                confirm(self._data_dir, self._clock.offset())

    def _tell(self, step: float, when: str) -> None:
        reason = f"the clock was set {_words(step)}, {when}; schedules are recomputed, retention waits for confirmation"
        logger().warning("clock.stepped", seconds=round(step, 1), reason=reason, fix=CONFIRM)
