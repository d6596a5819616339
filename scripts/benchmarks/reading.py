"""Measures how soon a study's results are in the PACS, by step, and how many studies a minute are read.

The node is a process of its own, the PACS is Orthanc, the sender is storescu. The times of a study are those of the
node's index, which IT sees. The quiet time, which IT chooses, is not included. For comparison the model's network runs
alone.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from scripts.benchmarks.ingest import LOADS, Load, LostError, make, send
from scripts.benchmarks.servers import AE_TITLE, SERVERS, free_port, listening

QUIET_SECONDS = 0.5
_LIMIT_SECONDS = 300.0
_LARGE = Load("DX of 10 MB", 1, 1, 2500, 2048, drawn=True)
_MEDIUM = Load("DX of 2 MB", 1, 1, 1024, 1024, drawn=True)
_SMALL = Load("DX of 0.5 MB", 1, 1, 512, 512, drawn=True)
CONFIGURATION = """[node]
ae_title = "{title}"
host = "127.0.0.1"
port = {port}
data_dir = "data"
quiet_seconds = {quiet}
[[peers]]
name = "sender"
ae_title = "STORESCU"
host = "127.0.0.1"
may_store = true
[[peers]]
name = "pacs"
ae_title = "{title}"
host = "127.0.0.1"
port = {pacs}
destination = true
[[routes]]
name = "chest"
models = ["chest_xray"]
to = ["pacs"]
[routes.match]
modality = ["CR", "DX"]
"""
# A study's row with its only reading, and when its first result was taken up and its last was taken by the PACS.
_TIMES = """
    SELECT s.study, s.last_received, s.completed, j.started, j.finished, g.reading,
        (SELECT min(started) FROM jobs WHERE kind = 'send' AND study = s.study) AS first_send,
        (SELECT max(finished) FROM jobs WHERE kind = 'send' AND study = s.study) AS delivered,
        (SELECT count(*) FROM jobs WHERE kind = 'send' AND study = s.study) AS objects,
        (SELECT count(*) FROM jobs WHERE kind = 'send' AND study = s.study AND state != 'done') AS left
    FROM studies s JOIN jobs j ON j.study = s.study AND j.kind = 'read' AND j.state = 'done'
        JOIN readings g ON g.run_key = j.run_key
"""


class Node:
    """A node of the benchmark: its port and its index."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._index = folder / "data" / "index.sqlite"

    def studies(self) -> list[dict[str, Any]]:
        """Every study that is read and delivered, with its times (epoch seconds)."""
        with closing(sqlite3.connect(f"{self._index.as_uri()}?mode=ro", uri=True, timeout=30)) as conn:
            conn.row_factory = sqlite3.Row
            return [dict(row) for row in conn.execute(_TIMES) if not row["left"]]

    def wait_for(self, count: int, *, every: float = 0.1) -> list[dict[str, Any]]:
        """Wait until ``count`` studies are delivered, and look ``every`` so many seconds.

        Raises:
            LostError: they are not.
        """
        deadline = time.monotonic() + _LIMIT_SECONDS
        while len(found := self.studies()) < count:
            if time.monotonic() > deadline:
                raise LostError(f"{len(found)} of {count} studies are delivered after {_LIMIT_SECONDS:.0f} s")
            time.sleep(every)
        return found


@contextmanager
def running(folder: Path, *, pacs: int) -> Iterator[Node]:
    """A node that reads chest radiographs and sends its results to the PACS on a port."""
    folder.mkdir()
    port = free_port()
    told = CONFIGURATION.format(title=AE_TITLE, port=port, quiet=QUIET_SECONDS, pacs=pacs)
    (folder / "node.toml").write_text(told, encoding="utf-8")
    command = [sys.executable, "-m", "dicom_node", "run", "--config", "node.toml"]
    with listening("the node", command, folder, port):
        yield Node(folder, port)


# -- turn-around


