"""The layout of the PDF page: sentences, a picture and two tables on one A4 page, never on a second one.

It knows texts and no DICOM (the object is :mod:`objects.pdf`). It is deterministic: the same page gives the same bytes.
A text that is too long is cut and ends with a reference to the report. The picture takes the space that the words
leave.
"""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from reportlab import rl_config
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from dicom_node import __version__
from dicom_node.results.pictures.drawing import Colour as Swatch
from dicom_node.results.pictures.typeface import drawable, font_path

_FONT = "NotoSansCJKjp-Subset"
_MARGIN = 40.0  # points; printers leave some 12 to 18 blank
_GAP = 16.0
_SMALL, _BODY, _LARGE = 7.5, 8.5, 12.0
_SWATCH, _BESIDE = 6.0, 10.0
"""The side of the square in a row's colour, and where the text beside it begins."""

_ROWS = 16
"""The most rows of a table; the last one counts the rest."""

_LONGEST = 2000
"""The most characters of a text: more than fit, as a source may hold a text of any length."""

_DOTS_PER_INCH = 200
_INK, _FAINT, _RULE, _ALARM = (0.0, 0.0, 0.0), (0.4, 0.4, 0.4), (0.75, 0.75, 0.75), (0.6, 0.0, 0.0)

Cells = tuple[str, ...]
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a heading; ``faint`` rows are printed in grey, a row has a square of its colour before it.

    Columns are as wide as their contents, except column ``flexible`` (from 0). It gets the remaining width and its
    texts are cut if that is too little: a number that is cut would read as another number.
    """

    heading: Cells
    rows: tuple[Cells, ...]
    flexible: int
    faint: frozenset[int] = frozenset()
    colours: tuple[Swatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """The contents of the page, from the top: warnings, title, patient and study, verdict, picture, tables, notes.

    ``picture`` is rows x columns x 3. ``more`` is the text that refers to the report where something was cut.
    ``alarming`` prints the verdict in red: the reading failed or is incomplete.
    """

    language: str
    created: datetime
    author: str
    warnings: tuple[str, ...]
    title: str
    identity: tuple[str, ...]
    verdict: tuple[str, ...]
    picture: NDArray[np.uint8] | None
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    more: str
    alarming: bool = False


def render(page: Page) -> bytes:
    """The page as a PDF of one A4 page, with an embedded font and text that can be selected and searched."""
    _register()
    buffer = io.BytesIO()
    pdf = Canvas(
        buffer,
        pagesize=A4,
        invariant=1,
        pageCompression=1,
        lang=page.language,
        initialFontName=_FONT,
        pdfVersion=(1, 4),
    )
    # reportlab would write 2000-01-01, or what an environment variable says, and derive the file's identifier from it.
    pdf._doc._timeStamp = _Stamp(page.created)
    pdf._doc.signature = hashlib.sha256(page.created.isoformat().encode())
    pdf.setTitle(drawable(page.title))
    pdf.setAuthor(drawable(page.author))
    pdf.setSubject(drawable(" ".join(page.warnings)))
    pdf.setCreator(f"dicom-node {__version__}")
    _Sheet(pdf, page).draw()
    pdf.showPage()
    pdf.save()
    return buffer.getvalue()


def printable(text: str) -> bool:
    """Whether the page's font has every character of a text."""
    _register()
    glyphs = pdfmetrics.getFont(_FONT).face.charToGlyph
    return all(ord(character) in glyphs for character in drawable(text))


@lru_cache(maxsize=1)
def _register() -> None:
    rl_config.useA85 = 0  # binary streams: ASCII85 takes a quarter more space, and seconds to encode
    pdfmetrics.registerFont(TTFont(_FONT, str(font_path())))


class _Stamp:
    """The time of the page in the form that reportlab reads."""

    def __init__(self, at: datetime) -> None:
        offset = at.utcoffset()
        minutes = 0 if offset is None else int(offset.total_seconds()) // 60
        self.YMDhms = (at.year, at.month, at.day, at.hour, at.minute, at.second)
        self.dhh, self.dmm = int(minutes / 60), abs(minutes) % 60


