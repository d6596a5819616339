"""Kills the node again and again while studies come in, and then counts what was lost or sent twice.

Real processes: storescu and pynetdicom send, as modalities do until they are answered 0000, and the PACS is Orthanc. A
kill is SIGKILL, of the node, of its reading process or of all its processes, while something is received, completed,
read, written or delivered, each in turn. In the end the node is left alone until it has done everything, and then the
audit compares what the senders were answered, what the node has, and what the PACS has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ingest import Load, LostError, make, send
from pydicom import dcmread
from pynetdicom import AE
from reading import CONFIGURATION
from servers import AE_TITLE, ENVIRONMENT, SERVERS, MissingError, free_port, listens

QUIET_SECONDS = 0.3
STEPS = ("receiving", "completing", "reading", "writing", "delivering")
_SMALL = Load("DX of 128 KiB", 1, 1, 256, 256)
_LARGE = Load("DX of 10 MB", 1, 1, 2500, 2048)  # long enough on its way to be killed amid it
_OUTSTANDING = 12  # studies that are not delivered: with more, senders wait
_READY_SECONDS = 60.0
_DRAIN_SECONDS = 300.0
_RECEIVED_PART, _RESULT_PART = 64, 32  # how many digits the names of partial files begin with


@dataclass(slots=True)
class Sent:
    """What the senders know: the digest of every instance that was answered 0000, and its study."""

    answered: dict[str, str] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)
    tries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, file: Path) -> None:
        """An instance was answered 0000."""
        header = dcmread(file, stop_before_pixels=True)
        with self._lock:
            self.answered[str(header.SOPInstanceUID)] = digest(file)
            self.studies.add(str(header.StudyInstanceUID))


def digest(file: Path) -> str:
    """The SHA-256 of a file's data set: its meta information is the receiver's own."""
    content = file.read_bytes()
    length = int.from_bytes(content[140:144], "little")  # of the group (0002,0000), whose element ends at 144
    return hashlib.sha256(content[144 + length :]).hexdigest()


class Node:
    """The node as a program, which is killed and started again in the same folder."""

    def __init__(self, folder: Path, pacs: int) -> None:
        self.folder, self.port = folder, free_port()
        self.ready: list[float] = []
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        told = CONFIGURATION.format(title=AE_TITLE, port=self.port, quiet=QUIET_SECONDS, pacs=pacs)
        (folder / "node.toml").write_text(told.replace("chest_xray", "phantom_cxr"), encoding="utf-8")

    @property
    def data(self) -> Path:
        """Its folder of state."""
        return self.folder / "data"

    def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            LostError: it does not.
        """
        began = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "dicom_node", "run", "--config", "node.toml"]
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
            )
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() - began > _READY_SECONDS:
                last = (self.folder / "log").read_bytes()[-500:].decode(errors="replace")
                raise LostError(f"the node does not start again: {last}")
            time.sleep(0.01)
        self.ready.append(time.monotonic() - began)

    def kill(self, victim: str) -> bool:
        """SIGKILL for the node, its reading process or the group; False where there is no reading process now."""
        if self._process is None:
            raise AssertionError("it was started")
        if victim == "reading process":
            if (pid := self._reading_pid()) is None:
                return False
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return True
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

    def _reading_pid(self) -> int | None:
        """A child of the node that reads: Linux names the children of a process's first thread."""
        pid = self._process.pid if self._process is not None else 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                with suppress(OSError):
                    if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
        return None

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
        parts = [name.split(".")[0] for name in _names(self.data / "incoming") if name.endswith(".part")]
        if any(len(part) == _RECEIVED_PART for part in parts):
            found.add("receiving")
        if any(len(part) == _RESULT_PART for part in parts):
            found.add("writing")
        late = time.time() - QUIET_SECONDS + 0.05
        if self._glance("SELECT 1 FROM studies WHERE completed IS NULL AND last_received < ? LIMIT 1", late):
            found.add("completing")
        for (kind,) in self._glance("SELECT DISTINCT kind FROM jobs WHERE state = 'running'"):
            found.add("reading" if kind == "read" else "delivering")
        return found

    def is_last_attempt(self) -> bool:
        """Whether a study that is being read fails if its reading process dies once more."""
        return bool(self._glance("SELECT 1 FROM jobs WHERE kind = 'read' AND state = 'running' AND attempts >= 3"))

    def unfinished(self) -> int:
        """Studies that are not at their end."""
        open_ = self._glance("SELECT count(*) FROM studies WHERE completed IS NULL")
        jobs = self._glance("SELECT count(DISTINCT study) FROM jobs WHERE state IN ('queued', 'running')")
        return sum(int(str(count)) for ((count,),) in (open_, jobs) if open_ and jobs)


