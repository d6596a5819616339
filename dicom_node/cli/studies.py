"""``dicom-node studies`` and ``retry``: the state of each study; failed jobs again (`operations.study_status`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli import terminal
from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption
from dicom_node.errors import NodeError

_STATE_COLOURS = {"delivered": "green", "failed": "red", "no route": "yellow", "no eligible series": "yellow"}


def studies(
    uid: Annotated[str, typer.Argument(help="Show everything about this study.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 1000,
) -> None:
    """Show every study with its state, or one study (UID) with its steps, findings and deliveries."""
    from dicom_node.operations import study_status

    index = _index(config)
    if uid:
        found = study_status.detail(index, uid)
        if found is None:
            raise NodeError(f"this node knows no study {uid}")
        if as_json:
            print(json.dumps(found, indent=2, ensure_ascii=False))
        else:
            _print_study(found)
    else:
        every = study_status.studies(index, limit=limit)
        if as_json:
            print(json.dumps(every, indent=2, ensure_ascii=False))
        else:
            _print_studies(every)


def retry(
    uid: Annotated[str, typer.Argument(help="The study; without it, --all.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Every study with something that failed.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Queue again what failed for good: readings and deliveries of one study, or of all."""
    import time

    if bool(uid) == every:
        raise NodeError("name one study, or give --all")
    index = _index(config)
    known = index.studies_with_state(uid) if uid else []
    if uid and not known:
        raise NodeError(f"this node knows no study {uid}")
    revived = index.revive(uid or None, time.time())
    removed = any(study.removed for study in known)
    nothing = "nothing can be tried again" if removed else "nothing has failed"
    print(f"{revived} failed job{'s' * (revived != 1)} queued again" if revived else nothing)
    if removed:
        print(
            "retention has removed files of this study: results that are gone cannot be sent again, and images that "
            "are gone can only be read again if they are received again"
        )


def _index(config: Path) -> Any:
    from dicom_node.config.load import load
    from dicom_node.index.index import open_index

    return open_index(load(config).node.data_dir)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _clock(value: str | None) -> str:
    from datetime import datetime

    return "" if value is None else f"{datetime.fromisoformat(value).astimezone():%Y-%m-%d %H:%M:%S}"


def _removed(study: dict[str, Any]) -> str:
    at = study["times"]["removed"]
    return f"removed by retention {_clock(at)}" if at else ""


def _contradicted(study: dict[str, Any]) -> str:
    return "contradicted: see dicom-node quarantine list" if study["contradictions"] else ""


def _state(text: str) -> str:
    colour = _STATE_COLOURS.get(text, "cyan")
    return f"[{colour}]{text}[/{colour}]"


