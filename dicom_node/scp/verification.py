"""The Verification SCP (PS3.4 annex A): C-ECHO."""

from __future__ import annotations

from typing import Any

from pynetdicom import DEFAULT_TRANSFER_SYNTAXES
from pynetdicom.sop_class import Verification

from dicom_node.network import dimse
from dicom_node.network.upper_layer import INVALID_PARAMETER, ViolationError
from dicom_node.scp.service import CollectingService, Request, Supported


class VerificationSCP(CollectingService):
    """Answers every C-ECHO 0000, also on the presentation context of another SOP class."""

    supported = (Supported(Verification, tuple(DEFAULT_TRANSFER_SYNTAXES)),)
    commands = frozenset({dimse.C_ECHO_RQ})
    on_any_context = True

    def serve(self, request: Request) -> list[Any]:
        """Answer a C-ECHO.

        Raises:
            ViolationError: it names another SOP class than Verification.
        """
        if request.message.AffectedSOPClassUID != Verification:
            raise ViolationError(INVALID_PARAMETER, "a C-ECHO of another SOP class than Verification")
        return [request.answer(0x0000)]
