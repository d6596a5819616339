"""What changes for a running site with an upgrade: told once by ``dicom-node check``, and never to a new site.

``told.json`` in the data folder says up to which change this site was told. The first start of a node in a new folder
writes it, and so does a check that has told.

When a change concerns a site that does nothing about it, add a text at the end of `CHANGES`; the changelog has it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from dicom_node.index.index import INDEX_FILE
from dicom_node.storage.durable import write_json

TOLD_FILE: Final = "told.json"

CHANGES: Final[Sequence[str]] = (
    "scores are numbers from 0 to 1 beside their thresholds, without %; reports give them as (algorithm_score, "
    "99DICOMNODE) in place of Certainty of Finding (111012, DCM)",
    "tuberculosis is looked for only where a route names it in findings: results say that it was not looked for",
    "chest_xray calls findings at its operating point 'balanced', which calls fewer films without findings; a route "
    "chooses another by operating_point",
    "pictures (SC) are JPEG of at most 2048 rows (sc_rows), marked as lossy; a PACS that refuses JPEG gets the same "
    'pixels uncompressed, and one that is to keep lossless pictures has pictures = "jpeg-ls"',
    "results have other UIDs than before: a study that is read again gets new ones",
    "codes say what is seen, not a disease, and chest_xray has airspace_opacity in place of pneumonia and "
    "consolidation: whoever evaluates reports by code finds them in docs/reference/codes.md",
    "images that a modality was promised (storage commitment) are not removed before [retention] committed_days; where "
    "days is set without it, no modality is promised anything any more, and what was promised is never removed",
    "data_dir is for the node's user alone: the start takes the rights of other users from it, such as a backup's",
    "retention removes nothing until time synchronisation, or dicom-node clock --confirm, has confirmed the clock",
    "an image that comes changed from another peer than the one that sent it first is answered 0124 and waits in "
    "quarantine (dicom-node quarantine list); a PACS that corrects patients or studies needs may_correct = true",
)
"""One text for each change, the oldest first. Texts are added at the end and never taken out: they are counted."""


def news(data_dir: Path) -> tuple[str, ...]:
    """The changes that a site has not been told; none for a folder in which no node has run yet."""
    if not (data_dir / INDEX_FILE).is_file():
        return ()
    told = 0
    # A folder of a version without this file, or a damaged one: better told twice than never.
    with suppress(OSError, ValueError, TypeError, KeyError):
        told = int(json.loads((data_dir / TOLD_FILE).read_bytes())["changes"])
    return tuple(CHANGES[max(0, told) :])


def remember(data_dir: Path) -> bool:
    """Record that a site knows of every change; false if this user cannot write there as the node's user does.

    A file of another user, such as root, might be one that the node cannot replace.
    """
    try:
        if data_dir.stat().st_uid != os.geteuid():
            return False
        write_json(data_dir / TOLD_FILE, {"changes": len(CHANGES)})
    except OSError:
        return False
    return True
