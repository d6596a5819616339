"""The rows that go into the index and come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dicom_node.index.recorded import RecordedReading

JobKind = Literal["read", "send", "shadow", "commit", "promise", "withdraw", "summary"]
"""What a job does; `job_kinds` has the rules of each kind."""

WithdrawalReason = Literal["safety", "quality"]
"""Why results are withdrawn: their source was corrected in patient, side or pixels; or later results replace them."""

Change = Literal["safety", "quality", "unknown", "none"]
"""What an edition of an instance changed: patient, side or pixels; something else that a reading or its results use;
what could not be compared; or nothing, but the form in which it is encoded."""

SUMMARY = "(summary)"
"""In place of a model: the summary of what several models say of a study. No model can have this name."""

REJECTION = "rejection"
"""The role of a key object that rejects results, and in place of a profile: it belongs to the results of none."""

Outcome = Literal[
    "",  # the job has not ended
    "read",
    "nothing to read",  # no image of the study is of the kind that the model reads
    "sent",
    "not taken",  # the destination does not take this kind of object
    "committed",
    "nothing to commit",  # the destination has stored nothing of the run
    "waived",  # the configuration does not ask for commitment any more
    "answered",
    "withdrawn",
    "summarized",
    "nothing to summarize",  # fewer than two models have read, or none of them looks for findings
    "nothing to withdraw",  # the destination has stored nothing of what was to be withdrawn
    "superseded",  # a later revision or reading takes its place; of a job in work: it is not tried again
    "failed",
]
"""How a job ended. What a person reads of it is its reason; what the node decides stands on the outcome."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent an edition: AE title, and the peer's name in the configuration.

    ``peer`` is empty for an unknown caller, None where an earlier version recorded the AE title alone.
    """

    calling_ae: str
    peer: str | None


@dataclass(frozen=True, slots=True)
class NewInstance:
    """A received instance on its way into the index; texts are what the data set holds, empty where it has none.

    ``peer`` is the name in the configuration of the peer that sent it; empty for an unknown caller.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study: str
    series: str
    modality: str
    body_part: str
    study_description: str
    series_description: str
    calling_ae: str
    file: str
    bytes: int
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """The newest edition of a received instance; ``bytes`` is the size of its file, ``received`` is epoch seconds.

    ``own`` is 1 for a result of ours that came back. If it was ``removed`` (epoch seconds), its file is deleted or
    about to be. ``studies_before`` counts the studies under which the SOP Instance UID came before.
    """

    study: str
    transfer_syntax_uid: str
    own: int
    edition: int
    meaning: int
    studies_before: int
    file: str
    bytes: int
    received: float
    removed: float | None


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """A received instance as the index knows it: the newest edition.

    ``edition`` is the first one that says the same, by which a reading knows it: the same image in another transfer
    syntax leads to no other reading.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series: str
    calling_ae: str
    file: str
    edition: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An open contradiction; ``received`` is epoch seconds.

    "not authorized": ``file`` is an image of ``study`` in quarantine, with ``change`` against edition ``compared``.
    "two studies": ``instances`` of ``study`` have UIDs of instances of ``other_study``, which came before.
    """

    id: int
    study: str
    kind: Literal["not authorized", "two studies"]
    sop_instance_uid: str
    other_study: str | None
    change: str
    compared: int
    calling_ae: str
    peer: str | None
    file: str | None
    bytes: int
    instances: int
    received: float


@dataclass(frozen=True, slots=True)
class Unsettled:
    """An edition that was compared with none yet: its ``file``, and that of the edition ``before``."""

    sop_instance_uid: str
    edition: int
    file: str
    before: str


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """The texts that instances of a series have, and who sent them; a series whose instances differ has several
    rows."""

    series: str
    modality: str
    body_part: str
    study_description: str
    series_description: str
    callers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study that is not completed; times are epoch seconds."""

    study: str
    revision: int
    last_received: float


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job: ``subject`` is what it works on (a study's revision, a result), ``target`` the model or peer.

    The kind "shadow" is a reading of which nothing leaves the node. ``deaths`` is how often the node died while it ran.
    """

    id: int
    kind: JobKind
    subject: str
    study: str
    revision: int
    route: str
    target: str
    run_key: str | None
    attempts: int
    created: float
    token: str
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """Our request for storage commitment: when it was ``answered`` (epoch seconds); ``refusal``: why never to the
    rest."""

    answered: float | None
    refusal: str


