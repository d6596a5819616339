"""Kills what a test session left running, however the session ended.

    python reaper.py PID MARK

It waits for its parent, process PID, to end, by SIGKILL as well; with PID 0 it does not wait. Then it kills every
process that was started below it: those that carry MARK in the environment variable DICOM_NODE_TEST_SESSION, and their
children. It runs alone and imports nothing of the project, so that it starts in milliseconds.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path

VARIABLE = "DICOM_NODE_TEST_SESSION"
_SECONDS = 10.0  # how long it looks for more


def running() -> dict[int, int]:
    """Every process that has not ended, and its parent."""
    found = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a Path for every file in /proc costs more than reading it
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                found[int(entry)] = int(fields[1])
    return found


def below(roots: set[int], parents: dict[int, int]) -> set[int]:
    """Processes, their children, and those children's."""
    found, more = set(roots), set(roots)
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - found
        found |= more
    return found


def marked(mark: str) -> set[int]:
    """The processes that run with a mark in their environment, and all that they started."""
    wanted, parents, found = mark.encode(), running(), set()
    for pid in parents:
        try:
            environment = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
        except OSError:  # it ended, or it is another user's
            continue
        if any(each.startswith(VARIABLE.encode() + b"=") and wanted in each for each in environment):
            found.add(pid)
    return below(found, parents) - {os.getpid()}


def kill(pids: set[int]) -> None:
    """Kill processes by SIGKILL."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def wait_for(pid: int) -> None:
    """Wait until the parent has ended."""
    try:
        parent = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if os.getppid() == pid:  # otherwise it has ended, and the number may be another's
        select.select([parent], [], [])


def main(pid: int, mark: str) -> None:
    """Wait for the session's process, then kill until nothing is left."""
    if pid:
        wait_for(pid)
    end = time.monotonic() + _SECONDS
    while (left := marked(mark)) and time.monotonic() < end:
        kill(left)
        time.sleep(0.05)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
