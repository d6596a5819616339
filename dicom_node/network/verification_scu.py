"""The Verification SCU: C-ECHO (PS3.4 annex A)."""

from __future__ import annotations

from pynetdicom.sop_class import Verification

from dicom_node.network.requestor import Requestor

VERIFICATION = str(Verification)


def echo(requestor: Requestor) -> int | None:
    """The status of a C-ECHO; None if there was no answer, or the peer ended the association.

    Raises:
        AssociationError: there is no association.
    """
    association = requestor.open()
    try:
        response = association.send_c_echo()
    except (RuntimeError, ValueError):  # the association is gone, or it is for other services
        return None
    return int(response.Status) if "Status" in response else None
