"""One font writes every language of the results, and no character stops a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from dicom_node.results.pictures.typeface import drawable, font, font_path
from dicom_node.results.words.names import NAMES, NOTICES
from dicom_node.results.words.reasons import REASONS
from dicom_node.results.words.texts import WORDS


def texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in texts(part))
    elif isinstance(value, tuple):
        yield from (text for part in value for text in texts(part))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (text for f in dataclasses.fields(value) for text in texts(getattr(value, f.name)))


def has_glyph(character: str, size: int = 24) -> bool:
    box = bytes(font(size).getmask("\U0010fffd"))
    return bytes(font(size).getmask(character)) != box


def test_what_is_said_in_any_language_can_be_drawn() -> None:
    said = {c for text in texts((tuple(WORDS.values()), NAMES, NOTICES, REASONS)) for c in text}
    assert len(said) > 300
    assert sorted(c for c in said if c != " " and not has_glyph(c)) == []


@pytest.mark.parametrize("characters", ["Ååß€Žž", "αβμΩ", "±×≥≤°→①…–“”", "뷁힣가ㄱ", "鬱瀦あンｱー。「", "\uff01\uffe5"])
def test_names_from_elsewhere_can_be_drawn(characters: str) -> None:
    assert [c for c in characters if not has_glyph(c)] == []


def test_a_character_without_a_glyph_is_a_visible_box() -> None:
    for size in (11, 40):
        box = font(size).getmask("\U0001f600")
        assert box.getbbox() is not None
        assert max(bytes(box)) > 100


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb\tc\0", "a b c "), ("\ud800", "?"), ("e\u0301\u1112\u1161\u11ab", "é한"), ("x\u2028y", "x y"), ("", "")],
)
def test_any_text_becomes_one_line(text: str, shown: str) -> None:
    assert drawable(text) == shown
    assert font(11).getlength(drawable(text)) >= 0


def test_the_file_has_the_outlines_that_a_pdf_embeds_and_its_licence_beside_it() -> None:
    content = font_path().read_bytes()
    assert content[:4] == b"\0\1\0\0"
    tables = {content[12 + 16 * i : 16 + 16 * i] for i in range(int.from_bytes(content[4:6], "big"))}
    assert {b"glyf", b"loca", b"cmap", b"head", b"hhea", b"hmtx", b"maxp", b"name", b"OS/2", b"post"} == tables
    assert len(content) < 5_000_000
    assert "SIL OPEN FONT LICENSE Version 1.1" in (font_path().parent / "OFL.txt").read_text()
