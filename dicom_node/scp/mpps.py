"""The MPPS SCP (PS3.4 annex F): a modality says that it began a procedure step, and at its end what it made.

It is the best evidence there is that a study is complete: the modality names every instance. What it says is kept
beside the studies and changes none of them; `studies.Completer` holds it against what has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset

from dicom_node.dicom.attributes import is_uid, items, uid_of
from dicom_node.index.index import Index
from dicom_node.log import logger, where

_BEGUN, _ENDED = "IN PROGRESS", ("COMPLETED", "DISCONTINUED")
_MOST_STUDIES = 10  # of one step
_NO_LONGER = 0xA501  # PS3.4 table F.7.2-2: the error ID of a step that has ended


class Steps:
    """Serves N-CREATE and N-SET; ``on_end`` is called when a step has ended."""

    def __init__(self, index: Index, *, on_end: Callable[[], None], clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._on_end = on_end
        self._clock = clock

    def begun(self, event: Any, calling_ae: str) -> tuple[int, None]:
        """Serve N-CREATE: a step begins."""
        uid = str(event.request.AffectedSOPInstanceUID or "")
        if not is_uid(uid):
            return 0x0117, None
        try:
            attributes = event.attribute_list
            state = str(attributes.get("PerformedProcedureStepStatus", ""))
            scheduled = items(attributes, "ScheduledStepAttributesSequence")
            studies = {uid_of(item, "StudyInstanceUID") for item in scheduled[:_MOST_STUDIES]}
        except Exception as error:  # whatever pydicom raises on hostile bytes
            return _unreadable(uid, error), None
        if not studies:
            return 0x0120, None  # missing attribute
        if state != _BEGUN:
            return 0x0106, None  # invalid attribute value
        if not self._index.add_step(uid, studies, calling_ae, self._clock()):
            return 0x0111, None  # duplicate SOP instance
        for study in studies:
            logger().info("step.begun", instance=uid, study=study)
        return 0x0000, None

    def changed(self, event: Any) -> tuple[int | Dataset, None]:
        """Serve N-SET: what a step made, and that it ended."""
        uid = str(event.request.RequestedSOPInstanceUID or "")
        before = self._index.step_state(uid) if is_uid(uid) else None
        if before is None:
            return 0x0112, None  # no such SOP instance
        if before in _ENDED:
            status = Dataset()
            status.Status, status.ErrorID = 0x0110, _NO_LONGER
            status.ErrorComment = "the performed procedure step has ended"
            return status, None
        try:
            changes = event.modification_list
            state = str(changes.get("PerformedProcedureStepStatus", _BEGUN))
            instances = _made(changes)
        except Exception as error:  # as above
            return _unreadable(uid, error), None
        if state not in (_BEGUN, *_ENDED):
            return 0x0106, None
        self._index.change_step(uid, state, instances, self._clock())
        if state in _ENDED:
            logger().info("step.ended", instance=uid, reason=state.lower(), objects=len(instances or ()))
            self._on_end()
        return 0x0000, None


def _made(changes: Dataset) -> set[str] | None:
    """Every instance that a step made (PS3.3 table C.4-15), None where nothing is said of that."""
    if "PerformedSeriesSequence" not in changes:
        return None
    return {
        uid_of(reference, "ReferencedSOPInstanceUID")
        for series in items(changes, "PerformedSeriesSequence")
        for kind in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
        for reference in items(series, kind)
    }


def _unreadable(uid: str, error: Exception) -> int:
    logger().warning("step.refused", instance=uid, reason="what the modality says cannot be read", error=where(error))
    return 0x0106  # invalid attribute value
