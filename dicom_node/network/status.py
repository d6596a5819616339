"""What the answers of another AE mean, in words for a hospital's IT: one set of tables for everything that calls."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dicom_node.log import printable


class Verdict(StrEnum):
    """What a C-STORE status means for the object."""

    STORED = "stored"
    REFUSED = "refused"  # permanently: the same object would get the same answer again
    LATER = "later"  # another try may succeed


@dataclass(frozen=True, slots=True)
class Status:
    """One DIMSE status, or a range of them, as an answer to a C-STORE; ``source`` is where the standard defines it."""

    first: int
    last: int
    verdict: Verdict
    text: str
    source: str


_STORE = "PS3.4 table B.2-1"
_GENERAL = "PS3.7 9.1.1.1.9 and annex C"

#: The first row that fits counts, so a single status stands before the range that holds it.
STATUSES = (
    Status(0x0000, 0x0000, Verdict.STORED, "success", _STORE),
    Status(0x0110, 0x0110, Verdict.LATER, "processing failure: an error inside it", _GENERAL),
    Status(0x0111, 0x0111, Verdict.LATER, "duplicate SOP instance", _GENERAL),
    Status(0x0117, 0x0117, Verdict.REFUSED, "invalid SOP instance UID", _GENERAL),
    Status(0x0122, 0x0122, Verdict.REFUSED, "SOP class not supported", _GENERAL),
    Status(0x0124, 0x0124, Verdict.REFUSED, "not authorized", _GENERAL),
    Status(0x0210, 0x0210, Verdict.LATER, "duplicate invocation", _GENERAL),
    Status(0x0211, 0x0211, Verdict.LATER, "unrecognized operation", _GENERAL),
    Status(0x0212, 0x0212, Verdict.LATER, "mistyped argument", _GENERAL),
    Status(0x0213, 0x0213, Verdict.LATER, "resource limitation", _GENERAL),
    Status(0xFE00, 0xFE00, Verdict.LATER, "cancelled", _GENERAL),
    Status(0xB000, 0xB000, Verdict.STORED, "it changed attributes (coercion of data elements)", _STORE),
    Status(0xB006, 0xB006, Verdict.STORED, "it dropped attributes (elements discarded)", _STORE),
    Status(0xB007, 0xB007, Verdict.STORED, "the data set does not match its SOP class", _STORE),
    Status(0xA700, 0xA7FF, Verdict.LATER, "out of resources", _STORE),
    Status(0xA900, 0xA9FF, Verdict.REFUSED, "the data set does not match its SOP class", _STORE),
    Status(0xB000, 0xBFFF, Verdict.STORED, "a warning of its own", "PS3.7 annex C"),
    Status(0xC000, 0xCFFF, Verdict.REFUSED, "it cannot understand or process it", _STORE),
)
_UNKNOWN = Status(0x0000, 0xFFFF, Verdict.LATER, "a status outside the standard", "none")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an association is rejected, by source and diagnostic of the A-ASSOCIATE-RJ, and what to do (empty: nothing).

    The texts have fields for our AE title, theirs, and the name of the peer in the configuration.
    """

    source: int
    diagnostic: int
    why: str
    fix: str = ""


#: PS3.8 9.3.4, table 9-21. Source 1: the service user, 2: the service provider (ACSE), 3: the provider (presentation).
REJECTIONS = (
    Rejection(1, 1, "it gives no reason", "often it does not know our AE title {ours!r} or this machine's address"),
    Rejection(1, 2, "it does not support DICOM's application context"),
    Rejection(1, 3, "it does not know our AE title {ours!r}", "add it to the PACS"),
    Rejection(1, 7, "it does not answer to AE title {theirs!r}", "correct ae_title of peer {peer}"),
    Rejection(2, 1, "its DICOM layer gives no reason"),
    Rejection(2, 2, "it does not support DICOM's protocol version"),
    Rejection(3, 1, "it is congested"),
    Rejection(3, 2, "it has reached its limit of associations"),
)

#: Reasons of an A-ABORT of the service provider (PS3.8 9.3.8, table 9-26).
ABORTS = {
    0: "no reason given",
    1: "it did not recognise what we sent",
    2: "it did not expect what we sent",
    4: "it did not recognise a parameter",
    5: "it did not expect a parameter",
    6: "a parameter had a value that it does not take",
}

#: Results of a presentation context (PS3.8 9.3.3.2, table 9-18).
CONTEXT_RESULTS = {
    0: "acceptance",
    1: "user-rejection",
    2: "no-reason (provider rejection)",
    3: "abstract-syntax-not-supported",
    4: "transfer-syntaxes-not-supported",
}


def verdict(status: int) -> Verdict:
    """What a C-STORE status means for the object; a status outside the standard may change at another try."""
    return _known(status).verdict


def status_text(status: int) -> str:
    """A DIMSE status as four hexadecimal digits and its meaning for a C-STORE."""
    return f"{status:04X}, {_known(status).text}"


def comment(response: Any) -> str:
    """What the peer itself says beside a status: Error Comment and Offending Element (PS3.7 annex C); may be empty.

    ``response`` is the data set of the response's elements. It comes from a stranger: its values may be of any kind.
    """
    try:
        said = printable(str(response.get("ErrorComment") or ""), 64)
        elements = response.get("OffendingElement") or []
        tags = ", ".join(str(tag) for tag in (elements if hasattr(elements, "append") else [elements]))
    except Exception:  # pydicom raises nearly anything on bytes that are no value
        return ""
    return (f"; it says {said!r}" if said else "") + (f"; offending elements: {printable(tags, 128)}" if tags else "")


def rejection(source: int, diagnostic: int, *, ours: str, theirs: str, peer: str) -> tuple[str, str]:
    """Why an association was rejected, and what to do about it (empty: nothing is known to help).

    Args:
        source: of the A-ASSOCIATE-RJ (PS3.8 9.3.4).
        diagnostic: its reason.
        ours: our AE title.
        theirs: the AE title that was called.
        peer: the name of the peer in the configuration.
    """
    for row in REJECTIONS:
        if (row.source, row.diagnostic) == (source, diagnostic):
            return row.why.format(ours=ours, theirs=theirs), row.fix.format(ours=ours, peer=peer)
    return f"reason {diagnostic}", ""


def abort(source: int, reason: int) -> str:
    """Who aborted an association and why (PS3.8 9.3.8); only the service provider (source 2) gives reasons."""
    if source == 2:
        return f"its DICOM layer aborted: {ABORTS.get(reason, f'reason {reason}')}"
    return "its application aborted without a reason"


def _known(status: int) -> Status:
    return next((row for row in STATUSES if row.first <= status <= row.last), _UNKNOWN)