@dataclass(frozen=True, slots=True)
class Promise:
    """A peer's request for storage commitment; ``instances``: SOP instance to SOP class, as the peer named them."""

    transaction_uid: str
    calling_ae: str
    instances: dict[str, str]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Results of a study that are to be rejected at a destination: those of one run and profile.

    ``failure``: they report a reading that failed. ``note`` is the SOP Instance UID of the key object that rejects
    them; None while it is not made. ``objects`` are those that the destination has, ``successors`` the files of the
    results that take their place: both in the order of sending.
    """

    id: int
    study: str
    run_key: str
    target: str
    reason: WithdrawalReason
    failure: bool
    note: str | None
    objects: tuple[ResultRow, ...]
    successors: tuple[ResultRow, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A procedure step (MPPS): how many instances it ``made``, and how many of these we lack (``missing``)."""

    sop_instance_uid: str
    state: str
    made: int
    missing: int
    changed: float


@dataclass(frozen=True, slots=True)
class NewResult:
    """A result file on its way into the index; ``position`` is its place in the order of sending.

    ``profile`` is the digest of the settings that it was made by (`config.Profile`): it goes to their destinations.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series: str
    position: int
    role: str
    file: str
    bytes: int
    profile: str


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result file as the index knows it; ``removed`` as in :class:`Received`."""

    sop_instance_uid: str
    sop_class_uid: str
    role: str
    file: str
    removed: float | None


@dataclass(frozen=True, slots=True)
class StoredReport:
    """An earlier report on a study that a destination has; ``created`` is when its reading was (epoch seconds)."""

    sop_class_uid: str
    sop_instance_uid: str
    series: str
    created: float


@dataclass(frozen=True, slots=True)
class NewReading:
    """What a model said, on its way into the index; ``reading`` is JSON; of a ``shadow`` nothing was or is sent."""

    run_key: str
    study: str
    model: str
    version: str
    digest: str
    created: float
    reading: str
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study with its state, which follows from its jobs; times are epoch seconds.

    ``state`` is one of `operations.study_status.STATES`. ``evidence`` is what said that the study is complete; ``read``
    and ``delivered`` are when the last reading and the last delivery of this revision ended; ``reason`` is what a
    person is told of a job; ``not_taken`` has a sentence for each kind of object that a destination does not take,
    ``withdrawn`` one for each time that earlier results were withdrawn at one;
    ``removed`` is when retention last removed files; ``contradictions`` are open (`Contradiction`).
    """

    study: str
    revision: int
    first_received: float
    last_received: float
    completed: float | None
    routes: tuple[str, ...]
    removed: float | None
    evidence: str
    read: float | None
    delivered: float | None
    reason: str
    not_taken: tuple[str, ...]
    withdrawn: tuple[str, ...]
    instances: int
    contradictions: int
    state: str


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as it stands; times are epoch seconds. ``role`` is that of the result which a job "send" carries."""

    id: int
    kind: JobKind
    revision: int
    route: str
    target: str
    subject: str
    run_key: str | None
    state: Literal["queued", "running", "done", "failed"]
    outcome: Outcome
    attempts: int
    due: float
    created: float
    started: float | None
    finished: float | None
    reason: str
    role: str | None


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A result file of a reading; ``position`` is its place in the order of sending."""

    sop_instance_uid: str
    sop_class_uid: str
    series: str
    run_key: str
    position: int
    role: str
    file: str
    bytes: int
    profile: str
    removed: float | None


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """A reading by a model; ``created`` is epoch seconds; of a ``shadow`` reading nothing was or is sent."""

    run_key: str
    study: str
    model: str
    version: str
    digest: str
    created: float
    shadow: bool
    reading: RecordedReading


@dataclass(frozen=True, slots=True)
class ReadingJobs:
    """How many jobs of a model ended in the same way; ``eligible`` is false where the model had nothing to read."""

    state: str
    reason: str
    eligible: bool
    jobs: int
