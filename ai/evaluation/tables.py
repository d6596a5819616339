"""A CSV file of labels -> rows that can be evaluated, and every row that cannot, with the reason.

The file comes from a spreadsheet or a script and is taken as found: UTF-8 with or without a byte order mark, separated
by commas, semicolons or tabs. Nothing in it is trusted: a file name leads to no file outside the images' folder, and no
cell is repeated in a message except the name of a file.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["AGE_BANDS", "LabelledBox", "Labels", "Output", "Row", "TableError", "plain", "read_labels"]

MAX_BYTES = 256 * 2**20
MANY_GROUPS = 12
"""A column with more values than this is no subgroup: it may tell persons apart."""

AGE_BANDS = ((0, 17), (18, 39), (40, 64), (65, 150))

_YES = {"1", "1.0", "true", "yes", "y"}
_NO = {"0", "0.0", "false", "no", "n"}
_UNKNOWN = {"", "-1", "-1.0", "nan", "na", "n/a", "none", "null", "unknown", "?"}
_BOX = re.compile(r"(?P<label>[^:]+):(?P<numbers>[^:]+)")
_AGE = re.compile(r"(?P<number>\d{1,3}(\.\d+)?)\s*(?P<unit>[dwmy]?)", re.IGNORECASE)
_KEPT = {"file", "patient_id", "sex", "age", "view", "boxes"}


class TableError(ValueError):
    """The labels cannot be used; the message says what is wrong, where, and what was expected."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a column of labels is matched to: an output of the model, by its key or its name."""

    key: str
    name: str


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """Where a radiologist saw a class (``key``): pixel edges (column, row) of the stored image."""

    key: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Row:
    """One image with its labels.

    ``file`` is how the table names it and ``path`` the file itself. ``patient`` groups images and is never shown;
    empty, the image stands for itself. ``truth`` is for each output, in order: 1 there, 0 not there, -1 unknown.
    ``negative`` says whether the row may serve as a negative. ``groups`` are the subgroups that it belongs to (sex,
    age, view), and ``stratum`` is the value of the column to stay within.
    """

    file: str
    path: Path
    patient: str
    truth: tuple[int, ...]
    boxes: tuple[LabelledBox, ...] = ()
    negative: bool = True
    stratum: str = ""
    groups: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Labels:
    """What a table holds.

    ``columns`` tells for each output which column speaks of it; outputs without are in ``unlabelled``, columns that
    serve for nothing in ``unused``. ``rows_in_file`` counts all rows; ``left_out`` those that ``where`` and ``limit``
    left out. ``passed_over`` are files with the reason why they cannot be used, ``not_understood`` counts cells by
    column and ``unknown_boxes`` the labels of boxes that are none of the model's outputs.
    """

    rows: list[Row]
    columns: dict[str, str]
    unlabelled: list[str]
    unused: list[str]
    rows_in_file: int = 0
    left_out: int = 0
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    not_understood: Counter[str] = field(default_factory=Counter)
    unknown_boxes: Counter[str] = field(default_factory=Counter)
    has_patients: bool = False
    has_boxes: bool = False


def plain(name: str) -> str:
    """A column's name as it is compared: case-blind, and spaces, hyphens and underscores alike."""
    return re.sub(r"[\s_\-]+", "_", name.strip().casefold())


def read_labels(
    table: Path,
    images: Path,
    outputs: Sequence[Output],
    *,
    mapping: Mapping[str, str] | None = None,
    where: Sequence[tuple[str, str]] = (),
    within: str | None = None,
    negatives: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Labels:
    """Read the labels of images.

    Args:
        table: the CSV file; its first row names the columns.
        images: the folder that holds the images. A file is looked for by its path from there, by its path from the
            table, and by its bare name anywhere in the folder.
        outputs: what the model says, in its order.
        mapping: key of an output -> column, where the names differ.
        where: (column, value): only such rows; of several values of one column any will do.
        within: the column whose values are to be kept apart.
        negatives: the column that is 1 where an image may serve as a negative.
        limit: at most so many of the images that are there, drawn by ``seed``.
        seed: for ``limit``.

    Raises:
        TableError: the file cannot be read as a table, a column that was asked for is not in it, or it speaks of no
            output of the model.
    """
    names, records = _records(table)
    columns = _Columns(table, names)
    found = _matched(columns, outputs, mapping or {})
    asked = [column for column, _ in where] + [column for column in (within, negatives) if column is not None]
    for column in asked:
        columns.index(column)
    if within is not None and plain(within) in {"patient_id", "file", "boxes"}:
        raise TableError(f"--within {within}: its values would tell persons apart; a column of few values was expected")
    used = {plain(column) for column in [*found.values(), *asked]} | _KEPT
    labels = Labels(
        rows=[],
        columns=found,
        unlabelled=[output.key for output in outputs if output.key not in found],
        unused=[name for name in names if plain(name) not in used],
        rows_in_file=len(records),
        has_patients=columns.has("patient_id"),
        has_boxes=columns.has("boxes"),
    )
    records = [record for record in records if _wanted(columns, record, where)]
    labels.left_out = labels.rows_in_file - len(records)
    _fill(
        labels,
        columns=columns,
        records=records,
        outputs=outputs,
        finder=_Finder(table, images),
        within=within,
        negatives=negatives,
    )
    if limit is not None and limit < len(labels.rows):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(labels.rows))[:limit])
        labels.left_out += len(labels.rows) - limit
        labels.rows = [labels.rows[i] for i in chosen]
    return labels


