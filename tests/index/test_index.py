"""The index: a study's states, jobs claimed once and finished by who holds them, results sent once."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from dicom_node.errors import ConfigError
from dicom_node.index import migrations
from dicom_node.index.index import Index
from dicom_node.index.migrations import SCHEMA, m001_to_m007
from dicom_node.index.rows import Job, NewInstance, NewReading, NewResult, Outcome
from tests.support.samples import reading_text


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.sqlite", create=True)
    yield index
    index.close()


def receive(index: Index, uid: str, *, study: str = "1.1", series: str = "1.1.1", now: float = 10.0) -> int:
    new = NewInstance(uid, "1.2.840.1", "1.2.840.2", study, series, "CR", "CHEST", "Chest", "PA", "MOD", f"f/{uid}", 9)
    return index.add_instance(new, now)


def state(index: Index, study: str = "1.1") -> str:
    return str(index.studies_with_state(study)[0].state)


def completed(index: Index, *routes: tuple[str, str]) -> None:
    row = index.studies_with_state("1.1")[0]
    assert index.complete("1.1", row.revision, row.last_received, routes, 20.0)


def claimed(index: Index, kind: str = "read", now: float = 30.0) -> Job:
    job = index.claim(kind, None, now, 60.0)  # type: ignore[arg-type]
    assert job is not None
    return job


def read(index: Index, job: Job, key: str = "k1", *results: str, now: float = 40.0) -> None:
    rows = [NewResult(uid, "1.2.840.3", f"{key}.9", n, "sr", f"r/{uid}", 5, "p") for n, uid in enumerate(results)]
    with index.transaction():
        assert index.finish(job, now, run_key=key)
        index.add_reading(NewReading(key, job.study, "m", "1", "d", 1.0, reading_text()), rows)
        index.queue_sends(job, key, [("pacs", "p")], now)


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
    assert (row.last_received, row.completed, row.read, row.delivered) == (10.0, 20.0, 40.0, 51.0)


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
    assert index.studies_with_state("1.1")[0].reason == "modality CT is not among CR, DX"


def test_a_failure_is_an_outcome_and_is_revived(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    index.fail(claimed(index), 31.0, "the model broke")
    assert state(index) == "failed"
    assert index.studies_with_state("1.1")[0].reason == "the model broke"
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
        assert index.queue_sends(job, "k1", [("pacs", "p")], 71.0) == 0
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
            NewReading("k", "1.1", "m", "1", "d", 1.0, reading_text()),
            [NewResult("9.1", "1.2", "9", 0, "sr", "r/1", 5, "p")],
        )
        index.queue_sends(job, "k", [("slow", "p"), ("fast", "p")], 40.0)
    assert index.claim("send", "fast", 41.0, 60.0) is not None
    assert index.next_due("send", "fast") is None
    assert index.next_due("send", "slow") == 40.0


def test_what_a_dead_node_was_doing_is_queued_again(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    claimed(index)
    assert index.requeue_running(32.0) == 1
    again = claimed(index, now=33.0)
    assert (again.attempts, again.deaths) == (1, 1)


def test_results_go_to_the_destinations_that_they_were_made_for(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    job = claimed(index)
    rows = [NewResult(uid, "1.2", "9", 0, "sr", f"r/{uid}", 5, uid) for uid in ("a", "b", "")]
    with index.transaction():
        index.finish(job, 40.0, run_key="k")
        index.add_reading(NewReading("k", "1.1", "m", "1", "d", 1.0, reading_text()), rows)
        assert index.queue_sends(job, "k", [("one", "a"), ("two", "a"), ("three", "b")], 40.0) == 6
    # What was made before there were profiles has none, and goes to every destination.
    sent = {(j.subject, j.target) for j in index.jobs_of("1.1") if j.kind == "send"}
    assert sent == {("a", "one"), ("a", "two"), ("b", "three"), ("", "one"), ("", "two"), ("", "three")}


def test_the_latest_report_is_one_that_a_destination_has(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    job = claimed(index)
    assert index.latest_report("1.1", "m", ["pacs"]) is None
    for number, key in enumerate(("k1", "k2", "k3", "k4")):
        with index.transaction():
            row = NewResult(f"9.{key}", "1.2", f"8.{key}", 0, "sr", f"r/{key}", 5, "p")
            index.add_reading(NewReading(key, "1.1", "m", "1", "d", float(number), reading_text()), [row])
            index.queue_sends(job, key, [("pacs", "p")], 40.0 + number)
    assert index.latest_report("1.1", "m", ["pacs"]) is None  # all wait

    def finish(reason: str = "", outcome: Outcome = "sent") -> None:
        send = claimed(index, "send", 50.0)
        with index.transaction():
            assert index.finish(send, 51.0, outcome=outcome, reason=reason)

    finish()
    latest = index.latest_report("1.1", "m", ["pacs", "other"])
    assert latest is not None
    assert (latest.sop_instance_uid, latest.series, latest.created) == ("9.k1", "8.k1", 0.0)
    finish("not taken: it does not take reports", "not taken")
    finish("stored with warning B000")
    claimed(index, "send", 60.0)  # on its way: it may arrive
    latest = index.latest_report("1.1", "m", ["pacs"])
    assert latest is not None
    assert latest.sop_instance_uid == "9.k4"
    assert index.latest_report("1.1", "m", ["other"]) is None
    assert index.latest_report("1.1", "x", ["pacs"]) is None


def test_a_study_says_what_a_destination_did_not_take(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    read(index, claimed(index), "k1", "9.1", "9.2", "9.3")
    for reason in ("not taken: pacs does not take SEG", "", "not taken: pacs does not take KOS"):
        send = claimed(index, "send", 50.0)
        with index.transaction():
            index.finish(send, 51.0, outcome="not taken" if reason else None, reason=reason)
    (row,) = index.studies_with_state("1.1")
    assert row.state == "delivered"
    assert sorted(row.not_taken) == ["not taken: pacs does not take KOS", "not taken: pacs does not take SEG"]
    assert index.revive("1.1", 60.0) == 2  # the PACS may have been set up for them since
    assert state(index) == "delivering"


def test_the_report_of_a_failure_is_sent_and_the_study_stays_failed(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    job = claimed(index)
    row = NewResult("9.1", "1.2", "9", 0, "sr", "r/1", 5, "p")
    with index.transaction():
        assert index.fail(job, 40.0, "the model broke", run_key="f")
        index.add_reading(NewReading("f", "1.1", "m", "1", "d", 1.0, reading_text()), [row])
        index.queue_sends(job, "f", [("pacs", "p")], 40.0)
    assert state(index) == "failed"  # also while its report is on its way
    send = claimed(index, "send", 50.0)
    with index.transaction():
        index.finish(send, 51.0)
    assert (state(index), index.studies_with_state("1.1")[0].reason) == ("failed", "the model broke")


def test_the_report_of_a_failure_is_called_off_once_the_study_is_read(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    job = claimed(index)
    with index.transaction():
        index.fail(job, 40.0, "the model broke", run_key="f")
        row = NewResult("9.1", "1.2", "9", 0, "sr", "r/1", 5, "p")
        index.add_reading(NewReading("f", "1.1", "m", "1", "d", 1.0, reading_text()), [row])
        index.queue_sends(job, "f", [("pacs", "p")], 40.0)
    assert index.revive("1.1", 41.0) == 1
    again = claimed(index, now=42.0)
    with index.transaction():
        index.finish(again, 43.0, run_key="k")
        index.add_reading(
            NewReading("k", "1.1", "m", "1", "d", 1.0, reading_text()),
            [NewResult("9.2", "1.2", "9", 0, "sr", "r/2", 5, "p")],
        )
        assert index.supersede(again, "k", [("pacs", "p")], 43.0) == 1
        index.queue_sends(again, "k", [("pacs", "p")], 43.0)
    assert claimed(index, "send", 50.0).subject == "9.2"


def test_what_is_called_off_while_it_is_sent_is_not_sent_again(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    read(index, claimed(index), "k1", "9.1", "9.2", "9.3")
    arriving, failing, running = (claimed(index, "send", 41.0) for _ in range(3))
    receive(index, "1.2.2", now=50.0)
    completed(index, ("r", "m"))
    job = claimed(index, now=60.0)
    with index.transaction():
        index.finish(job, 61.0, run_key="k2")
        index.add_reading(NewReading("k2", "1.1", "m", "1", "d", 1.0, reading_text()), [])
        assert index.supersede(job, "k2", [("pacs", "p")], 61.0) == 3
    with index.transaction():
        assert index.finish(arriving, 62.0)
    assert index.retry_later(failing, 62.0, "time-out")
    index.requeue_running(63.0)  # the node ended while it sent the third
    told = {j.subject: (j.state, j.reason) for j in index.jobs_of("1.1") if j.kind == "send"}
    off = ("done", "not sent: superseded by revision 2")
    assert told == {arriving.subject: ("done", ""), failing.subject: off, running.subject: off}


def test_results_of_settings_that_a_destination_no_longer_has_are_called_off(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    read(index, claimed(index), "k", "9.1")
    receive(index, "1.2.2", now=50.0)
    completed(index, ("r", "m"))
    job = claimed(index, now=60.0)
    with index.transaction():
        index.finish(job, 61.0, run_key="k")
        row = NewResult("9.2", "1.2", "9", 0, "sr", "r/2", 5, "q")
        index.add_reading(NewReading("k", "1.1", "m", "1", "d", 1.0, reading_text()), [row])
        assert index.supersede(job, "k", [("pacs", "q")], 61.0) == 1
        assert index.queue_sends(job, "k", [("pacs", "q")], 61.0) == 1
    assert index.known_runs("1.1") == {"k": frozenset({"p", "q"})}
    assert claimed(index, "send", 62.0).subject == "9.2"
    # The settings are put back: what was called off is wanted again, and the other no longer.
    with index.transaction():
        assert index.supersede(job, "k", [("pacs", "p")], 63.0) == 1
        assert index.queue_sends(job, "k", [("pacs", "p")], 63.0) == 1
    assert claimed(index, "send", 64.0).subject == "9.1"


def test_a_study_that_was_read_but_led_to_nothing_was_eligible(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    read(index, claimed(index), "k")
    assert state(index) == "delivered"


def test_an_index_from_before_there_were_profiles_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    old = Database(path)
    SCHEMA.apply(old, stop_before="m002_profiles")
    assert "profile" not in old["results"].columns_dict
    old.close()
    index = Index(path, create=True)
    assert "profile" in index._db["results"].columns_dict
    index.close()


def before_m004(path: Path) -> dict[str, list[dict[str, object]]]:
    """An index of the version before, with a job in every state; returns all rows."""
    old = Database(path)
    SCHEMA.apply(old, stop_before="m004_indexes")
    old["studies"].insert_all({"study": f"1.{n}", "first_received": 1.0, "last_received": 2.0} for n in range(50))
    old["instances"].insert_all(
        {"sop_instance_uid": f"1.{n}.{m}", "sop_class_uid": "1", "transfer_syntax_uid": "2", "study": f"1.{n}",
         "series": f"1.{n}.0", "calling_ae": "A", "own": 0, "file": f"f/{n}/{m}", "bytes": 1, "received": 2.0}
        for n in range(50) for m in range(20)
    )  # fmt: skip
    old["readings"].insert_all(
        {"run_key": f"k{n}", "study": f"1.{n}", "model": "m", "version": "1", "digest": "d", "created": 3.0,
         "reading": json.dumps({"n": n})}
        for n in range(50)
    )  # fmt: skip
    old["results"].insert_all(
        {"sop_instance_uid": f"9.{n}", "sop_class_uid": "1", "series": "9", "run_key": f"k{n}", "position": 0,
         "role": "sr", "file": f"r/{n}", "bytes": 5, "profile": "p"}
        for n in range(50)
    )  # fmt: skip
    states = ("done", "failed", "queued", "running")
    old["jobs"].insert_all(
        {"id": 1000 - 3 * n - at, "kind": kind, "subject": subject, "study": f"1.{n}", "revision": 1, "route": "r",
         "target": target, "state": states[n % 4], "attempts": n, "due": float(n), "created": 3.0, "run_key": f"k{n}",
         "reason": "why", "lease_until": 60.0 if n % 4 == 3 else None}
        for n in range(50)
        for at, (kind, subject, target) in enumerate(
            (("read", f"1.{n}/1", "m"), ("send", f"9.{n}", "pacs"), ("send", f"9.{n}", "archive"))
        )
    )  # fmt: skip
    rows = {table: list(old[table].rows) for table in ("studies", "instances", "readings", "results", "jobs")}
    old.close()
    return rows


def test_an_index_with_other_indexes_is_upgraded_and_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    before = before_m004(path)
    with pytest.raises(ConfigError, match="was made by an earlier version; start the node once"):
        Index(path)
    Index(path, create=True).close()
    new = Database(path)
    for table, rows in before.items():  # later versions have columns more
        there = [{name: row[name] for name in rows[0]} for row in new[table].rows]
        assert sorted(there, key=repr) == sorted(rows, key=repr)
    names = {each.name for each in new["jobs"].indexes if not each.name.startswith("sqlite_")}
    assert names == {"jobs_to_claim", "jobs_to_claim_for", "jobs_running"}
    assert "readings_by_study" in {each.name for each in new["readings"].indexes}
    assert next(new.query("PRAGMA integrity_check")) == {"integrity_check": "ok"}
    assert list(new.query("PRAGMA foreign_key_check")) == []
    new.close()
    index = Index(path)
    assert index.known_runs("1.7") == {"k7": frozenset({"p"})}
    assert [job.id for job in index.jobs_of("1.7")] == [977, 978, 979]
    assert index.claim("read", None, 30.0, 60.0).study == "1.2"  # type: ignore[union-attr]
    assert index.claim("send", "archive", 30.0, 60.0).id == 1000 - 3 * 2 - 2  # type: ignore[union-attr]
    assert index.requeue_running(30.0) == 12 * 3 + 2
    index.close()


def test_an_upgrade_that_fails_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.sqlite"
    before = before_m004(path)
    with monkeypatch.context() as broken:
        broken.setattr(m001_to_m007, "_M004", (*m001_to_m007._M004, "INSERT INTO nowhere VALUES (1)"))
        with pytest.raises(ConfigError, match="cannot be opened"):
            Index(path, create=True)
    old = Database(path)
    assert {table: list(old[table].rows) for table in before} == before
    assert {each.name for each in old["jobs"].indexes} >= {"jobs_to_claim", "jobs_by_study", "jobs_by_run", "jobs_open"}
    old.close()
    Index(path, create=True).close()


def test_an_upgrade_over_several_versions_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.sqlite"
    old = Database(path)
    SCHEMA.apply(old, stop_before="m002_profiles")
    before = old.schema
    old.close()
    with monkeypatch.context() as broken:
        broken.setattr(m001_to_m007, "_M004", (*m001_to_m007._M004, "INSERT INTO nowhere VALUES (1)"))
        with pytest.raises(ConfigError, match="cannot be opened"):
            Index(path, create=True)
    old = Database(path)
    assert old.schema == before
    assert [each.name for each in SCHEMA.applied(old)] == ["m001_first"]
    old.close()
    Index(path, create=True).close()


@pytest.mark.parametrize("version", sorted(migrations.MIGRATIONS))
def test_an_index_of_every_version_there_was_is_brought_up_to_date(tmp_path: Path, version: str) -> None:
    path = tmp_path / "index.sqlite"
    with closing(sqlite3.connect(path)) as old:  # as that version made it: the files in indexes/ are never edited
        old.executescript((Path(__file__).parent / "indexes" / f"{version}.sql").read_text(encoding="utf-8"))
    index = Index(path, create=True)
    states = {row.study: (row.state, row.instances) for row in index.studies_with_state()}
    assert states == {"1.1": ("delivering", 1), "1.2": ("receiving", 1)}
    assert [(job.kind, job.target, job.state) for job in index.jobs_of("1.1")] == [
        ("read", "m", "done"),
        ("send", "pacs", "done"),
        ("send", "archive", "queued"),
    ]
    assert index.received("1.1.1.1") is not None
    job = index.claim("send", "archive", 10.0, 60.0)
    assert job is not None
    assert index.result(job.subject) is not None
    with index.transaction():
        assert index.finish(job, 11.0)
    assert {row.study: row.state for row in index.studies_with_state()}["1.1"] == "delivered"
    index.close()
    with closing(sqlite3.connect(path)) as new, closing(sqlite3.connect(":memory:")) as fresh:
        SCHEMA.apply(Database(fresh))
        shapes = [
            sorted(conn.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
            for conn in (new, fresh)
        ]
        assert shapes[0] == shapes[1]
        assert new.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert new.execute("PRAGMA foreign_key_check").fetchall() == []


# How each job ended, as the version before outcomes wrote it: kind, state, reason, whether it has a run key.
ENDINGS = {
    ("read", "done", "", True): "read",
    ("read", "done", "a remark on the images", True): "read",
    ("shadow", "done", "", True): "read",
    ("read", "done", "modality CT is not among CR, DX", False): "nothing to read",
    ("read", "done", "not read: superseded by revision 2", False): "superseded",
    ("read", "failed", "the model broke", False): "failed",
    ("read", "running", "", False): "",
    ("send", "done", "", True): "sent",
    ("send", "done", "stored with warning B000", True): "sent",
    ("send", "done", "not taken: pacs does not take SEG", True): "not taken",
    ("send", "done", "not sent: superseded by revision 2", True): "superseded",
    ("send", "running", "not sent: superseded by revision 2", True): "superseded",
    ("send", "queued", "no connection", True): "",
    ("commit", "done", "", True): "committed",
    ("commit", "done", "nothing is stored there", True): "nothing to commit",
    ("commit", "done", "commitment = false for this destination now", True): "waived",
    ("commit", "done", "not sent: superseded by revision 2", True): "superseded",
    ("promise", "done", "", False): "answered",
}


def test_the_outcome_of_every_job_of_the_version_before_is_known(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    old = Database(path)
    SCHEMA.apply(old, stop_before="m009_outcomes")
    old["studies"].insert({"study": "1.1", "first_received": 1.0, "last_received": 2.0})
    common = {"study": "1.1", "revision": 1, "route": "r", "target": "t", "due": 4.0, "created": 3.0}
    for number, (kind, state_, reason, run) in enumerate(ENDINGS, start=1):
        ended = {"kind": kind, "state": state_, "reason": reason, "run_key": "k" if run else None}
        old["jobs"].insert({**common, **ended, "id": number, "subject": str(number)})
    old.close()
    index = Index(path, create=True)
    found = {(job.kind, job.state, job.reason, job.run_key is not None): job.outcome for job in index.jobs_of("1.1")}
    index.close()
    assert found == ENDINGS


def test_an_index_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    Index(path, create=True).close()
    later = Database(path)
    assert {each.name for each in SCHEMA.applied(later)} == migrations.MIGRATIONS
    later["_sqlite_migrations"].insert({"migration_set": "dicom_node", "name": "m999_later", "applied_at": "2030"})
    later.close()
    content = path.read_bytes()
    for create in (True, False):
        with pytest.raises(ConfigError, match=r"was made by a newer version of dicom-node \(m999_later\)"):
            Index(path, create=create)
    assert path.read_bytes() == content


def test_what_is_asked_all_the_time_looks_through_no_table(index: Index) -> None:
    # SQLite has no statistics of this index: what it plans for an empty one, it plans for a full one.
    asked: list[str] = []
    conn = index._db.conn
    conn.set_trace_callback(asked.append)
    for number in range(2):
        receive(index, f"1.2.{number}")
    (study,) = index.open_studies()
    assert index.received("1.2.1") is not None
    index.replace_file("1.1", "1.2.1", "f", 1, "1.2", now=20.0)
    index.series_of("1.1")
    index.instances_of("1.1")
    index.removed_from("1.1")
    index.complete("1.1", study.revision, study.last_received, [("r", "m")], 20.0, shadows=[("r", "n")])
    assert index.claim("shadow", None, 30.0, 60.0) is None
    for kind, target in (("read", None), ("shadow", None), ("send", "pacs")):
        index.next_due(kind, target)  # type: ignore[arg-type]
        index.fail_unknown(kind, ["m", "n", "pacs"], "gone", 30.0)  # type: ignore[arg-type]
    assert index.knows("1.1")
    assert index.studies_waiting(1) == 1
    index.requeue_running(25.0)
    job = claimed(index)
    index.revision("1.1")
    index.known_runs("1.1")
    index.latest_report("1.1", "m", ["pacs", "archive"])
    row = NewResult("9.1", "1.2", "9", 0, "sr", "r/1", 5, "p")
    with index.transaction():
        index.finish(job, 40.0, run_key="k")
        index.add_reading(NewReading("k", "1.1", "m", "1", "d", 1.0, reading_text()), [row])
        index.supersede(job, "k", [("pacs", "p")], 40.0)
        index.queue_sends(job, "k", [("pacs", "p")], 40.0)
    for _ in range(2):
        send = index.claim("send", "pacs", 50.0, 60.0)
        assert send is not None
        index.retry_later(send, 50.0, "time-out")
    send = claimed(index, "send", 50.0)
    index.give_back(send, 50.0)
    index.fail(claimed(index, "send", 51.0), 52.0, "A900")
    index.classes_sent("k", "pacs")
    index.result("9.1")
    assert len(index.studies_with_state()) == len(index.studies_with_state("1.1")) == 1
    index.jobs_of("1.1")
    index.readings_of("1.1")
    index.revive("1.1", 60.0)
    assert [row.study for row in index.old_studies(99.0, (1.0, ""), 20)] == ["1.1"]
    conn.set_trace_callback(None)
    while (job := index.claim("send", None, 99.0, 60.0)) is not None:
        index.finish(job, 61.0)
    conn.execute("UPDATE jobs SET state = 'done' WHERE state = 'queued'")
    conn.set_trace_callback(asked.append)
    assert index.remove_files("1.1", 1, 99.0, 99.0)
    assert index.leftover() == ["1.1"]
    assert index.removed_files("1.1") == (["1.2.0", "1.2.1"], ["r/1"])
    index.nothing_left("1.1")
    conn.set_trace_callback(None)

    small = {
        "SCAN studies USING INDEX studies_open",
        "SCAN jobs USING INDEX jobs_running",
        "SCAN studies USING INDEX studies_leftover",
    }
    listed = {"SCAN studies USING INDEX studies_by_time", "SCAN l", "SCAN reads", "SCAN r", "SCAN work"}
    statements = [sql for sql in asked if re.match(r"\s*(SELECT|INSERT|UPDATE|WITH)\b", sql)]
    assert len(statements) > 40
    for sql in statements:
        steps = [str(row["detail"]) for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}")]
        scans = {step for step in steps if step.startswith("SCAN") and not step.startswith(("SCAN (", "SCAN told"))}
        assert scans <= small | (listed if sql.lstrip().startswith("WITH") else set()), sql


def test_the_oldest_due_job_is_claimed_first_be_it_queued_or_expired(index: Index) -> None:
    for number, due in enumerate((12.0, 11.0, 13.0, 11.0)):
        receive(index, f"1.2.{number}", study=f"1.{number}")
        assert index.complete(f"1.{number}", 1, 10.0, [("r", "m")], due)

    def next_study(now: float) -> str | None:
        job = index.claim("read", None, now, 5.0)
        return None if job is None else job.study

    assert next_study(10.5) is None
    assert [next_study(11.0), next_study(11.5), next_study(11.9)] == ["1.1", "1.3", None]
    assert next_study(16.2) == "1.1", "its lease is over, and it was due before those that are queued"
    assert [next_study(16.3), next_study(16.35), next_study(16.4)] == ["1.0", "1.2", None]
    assert next_study(16.6) == "1.3"
    assert next_study(16.7) is None


def test_an_instance_that_was_received_earlier_makes_a_study_no_older(index: Index) -> None:
    for number, now in enumerate((10.0, 20.0, 15.0)):
        assert receive(index, f"1.2.{number}", now=now) == 1
    (study,) = index.open_studies()
    assert study.last_received == 20.0
    completed(index, ("r", "m"))
    assert receive(index, "1.2.9", now=12.0) == 2
    row = index.studies_with_state("1.1")[0]
    assert (row.last_received, row.first_received, row.completed, row.routes) == (20.0, 10.0, None, ())


def test_a_job_cut_off_by_the_nodes_end_keeps_its_attempts(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    assert index.give_back(claimed(index), 31.0)
    assert claimed(index, now=32.0).attempts == 1


def test_a_job_for_what_left_the_configuration_fails(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    assert index.fail_unknown("read", ["m", "x"], "gone", 30.0) == 0
    assert index.fail_unknown("read", [], "gone", 30.0) == 1
    assert (state(index), index.studies_with_state("1.1")[0].reason) == ("failed", "gone")


def test_an_older_report_is_not_sent_after_a_newer_one(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"))
    read(index, claimed(index), "k1", "9.1", "9.2")
    refused = claimed(index, "send", 41.0)
    index.fail(refused, 42.0, "A900")
    receive(index, "1.2.2", now=50.0)
    completed(index, ("r", "m"))
    job = claimed(index, now=60.0)
    with index.transaction():
        index.finish(job, 61.0, run_key="k2")
        index.add_reading(
            NewReading("k2", "1.1", "m", "1", "d", 1.0, reading_text()),
            [NewResult("9.3", "1.2", "9", 0, "sr", "r/3", 5, "p")],
        )
        assert index.supersede(job, "k2", [("pacs", "p")], 61.0) == 2
        index.queue_sends(job, "k2", [("pacs", "p")], 61.0)
    assert index.revive(None, 70.0) == 0
    assert claimed(index, "send", 71.0).subject == "9.3"
    assert index.claim("send", None, 72.0, 60.0) is None


def test_a_series_whose_instances_differ_is_found_by_any_of_them(index: Index) -> None:
    for number, part in enumerate(("PELVIS", "CHEST", "CHEST")):
        new = NewInstance(f"1.2.{number}", "1", "1", "1.1", "1.1.1", "DX", part, "", "", "A", "f", 1)
        index.add_instance(new, 10.0)
    assert [one.body_part for one in index.series_of("1.1")] == ["CHEST", "PELVIS"]


def test_an_installation_keeps_its_identity(index: Index, tmp_path: Path) -> None:
    assert index.node_id() == index.node_id()
    other = Index(tmp_path / "other.sqlite", create=True)
    assert other.node_id() != index.node_id()
    other.close()


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


def test_of_one_study_no_two_jobs_are_read_at_a_time(index: Index) -> None:
    receive(index, "1.2.1")
    completed(index, ("r", "m"), ("r", "n"))
    receive(index, "1.3.1", study="1.3", series="1.3.9", now=12.0)
    other = index.studies_with_state("1.3")[0]
    assert index.complete("1.3", other.revision, other.last_received, [("r", "m")], 21.0)
    first, second = claimed(index), claimed(index)
    assert (first.study, first.target, second.study) == ("1.1", "m", "1.3")
    assert index.claim("read", None, 30.0, 60.0) is None
    assert index.next_due("read", None) is None, "a worker would look again and again for what it may not take"
    with index.transaction():
        assert index.finish(first, 31.0)
    third = claimed(index, now=32.0)
    assert (third.study, third.target) == ("1.1", "n")
    assert claimed(index, now=32.0 + 61.0).study in ("1.1", "1.3"), "an expired lease is claimable all the same"


def test_what_the_version_before_knew_of_corrections_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript((Path(__file__).parent / "indexes" / "m011_accepted.sql").read_text(encoding="utf-8"))
        old.execute("UPDATE instances SET edition = 3, file = 'f-3' WHERE sop_instance_uid = '1.1.1.1'")
        old.executemany("INSERT INTO corrections VALUES ('1.1.1.1', ?, ?)", [(2, 1), (3, 0)])
        old.commit()
    index = Index(path, create=True)
    found = index.received("1.1.1.1", "1.1")
    assert found is not None
    assert (found.edition, found.meaning, found.studies_before, found.file) == (3, 3, 0, "f-3")
    assert index.first_sender("1.1", "1.1.1.1").peer is None, "nobody recorded it"
    rows = index._rows("SELECT study, sop_instance_uid, edition, change FROM corrections ORDER BY edition")
    assert [tuple(row) for row in rows] == [("1.1", "1.1.1.1", 2, "safety"), ("1.1", "1.1.1.1", 3, "quality")]
    index.close()


def test_an_instance_is_known_by_its_study_and_each_study_has_its_own(index: Index) -> None:
    receive(index, "1.2.1")
    with pytest.raises(sqlite3.IntegrityError):
        receive(index, "1.2.1", study="1.5")
    new = NewInstance("1.2.1", "1", "2", "1.5", "1.5.1", "CR", "", "", "", "MOD", "f/other", 9)
    index.add_to_another_study(new, index.studies_of("1.2.1"), 11.0)
    assert index.studies_of("1.2.1") == ["1.1", "1.5"]
    assert [index.received("1.2.1", study).file for study in ("1.1", "1.5")] == ["f/1.2.1", "f/other"]  # type: ignore[union-attr]
    assert index.received("1.2.1", "1.9") is None
    assert [each.file for each in index.instances_of("1.5")] == ["f/other"]
    (found,) = index.contradictions("1.1")
    assert (found.study, found.other_study, found.instances) == ("1.5", "1.1", 1)
    assert index.contradictions("1.5") == [found]
    index.correct_instance(new, 2, 12.0, change="quality")
    assert [index.received("1.2.1", study).edition for study in ("1.1", "1.5")] == [1, 2]  # type: ignore[union-attr]
    index.end_contradiction(found.id)
    assert index.contradictions() == []
    with pytest.raises(LookupError):
        index.accept_contradiction(found.id, "f", 3, 13.0)
