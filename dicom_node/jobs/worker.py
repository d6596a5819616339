"""The job worker: a thread that claims, does and finishes jobs of one kind, and knows no kind of job.

The effects of a job and its state "done" are written in one transaction. A job that a crash left running is queued
again when the node starts, or when its lease expires. A worker that finishes after its lease expired finds that its
token is no longer valid; everything that it wanted to write is rolled back.

The death of the node is not an attempt of the job that ran; it is counted apart (`Index.requeue_running`), since most
often a power failure or a kill is the cause. Only after many deaths (`Patience.deaths`) is the job taken for the cause.
Models run in a process of their own; the death of that process is an attempt.

If the machine itself fails (its disk is full or broken, the index cannot be written), the job and its worker wait until
the machine works again. That is not an attempt either.
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

_POLL_SECONDS = 1.0  # another process (dicom-node retry) may have queued a job
_LONGEST_REST_SECONDS = 15.0  # between two tries while the machine fails


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a job that went well.

    ``effects`` runs in the transaction that marks the job done, ``then`` after that transaction. ``outcome`` says how
    the job ended; None is the success of its kind. ``reason`` is for IT.
    """

    reason: str = ""
    outcome: Outcome | None = None
    run_key: str | None = None
    effects: Callable[[], None] = lambda: None
    then: Callable[[], None] = lambda: None


class _TakenOver(Exception):  # noqa: N818 - never seen outside
    """The lease expired, and another worker has the job. Raised to roll the transaction back; never seen outside."""

    pass


class Worker:
    """Does the jobs of one kind (and of one target, if given), one at a time.

    ``do`` does a job. It returns `Done`, or raises `Retryable`, `Waits` or `Permanent`. ``on_failure`` returns what
    else has to be written when a job fails for good; it is written in the transaction that marks the job failed.
    Its ``reason`` says why nobody else is told of the failure, and is empty if somebody is.
    ``when`` returns whether this worker may claim a job now, if several do the same work. ``idle`` is called when no
    job is due.
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
        self._current: Job | None = None  # in progress, or not back in the queue since the index cannot be written
        self._thread = threading.Thread(target=self._run, name=f"{kind}-{target or 'any'}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look for jobs now."""
        self._wake.set()

    def ask_to_stop(self) -> None:
        """Claim no further job."""
        self._stopping.set()
        self._wake.set()

    @property
    def name(self) -> str:
        """The kind and the target of the jobs, as text."""
        return self._thread.name

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread ends, which it does after the job in progress; at most ``timeout`` seconds."""
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
            except Exception as error:  # the index or the disk fails: log it and try again later
                logger().error("worker.failed", kind=self._kind, reason=trouble(error), error=where(error))
                pause, rest = rest, min(2 * rest, _LONGEST_REST_SECONDS)
            self._wake.wait(pause)
        with suppress(Exception):  # if this fails, the next start queues the job again
            self._put_back()

    def _pause(self) -> float:
        due = self._index.next_due(self._kind, self._target)
        return _POLL_SECONDS if due is None else min(max(due - self._clock(), 0.01), _POLL_SECONDS)

    def work_once(self) -> bool:
        """Claim and do one job.

        Returns:
            whether there was a job.

        Raises:
            Exception: the machine fails (`trouble`). The next call returns the job to the queue.
        """
        self._put_back()
        if not self._when():
            return False
        job = self._index.claim(self._kind, self._target, self._clock(), self._lease_seconds)
        if job is None:
            return False
        self._current = job
        with structlog.contextvars.bound_contextvars(
            study=job.study, revision=job.revision, job=job.id, kind=job.kind, attempt=job.attempts
        ):
            self._attempt(job)
        self._current = None
        return True

    def _put_back(self) -> None:
        """Return the last job to the queue if the machine failed. Its lease would keep other workers from it."""
        if self._current is not None:
            self._index.give_back(self._current, self._clock())
            self._current = None

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
            logger().warning(
                "job.taken_over", reason="its lease expired before it was finished; what this worker did is rolled back"
            )
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
        if self._stopping.is_set():  # the stop of the node interrupted it: not the job's fault
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
        with self._index.transaction():  # as what it waits for is recorded: one sees the other
            self._index.retry_later(job, now if waits.came() else now + waits.seconds, str(waits))

    def _fail(self, job: Job, reason: str) -> None:
        logger().error("job.failed", reason=reason, fix="remove the cause, then run: dicom-node retry")
        try:
            done = self._on_failure(job, reason)
            told = f"{reason}; {done.reason}" if done.reason else reason
            with self._index.transaction():
                if self._index.fail(job, self._clock(), told, run_key=done.run_key):
                    done.effects()
        except Exception as error:
            if self._stopping.is_set():  # the stop of the node interrupted it: reported after the next start
                self._index.give_back(job, self._clock())
                return
            if trouble(error):
                raise
            why = str(error) if isinstance(error, NodeError) else where(error)
            logger().error("failure.untold", reason=f"no report says so: {why}")
            self._index.fail(job, self._clock(), f"{reason}; no report says so: {why}")
        else:
            if done.reason:
                logger().error("failure.untold", reason=done.reason)
            done.then()
