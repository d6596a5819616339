"""Every page of the project parses: tables whole and short, links and anchors there, the README small."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.programs import ROOT

_MOST_WORDS = 25
_NOT_OURS = ("ai/bundles/", "demo-out/", "var/", "build/", "dist/", "chest-training/")
"""What a bundle brings is pinned by its digest; the others are made, and not committed."""

PAGES = sorted(
    name
    for file in ROOT.rglob("*.md")
    if not (name := file.relative_to(ROOT).as_posix()).startswith((".", *_NOT_OURS)) and "/." not in name
)


@cache
def tokens(name: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / name).read_text(encoding="utf-8"))


def tables(name: str) -> list[tuple[int, int]]:
    """First line and the line behind the last of each table, from 0."""
    return [(token.map[0], token.map[1]) for token in tokens(name) if token.type == "table_open" and token.map]


def cells(line: str) -> list[str]:
    inside = line.strip().removeprefix("|")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", inside)]


def plain(token: Token) -> str:
    """The text of an inline token, without what makes it bold, code or a link."""
    return "".join(each.content for each in token.children or ())


def anchors(name: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    every = Counter[str]()
    page = tokens(name)
    for before, token in itertools.pairwise(page):
        if before.type == "heading_open":
            slug = re.sub(r"[^\w\- ]", "", plain(token).lower()).replace(" ", "-")
            found.add(f"{slug}-{every[slug]}" if every[slug] else slug)
            every[slug] += 1
    return found


def links(name: str) -> list[str]:
    return [
        str(child.attrGet("href") or child.attrGet("src"))
        for token in tokens(name)
        if token.type == "inline"
        for child in token.children or ()
        if child.type in ("link_open", "image")
    ]


def test_the_pages_are_found() -> None:
    assert {"README.md", "docs/quickstart.md", "docs/reference/configuration.md"} <= set(PAGES)
    assert not [name for name in PAGES if "bundles/" in name]


@pytest.mark.parametrize("name", PAGES)
def test_no_table_has_a_broken_row(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    inside: set[int] = set()
    for first, behind in tables(name):
        inside |= set(range(first, behind))
        columns = len(cells(lines[first]))
        for number in range(first, behind):
            assert len(cells(lines[number])) == columns, f"{name}:{number + 1}: not {columns - 1} cells"
    for token in tokens(name):
        if token.type in ("fence", "code_block") and token.map:
            inside |= set(range(*token.map))
    for number, line in enumerate(lines):
        assert number in inside or not line.lstrip().startswith("|"), f"{name}:{number + 1}: a row of no table"


@pytest.mark.parametrize("name", PAGES)
def test_no_cell_is_long(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    long = [
        f"{name}:{number + 1}: {len(cell.split())} words: {cell}"
        for first, behind in tables(name)
        for number in range(first, behind)
        for cell in cells(lines[number])
        if len(cell.split()) > _MOST_WORDS
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_refers_to_is_there(name: str) -> None:
    for link in links(name):
        if re.match(r"[a-z]+:", link):
            continue  # another site, or an address for mail
        place, _, anchor = unquote(link).partition("#")
        target = ((ROOT / name).parent / place).resolve() if place else ROOT / name
        assert target.is_relative_to(ROOT), f"{name}: {link} leads out of the project"
        assert target.exists(), f"{name}: there is no {link}"
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT).as_posix()), f"{name}: {link}: no such heading"


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/")])
def test_every_page_can_be_reached_from_the_readme(name: str) -> None:
    seen, todo = set[str](), ["README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in links(page):
            target = ((ROOT / page).parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_relative_to(ROOT) and target.is_file():
                todo.append(target.relative_to(ROOT).as_posix())
    assert name in seen, f"no page leads to {name}"


def test_the_readme_is_short_and_has_exactly_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    first = next(token.content for token in tokens("README.md") if token.type == "fence")
    assert [line.partition("#")[0].strip() for line in first.splitlines()] == ["./scripts/demo", "./scripts/test"]


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_in_the_source_is_there(name: str) -> None:
    """A file or folder of the project that stands in a page as code exists; short paths count from dicom_node/."""
    tops = "dicom_node|ai|scripts|tests|config|docs"
    rooms = "|".join(sorted(each.name for each in (ROOT / "dicom_node").iterdir() if each.is_dir()))
    for token in tokens(name):
        for child in token.children or ():
            if child.type == "code_inline" and re.fullmatch(rf"(?:{tops})/[\w./-]+", child.content):
                there = ROOT / child.content
            elif child.type == "code_inline" and re.fullmatch(rf"(?:{rooms})/[\w/]+\.py", child.content):
                there = ROOT / "dicom_node" / child.content
            else:
                continue
            assert there.exists(), f"{name}: there is no {child.content}"


def test_a_broken_row_a_long_cell_and_a_lost_anchor_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n\n| a | b |\n|---|---|\n| 1 |\n\n| 2 | 3 |\n", encoding="utf-8")
    parsed = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    assert [token.map for token in parsed if token.type == "table_open"] == [[2, 5]]
    assert [len(cells(line)) for line in ("| a | b |", "| 1 |", r"| a \| b | c |", "|---|---|")] == [3, 2, 3, 3]
