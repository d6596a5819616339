"""Writes docs/reference/licences.md: the licence of every package, and of what packages bring along.

``python -m scripts.supply.licences`` writes the page; with ``--check`` it says whether it is the page of what is
installed. A licence or a library that nobody has judged (`judged`) is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution

from scripts.supply.bundled import bundled
from scripts.supply.hashes import BUILD
from scripts.supply.installed import ROOT, needed, version_of
from scripts.supply.judged import INSIDE, LICENCES, STATED

PAGE = ROOT / "docs" / "reference" / "licences.md"


class UnjudgedError(Exception):
    """Something that nobody has judged yet: add it to scripts/supply/judged.py."""


def licence_of(package: Distribution) -> str:
    """The licence of a package, as an SPDX expression where it says one.

    Raises:
        UnjudgedError: it says none, or one that nobody has judged.
    """
    about = package.metadata
    classifiers = [
        text.rpartition(" :: ")[2] for text in about.get_all("Classifier") or () if text.startswith("License")
    ]
    first = "".join(about.get_all("License") or ()).partition("\n")[0].strip()
    stated = [*(about.get_all("License-Expression") or ()), *classifiers, first]
    for text in filter(None, stated):
        expression = str(STATED.get(text, text))
        if all(part in LICENCES for part in parts_of(expression)):
            return expression
    raise UnjudgedError(f"{package.name} {package.version}: {[each for each in stated if each]}")


def parts_of(expression: str) -> list[str]:
    """The licences of an SPDX expression."""
    return [part.strip("() ") for part in re.split(r" AND | OR ", expression)]


def page() -> str:
    """The page.

    Raises:
        UnjudgedError: something is not judged.
    """
    packages = {name: each for name, each in needed("test").items() if name != "pip"}
    node = {*needed(), *BUILD}
    return "\n".join(
        [
            "# Reference: licences",
            "",
            "<!-- Made by python -m scripts.supply.licences out of the installed packages. -->",
            "",
            "The node itself is under Apache-2.0; the font of its pictures is under OFL-1.1.",
            "This page names every package that it is installed with, and every library that these bring along.",
            "`./scripts/sbom` writes the same for machines (CycloneDX).",
            "It says what we found and think; it is no legal advice.",
            "",
            "## What follows from each licence",
            "",
            "| licence | what follows |",
            "|---|---|",
            *(f"| {name} | {LICENCES[name]} |" for name in sorted(_used(packages))),
            "",
            "## Packages of the node",
            "",
            *_table(each for name, each in packages.items() if name in node),
            "",
            "## Packages of the tests alone",
            "",
            *_table(each for name, each in packages.items() if name not in node),
            "",
            "## Libraries that packages bring along",
            "",
            "Each is a file of its own in the package, found by a scan of its files.",
            "",
            "| package | library | version in the file | licence |",
            "|---|---|---|---|",
            *_libraries(packages),
            "",
            "Worth to know:",
            "",
            *_notes(packages),
            "",
            "## Inside the packages",
            "",
            "What is built into modules is not seen by the scan. Their licence files name:",
            "",
            *(f"* {name}: {text}" for name, text in sorted(INSIDE.items()) if name in packages),
            "",
        ]
    )


def _used(packages: dict[str, Distribution]) -> set[str]:
    stated = {part for each in packages.values() for part in parts_of(licence_of(each))}
    return stated | {each.judged.licence for one in packages.values() for each in bundled(one) if each.judged}


def _table(packages: Iterator[Distribution]) -> Iterator[str]:
    yield from ("| package | version | licence |", "|---|---|---|")
    for each in packages:
        yield f"| {each.name} | {version_of(each)} | {licence_of(each)} |"


def _libraries(packages: dict[str, Distribution]) -> Iterator[str]:
    for name, package in packages.items():
        for each in bundled(package):
            if each.judged is None:
                raise UnjudgedError(f"{name} brings {each.path.name} along")
            yield f"| {name} | {each.judged.project} (`{each.name}`) | {each.version or '-'} | {each.judged.licence} |"


def _notes(packages: dict[str, Distribution]) -> Iterator[str]:
    noted: dict[str, list[str]] = {}
    for package in packages.values():
        for each in bundled(package):
            if each.judged is not None and each.judged.note:
                names = noted.setdefault(each.judged.note, [])
                names += [each.judged.project] * (each.judged.project not in names)
    for note, names in noted.items():
        yield f"* {', '.join(names)}: {note.rstrip('.')}."


def main(arguments: list[str]) -> int:
    """Write or check the page; the exit status."""
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/reference/licences.md differs: run python -m scripts.supply.licences", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
