"""What an administrator sees and decides of contradictions (`storage.quarantine`), beside the node that may be running.

No value here is one of a data set but UIDs.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any

from dicom_node.errors import NodeError
from dicom_node.index.index import Index
from dicom_node.index.rows import Contradiction
from dicom_node.storage.spool import Spool

_CHANGES = {
    "safety": "another patient, side or pixels",
    "quality": "something else that a reading or its results use",
    "unknown": "it could not be compared with the stored image",
}


def listed(index: Index, study: str | None = None) -> list[dict[str, Any]]:
    """Open contradictions, oldest first: all, or those of a study."""
    return [_shown(each) for each in index.contradictions(study)]


def accept(index: Index, spool: Spool, number: int, now: float) -> str:
    """Take an image out of quarantine: it is the newest edition, and its study is read again. Says what happened.

    Raises:
        NodeError: there is no contradiction with this number, or its file is missing or damaged.
    """
    one = _known(index, number)
    if one.file is None:
        index.end_contradiction(number)
        return f"{number}: both studies keep their images, and no contradiction is shown any more"
    if not spool.is_whole(one.file, one.bytes):
        raise NodeError(f"{number}: the file {spool.path(one.file)} is missing or damaged; drop {number} forgets it")
    stored = index.received(one.sop_instance_uid, one.study)
    if stored is None:
        raise NodeError(f"{number}: nothing of the image is stored under study {one.study}")
    edition, another = stored.edition + 1, one.study if stored.studies_before else ""
    try:
        file = spool.accept(one.file, one.sop_instance_uid, edition, another_study=another)
    except FileExistsError:
        raise NodeError(f"{number}: it is being accepted already") from None
    try:
        index.accept_contradiction(number, file, edition, now)
    except (LookupError, sqlite3.IntegrityError):  # decided by somebody else, or corrected meanwhile
        spool.delete(file)
        raise NodeError(f"{number}: the image was decided on or corrected at the same moment; look again") from None
    spool.delete(one.file)
    spool.sync_deletions()
    return f"{number}: the image is the newest edition; study {one.study} is read again"


def drop(index: Index, spool: Spool, number: int) -> str:
    """Delete an image in quarantine: what is stored stays, and is right. Says what happened.

    Raises:
        NodeError: there is no contradiction with this number, or it is none of an image in quarantine.
        OSError: the file cannot be deleted.
    """
    one = _known(index, number)
    if one.file is None:
        raise NodeError(
            f"{number}: nothing of it is in quarantine: the images of both studies are stored and read. Accept "
            f"{number} if both are right; otherwise correct the study at its source and send it again"
        )
    spool.delete(one.file)
    spool.sync_deletions()
    index.end_contradiction(number)
    return f"{number}: the image is deleted; what is stored of study {one.study} stays as it is"


def _known(index: Index, number: int) -> Contradiction:
    found = index.contradictions(number=number)
    if not found:
        raise NodeError(f"there is no contradiction {number}; dicom-node quarantine list shows those there are")
    return found[0]


def _shown(one: Contradiction) -> dict[str, Any]:
    if one.kind == "two studies":
        what = f"{one.instances} of its images have UIDs of images of study {one.other_study}; all are stored and read"
    else:
        what = f"an image that another peer sent came changed: {_CHANGES[one.change]}; it is not read"
    return {
        "number": one.id,
        "study": one.study,
        "other_study": one.other_study,
        "kind": one.kind,
        "instance": one.sop_instance_uid,
        "instances": one.instances,
        "change": one.change,
        "compared_with_edition": one.compared or None,
        "calling_ae": one.calling_ae,
        "peer": one.peer,
        "received": datetime.fromtimestamp(one.received, UTC).isoformat(timespec="milliseconds"),
        "file": one.file,
        "bytes": one.bytes,
        "what": what,
    }
