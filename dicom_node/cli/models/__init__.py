"""``dicom-node models list | show | verify | remove | rollback``: the installed models (`models.registry`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli import terminal
from dicom_node.cli.models.adding import add
from dicom_node.cli.models.comparing import compare
from dicom_node.cli.models.evaluating import evaluate
from dicom_node.cli.models.published import import_weights
from dicom_node.cli.options import DEFAULT_CONFIG, RESTART, ConfigOption

if TYPE_CHECKING:
    from dicom_node.config.settings import Settings
    from dicom_node.models.registry import Models

app = typer.Typer(no_args_is_help=True, help="The models that the node reads with: list, add, verify, roll back.")
app.command()(add)
app.command("import")(import_weights)
app.command()(compare)
app.command()(evaluate)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Every model with its versions: which are current, which ship, and which routes read with them."""
    from dicom_node.models.descriptions import summary

    settings, store = _store(config)
    every = [summary(settings, entry) for entry in store.entries()]
    if as_json:
        print(json.dumps(every, indent=2, ensure_ascii=False))
        return
    from rich.markup import escape

    table = terminal.table("model", "version", "files", "state", "from", "routes")
    for one in every:
        origin = "ships with the node" if one["shipped"] else f"installed {one['added'] or 'some time'}"
        state = f"{one['state']}: {one['fault']}" if one["fault"] else one["state"]
        cells = (one["name"], one["version"], one["digest"][:12], state, origin, ", ".join(one["routes"]))
        table.add_row(*(escape(cell) for cell in cells))
    terminal.console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The model.")],
    digest: Annotated[str, typer.Option(help="A former version, by the beginning of its digest.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Everything about a model: what it is for, which images it takes, what it finds, its files and figures."""
    from dicom_node.models.descriptions import detail

    settings, store = _store(config)
    entry = store.version(name, digest) if digest else store.current(name)
    known = detail(settings, entry)
    if as_json:
        print(json.dumps(known, indent=2, ensure_ascii=False))
    else:
        _print_detail(known)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="The model; without it, every model.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Compare every file of the models with what was written down when they came; status 1 where one differs."""
    from ai.bundle.files import BundleError

    _, store = _store(config)
    entries = store.entries(name)
    if not entries:
        store.current(name)  # says which there are
    bad = 0
    for entry in entries:
        what = f"model {entry.name} {entry.version}, files {entry.digest[:12]} ({entry.state})"
        pinned = entry.pinned()
        try:
            faults = pinned.faults()
        except BundleError as error:
            faults = [str(error)]
        for fault in faults:
            print(f"FAIL  {what}: {fault}")
        if not faults:
            print(f"ok    {what}: {len(pinned.files or {})} files as they were checked")
        bad += bool(faults)
    if bad:
        print("a model that differs is not loaded: add it again from its source, or roll back", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The model.")],
    digest: Annotated[str, typer.Option(help="Only this version, by the beginning of its digest.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Delete an installed model, or one version of it; refused while a route needs it."""
    from dicom_node.models.registry import routes_of
    from dicom_node.storage.spool import Spool

    settings, store = _store(config)
    for gone in store.remove(settings, name, digest, running=Spool(settings.node.data_dir).in_use()):
        print(f"model {gone.name} {gone.version}, files {gone.digest[:12]}: removed")
    left = [each for each in store.entries(name) if each.state == "current"]
    if left and routes_of(settings, name):
        print(f"routes read with {name} {left[0].version}, {left[0].digest[:12]} from the next start of the node on")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The model.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Go back to the version that was current before; again goes further back. To go forward, add that one again."""
    _, store = _store(config)
    was, is_now = store.rollback(name)
    print(f"model {name}: {is_now.version}, {is_now.digest[:12]} is current; it was {was.version}, {was.digest[:12]}")
    print(RESTART)


def _store(config: Path) -> tuple[Settings, Models]:
    from dicom_node.config.load import load
    from dicom_node.models.registry import Models

    settings = load(config)
    return settings, Models(settings.node.data_dir)


def _print_detail(known: dict[str, Any]) -> None:
    from ai.bundle.code import printable

    def line(label: str, text: object) -> None:
        if text not in (None, "", [], {}):
            print(f"{label:<14}{printable(str(text))}")

    line(
        "model",
        f"{known['name']} {known['version']} ({known['state']}, {'ships' if known['shipped'] else 'installed'})",
    )
    line("fault", known["fault"])
    line("digest", known["digest"])
    line("routes", ", ".join(known["routes"]) or "none")
    for key, label in (("manufacturer", "manufacturer"), ("task", "task"), ("intended_use", "intended use")):
        line(label, known.get(key))
    for key in ("notice", "description", "authors", "copyright", "data_source"):
        line(key.replace("_", " "), known.get(key))
    line("folder", known["folder"])
    line("model card", known["model_card"])
    if record := known["record"]:
        line("came from", f"{record['place']} ({record['kind']}), added {record['added']} by {record['user']}")
        line("zip SHA-256", record["archive_sha256"])
        for what, seen in record["checks"].items():
            line("checked", f"{what}: {seen}")
    for key, value in known.get("input", {}).items():
        shown = ", ".join(map(str, (each or "(absent)" for each in value))) if isinstance(value, list) else value
        line("takes", f"{key}: {shown}" if shown not in (None, "") else None)
    for output in known.get("outputs", []):
        line("finds" if output["finding"] else "outlines", _output(output))
    figures = known.get("eval_metrics") or {}
    for what, value in _flat({key: value for key, value in figures.items() if key != "operating_points"}):
        line("figure", f"{what}: {value}")
    for name, digest in known["files"].items():
        line("file", f"{digest}  {name}")
    _print_points(known)


def _output(output: dict[str, Any]) -> str:
    code = output["code"]
    text = f"{output['name']} ({code['value']}, {code['scheme']}, {code['meaning']})"
    if output["undetermined"]:
        return f"{text}; never called: {output['undetermined']}"
    text += f", threshold {output['threshold']:g}"
    if output["differential"]:
        text += "; may be " + ", ".join(each["meaning"] for each in output["differential"])
    if not output["default"]:
        text += f'; looked for only where a route names it: findings = ["{output["key"]}"]'
    return text


def _print_points(known: dict[str, Any]) -> None:
    """The operating points as a table: the images that each calls, and each class's figures."""
    points = known.get("operating_points") or {}
    if not points:
        return
    from ai.bundle.code import printable
    from dicom_node.models.descriptions import PREVALENCES

    names = {output["key"]: output["name"] for output in known["outputs"]}
    extra = {output["key"] for output in known["outputs"] if not output["default"]}
    table = terminal.table(
        "operating point",
        "finding",
        "threshold",
        "sensitivity",
        "called of 100 normal",
        "of 100 other",
        "PPV",
        "at worst",
    )
    for point, told in points.items():
        default = " (default)" if point == known["operating_point"] else ""
        called = (told["called_of_100_normal"], told["called_of_100_other"])
        table.add_row(
            point + default, "anything", "", "", *("" if one is None else f"{one:.0f}" for one in called), "", ""
        )
        for key, threshold in told["thresholds"].items():
            cells = [printable(names[key]) + (" (on request)" if key in extra else ""), f"{threshold:g}"]
            if one := told["figures"].get(key):
                other = one["specificity_other"]
                cells += [f"{one['sensitivity']:.2f} ({one['positives']})", f"{100 * (1 - one['specificity']):.0f}"]
                cells += ["" if other is None else f"{100 * (1 - other):.0f}"]
                cells += [_percent(one["ppv"]["normal"]), "" if other is None else _percent(one["ppv"]["other"])]
            table.add_row("", *cells)
    terminal.console().print(table)
    shown = ", ".join(f"{100 * each:g}" for each in PREVALENCES)
    print(
        f"PPV (%): of 100 images that are called, how many have the finding, if {shown} of 100 images have it and the"
    )
    print(
        "others are normal; at worst: if all others have other findings. Sensitivity: in brackets the images with it."
    )


def _percent(values: dict[str, float | None]) -> str:
    return " / ".join("-" if value is None else f"{100 * value:.{int(value < 0.1)}f}" for value in values.values())


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Figures by their places, but for those of parts of the images, which the card and --json have."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("by_source", "by_group"):
                continue
            yield from _flat(inner, f"{place} {key}".strip())
    elif value is not None:
        yield place or "value", value
