"""What the answers of another AE mean, in words for a hospital's IT: one table for whoever calls a PACS."""

from __future__ import annotations

from enum import StrEnum

# Result source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 table 9-21): why, and what to do about it.
_REJECTIONS = {
    (1, 1): ("it gives no reason", "often it does not know our AE title {ours!r} or this machine's address"),
    (1, 2): ("it does not support DICOM's application context", ""),
    (1, 3): ("it does not know our AE title {ours!r}", "add it to the PACS"),
    (1, 7): ("it does not answer to AE title {theirs!r}", "correct ae_title of peer {peer}"),
    (2, 1): ("its DICOM layer gives no reason", ""),
    (2, 2): ("it does not support DICOM's protocol version", ""),
    (3, 1): ("it is congested", ""),
    (3, 2): ("it has reached its limit of associations", ""),
}
# Provider reasons of an A-ABORT (PS3.8 table 9-26).
_ABORTS = {
    0: "no reason given",
    1: "it did not recognise what we sent",
    2: "it did not expect what we sent",
    4: "it did not recognise a parameter",
    5: "it did not expect a parameter",
    6: "a parameter had a value that it does not take",
}
# Results of a presentation context (PS3.8 table 9-18).
CONTEXT_RESULTS = {
    0: "acceptance",
    1: "user-rejection",
    2: "no-reason (provider rejection)",
    3: "abstract-syntax-not-supported",
    4: "transfer-syntaxes-not-supported",
}
# PS3.4 table B.2-1, and the statuses of PS3.7 annex C that any service may answer.
_STATUSES = {
    0x0000: "success",
    0x0110: "processing failure: an error inside it",
    0x0111: "duplicate SOP instance",
    0x0117: "invalid SOP instance UID",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "it changed attributes (coercion of data elements)",
    0xB006: "it dropped attributes (elements discarded)",
    0xB007: "the data set does not match its SOP class",
    0xFE00: "cancelled",
}
_FAMILIES = (
    (0xFF00, 0xA700, "out of resources"),
    (0xFF00, 0xA900, "the data set does not match its SOP class"),
    (0xF000, 0xC000, "it cannot understand or process it"),
    (0xF000, 0xB000, "a warning of its own"),
)
_FINAL = frozenset({0x0117, 0x0122, 0x0124})


class Verdict(StrEnum):
    """What a C-STORE status (PS3.4 B.2.3, PS3.7 C.5) means for the object."""

    STORED = "stored"
    REFUSED = "refused"  # for good: another try would be answered the same
    LATER = "later"  # it may go well another time


def verdict(status: int) -> Verdict:
    """What a C-STORE status says: 0000 and B0xx are stored; A9xx, Cxxx, 0117, 0122 and 0124 are refused for good."""
    if status == 0x0000 or status & 0xF000 == 0xB000:
        return Verdict.STORED
    if status & 0xFF00 == 0xA900 or status & 0xF000 == 0xC000 or status in _FINAL:
        return Verdict.REFUSED
    return Verdict.LATER


def status_text(status: int) -> str:
    """A DIMSE status as four hexadecimal digits and its meaning for a C-STORE."""
    known = _STATUSES.get(status)
    family = next((text for mask, value, text in _FAMILIES if status & mask == value), "a status outside the standard")
    return f"{status:04X}, {known or family}"


def rejection(source: int, diagnostic: int, *, ours: str, theirs: str, peer: str) -> tuple[str, str]:
    """Why an association was rejected, by the source and diagnostic of the answer, and what to do (empty: nothing).

    ``ours`` and ``theirs`` are AE titles, ``peer`` is the name in the configuration.
    """
    why, fix = _REJECTIONS.get((source, diagnostic), (f"reason {diagnostic}", ""))
    return why.format(ours=ours, theirs=theirs), fix.format(ours=ours, peer=peer)


def abort(source: int, reason: int) -> str:
    """Who ended an association by an A-ABORT and why; only the service provider (source 2) has reasons."""
    if source == 2:
        return f"its DICOM layer aborted: {_ABORTS.get(reason, f'reason {reason}')}"
    return "its application aborted without a reason"
