"""A file system that fails below one folder, for a while and in a real process. faults.c does it, and this controls it.

``EMFILE`` is an error of the process's limit, not of the file system. It is produced with that limit.
"""

from __future__ import annotations

import errno
import mmap
import random
import resource
import struct
import subprocess
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from scripts.benchmarks.servers import program

CALLS = ("open", "write", "sync", "name", "unlink")  # as in faults.c
AREAS = ("index", "incoming", "spool", "results", "other")
_HEAD = struct.Struct("=iIII")
_COUNTS = struct.Struct(f"={len(CALLS) * len(AREAS)}I")
# What fails with each: a full disk still lets files be deleted, and one that is read-only nothing at all.
ERRORS: dict[int, tuple[str, ...]] = {
    errno.ENOSPC: ("open", "write", "sync", "name"),
    errno.EDQUOT: ("open", "write", "sync", "name"),
    errno.EIO: CALLS,
    errno.EROFS: CALLS,
    errno.EMFILE: (),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What fails: calls in areas, with an ``error``; one in ``one_in`` of the calls."""

    error: int
    calls: tuple[str, ...]
    areas: tuple[str, ...]
    one_in: int = 1

    @property
    def name(self) -> str:
        """The error as C calls it."""
        return errno.errorcode[self.error]


def choose(error: int, dice: random.Random) -> Fault:
    """A random fault with an ``error``: in all calls and areas that it can concern or in one; always or sometimes."""
    calls = ERRORS[error]
    if error != errno.EROFS and calls:
        calls = dice.choice([calls, (dice.choice(calls),)])
    areas: tuple[str, ...] = dice.choice([AREAS, AREAS, ("index",), (dice.choice(AREAS[1:4]),)])
    return Fault(error, calls, areas, dice.choice([1, 1, 3]))


class Faults:
    """The faults below one folder, of every process that was started with `environment`."""

    def __init__(self, folder: Path, below: Path) -> None:
        """Build the library in ``folder``.

        Raises:
            MissingError: there is no compiler.
        """
        self._library, told = folder / "faults.so", folder / "faults"
        source = Path(__file__).with_name("faults.c")
        command = [program("gcc"), "-O2", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        told.write_bytes(bytes(_HEAD.size + _COUNTS.size))
        with told.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.environment = {"LD_PRELOAD": str(self._library), "FAULTS_FILE": str(told), "FAULTS_BELOW": str(below)}
        self._limited: dict[int, tuple[int, int]] = {}

    def begin(self, fault: Fault, pid: int, dice: random.Random) -> None:
        """Have it fail from now on; ``pid`` is the process that is to have no file left (EMFILE)."""
        if fault.error == errno.EMFILE:
            with suppress(OSError):
                there = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
                self._limited[pid] = limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                first = next(number for number in count() if number not in there)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (first + dice.choice([0, 0, 1, 2, 4]), limits[1]))
            return
        bits = [
            sum(1 << every.index(each) for each in some) for some, every in ((fault.calls, CALLS), (fault.areas, AREAS))
        ]
        self._map[4 : _HEAD.size] = _HEAD.pack(0, *bits, fault.one_in)[4:]
        self._map[:4] = struct.pack("=i", fault.error)  # the last: from now on it is looked at

    def end(self, children: list[int]) -> None:
        """End the fault. ``children`` started while their parent had its limit of files, and get the old limit back."""
        self._map[:4] = bytes(4)
        for pid, limits in self._limited.items():
            for each in (pid, *children):
                with suppress(OSError):  # it is gone
                    resource.prlimit(each, resource.RLIMIT_NOFILE, limits)
        self._limited.clear()

    def struck(self) -> Counter[tuple[str, str]]:
        """How many calls have failed by now, by call and area; none where it is none."""
        counts = _COUNTS.unpack(self._map[_HEAD.size :])
        return +Counter(
            {
                (call, area): counts[at * len(AREAS) + of]
                for at, call in enumerate(CALLS)
                for of, area in enumerate(AREAS)
            }
        )
