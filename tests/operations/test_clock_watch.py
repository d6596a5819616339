"""The node's clock, and who may say that the machine's is right."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli.main import app
from dicom_node.clock import SteadyClock, is_synchronised, monotonic
from dicom_node.errors import NodeError
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import NewInstance, NewReading
from dicom_node.operations.check import points
from dicom_node.operations.clock_watch import CLOCK_FILE, ClockWatch, confirm, doubts
from tests.support.samples import reading_text


class Machine:
    """A machine's two clocks, as a test sets them."""

    def __init__(self) -> None:
        self.passed, self.ahead = 1000.0, 0.0

    def steady(self) -> SteadyClock:
        return SteadyClock(lambda: 1e9 + self.passed + self.ahead, lambda: self.passed)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / INDEX_FILE, create=True)
    yield index
    index.close()


def never() -> bool:
    return False


def test_small_differences_are_followed_slowly_and_never_back() -> None:
    machine = Machine()
    clock = machine.steady()
    machine.ahead = -30.0
    seen = [clock.now()]
    for _ in range(700):
        machine.passed += 1.0
        assert clock.follow() == 0.0
        seen.append(clock.now())
    steps = [after - before for before, after in pairwise(seen)]
    assert min(steps) == pytest.approx(0.95, abs=1e-6)
    assert max(steps) <= 1.0 + 1e-6
    assert clock.now() == pytest.approx(1e9 + machine.passed - 30.0)


def test_a_step_is_told_and_taken_over_only_when_it_is_adopted() -> None:
    machine = Machine()
    clock = machine.steady()
    mark, before = clock.mark(), clock.now()
    machine.ahead = 86400.0
    assert clock.follow() == 86400.0
    assert clock.now() == before
    clock.adopt(86400.0)
    assert clock.now() == before + 86400.0
    assert clock.at(mark) == clock.now()
    assert clock.at(0.0) == 0.0
    assert clock.follow() == 0.0


def test_the_kernel_is_asked() -> None:
    assert is_synchronised() in (True, False)
    assert 0 < monotonic() <= monotonic()


def test_a_step_whose_commit_fails_is_taken_over_later_as_a_whole(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    clock = machine.steady()
    watch = ClockWatch(clock, index, tmp_path, synchronised=never)
    index.add_instance(NewInstance("1.2", "1", "1", "1.1", "1.1", "CR", "", "", "", "A", "f", 1), clock.now())
    machine.ahead, before = -86400.0, clock.now()
    move = index.move_times

    def fail(since: float, step: float) -> None:
        move(since, step)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(index, "move_times", fail)
    with pytest.raises(sqlite3.OperationalError):
        watch.look()
    assert (clock.now(), index.open_studies()[0].last_received) == (before, before)
    monkeypatch.undo()
    watch.look()
    assert (clock.now(), index.open_studies()[0].last_received) == (before - 86400.0, before - 86400.0)


@pytest.mark.parametrize("step", [-86400.0, 4 * 86400.0])
def test_jobs_go_on_as_if_the_clock_had_not_been_set(index: Index, tmp_path: Path, step: float) -> None:
    machine = Machine()
    clock = machine.steady()
    watch = ClockWatch(clock, index, tmp_path, synchronised=never)
    for study in ("1.1", "1.2"):
        index.add_instance(
            NewInstance(f"{study}.1", "1", "1", study, "1.1", "CR", "", "", "", "A", "f", 1), clock.now()
        )
        (row,) = index.studies_with_state(study)
        index.complete(study, row.revision, row.last_received, [("r", "m")], clock.now())
    claimed, later = (index.claim("read", "m", clock.now(), 60.0) for _ in range(2))
    assert claimed is not None
    assert later is not None
    index.retry_later(later, clock.now() + 30.0, "busy")
    machine.ahead = step
    watch.look()
    assert index.claim("read", "m", clock.now() + 29.0, 60.0) is None, "one waits, the other is in work"
    again = index.claim("read", "m", clock.now() + 31.0, 60.0)
    assert again is not None
    assert again.id == later.id
    assert clock.now() - again.created < 1.0, "it is tried for as long as ever"
    taken = index.claim("read", "m", clock.now() + 60.5, 60.0)
    assert taken is not None
    assert taken.id == claimed.id, "its lease is over after its own time"


def test_a_procedure_step_in_progress_is_kept_when_the_clock_jumps(index: Index, tmp_path: Path) -> None:
    machine = Machine()
    clock = machine.steady()
    watch = ClockWatch(clock, index, tmp_path, synchronised=never)
    assert index.add_step("1.9", ["1.1"], "MOD", clock.now())
    machine.ahead = 365 * 86400.0
    watch.look()
    assert index.add_step("1.8", ["1.2"], "MOD", clock.now())
    assert [each.state for each in index.steps_of("1.1")] == ["IN PROGRESS"]


def test_a_later_reading_is_the_later_one_whatever_the_clock_says(index: Index) -> None:
    index.add_instance(NewInstance("1.2", "1", "1", "1.1", "1.1", "CR", "", "", "", "A", "f", 1), 1.0)
    with index.transaction():
        for key, created in (("k1", 90_000.0), ("k2", 3_600.0)):
            index.add_reading(NewReading(key, "1.1", "m", "1", "d", created, reading_text()), [])
    assert [each.run_key for each in index.readings_of("1.1")] == ["k1", "k2"]


def test_what_was_confirmed_holds_for_this_start_of_the_machine_and_until_the_clock_is_set(tmp_path: Path) -> None:
    assert "since this machine started" in doubts(tmp_path, 5000.0, never)
    assert doubts(tmp_path, 5000.0, lambda: True) == ""
    confirm(tmp_path, 5000.0)
    assert doubts(tmp_path, 5059.0, never) == ""
    assert doubts(tmp_path, 5061.0, never) == "the clock was set forward by 61.0 s since it was confirmed"
    assert doubts(tmp_path, 5000.0 - 86400.0, never) == "the clock was set back by 24.0 hours since it was confirmed"
    known = json.loads((tmp_path / CLOCK_FILE).read_text())
    for content in ("", "[]", '{"boot": "", "offset": 5000}', json.dumps({**known, "boot": "another"})):
        (tmp_path / CLOCK_FILE).write_text(content)
        assert "since this machine started" in doubts(tmp_path, 5000.0, never)


def test_only_the_user_of_the_node_confirms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NodeError, match="no node has run"):
        confirm(tmp_path / "nowhere", 0.0)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(NodeError, match="belongs to another user"):
        confirm(tmp_path, 0.0)


def test_an_administrator_sees_the_clock_and_confirms_it(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nport = 0\ndata_dir = "{tmp_path}"\n[retention]\ndays = 30\n', encoding="utf-8")

    def asked(*options: str) -> str:
        return CliRunner().invoke(app, ["clock", "--config", str(config), *options]).output

    if not is_synchronised():
        assert "not confirmed: since this machine started" in asked()
        assert [each.verdict for each in points(config) if each.what == "clock"] == ["warn"]
    assert asked("--confirm").splitlines()[-1] == "confirmed"
    assert time.strftime("%Y-%m-%d", time.gmtime()) in asked()
    assert [each for each in points(config) if each.what == "clock"] == []
