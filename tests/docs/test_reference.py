"""The generated pages are those of the code, and the commented example says what the code says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dicom_node.cli.options import EXIT_STATUSES
from dicom_node.config.retention import Retention
from dicom_node.config.settings import Match, NodeSettings, Peer, Profile, Route, Settings
from scripts import reference
from tests.support.examples import hospital_with_everything
from tests.support.programs import ROOT

MODELS: dict[str, type[BaseModel]] = {
    "[node]": NodeSettings,
    "[retention]": Retention,
    "[[peers]]": Peer,
    "[[routes]]": Route,
    "[routes.match]": Match,
}


@pytest.mark.parametrize("name", ["configuration.md", "commands.md", "log-events.md"])
def test_a_generated_page_is_that_of_the_code(name: str) -> None:
    """Where this fails: run ``scripts/docs``."""
    assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == reference.pages()[name]


def test_check_names_a_stale_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "reference")
    assert reference.main(["--check"]) == 1
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    (tmp_path / "reference" / "commands.md").write_text("old", encoding="utf-8")
    capsys.readouterr()
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == "docs/reference/commands.md differs from the code: run scripts/docs\n"


def test_every_key_has_a_line_of_help() -> None:
    for model in (Settings, *MODELS.values()):
        for name in model.model_fields:
            assert reference.help_of(model, name), f"{model.__name__}.{name} has no text below it"


def test_the_reference_names_every_table_that_a_file_may_have() -> None:
    assert [title for title, _, _ in reference.TABLES] == list(MODELS)
    assert {title.strip("[]").partition(".")[0] for title in MODELS} == set(Settings.model_fields)


def test_every_status_that_the_program_ends_with_is_documented() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "dicom_node" / "cli").glob("*.py"))
    ends = {int(number) for number in re.findall(r"(?:SystemExit|typer\.Exit)\(([0-9]+)\)", source)}
    assert ends | {0} == set(EXIT_STATUSES)


def explained(text: str) -> Iterator[tuple[str, str, str]]:
    """The table, the key and the comment of each line of the example; a comment may go on below its key."""
    table, key, comment = "", "", ""
    for line in [*text.splitlines(), "[end]"]:
        code, _, said = line.partition("#")
        new = re.match(r"([a-z_]+) = ", code)
        if new or code.strip().startswith("["):
            if key:
                yield table, key, comment
            key, comment = (new[1], "") if new else ("", "")
            table = code.strip() if not new else table
        comment += " " + said.strip()


def test_a_default_that_the_example_names_is_that_of_the_code() -> None:
    found = 0
    for table, key, comment in explained(hospital_with_everything()):
        named = re.search(r'Default ("[^"]*"|\[\]|[a-z]+|[0-9.]*[0-9])', comment)
        if named is None:
            continue
        fields = {field.alias or name: field for name, field in MODELS[table].model_fields.items()}
        default: Any = fields[key].default
        default = getattr(Profile(), key) if key in reference.RESULTS else default
        value = tomllib.loads(f"x = {named[1]}")["x"]
        assert (tuple(value) if isinstance(value, list) else value) == (
            str(default) if isinstance(default, Path) else default
        ), f"{table} {key}"
        found += 1
    assert found >= 20


def test_every_key_that_may_be_left_out_has_its_default_in_the_example() -> None:
    said: dict[tuple[str, str], str] = {}
    for table, key, comment in explained(hospital_with_everything()):
        said[table, key] = said.get((table, key), "") + comment
    for table in ("[node]", "[retention]", "[[peers]]", "[[routes]]"):
        for key, field in MODELS[table].model_fields.items():
            # Whether a peer needs an address depends on what it does; the keys of results stand on one of two tables.
            if not (field.is_required() or key in reference.RESULTS or key in ("host", "port", "match")):
                assert "Default" in said[table, key], f"{table} {key}"
    assert "Default" in said["[node]", "host"]
    assert "Default" in said["[node]", "port"]
