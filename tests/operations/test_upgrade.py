"""A site that runs is told once what an upgrade changes, and a new site never."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.node import Node
from dicom_node.operations.check import Point, points
from dicom_node.operations.upgrade import CHANGES, TOLD_FILE, news, remember
from tests.support.nodes import settings_for
from tests.support.programs import ROOT


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The data folder of a node of an earlier version."""
    folder = tmp_path / "data"
    folder.mkdir()
    Index(folder / INDEX_FILE, create=True).close()
    return folder


def told(data_dir: Path) -> list[Point]:
    file = data_dir.parent / "node.toml"
    file.write_text(f'[node]\nport = 0\ndata_dir = "{data_dir}"\n', encoding="utf-8")
    return [point for point in points(file) if point.what == "new in this version"]


def test_a_running_site_is_told_once_at_the_end(site: Path) -> None:
    assert [(point.verdict, point.text) for point in told(site)] == [("warn", text) for text in CHANGES]
    assert told(site) == []


def test_a_new_site_is_told_nothing_before_and_after_its_first_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    assert told(tmp_path / "data") == []
    assert not (tmp_path / "data").exists()  # it would belong to the user of the check
    node = Node(settings)
    node.start()
    node.stop()
    assert told(tmp_path / "data") == []


def test_an_upgraded_site_is_told_after_its_first_start_too(site: Path) -> None:
    node = Node(settings_for(site))
    node.start()
    node.stop()
    assert len(told(site)) == len(CHANGES)


def test_a_site_that_knows_earlier_changes_is_told_the_later_ones(site: Path) -> None:
    (site / TOLD_FILE).write_text(f'{{"changes": {len(CHANGES) - 1}}}', encoding="utf-8")
    assert news(site) == CHANGES[-1:]
    (site / TOLD_FILE).write_text('{"changes": 1000}', encoding="utf-8")  # of a later version
    assert news(site) == ()


@pytest.mark.parametrize("content", ["", "[]", '{"changes": null}', '{"changes": -3}', '{"more": 1}', "\udcff"])
def test_a_damaged_record_is_no_record(site: Path, content: str) -> None:
    (site / TOLD_FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert news(site) == CHANGES


def test_another_user_leaves_no_file_behind_and_is_told_so(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: site.stat().st_uid + 1)
    assert not remember(site)
    monkeypatch.undo()
    assert sorted(path.name for path in site.iterdir() if "sqlite" not in path.name) == []


def test_the_changelog_has_what_is_told() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = text.partition("### What changes for a running site")[2].partition("\n### ")[0]
    for word in ("without %", "tuberculosis", "balanced", "JPEG", "other UIDs", "committed_days"):
        assert word in section, word
        assert any(word in change for change in CHANGES), word