def turnaround(folder: Path, *, rounds: int, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Start a node ``rounds`` times; each time the first C-ECHO, the first reading, and then a study at a time.

    Raises:
        LostError: a study was not delivered.
        MissingError: a program is not installed.
    """
    load = _SMALL if quick else _LARGE
    studies = 1 if quick else 5
    starts: list[dict[str, float]] = []
    steps: list[dict[str, float]] = []
    bare: list[float] = []
    with SERVERS["orthanc"].running(folder / "pacs") as pacs:
        for turn in range(rounds):
            images = [make(folder / f"images-{turn}-{number}", 1, load) for number in range(studies + 1)]
            bare.append(_bare_seconds(next(images[0].iterdir()), 3 if quick else 10))
            began, clock = time.perf_counter(), time.time()
            with running(folder / f"node-{turn}", pacs=pacs.port) as node:
                echo = first_echo(node.port) - began
                send([images[0]], node.port)
                first = node.wait_for(1)[0]
                starts.append({"first C-ECHO": echo, "first reading": first["finished"] - clock})
                for number, each in enumerate(images[1:], 2):
                    send([each], node.port)
                    study = max(node.wait_for(number), key=lambda row: float(row["last_received"]))
                    steps.append(_steps(study))
            say(f"round {turn + 1} of {rounds}: turn-around {statistics.median(map(_sum, steps)):.3f} s")
    return {
        "image": load.name,
        "rounds": rounds,
        "starts": starts,
        "studies": steps,
        "network alone": bare,
        "turnaround": [_sum(each) for each in steps],
    }


def _sum(steps: dict[str, float]) -> float:
    return sum(steps.values())


def _steps(study: dict[str, Any]) -> dict[str, float]:
    """Where the time of a study went, in seconds; together its turn-around without the quiet time."""
    within = {f"reading: {name}": float(seconds) for name, seconds in json.loads(study["reading"])["seconds"].items()}
    reading = study["finished"] - study["started"]
    return {
        "the study is found to be complete": study["completed"] - study["last_received"] - QUIET_SECONDS,
        "a reader takes it up": study["started"] - study["completed"],
        **within,
        "reading: between the processes, and recorded": reading - sum(within.values()),
        "the first result is taken up": study["first_send"] - study["finished"],
        f"sending of {study['objects']} results": study["delivered"] - study["first_send"],
    }


def first_echo(port: int) -> float:
    """The moment (`time.perf_counter`) at which a C-ECHO is answered."""
    ae = AE("STORESCU")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title=AE_TITLE)
    if not association.is_established or association.send_c_echo().get("Status") != 0x0000:
        raise LostError("the node does not answer C-ECHO")
    answered = time.perf_counter()
    association.release()
    return answered


def _bare_seconds(image: Path, rounds: int) -> float:
    """The median seconds of a forward pass of the network alone, over the same image, already prepared."""
    command = [sys.executable, "-m", "ai.evaluation.timing", str(image), "--json", "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        raise LostError(f"ai.evaluation.timing failed ({done.returncode}): {done.stderr[-300:].strip()}")
    return float(json.loads(done.stdout)["seconds"]["network alone"]["median"])


def turnaround_table(found: dict[str, Any], *, trace: bool) -> str:
    """The figures as Markdown; with ``trace`` each step's median."""
    whole, bare = statistics.median(found["turnaround"]), statistics.median(found["network alone"])
    lines = [
        f"{found['image']}, {len(found['studies'])} studies one after the other, {found['rounds']} starts",
        "",
        "| from | to | seconds, median (least to greatest) |",
        "|---|---|---|",
        *(
            f"| start of the node | {name} | {_spread([each[name] for each in found['starts']])} |"
            for name in found["starts"][0]
        ),
        f"| last C-STORE response | last result in the PACS, without the quiet time | {_spread(found['turnaround'])} |",
        f"| | the network's forward pass alone | {_spread(found['network alone'])} |",
        f"| | the difference | {whole - bare:.3f} |",
    ]
    if trace:
        names = dict.fromkeys(name for each in found["studies"] for name in each)
        lines += ["", "| step | ms, median (least to greatest) |", "|---|---|"]
        for name in names:
            values = [1000 * each.get(name, 0.0) for each in found["studies"]]
            lines.append(f"| {name} | {statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


# -- throughput


def throughput(folder: Path, *, rounds: int, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Push many studies of one image at once; before, and meanwhile, receive images that no model reads.

    Raises:
        LostError: a study was not read, or an image not received.
        MissingError: a program is not installed.
    """
    count, load = (3, _SMALL) if quick else (200, _MEDIUM)
    unread = replace(LOADS[0], images=4 if quick else 100)
    found: dict[str, Any] = {"image": load.name, "studies": count, "rounds": rounds, "turns": []}
    with SERVERS["dcmtk"].running(folder / "pacs") as pacs:
        for turn in range(rounds):
            images = folder / f"images-{turn}"
            first, studies = make(images / "first", 1, load), _studies(images / "studies", count, load)
            bare = _bare_seconds(next(studies.iterdir()), 3 if quick else 20)
            with running(folder / f"node-{turn}", pacs=pacs.port) as node:
                send([first], node.port)
                node.wait_for(1)  # warm
                idle = [_images_per_second(images / f"idle-{number}", unread, node) for number in range(3)]
                send([studies], node.port)
                busy = [_images_per_second(images / f"busy-{number}", unread, node) for number in range(3)]
                read = sorted(node.wait_for(count + 1, every=1.0), key=lambda study: float(study["started"]))[1:]
            seconds = max(study["finished"] for study in read) - read[0]["started"]
            figures = {
                "studies a minute": 60 * count / seconds,
                "the network alone": 60 / bare,
                "images/s received while nothing is read": statistics.median(idle),
                "images/s received while studies are read": statistics.median(busy),
            }
            found["turns"].append(figures)
            say(f"round {turn + 1} of {rounds}: " + ", ".join(f"{name} {value:.0f}" for name, value in figures.items()))
    return found


def _studies(folder: Path, count: int, load: Load) -> Path:
    """Studies of one image each, all in one folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        made = make(folder / f"{number}", 1, load)
        next(made.iterdir()).rename(folder / f"{number}.dcm")
        made.rmdir()
    return folder


def _images_per_second(folder: Path, load: Load, node: Node) -> float:
    images = make(folder, load.images, load)
    began = time.perf_counter()
    send([images], node.port)
    return load.images / (time.perf_counter() - began)


def throughput_table(found: dict[str, Any]) -> str:
    """The figures as Markdown: medians, and the ratios that matter."""
    turns = found["turns"]
    lines = [
        f"{found['studies']} studies of one image ({found['image']}) pushed at once, {found['rounds']} rounds",
        "",
        "| | median (least to greatest) |",
        "|---|---|",
    ]
    for name in turns[0]:
        values = [turn[name] for turn in turns]
        lines.append(f"| {name} | {statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) |")
    for name, above, below in (
        ("studies a minute / the network alone", "studies a minute", "the network alone"),
        (
            "receiving while studies are read / while nothing is",
            "images/s received while studies are read",
            "images/s received while nothing is read",
        ),
    ):
        lines.append(f"| {name} | {statistics.median(turn[above] / turn[below] for turn in turns):.2f} |")
    return "\n".join(lines) + "\n"
