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
import hashlib
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE

from scripts.benchmarks.ingest import Load, LostError, make
from scripts.benchmarks.servers import AE_TITLE, ENVIRONMENT, PDU, SERVERS, MissingError, program
from scripts.benchmarks.torturing.victim import STEPS, Node, names, wait_for
from scripts.benchmarks.torturing.weather import Weather, by_step

_SMALL = Load("DX of 128 KiB", 1, 1, 256, 256)
_LARGE = Load("DX of 10 MB", 1, 1, 2500, 2048)  # long enough on its way to be killed amid it
_OUTSTANDING = 12  # studies that are not delivered: with more, senders wait
_REST_SECONDS = 60.0
_DRAIN_SECONDS = 300.0
_TRIED_AGAIN = {"0000", "A700", "0110"}  # what a sender of good images may be answered; with the others it gives up


@dataclass(slots=True)
class Sent:
    """What the senders know: the digest of every instance that was answered 0000, its study, and how often what."""

    answered: dict[str, str] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, *answers: str) -> None:
        """What a sender was answered, in the words of `Sent.answers`."""
        with self._lock:
            self.answers.update(answers)

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


# -- the senders

Push = Callable[[Node, Path, Sent], None]
_STORESCU = {"Success": "0000", "Refused: OutOfResources": "A700", "Unknown Status: 0x110": "0110"}  # its words


def push_with_storescu(node: Node, folder: Path, sent: Sent) -> None:
    """A study as DCMTK sends it: all its images, until all are answered 0000 in one go."""
    sent.tries += 1
    command = [program("storescu"), "-v", "-aec", AE_TITLE, "-pdu", str(PDU), "-R", "+sd", "127.0.0.1", str(node.port)]
    done = subprocess.run(
        [*command, str(folder)], env=ENVIRONMENT, check=False, capture_output=True, timeout=_DRAIN_SECONDS
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    answers = [_STORESCU.get(each, each) for each in re.findall(r"Received Store Response \((.*)\)", said)]
    if "Association Rejected" in said:
        answers.append("rejected")
    elif done.returncode and not any(each != "0000" for each in answers):
        answers.append("no answer")
    sent.count(*answers)
    files = sorted(folder.iterdir())
    if done.returncode or answers != ["0000"] * len(files):
        raise LostError("no success")  # all of it once more
    for file in files:
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
        sent.count("rejected" if association.is_rejected else "no answer")
        raise LostError("no association")
    try:
        for file in files:
            try:
                answer = association.send_c_store(file)
            except RuntimeError as error:
                sent.count("no answer")
                raise LostError("the association broke") from error
            sent.count(f"{answer.Status:04X}" if "Status" in answer else "no answer")
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
            figures, faults = audit(node, sent, _in_pacs(folder / "pacs"))
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


def _http(folder: Path) -> str:
    """Where Orthanc's REST interface is."""
    return f"http://127.0.0.1:{json.loads((folder / 'orthanc.json').read_text(encoding='utf-8'))['HttpPort']}"


def _have_it_call(folder: Path, port: int) -> None:
    """Tell Orthanc where the node listens: its answers about storage commitment go there."""
    known = json.dumps({"AET": AE_TITLE, "Host": "127.0.0.1", "Port": port}).encode()
    put = urllib.request.Request(f"{_http(folder)}/modalities/node", data=known, method="PUT")  # noqa: S310 - our own address
    urllib.request.urlopen(put, timeout=10).close()  # noqa: S310 - as above


def _in_pacs(folder: Path) -> list[str]:
    """The SOP Instance UID of every instance that Orthanc has."""
    with urllib.request.urlopen(f"{_http(folder)}/instances?expand", timeout=120) as answer:  # noqa: S310 - as above
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
    ((committed,),) = node.rows("SELECT count(*) FROM committed")
    proven = node.rows(
        "SELECT sop_instance_uid FROM committed UNION SELECT r.sop_instance_uid FROM results r JOIN jobs j"
        " ON j.kind = 'commit' AND j.run_key = r.run_key AND j.outcome = 'superseded'"
    )
    unproven = delivered - {str(uid) for (uid,) in proven}
    faults += [f"{uid} is delivered and the PACS has not committed to it" for uid in unproven]
    missing = delivered - set(pacs)
    faults += [f"{uid} is said to be delivered and is not in the PACS" for uid in missing]
    repeated = node.rows(
        "SELECT study, model FROM readings"
        " GROUP BY study, model, json_extract(reading, '$.sources'), json_extract(reading, '$.failure')"
        " HAVING count(*) > 1"
    )
    faults += [f"study {study} was read twice by {model} on the same images" for study, model in repeated]
    faults += [
        f"{count} times a sender was answered {each}, with which it gives up"
        for each, count in sent.answers.items()
        if re.fullmatch("[0-9A-F]{4}", each) and each not in _TRIED_AGAIN
    ]
    leftovers = [*names(node.data / "incoming"), *_orphans(node.data, {*kept.values(), *results.values()})]
    faults += [f"{name} is left over" for name in leftovers]
    return {
        "images answered 0000": len(sent.answered),
        "studies": len(sent.studies),
        "lost": lost,
        "changed": changed,
        "results in the PACS": len(pacs),
        "committed to by it": committed,
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