def _fill(
    labels: Labels,
    *,
    columns: _Columns,
    records: Sequence[tuple[int, list[str]]],
    outputs: Sequence[Output],
    finder: _Finder,
    within: str | None,
    negatives: str | None,
) -> None:
    box_keys = {plain(text): output.key for output in outputs for text in (output.name, output.key)}
    box_keys |= {plain(column): key for key, column in labels.columns.items()}
    groupings = _groupings(columns, records)
    seen: set[Path] = set()
    for line, record in records:
        file = columns.cell(record, "file")
        path = finder.find(file)
        if isinstance(path, str):
            labels.passed_over.append((file or f"(line {line})", path))
            continue
        if path in seen:
            labels.passed_over.append((file, "stands in the table again; the first row counts"))
            continue
        seen.add(path)
        truth = []
        for output in outputs:
            column = labels.columns.get(output.key)
            value = _label(columns.cell(record, column)) if column is not None else -1
            if value is None:
                labels.not_understood[str(column)] += 1
            truth.append(-1 if value is None else value)
        may = _label(columns.cell(record, negatives)) if negatives is not None else 1
        if may is None:
            labels.not_understood[str(negatives)] += 1
        patient = columns.cell(record, "patient_id")
        labels.rows.append(
            Row(
                file=file,
                path=path,
                patient=patient,
                truth=tuple(truth),
                boxes=tuple(_boxes(columns.cell(record, "boxes"), box_keys, labels)),
                negative=may == 1,
                stratum=columns.cell(record, within) if within is not None else "",
                groups=tuple((name, _group(name, columns.cell(record, name))) for name in groupings),
            )
        )
    if within is not None and len(values := {row.stratum for row in labels.rows}) > 50:
        raise TableError(f"--within {within}: holds {len(values)} different values; at most 50 were expected")


class _Columns:
    def __init__(self, table: Path, names: Sequence[str]) -> None:
        self._table = table
        self.names = list(names)
        self._places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            self._places.setdefault(plain(name), []).append(place)
        if not self.has("file"):
            raise TableError(f"{table}: has no column 'file'; it has: {self.listed()}")
        for name in _KEPT:
            if self.has(name):
                self.index(name)

    def has(self, name: str) -> bool:
        return plain(name) in self._places

    def index(self, name: str) -> int:
        places = self._places.get(plain(name))
        if places is None:
            raise TableError(f"{self._table}: has no column {_shown(name)!r}; it has: {self.listed()}")
        if len(places) > 1:
            raise TableError(f"{self._table}: {len(places)} columns are called {_shown(name)!r}; one was expected")
        return places[0]

    def cell(self, record: Sequence[str], name: str) -> str:
        """What stands there, stripped; empty where the row is too short or there is no such column."""
        if plain(name) not in self._places:
            return ""
        place = self.index(name)
        return record[place].strip() if place < len(record) else ""

    def listed(self) -> str:
        return ", ".join(_shown(name) for name in self.names[:40]) + (" ..." if len(self.names) > 40 else "")


class _Finder:
    """From what a table calls a file to the file; never to one outside the folder."""

    def __init__(self, table: Path, images: Path) -> None:
        if not images.is_dir():
            raise TableError(f"{images}: there is no such folder; the folder of the images was expected")
        self._root = images.resolve()
        self._beside = table.resolve().parent
        self._by_name: dict[str, Path | None] | None = None

    def find(self, file: str) -> Path | str:
        """The file, or in words why there is none."""
        if not file:
            return "the cell 'file' is empty"
        outside = False
        try:
            for base in (self._root, self._beside):
                path = (base / file).resolve()
                inside = path.is_relative_to(self._root)
                if inside and path.exists():
                    return path if stat.S_ISREG(path.stat().st_mode) else "is no file"
                outside = outside or (not inside and path.exists())
        except (OSError, ValueError):  # too long a name, a NUL in it, a loop of links, no right to look
            return "is no name of a file that can be opened"
        parts = re.split(r"[/\\]", file)
        if ".." in parts:
            return "leads outside the folder of the images"
        names = self._names()
        if parts[-1] in names:
            return names[parts[-1]] or "several files of the folder have this name; give the path from the folder"
        return "leads outside the folder of the images" if outside else "is not in the folder of the images"

    def _names(self) -> Mapping[str, Path | None]:
        if self._by_name is None:
            self._by_name = {}
            for path in self._files():
                self._by_name[path.name] = None if path.name in self._by_name else path
        return self._by_name

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._root):  # which follows no links
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield path


