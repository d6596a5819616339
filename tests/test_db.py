"""The index: a study's states, jobs claimed once and finished by who holds them, results sent once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.db import Index, Job, NewInstance, NewReading, NewResult
from dicom_node.errors import ConfigError


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.sqlite", create=True)
    yield index
    index.close()


def receive(index: Index, uid: str, *, study: str = "1.1", series: str = "1.1.1", now: float = 10.0) -> int:
    new = NewInstance(uid, "1.2.840.1", "1.2.840.2", study, series, "CR", "CHEST", "Chest", "PA", "MOD", f"f/{uid}", 9)
    return index.add_instance(new, now)


def state(index: Index, study: str = "1.1") -> str:
    return str(index.studies_with_state(study)[0]["state"])


def completed(index: Index, *routes: tuple[str, str]) -> None:
    row = index.studies_with_state("1.1")[0]
    assert index.complete("1.1", row["revision"], row["last_received"], routes, 20.0)


def claimed(index: Index, kind: str = "read", now: float = 30.0) -> Job:
    job = index.claim(kind, None, now, 60.0)  # type: ignore[arg-type]
    assert job is not None
    return job


def read(index: Index, job: Job, key: str = "k1", *results: str, now: float = 40.0) -> None:
    rows = [NewResult(uid, "1.2.840.3", f"{key}.9", n, "sr", f"r/{uid}", 5) for n, uid in enumerate(results)]
    with index.transaction():
        assert index.finish(job, now, run_key=key)
        index.add_reading(NewReading(key, job.study, "m", "1", "d", 1.0, "{}"), rows)
        index.queue_sends(job, key, ["pacs"], now)


def test_the_way_of_a_study(index: Index) -> None:
    assert receive(index, "1.2.1") == 1
    assert state(index) == "receiving"
    completed(index, ("r", "m"))
    assert state(index) == "reading"
    job = claimed(index)
    assert state(index) == "reading"
    read(index, job, "k1", "9.1", "9.2")
    assert state(index) == "delivering"
    for _ in range(2):
        send = claimed(index, "send", 50.0)
        with index.transaction():
            assert index.finish(send, 51.0)
    assert state(index) == "delivered"
    row = index.studies_with_state("1.1")[0]
    assert (row["last_received"], row["completed"], row["read"], row["delivered"]) == (10.0, 20.0, 40.0, 51.0)


def test_no_route_is_an_outcome(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index)
    assert state(index) == "no route"


def test_no_eligible_series_is_an_outcome_with_its_reason(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    with index.transaction():
        index.finish(claimed(index), 31.0, reason="modality CT is not among CR, DX")
    assert state(index) == "no eligible series"
    assert index.studies_with_state("1.1")[0]["reason"] == "modality CT is not among CR, DX"


def test_a_failure_is_an_outcome_and_is_revived(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    index.fail(claimed(index), 31.0, "the model broke")
    assert state(index) == "failed"
    assert index.studies_with_state("1.1")[0]["reason"] == "the model broke"
    assert index.revive("1.2", 40.0) == 0
    assert index.revive("1.1", 40.0) == 1
    assert state(index) == "reading"
    assert claimed(index, now=41.0).attempts == 1


def test_an_instance_that_comes_between_the_look_and_the_completing_stops_it(index: Index) -> None:
    receive(index, "1.2.1", now=10.0)
    receive(index, "1.2.2", now=11.0)
    assert not index.complete("1.1", 1, 10.0, [("r", "m")], 20.0)
    assert state(index) == "receiving"
    assert index.claim("read", None, 30.0, 60.0) is None


def test_a_late_instance_opens_the_next_revision(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    read(index, claimed(index), "k1", "9.1")
    assert receive(index, "1.2.2", now=50.0) == 2
    assert receive(index, "1.2.3", now=51.0) == 2
    assert state(index) == "receiving"
    completed(index, ("r", "m"))
    assert claimed(index, now=60.0).revision == 2


def test_a_reading_that_is_known_sends_nothing_again(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    read(index, claimed(index), "k1", "9.1")
    with index.transaction():
        index.finish(claimed(index, "send", 50.0), 51.0)
    receive(index, "1.2.2", now=60.0)
    completed(index, ("r", "m"))
    job = claimed(index, now=70.0)
    with index.transaction():
        index.finish(job, 71.0, run_key="k1")
        assert index.queue_sends(job, "k1", ["pacs"], 71.0) == 0
    assert state(index) == "delivered"


def test_our_own_results_coming_back_reopen_nothing(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    read(index, claimed(index), "k1", "9.1")
    assert receive(index, "9.1", series="k1.9", now=60.0) == 1
    assert receive(index, "9.7", series="k1.9", now=61.0) == 1
    assert state(index) == "delivering"
    assert [one.sop_instance_uid for one in index.instances_of("1.1")] == ["1.2.1"]
    assert [one.series for one in index.series_of("1.1")] == ["1.1.1"]


def test_a_job_is_claimed_once(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    claimed(index)
    assert index.claim("read", None, 31.0, 60.0) is None


def test_an_expired_lease_is_claimable_and_the_late_worker_changes_nothing(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    late = claimed(index, now=30.0)
    second = claimed(index, now=91.0)
    assert (second.id, second.attempts) == (late.id, 2)
    with index.transaction():
        assert not index.finish(late, 92.0)
    assert not index.fail(late, 92.0, "x")
    assert not index.retry_later(late, 92.0, "x")
    with index.transaction():
        assert index.finish(second, 93.0)


def test_jobs_of_one_destination_do_not_wait_for_another(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    job = claimed(index)
    with index.transaction():
        index.finish(job, 40.0, run_key="k")
        index.add_reading(
            NewReading("k", "1.1", "m", "1", "d", 1.0, "{}"), [NewResult("9.1", "1.2", "9", 0, "sr", "r/1", 5)]
        )
        index.queue_sends(job, "k", ["slow", "fast"], 40.0)
    assert index.claim("send", "fast", 41.0, 60.0) is not None
    assert index.next_due("send", "fast") is None
    assert index.next_due("send", "slow") == 40.0


def test_what_a_dead_node_was_doing_is_queued_again(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    claimed(index)
    assert index.requeue_running(32.0) == 1
    assert claimed(index, now=33.0).attempts == 2


def test_a_transaction_is_kept_whole_or_not_at_all(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    job = claimed(index)
    with pytest.raises(ZeroDivisionError), index.transaction():
        index.finish(job, 40.0, run_key="k")
        raise ZeroDivisionError
    assert state(index) == "reading"
    with index.transaction():
        assert index.finish(job, 41.0), "the job is still held by its worker"


def test_another_process_sees_and_writes(index: Index, tmp_path: Path) -> None:
    receive(index, "1.2.1")
    other = Index(tmp_path / "index.sqlite")
    assert state(other) == "receiving"
    completed(other, ("r", "m"))
    assert claimed(index).target == "m"
    other.close()


def test_an_index_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.sqlite"):
        Index(tmp_path / "none.sqlite")
    (tmp_path / "broken.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Index(tmp_path / "broken.sqlite", create=True)


def test_commits_are_durable(index: Index) -> None:
    conn: sqlite3.Connection = index._db.conn
    assert conn.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
