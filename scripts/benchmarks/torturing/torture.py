"""Kills the node and makes its file system fail while studies arrive, then counts what was lost or sent twice.

All programs are real: storescu and pynetdicom send as modalities do, until they are answered 0000, and the PACS is
Orthanc. A kill is a SIGKILL of the node, of its reading process or of all its processes, while something is received,
completed, read, written, delivered or committed to by the PACS, each in turn.

Between the kills the file system below the node's folder fails for a while in the node's own processes (`faults`): with
each error in turn, in some calls and places or in all. Some faults coincide with a kill or with the next start. The
last fault of each error does not: the node has to recover by itself.

In the end the node is left alone until all is done. Then the audit compares what the senders were answered, what the
node has, and what the PACS has.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.benchmarks.ingest import LostError
from scripts.benchmarks.servers import AE_TITLE, SERVERS, MissingError
from scripts.benchmarks.torturing.audit import audit, http_address, instances_in_pacs
from scripts.benchmarks.torturing.modality import (
    _DRAIN_SECONDS,
    _OUTSTANDING,
    Modality,
    Sent,
    push_with_pynetdicom,
    push_with_storescu,
)
from scripts.benchmarks.torturing.victim import STEPS, Node, wait_for
from scripts.benchmarks.torturing.weather import Weather, by_step

_REST_SECONDS = 60.0


# -- the senders


# -- the campaign


def torture(
    folder: Path, *, seed: int, kills: int, seconds: float, apart: int, say: Callable[[str], None]
) -> tuple[dict[str, object], list[str]]:
    """Kill until so many kills are done and so many seconds are over; the figures, and every fault in words.

    A fault of the file system comes after every ``apart`` kills (0: never).

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
        _have_it_call(folder / "pacs", node.port)
        weather = Weather(node, folder, dice)
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
                _rest(node)
                counted[_kill(node, STEPS[done % len(STEPS)], dice)] += 1
                done += 1
                if apart and done % apart == 0:
                    counted.update(weather.strike(STEPS[done // apart % len(STEPS)]))
                if done % 10 == 0:
                    say(f"{done} kills, {len(sent.answered)} images answered, {node.unfinished()} studies in work")
            if apart:
                weather.strike_each()
            for sender in senders:
                sender.ask_to_stop()
            for sender in senders:
                sender.join()
            _settle(node)
            # What could not be deleted during a fault is deleted at the next start; nothing else is left to do then.
            status = node.stop()
            node.start()
            status = status or node.stop()
            figures, faults = audit(node, sent, instances_in_pacs(folder / "pacs"))
        finally:
            weather.clear()
            for sender in senders:
                sender.ask_to_stop()
            node.stop()
    if status:
        faults.append(f"the node ended with status {status} when it was asked to stop")
    faults += weather.wrong
    ready = node.ready[1:] or node.ready
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "kills": sum(counted.values()),
        "kills while": by_step(counted),
        "images sent, tries": sent.tries,
        "answers": dict(sorted(sent.answers.items())),
        **figures,
        **weather.figures(),
        "seconds until it listens again": {"median": round(statistics.median(ready), 2), "most": round(max(ready), 2)},
    }, faults


def _rest(node: Node) -> None:
    """Let a node that is behind catch up.

    Otherwise a node on a slow machine is killed each time before its models are loaded: nothing is ever finished, the
    senders wait, and there is nothing to lose.
    """
    until = time.monotonic() + _REST_SECONDS
    while node.unfinished() > _OUTSTANDING and time.monotonic() < until:
        time.sleep(0.05)


def _kill(node: Node, wanted: str, dice: random.Random) -> tuple[str, str]:
    """Kill while a step is in progress, and start again. Returns the step that was in progress, and what was killed."""
    doing = wait_for(node, wanted, dice)
    victims = ["node", "all processes"]
    if wanted in ("reading", "writing"):
        victims.append("reading process")
    victim = dice.choice(victims)
    if victim == "reading process" and node.is_last_attempt():
        victim = (
            "node"  # a third death of the reading process would fail the job, as it should; that is not tested here
        )
    if not node.kill(victim):
        victim = "node"
        node.kill(victim)
    if victim != "reading process":
        node.start()
    return doing, victim


def _settle(node: Node) -> None:
    """Leave the node alone until all is done. Failed jobs are not revived."""
    until = time.monotonic() + _DRAIN_SECONDS
    calm = 0
    while calm < 5 and time.monotonic() < until:
        calm = calm + 1 if node.unfinished() == 0 else 0
        time.sleep(0.2)


def _have_it_call(folder: Path, port: int) -> None:
    """Tell Orthanc where the node listens: its answers about storage commitment go there."""
    known = json.dumps({"AET": AE_TITLE, "Host": "127.0.0.1", "Port": port}).encode()
    put = urllib.request.Request(f"{http_address(folder)}/modalities/node", data=known, method="PUT")  # noqa: S310 - our own address
    until = time.monotonic() + _REST_SECONDS
    while True:
        try:
            urllib.request.urlopen(put, timeout=10).close()  # noqa: S310 - as above
        except OSError:  # it answers DICOM before it answers HTTP
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


# -- the audit


def table(figures: dict[str, object]) -> str:
    """The figures as Markdown."""
    lines = ["| | |", "|---|---|"]
    for name, value in figures.items():
        if isinstance(value, dict) and value and all(isinstance(by, dict) for by in value.values()):
            for step, by in value.items():
                lines.append(f"| {name} {step} | {', '.join(f'{who} {count}' for who, count in by.items())} |")
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
    parser.add_argument(
        "--apart", type=int, default=4, help="a fault of the file system after so many kills (4; 0: none)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the dice that choose whom and when")
    parser.add_argument("--dir", type=Path, help="where files go, and stay if something is wrong (a temporary folder)")
    parser.add_argument("--json", type=Path, help="write every figure here")
    given = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="dicom-node-torture-", dir=given.dir))
    try:
        figures, faults = torture(
            folder, seed=given.seed, kills=given.kills, seconds=60 * given.minutes, apart=given.apart, say=say
        )
    except (LostError, MissingError) as error:
        say(f"{error}; its files are in {folder}")
        return 2
    print(table(figures), end="")
    if given.json:
        given.json.write_text(json.dumps({**figures, "wrong": faults}, indent=2) + "\n", encoding="utf-8")
    for fault in faults[:50]:
        print(fault)
    if faults:
        print(f"{len(faults)} faults; the node's folder is {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
