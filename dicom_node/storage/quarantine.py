"""The quarantine: images that came changed from somebody who may not correct them, until an administrator decides.

Each is durable before it is answered, and the index knows it. It has room for `MOST` contradictions and `MOST_BYTES`;
when it is full, such images are refused. `operations.quarantine` accepts and drops.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NoReturn

from dicom_node.errors import Refused
from dicom_node.index.index import Index
from dicom_node.index.rows import Change, NewInstance
from dicom_node.log import logger
from dicom_node.storage.corrections import end_alike
from dicom_node.storage.incoming import Incoming
from dicom_node.storage.spool import Spool

MOST = 1000
"""Contradictions that may wait."""
MOST_BYTES = 4_000_000_000
"""Bytes of images that may wait."""

NOT_AUTHORIZED = "Not the first sender's: kept in quarantine for an administrator"
"""The Error Comment (0000,0902) of an answer 0124: at most 64 characters (LO)."""
_FULL = "the quarantine is full: decide with dicom-node quarantine list, accept and drop"


class Quarantine:
    """Holds images. Of one SOP Instance UID one thread at a time may call it."""

    def __init__(self, index: Index, spool: Spool) -> None:
        self._index = index
        self._spool = spool

    def refuse_if_full(self, study: str, other: str) -> None:
        """Refuse an image of two studies if no further contradiction has room.

        Raises:
            Refused: C001.
        """
        if self._index.contradicts(study, other):
            return  # one entry is enough for two studies
        if self._index.quarantined()[0] >= MOST:
            raise Refused(0xC001, f"its SOP Instance UID is that of an instance of another study, and {_FULL}")

    def hold(
        self, incoming: Incoming, new: NewInstance, record: bytes, compared: int, change: Change, *, now: float
    ) -> NoReturn:
        """Keep a received image and answer that its sender may not correct the stored one.

        Args:
            incoming: the received image.
            new: what the index is to know of it, without the file.
            record: the preamble of the file (`storage.record`).
            compared: the edition that it was compared with, and
            change: what that says.
            now: epoch seconds.

        Raises:
            Refused: 0124, it is kept; C001, there is no room for it.
            OSError, sqlite3.Error: it is not kept.
        """
        for file in self._index.quarantined_files(new.study, new.sop_instance_uid):
            path = self._spool.path(file)
            if path.is_file() and end_alike(path, Path(incoming.part.path), incoming.data_set_bytes):
                raise self._answer(new, "it is in quarantine already")
        count, size = self._index.quarantined()
        if count >= MOST or size + new.bytes > MOST_BYTES:
            raise Refused(0xC001, f"it differs from the stored image, which another sent, and {_FULL}")
        file = self._spool.place_in_quarantine(incoming.part, record, new.sop_instance_uid)
        try:
            self._index.hold(dataclasses.replace(new, file=file), compared, change, now)
        except BaseException:
            self._spool.remove_placed(incoming.part, file)
            raise
        raise self._answer(new, "it is kept in quarantine: dicom-node quarantine list")

    @staticmethod
    def _answer(new: NewInstance, what: str) -> Refused:
        reason = f"it differs from the stored image, which another peer sent, and its sender may not correct it; {what}"
        logger().warning("instance.contradicted", study=new.study, instance=new.sop_instance_uid, reason=reason)
        return Refused(0x0124, reason, NOT_AUTHORIZED)
