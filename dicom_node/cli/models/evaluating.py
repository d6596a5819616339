"""``dicom-node models evaluate``: how good a model is on a hospital's own labelled images (`ai.evaluation`)."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli import terminal
from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption
from dicom_node.errors import NodeError

if TYPE_CHECKING:
    from ai.bundle.files import BundleInfo
    from ai.evaluation.reading import Answer, Unread
    from ai.evaluation.tables import Labels
    from ai.inference.bundle_model import BundleModel

RESAMPLES = 2000
_NAMED = 10  # files passed over that the screen names; the report names more
_PERSON = "patient_id"


def evaluate(
    model: Annotated[str, typer.Argument(help="The name of a model, or the folder of a bundle; its code is run.")],
    *,
    images: Annotated[Path, typer.Option(help="The folder of the images: PNG, JPEG or DICOM files.")],
    labels: Annotated[
        Path, typer.Option(help="A CSV file: a column 'file' and one for each class (1, 0, empty for unknown).")
    ],
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.html and evaluation.json here.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="KEY=COLUMN", help="The column of an output, where the names differ."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only rows with this value (may be repeated).")
    ] = None,
    within: Annotated[
        str, typer.Option(metavar="COLUMN", help="Compare images of one value of this column only, e.g. their source.")
    ] = "",
    negatives: Annotated[
        str, typer.Option(metavar="COLUMN", help="Compare with images only that have 1 here, e.g. no_finding.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For --limit and the intervals.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda:0 for a graphics card.")] = "cpu",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Evaluate a model on labelled images: figures with intervals on screen, and with --report as a page."""
    from datetime import UTC, datetime

    from ai.evaluation import report as reports
    from ai.evaluation.csv_table import TableError, plain
    from ai.evaluation.tables import NamedOutput, read_labels
    from dicom_node import log

    log.silence_libraries()
    mapping, wanted = dict(_pairs("--map", map_)), _pairs("--where", where)
    if report is not None:
        _writable(report, images)
    info = _described(model, config)
    outputs = [NamedOutput(output.key, output.name) for output in info.spec.outputs]
    try:
        table = read_labels(
            labels,
            images,
            outputs,
            mapping=mapping,
            where=wanted,
            within=within or None,
            negatives=negatives or None,
            limit=limit,
            seed=seed,
        )
    except TableError as error:
        raise NodeError(str(error)) from None
    if not table.rows:
        _print_passed_over(table.passed_over)
        raise NodeError(f"{labels}: of {table.rows_in_file} rows none can be evaluated")
    loaded = _loaded(info.path, device)
    answers, unread = _read(loaded, table)
    if not answers:
        _print_passed_over([*table.passed_over, *((one.row.file, one.reason) for one in unread)])
        raise NodeError(f"{images}: none of {len(table.rows)} images could be read")
    found = reports.evaluation(
        loaded,
        table,
        answers,
        unread,
        options={
            "model": model,
            "images": str(images),
            "labels": str(labels),
            "labels_sha256": hashlib.sha256(labels.read_bytes()).hexdigest(),
            "map": mapping,
            # No report names a patient, also if the user gave the name.
            "where": [f"{c}={'(not shown)' if plain(c) == _PERSON else v}" for c, v in wanted],
            "within": within or None,
            "negatives": negatives or None,
            "limit": limit,
            "seed": seed,
            "resamples": RESAMPLES,
            "device": device,
        },
        made=datetime.now(UTC),
        within=within or None,
        seed=seed,
        resamples=RESAMPLES,
    )
    _print_evaluation(found)
    if report is not None:
        try:
            page, *_ = reports.write(report, loaded, found, answers, within=within or None)
        except OSError as error:
            raise NodeError(f"{report}: the report cannot be written: {error.strerror}") from error
        print(f"report: {page}")
    if not any(one["images"] for one in found["classes"]):
        raise NodeError("no image has a label that can be compared; nothing was evaluated")


