"""Measures the node beside the programs that one would use instead, on this machine and in one run."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ingest
from servers import SERVERS, MissingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("ingest", help="images a second from storescu to the disk")
    command.add_argument("--quick", action="store_true", help="one round of few images: whether it runs, not how fast")
    command.add_argument("--rounds", type=int, default=3, help="times that each server has its turn (3)")
    command.add_argument("--servers", default=",".join(SERVERS), help=f"some of {', '.join(SERVERS)}")
    command.add_argument("--dir", type=Path, help="where files go: the disk that is measured (a temporary folder)")
    command.add_argument("--json", type=Path, help="write every figure here")
    given = parser.parse_args(arguments)
    names = given.servers.split(",")
    if unknown := [name for name in names if name not in SERVERS]:
        parser.error(f"--servers: {', '.join(unknown)}; expected some of {', '.join(SERVERS)}")
    if given.rounds < 1:
        parser.error("--rounds: at least 1 was expected")
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=given.dir) as folder:
            found = ingest.run(
                Path(folder),
                [SERVERS[name] for name in names],
                ingest.QUICK if given.quick else ingest.LOADS,
                rounds=1 if given.quick else given.rounds,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )
    except (MissingError, ingest.LostError, OSError) as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return 1
    print(ingest.table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
