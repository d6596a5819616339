"""Writes three pages of docs/reference/ out of the code: configuration, commands, log-events.

The other pages there are written by hand.

scripts/docs            writes the pages
scripts/docs --check    says which pages differ from the code; exit status 1 where one does
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.main import get_command

from dicom_node import log
from dicom_node.cli.main import app
from dicom_node.cli.options import EXIT_STATUSES
from dicom_node.config.retention import Retention
from dicom_node.config.settings import Match, NodeSettings, Peer, Profile, Route
from dicom_node.config.values import Output
from dicom_node.log_events import CONTEXTS, EVENTS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Made by scripts/docs out of the code. Change the code, then run it again. -->"
TABLES: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("[node]", NodeSettings, "Who we are, where we listen, where we keep things."),
    ("[retention]", Retention, "What is removed and when. Without this table nothing is ever removed."),
    ("[[peers]]", Peer, "Every AE that we talk to: one table for each."),
    ("[[routes]]", Route, "Which studies are read by which models, and where the results go: one table for each."),
    ("[routes.match]", Match, "All keys that are given must fit one series of the study; of a list any entry may fit."),
)
RESULTS = {field.name: field.default for field in dataclasses.fields(Profile) if field.name in Peer.model_fields}
"""The keys that may stand on a route and on a destination, with the default where neither says anything."""

KINDS: dict[Output, str] = {
    "sr": "structured report",
    "sc": "secondary capture: a picture that every viewer shows",
    "gsps": "presentation state: the marks as a layer that can be switched on and off",
    "seg": "segmentation, where the model outlines something",
    "pdf": "one page to print or mail",
    "kos": "key images",
}


@cache
def _helps(model: type[BaseModel]) -> dict[str, str]:
    """The text below each key in the source; read here, since pydantic would read it at each start of a node."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - it is the source of a class
    return {
        key.target.id: inspect.cleandoc(text.value.value)
        for key, text in pairwise(body.body)
        if isinstance(key, ast.AnnAssign)
        and isinstance(key.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def help_of(model: type[BaseModel], key: str) -> str:
    """The text below a key, in its class or in one that this inherits from; empty if there is none."""
    bases = (each for each in model.__mro__ if issubclass(each, BaseModel) and each is not BaseModel)
    return next((_helps(each)[key] for each in bases if key in _helps(each)), "")


def needs_restart(_table: str, _key: str) -> bool:
    """Whether a running node must be restarted for a change of this key.

    No command of today gives a running node other settings, so every key needs it. With such a command the answer is in
    `dicom_node.config.holder.NEEDS_RESTART`.
    """
    return True


def pages() -> dict[str, str]:
    """Every generated page: its file name and its text."""
    return {"configuration.md": configuration(), "commands.md": commands(), "log-events.md": log_events()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a page is stale")
    if not parser.parse_args(arguments).check:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name, text in pages().items():
            (FOLDER / name).write_text(text, encoding="utf-8")
        return 0
    stale = [name for name, text in pages().items() if not _is(FOLDER / name, text)]
    for name in stale:
        print(f"docs/reference/{name} differs from the code: run scripts/docs", file=sys.stderr)
    return 1 if stale else 0


def _is(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


# --- the configuration ------------------------------------------------------------------------------------------------


def configuration() -> str:
    """Every key of the file that IT edits."""
    parts = [
        "# Reference: configuration",
        NOTE,
        "The node reads one TOML file.\n"
        "[`config/hospital.toml`](../../config/hospital.toml) is a realistic example with every key.\n"
        "A key that is left out has its default.\n"
        "A wrong file never starts a node: the error names the file, the key, what it found and what it expected.\n"
        "Today every change needs a restart of the node, since no command gives a running node other settings; "
        "so the column *restart* says yes everywhere.",
    ]
    for title, model, what in TABLES:
        rows = [_key(title, key, schema, model) for key, schema in _schemas(model).items() if key not in RESULTS]
        parts += [f"## `{title}`", what, table(("key", "type", "default", "allowed", "restart", "meaning"), rows)]
        if model is Peer:
            parts.append("A destination may also have the keys of [results](#results).")
        if model is Route:
            parts.append("A route may also have the keys of [results](#results).")
    schemas = _schemas(Route)
    rows = [_key("results", key, schemas[key], Route, RESULTS[key]) for key in RESULTS]
    parts += [
        "## Results",
        "How results are made. Each key may be on a route and on a peer with `destination = true`.\n"
        "What the destination says counts before what the route says.",
        table(("key", "type", "default", "allowed", "restart", "meaning"), rows),
        table(("kind", "what it is"), [[f"`{kind}`", KINDS[kind]] for kind in get_args(Output)]),
    ]
    return _page(parts)


def _schemas(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    schema = model.model_json_schema()
    return {key: each for key, each in schema["properties"].items() if "$ref" not in each}


def _key(title: str, key: str, schema: Mapping[str, Any], model: type[BaseModel], default: Any = None) -> list[str]:
    name, field = next(each for each in model.model_fields.items() if (each[1].alias or each[0]) == key)
    value = next((one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"), schema)
    shown = field.default if default is None else default
    return [
        f"`{key}`",
        _type(value),
        "needed" if shown is PydanticUndefined else "-" if shown is None else f"`{_toml(shown)}`",
        _allowed(value),
        "yes" if needs_restart(title, key) else "no",
        help_of(model, name),
    ]


def _type(schema: Mapping[str, Any]) -> str:
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if schema["type"] == "object":
        return "table of numbers"
    return "path" if schema.get("format") == "path" else names[schema["type"]]


def _allowed(schema: Mapping[str, Any]) -> str:
    if "allowed" in schema:
        return str(schema["allowed"])
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if schema["type"] == "array":
        least = f"at least {schema['minItems']} of " if schema.get("minItems") else ""
        return f"{least}{_allowed(schema['items'])}"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is None or high is None:
        return ""
    above = "more than " if "exclusiveMinimum" in schema else ""
    return f"{above}{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) or not float(value).is_integer() else f"{int(value):,}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"'


# --- the commands -----------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments, options and exit statuses."""
    found = list(_commands("dicom-node", get_command(app)))
    parts = [
        "# Reference: commands",
        NOTE,
        "Each command explains itself with `--help`.\n"
        "Run those that look at the node's folder as the user that the node runs as.",
        table(
            ("command", "what it does"),
            [[f"[`{name}`](#{name.replace(' ', '-')})", command.help] for name, command in found],
        ),
        "## Exit statuses",
        table(("status", "meaning"), [[str(status), text] for status, text in EXIT_STATUSES.items()]),
    ]
    for name, command in found:
        hints = get_type_hints(command.callback)
        rows = [_parameter(each, hints[each.name]) for each in command.params if each.name in hints]
        arguments = "".join(f" {_argument(each)}" for each in command.params if each.param_type_name == "argument")
        options = " [OPTIONS]" if len(arguments.split()) < len(rows) else ""
        parts += [f"## {name}", command.help, f"```\n{name}{options}{arguments}\n```"]
        if rows:
            parts.append(table(("argument or option", "value", "default", "meaning"), rows))
    return _page(parts)


def _commands(name: str, command: Any) -> Iterable[tuple[str, Any]]:
    """Each command below this one with its whole name: a group's are those of the group's ``commands``."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for each, inner in command.commands.items():
        yield from _commands(f"{name} {each}", inner)


def _argument(each: Any) -> str:
    shown = each.metavar or each.name.upper()
    return str(shown) if each.required or shown.startswith("[") else f"[{shown}]"


def _parameter(each: Any, kind: Any) -> list[str]:
    is_option = each.param_type_name == "option"
    flag = is_option and each.is_flag
    value = each.metavar or _VALUES[next((one for one in (get_args(kind) or (kind,)) if one in _VALUES), str)]
    shown = "needed" if each.required else "-" if each.default in (None, "", False) else f"`{each.default}`"
    return [
        ", ".join(f"`{name}`" for name in each.opts) if is_option else f"`{_argument(each)}`",
        f"`{value}`" if is_option and not flag else "",
        shown,
        str(each.help or ""),
    ]


_VALUES = {
    str: "TEXT",
    int: "NUMBER",
    float: "NUMBER",
    Path: "PATH",
    datetime: "DAY",
    list[str]: "TEXT",
    list[Path]: "PATH",
}


# --- the log ----------------------------------------------------------------------------------------------------------


def log_events() -> str:
    """Every event of the log, and every field."""
    rows = [
        [
            f"`{event.name}`",
            ", ".join(event.levels),
            ", ".join(f"`{each}`" for each in event.fields) or "-",
            event.meaning,
            event.action,
        ]
        for event in EVENTS
    ]
    return _page(
        [
            "# Reference: log events",
            NOTE,
            "The log goes to standard error: one JSON object a line, or readable lines where standard error is a "
            "terminal.\n"
            "It holds no patient data: only the fields below are ever written, and messages of DICOM libraries, which "
            "quote data sets, are kept out.\n"
            "Levels are `debug` (with `dicom-node run --verbose` alone), `info`, `warning` and `error`.",
            "## Events",
            "A field may be absent where it does not apply.\nEvery line also has `event`, `level` and `time`.",
            table(("event", "level", "fields", "meaning", "what to do"), rows),
            "## Fields that come with a context",
            table(
                ("context", "fields"),
                [[name, ", ".join(f"`{each}`" for each in fields)] for name, fields in CONTEXTS.items()],
            ),
            "## Fields",
            table(("key", "meaning"), [[f"`{name}`", meaning] for name, meaning in log.FIELDS.items()]),
        ]
    )


# --- Markdown ---------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what stands in a cell cannot break its row."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