def _pairs(option: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    found = []
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise NodeError(f"{option} {text!r}: expected NAME=VALUE")
        found.append((name.strip(), value.strip()))
    return found


def _writable(folder: Path, images: Path) -> None:
    """Check the folder of the report now, not after an hour of reading.

    A new folder is readable by this user alone: it will hold images.
    """
    if folder.resolve() == images.resolve():
        raise NodeError(
            f"--report {folder}: is the folder of the images, which a report could write over; name another"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NodeError(f"--report {folder}: cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise NodeError(f"--report {folder}: cannot be written to")


def _described(model: str, config: Path) -> BundleInfo:
    """The bundle in this folder, or the one of this name with which a node would read (`models.lookup`)."""
    from ai.bundle.files import BundleError, describe
    from dicom_node.config.load import load
    from dicom_node.models.lookup import bundle_folder

    no_node = config == DEFAULT_CONFIG and not config.exists()
    try:
        path = Path(model) if os.sep in model else bundle_folder(model, None if no_node else load(config))
        info = describe(path)
    except BundleError as error:
        raise NodeError(str(error)) from None
    if path == Path(model):
        _print_code(path)
    if info.spec.input.kind != "image":
        raise NodeError(f"{info.identity.name}: reads volumes; only a model of single images can be evaluated so")
    return info


def _print_code(folder: Path) -> None:
    from ai.bundle.code import code_in

    code = "; ".join(code_in(folder)[:_NAMED]) or "MONAI's own parts only"
    print(f"{folder}: is no installed model, so nothing compares its files; it runs: {code}", file=sys.stderr)


def _loaded(path: Path, device: str) -> BundleModel:
    from ai.bundle.files import BundleError
    from ai.inference import bundle_model

    try:
        return bundle_model.load(path, device=device)
    except BundleError as error:
        raise NodeError(str(error)) from None


def _read(model: BundleModel, table: Labels) -> tuple[list[Answer], list[Unread]]:
    from ai.evaluation.reading import Answer, read_rows

    answers, unread = [], []
    with terminal.count_progress("reading", len(table.rows)) as step:
        for one in read_rows(model, table.rows):
            if isinstance(one, Answer):
                answers.append(one)
            else:
                unread.append(one)
            step()
    return answers, unread


def _print_evaluation(found: Mapping[str, Any]) -> None:
    from rich.markup import escape

    model, images = found["model"], found["images"]
    show = terminal.console(highlight=False).print
    patients = "" if images["patients"] is None else f" of {images['patients']} patients"
    show(escape(f"{model['name']} {model['version']}, files {model['digest'][:12]}: {images['used']} images{patients}"))
    if model["notice"]:
        show(escape(model["notice"]), style="yellow")
    names = ("with", "without", "AUC [95 %]", "AP", "thresh.", "sens.", "spec.", "PPV", "NPV", "ECE", "boxes hit")
    table = terminal.table_of_figures("class", *names)
    for one in found["classes"]:
        boxes = one["boxes"]
        table.add_row(
            escape(one["name"]) + (" *" if one["few"] else ""),
            str(one["positives"]),
            str(one["negatives"]),
            _interval(one["auc"]),
            _number(one["average_precision"]),
            f"{one['threshold']:.3g}",
            *(_number(one[name]["value"]) for name in ("sensitivity", "specificity", "ppv", "npv")),
            _number(one["ece"], 3),
            f"{boxes['inside']['count']}/{boxes['inside']['of']}" if boxes else "",
        )
    show(table)
    if any(one["few"] for one in found["classes"]):
        show(r"* few images with or without the class: these figures say little", style="yellow")
    for point in found["operating_points"]:
        show(escape(_point(point)))
    times = found["seconds_per_image"]
    show(", ".join(f"{step} {took['median']:.3f} s an image" for step, took in times.items()))
    columns = found["columns"]
    for name, words in (
        ("outputs_without_a_column", "outputs without a column"),
        ("not_used", "columns not used"),
    ):
        if columns[name]:
            show(escape(f"{words}: {', '.join(_line(each) for each in columns[name])}"))
    for column, count in columns["cells_not_understood"].items():
        show(escape(f"column {_line(column)}: {count} cells are neither 1, 0 nor empty and count as unknown"))
    for label, count in columns["boxes_of_no_output"].items():
        show(escape(f"boxes: {count} are labelled {_line(label)}, which is no output of the model"))
    for one in images["notes"][:_NAMED]:
        show(escape(f"{_line(one['file'])}: {one['note']}"))
    _print_passed_over([(one["file"], one["reason"]) for one in images["passed_over"]])


def _point(point: Mapping[str, Any]) -> str:
    """How many images an operating point calls, and what the maker of the model measured."""
    shares = []
    for kind, words in (("normal", "without a finding"), ("other", "with findings")):
        one, said = point[kind], point[f"promised_{kind}"]
        if not one["of"]:
            shares.append(f"no image {words} is known")
            continue
        text = f"{one['count']} of {one['of']} images {words} ({100 * one['value']:.0f} of 100"
        shares.append(text + ("" if said is None else f"; measured by its maker: {said:.0f}") + ")")
    default = " (default)" if point["default"] else ""
    return f"operating point {point['name']}{default} calls anything on: {', '.join(shares)}"


def _print_passed_over(files: Sequence[tuple[str, str]]) -> None:
    if not files:
        return
    print(f"passed over: {len(files)}")
    for file, reason in files[:_NAMED]:
        print(f"  {_line(file)}: {_line(reason, 400)}")
    if len(files) > _NAMED:
        print(f"  and {len(files) - _NAMED} more")


def _interval(value: Mapping[str, float | None]) -> str:
    if value["value"] is None:
        return "-"
    return f"{_number(value['value'])} [{_number(value['low'])}, {_number(value['high'])}]"


def _number(value: float | None, places: int = 2) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _line(text: str, most: int = 100) -> str:
    """A text of the labels' file as a terminal may show it: without control characters, and short."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= most else line[: most - 3] + "..."
