"""The worker: effects and done together, retries with backoff, an end that is visible."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from dicom_node.errors import Hindered, Permanent, Retryable
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, JobRow, NewInstance
from dicom_node.jobs.patience import Patience
from dicom_node.jobs.worker import Done, Worker
from tests.support.waiting import wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.sqlite", create=True)
    index.add_instance(NewInstance("1.2", "1", "1", "1", "1.1", "CR", "", "", "", "A", "f", 1), 1.0)
    index.complete("1", 1, 1.0, [("r", "m")], 2.0)
    yield index
    index.close()


def worker(index: Index, do: Callable[[Job], Done], clock: Clock, patience: Patience) -> Worker:
    return Worker(index, "read", do, patience=patience, lease_seconds=60.0, clock=clock)


def job(index: Index) -> JobRow:
    return index.jobs_of("1")[0]


def raising(error: Exception) -> Callable[[Job], Done]:
    def do(_job: Job) -> Done:
        raise error

    return do


def test_effects_and_done_are_one_transaction(index: Index) -> None:
    clock, after = Clock(), []

    def effects() -> None:
        index._run("UPDATE studies SET routes = '[\"touched\"]'")
        raise RuntimeError("the disk broke")

    good = worker(index, lambda _: Done(effects=effects, then=lambda: after.append(1)), clock, Patience(3, None))
    assert good.work_once()
    assert job(index).state == "queued"
    assert index.studies_with_state("1")[0].routes == ("r",)
    assert not after


def test_a_worker_that_is_not_wanted_leaves_the_jobs_to_others(index: Index) -> None:
    wanted: list[bool] = []
    spare = Worker(
        index,
        "read",
        lambda _: Done(),
        patience=Patience(3, None),
        lease_seconds=60.0,
        when=lambda: bool(wanted),
        clock=Clock(),
    )
    assert not spare.work_once()
    assert job(index).state == "queued"
    wanted.append(True)
    assert spare.work_once()
    assert job(index).state == "done"


def test_then_runs_after_the_commit(index: Index) -> None:
    seen: list[object] = []
    done = Done(reason="fine", then=lambda: seen.append(job(index).state))
    worker(index, lambda _: done, Clock(), Patience(3, None)).work_once()
    assert seen == ["done"]
    assert job(index).reason == "fine"


def test_a_retryable_error_waits_longer_each_time_and_then_fails(index: Index) -> None:
    clock = Clock()
    patience = Patience(4, None, first_delay=1.0, longest_delay=3.0)
    tried = worker(index, raising(Retryable("the PACS is down")), clock, patience)
    delays = []
    for _ in range(3):
        assert tried.work_once()
        assert not tried.work_once(), "it is not due yet"
        delays.append(job(index).due - clock.now)
        clock.now += delays[-1]
    assert 0.8 <= delays[0] <= 1.2
    assert 1.6 <= delays[1] <= 2.4
    assert 2.4 <= delays[2] <= 3.6
    tried.work_once()
    assert (job(index).state, job(index).attempts) == ("failed", 4)
    assert job(index).reason == "the PACS is down (given up after 4 attempts)"


def test_time_is_an_end_too(index: Index) -> None:
    clock = Clock()
    tried = worker(index, raising(Retryable("down")), clock, Patience(None, 3600.0))
    clock.now = 2.0 + 3599
    tried.work_once()
    assert job(index).state == "queued"
    clock.now += 100
    tried.work_once()
    assert job(index).state == "failed"


def test_a_permanent_error_fails_at_once(index: Index) -> None:
    worker(index, raising(Permanent("refused for good")), Clock(), Patience(9, None)).work_once()
    assert (job(index).state, job(index).attempts) == ("failed", 1)


def test_an_unexpected_error_is_retried_and_told_without_its_message(index: Index) -> None:
    worker(index, raising(KeyError("HONG^GILDONG")), Clock(), Patience(3, None)).work_once()
    assert job(index).state == "queued"
    assert "KeyError in do" in job(index).reason
    assert "HONG" not in job(index).reason


def test_a_worker_that_comes_late_changes_nothing(index: Index) -> None:
    clock = Clock()
    effects: list[str] = []

    def slow(_job: Job) -> Done:
        clock.now += 61.0
        assert index.claim("read", None, clock.now, 60.0) is not None  # somebody else takes it over
        return Done(effects=lambda: effects.append("late"))

    worker(index, slow, clock, Patience(3, None)).work_once()
    assert job(index).state == "running"
    assert not effects


def test_a_stopping_worker_gives_its_job_back(index: Index) -> None:
    clock = Clock()
    patience = Patience(1, None)
    stopped: Worker

    def cut_off(_job: Job) -> Done:
        stopped.ask_to_stop()
        raise Retryable("the reading process is shutting down")

    stopped = worker(index, cut_off, clock, patience)
    stopped.work_once()
    assert (job(index).state, job(index).due) == ("queued", clock.now)
    assert job(index).attempts == 0


def test_the_thread_lives_through_an_error_of_what_it_does_when_idle(index: Index) -> None:
    calls: list[int] = []

    def idle() -> None:
        calls.append(1)
        raise RuntimeError("the association broke while it was released")

    busy = Worker(index, "send", lambda _: Done(), patience=Patience(1, None), lease_seconds=1.0, idle=idle)
    busy.start()
    wait_until(lambda: calls, "the idle call")
    busy.wake()
    wait_until(lambda: len(calls) >= 2, "the next one")
    assert busy.alive
    busy.ask_to_stop()
    busy.join()


def dies(_job: Job) -> Done:
    raise KeyboardInterrupt  # the node goes in the middle of it


def test_a_death_of_the_node_is_no_attempt_and_puts_the_job_behind_the_others(index: Index) -> None:
    clock, done = Clock(), []
    for _ in range(9):  # more deaths than attempts
        with pytest.raises(KeyboardInterrupt):
            worker(index, dies, clock, Patience(3, None)).work_once()
        index.requeue_running(clock())
        clock.now = job(index).due
    index.add_instance(NewInstance("2.2", "1", "1", "2", "2.1", "CR", "", "", "", "A", "g", 1), clock.now)
    index.complete("2", 1, clock.now, [("r", "m")], clock.now - 0.1)

    def do(one: Job) -> Done:
        done.append((one.study, one.attempts, one.deaths))
        if one.study == "1":
            raise Retryable("the reading process died")
        return Done()

    after = worker(index, do, clock, Patience(3, None))
    for _ in range(4):
        assert after.work_once()
        clock.now += 10.0
    assert done == [("2", 1, 0), ("1", 1, 9), ("1", 2, 9), ("1", 3, 9)]
    assert job(index).reason == "the reading process died (given up after 3 attempts)"


def test_what_ended_the_node_each_time_comes_later_each_time_and_is_not_begun_for_ever(index: Index) -> None:
    clock, waited = Clock(), []
    while len(waited) < 10:
        with pytest.raises(KeyboardInterrupt):
            worker(index, dies, clock, Patience(3, None)).work_once()
        index.requeue_running(clock())
        waited.append(job(index).due - clock.now)
        clock.now += waited[-1]
    for given, wanted in zip(waited, [0, 2, 6, 14, 30, 60, 60, 60, 60, 60], strict=True):
        assert 0.8 * wanted <= given <= 1.2 * wanted
    assert worker(index, dies, clock, Patience(3, None)).work_once()
    assert (job(index).state, job(index).reason) == ("failed", "the node died 10 times during this job")
    assert index.revive("1", clock.now) == 1
    with pytest.raises(KeyboardInterrupt):
        worker(index, dies, clock, Patience(3, None)).work_once()


def test_an_attempt_that_never_ends_is_counted(index: Index) -> None:
    clock = Clock()
    for _ in range(3):
        assert index.claim("read", None, clock.now, 60.0) is not None  # by a worker that hangs
        clock.now += 61.0
    assert worker(index, dies, clock, Patience(3, None)).work_once()
    assert (job(index).state, job(index).reason) == ("failed", "3 attempts began and none ended")


def test_a_delivery_that_a_death_cut_off_waits_for_nothing(index: Index) -> None:
    index._run("UPDATE jobs SET kind = 'send'")
    for now in range(100, 112):
        sent = index.claim("send", None, float(now), 60.0)
        assert sent is not None
        assert sent.attempts == 1
        index.requeue_running(now + 0.5)
    assert job(index).due == 111.5


def test_what_is_done_for_a_failure_is_written_with_it(index: Index) -> None:
    told: list[tuple[int, str]] = []

    def on_failure(one: Job, reason: str) -> Done:
        told.append((one.id, reason))
        return Done(run_key="f", effects=lambda: index._run("UPDATE studies SET routes = '[\"told\"]'") and None)

    def broken_off(_job: Job, _reason: str) -> Done:
        raise RuntimeError("secret")

    for broken in (False, True):
        failing = Worker(
            index, "read", raising(Permanent("no")), patience=Patience(3, None), lease_seconds=60.0, clock=Clock(),
            on_failure=broken_off if broken else on_failure,
        )  # fmt: skip
        index.revive(None, 100.0)
        assert failing.work_once()
        untold = "; no report says so: RuntimeError in " if broken else ""
        assert job(index).state == "failed" and job(index).reason.startswith(f"no{untold}")
        assert "secret" not in job(index).reason
        assert index.studies_with_state("1")[0].routes == ("told",)
    assert told == [(1, "no")]


def test_a_failure_that_cannot_be_recorded_with_its_report_is_recorded_without(index: Index) -> None:
    def broken() -> None:
        raise RuntimeError("the disk broke")

    failing = Worker(
        index, "read", raising(Permanent("no")), patience=Patience(3, None), lease_seconds=60.0, clock=Clock(),
        on_failure=lambda _job, _reason: Done(run_key="f", effects=broken),
    )  # fmt: skip
    assert failing.work_once()
    assert (job(index).state, job(index).run_key) == ("failed", None)
    assert job(index).reason.startswith("no; no report says so: RuntimeError in ")


def test_why_nobody_is_told_of_a_failure_stands_with_it_and_in_the_log(
    index: Index,
) -> None:
    failing = Worker(
        index, "read", raising(Permanent("no")), patience=Patience(3, None), lease_seconds=60.0, clock=Clock(),
        on_failure=lambda _job, _reason: Done("no report says so: nobody is there"),
    )  # fmt: skip
    with structlog.testing.capture_logs() as lines:
        assert failing.work_once()
    assert job(index).reason == "no; no report says so: nobody is there"
    (untold,) = (line for line in lines if line["event"] == "failure.untold")
    assert (untold["log_level"], untold["reason"]) == ("error", "no report says so: nobody is there")


def test_a_failure_that_is_being_told_while_the_node_stops_is_told_after_the_next_start(index: Index) -> None:
    def cut_off(_job: Job, _reason: str) -> Done:
        failing.ask_to_stop()
        raise RuntimeError("the reading process is shutting down")

    failing = Worker(
        index, "read", raising(Permanent("no")), patience=Patience(3, None), lease_seconds=60.0, clock=Clock(),
        on_failure=cut_off,
    )  # fmt: skip
    assert failing.work_once()
    assert (job(index).state, job(index).attempts) == ("queued", 0)


def test_trouble_of_the_machine_is_no_attempt_and_the_job_is_done_when_it_is_over(index: Index) -> None:
    troubles: list[Exception] = [
        *(OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)),
        *(Hindered("the disk gave an error"), sqlite3.OperationalError("disk I/O error")),
    ]
    left = list(troubles)

    def do(_job: Job) -> Done:
        if left:
            raise left.pop()
        return Done(reason="well again")

    busy = worker(index, do, Clock(), Patience(3, None))
    for each in reversed(troubles):
        with pytest.raises(type(each)):
            busy.work_once()
    assert busy.work_once()
    assert (job(index).state, job(index).attempts, job(index).reason) == ("done", 1, "well again")


@pytest.mark.parametrize("error", [None, Retryable("down"), Permanent("refused")])
def test_an_end_that_the_index_did_not_take_is_not_waited_for_until_the_lease_is_over(
    index: Index, tmp_path: Path, error: Exception | None
) -> None:
    index._run("PRAGMA busy_timeout=0")
    done: list[int] = []
    with closing(sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)) as other:

        def do(one: Job) -> Done:
            done.append(one.attempts)
            if len(done) == 1:
                other.execute("BEGIN IMMEDIATE")  # another process writes, and does not come to an end
            if error is not None:
                raise error
            return Done()

        busy = worker(index, do, Clock(), Patience(1, None))
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError):
                busy.work_once()
        assert (job(index).state, done) == ("running", [1])
        other.execute("ROLLBACK")
    assert busy.work_once()
    assert done == [1, 1]
    assert job(index).state == ("done" if error is None else "failed")


def test_a_failure_that_the_machine_keeps_from_being_told_is_told_later(index: Index) -> None:
    told: list[str] = []

    def on_failure(_job: Job, reason: str) -> Done:
        told.append(reason)
        if len(told) == 1:
            raise Hindered("the disk gave an error: No space left on device")
        return Done(run_key="f")

    failing = Worker(
        index, "read", raising(Permanent("no")), patience=Patience(3, None), lease_seconds=60.0, clock=Clock(),
        on_failure=on_failure,
    )  # fmt: skip
    with pytest.raises(Hindered):
        failing.work_once()
    assert failing.work_once()
    assert (job(index).state, job(index).run_key, told) == ("failed", "f", ["no", "no"])


def test_a_worker_that_stops_leaves_no_job_behind(index: Index) -> None:
    begun: list[int] = []

    def do(one: Job) -> Done:
        begun.append(one.id)
        raise OSError(errno.EIO, "Input/output error")

    busy = Worker(index, "read", do, patience=Patience(3, None), lease_seconds=60.0)
    busy.start()
    wait_until(lambda: begun, "the job to be begun")
    busy.ask_to_stop()
    busy.join()
    assert (job(index).state, job(index).attempts) == ("queued", 0)