class _Sheet:
    """A pen that moves down the page; ``y`` is the upper edge of the free space, in points from the bottom."""

    def __init__(self, pdf: Canvas, page: Page) -> None:
        self.pdf, self.page = pdf, page
        self.left, self.width = _MARGIN, A4[0] - 2 * _MARGIN
        self.y = A4[1] - _MARGIN

    def draw(self) -> None:
        page = self.page
        self._warnings()
        self._paragraph(page.title, _LARGE, lines=1)
        for line in page.identity:
            self._paragraph(line, _BODY + 1, lines=2)
        self._rule()
        for line in page.verdict:
            self._paragraph(line, _LARGE, lines=3, colour=_ALARM if page.alarming else _INK)
        notes = [part for note in page.notes for part in self._wrap(note, _SMALL, self.width, 3)]
        foot = _MARGIN + _leading(_SMALL) * len(notes) + 6
        tables = max((self._height(table) for table in page.tables), default=0.0)
        self._picture(foot + tables + _GAP)
        self._tables()
        self.y = foot - 6
        self._rule()
        for line in notes:
            self._line(line, _SMALL, self.left, _FAINT)

    # --- parts ---

    def _warnings(self) -> None:
        lines = [part for each in self.page.warnings for part in self._wrap(each, _LARGE, self.width - 2 * _GAP, 2)]
        if not lines:
            return
        height = _leading(_LARGE) * len(lines) + 10
        self.pdf.setFillColorRGB(*_ALARM)
        self.pdf.rect(self.left, self.y - height, self.width, height, stroke=0, fill=1)
        self.y -= 5
        for line in lines:
            self._line(line, _LARGE, self.left + _GAP, (1.0, 1.0, 1.0))
        self.y -= 5 + 6

    def _picture(self, floor: float) -> None:
        """Draw the picture as large as the space above ``floor`` allows."""
        picture = self.page.picture
        room = self.y - floor - _GAP
        if picture is None or room <= 0:
            return
        scale = min(self.width / picture.shape[1], room / picture.shape[0])
        width, height = picture.shape[1] * scale, picture.shape[0] * scale
        image = Image.fromarray(picture)
        finest = _DOTS_PER_INCH / 72
        if picture.shape[1] > width * finest:
            size = (max(1, round(width * finest)), max(1, round(height * finest)))
            image = image.resize(size, Image.Resampling.LANCZOS)
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=90, subsampling=0)
        jpeg.seek(0)
        self.y -= _GAP / 2
        left = self.left + (self.width - width) / 2
        self.pdf.drawImage(ImageReader(jpeg), left, self.y - height, width, height)
        self.y -= height + _GAP / 2

    def _tables(self) -> None:
        tables = [table for table in self.page.tables if table.rows]
        top = self.y
        for number, table in enumerate(tables):
            width = (self.width - _GAP * (len(tables) - 1)) / len(tables)
            self.y = top
            self._table(table, self.left + number * (width + _GAP), width)

    def _height(self, table: Table) -> float:
        return _leading(_BODY) * (1 + min(len(table.rows), _ROWS)) + 6 if table.rows else 0.0

    def _table(self, table: Table, left: float, width: float) -> None:
        rows, faint = list(table.rows), set(table.faint)
        if len(rows) > _ROWS:
            hidden = len(rows) - _ROWS + 1
            rows = [*rows[: _ROWS - 1], (f"+ {hidden}: {self.page.more}",)]
        edges = self._edges(table, left, width)
        for number, row in enumerate([table.heading, *rows]):
            colour = _FAINT if number == 0 or number - 1 in faint else _INK
            y = self.y
            ends = [edge - 4 for edge in edges[1:]] if len(row) > 1 else [left + width]
            if number > 0 and len(row) > 1 and table.colours:
                self._swatch(table.colours[number - 1], left)
            starts = [left + (_BESIDE if table.colours else 0.0), *edges[1:]]
            for text, start, end in zip(row, starts, ends, strict=False):
                self.y = y
                self._line(self._cut(text, _BODY, end - start), _BODY, start, colour)
            if number == 0:
                self._rule(left, width)

    def _edges(self, table: Table, left: float, width: float) -> list[float]:
        """The left edge of each column, and the right edge of the last one."""
        columns = zip(*(table.heading, *table.rows), strict=True)
        widths = [max(_width(drawable(text[:_LONGEST]), _BODY) for text in column) + 8 for column in columns]
        widths[0] += _BESIDE if table.colours else 0.0
        widths[table.flexible] = 0.0
        # Other columns are wider than this only with unexpectedly long texts.
        scale = min(1.0, 0.75 * width / max(sum(widths), 1.0))
        widths = [each * scale for each in widths]
        widths[table.flexible] = width - sum(widths)
        return [left + sum(widths[:number]) for number in range(len(widths) + 1)]

    # --- lines ---

    def _swatch(self, colour: Swatch, left: float) -> None:
        """Draw the square of a colour at the left of the line that comes next; its rim shows pale ones on paper."""
        self.pdf.setFillColorRGB(*(part / 255 for part in colour))
        self.pdf.setStrokeColorRGB(*_FAINT)
        self.pdf.setLineWidth(0.4)
        self.pdf.rect(left + 0.5, self.y - _BODY * 1.02, _SWATCH, _SWATCH, stroke=1, fill=1)

    def _paragraph(self, text: str, size: float, *, lines: int, colour: Colour = _INK) -> None:
        for line in self._wrap(text, size, self.width, lines):
            self._line(line, size, self.left, colour)

    def _line(self, text: str, size: float, left: float, colour: Colour) -> None:
        self.pdf.setFont(_FONT, size)
        self.pdf.setFillColorRGB(*colour)
        self.pdf.drawString(left, self.y - size * 1.02, drawable(text))
        self.y -= _leading(size)

    def _rule(self, left: float | None = None, width: float | None = None) -> None:
        left, width = self.left if left is None else left, self.width if width is None else width
        self.pdf.setStrokeColorRGB(*_RULE)
        self.pdf.setLineWidth(0.5)
        self.pdf.line(left, self.y - 2, left + width, self.y - 2)
        self.y -= 5

    def _cut(self, text: str, size: float, width: float) -> str:
        """A text, with an ellipsis at its end if it is wider than ``width``."""
        text = drawable(text[:_LONGEST])
        if _width(text, size) <= width:
            return text
        while text and _width(f"{text}\N{HORIZONTAL ELLIPSIS}", size) > width:
            text = text[:-1]
        return f"{text.rstrip()}\N{HORIZONTAL ELLIPSIS}"

    def _wrap(self, text: str, size: float, width: float, lines: int) -> list[str]:
        """A text in at most ``lines`` lines; if it is longer, the last line ends with a reference to the report."""
        wrapped = list(_lines(drawable(text[:_LONGEST]), size, width))
        if len(wrapped) <= lines:
            return wrapped
        rest = f" \N{HORIZONTAL ELLIPSIS} {self.page.more}"
        last = self._cut(" ".join(wrapped[lines - 1 :]), size, width - _width(rest, size))
        return [*wrapped[: lines - 1], last.rstrip("\N{HORIZONTAL ELLIPSIS} ") + rest]


def _leading(size: float) -> float:
    return size * 1.4


def _width(text: str, size: float) -> float:
    return float(pdfmetrics.stringWidth(text, _FONT, size))


def _lines(text: str, size: float, width: float) -> Sequence[str]:
    """A text broken at spaces; between characters if the script has no spaces or a word is wider than a line."""
    found, line = [], ""
    for character in text:
        if _width(line + character, size) <= width or not line:
            line += character
            continue
        space = line.rfind(" ")
        if character != " " and space > 0 and not _breaks(character):
            found.append(line[:space])
            line = line[space + 1 :] + character
        else:
            found.append(line)
            line = "" if character == " " else character
    return [*found, line] if line.strip() or not found else found


def _breaks(character: str) -> bool:
    """Whether a line may end before a character: Han and Kana have no spaces, Hangul has."""
    return unicodedata.east_asian_width(character) in "WF" and not "\uac00" <= character <= "\ud7a3"
