"""Measures the node on this machine, compared with other Storage SCPs and with the network of the model alone."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks import index, ingest, memory, reading, ready
from scripts.benchmarks.servers import SERVERS, MissingError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Verb:
    """A benchmark: help, rounds (0: none), the function that measures, the one that makes a table, its own options."""

    help: str
    rounds: int
    run: Callable[[Path, argparse.Namespace, int, Say], dict[str, Any]]
    table: Callable[[dict[str, Any], argparse.Namespace], str]
    options: Callable[[argparse.ArgumentParser], object] = lambda _parser: None


def _ingest(folder: Path, given: argparse.Namespace, rounds: int, say: Say) -> dict[str, Any]:
    servers = [SERVERS[name] for name in given.servers]
    return ingest.run(folder, servers, ingest.QUICK if given.quick else ingest.LOADS, rounds=rounds, say=say)


def _index_table(found: dict[str, Any], given: argparse.Namespace) -> str:
    if given.plot:
        index.plot(found, given.plot)
    return index.table(found)


def _servers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SERVERS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; expected some of {', '.join(SERVERS)}")
    return names


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1 was expected")
    return int(text)


VERBS = {
    "ingest": Verb(
        "images a second from storescu to the disk",
        3,
        _ingest,
        lambda found, _given: ingest.table(found),
        lambda parser: parser.add_argument(
            "--servers", type=_servers, default=list(SERVERS), help=f"some of {', '.join(SERVERS)}"
        ),
    ),
    "turnaround": Verb(
        "from the last C-STORE response to the last result in the PACS, and from the start to the first C-ECHO",
        3,
        lambda folder, given, rounds, say: reading.turnaround(folder, rounds=rounds, quick=given.quick, say=say),
        lambda found, given: reading.turnaround_table(found, trace=given.trace),
        lambda parser: parser.add_argument("--trace", action="store_true", help="where the milliseconds go, by step"),
    ),
    "throughput": Verb(
        "studies a minute beside the bare network, and what that costs receiving",
        1,
        lambda folder, given, rounds, say: reading.throughput(folder, rounds=rounds, quick=given.quick, say=say),
        lambda found, _given: reading.throughput_table(found),
    ),
    "memory": Verb(
        "the node's memory: a large object, many images and associations, a long queue, idle and slow connections",
        0,
        lambda folder, given, _rounds, say: memory.run(folder, memory.QUICK if given.quick else memory.FULL, say=say),
        lambda found, _given: memory.table(found),
    ),
    "index": Verb(
        "what a full index costs, beside an empty one",
        0,
        lambda folder, given, _rounds, say: index.run(folder, index.QUICK if given.quick else index.FULL, say=say),
        _index_table,
        lambda parser: parser.add_argument("--plot", type=Path, help="draw it into this file (.png, .svg)"),
    ),
    "ready": Verb(
        "how soon a node that was killed serves again, with a full index and a long queue beside an empty one",
        7,
        lambda folder, given, rounds, say: ready.run(
            folder, ready.QUICK if given.quick else ready.FULL, rounds=rounds, say=say
        ),
        lambda found, _given: ready.table(found),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.help)
        command.add_argument("--quick", action="store_true", help="a round of little: whether it runs, not how fast")
        if verb.rounds:
            command.add_argument("--rounds", type=_rounds, default=verb.rounds, help=f"how often ({verb.rounds})")
        command.add_argument("--dir", type=Path, help="where files go: the disk that is measured (a temporary folder)")
        command.add_argument("--json", type=Path, help="write every figure here")
        verb.options(command)
    given = parser.parse_args(arguments)
    verb = VERBS[given.command]
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=given.dir) as folder:
            rounds = 1 if given.quick or not verb.rounds else given.rounds
            found = verb.run(Path(folder), given, rounds, lambda text: print(text, file=sys.stderr, flush=True))
    except (MissingError, ingest.LostError, OSError) as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return 1
    print(verb.table(found, given))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
