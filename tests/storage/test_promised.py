"""What the node has committed to keep (storage commitment) is not removed before IT says so."""

from __future__ import annotations

import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dicom_node import log
from dicom_node.config.retention import Retention
from dicom_node.index.commitments import peers_that_ask
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import Promise
from dicom_node.node import Node
from dicom_node.operations.check import points
from tests.scp.test_commitment import Modality, ct1, told
from tests.storage.test_retention import DAY, Place
from tests.support.nodes import settings_for
from tests.support.peers import free_port, send
from tests.support.samples import make_image
from tests.support.waiting import wait_until

StartNode = Callable[..., Node]


@pytest.fixture
def logged() -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    stream = io.StringIO()
    log.configure(stream)
    yield lambda event: [e for e in map(json.loads, stream.getvalue().splitlines()) if e["event"] == event]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "node")
    yield place
    place.close()


def old_study(place: Place) -> str:
    """A study that was finished on day 60, and the SOP Instance UID of its first image."""
    place.receive("1.1", 60)
    place.finish("1.1", 60, "no route")
    return "1.1.1.0"


def test_what_is_committed_to_is_kept_for_the_days_that_it_sets(place: Place) -> None:
    uid = old_study(place)
    assert place.index.note_promised([uid], 70 * DAY) == {uid}
    assert place.retention(committed_days=31.0).look() == 0
    place.now = 101.1 * DAY
    assert place.retention(committed_days=31.0).look() == 1


def test_without_these_days_it_is_never_removed(place: Place) -> None:
    place.index.note_promised([old_study(place)], 70 * DAY)
    place.now = 30_000 * DAY
    assert place.retention().look() == 0
    assert place.files() == 2


def test_the_last_commitment_counts_and_a_clock_that_was_set_back_takes_none_away(place: Place) -> None:
    uid = old_study(place)
    for day in (70, 90, 60):
        place.index.note_promised([uid], day * DAY)
    place.now = 109 * DAY
    assert place.retention(committed_days=20.0).look() == 0
    place.now = 110.1 * DAY
    assert place.retention(committed_days=20.0).look() == 1


def test_nothing_is_committed_to_that_retention_removed_first(place: Place) -> None:
    uid = old_study(place)
    assert place.index.held([uid])
    assert place.retention().look() == 1
    assert place.index.note_promised([uid], 70 * DAY) == set()


def test_an_index_of_before_has_every_request_as_a_commitment(tmp_path: Path) -> None:
    place = Place(tmp_path / "node")
    uid = old_study(place)
    place.index.add_promise(Promise("1.9", "CT1", {uid: "1.2", "1.8": "1.2"}), None, 70 * DAY)
    place.close()
    with closing(sqlite3.connect(tmp_path / "node" / INDEX_FILE)) as old:  # as the version before left it
        old.executescript("DROP TABLE promised; DELETE FROM _sqlite_migrations WHERE name = 'm014_promised'")
    assert peers_that_ask(tmp_path / "node" / INDEX_FILE) == ["CT1"]
    assert peers_that_ask(tmp_path / "nowhere") == []
    Index(tmp_path / "node" / INDEX_FILE, create=True).close()
    again = Place(tmp_path / "node")
    assert again.retention(committed_days=31.0).look() == 0
    assert [tuple(row) for row in again.index._rows("SELECT * FROM promised")] == [(uid, 70 * DAY)]
    again.close()


def retaining(folder: Path, port: int, **retention: Any) -> Any:
    settings = settings_for(folder, peers=[ct1(port)])
    return settings.model_copy(update={"retention": Retention(days=30.0, **retention)})


@pytest.mark.slow
def test_a_modality_is_promised_something_only_where_it_will_be_kept(
    start_node: StartNode, tmp_path: Path, logged: Any
) -> None:
    modality, clock, folder = Modality(free_port()), [0.0], tmp_path / "node"
    node = start_node(retaining(folder, modality.port), clock=lambda: time.time() + clock[0], synchronised=lambda: True)
    image = make_image()
    assert send(node.port, image, calling="CT1") == [0x0000]
    with modality.listening():
        for number in (1, 2, 3):  # the third on another day
            clock[0] = DAY * (number == 3)
            assert modality.ask(node.port, [image]) == 0x0000
            wait_until(lambda number=number: len(modality.reports) == number, "the answer", 10)
        assert {kind for kind, _ in modality.reports} == {2}
        modality.reports = modality.reports[-1:]
        assert told(modality) == (2, set(), {image.SOPInstanceUID: 0x0110})
        assert [each["calling_ae"] for each in logged("promise.declined")] == ["CT1", "CT1"]
        node.stop()
        node = start_node(
            retaining(folder, modality.port, committed_days=365.0),
            clock=lambda: time.time() + clock[0],
            synchronised=lambda: True,
        )
        assert len(logged("promise.declined")) == 2, "it is promised something now"
        modality.reports.clear()
        assert modality.ask(node.port, [image]) == 0x0000
        wait_until(lambda: modality.reports, "the answer", 10)
    assert told(modality) == (1, {image.SOPInstanceUID}, {})
    assert node.index is not None
    wait_until(lambda: node.index.studies_with_state()[0].state == "no route", "the study")  # type: ignore[union-attr]
    wait_until(lambda: not node._server._open, "the association to end")  # type: ignore[union-attr]
    study = str(image.StudyInstanceUID)
    wait_until(lambda: {job.state for job in node.index.jobs_of(study)} == {"done"}, "the answer to be recorded")  # type: ignore[union-attr]
    assert node._retention is not None
    clock[0] = 300 * DAY
    assert node._retention.look() == 0
    clock[0] = 370 * DAY
    assert node._retention.look() == 1


def test_the_peers_that_are_promised_nothing_any_more_are_named(
    start_node: StartNode, tmp_path: Path, logged: Any
) -> None:
    folder = tmp_path / "node"
    place = Place(folder)
    place.index.add_promise(Promise("1.9", "CT1", {"1.8": "1.2"}), None, 1.0)
    place.close()
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nport = 0\ndata_dir = "{folder}"\n[retention]\ndays = 30\n', encoding="utf-8")
    (told,) = [each for each in points(config) if each.what == "commitment"]
    assert told.verdict == "warn"
    assert told.text.startswith("CT1: retention removes images")
    start_node(retaining(folder, free_port()))
    (said,) = logged("promise.declined")
    assert (said["calling_ae"], "committed_days" in said["fix"]) == ("CT1", True)
    config.write_text(f'[node]\nport = 0\ndata_dir = "{folder}"\n', encoding="utf-8")
    assert [each for each in points(config) if each.what == "commitment"] == []