def _names(folder: Path) -> list[str]:
    try:
        return [each.name for each in folder.iterdir()]
    except FileNotFoundError:
        return []


# -- the senders

Push = Callable[[Node, Path, Sent], None]


def push_with_storescu(node: Node, folder: Path, sent: Sent) -> None:
    """A study as DCMTK sends it: all its images, until all are answered 0000 in one go."""
    sent.tries += 1
    send([folder], node.port)  # LostError: once more
    for file in sorted(folder.iterdir()):
        sent.note(file)


def push_with_pynetdicom(node: Node, folder: Path, sent: Sent) -> None:
    """A study image by image: what was answered 0000 counts at once, and all are sent again where one was not."""
    sent.tries += 1
    files = sorted(folder.iterdir())
    ae = AE("STORESCU")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.connection_timeout = 5
    header = dcmread(files[0], stop_before_pixels=True)
    ae.add_requested_context(header.SOPClassUID, header.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", node.port, ae_title=AE_TITLE)
    if not association.is_established:
        raise LostError("no association")
    try:
        for file in files:
            try:
                answer = association.send_c_store(file)
            except RuntimeError as error:
                raise LostError("the association broke") from error
            if answer.get("Status") != 0x0000:
                raise LostError("no success")
            sent.note(file)
    finally:
        if association.is_established:
            association.release()


class Modality:
    """Sends one study after the other, each until it is taken, in a thread of its own."""

    def __init__(self, node: Node, folder: Path, sent: Sent, push: Push, dice: random.Random) -> None:
        self._node, self._folder, self._sent, self._push, self._dice = node, folder, sent, push, dice
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Begin no other study; the one in work is sent until it is taken."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for the study in work.

        Raises:
            LostError: it is not taken.
        """
        self._thread.join(_DRAIN_SECONDS)
        if self._thread.is_alive():
            raise LostError("a study is not taken by a node that nobody kills any more")

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(self._dice.uniform(0.0, 0.4)):
            if self._node.unfinished() > _OUTSTANDING:
                continue
            number += 1
            load = self._dice.choice([_SMALL, _SMALL, _LARGE])
            study = make(self._folder / f"{number}", self._dice.randint(1, 3), load)
            while not self._is_taken(study):
                time.sleep(self._dice.uniform(0.05, 0.5))
            shutil.rmtree(study)

    def _is_taken(self, study: Path) -> bool:
        try:
            self._push(self._node, study, self._sent)
        except LostError:
            return False
        return True


# -- the campaign


def torture(
    folder: Path, *, seed: int, kills: int, seconds: float, say: Callable[[str], None]
) -> tuple[dict[str, object], list[str]]:
    """Kill until so many kills are done and so many seconds are over; the figures, and every fault in words.

    Raises:
        LostError: the node does not start again.
        MissingError: a program is not installed.
    """
    dice = random.Random(seed)  # noqa: S311 - no secret
    sent = Sent()
    counted: Counter[tuple[str, str]] = Counter()
    began = time.monotonic()
    with SERVERS["orthanc"].running(folder / "pacs") as pacs:
        node = Node(folder / "node", pacs.port)
        senders = [
            Modality(node, folder / f"images-{number}", sent, push, random.Random(seed + number))  # noqa: S311
            for number, push in enumerate([push_with_storescu, push_with_pynetdicom], 1)
        ]
        try:
            node.start()
            for sender in senders:
                sender.start()
            done = 0
            while done < kills or time.monotonic() - began < seconds:
                step, victim = _kill(node, STEPS[done % len(STEPS)], dice)
                counted[step, victim] += 1
                done += 1
                if victim != "reading process":
                    node.start()
                if done % 10 == 0:
                    say(f"{done} kills, {len(sent.answered)} images answered, {node.unfinished()} studies in work")
            for sender in senders:
                sender.ask_to_stop()
            for sender in senders:
                sender.join()
            _settle(node)
            status = node.stop()
            figures, faults = audit(node, sent, _in_pacs(folder / "pacs"))
        finally:
            for sender in senders:
                sender.ask_to_stop()
            node.stop()
    if status:
        faults.append(f"the node ended with status {status} when it was asked to stop")
    steps = {step: {v: n for (s, v), n in sorted(counted.items()) if s == step} for step in (*STEPS, "idle")}
    ready = node.ready[1:] or node.ready
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "kills": sum(counted.values()),
        "kills while": {step: by for step, by in steps.items() if by},
        "images sent, tries": sent.tries,
        **figures,
        "seconds until it listens again": {"median": round(statistics.median(ready), 2), "most": round(max(ready), 2)},
    }, faults


def _kill(node: Node, wanted: str, dice: random.Random) -> tuple[str, str]:
    """Kill while a step is done; what was being done in truth, and who was killed."""
    until = time.monotonic() + 20.0
    while wanted not in node.steps() and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(dice.choice([0.0, dice.uniform(0.0, 0.02), dice.uniform(0.0, 0.3)]))
    doing = node.steps()
    victims = ["node", "all processes"]
    if wanted in ("reading", "writing"):
        victims.append("reading process")
    victim = dice.choice(victims)
    if victim == "reading process" and node.is_last_attempt():
        victim = "node"  # what the reading process dies of thrice is rightly given up, and not our theme
    if not node.kill(victim):
        victim = "node"
        node.kill(victim)
    return (wanted if wanted in doing else next((step for step in STEPS if step in doing), "idle")), victim


def _settle(node: Node) -> None:
    """Leave the node alone until all is done; nobody revives what failed."""
    until = time.monotonic() + _DRAIN_SECONDS
    calm = 0
    while calm < 5 and time.monotonic() < until:
        calm = calm + 1 if node.unfinished() == 0 else 0
        time.sleep(0.2)


def _in_pacs(folder: Path) -> list[str]:
    """The SOP Instance UID of every instance that Orthanc has."""
    port = json.loads((folder / "orthanc.json").read_text(encoding="utf-8"))["HttpPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/instances?expand", timeout=120) as answer:
        return [each["MainDicomTags"]["SOPInstanceUID"] for each in json.load(answer)]


# -- the audit


def audit(node: Node, sent: Sent, pacs: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """Compare what was answered, what is kept and what the PACS has; the figures, and every fault in words."""
    kept = {str(uid): str(file) for uid, file in node.rows("SELECT sop_instance_uid, file FROM instances")}
    faults = []
    lost = changed = 0
    for uid, wanted in sent.answered.items():
        if uid not in kept or not (node.data / kept[uid]).is_file():
            lost += 1
            faults.append(f"instance {uid} was answered 0000 and is not kept")
        elif digest(node.data / kept[uid]) != wanted:
            changed += 1
            faults.append(f"instance {uid} was answered 0000 and is kept with other bytes")
    results = {str(uid): str(file) for uid, file in node.rows("SELECT sop_instance_uid, file FROM results")}
    delivered = {str(uid) for (uid,) in node.rows("SELECT subject FROM jobs WHERE kind = 'send' AND state = 'done'")}
    states = _states(node)
    without = [study for study in sent.studies if states.get(study) != "delivered"]
    ((failed,),) = node.rows("SELECT count(DISTINCT study) FROM jobs WHERE state = 'failed'")
    ((deaths,),) = node.rows("SELECT coalesce(max(deaths), 0) FROM jobs WHERE kind = 'read'")
    faults += [f"study {study} ended as {states.get(study, 'unknown')}, not delivered" for study in without]
    twice = [uid for uid, count in Counter(pacs).items() if count > 1]
    faults += [f"the PACS has {uid} more than once" for uid in twice]
    strangers = set(pacs) - set(results)
    faults += [f"the PACS has {uid}, of which the node knows nothing" for uid in strangers]
    missing = delivered - set(pacs)
    faults += [f"{uid} is said to be delivered and is not in the PACS" for uid in missing]
    repeated = node.rows(
        "SELECT study, model FROM readings"
        " GROUP BY study, model, json_extract(reading, '$.sources'), json_extract(reading, '$.failure')"
        " HAVING count(*) > 1"
    )
    faults += [f"study {study} was read twice by {model} on the same images" for study, model in repeated]
    leftovers = [*_names(node.data / "incoming"), *_orphans(node.data, {*kept.values(), *results.values()})]
    faults += [f"{name} is left over" for name in leftovers]
    return {
        "images answered 0000": len(sent.answered),
        "studies": len(sent.studies),
        "lost": lost,
        "changed": changed,
        "results in the PACS": len(pacs),
        "duplicated": len(twice) + len(strangers) + len(repeated),
        "without outcome": len(without),
        "failed": failed,
        "deaths of the node during one reading, at most": deaths,
        "said to be delivered and not there": len(missing),
        "files left over": len(leftovers),
    }, faults


def _states(node: Node) -> dict[str, str]:
    """The state of every study, as IT sees it."""
    command = [sys.executable, "-m", "dicom_node", "studies", "--json", "--limit", "100000", "--config", "node.toml"]
    done = subprocess.run(command, cwd=node.folder, check=True, capture_output=True, env=ENVIRONMENT)
    return {each["study"]: each["state"] for each in json.loads(done.stdout)}


def _orphans(data: Path, known: set[str]) -> Iterator[str]:
    for folder in ("spool", "results"):
        for file in (data / folder).rglob("*"):
            name = str(file.relative_to(data))
            if file.is_file() and name not in known:
                yield name


def table(figures: dict[str, object]) -> str:
    """The figures as Markdown."""
    lines = ["| | |", "|---|---|"]
    for name, value in figures.items():
        if name == "kills while" and isinstance(value, dict):
            for step, by in value.items():
                lines.append(f"| kills while {step} | {', '.join(f'{who} {count}' for who, count in by.items())} |")
        elif isinstance(value, dict):
            lines.append(f"| {name} | {', '.join(f'{key} {one}' for key, one in value.items())} |")
        else:
            lines.append(f"| {name} | {value} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module; the status is 1 where anything was lost, changed, sent twice or left without an outcome."""
    parser = argparse.ArgumentParser(prog="scripts/torture", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=0.0, help="for how long, at least")
    parser.add_argument("--kills", type=int, default=20, help="how many, at least (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice that choose whom and when")
    parser.add_argument("--dir", type=Path, help="where files go, and stay if something is wrong (a temporary folder)")
    parser.add_argument("--json", type=Path, help="write every figure here")
    given = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="dicom-node-torture-", dir=given.dir))
    try:
        figures, faults = torture(folder, seed=given.seed, kills=given.kills, seconds=60 * given.minutes, say=say)
    except (LostError, MissingError) as error:
        say(f"{error}; its files are in {folder}")
        return 2
    print(table(figures), end="")
    if given.json:
        given.json.write_text(json.dumps({**figures, "faults": faults}, indent=2) + "\n", encoding="utf-8")
    for fault in faults[:50]:
        print(fault)
    if faults:
        print(f"{len(faults)} faults; the node's folder is {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