def _print_studies(every: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    columns = ("study", "state", "images", "last received", "quiet", "reading", "delivering", "in all", "reason")
    table = terminal.table(*columns)
    for one in every:
        took = one["seconds"]
        table.add_row(
            one["study"],
            _state(one["state"]),
            str(one["instances"]),
            _clock(one["times"]["received"]),
            _seconds(took["quiet"]),
            _seconds(took["reading"]),
            _seconds(took["delivering"]),
            _seconds(took["turnaround"]),
            escape("; ".join(filter(None, [_contradicted(one), one["reason"], *one["withdrawn"], _removed(one)]))),
        )
    terminal.console().print(table if every else "no study yet")


def _print_study(one: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    show = Console(highlight=False, soft_wrap=True).print
    show(f"study       {one['study']}")
    show(f"state       {_state(one['state'])}{': ' + escape(one['reason']) if one['reason'] else ''}")
    show(f"revision    {one['revision']}, {one['instances']} instances, routes: {', '.join(one['routes']) or 'none'}")
    for step, label in (
        ("received", "received"),
        ("complete", "complete"),
        ("read", "read"),
        ("delivered", "delivered"),
    ):
        show(f"{label:<12}{_clock(one['times'][step]) or '-'}")
    if one["evidence"]:
        show(f"evidence    {escape(one['evidence'])}")
    if contradicted := _contradicted(one):
        show(f"[red]{contradicted} {one['study']}[/red]")
    if removed := _removed(one):
        show(f"files       {removed}: images and results that were there then")
    show(f"in all      {_seconds(one['seconds']['turnaround']) or '-'} from the last image to the last result")
    for reading in one["readings"]:
        _print_reading(show, reading)
    for job in one["jobs"]:
        _print_job(show, job)
    for sent in one["deliveries"]:
        text = f" ({escape(sent['reason'])})" if sent["reason"] else ""
        due = f", next attempt {_clock(sent['next_attempt'])}" if sent["next_attempt"] and sent["attempts"] else ""
        tries = f"attempt {sent['attempts']}{due}{text}"
        show(f"delivery    {sent['role']} to {sent['destination']}: {sent['state']}, {tries}")
    for asked in one["commitments"]:
        text = f" ({escape(asked['reason'])})" if asked["reason"] else ""
        committed = "committed" if asked["state"] == "done" and not text else asked["state"]
        show(f"commitment  by {asked['destination']}: {committed}{text}")
    for job in one["withdrawals"]:
        text = f" ({escape(job['reason'])})" if job["reason"] else ""
        show(f"withdrawal  at {job['destination']}: {job['state']}{text}")
    if one["shadow"]["readings"] or one["shadow"]["jobs"]:
        show("\nshadow      not sent: what candidates said, recorded for dicom-node models compare")
        for reading in one["shadow"]["readings"]:
            _print_reading(show, reading, in_shadow=True)
        for job in one["shadow"]["jobs"]:
            _print_job(show, job)


def _print_reading(show: Callable[[str], None], reading: dict[str, Any], *, in_shadow: bool = False) -> None:
    from rich.markup import escape

    from ai.scores import score_text, shown_score, shown_threshold
    from dicom_node.operations.study_status import finding_score_text

    apart = ", in shadow, not sent" if in_shadow else ""
    show(f"\nmodel       {reading['model']} {reading['version']}, files {reading['digest'][:12]}{apart}")
    images = len(reading["sources"])
    then = f", superseded by that of {_clock(reading['superseded'])}" if reading.get("superseded") else ""
    show(f"            read {_clock(reading['created'])}, of {images} image{'s' * (images != 1)}{then}")
    if reading["notice"]:
        show(f"            {escape(reading['notice'])}")
    if reading["failure"]:
        show(f"  failed    {escape(reading['failure'])}")
    for one_failed in reading["failed"]:
        show(f"  not read  {one_failed['uid']}: {escape(one_failed['reason'])}")
    steps = [f"{name} {value:.3f} s" for name, value in reading["seconds"].items()]
    show("            " + ", ".join([*steps, *filter(None, [reading["device"]])]))
    for remark in reading["remarks"]:
        show(f"            {escape(remark)}")
    if reading["operating_point"]:
        show(f"            operating point: {reading['operating_point']}")
    for verdict in reading["classes"]:
        if verdict["not_assessed"]:
            show(f"  not assessed: {escape(verdict['name'])} ({escape(verdict['not_assessed'])})")
            continue
        score = shown_score(verdict["score"], verdict["threshold"], reached=verdict["presence"] == "present")
        show(
            f"  {verdict['presence']:<13}{escape(verdict['name'])}  score {score_text(score)} "
            f"(threshold {score_text(shown_threshold(verdict['threshold']))})"
        )
    for other in reading["not_looked_for"]:
        show(f"  not looked for: {escape(other['name'])}")
    for finding in reading["findings"]:
        box = finding["region"]
        show(
            f"  finding      {escape(finding['name'])} {finding_score_text(reading, finding)} "
            f"{finding['laterality'] or ''} columns "
            f"{box['left']:.0f}-{box['right']:.0f}, rows {box['top']:.0f}-{box['bottom']:.0f}"
        )


def _print_job(show: Callable[[str], None], job: dict[str, Any]) -> None:
    from rich.markup import escape

    text = f" ({escape(job['reason'])})" if job["reason"] else ""
    show(f"\nreading     {job['model']}, revision {job['revision']}: {job['state']}, attempt {job['attempts']}{text}")
