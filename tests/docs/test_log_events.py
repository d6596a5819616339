"""The table of log events and the source that logs them say the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dicom_node import log
from dicom_node.log_events import CONTEXTS, EVENTS
from tests.support.programs import ROOT

_LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
_BINDS = frozenset({"bind_contextvars", "bound_contextvars"})


@dataclass
class Logged:
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def is_logger(node: ast.expr) -> bool:
    """``logger()``, ``log.logger()``, ``log`` or ``self._log``, whatever is bound to it."""
    if isinstance(node, ast.Call):
        function = node.func
        return (isinstance(function, ast.Name) and function.id == "logger") or (
            isinstance(function, ast.Attribute) and (function.attr == "logger" or is_logger(function.value))
        )
    if isinstance(node, ast.Attribute):
        return node.attr in ("_log", "log", "_logger")
    return isinstance(node, ast.Name) and node.id in ("log", "logger")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods, without those that stand in others: these share what is bound."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        else:
            yield from functions(node)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.Attribute]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, node.func


def logged() -> dict[str, Logged]:
    """Every event of the source, with its levels and the fields that are given to it or bound in the same function."""
    found: dict[str, Logged] = {}
    for file in sorted([*(ROOT / "dicom_node").rglob("*.py"), *(ROOT / "ai").rglob("*.py")]):
        for function in functions(ast.parse(file.read_text(encoding="utf-8"))):
            bound = {
                keyword.arg
                for call, target in calls(function)
                if target.attr == "bind" and is_logger(target.value)
                for keyword in call.keywords
            }
            for call, target in calls(function):
                if target.attr not in _LEVELS or not is_logger(target.value):
                    continue
                first = call.args[0] if call.args else None
                where = f"{file.relative_to(ROOT)}:{call.lineno}"
                assert isinstance(first, ast.Constant), f"{where}: an event's name is a text that stands in the call"
                assert all(keyword.arg for keyword in call.keywords), f"{where}: each field is named in the call"
                one = found.setdefault(str(first.value), Logged())
                one.levels.add(target.attr)
                one.fields |= {str(keyword.arg) for keyword in call.keywords}
                if isinstance(target.value, ast.Name):  # a logger that something was bound to, not a new one
                    one.fields |= {str(each) for each in bound}
    return found


@pytest.mark.slow
def test_every_event_that_is_logged_stands_in_the_table_and_every_row_is_logged() -> None:
    assert sorted(logged()) == [event.name for event in EVENTS]


@pytest.mark.slow
def test_levels_and_fields_are_those_of_the_source() -> None:
    source = logged()
    for event in EVENTS:
        assert set(event.levels) == source[event.name].levels, event.name
        assert set(event.fields) == source[event.name].fields, event.name


@pytest.mark.slow
def test_the_walk_finds_what_is_logged_with_a_bound_logger() -> None:
    source = logged()
    assert source["instance.refused"].fields == {"study", "instance", "sop_class", "status", "reason", "error"}
    assert source["result.delivered"].levels == {"info", "warning"}


def test_the_contexts_are_those_that_are_bound() -> None:
    bound: list[set[str]] = []
    for file in sorted(Path(ROOT / "dicom_node").rglob("*.py")):
        for call, target in calls(ast.parse(file.read_text(encoding="utf-8"))):
            if target.attr in _BINDS:
                bound.append({str(keyword.arg) for keyword in call.keywords})
    assert sorted(map(sorted, bound)) == sorted(sorted(fields) for fields in CONTEXTS.values())


def test_the_page_on_monitoring_names_every_event_that_should_wake_somebody() -> None:
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text(encoding="utf-8")
    table = page.partition("| event at level `error` |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", row.split("|")[1])}
    assert named == {event.name for event in EVENTS if "error" in event.levels}


def test_every_field_of_the_table_may_be_logged() -> None:
    for event in EVENTS:
        assert set(event.fields) <= set(log.FIELDS), event.name
