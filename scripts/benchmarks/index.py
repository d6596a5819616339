"""Measures what each operation on the index costs when it is full, compared with an empty one.

The two are measured alternately, a few repetitions at a time, so that a slow moment of the disk or the machine affects
both. Each turn uses a new empty index and compares the medians of both. The result is the median over the turns.
"""

from __future__ import annotations

import gc
import logging
import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path
from typing import Any

from dicom_node import log
from dicom_node.index.index import Index
from scripts.benchmarks.filling import IMAGES, Hospital, fill
from scripts.benchmarks.operations import OPERATIONS, Operation, Ward

BAR = 1.1
_FOR_MEANS = 400  # repetitions of a turn from which on a mean is meaningful
_AT_ONCE = 10  # repetitions in one index, before the other index is measured


@dataclass(frozen=True, slots=True)
class Scale:
    """How many instances the full index has in the end, and in how many turns each operation is measured.

    In a turn an operation is repeated as often as it asks for, divided by ``divisor``.
    """

    instances: int
    turns: int
    divisor: int = 1


FULL = Scale(1_000_000, 9)
QUICK = Scale(20_000, 1, 4)


def run(folder: Path, scale: Scale, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure; all figures, by the size of the full index and operation. Times are seconds."""
    log.configure(level=logging.ERROR)  # as a node does, but for what goes well
    small = _Small(folder)
    big, hospital = folder / "big.sqlite", Hospital(1)
    uids: list[str] = []
    Index(big, create=True).close()
    found: dict[str, Any] = {"instances": scale.instances, "bar": BAR, "sizes": []}
    for part in (8, 4, 2, 1):
        wanted = scale.instances // part // IMAGES
        new = fill(big, hospital, wanted - len(uids))
        uids += new
        say(f"filled with {wanted * IMAGES} instances, {big.stat().st_size / 1e6:.0f} MB")
        if part == 8:
            # What one empty index takes beside another one: what a ratio here is to be held against.
            found["sizes"].append(
                _size(0, small.template(0), [_measure(each, None, small, scale) for each in OPERATIONS])
            )
        with _ward(big, hospital, uids, len(new)) as ward:
            measured = [_measure(each, ward, small, scale) for each in OPERATIONS]
            found["sizes"].append(_size(wanted * IMAGES, big, measured))
        for each in measured:
            say(f"{each['operation']}: {each['ratio']:.2f}")
    with _ward(big, hospital, uids, 0) as ward:
        began = time.perf_counter()
        ward.index.known_files(["none"])
        found["known_files_seconds"] = time.perf_counter() - began
    return found


class _Small:
    """Empty indexes, and indexes with a few studies: a new one for each turn, so that none fills up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = numbers()
        self._uids: dict[int, list[str]] = {}

    def template(self, studies: int) -> Path:
        """The file that the indexes with so many studies are copied from."""
        path = self._folder / f"small-{studies}.sqlite"
        if studies not in self._uids:
            Index(path, create=True).close()
            self._uids[studies] = fill(path, Hospital(2), studies)
        return path

    @contextmanager
    def fresh(self, studies: int) -> Iterator[Ward]:
        """A new index with so many studies, opened."""
        number = next(self._numbers)
        path = self._folder / f"turn-{number}.sqlite"
        shutil.copy(self.template(studies), path)
        with _ward(path, Hospital(100 + number), self._uids[studies], studies) as ward:
            ward.hospital.now += 1e8  # whatever it was filled with was earlier
            yield ward
        path.unlink()


@contextmanager
def _ward(path: Path, hospital: Hospital, uids: Sequence[str], newest: int) -> Iterator[Ward]:
    ward = Ward(path, hospital, uids, newest)
    try:
        _age(path)
        yield ward
    finally:
        ward.index.close()


def _age(path: Path) -> None:
    """Let the write-ahead log grow to the length at which SQLite keeps it. While it grows, each commit costs more."""
    conn = sqlite3.connect(path, isolation_level=None)
    try:
        conn.execute("PRAGMA synchronous=OFF")
        for left in range(int(conn.execute("PRAGMA wal_autocheckpoint").fetchone()[0]), -1, -1):
            conn.execute(f"PRAGMA user_version = {left}")  # a commit of one page, and in the end what it was
    finally:
        conn.close()


def _size(instances: int, file: Path, operations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"instances": instances, "bytes": file.stat().st_size, "operations": operations}


def _measure(operation: Operation, big: Ward | None, small: _Small, scale: Scale) -> dict[str, Any]:
    """Measure an operation in the full index (None: in a second empty one) and in empty ones, in turns."""
    beside = operation.beside if big is None else min(operation.beside, big.newest)
    repetitions = -(-operation.repetitions // scale.divisor)
    turns = []
    for _ in range(scale.turns):
        with small.fresh(beside) as one, small.fresh(beside) if big is None else nullcontext(big) as other:
            turns.append(_turn(operation, repetitions, one, other))
    empty, full = zip(*turns, strict=True)
    medians = [(statistics.median(a), statistics.median(b)) for a, b in zip(empty, full, strict=True)]
    ratios = [b / a for a, b in medians]
    return {
        "operation": operation.name,
        "repetitions": repetitions * scale.turns,
        "empty_seconds": statistics.median(a for a, _ in medians),
        "full_seconds": statistics.median(b for _, b in medians),
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "greatest_ratio": max(ratios),
        # With SQLite's checkpoints, one in some hundred commits: in a shorter turn there is one or none, by chance.
        "ratio_of_means": None
        if operation.repetitions < _FOR_MEANS
        else statistics.median(statistics.fmean(b) / statistics.fmean(a) for a, b in zip(empty, full, strict=True)),
    }


def _turn(operation: Operation, repetitions: int, empty: Ward, full: Ward) -> tuple[list[float], list[float]]:
    """The seconds of each repetition in both, a few of one and a few of the other. The first ones are not counted."""
    unseen = max(2, repetitions // 10)
    wards = [(ward, operation.ready(ward, unseen + repetitions)) for ward in (empty, full)]
    taken: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.disable()
    try:
        for begin in range(0, unseen + repetitions, _AT_ONCE):
            for (ward, given), times in zip(wards, taken, strict=True):
                for each in given[begin : begin + _AT_ONCE]:
                    began = time.perf_counter()
                    operation.act(ward, each)
                    times.append(time.perf_counter() - began)
    finally:
        gc.enable()
    for ward, _ in wards:
        ward.tidy()
    return taken[0][unseen:], taken[1][unseen:]


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown: each operation's time in the full index, and its ratio to that in an empty one."""
    sizes = found["sizes"]
    titles = [f"{size['instances']:,} ({size['bytes'] / 1e6:.0f} MB)" for size in sizes[1:]]
    lines = [
        f"Times in an index of {sizes[-1]['instances']:,} instances, and how many times those in an empty one they are,"
        " by the number of instances",
        "",
        f"| operation | empty | full | empty again | {' | '.join(titles)} |",
        f"|---|---|---|---|{'---|' * len(titles)}",
    ]
    for at, last in enumerate(sizes[-1]["operations"]):
        ratios = [size["operations"][at]["ratio"] for size in sizes]
        lines.append(
            f"| {last['operation']} | {_milliseconds(last['empty_seconds'])} | {_milliseconds(last['full_seconds'])} | "
            f"{' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"
        )
    lines.append("")
    for each in sizes[-1]["operations"]:
        if each["ratio_of_means"] is not None:
            lines.append(
                f"Means, which SQLite's checkpoints are part of; {each['operation']}: {each['ratio_of_means']:.2f}"
            )
    lines.append(
        f"Whether a file is known, which a start after a crash asks once: {found['known_files_seconds']:.2f} s"
    )
    return "\n".join([*lines, ""])


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def plot(found: dict[str, Any], file: Path) -> None:
    """Draw the ratios over the number of instances."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - seconds; only a plot needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10.0, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sizes = found["sizes"]
    for at, operation in enumerate(sizes[-1]["operations"]):
        ratios = [size["operations"][at]["ratio"] for size in sizes]
        axes.plot(
            [size["instances"] for size in sizes],
            ratios,
            color=f"C{at % 10}",
            linestyle="solid" if at < 10 else "dashed",
            marker="o",
            label=operation["operation"].replace("`", ""),
        )
    axes.axhline(found["bar"], color="black", linestyle="dotted", label=f"{found['bar']:g}")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("instances in the index")
    axes.set_ylabel("times what it takes in an empty one")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(file)