def _records(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and each row with its line."""
    try:
        if table.stat().st_size > MAX_BYTES:
            raise TableError(f"{table}: is larger than {MAX_BYTES // 2**20} MiB")
        data = table.read_bytes()
    except OSError as error:
        raise TableError(f"{table}: cannot be read: {error.strerror}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise TableError(f"{table}: is UTF-16 text; save it as 'CSV UTF-8'")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableError(f"{table}: line {line} is not UTF-8; save it as 'CSV UTF-8'") from None
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    # Cells with many boxes can be long; the file as a whole is not.
    csv.field_size_limit(max(csv.field_size_limit(), 2**20))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise TableError(f"{table}: line {reader.line_num} cannot be read as CSV: {error}") from None
    if not rows:
        raise TableError(f"{table}: is empty; a first row with the names of the columns was expected")
    return [name.strip() for name in rows[0][1]], rows[1:]


def _matched(columns: _Columns, outputs: Sequence[Output], mapping: Mapping[str, str]) -> dict[str, str]:
    """Key of an output -> its column."""
    keys = {plain(output.key): output.key for output in outputs}
    asked: dict[str, str] = {}
    for key, column in mapping.items():
        if plain(key) not in keys:
            raise TableError(f"--map {_shown(key)}: the model has no such output; it has: {', '.join(keys.values())}")
        asked[keys[plain(key)]] = columns.names[columns.index(column)]
    found = {}
    for output in outputs:
        named = [name for name in (asked.get(output.key), output.key, output.name) if name and columns.has(name)]
        if named:
            found[output.key] = columns.names[columns.index(named[0])]
    if not found:
        raise TableError(
            f"{columns.listed()}: none of these columns is an output of the model ({', '.join(keys.values())}); "
            "say with --map key=column which one is"
        )
    return found


def _wanted(columns: _Columns, record: tuple[int, list[str]], where: Sequence[tuple[str, str]]) -> bool:
    values: dict[str, set[str]] = {}
    for column, value in where:
        values.setdefault(plain(column), set()).add(value.strip().casefold())
    return all(columns.cell(record[1], column).casefold() in any_of for column, any_of in values.items())


def _label(cell: str) -> int | None:
    """1, 0, -1 for unknown; None for what is none of these."""
    text = cell.casefold()
    for value, texts in ((1, _YES), (0, _NO), (-1, _UNKNOWN)):
        if text in texts:
            return value
    return None


def _boxes(cell: str, keys: Mapping[str, str], labels: Labels) -> Iterator[LabelledBox]:
    for text in re.split(r"[|;]", cell):
        if not text.strip():
            continue
        match = _BOX.fullmatch(text.strip())
        try:
            numbers = [float(number) for number in match["numbers"].split(",")] if match else []
        except ValueError:
            numbers = []
        good = len(numbers) == 4 and all(map(math.isfinite, numbers)) and min(numbers) >= 0 and min(numbers[2:]) > 0
        if match is None or not good:
            labels.not_understood["boxes"] += 1
            continue
        label = plain(match["label"])
        if label not in keys:
            labels.unknown_boxes[_shown(match["label"].strip(), 40)] += 1
            continue
        x, y, wide, tall = numbers
        yield LabelledBox(keys[label], x, y, x + wide, y + tall)


def _groupings(columns: _Columns, records: Sequence[tuple[int, list[str]]]) -> list[str]:
    """The columns that make subgroups, where they are there and tell few apart."""
    found = []
    for name in ("sex", "age", "view"):
        values = {_group(name, columns.cell(record, name)) for _, record in records}
        if columns.has(name) and len(values) <= MANY_GROUPS:
            found.append(name)
    return found


def _group(name: str, cell: str) -> str:
    if name != "age":
        return _shown(cell.upper(), 32) or "unknown"
    match = _AGE.fullmatch(cell)
    if match is None:
        return "unknown"
    # "045Y", "006M": as DICOM writes an age (VR AS, PS3.5 6.2); a bare number counts years.
    years = float(match["number"]) / {"d": 365.25, "w": 52.18, "m": 12.0}.get(match["unit"].lower(), 1.0)
    for first, last in AGE_BANDS:
        if first <= years < last + 1:
            return f"{first}-{last}" if last < 150 else f"{first} and older"
    return "unknown"


def _shown(text: str, most: int = 64) -> str:
    """A text of the file as a message may repeat it: in one line, and not long."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= most else line[: most - 3] + "..."
