"""``dicom-node models compare``: two models side by side (`models.agreement`), as tables, JSON or files."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli import terminal
from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The model to compare with; NAME, or NAME@DIGEST.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one, a candidate in shadow for example.")],
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Only readings from this day (local time) on."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many studies where they differ.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write compare.json and scores.csv (every study and class) into this folder."),
    ] = None,
) -> None:
    """Show how far two models agree on the studies that both read, where they differ, and how long each takes."""
    from dicom_node.config.load import load
    from dicom_node.index.index import open_index
    from dicom_node.models import agreement

    start = since.astimezone().timestamp() if since is not None and since.year > 1970 else 0.0
    index = open_index(load(config).node.data_dir)
    try:
        found = agreement.compare(index, a, b, since=start, limit=limit)
    finally:
        index.close()
    if report is not None:
        _write(report, found)
    if as_json:
        print(json.dumps(found.summary, indent=2, ensure_ascii=False))
    else:
        _print(found.summary)


def _write(folder: Path, found: Any) -> None:
    import csv

    from dicom_node.errors import NodeError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found.summary, indent=2, ensure_ascii=False)
        (folder / "compare.json").write_text(text + "\n", encoding="utf-8")
        with (folder / "scores.csv").open("w", encoding="utf-8", newline="") as file:
            columns = ["study", "class", "score_a", "score_b", "presence_a", "presence_b", "iou"]
            lines = csv.DictWriter(file, columns)
            lines.writeheader()
            lines.writerows(row.plain() for row in found.rows)
    except OSError as error:
        raise NodeError(f"{folder}: cannot be written: {error.strerror}") from error


def _print(summary: dict[str, Any]) -> None:
    from rich.markup import escape

    console = terminal.console(highlight=False)
    a, b = summary["a"], summary["b"]
    more = f"; {summary['other_images']} more were read by both on different images" if summary["other_images"] else ""
    console.print(f"studies     {summary['studies']} of which both read the same images{more}")
    console.print(_models(a, b))
    if summary["seconds_ratio"] is not None:
        console.print(f"time        {escape(b['model'])} takes {summary['seconds_ratio']:.2f} times as long (median)")
    for side in (a, b):
        if len(side["files"]) > 1:
            versions = ", ".join(f"{digest[:12]} ({count})" for digest, count in side["files"].items())
            console.print(
                f"versions    {escape(side['model'])} has readings of several: {versions}; NAME@DIGEST takes one"
            )
        for failure in side["failures"]:
            console.print(f"failed      {escape(side['model'])}, {failure['jobs']} times: {escape(failure['reason'])}")
    for name, key in ((a["model"], "only_a"), (b["model"], "only_b")):
        if summary[key]:
            console.print(f"no partner  classes of {escape(name)} alone: {escape(', '.join(summary[key]))}")
    if not summary["studies"]:
        return
    console.print(_classes(summary, a["model"], b["model"]))
    if summary["differing"]:
        shown = len(summary["differ"])
        verdicts = sum(one["studies"] for one in summary["classes"])
        first = f"; the {shown} largest differences" if shown < summary["differing"] else ""
        console.print(f"\ndiffer      in {summary['differing']} of {verdicts} verdicts (a class of a study){first}")
        if shown:
            console.print(_differ(summary, a["model"], b["model"]))
    else:
        console.print("\ndiffer      nowhere")


def _models(a: dict[str, Any], b: dict[str, Any]) -> Any:
    from rich.markup import escape

    table = terminal.table(
        "model", "readings", "in shadow", "studies", "failed", "not eligible", "waiting", "median", "p95"
    )
    for side in (a, b):
        counts = [str(side[key]) for key in ("readings", "in_shadow", "studies", "failed", "not_eligible", "waiting")]
        took = [_number(side["seconds"][key], 3, " s") for key in ("median", "p95")]
        table.add_row(escape(side["model"]), *counts, *took)
    return table


def _classes(summary: dict[str, Any], a: str, b: str) -> Any:
    from rich.markup import escape

    table = terminal.table(
        "class", "studies", "both", f"only {a}", f"only {b}", "neither", "undetermined", "agree", "kappa", "Spearman",
        "Pearson", f"{b} - {a}", "boxes", "IoU",
    )  # fmt: skip
    for one in summary["classes"]:
        counts = ("studies", "both_present", "only_a", "only_b", "both_absent", "undetermined")
        agree = one["agreement"]
        table.add_row(
            escape(one["name"]),
            *(str(one[key]) for key in counts),
            "-" if agree is None else f"{agree:.1%}",
            *(_number(one[key], 2) for key in ("kappa", "spearman", "pearson")),
            _number(one["difference"]["mean"], 3, sign="+"),
            str(one["boxes"]["studies"]),
            _number(one["boxes"]["median_iou"], 2),
        )
    return table


def _differ(summary: dict[str, Any], a: str, b: str) -> Any:
    from rich.markup import escape

    names = {one["key"]: one["name"] for one in summary["classes"]}
    table = terminal.table("study", "class", a, b, "difference")
    for one in summary["differ"]:
        table.add_row(
            one["study"],
            escape(names[one["class"]]),
            f"{one['presence_a']} {one['score_a']:.3f}",
            f"{one['presence_b']} {one['score_b']:.3f}",
            f"{one['score_b'] - one['score_a']:+.3f}",
        )
    return table


def _number(value: float | None, digits: int, unit: str = "", *, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}{unit}"
