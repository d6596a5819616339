"""Fuzzes the node over TCP with broken PDUs, commands and data sets, and counts its answers to each kind of input.

The node is a real process, and several connections send at the same time. Every input is made from the seed and its
number, so one that found a fault can be sent again alone (--first, --inputs 1). A C-ECHO follows each input, and a
valid C-STORE every fifty inputs: a node that hangs or has died does not answer them. In the end an audit checks the
process, its memory, its folder, its index and its log.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks.fuzzing import hostile_commands, hostile_pdus, hostile_sets
from scripts.benchmarks.fuzzing.hostile import (
    ABORT,
    AE_TITLE,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    ASSOCIATE_RQ,
    MARK,
    P_DATA,
    PROBE,
    PROBE_MESSAGE,
    RELEASE,
    RELEASE_RP,
    Dice,
    Input,
    Kind,
    associate_rq,
    pdu,
    stored,
)
from scripts.benchmarks.ingest import LostError
from scripts.benchmarks.servers import MissingError, free_port, listening
from scripts.benchmarks.torturing.torture import digest

KINDS: list[Kind] = [*hostile_pdus.KINDS, *hostile_commands.KINDS, *hostile_sets.KINDS]
EVIL = [Path("/tmp/evil"), Path("/evil")]  # noqa: S108 - what hostile UIDs name
_CHUNK = 50  # inputs, and then a good one
_AT_ONCE = 4  # connections
_DEADLINE = 30.0  # seconds for an answer; without one the node hangs
_PROMPT = 15.0  # seconds in which a good input is answered, whatever the others do
_SETTLE_SECONDS = 15.0
_MANY = 20_000  # inputs, at the middle of which a node holds what it always holds
_MORE_AT_THE_END = 48e6  # bytes of memory over those at the middle
_MORE_AT_MOST = 300e6  # bytes over those at its start
_RAISED = [b"Traceback (most recent", b'File "', b"Error: ", b".py"]

# What may be answered. 0110 is an error of ours, but to N-SET, where it says that a step is over (PS3.4 F.7.2.2.2).
_STATUSES = {
    "C-STORE": {0x0000, 0x0117, 0x0122, 0x0124, 0xA900, 0xC000, 0xC001},
    "C-ECHO": {0x0000},
    "N-CREATE": {
        0x0000,
        0x0105,
        0x0106,
        0x0107,
        0x0111,
        0x0116,
        0x0117,
        0x0118,
        0x0119,
        0x0120,
        0x0121,
        0x0122,
        0x0124,
    },
    "N-SET": {
        0x0000,
        0x0105,
        0x0106,
        0x0107,
        0x0110,
        0x0112,
        0x0116,
        0x0117,
        0x0118,
        0x0119,
        0x0120,
        0x0121,
        0x0122,
        0x0124,
    },
    "N-GET": {0x0000, 0x0107, 0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0124, 0x0211},
    "N-DELETE": {0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0124, 0x0211},
    "N-ACTION": {
        0x0000,
        0x0112,
        0x0113,
        0x0114,
        0x0115,
        0x0117,
        0x0118,
        0x0119,
        0x0122,
        0x0123,
        0x0124,
        0x0211,
        0x0212,
    },
    "N-EVENT-REPORT": {0x0000, 0x0112, 0x0113, 0x0114, 0x0115, 0x0117, 0x0118, 0x0119, 0x0122, 0x0211, 0x0212},
    "C-FIND": {0x0122, 0x0211, 0xA900, 0xC000},
    "C-GET": {0x0122, 0x0211, 0xA900, 0xC000},
    "C-MOVE": {0x0122, 0x0211, 0xA900, 0xC000},
}
_FIELDS = {
    0x8001: "C-STORE",
    0x8030: "C-ECHO",
    0x8140: "N-CREATE",
    0x8120: "N-SET",
    0x8110: "N-GET",
    0x8150: "N-DELETE",
}
_FIELDS |= {0x8130: "N-ACTION", 0x8100: "N-EVENT-REPORT", 0x8020: "C-FIND", 0x8010: "C-GET", 0x8021: "C-MOVE"}
_SILENT = "closed without a word"
_HANGS = "no answer"
_LIVES = "no answer, and it goes on"  # to what asks for none


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: in words, and the status of each C-STORE with its Message ID and SOP Instance UID."""

    words: tuple[str, ...]
    stores: tuple[tuple[int, bytes, int], ...]
    ended: bool
    seconds: float


