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
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks.fuzzing import hostile_commands, hostile_pdus, hostile_sets
from scripts.benchmarks.fuzzing.aftermath import (
    EVIL,
    Process,
    folder_faults,
    index_faults,
    log_faults,
    memory_faults,
    memory_of,
    process_faults,
    settle,
)
from scripts.benchmarks.fuzzing.conversation import FIELDS, PROMPT_SECONDS, Answer, Talk, judged
from scripts.benchmarks.fuzzing.hostile import (
    AE_TITLE,
    ASSOCIATE_RQ,
    PROBE_MESSAGE,
    RELEASE,
    Dice,
    Input,
    Kind,
    associate_rq,
    pdu,
    stored,
)
from scripts.benchmarks.ingest import LostError
from scripts.benchmarks.servers import MissingError, free_port, listening

KINDS: list[Kind] = [*hostile_pdus.KINDS, *hostile_commands.KINDS, *hostile_sets.KINDS]
_CHUNK = 50  # inputs, and then a good one
_AT_ONCE = 4  # connections

FIELDS |= {0x8130: "N-ACTION", 0x8100: "N-EVENT-REPORT", 0x8020: "C-FIND", 0x8010: "C-GET", 0x8021: "C-MOVE"}


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
        if (seconds := time.monotonic() - began) > PROMPT_SECONDS:
            seen.faults.append(f"behind input {numbers[-1]} a good C-STORE took {seconds:.1f} s")
        talk.say(RELEASE, ends=True)
    finally:
        if talk is not None:
            talk.close()


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
        settle(process, 0, 0)
        start = {"memory": process.status("VmRSS"), "threads": process.status("Threads"), "files": process.files()}
        _campaign(port, process, seen, seed=seed, inputs=inputs, first=first, seconds=seconds, say=say)
        if running.poll() is None:
            settle(process, start["threads"], start["files"])
        faults = [*seen.faults, *process_faults(running, process, start)]
        memory = memory_of(process, start["memory"]) if running.poll() is None else {}
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


# -- the audit


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
