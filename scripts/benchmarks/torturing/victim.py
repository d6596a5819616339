"""The node as a program that `torture` kills and starts again, and what it is doing at a moment."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from scripts.benchmarks.ingest import LostError
from scripts.benchmarks.reading import CONFIGURATION
from scripts.benchmarks.servers import AE_TITLE, ENVIRONMENT, free_port, listens

QUIET_SECONDS = 0.3
STEPS = ("receiving", "completing", "reading", "writing", "delivering", "committing")
_READY_SECONDS = 60.0
_RECEIVED_PART, _RESULT_PART = 64, 32  # how many digits the names of partial files begin with


class Node:
    """The node as a program, which is killed and started again in the same folder."""

    def __init__(self, folder: Path, pacs: int) -> None:
        self.folder, self.port = folder, free_port()
        self.ready: list[float] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}  # beside that of all programs
        folder.mkdir()
        told = CONFIGURATION.format(title=AE_TITLE, port=self.port, quiet=QUIET_SECONDS, pacs=pacs)
        told = told.replace("chest_xray", "phantom_cxr").replace("destination =", "commitment = true\ndestination =")
        (folder / "node.toml").write_text(told, encoding="utf-8")

    @property
    def data(self) -> Path:
        """Its folder of state."""
        return self.folder / "data"

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            LostError: it does not.
        """
        if not self.try_to_start():
            raise LostError(f"the node does not start again: {self.last_words()}")

    def last_words(self) -> str:
        """The end of what it wrote."""
        return (self.folder / "log").read_bytes()[-500:].decode(errors="replace")

    def try_to_start(self) -> bool:
        """Start it, and wait until it listens; False where it ends instead."""
        began = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "dicom_node", "run", "--config", "node.toml"]
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**ENVIRONMENT, **self.environment},
            )
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() - began > _READY_SECONDS:
                return False
            time.sleep(0.01)
        self.ready.append(time.monotonic() - began)
        return True

    def kill(self, victim: str) -> bool:
        """SIGKILL for the node, its reading process or the group; False where there is no reading process now."""
        if self._process is None:
            raise AssertionError("it was started")
        if victim == "reading process":
            pids = self.reading_pids()
            for pid in pids[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return bool(pids)
        (os.killpg if victim == "all processes" else os.kill)(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return True

    def stop(self) -> int:
        """End it as an administrator does; its exit status."""
        if self._process is None or self._process.poll() is not None:
            return -1
        self._process.terminate()
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def reading_pids(self) -> list[int]:
        """The children of the node that read: Linux names those of each of its threads."""
        found = []
        with suppress(OSError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    with suppress(OSError):
                        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                            found.append(int(child))
        return found

    def rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        """What the index says.

        Raises:
            sqlite3.Error: it says nothing.
        """
        index = self.data / "index.sqlite"
        with closing(sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True, timeout=10)) as conn:
            return conn.execute(sql, values).fetchall()

    def _glance(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        """`rows`, or none between two lives of the node, when there may be no index that can be read."""
        try:
            return self.rows(sql, *values)
        except sqlite3.OperationalError:
            return []

    def steps(self) -> set[str]:
        """What it is doing now."""
        found = set()
        parts = [
            name.split(".")[0]
            for name in [*names(self.data / "incoming"), *names(self.data / "made")]
            if name.endswith(".part")
        ]
        if any(len(part) == _RECEIVED_PART for part in parts):
            found.add("receiving")
        if any(len(part) == _RESULT_PART for part in parts):
            found.add("writing")
        late = time.time() - QUIET_SECONDS + 0.05
        if self._glance("SELECT 1 FROM studies WHERE completed IS NULL AND last_received < ? LIMIT 1", late):
            found.add("completing")
        for (kind,) in self._glance("SELECT DISTINCT kind FROM jobs WHERE state = 'running'"):
            found.add({"read": "reading", "commit": "committing"}.get(str(kind), "delivering"))
        if self._glance("SELECT 1 FROM jobs WHERE kind = 'commit' AND state = 'queued' AND attempts > 0 LIMIT 1"):
            found.add("committing")  # it waits for the answer
        return found

    def is_last_attempt(self) -> bool:
        """Whether a study that is being read fails if its reading process dies once more."""
        return bool(self._glance("SELECT 1 FROM jobs WHERE kind = 'read' AND state = 'running' AND attempts >= 3"))

    def unfinished(self) -> int:
        """Studies that are not at their end."""
        open_ = self._glance("SELECT count(*) FROM studies WHERE completed IS NULL")
        jobs = self._glance("SELECT count(DISTINCT study) FROM jobs WHERE state IN ('queued', 'running')")
        if not open_ or not jobs:
            return 1  # nobody knows: not at its end
        return sum(int(str(count)) for ((count,),) in (open_, jobs))


def names(folder: Path) -> list[str]:
    """The names of what is in a folder; none where there is no folder yet."""
    try:
        return [each.name for each in folder.iterdir()]
    except FileNotFoundError:
        return []


def wait_for(node: Node, wanted: str, dice: random.Random) -> str:
    """Wait for a step, and a moment longer; what is being done then."""
    until = time.monotonic() + 20.0
    while wanted not in node.steps() and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(dice.choice([0.0, dice.uniform(0.0, 0.02), dice.uniform(0.0, 0.3)]))
    return doing(node, wanted)


def doing(node: Node, wanted: str) -> str:
    """What is being done now: the ``wanted`` step, if it is one of several."""
    steps = node.steps()
    return wanted if wanted in steps else next((step for step in STEPS if step in steps), "idle")