@dataclass(slots=True)
class Seen:
    """What all connections together received."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    # Of each instance that was answered 0000 the digests of what was sent; none where its bytes were changed anyhow.
    kept: dict[str, set[str]] = field(default_factory=dict)
    slowest: dict[str, tuple[float, int]] = field(default_factory=dict)  # seconds, number of the input
    inputs: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, number: int, kind: str, sent: Input, answer: Answer) -> None:
        """Count the answer to an input, and judge it."""
        words = " + ".join(answer.words)
        faults = judged(sent, answer)
        kept = [
            (uid.decode("latin-1").strip(" \0"), sent.data_sets.get(message))
            for message, uid, status in answer.stores
            if status == 0x0000
        ]
        with self._lock:
            self.inputs += 1
            self.counts[kind, words] += 1
            self.faults += [f"input {number} ({kind}): {fault}" for fault in faults]
            for uid, data_set in kept:
                digests = self.kept.setdefault(uid, set())
                if data_set is not None:
                    digests.add(hashlib.sha256(data_set).hexdigest())
            self.slowest[kind] = max(self.slowest.get(kind, (0.0, 0)), (answer.seconds, number))


def judged(sent: Input, answer: Answer) -> list[str]:
    """What is wrong with an answer, in words."""
    found = []
    for word in answer.words:
        name, _, status = word.rpartition(" ")
        if word == _HANGS:
            found.append(f"not answered within {_DEADLINE:g} s")
        elif word == _SILENT and not sent.quiet:
            found.append("the connection was closed without a word")
        elif word.startswith("odd:"):
            found.append(word)
        elif name in _STATUSES and int(status, 16) not in _STATUSES[name]:
            found.append(f"{word}, which is no answer to hostile bytes")
    if sent.good and [status for _, _, status in answer.stores] != [0x0000] * max(len(sent.data_sets), 1):
        found.append(f"a good C-STORE was answered with {' + '.join(answer.words)}")
    return found


class Talk:
    """A connection to the node."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_DEADLINE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = bytearray()

    def close(self) -> None:
        """End it."""
        self._socket.close()

    def say(self, data: bytes, *, ends: bool) -> Answer:
        """Send and read the answers, up to that of the C-ECHO that tells that all are there, or to the end."""
        began = time.monotonic()
        with suppress(ConnectionError):  # it was closed amid this; what it said before is there
            self._socket.sendall(data)
        if ends:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        words: list[str] = []
        stores: list[tuple[int, bytes, int]] = []
        over = False
        try:
            over = self._listen(words, stores, whole=ends)
        except TimeoutError:
            words.append(_HANGS)
            over = True
        except EOFError:
            over = True
            if not words:
                words.append(_SILENT)
        return Answer(tuple(dict.fromkeys(words)) or (_LIVES,), tuple(stores), over, time.monotonic() - began)

    def _listen(self, words: list[str], stores: list[tuple[int, bytes, int]], *, whole: bool) -> bool:
        """Whether the association is over, as opposed to the C-ECHO answered; EOFError where the connection is."""
        command = bytearray()
        while True:
            kind, body = self._pdu()
            if any(each in body for each in (*_RAISED, MARK)):
                words.append("odd: it tells what it should not")
            if kind == ASSOCIATE_AC:
                words.append("A-ASSOCIATE-AC")
            elif kind == ASSOCIATE_RJ and len(body) == 4:
                words.append("A-ASSOCIATE-RJ {}/{}/{}".format(*body[1:]))
            elif kind == ABORT and len(body) == 4:
                words.append("A-ABORT {}/{}".format(*body[2:]))
            elif kind == RELEASE_RP:
                words.append("A-RELEASE-RP")
            elif kind != P_DATA:
                words.append(f"odd: a PDU of type {kind:02X}H and {len(body)} bytes")
            while kind == P_DATA and body:
                size, _, control = struct.unpack_from(">IBB", body)
                fragment, body = body[6 : 4 + size], body[4 + size :]
                if not control & 1:
                    continue  # of a data set that an N-service answers with
                command += fragment
                if control & 2:
                    name, status, number, uid = _response(bytes(command))
                    command.clear()
                    if number == PROBE and name == "C-ECHO" and not whole:
                        return False
                    words.append(name if name.startswith("odd:") else f"{name} {status:04X}")
                    if name == "C-STORE":
                        stores.append((number, uid, status))

    def _pdu(self) -> tuple[int, bytes]:
        kind, size = struct.unpack(">BxI", self._take(6))
        if size > 1 << 24:
            raise EOFError
        return kind, self._take(size)

    def _take(self, count: int) -> bytes:
        while len(self._left) < count:
            try:
                piece = self._socket.recv(65536)
            except ConnectionError:
                piece = b""
            if not piece:
                raise EOFError
            self._left += piece
        taken = bytes(self._left[:count])
        del self._left[:count]
        return taken


