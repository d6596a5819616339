"""A CSV file of labels -> rows that can be evaluated, and each row that cannot be evaluated, with the reason.

The file is not trusted. A file name in it leads to no file outside the images' folder, and no cell except a file name
appears in a message.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ai.evaluation.csv_table import Columns, Record, TableError, plain, read_csv, shown
from ai.evaluation.image_finder import ImageFinder

__all__ = ["AGE_BANDS", "LabelledBox", "Labels", "NamedOutput", "Row", "TableError", "plain", "read_labels"]

MANY_GROUPS = 12
"""A column with more values than this makes no subgroups: its values may identify persons."""

AGE_BANDS = ((0, 17), (18, 39), (40, 64), (65, 150))

_YES = {"1", "1.0", "true", "yes", "y"}
_NO = {"0", "0.0", "false", "no", "n"}
_UNKNOWN = {"", "-1", "-1.0", "nan", "na", "n/a", "none", "null", "unknown", "?"}
_BOX = re.compile(r"(?P<label>[^:]+):(?P<numbers>[^:]+)")
_AGE = re.compile(r"(?P<number>\d{1,3}(\.\d+)?)\s*(?P<unit>[dwmy]?)", re.IGNORECASE)
_KEPT = {"file", "patient_id", "sex", "age", "view", "boxes"}


@dataclass(frozen=True, slots=True)
class NamedOutput:
    """An output of the model. A column of labels belongs to it if the column has its key or its name."""

    key: str
    name: str


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """A radiologist's box of a class (``key``): pixel edges (column, row) of the stored image, from its top left."""

    key: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Row:
    """One image with its labels.

    ``file`` is the name in the table and ``path`` the file itself. ``patient`` groups the images of a patient and is
    never shown; if it is empty, the image counts as a patient of its own. ``truth`` has a value for each output, in
    order: 1 present, 0 absent, -1 unknown. ``negative`` says whether the image may count as a negative. ``groups`` are
    (name, value) of its subgroups: sex, age, view. ``stratum`` is its value in the column named ``within``.
    """

    file: str
    path: Path
    patient: str
    truth: tuple[int, ...]
    boxes: tuple[LabelledBox, ...] = ()
    negative: bool = True
    stratum: str = ""
    groups: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """The content of a table.

    ``columns`` is the column of each output, by the output's key. Outputs without a column are in ``unlabelled``,
    columns without a use in ``unused``. ``rows_in_file`` counts all rows, ``left_out`` those that ``where`` and
    ``limit`` left out. ``passed_over`` are (file, reason) of files that cannot be used. ``not_understood`` counts the
    unreadable cells by column, ``unknown_boxes`` the boxes by labels that are no output of the model.
    """

    rows: Sequence[Row]
    columns: Mapping[str, str]
    unlabelled: Sequence[str]
    unused: Sequence[str]
    rows_in_file: int
    left_out: int
    passed_over: Sequence[tuple[str, str]]
    not_understood: Mapping[str, int]
    unknown_boxes: Mapping[str, int]
    has_patients: bool
    has_boxes: bool


@dataclass(frozen=True, slots=True)
class _Faults:
    """What cannot be used, gathered while rows are read; fields as in `Labels`."""

    passed_over: list[tuple[str, str]] = field(default_factory=list)
    not_understood: Counter[str] = field(default_factory=Counter)
    unknown_boxes: Counter[str] = field(default_factory=Counter)


