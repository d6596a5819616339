"""Claim, do, finish: one thread that works through one kind of job and knows none of them.

A job's effects and its being done are one transaction. What a crash leaves running is queued again when the node
starts, or when its lease runs out; a worker that comes late finds that its token is gone, and everything that it wanted
to write is rolled back.

The death of the node is no attempt of the job that ran, and is counted apart (`Index.requeue_running`). Models read in
a process of their own, and when that one dies it is an attempt. What ends the whole node is mostly a power cut or a
kill; only a job that ran at so many deaths (`Patience.deaths`) must be what they come from.

Where the machine itself is in trouble (its disk is full or fails, its index cannot be written) a job waits for as long
as it takes, and the worker with it: that is no attempt either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from dicom_node.errors import NodeError, Permanent, Retryable, Waits, trouble
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, JobKind, Outcome
from dicom_node.jobs.patience import Patience
from dicom_node.log import logger, where

_POLL_SECONDS = 1.0  # another process (dicom-node retry) may have queued something
_LONGEST_REST_SECONDS = 15.0  # of a worker that the machine keeps from working, before it tries again


@dataclass(frozen=True, slots=True)
class Done:
    """How a job went well: ``effects`` are written in the transaction that marks it done, ``then`` runs after it.

    ``outcome`` None is the success of the job's kind; ``reason`` is what a person is told.
    """

    reason: str = ""
    outcome: Outcome | None = None
    run_key: str | None = None
    effects: Callable[[], None] = lambda: None
    then: Callable[[], None] = lambda: None


class _TakenOver(Exception):  # noqa: N818 - never seen outside: it rolls a transaction back
    pass


class Worker:
    """Works through the jobs of one kind (and one target, where given), one at a time.

    ``on_failure`` says what is still done for a job that fails for good; it is written in the transaction that says so.
    ``when`` says whether this worker is to take a job now, where others do the same work.
    """

    def __init__(
        self,
        index: Index,
        kind: JobKind,
        do: Callable[[Job], Done],
        *,
        patience: Patience,
        lease_seconds: float,
        target: str | None = None,
        idle: Callable[[], None] = lambda: None,
        on_failure: Callable[[Job, str], Done] = lambda _job, _reason: Done(),
        when: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._kind = kind
        self._target = target
        self._do = do
        self._patience = patience
        self._lease_seconds = lease_seconds
        self._idle = idle
        self._on_failure = on_failure
        self._when = when
        self._clock = clock
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._held: Job | None = None  # in work, or not given back since the index could not be written
        self._thread = threading.Thread(target=self._run, name=f"{kind}-{target or 'any'}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wake(self) -> None:
        """Look for jobs now."""
        self._wake.set()

    def ask_to_stop(self) -> None:
        """Take no further job."""
        self._stopping.set()
        self._wake.set()

    @property
    def name(self) -> str:
        """What the worker does, for a person."""
        return self._thread.name

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the job in work."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        rest = _POLL_SECONDS
        while not self._stopping.is_set():
            self._wake.clear()
            pause = _POLL_SECONDS
            try:
                if self.work_once():
                    rest = _POLL_SECONDS
                    continue
                self._idle()
                pause = self._pause() if self._when() else _POLL_SECONDS
            except Exception as error:  # the index or the disk is in trouble: say so and try again, for ever
                logger().error("worker.failed", kind=self._kind, reason=trouble(error), error=where(error))
                pause, rest = rest, min(2 * rest, _LONGEST_REST_SECONDS)
            self._wake.wait(pause)
        with suppress(Exception):  # otherwise it is queued again at the next start
            self._put_back()

    def _pause(self) -> float:
        due = self._index.next_due(self._kind, self._target)
        return _POLL_SECONDS if due is None else min(max(due - self._clock(), 0.01), _POLL_SECONDS)

    def work_once(self) -> bool:
        """Claim and do one job.

        Returns:
            whether there was one.

        Raises:
            Exception: the machine is in trouble (`trouble`); the job is given back the next time.
        """
        self._put_back()
        if not self._when():
            return False
        job = self._index.claim(self._kind, self._target, self._clock(), self._lease_seconds)
        if job is None:
            return False
        self._held = job
        with structlog.contextvars.bound_contextvars(
            study=job.study, revision=job.revision, job=job.id, kind=job.kind, attempt=job.attempts
        ):
            self._attempt(job)
        self._held = None
        return True

    def _put_back(self) -> None:
        """Give the last job back where trouble ended it; until its lease ran out nobody else would do it."""
        if self._held is not None:
            self._index.give_back(self._held, self._clock())
            self._held = None

    def _attempt(self, job: Job) -> None:
        if reason := self._patience.used_up(job):
            self._fail(job, reason)
            return
        try:
            done = self._do(job)
            with self._index.transaction():
                if not self._index.finish(
                    job, self._clock(), outcome=done.outcome, reason=done.reason, run_key=done.run_key
                ):
                    raise _TakenOver  # noqa: TRY301 - it must pass through the transaction to roll it back
                done.effects()
        except _TakenOver:
            logger().warning("job.taken_over", reason="its lease ran out before it was finished")
        except Waits as error:
            self._wait(job, error)
        except Permanent as error:
            self._fail(job, str(error))
        except Exception as error:
            if trouble(error) and not self._stopping.is_set():
                raise
            if isinstance(error, Retryable):
                self._retry(job, str(error))
                return
            self._retry(job, f"unexpected error: {where(error)}")
        else:
            done.then()

    def _retry(self, job: Job, reason: str) -> None:
        now = self._clock()
        if self._stopping.is_set():  # cut off by the node's own end: no fault of the job
            self._index.give_back(job, now)
        elif self._patience.is_over(job, now):
            self._fail(job, f"{reason} (given up after {job.attempts} attempt{'s' * (job.attempts != 1)})")
        else:
            delay = self._patience.delay(job.attempts)
            logger().warning("job.will_retry", reason=reason, retry_in=round(delay, 1))
            self._index.retry_later(job, now + delay, reason)

    def _wait(self, job: Job, waits: Waits) -> None:
        now = self._clock()
        if self._patience.is_over(job, now) and not waits.begins:
            self._fail(job, f"{waits} (given up)")
            return
        with self._index.transaction():  # what comes is recorded in one, too: it is either seen here, or finds the job
            self._index.retry_later(job, now if waits.came() else now + waits.seconds, str(waits))

    def _fail(self, job: Job, reason: str) -> None:
        logger().error("job.failed", reason=reason, fix="after mending it: dicom-node retry")
        try:
            done = self._on_failure(job, reason)
            with self._index.transaction():
                if self._index.fail(job, self._clock(), reason, run_key=done.run_key):
                    done.effects()
        except Exception as error:
            if self._stopping.is_set():  # cut off by the node's own end: told after the next start
                self._index.give_back(job, self._clock())
                return
            if trouble(error):
                raise
            told = str(error) if isinstance(error, NodeError) else where(error)
            logger().error("failure.untold", reason=f"no report says so: {told}")
            self._index.fail(job, self._clock(), reason)  # that it failed is known all the same
        else:
            done.then()
