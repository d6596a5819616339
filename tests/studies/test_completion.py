"""Completing and routing: quiet times, patterns, the first route of a model wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Match, Settings
from dicom_node.index.index import Index
from dicom_node.index.rows import NewInstance, StoredSeries
from dicom_node.studies.completion import Completer
from dicom_node.studies.routing import matches, routes_of
from tests.support.nodes import settings_for

CHEST = StoredSeries("1.1", "DX", "CHEST", "Thorax PA", "W thorax", ("DX_ROOM1",))
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "destination": True}


def settings(tmp_path: Path, *routes: dict[str, Any], quiet: float = 5.0) -> Settings:
    full = [{"to": ["pacs"], **route} for route in routes]
    return settings_for(tmp_path, node={"quiet_seconds": quiet}, peers=[PACS], routes=full)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.sqlite", create=True)
    yield index
    index.close()


def receive(index: Index, uid: str, now: float, *, study: str = "1", series: str = "1.1", modality: str = "DX") -> None:
    new = NewInstance(uid, "1.2", "1.2", study, series, modality, "CHEST", "Thorax", "PA", "MOD", uid, 1)
    index.add_instance(new, now)


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"modality": ["CR", "dx"]}, True),
        ({"modality": "D?"}, True),
        ({"modality": ["CT"]}, False),
        ({"body_part": ["che*"]}, True),
        ({"body_part": [""]}, False),
        ({"description": ["thorax*"]}, True),
        ({"description": ["w *"]}, True),
        ({"description": ["abdomen"]}, False),
        ({"from": ["dx_*"]}, True),
        ({"from": ["CT1"]}, False),
        ({"modality": ["DX"], "body_part": ["HAND"]}, False),
    ],
)
def test_a_match(match: dict[str, Any], fits: bool) -> None:
    assert matches(Match.model_validate(match), CHEST) is fits


def test_an_empty_pattern_takes_what_says_nothing() -> None:
    silent = StoredSeries("1.1", "DX", "", "", "", ("A",))
    assert matches(Match.model_validate({"body_part": ["CHEST", ""]}), silent)
    assert not matches(Match.model_validate({"body_part": ["CHEST"]}), silent)


def test_the_first_route_of_a_model_wins_and_a_study_may_take_several(tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        {"name": "ct", "models": ["a"], "match": {"modality": "CT"}},
        {"name": "first", "models": ["a", "b"], "match": {"modality": "DX"}},
        {"name": "second", "models": ["b", "c"]},
    )
    taken = [(route.name, model) for route, model in routes_of(config, [CHEST])]
    assert taken == [("first", "a"), ("first", "b"), ("second", "c")]


def test_a_study_is_complete_when_it_was_quiet_for_the_longest_of_its_routes(tmp_path: Path, index: Index) -> None:
    config = settings(
        tmp_path,
        {"name": "short", "models": ["a"], "quiet_seconds": 2.0},
        {"name": "long", "models": ["b"], "quiet_seconds": 8.0, "match": {"modality": "DX"}},
    )
    queued: list[int] = []
    completer = Completer(SettingsHolder(config), index, lambda: queued.append(1))
    receive(index, "1.1.1", 100.0)
    receive(index, "2.1.1", 100.0, study="2", series="2.1", modality="CR")
    completer.tick(101.9)
    assert {row.state for row in index.studies_with_state()} == {"receiving"}
    completer.tick(102.0)
    assert index.studies_with_state("2")[0].routes == ("short",)
    assert index.studies_with_state("1")[0].state == "receiving"
    completer.tick(108.0)
    assert index.studies_with_state("1")[0].routes == ("short", "long")
    assert queued == [1, 1]


def test_every_new_instance_begins_the_quiet_time_anew_whichever_association_brought_it(
    tmp_path: Path, index: Index
) -> None:
    completer = Completer(SettingsHolder(settings(tmp_path, {"name": "r", "models": ["a"]})), index)
    for number, now in enumerate((100.0, 104.0, 108.0)):
        receive(index, f"1.1.{number}", now)
        completer.tick(now + 4.9)
        assert index.studies_with_state("1")[0].state == "receiving"
    completer.tick(113.0)
    assert index.studies_with_state("1")[0].state == "reading"


def test_a_study_that_no_route_takes_ends_visibly(tmp_path: Path, index: Index) -> None:
    completer = Completer(
        SettingsHolder(settings(tmp_path, {"name": "r", "models": ["a"], "match": {"modality": "MG"}})), index
    )
    receive(index, "1.1.1", 100.0)
    completer.tick(105.0)
    assert index.studies_with_state("1")[0].state == "no route"


def test_a_late_instance_is_a_new_revision_with_jobs_of_its_own(tmp_path: Path, index: Index) -> None:
    completer = Completer(SettingsHolder(settings(tmp_path, {"name": "r", "models": ["a"]})), index)
    receive(index, "1.1.1", 100.0)
    completer.tick(105.0)
    receive(index, "1.1.2", 200.0)
    completer.tick(205.0)
    assert [(job.revision, job.state) for job in index.jobs_of("1")] == [(1, "queued"), (2, "queued")]


def test_bytes_on_an_open_association_keep_a_study_from_being_complete(tmp_path: Path, index: Index) -> None:
    config = settings(tmp_path, {"name": "r", "models": ["a"]})
    last_byte = {"1": 109.0}
    completer = Completer(SettingsHolder(config), index, last_byte=lambda study: last_byte.get(study, 0.0))
    receive(index, "1.1.1", 100.0)
    completer.tick(113.9)
    assert index.studies_with_state("1")[0].state == "receiving"
    completer.tick(114.0)
    assert index.studies_with_state("1")[0].state == "reading"


def test_work_for_a_route_that_was_removed_fails_visibly(tmp_path: Path, index: Index) -> None:
    receive(index, "1.1.1", 100.0)
    Completer(SettingsHolder(settings(tmp_path, {"name": "r", "models": ["a"]})), index).tick(105.0)
    Completer(SettingsHolder(settings(tmp_path)), index).tick(106.0)
    row = index.studies_with_state("1")[0]
    assert row.state == "failed"
    assert "no longer in any route of the configuration" in row.reason


def test_it_says_when_to_look_again(tmp_path: Path, index: Index) -> None:
    completer = Completer(SettingsHolder(settings(tmp_path, {"name": "r", "models": ["a"]})), index)
    receive(index, "1.1.1", 100.0)
    assert completer.tick(104.9) == pytest.approx(0.1)


def test_a_study_that_comes_again_and_again_is_read_once_an_hour(tmp_path: Path, index: Index) -> None:
    completer = Completer(SettingsHolder(settings(tmp_path, {"name": "r", "models": ["a"]})), index)
    now = 100.0
    for number in range(10):
        receive(index, f"1.{number}", now)
        completer.tick(now + 5.0)
        assert len(index.jobs_of("1")) == number + 1, "the first ones are read at once"
        now += 10.0
    receive(index, "1.99", now)
    completer.tick(now + 5.0)
    assert index.studies_with_state("1")[0].state == "receiving"
    last = max(job.created for job in index.jobs_of("1"))
    completer.tick(last + 3599.0)
    assert len(index.jobs_of("1")) == 10
    completer.tick(last + 3600.0)
    assert len(index.jobs_of("1")) == 11
    receive(index, "1.100", last + 3601.0)
    completer.tick(last - 80000.0)  # the clock was set back a day: nothing waits a day for it
    completer.tick(last + 3606.0 + 3600.0)
    assert len(index.jobs_of("1")) == 12