def read_labels(
    table: Path,
    images: Path,
    outputs: Sequence[NamedOutput],
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
        outputs: the model's outputs, in its order.
        mapping: key of an output -> column, where the names differ.
        where: (column, value): only rows with this value. Of several values for one column, a row needs one.
        within: the column within whose values images are compared.
        negatives: the column that is 1 if an image may count as a negative.
        limit: the most images to take, drawn by ``seed``; None takes all.
        seed: for ``limit``.

    Raises:
        TableError: the file cannot be read as a table, lacks a column that was asked for, or has no column for any
            output of the model.
    """
    names, records = read_csv(table)
    columns = Columns(table, names)
    if not columns.has("file"):
        raise TableError(f"{table}: has no column 'file'; it has: {columns.listed()}")
    for name in _KEPT:
        if columns.has(name):
            columns.index(name)
    found = _matched(columns, outputs, mapping or {})
    asked = [column for column, _ in where] + [column for column in (within, negatives) if column is not None]
    for column in asked:
        columns.index(column)
    if within is not None and plain(within) in {"patient_id", "file", "boxes"}:
        raise TableError(f"--within {within}: its values would identify persons; a column of few values was expected")
    used = {plain(column) for column in [*found.values(), *asked]} | _KEPT
    wanted = [record for record in records if _wanted(columns, record, where)]
    left_out = len(records) - len(wanted)
    faults = _Faults()
    rows = _rows(
        columns,
        wanted,
        outputs,
        matched=found,
        finder=ImageFinder(table, images),
        within=within,
        negatives=negatives,
        faults=faults,
    )
    if limit is not None and limit < len(rows):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit])
        left_out += len(rows) - limit
        rows = [rows[i] for i in chosen]
    return Labels(
        rows=rows,
        columns=found,
        unlabelled=[output.key for output in outputs if output.key not in found],
        unused=[name for name in names if plain(name) not in used],
        rows_in_file=len(records),
        left_out=left_out,
        passed_over=faults.passed_over,
        not_understood=faults.not_understood,
        unknown_boxes=faults.unknown_boxes,
        has_patients=columns.has("patient_id"),
        has_boxes=columns.has("boxes"),
    )


def _rows(
    columns: Columns,
    records: Sequence[Record],
    outputs: Sequence[NamedOutput],
    *,
    matched: Mapping[str, str],
    finder: ImageFinder,
    within: str | None,
    negatives: str | None,
    faults: _Faults,
) -> list[Row]:
    """The rows whose images can be used. What cannot be used is added to ``faults``."""
    box_keys = {plain(text): output.key for output in outputs for text in (output.name, output.key)}
    box_keys |= {plain(column): key for key, column in matched.items()}
    groupings = _groupings(columns, records)
    rows: list[Row] = []
    seen: set[Path] = set()
    for line, record in records:
        file = columns.cell(record, "file")
        path = finder.find(file)
        if isinstance(path, str):
            faults.passed_over.append((file or f"(line {line})", path))
            continue
        if path in seen:
            faults.passed_over.append((file, "stands in the table again; the first row counts"))
            continue
        seen.add(path)
        truth = []
        for output in outputs:
            column = matched.get(output.key)
            value = _label(columns.cell(record, column)) if column is not None else -1
            if value is None:
                faults.not_understood[str(column)] += 1
            truth.append(-1 if value is None else value)
        may = _label(columns.cell(record, negatives)) if negatives is not None else 1
        if may is None:
            faults.not_understood[str(negatives)] += 1
        patient = columns.cell(record, "patient_id")
        rows.append(
            Row(
                file=file,
                path=path,
                patient=patient,
                truth=tuple(truth),
                boxes=tuple(_boxes(columns.cell(record, "boxes"), box_keys, faults)),
                negative=may == 1,
                stratum=columns.cell(record, within) if within is not None else "",
                groups=tuple((name, _group(name, columns.cell(record, name))) for name in groupings),
            )
        )
    if within is not None and len(values := {row.stratum for row in rows}) > 50:
        raise TableError(f"--within {within}: holds {len(values)} different values; at most 50 were expected")
    return rows


def _matched(columns: Columns, outputs: Sequence[NamedOutput], mapping: Mapping[str, str]) -> dict[str, str]:
    """Match columns to outputs: key of an output -> its column."""
    keys = {plain(output.key): output.key for output in outputs}
    asked: dict[str, str] = {}
    for key, column in mapping.items():
        if plain(key) not in keys:
            raise TableError(f"--map {shown(key)}: the model has no such output; it has: {', '.join(keys.values())}")
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


def _wanted(columns: Columns, record: Record, where: Sequence[tuple[str, str]]) -> bool:
    values: dict[str, set[str]] = {}
    for column, value in where:
        values.setdefault(plain(column), set()).add(value.strip().casefold())
    return all(columns.cell(record[1], column).casefold() in any_of for column, any_of in values.items())


def _label(cell: str) -> int | None:
    """1, 0, or -1 for unknown; None if the text is not understood."""
    text = cell.casefold()
    for value, texts in ((1, _YES), (0, _NO), (-1, _UNKNOWN)):
        if text in texts:
            return value
    return None


def _boxes(cell: str, keys: Mapping[str, str], faults: _Faults) -> Iterator[LabelledBox]:
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
            faults.not_understood["boxes"] += 1
            continue
        label = plain(match["label"])
        if label not in keys:
            faults.unknown_boxes[shown(match["label"].strip(), 40)] += 1
            continue
        x, y, wide, tall = numbers
        yield LabelledBox(keys[label], x, y, x + wide, y + tall)


def _groupings(columns: Columns, records: Sequence[Record]) -> list[str]:
    """The columns that make subgroups: those that the table has and that hold few values."""
    found = []
    for name in ("sex", "age", "view"):
        values = {_group(name, columns.cell(record, name)) for _, record in records}
        if columns.has(name) and len(values) <= MANY_GROUPS:
            found.append(name)
    return found


def _group(name: str, cell: str) -> str:
    if name != "age":
        return shown(cell.upper(), 32) or "unknown"
    match = _AGE.fullmatch(cell)
    if match is None:
        return "unknown"
    # "045Y", "006M": as DICOM writes an age (VR AS, PS3.5 6.2); a bare number counts years.
    years = float(match["number"]) / {"d": 365.25, "w": 52.18, "m": 12.0}.get(match["unit"].lower(), 1.0)
    for first, last in AGE_BANDS:
        if first <= years < last + 1:
            return f"{first}-{last}" if last < 150 else f"{first} and older"
    return "unknown"
