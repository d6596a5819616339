"""The installed packages that the node, or its tests, need."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = "dicom-node"


@cache
def needed(extra: str = "") -> dict[str, Distribution]:
    """Every package that the node needs, directly or not, by its canonical name; with ``extra`` what that adds, too.

    Raises:
        PackageNotFoundError: one is not installed.
    """
    found: dict[str, Distribution] = {}
    waiting = [(OURS, frozenset({"", extra}))]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        package = distribution(name)
        if name != OURS:
            found[name] = package
        for other in _required(package, extras):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return dict(sorted(found.items()))


def _required(package: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for text in package.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
            yield canonicalize_name(wanted.name), frozenset({"", *wanted.extras})


def requirements_of(package: Distribution) -> list[str]:
    """The canonical names of the installed packages that a package needs."""
    names = {name for name, _ in _required(package, frozenset({""}))}
    return sorted(name for name in names if _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def version_of(package: Distribution) -> str:
    """The version without what tells its builds apart (torch's +cpu)."""
    return Version(package.version).public
