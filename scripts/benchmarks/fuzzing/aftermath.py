"""What a node is like after hostile input: its process, memory, index, folder and log."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks.fuzzing.hostile import MARK
from scripts.benchmarks.torturing.modality import digest

EVIL = [Path("/tmp/evil"), Path("/evil")]  # noqa: S108 - what hostile UIDs name


_SETTLE_SECONDS = 15.0


MANY_INPUTS = 20_000  # inputs, at the middle of which a node holds what it always holds


_MORE_AT_THE_END = 48e6  # bytes of memory over those at the middle


_MORE_AT_MOST = 300e6  # bytes over those at its start


@dataclass(slots=True)
class Process:
    """Figures of the node's process, read from the system: memory (bytes), threads and open files."""

    pid: int
    memory: list[int] = field(default_factory=list)

    def status(self, name: str) -> int:
        """A number from /proc/PID/status; sizes of memory in bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        (found,) = re.findall(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        return int(found) * (1024 if name.startswith("Vm") else 1)

    def files(self) -> int:
        """Open files and sockets, without the folders of the spool, which are opened once and stay open."""
        count = 0
        for each in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                count += "/spool/" not in str(each.readlink())
        return count


def settle(process: Process, threads: int, files: int) -> None:
    """Wait until the connections of a moment ago are over."""
    until = time.monotonic() + (_SETTLE_SECONDS if threads else 1.0)
    while time.monotonic() < until and not (process.status("Threads") <= threads and process.files() <= files):
        time.sleep(0.1)


def process_faults(running: subprocess.Popen[bytes], process: Process, start: dict[str, int]) -> list[str]:
    """A process that died, or that holds more threads or files than at its start."""
    if running.poll() is not None:
        return [f"the node died with status {running.returncode}"]
    found = []
    if (threads := process.status("Threads")) > start["threads"]:
        found.append(f"{threads} threads are left where {start['threads']} were")
    if (files := process.files()) > start["files"]:
        found.append(f"{files} files are open where {start['files']} were")
    return found


def memory_of(process: Process, start: int) -> dict[str, int]:
    """The process's memory in bytes at the start, in the middle, at the end, and the most."""
    samples = process.memory or [start]
    return {
        "start": start,
        "middle": samples[len(samples) // 2],
        "end": process.status("VmRSS"),
        "peak": process.status("VmHWM"),
    }


def memory_faults(found: dict[str, int], inputs: int) -> list[str]:
    """Memory that grew with the inputs, or was taken by one."""
    if not found:
        return []
    faults = []
    if (more := found["end"] - found["middle"]) > _MORE_AT_THE_END and inputs >= MANY_INPUTS:
        faults.append(f"the node holds {more / 1e6:.0f} MB more than after half of the inputs")
    if (more := found["peak"] - found["start"]) > _MORE_AT_MOST:
        faults.append(f"the node held {more / 1e6:.0f} MB more than at its start")
    return faults


def index_faults(data: Path, kept: dict[str, set[str]]) -> list[str]:
    """What was answered 0000 and is not kept as it was sent, and files of which the index knows nothing."""
    with closing(sqlite3.connect(f"{(data / 'index.sqlite').as_uri()}?mode=ro", uri=True, timeout=60)) as index:
        rows: dict[str, list[tuple[str, int]]] = {}  # a UID may be kept in several editions, and under several studies
        for uid, file, size in index.execute("SELECT sop_instance_uid, file, bytes FROM instances"):
            rows.setdefault(uid, []).append((file, size))
        known = {file for (file,) in index.execute("SELECT file FROM instances")}  # of every edition
        (checked,) = index.execute("PRAGMA integrity_check").fetchone()
    faults = [] if checked == "ok" else ["the index is damaged"]
    for uid, digests in kept.items():
        there = [(data / file, size) for file, size in rows.get(uid, []) if (data / file).is_file()]
        whole = [file for file, size in there if file.stat().st_size == size]
        if not there:
            faults.append(f"instance {uid!r} was answered 0000 and is not kept")
        elif len(whole) < len(there) or (digests and not any(digest(file) in digests for file in whole)):
            faults.append(f"instance {uid!r} was answered 0000 and is kept with other bytes")
    faults += [f"instance {uid!r} is in the index and was never answered 0000" for uid in rows.keys() - kept.keys()]
    faults += [
        f"{name} is in the spool and not in the index"
        for name in (str(path.relative_to(data)) for path in (data / "spool").rglob("*") if path.is_file())
        if name not in known
    ]
    return faults


_OURS = re.compile(
    r"outer|outer/node|outer/node/(node\.toml|log|data)"
    r"|outer/node/data/(index\.sqlite(-wal|-shm)?|lock|told\.json|incoming|made|quarantine|spool|results|models|models/.*)"
    r"|outer/node/data/journal(/[0-9]{8}\.(base|log))?|outer/node/data/quarantine/[0-9a-f]{64}\.[0-9a-f]{32}\.dcm"
    r"|outer/node/data/(spool|results)/[0-9a-f]{2}"
    r"|outer/node/data/spool/(?P<folder>[0-9a-f]{2})/(?P=folder)[0-9a-f]{62}(\.[0-9a-f]{64})?(-[0-9]+)?\.dcm"
)


def folder_faults(folder: Path) -> list[str]:
    """Files and folders that the node has no business to make, or leaves behind."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [f"{name!r} is no file of the node's" for name in names if _OURS.fullmatch(name) is None]


def log_faults(log: str) -> tuple[Counter[str], list[str]]:
    """The events of a log, and what it must not hold: what is no event, unexpected errors, texts."""
    events: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for line in log.split("\n"):
        if not line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not line.isprintable():
            wrong[f"the log has a line that is no event: {line[:200]!r}"] += 1
            continue
        events[str(event.get("event"))] += 1
        if MARK.decode() in line or "Traceback" in line:
            wrong["the log tells what stands in a data set, or a stack trace"] += 1
        dies = event.get("event") in ("association.aborted", "thread.failed") and "error" in event
        if dies or "unexpected" in str(event.get("reason")) or event.get("level") in ("error", "critical"):
            told = ", ".join(str(event.get(key)) for key in ("event", "reason", "error") if key in event)
            wrong[f"the log tells of an error of ours: {told}"] += 1
    return events, [f"{fault} ({count} times)" for fault, count in wrong.items()]
