"""Every event of the log as one table: what it means and what to do. docs/reference/log-events.md is made of it.

Nothing of the node imports this module. A test compares it with the source: every event that is logged stands here
with its levels and fields, and every row here is logged somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

NOTHING = "Nothing."

CONTEXTS: dict[str, tuple[str, ...]] = {
    "association": ("association", "calling_ae", "called_ae", "address"),
    "job": ("study", "revision", "job", "kind", "attempt"),
}
"""The fields that every event of an association, or of a job, carries beside its own."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event: ``name`` as area.verb, the ``levels`` that it is logged with and the ``fields`` of its own.

    A field may be absent where it does not apply. ``action`` is what the hospital's IT should do.
    """

    name: str
    levels: tuple[str, ...]
    fields: tuple[str, ...]
    meaning: str
    action: str = NOTHING


EVENTS: tuple[LogEvent, ...] = (
    LogEvent(
        "association.aborted",
        ("warning", "error"),
        ("address", "reason", "error"),
        "An association ended without a release: by the caller, by silence, by broken bytes or by an error here.",
        "Look at the sender or the network where it repeats. Images answered 0000 are kept.",
    ),
    LogEvent(
        "association.accepted",
        ("debug",),
        ("peer",),
        "An association was accepted (logged with `--verbose`).",
    ),
    LogEvent(
        "association.rejected",
        ("warning", "error"),
        ("address", "reason", "fix"),
        "An association was rejected: an unknown caller, a wrong AE title, no room, or too many associations.",
        "Do what `fix` says.",
    ),
    LogEvent(
        "clock.failed",
        ("error",),
        ("error",),
        "The clock's step could not be recorded; tried again.",
        "Look at the disk of data_dir.",
    ),
    LogEvent(
        "clock.stepped",
        ("warning",),
        ("seconds", "reason", "fix"),
        "The machine's clock was set by more than a minute. Schedules are recomputed; retention waits.",
        "Look who set it; then do what `fix` says.",
    ),
    LogEvent(
        "commitment.failed",
        ("warning",),
        ("peer", "objects", "reason"),
        "A PACS does not commit to some results.",
        "Nothing at first: the node sends them again or asks again. Look at the PACS's log where it repeats.",
    ),
    LogEvent("commitment.given", ("info",), ("peer", "objects"), "A PACS has committed to keep results."),
    LogEvent(
        "commitment.refused",
        ("warning",),
        ("reason", "error"),
        "An answer to a commitment request could not be read, or nobody asked for it.",
        "Ask whoever runs the PACS if it repeats.",
    ),
    LogEvent(
        "completer.failed",
        ("error",),
        ("error",),
        "Studies could not be looked at for completeness; tried again.",
        "Look at the disk of data_dir.",
    ),
    LogEvent(
        "connections.cut",
        ("warning",),
        ("reason", "fix"),
        "Too many connections that request no association; the oldest were closed.",
        "Look who opens them: a port scan, or a health check that is set up wrongly.",
    ),
    LogEvent(
        "count.failed",
        ("warning",),
        ("study", "peer", "reason", "error"),
        "The PACS of `count_at` did not say how many images a study has; the study waits for other evidence.",
        "Let our AE title query the PACS, or leave `count_at` out.",
    ),
    LogEvent(
        "destination.accepts",
        ("info",),
        ("peer", "reason"),
        "A destination is called for the first time, or accepts something else than before; this is recorded.",
    ),
    LogEvent(
        "device.missing",
        ("warning",),
        ("reason",),
        "The configured GPU is not there; models run on the CPU.",
        "Check the driver, or set `device`.",
    ),
    LogEvent(
        "failure.untold",
        ("error",),
        ("reason",),
        "A reading failed, and there is no report that says so; the reason says why.",
        "Tell the radiologists; `dicom-node studies UID` shows the study as failed, with the same reason.",
    ),
    LogEvent(
        "files.limited",
        ("warning",),
        ("reason", "fix"),
        "The node may open too few files and sockets for all associations.",
        "Set `LimitNOFILE` as `fix` says.",
    ),
    LogEvent(
        "folder.closed",
        ("warning",),
        ("folder", "reason"),
        "Other users of the machine could enter data_dir; the node took their rights.",
        "Nothing; whoever read there (a backup) runs as the node's user or as root.",
    ),
    LogEvent(
        "folder.open",
        ("warning",),
        ("folder", "reason", "fix"),
        "Other users of the machine may enter data_dir, and the node cannot change that.",
        "Do what `fix` says.",
    ),
    LogEvent(
        "index.damaged",
        ("error",),
        ("reason", "fix"),
        "SQLite found damage in the index when the node started; the node goes on.",
        "Stop the node, look at the disk, and do what `fix` says.",
    ),
    LogEvent(
        "instance.compared",
        ("info",),
        ("study", "instance", "edition", "reason"),
        "An edition that the receiver could not compare was compared with the one before, by the reading process.",
    ),
    LogEvent(
        "instance.contradicted",
        ("warning",),
        ("study", "instance", "reason"),
        "An image came changed from a sender that may not correct it, or under the UID of an image of another study.",
        "Find out which is right; then `dicom-node quarantine accept` or `drop`.",
    ),
    LogEvent(
        "instance.corrected",
        ("warning",),
        ("study", "instance", "edition", "reason"),
        "An image came again under its UID, changed or in another transfer syntax: a further edition, which is read.",
    ),
    LogEvent(
        "instance.refused",
        ("warning", "error"),
        ("study", "instance", "sop_class", "status", "reason", "error"),
        "A C-STORE was answered with another status than 0000.",
        "Read `reason`; the status is explained in the conformance statement.",
    ),
    LogEvent(
        "instance.repeated",
        ("debug", "info"),
        ("study", "instance", "reason"),
        "A stored image came again and says the same; the stored one is kept.",
    ),
    LogEvent(
        "instance.restored",
        ("info", "warning"),
        ("study", "instance", "reason"),
        "An image whose file was gone came again and is kept again.",
        "At level warning: check the disk; the file was lost or damaged.",
    ),
    LogEvent(
        "instance.stored",
        ("debug",),
        ("study", "instance", "bytes", "seconds"),
        "An image was stored (logged with `--verbose`).",
    ),
    LogEvent(
        "job.failed",
        ("error",),
        ("reason", "fix"),
        "A reading, a delivery or a commitment failed permanently.",
        "Fix the cause in `reason`, then `dicom-node retry UID`.",
    ),
    LogEvent(
        "job.taken_over",
        ("warning",),
        ("reason",),
        "A job took longer than its lease; another worker did it, and this result was dropped.",
        "Nothing, unless it repeats: the machine is too slow.",
    ),
    LogEvent(
        "job.will_retry",
        ("warning",),
        ("reason", "retry_in"),
        "A job did not go well and is tried again after `retry_in` seconds.",
        "Nothing, unless it repeats: then fix the cause in `reason`.",
    ),
    LogEvent(
        "jobs.failed",
        ("error",),
        ("jobs", "reason"),
        "Jobs wait for a model or destination that the configuration no longer names; they are failed.",
        "Put it back and `dicom-node retry`, or leave it.",
    ),
    LogEvent(
        "journal.failed",
        ("error",),
        ("reason",),
        "The journal, with which a lost index is made anew, cannot be written; the node goes on and tries again.",
        "Look at the disk of `data_dir`: its room, its rights, its errors.",
    ),
    LogEvent(
        "models.failed",
        ("warning", "error"),
        ("model", "reason", "fix"),
        "A model cannot be loaded, or its files were changed; its studies fail.",
        "`dicom-node models verify`, `dicom-node check`; then repair the model and restart.",
    ),
    LogEvent("models.loaded", ("info",), ("model", "device", "pid"), "A model is loaded and ready."),
    LogEvent(
        "models.waiting",
        ("warning",),
        ("model", "reason", "fix"),
        "A model has no room in memory beside the others; it is loaded when a study needs it.",
        "Nothing; more memory where readings become slow.",
    ),
    LogEvent(
        "node.recovered",
        ("info",),
        ("removed", "jobs", "reason"),
        "At the start: unfinished files were deleted and unfinished jobs queued again.",
    ),
    LogEvent(
        "node.started",
        ("info",),
        ("called_ae", "address", "port", "folder", "version"),
        "The node listens.",
    ),
    LogEvent("node.stopped", ("info",), (), "The node has ended in good order."),
    LogEvent("node.stopping", ("info",), ("signal",), "The node was told to stop."),
    LogEvent(
        "node.stuck",
        ("error",),
        ("reason", "fix"),
        "A part of the node has died; the node ends with status 3.",
        "Let the service manager restart it, and report the log.",
    ),
    LogEvent(
        "promise.asked",
        ("info",),
        ("objects",),
        "A modality asks the node to commit to its images (storage commitment).",
    ),
    LogEvent(
        "promise.declined",
        ("warning",),
        ("calling_ae", "reason", "fix"),
        "A modality asks for commitment, or has asked before this start, and gets none (told once a day).",
        "Set `retention.committed_days`, and have the modality ask again.",
    ),
    LogEvent(
        "promise.failed",
        ("warning",),
        ("calling_ae", "objects", "reason"),
        "The node reported to a modality that some of its images are not stored here.",
        "Have the modality send them again.",
    ),
    LogEvent("promise.given", ("info",), ("calling_ae", "objects"), "The node has committed to a modality's images."),
    LogEvent(
        "promise.refused",
        ("warning",),
        ("reason", "error"),
        "A request for storage commitment could not be read.",
        "Ask the modality's vendor if it repeats.",
    ),
    LogEvent(
        "request.failed",
        ("error",),
        ("error",),
        "A request (N-ACTION, N-CREATE, N-SET, N-EVENT-REPORT) failed by an error of the node.",
        "Report it with the line of the log.",
    ),
    LogEvent(
        "request.refused",
        ("warning",),
        ("reason",),
        "A message that is no image was answered 0213 (resource limitation): too many bytes of such messages wait.",
        "Look what the caller sends; it may try again.",
    ),
    LogEvent(
        "result.delivered",
        ("info", "warning"),
        ("instance", "role", "peer", "seconds", "status", "reason"),
        "A destination has stored a result; at level warning, with a warning status.",
    ),
    LogEvent(
        "result.not_taken",
        ("warning",),
        ("instance", "role", "peer", "reason"),
        "A destination does not take this kind of object; it gets the others.",
        "Enable the SOP class there and `dicom-node retry UID`, or leave it.",
    ),
    LogEvent(
        "result.withdrawn",
        ("info",),
        ("instance", "peer", "objects", "reason"),
        "A PACS stored the key object (`instance`) that rejects results whose place later ones take (IOCM).",
    ),
    LogEvent(
        "retention.failed",
        ("error",),
        ("study", "error", "reason", "fix"),
        "Files could not be removed; tried again once a minute.",
        "Fix the disk or the rights in data_dir.",
    ),
    LogEvent(
        "retention.waits",
        ("warning",),
        ("reason", "fix"),
        "Nothing is removed, since nobody has confirmed the machine's clock (told once a day).",
        "Do what `fix` says.",
    ),
    LogEvent("step.begun", ("info",), ("instance", "study"), "A modality began a procedure step (MPPS N-CREATE)."),
    LogEvent(
        "step.ended",
        ("info",),
        ("instance", "reason", "objects"),
        "A modality ended a procedure step (MPPS N-SET) and named its images.",
    ),
    LogEvent(
        "step.refused",
        ("warning",),
        ("instance", "reason", "error"),
        "A procedure step's attributes could not be read, or its modality may not store.",
        "Set may_store = true on its peer; otherwise ask the modality's vendor if it repeats.",
    ),
    LogEvent(
        "study.complete",
        ("info",),
        ("study", "revision", "routes", "evidence", "reason"),
        "A study is complete; `evidence` says why, `routes` which routes take it.",
        "Where `routes` is empty and should not be: correct `[routes.match]`.",
    ),
    LogEvent(
        "study.not_eligible",
        ("info",),
        ("model", "seconds", "reason"),
        "No image of the study is of the kind that the model reads.",
    ),
    LogEvent(
        "study.read",
        ("info",),
        ("model", "seconds", "version", "findings", "objects"),
        "A model has read a study; its results are queued.",
    ),
    LogEvent(
        "study.read_before",
        ("info",),
        ("model", "seconds", "reason"),
        "The same images were read by the same model before; that reading stands.",
    ),
    LogEvent(
        "study.removed",
        ("info",),
        ("study", "removed", "bytes", "reason"),
        "Retention has removed the files of a study.",
    ),
    LogEvent(
        "study.summarized",
        ("info",),
        ("peer", "models"),
        "What several models say of a study was compared for a destination; the summary is queued.",
    ),
    LogEvent(
        "thread.failed",
        ("warning",),
        ("error",),
        "A thread of the DICOM library ended, mostly because of broken bytes from the network.",
        "Nothing, unless it repeats; then report it.",
    ),
    LogEvent(
        "worker.failed",
        ("error",),
        ("kind", "reason", "error"),
        "The disk or the index is in trouble; the work waits and is tried again.",
        "Fix the disk that `reason` names.",
    ),
)
