"""How often and how long a job is tried."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dicom_node.index.rows import Job


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a job is tried: until ``attempts`` are used up, or ``seconds`` have gone by since it was queued.

    Where attempts are counted so are the node's ``deaths`` while it ran. Ten by chance are next to none, since it runs
    for seconds and waits longer after each; and ten restarts of a node that its job ends take minutes, not days.
    """

    attempts: int | None
    seconds: float | None
    first_delay: float = 1.0
    longest_delay: float = 60.0
    deaths: int = 10

    def delay(self, attempt: int) -> float:
        """Seconds to wait after attempt number ``attempt`` (from 1): doubled each time, with jitter."""
        doubled = self.first_delay * 2.0 ** min(attempt - 1, 16)
        return min(doubled, self.longest_delay) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret

    def used_up(self, job: Job) -> str:
        """Why this attempt is one too many, where those before it never came to an end; empty where it is not."""
        if self.attempts is None:
            return ""
        if job.deaths >= self.deaths:
            return f"the node ended {job.deaths} times while it did this"
        if job.attempts > self.attempts:
            return f"begun {job.attempts - 1} times, and none came to an end"
        return ""

    def is_over(self, job: Job, now: float) -> bool:
        """Whether this attempt was the last."""
        return (self.attempts is not None and job.attempts >= self.attempts) or (
            self.seconds is not None and now - job.created >= self.seconds
        )
