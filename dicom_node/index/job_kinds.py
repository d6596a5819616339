"""The kinds of jobs as a table: all that the queue does differently for a kind stands here.

A new kind is a name in `rows.JobKind` and a row here. The tables need no change: no statement lists the kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.index.rows import JobKind, Outcome

# Each state is asked for alone, because each has an index of its own.
_NO_READING_WAITS = """(NOT EXISTS (SELECT 1 FROM jobs r WHERE r.kind = 'read' AND r.state = 'queued')
    AND NOT EXISTS (SELECT 1 FROM jobs r WHERE r.kind = 'read' AND r.state = 'running'))"""
_STUDY_IS_FREE = """NOT EXISTS
    (SELECT 1 FROM jobs r WHERE r.state = 'running' AND r.kind = 'read' AND r.study = jobs.study)"""
_STUDY_IS_READ = """NOT EXISTS
    (SELECT 1 FROM jobs r WHERE r.study = jobs.study AND r.kind = 'read' AND r.state IN ('queued', 'running'))"""
_ALL_IS_SENT = """NOT EXISTS (SELECT 1 FROM jobs s
    WHERE s.study = jobs.study AND s.kind = 'send' AND s.target = jobs.target AND s.run_key = jobs.run_key
        AND s.state IN ('queued', 'running'))"""
_SUCCESSORS_ARE_SENT = """(NOT EXISTS (SELECT 1 FROM jobs s
        WHERE s.study = jobs.study AND s.kind = 'send' AND s.target = jobs.target AND s.state IN ('queued', 'running')
            AND (s.run_key = jobs.run_key
                OR s.run_key = (SELECT w.run_key FROM withdrawals w WHERE w.id = CAST(jobs.subject AS INTEGER))))
    AND NOT EXISTS (SELECT 1 FROM jobs c
        WHERE c.study = jobs.study AND c.kind = 'commit' AND c.subject = jobs.run_key AND c.target = jobs.target
            AND c.state IN ('queued', 'running')))"""
_RESULT_IS_REMOVED = """EXISTS
    (SELECT 1 FROM results r WHERE r.sop_instance_uid = jobs.subject AND r.removed IS NOT NULL)"""
_IMAGES_ARE_REMOVED = """NOT EXISTS
    (SELECT 1 FROM instances i WHERE i.study = jobs.study AND i.newest = 1 AND NOT i.own AND i.removed IS NULL)"""


@dataclass(frozen=True, slots=True)
class KindRules:
    """What the queue does differently for one kind of job; conditions are SQL about a row of ``jobs``.

    * ``success``: the outcome of a job that is done, unless the job says another.
    * ``reads``: the job reads a study. It may be what ended the node, so it waits longer after each death of the node;
      its run key is known only when it is done.
    * ``turn``: a job is claimed only while this holds. ``queued_turn``: the same, for a queued job alone and not for
    one
      whose lease has expired.
    * ``cannot``: a failed job cannot be revived while this holds, because retention has removed what it needs.
    """

    success: Outcome
    reads: bool = False
    turn: str = ""
    queued_turn: str = ""
    cannot: str = ""


JOB_KINDS: dict[JobKind, KindRules] = {
    # Of one study no two are read at a time: the report on fewer images would not know of the one on all of them.
    "read": KindRules("read", reads=True, queued_turn=_STUDY_IS_FREE, cannot=_IMAGES_ARE_REMOVED),
    # A reading in shadow waits until no study waits for its own: it never stands in front of a result.
    "shadow": KindRules("read", reads=True, turn=_NO_READING_WAITS, cannot=_IMAGES_ARE_REMOVED),
    "send": KindRules("sent", cannot=_RESULT_IS_REMOVED),
    # A destination is asked to commit when nothing of the run is left to be sent there.
    "commit": KindRules("committed", queued_turn=_ALL_IS_SENT),
    "promise": KindRules("answered"),
    # Results are rejected when nothing is left to be sent of them, nor of those that take their place, and nothing of
    # the latter to be committed to.
    "withdraw": KindRules("withdrawn", queued_turn=_SUCCESSORS_ARE_SENT),
    # What several models say is compared when each of them has read the study, or failed for good.
    "summary": KindRules("summarized", queued_turn=_STUDY_IS_READ, cannot=_IMAGES_ARE_REMOVED),
}


def kinds_that_read() -> str:
    """The kinds that read a study, as a list for SQL's ``IN``."""
    return "(" + ", ".join(f"'{kind}'" for kind, rules in JOB_KINDS.items() if rules.reads) + ")"


def cannot_be_revived() -> str:
    """The SQL condition for a job whose files retention has removed."""
    return (
        "(" + " OR ".join(f"kind = '{kind}' AND {each.cannot}" for kind, each in JOB_KINDS.items() if each.cannot) + ")"
    )


def turn_of(kind: JobKind, target: str | None) -> str:
    """The SQL condition for jobs of a kind (and target) whose turn it is; the values are ``:kind`` and ``:target``.

    What does not matter is left out, and not said in SQL: "is not asked for, or is this" leads past every index.
    """
    terms = ["kind = :kind"]
    if target is not None:
        terms.append("target = :target")
    if JOB_KINDS[kind].turn:
        terms.append(JOB_KINDS[kind].turn)
    return " AND ".join(terms)


def queued_turn_of(kind: JobKind, target: str | None) -> str:
    """`turn_of` for jobs that wait and could be claimed."""
    alone = JOB_KINDS[kind].queued_turn
    return f"state = 'queued' AND {turn_of(kind, target)}" + (f" AND {alone}" if alone else "")
