"""Measures how soon a killed node serves again: with a full index, a long queue and leftover files, and empty.

The node is killed with SIGKILL while it receives images and works through its queue. The time runs from the start of
the program to the answer to a C-ECHO, and to the first image that is answered 0000.
"""

from __future__ import annotations

import hashlib
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.storage.spool import Spool
from scripts.benchmarks.filling import IMAGES, Hospital, fill, queue
from scripts.benchmarks.ingest import LostError
from scripts.benchmarks.reading import first_echo
from scripts.benchmarks.sender import Sender
from scripts.benchmarks.servers import free_port
from scripts.benchmarks.torturing.victim import Node

_WORK_SECONDS = 1.5  # before it is killed, at least
_LIMIT_SECONDS = 120.0
_PART_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Scale:
    """How many instances the index has, how many studies wait to be read, and how many partial files are left over."""

    instances: int
    queued: int
    partials: int


FULL = Scale(100_000, 10_000, 100)
QUICK = Scale(2_000, 200, 10)


def run(folder: Path, scale: Scale, *, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure; all times in seconds, by node.

    Raises:
        LostError: a node does not start again, or refuses an image.
    """
    found: dict[str, Any] = {
        "instances": scale.instances,
        "queued": scale.queued,
        "partials": scale.partials,
        "rounds": rounds,
        "nodes": {},
    }
    nodes = {"empty": _Ward(folder / "empty", Scale(0, 0, 0)), "full": _Ward(folder / "full", scale)}
    try:
        for ward in nodes.values():
            ward.begin()
        for turn in range(rounds):
            for name, ward in nodes.items():
                times = ward.killed_and_started()
                found["nodes"].setdefault(name, []).append(times)
                say(f"round {turn + 1} of {rounds}, {name}: " + ", ".join(f"{k} {v:.3f}" for k, v in times.items()))
    finally:
        for ward in nodes.values():
            ward.node.kill("all processes")
    return found


class _Ward:
    """A node in its folder, and what is sent to it."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.node = Node(folder, free_port())
        self._scale = scale
        self._number = 0
        self._index = self.node.data / INDEX_FILE
        spool = Spool(self.node.data)
        spool.open()
        spool.close()
        Index(self._index, create=True).close()
        fill(self._index, Hospital(1), (scale.instances - scale.queued) // IMAGES)
        queue(self._index, Hospital(2), scale.queued, due=0.0, images=1)

    def begin(self) -> None:
        """Start it for the first time."""
        self.node.start()

    def killed_and_started(self) -> dict[str, float]:
        """Kill the node while it works, and start it again. Returns the times (seconds), and the jobs that waited."""
        sender = Sender(self.node.port)
        working = threading.Thread(target=self._send_on, args=(sender,))
        working.start()
        self._work()
        self.node.kill("all processes")
        working.join()
        self._leave_over()
        waiting = self._waiting()
        began = time.perf_counter()
        self.node.start()
        echo = first_echo(self.node.port) - began
        self._number += 1
        sender.associate(self._number, 1)
        took = time.perf_counter() - began
        if any((self.node.data / "incoming").glob("*.left-over.part")):
            raise LostError("what was left over is there still")
        return {"C-ECHO": echo, "image": took, "jobs that wait": waiting}

    def _work(self) -> None:
        """Wait a while, and until the node has taken a job from its queue, if it has one.

        Raises:
            LostError: it takes no job.
        """
        before, until = self._waiting(), time.monotonic() + _LIMIT_SECONDS
        time.sleep(_WORK_SECONDS)
        while before and self._waiting() >= before:
            if time.monotonic() > until:
                raise LostError("the node takes nothing from its queue")
            time.sleep(0.05)

    def _waiting(self) -> int:
        ((count,),) = self.node.rows("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
        return int(str(count))

    def _send_on(self, sender: Sender) -> None:
        with suppress(LostError, OSError):  # it is killed amid it
            while True:
                self._number += 1
                sender.associate(self._number, 20)

    def _leave_over(self) -> None:
        """Write partial files, each of an instance that is in place and not in the index."""
        for number in range(self._scale.partials):
            name = hashlib.sha256(f"{self._number}.{number}".encode()).hexdigest()
            part = self.node.data / "incoming" / f"{name}.left-over.part"
            part.write_bytes(bytes(_PART_BYTES))
            (self.node.data / "spool" / name[:2] / f"{name}.dcm").hardlink_to(part)


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"From the start of a node that was killed, {found['rounds']} rounds; the full one has {found['instances']:,} "
        f"instances, {found['queued']:,} studies that wait to be read and {found['partials']} files left over",
        "",
        "| until it answers | empty, seconds (least to greatest) | full, seconds (least to greatest) |",
        "|---|---|---|",
    ]
    for what in ("C-ECHO", "image"):
        spreads = [_spread([each[what] for each in found["nodes"][name]]) for name in ("empty", "full")]
        lines.append(f"| {what} | {' | '.join(spreads)} |")
    return "\n".join([*lines, ""])


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
