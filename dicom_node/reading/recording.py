"""What a reading or a summary leaves behind: its files in their places, its row in the index, what is sent of it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ai.contract import Reading
from dicom_node.errors import Retryable
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, NewReading, NewResult
from dicom_node.jobs.worker import Done
from dicom_node.reading.messages import ReadAnswer
from dicom_node.storage.spool import Spool


@dataclass(frozen=True, slots=True)
class Sending:
    """Where results go: (destination, digest of profile); who is asked to commit, and where earlier ones are rejected.

    With ``only`` a destination, unsent results of earlier readings are called off there alone.
    """

    targets: tuple[tuple[str, str], ...]
    committing: frozenset[str]
    withdrawing: frozenset[str]
    only: str = ""


class Recorder:
    """Records answers of a warm process; ``on_sends`` is called after results were queued for sending."""

    def __init__(
        self,
        index: Index,
        spool: Spool,
        *,
        on_sends: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._spool = spool
        self._on_sends = on_sends
        self._clock = clock

    def sent(self, job: Job, sending: Sending, answer: ReadAnswer, key: str, *, supersedes: bool) -> Done:
        """Record the reading and its files, and queue each file for the destinations that it was made for.

        ``job.target`` is the model. If it ``supersedes``, results of older readings that were not sent yet are called
        off, and those that were sent are withdrawn where a destination takes that; a failure does neither.
        """
        results = self._in_place(answer)
        targets = sending.targets

        def effects() -> None:
            if answer.reading is not None:
                self._record(job, key, answer.reading, answer, results)
            if supersedes:
                self._index.supersede(job, key, targets, self._clock(), only=sending.only)
            self._index.queue_sends(job, key, targets, self._clock(), committing=sending.committing)
            if supersedes:
                withdrawing = [each for each in targets if each[0] in sending.withdrawing]
                self._index.queue_withdrawals(job, key, withdrawing, self._clock())

        return Done("; ".join(answer.notes)[:1000], run_key=key, effects=effects, then=self._on_sends)

    def in_shadow(self, job: Job, answer: ReadAnswer, key: str) -> Done:
        """Record what the model said, beside the readings of other models; it never replaces one."""
        results = self._in_place(answer)

        def effects() -> None:
            if answer.reading is not None:
                self._record(job, key, answer.reading, answer, results)

        return Done("; ".join(answer.notes)[:1000], run_key=key, effects=effects)

    def _in_place(self, answer: ReadAnswer) -> list[NewResult]:
        """Put the results into their places durably, whether they came as files or as bytes.

        This happens before the transaction that names them: receiving needs the index, which must not be held while the
        disk writes. After a crash in between, the next attempt replaces the files; nothing of them was sent.
        """
        try:
            named = [part for part in answer.parts if isinstance(part.content, str)]
            files = {part.sop_instance_uid: self._spool.made(str(part.content)) for part in named}
        except (OSError, ValueError) as error:
            raise Retryable(f"the results of the reading process are not where it says: {error}") from error
        try:
            others = {part.sop_instance_uid: part.content for part in answer.parts if isinstance(part.content, bytes)}
            files |= zip(others, self._spool.write_parts([content] for content in others.values()), strict=True)
            names = self._spool.adopt([(files[part.sop_instance_uid], part.sop_instance_uid) for part in answer.parts])
        except BaseException:
            for file in files.values():
                self._spool.discard_part(file)
            raise
        return [
            NewResult(
                part.sop_instance_uid,
                part.sop_class_uid,
                part.series_instance_uid,
                position,
                part.role,
                name,
                part.bytes,
                part.profile,
            )
            for position, (part, name) in enumerate(zip(answer.parts, names, strict=True))
        ]

    def _record(self, job: Job, key: str, reading: Reading, answer: ReadAnswer, results: Sequence[NewResult]) -> None:
        identity = reading.model
        self._index.add_reading(
            NewReading(
                key,
                job.study,
                job.target if job.kind == "summary" else identity.name,
                identity.version,
                identity.digest,
                answer.created,
                _as_json(reading, answer.seconds),
                shadow=job.kind == "shadow",
            ),
            results,
        )


def _as_json(reading: Reading, seconds: Iterable[tuple[str, float]]) -> str:
    """A reading as the index keeps it: all but where the bytes of its sources are, which may change."""
    whole: dict[str, Any] = dataclasses.asdict(reading)
    whole["sources"] = [ref.sop_instance_uid for ref in reading.sources]
    whole["editions"] = {ref.sop_instance_uid: ref.edition for ref in reading.sources if ref.edition > 1}
    whole["seconds"] = dict(seconds)
    return json.dumps(whole)
