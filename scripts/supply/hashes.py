"""Writes config/hashes/: the SHA-256 of every file that pip may install, from the index that pip is set up for.

``python -m scripts.supply.hashes`` after a change of config/constraints.txt, in an environment that has these versions.
``torch.txt`` is installed first and by itself, ``node.txt`` is the rest of the node, ``test.txt`` what its tests add.
Of each version the files for Linux (x86_64 and aarch64, Python 3.11 to 3.13) are listed, of torch all builds.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.tags import Tag
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from pip._internal.commands.download import DownloadCommand
from pip._internal.index.collector import parse_links

from scripts.supply.installed import ROOT, needed

FOLDER = ROOT / "config" / "hashes"
CONSTRAINTS = ROOT / "config" / "constraints.txt"
BUILD = ("setuptools",)  # what building ourselves needs
_PYTHONS = {"py3", "py2.py3", "cp311", "cp312", "cp313", "py311", "py312", "py313"}
_OLDER = {f"cp3{minor}" for minor in range(2, 14)}  # with abi3
_MACHINES = ("x86_64", "aarch64")


def pinned() -> dict[str, str]:
    """The pinned version of each package, by its canonical name."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").split()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def is_for_us(tag: Tag) -> bool:
    """Whether a wheel with this tag may be installed where the node runs."""
    if tag.platform != "any" and not ("linux" in tag.platform and tag.platform.endswith(_MACHINES)):
        return False
    if "musllinux" in tag.platform:
        return False
    return (tag.interpreter in _PYTHONS and not tag.abi.endswith("t")) or (
        tag.abi == "abi3" and tag.interpreter in _OLDER
    )


def chosen(name: str, version: str, files: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those (file name, SHA-256) that are of a version and for us: wheels, or the source if there is none."""
    wheels, sources = set(), set()
    for file, digest in files:
        try:
            if file.endswith(".whl"):
                found, of, _, tags = parse_wheel_filename(file)
                if found == name and of.public == version and any(map(is_for_us, tags)):
                    wheels.add((file, digest))
            else:
                found, of = parse_sdist_filename(file)
                if found == name and of.public == version:
                    sources.add((file, digest))
        except (InvalidWheelFilename, InvalidSdistFilename, ValueError):  # of an older time, or no package
            continue
    return sorted(wheels or sources)


class Index:
    """The files of packages that pip finds, as it is set up on this machine."""

    def __init__(self) -> None:
        self._command: Any = DownloadCommand("download", "")
        options, _ = self._command.parse_args([])
        with self._command.main_context():
            session = self._command.get_default_session(options)
            self._collector = self._command._build_package_finder(options, session)._link_collector

    def files(self, name: str) -> Iterator[tuple[str, str]]:
        """Every file of a package with its SHA-256."""
        sources = self._collector.collect_sources(project_name=name, candidates_from_page=self._links)
        link: Any
        for source in (*sources.find_links, *sources.index_urls):
            for link in () if source is None else (*source.page_candidates(), *source.file_links()):
                if canonicalize_name(link.filename.partition("-")[0]) != name:
                    continue
                if link.is_file and not link.hash:
                    yield unquote(link.filename), hashlib.sha256(Path(link.file_path).read_bytes()).hexdigest()
                elif link.hash_name == "sha256":
                    yield unquote(link.filename), link.hash

    def _links(self, page: Any) -> list[Any]:
        answer = self._collector.fetch_response(page)
        return [] if answer is None else list(parse_links(answer))


def lines(packages: Iterable[str], index: Index) -> Iterator[str]:
    """The lines of a requirements file.

    Raises:
        SystemExit: a package is not pinned, or the index has no file of that version.
    """
    versions = pinned()
    yield "# Made by python -m scripts.supply.hashes out of config/constraints.txt. Do not edit."
    for name in sorted(packages):
        if name not in versions:
            raise SystemExit(f"{name} is installed and not pinned in {CONSTRAINTS.name}")
        files = chosen(name, versions[name], index.files(name))
        if not files:
            raise SystemExit(f"the index has no file of {name} {versions[name]}")
        print(f"{name} {versions[name]}: {len(files)} files", file=sys.stderr)
        hashes = sorted({f"--hash=sha256:{digest}" for _, digest in files})
        yield " \\\n    ".join((f"{name}=={versions[name]}", *hashes))


def main() -> None:
    """Write the three files."""
    node = {*needed(), *BUILD} - {"torch", "pip"}  # pip, which sqlite-utils names, is that of the environment
    tests = set(needed("test")) - node - {"torch", "pip"}
    index = Index()
    FOLDER.mkdir(exist_ok=True)
    for file, packages in (("torch.txt", {"torch"}), ("node.txt", node), ("test.txt", tests)):
        (FOLDER / file).write_text("\n".join(lines(packages, index)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
