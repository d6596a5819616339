"""Programs that the tests talk to.

A test that starts one is marked ``programs``; an unmarked one may start nothing but this Python, and fails if it does.
A test whose program is missing is skipped and says so. No program outlives its test: `running` ends it, a check behind
each test ends and names what is left of it, and a reaper ends everything if the session itself is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support import reaper
from tests.support.waiting import scaled

ROOT = Path(__file__).resolve().parent.parent.parent


class UnmarkedProgramError(AssertionError):
    """A test that is not marked ``programs`` starts a program."""


def tool(name: str) -> str:
    """The path of a program that scripts/test installs; a test that needs it is skipped where it is missing."""
    Guard.check(name)
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (scripts/test installs it by apt-get)")
    return found


def faketime() -> str:
    """The path of libfaketime, which gives a program another time; a test that needs it is skipped where it is
    missing."""
    found = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
    if found is None:
        pytest.skip("libfaketime is not installed (scripts/test installs it by apt-get)")
    return str(found)


def run_tool(name: str, *args: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and keep what it says."""
    return subprocess.run(
        [tool(name), *map(str, args)],
        check=check,
        capture_output=True,
        text=True,
        timeout=scaled(120),
        errors="replace",
    )


@contextmanager
def running(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A program that runs as long as the block: afterwards it is asked to end, and killed if it does not.

    Args:
        command: the program and its arguments.
        options: of `subprocess.Popen`.
    """
    with subprocess.Popen([str(part) for part in command], **options) as process:
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[Any]) -> int:
    """Have a program end, by force if it does not within half a minute, and give its exit status."""
    process.terminate()
    try:
        return process.wait(scaled(30))
    except BaseException:  # a test that is timed out while it waits here leaves nothing behind as well
        process.kill()
        process.wait()
        raise


def sr_validator_errors(path: Path) -> list[str]:
    """What DicomSRValidator calls an error in a report or a key object selection."""
    # JDK 17 caps XPath operators below what the validator needs.
    java = "-Djdk.xml.xpathTotalOpLimit=0 -Djdk.xml.xpathExprOpLimit=0 -Djdk.xml.xpathExprGrpLimit=0"
    done = subprocess.run(
        [tool("DicomSRValidator"), path],
        env={**os.environ, "JAVA_TOOL_OPTIONS": java},
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]


# --- programs in tests that are not marked ---------------------------------------------------------------------------


class Guard:
    """Whether the test that runs now may start programs; outside of tests everything may."""

    refused_for = ""
    """The id of a test that may not; nothing otherwise."""

    @classmethod
    def check(cls, program: str) -> None:
        """Refuse a program to an unmarked test.

        Raises:
            UnmarkedProgramError: the test is not marked.
        """
        if cls.refused_for and Path(program).resolve() != Path(sys.executable).resolve():
            raise UnmarkedProgramError(f"{cls.refused_for} starts {program} and is not marked: pytest.mark.programs")

    @classmethod
    def install(cls) -> None:
        """Look at everything that this process starts, whoever starts it, from now on."""
        sys.addaudithook(cls._audit)

    @classmethod
    def _audit(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.refused_for and event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
            cls.check(os.fsdecode(arguments[0]))
        elif cls.refused_for and event == "os.system":
            cls.check(os.fsdecode(arguments[0]).split()[0])


# --- nothing is left behind ------------------------------------------------------------------------------------------


def start_reaper() -> None:
    """Mark what this process starts from now on, and have it all killed when this process has ended.

    A session that a test starts has a mark of its own beside this one's.
    """
    mark = uuid4().hex
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", reaper.__file__, str(os.getpid()), mark],
        {name: value for name, value in os.environ.items() if name != reaper.VARIABLE},
        file_actions=quiet,
        setsid=True,  # Ctrl-C in a terminal is for the session
    )
    os.environ[reaper.VARIABLE] = f"{os.environ.get(reaper.VARIABLE, '')}:{mark}"


def started() -> set[int]:
    """The processes that this one started and that have not ended, but for multiprocessing's own two helpers.

    Those that one of the helpers, the fork server, started are among them. What decodes pixels stays for the session.
    """
    found = {pid for pid in _children("self") if alive(pid)}
    servers = {pid for pid in found if b"multiprocessing.forkserver" in _command(pid)}
    forked = {pid for server in servers for pid in _children(str(server)) if alive(pid)}
    trackers = {pid for pid in found if b"multiprocessing.resource_tracker" in _command(pid)}
    decoding = {pid for pid in found if b"ai.images import decode_process" in _command(pid)}
    return (found - servers - trackers - decoding) | forked


def _children(process: str) -> set[int]:
    found: set[int] = set()
    with suppress(OSError):  # the process, or a thread, has ended
        for thread in Path(f"/proc/{process}/task").iterdir():
            found |= {int(pid) for pid in (thread / "children").read_text().split()}
    return found


def orphans() -> set[int]:
    """The processes that were started by what this one started and that has ended since."""
    parents = reaper.running()
    below = reaper.marked(os.environ[reaper.VARIABLE].rpartition(":")[2])
    return {pid for pid in below if parents.get(pid) not in (None, os.getpid(), *below)}


def end_all(pids: set[int]) -> list[str]:
    """Kill processes that do not end by themselves, and all that they started; give the commands of the former."""
    end = time.monotonic() + scaled(3)
    while pids and time.monotonic() < end:
        time.sleep(0.02)
        pids = {pid for pid in pids if alive(pid)}
    commands = [_command(pid).replace(b"\0", b" ").decode(errors="replace").strip() for pid in sorted(pids)]
    reaper.kill(reaper.below(pids, reaper.running()))
    return commands


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
