"""The MPPS SCP (PS3.4 annex F): a modality reports that a procedure step begins, and at its end the instances it made.

It is the best evidence that a study is complete, because the modality names every instance. What it reports is kept
beside the studies and changes none of them: `studies.completion` compares it with the instances that have come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_CREATE
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from dicom_node.dicom.attributes import is_uid, items, uid_of
from dicom_node.index.index import Index
from dicom_node.log import logger, where
from dicom_node.network import dimse
from dicom_node.scp.service import CollectingService, Request, Supported

_IN_PROGRESS, _ENDED = "IN PROGRESS", ("COMPLETED", "DISCONTINUED")
_MOST_STUDIES = 10  # of one step
_NO_LONGER = 0xA501  # PS3.4 table F.7.2-2: the error ID of a step that has ended


class MPPS(CollectingService):
    """Serves N-CREATE and N-SET of procedure steps; ``on_end`` is called when a step has ended.

    It answers (PS3.7 annex C):

    ======  =========================================================================================
    status  when
    ======  =========================================================================================
    0000    recorded
    0106    the data set cannot be read, or names a status that a step cannot have then
    0110    N-SET: the step has ended (error ID A501); or an unexpected error of ours
    0111    N-CREATE: the step exists already
    0112    N-SET: the step does not exist
    0117    N-CREATE: the SOP Instance UID breaks the rules for UIDs
    0120    N-CREATE: no study is named
    0124    the caller may not store (``may_store = false``)
    ======  =========================================================================================
    """

    supported = (Supported(ModalityPerformedProcedureStep),)
    commands = frozenset({dimse.N_CREATE_RQ, dimse.N_SET_RQ})

    def __init__(self, index: Index, *, on_end: Callable[[], None], clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._on_end = on_end
        self._clock = clock

    def serve(self, request: Request) -> list[Any]:
        """Answer an N-CREATE or N-SET."""
        if not request.peer.may_store:
            logger().warning("step.refused", reason="the caller may not store (may_store = false)")
            return [request.answer(0x0124)]
        if isinstance(request.message, N_CREATE):
            return [request.answer(self._create(request))]
        return [self._set(request)]

    def _create(self, request: Request) -> int:
        """Record that a step begins; returns the status."""
        uid = str(request.message.AffectedSOPInstanceUID or "")
        if not is_uid(uid):
            return 0x0117
        try:
            attributes = request.data_set()
            state = str(attributes.get("PerformedProcedureStepStatus", ""))
            scheduled = items(attributes, "ScheduledStepAttributesSequence")
            studies = {uid_of(item, "StudyInstanceUID") for item in scheduled[:_MOST_STUDIES]}
        except Exception as error:  # whatever pydicom raises on hostile bytes
            return _unreadable(uid, error)
        if not studies:
            return 0x0120
        if state != _IN_PROGRESS:
            return 0x0106
        if not self._index.add_step(uid, studies, request.peer.ae_title, self._clock()):
            return 0x0111
        for study in studies:
            logger().info("step.begun", instance=uid, study=study)
        return 0x0000

    def _set(self, request: Request) -> Any:
        """Record what a step made, or that it ended; returns the response."""
        uid = str(request.message.RequestedSOPInstanceUID or "")
        before = self._index.step_state(uid) if is_uid(uid) else None
        if before is None:
            return request.answer(0x0112)
        if before in _ENDED:
            return request.answer(0x0110, ErrorID=_NO_LONGER, ErrorComment="the performed procedure step has ended")
        try:
            changes = request.data_set()
            state = str(changes.get("PerformedProcedureStepStatus", _IN_PROGRESS))
            instances = _made(changes)
        except Exception as error:  # as above
            return request.answer(_unreadable(uid, error))
        if state not in (_IN_PROGRESS, *_ENDED):
            return request.answer(0x0106)
        self._index.change_step(uid, state, instances, self._clock())
        if state in _ENDED:
            logger().info("step.ended", instance=uid, reason=state.lower(), objects=len(instances or ()))
            self._on_end()
        return request.answer(0x0000)


def _made(changes: Dataset) -> set[str] | None:
    """Every instance that a step made (PS3.3 table C.4-15), None if it names none."""
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
