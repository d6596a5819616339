"""The libraries that installed packages bring along: every shared library that is no extension module."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

from packaging.utils import canonicalize_name

from scripts.supply.judged import LIBRARIES, OWN, Library

_LIBRARY = re.compile(r"(?P<stem>.+?)(?:-[0-9a-f]{8})*\.so(?P<version>(?:\.\w+)*)")
_OPENSSL = re.compile(rb"OpenSSL (\d\.\d\.\d[a-z]*)")


@dataclass(frozen=True, slots=True)
class Bundled:
    """One library: its name without what tells builds apart, its version as far as its file says, and the file."""

    name: str
    version: str
    path: Path

    @property
    def judged(self) -> Library | None:
        """What it is; None if nobody has judged it."""
        return LIBRARIES.get(self.name)

    def sha256(self) -> str:
        """The SHA-256 of the file (hex)."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def bundled(package: Distribution) -> list[Bundled]:
    """The libraries of others that a package brings along, each file once."""
    own = OWN.get(canonicalize_name(package.name), ())
    found = {each.sha256(): each for each in _libraries(package) if not each.name.startswith(own or ("\0",))}
    return sorted(found.values(), key=lambda each: (each.name, each.version))


def _libraries(package: Distribution) -> Iterator[Bundled]:
    for file in sorted(package.files or (), key=str):
        match = _LIBRARY.fullmatch(file.name)
        if match is None or ".cpython-" in file.name or ".abi3." in file.name:
            continue
        path = Path(str(package.locate_file(file)))
        version = match["version"].lstrip(".")
        if match["stem"] in ("libcrypto", "libssl") and (said := _OPENSSL.search(path.read_bytes())):
            version = said[1].decode()
        yield Bundled(match["stem"], version, path)
