"""Which walls of the cage stand on this machine: a process enters it and tries to get out."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ai import cage
from ai.cage import landlock, seccomp

_CODE = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from ai.cage import walls
walls.try_to_leave(*sys.argv[2:])
"""
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Wall:
    """A wall, whether it stands, and why, in words."""

    name: str
    stands: bool
    text: str


def standing(wanted: cage.Cage, secret: Path | None = None) -> list[Wall]:
    """The walls of a cage on this machine, found by trying each from inside.

    Args:
        wanted: the cage; its private folder is replaced by one that is deleted again.
        secret: a file that must not be readable in it, where there is one.
    """
    with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory() as private:
        (Path(outside) / "secret").write_text("secret", encoding="ascii")
        secrets = [str(Path(outside).resolve() / "secret"), *([str(secret)] if secret is not None else [])]
        inside = json.dumps(asdict(replace(wanted, private=str(Path(private).resolve()))))
        path = json.dumps([os.path.abspath(each) for each in sys.path])  # noqa: PTH100
        try:
            done = subprocess.run(  # noqa: S603 - this Python
                [sys.executable, "-c", _CODE, path, inside, json.dumps(secrets)],
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
            got_out = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return [Wall("cage", False, f"it cannot be entered here ({type(error).__name__}): nothing is read")]
    return _walls(wanted, set(got_out))


def _walls(wanted: cage.Cage, got_out: set[str]) -> list[Wall]:
    version = landlock.abi()
    by = f"Landlock, version {version}" if version else "this kernel has no Landlock"
    calls = "seccomp" if seccomp.available() else "this kernel or processor has no seccomp filter"
    group = cage.group_limit()
    memory = (
        f"the control group gives {group / 1024**3:.1f} GiB"
        if group is not None
        else f"at most {(cage.data_limit() or 0) / 1024**3:.1f} GiB of data"
        if wanted.memory
        else "no control group limits it, and with a GPU nothing else can: set MemoryMax of the service"
    )
    told = (
        ("files", {"read", "write"}, f"images, index and settings cannot be opened ({by})"),
        ("network", {"network"}, f"no socket can be made ({calls})"),
        ("programs", {"program"}, f"none can be started ({calls})"),
        ("processes", {"signal"}, f"no other can be ended ({calls})"),
        ("core dumps", {"dump"}, "they hold nothing of its memory"),
    )
    found = []
    for name, ways, text in told:
        open_ways = sorted(ways & got_out)
        why = f"does not stand: {', '.join(open_ways)} is possible ({by}; {calls})"
        found.append(Wall(name, not open_ways, why if open_ways else text))
    found.append(Wall("memory", group is not None or wanted.memory, memory))
    return found


def try_to_leave(inside: str, secrets: str) -> None:
    """Enter a cage and print what can be done in it all the same; called in a process of its own."""
    values: dict[str, Any] = json.loads(inside)
    cage.enter(cage.Cage(**values))
    first, *_ = paths = json.loads(secrets)
    tries: list[tuple[str, Callable[[], object]]] = [
        *(("read", lambda path=path: os.open(path, os.O_RDONLY)) for path in paths),
        ("write", lambda: os.open(first + ".new", os.O_WRONLY | os.O_CREAT)),
        ("network", lambda: socket.socket(socket.AF_INET)),
        ("network", lambda: socket.socket(socket.AF_INET6)),
        ("program", lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})),
        ("signal", lambda: os.kill(os.getppid(), 0)),
    ]
    done = []
    for name, attempt in tries:
        with suppress(OSError):
            attempt()
            done.append(name)
    if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):
        done.append("dump")
    print(json.dumps(done))
