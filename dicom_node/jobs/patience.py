"""The retry policy of a kind of job: how often it is tried, for how long, and the delay between attempts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dicom_node.index.rows import Job


@dataclass(frozen=True, slots=True)
class Patience:
    """The retry policy: a job fails after ``attempts`` attempts, or ``seconds`` after it was queued. None: no limit.

    If attempts are limited, so is the number of times that the node died while the job ran (``deaths``). Ten such
    deaths are hardly a coincidence, since a job runs for seconds and waits longer after each death. If the job itself
    kills the node, ten restarts take minutes, not days.

    ``first_delay`` and ``longest_delay`` are seconds.
    """

    attempts: int | None
    seconds: float | None
    first_delay: float = 1.0
    longest_delay: float = 60.0
    deaths: int = 10

    def delay(self, attempt: int) -> float:
        """Seconds to wait after attempt number ``attempt`` (from 1): doubled each time up to a limit, with jitter."""
        doubled = self.first_delay * 2.0 ** min(attempt - 1, 16)
        return min(doubled, self.longest_delay) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret

    def used_up(self, job: Job) -> str:
        """The reason if this attempt must not begin, because none of the earlier ones ended. Empty if it may begin."""
        if self.attempts is None:
            return ""
        if job.deaths >= self.deaths:
            return f"the node died {job.deaths} times during this job"
        if job.attempts > self.attempts:
            return f"{job.attempts - 1} attempts began and none ended"
        return ""

    def is_over(self, job: Job, now: float) -> bool:
        """Whether this attempt was the last. ``now`` is epoch seconds."""
        return (self.attempts is not None and job.attempts >= self.attempts) or (
            self.seconds is not None and now - job.created >= self.seconds
        )