def _response(command: bytes) -> tuple[str, int, int, bytes]:
    """The service, status, Message ID and SOP Instance UID of an answer."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 8 <= len(command):
        _, number, size = struct.unpack_from("<HHI", command, at)
        found[number] = command[at + 8 : at + 8 + size]
        at += 8 + size
    numbers = [int.from_bytes(found.get(number, b"\xff\xff"), "little") for number in (0x0100, 0x0900, 0x0120)]
    name = _FIELDS.get(numbers[0], f"odd: a message {numbers[0]:04X}H")
    return name, numbers[1], numbers[2], found.get(0x1000, b"")


# -- the campaign


def made(seed: int, number: int) -> tuple[str, Input]:
    """An input and its kind."""
    roll = random.Random(f"{seed}/{number}")  # noqa: S311 - no secret
    (kind,) = roll.choices(KINDS, [kind.weight for kind in KINDS])
    return kind.name, kind.make(Dice(roll, seed, number))


def _good(seed: int, number: int) -> Input:
    """What a modality sends."""
    dice = Dice(random.Random(f"{seed}/{number}/good"), seed, number)  # noqa: S311 - as above
    context, dice.uids = 5, 1000
    uid = dice.uid()
    return stored(context, uid, hostile_sets.image(dice, context, uid), good=True)


def _associated(port: int) -> Talk:
    """An association for further inputs.

    Raises:
        LostError: the node does not accept it.
    """
    talk = Talk(port)
    answer = talk.say(pdu(ASSOCIATE_RQ, associate_rq()) + PROBE_MESSAGE, ends=False)
    if answer.words != ("A-ASSOCIATE-AC",):
        raise LostError(f"an association was answered with {' + '.join(answer.words)}")
    return talk


def send(port: int, seed: int, numbers: range, seen: Seen) -> None:
    """Send some inputs one after the other, and then what a modality sends.

    Raises:
        LostError, OSError: the node does not accept an association any more.
    """
    talk: Talk | None = None
    try:
        for number in numbers:
            kind, sent = made(seed, number)
            if sent.alone:
                alone = Talk(port)
                answer = alone.say(sent.data, ends=True)
                alone.close()
            else:
                talk = talk or _associated(port)
                answer = talk.say(sent.data if sent.ends else sent.data + PROBE_MESSAGE, ends=sent.ends)
                if answer.ended:
                    talk.close()
                    talk = None
            seen.note(number, kind, sent, answer)
        began = time.monotonic()
        if talk is None or numbers[-1] % (2 * _CHUNK) >= _CHUNK:  # over what the inputs have left, or anew
            if talk is not None:
                talk.close()
            talk = _associated(port)
        good = _good(seed, numbers[-1])
        answer = talk.say(good.data + PROBE_MESSAGE, ends=False)
        seen.note(numbers[-1], "between them: a good C-STORE and C-ECHO", good, answer)
        if (seconds := time.monotonic() - began) > _PROMPT:
            seen.faults.append(f"behind input {numbers[-1]} a good C-STORE took {seconds:.1f} s")
        talk.say(RELEASE, ends=True)
    finally:
        if talk is not None:
            talk.close()


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


CONFIGURATION = """\
[node]
ae_title = "{title}"
host = "127.0.0.1"
port = {port}
data_dir = "data"
quiet_seconds = 0.5
keep_free_gb = 0
accept_unknown_callers = true
"""


def fuzz(
    folder: Path, *, seed: int, inputs: int, first: int, seconds: float, say: Callable[[str], None]
) -> tuple[dict[str, object], list[str]]:
    """Send so many inputs and for so long, at least; the figures, and every fault in words.

    Raises:
        MissingError: the node does not start.
    """
    home = folder / "outer" / "node"  # so that a file beside the node's folder, or above it, is seen
    home.mkdir(parents=True)
    port = free_port()
    told = CONFIGURATION.format(title=AE_TITLE.decode(), port=port)
    (home / "node.toml").write_text(told, encoding="utf-8")
    before = {path for path in EVIL if path.exists()}
    seen, began = Seen(), time.monotonic()
    command = [sys.executable, "-m", "dicom_node", "run", "--config", "node.toml"]
    with listening("dicom-node", command, home, port) as running:
        process = Process(running.pid)
        _settled(process, 0, 0)
        start = {"memory": process.status("VmRSS"), "threads": process.status("Threads"), "files": process.files()}
        _campaign(port, process, seen, seed=seed, inputs=inputs, first=first, seconds=seconds, say=say)
        if running.poll() is None:
            _settled(process, start["threads"], start["files"])
        faults = [*seen.faults, *_process_faults(running, process, start)]
        memory = _memory(process, start["memory"]) if running.poll() is None else {}
        faults += index_faults(home / "data", seen.kept)
        if running.poll() is None:
            running.terminate()
            if status := running.wait(60):
                faults.append(f"the node ended with status {status} when it was asked to stop")
    faults += memory_faults(memory, seen.inputs)
    faults += [f"{path} is there" for path in EVIL if path.exists() and path not in before]
    faults += folder_faults(folder)
    log = (home / "log").read_text(encoding="utf-8", errors="backslashreplace")
    events, wrong = log_faults(log)
    faults += wrong
    return {
        "seed": seed,
        "first": first,
        "inputs": seen.inputs,
        "seconds": round(time.monotonic() - began, 1),
        "instances answered 0000": len(seen.kept),
        "crashes": sum("died" in fault for fault in faults),
        "memory, MB": {name: round(value / 1e6, 1) for name, value in memory.items()},
        "answers": _by_kind(seen.counts),
        "slowest answers": {
            kind: {"seconds": round(taken, 2), "input": number}
            for kind, (taken, number) in sorted(seen.slowest.items(), key=lambda one: -one[1][0])[:8]
        },
        "events of the log": dict(events.most_common()),
    }, faults


def _campaign(
    port: int,
    process: Process,
    seen: Seen,
    *,
    seed: int,
    inputs: int,
    first: int,
    seconds: float,
    say: Callable[[str], None],
) -> None:
    until = time.monotonic() + seconds
    chunks = iter(range(first, sys.maxsize, _CHUNK))
    taking = threading.Lock()
    broken = threading.Event()

    def work() -> None:
        while not broken.is_set():
            with taking:
                begin = next(chunks)
                if begin >= first + inputs and time.monotonic() >= until:
                    return
            many = _CHUNK if begin >= first + inputs else min(_CHUNK, first + inputs - begin)
            try:
                send(port, seed, range(begin, begin + many), seen)
            except (LostError, OSError) as error:
                seen.faults.append(f"about input {begin}: {error}")
                if len(seen.faults) > 100 or not Path(f"/proc/{process.pid}").exists():
                    broken.set()

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        working = [pool.submit(work) for _ in range(_AT_ONCE)]
        told = time.monotonic()
        while not all(one.done() for one in working):
            with suppress(OSError, ValueError):
                process.memory.append(process.status("VmRSS"))
            if time.monotonic() - told > 20:
                told = time.monotonic()
                say(f"{seen.inputs} inputs, {len(seen.kept)} instances, {len(seen.faults)} faults")
            time.sleep(0.2)
        for one in working:
            one.result()


def _settled(process: Process, threads: int, files: int) -> None:
    """Wait until the connections of a moment ago are over."""
    until = time.monotonic() + (_SETTLE_SECONDS if threads else 1.0)
    while time.monotonic() < until and not (process.status("Threads") <= threads and process.files() <= files):
        time.sleep(0.1)


# -- the audit


def _process_faults(running: subprocess.Popen[bytes], process: Process, start: dict[str, int]) -> list[str]:
    if running.poll() is not None:
        return [f"the node died with status {running.returncode}"]
    found = []
    if (threads := process.status("Threads")) > start["threads"]:
        found.append(f"{threads} threads are left where {start['threads']} were")
    if (files := process.files()) > start["files"]:
        found.append(f"{files} files are open where {start['files']} were")
    return found


def _memory(process: Process, start: int) -> dict[str, int]:
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
    if (more := found["end"] - found["middle"]) > _MORE_AT_THE_END and inputs >= _MANY:
        faults.append(f"the node holds {more / 1e6:.0f} MB more than after half of the inputs")
    if (more := found["peak"] - found["start"]) > _MORE_AT_MOST:
        faults.append(f"the node held {more / 1e6:.0f} MB more than at its start")
    return faults


def index_faults(data: Path, kept: dict[str, set[str]]) -> list[str]:
    """What was answered 0000 and is not kept as it was sent, and files of which the index knows nothing."""
    with closing(sqlite3.connect(f"{(data / 'index.sqlite').as_uri()}?mode=ro", uri=True, timeout=60)) as index:
        rows = {
            uid: (file, size)
            for uid, file, size in index.execute("SELECT sop_instance_uid, file, bytes FROM instances")
        }
        (checked,) = index.execute("PRAGMA integrity_check").fetchone()
    faults = [] if checked == "ok" else ["the index is damaged"]
    for uid, digests in kept.items():
        file, size = rows.get(uid, ("", 0))
        if not file or not (data / file).is_file():
            faults.append(f"instance {uid!r} was answered 0000 and is not kept")
        elif (digests and digest(data / file) not in digests) or (data / file).stat().st_size != size:
            faults.append(f"instance {uid!r} was answered 0000 and is kept with other bytes")
    faults += [f"instance {uid!r} is in the index and was never answered 0000" for uid in rows.keys() - kept.keys()]
    known = {file for file, _ in rows.values()}
    faults += [
        f"{name} is in the spool and not in the index"
        for name in (str(path.relative_to(data)) for path in (data / "spool").rglob("*") if path.is_file())
        if name not in known
    ]
    return faults


_OURS = re.compile(
    r"outer|outer/node|outer/node/(node\.toml|log|data)"
    r"|outer/node/data/(index\.sqlite(-wal|-shm)?|lock|incoming|spool|results|models|models/.*)"
    r"|outer/node/data/(spool|results)/[0-9a-f]{2}"
    r"|outer/node/data/spool/(?P<folder>[0-9a-f]{2})/(?P=folder)[0-9a-f]{62}(-[0-9]+)?\.dcm"
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


def _by_kind(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys([*(kind.name for kind in KINDS), *(kind for kind, _ in counts)]):
        answers = {words: count for (kind, words), count in counts.most_common() if kind == name}
        if answers:
            found[name] = answers
    return found


def _lines(figures: dict[str, object]) -> Iterator[str]:
    answers = figures["answers"]
    yield "| sent | inputs | answered |"
    yield "|---|---|---|"
    for kind, found in answers.items() if isinstance(answers, dict) else ():
        several = [f"{words} {count}" for words, count in list(found.items())[:12]]
        if len(found) > 12:
            several.append(f"{len(found) - 12} others {sum(list(found.values())[12:])}")
        yield f"| {kind} | {sum(found.values())} | {'; '.join(several)} |"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in figures.items():
        if name == "slowest answers" and isinstance(value, dict):
            told = (f"{kind} {one['seconds']} s (input {one['input']})" for kind, one in value.items())
            yield f"| {name} | {'; '.join(told)} |"
        elif isinstance(value, dict) and name != "answers":
            yield f"| {name} | {', '.join(f'{key} {one}' for key, one in value.items())} |"
        elif name != "answers":
            yield f"| {name} | {value} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module; the status is 1 where the audit finds a fault."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, at least (100000)")
    parser.add_argument("--minutes", type=float, default=0.0, help="for how long, at least")
    parser.add_argument("--seed", type=int, default=1, help="of the dice that make every input")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input, to send one again")
    parser.add_argument("--dir", type=Path, help="where files go, and stay if something is wrong (a temporary folder)")
    parser.add_argument("--json", type=Path, help="write every figure here")
    given = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="dicom-node-fuzz-", dir=given.dir))
    try:
        figures, faults = fuzz(
            folder, seed=given.seed, inputs=given.inputs, first=given.first, seconds=60 * given.minutes, say=say
        )
    except MissingError as error:
        say(f"{error}; its files are in {folder}")
        return 2
    print("\n".join(_lines(figures)))
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
