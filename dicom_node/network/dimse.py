"""Command sets of DIMSE messages (PS3.7 6.3): decoded when they come, and encoded as responses without a data set.

`decode` and `response` are made for C-STORE, of which many come; `primitive` decodes the messages of every service.
Every command set is Implicit VR Little Endian (PS3.7 6.3.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
#: Of the normalized services (PS3.7 10.1).
N_EVENT_REPORT_RQ, N_SET_RQ, N_ACTION_RQ, N_CREATE_RQ, N_EVENT_REPORT_RSP = 0x0100, 0x0120, 0x0130, 0x0140, 0x8100
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000  # the bit that the Command Field of every response has
_NO_DATA_SET = 0x0101

_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")
_AFFECTED_CLASS, _FIELD, _MESSAGE_ID, _RESPONDS_TO = 0x0002, 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _AFFECTED_INSTANCE = 0x0800, 0x1000


@dataclass(frozen=True, slots=True)
class Command:
    """What matters here of a command set; the UIDs are as they came, not checked, empty where there is none."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class: bytes
    sop_instance: bytes
    responds_to: int = 0  # Message ID Being Responded To, of a response or a C-CANCEL

    @property
    def sop_class_uid(self) -> str:
        """Affected SOP Class UID without its padding."""
        return self.sop_class.decode("latin-1").strip(" \0")

    @property
    def sop_instance_uid(self) -> str:
        """Affected SOP Instance UID without its padding."""
        return self.sop_instance.decode("latin-1").strip(" \0")


def decode(command_set: bytes | bytearray) -> Command:
    """Decode a command set.

    Raises:
        ValueError: it cannot be parsed, or has no Command Field or Data Set Type.
    """
    found: dict[int, bytes] = {}
    at, end = 0, len(command_set)
    while at < end:
        if end - at < _ELEMENT.size:
            raise ValueError("the command set ends within an element")
        group, element, length = _ELEMENT.unpack_from(command_set, at)
        at += _ELEMENT.size
        if group != 0x0000 or length > end - at:
            raise ValueError("the command set has an element of another group, or one that is longer than it")
        found[element] = bytes(command_set[at : at + length])
        at += length
    try:
        return Command(
            field=_US.unpack(found[_FIELD])[0],
            # A response has the identifier of what it answers instead; neither is needed but for answering.
            message_id=_US.unpack(found.get(_MESSAGE_ID, b"\0\0"))[0],
            has_data_set=_US.unpack(found[_DATA_SET_TYPE])[0] != _NO_DATA_SET,
            sop_class=found.get(_AFFECTED_CLASS, b""),
            sop_instance=found.get(_AFFECTED_INSTANCE, b""),
            responds_to=_US.unpack(found.get(_RESPONDS_TO, b"\0\0"))[0],
        )
    except (KeyError, struct.error) as error:
        raise ValueError("the command set has no valid Command Field, Message ID or Data Set Type") from error


def primitive(command_set: bytes | bytearray) -> Any:
    """Decode a command set as pynetdicom's DIMSE primitive; a data set is not part of it.

    Raises:
        ValueError: it cannot be decoded.
    """
    data, message = P_DATA(), DIMSEMessage()
    try:
        data.presentation_data_value_list = [[1, b"\x03" + command_set]]  # a whole command (PS3.8 E.2), on any context
        message.decode_msg(data)
        return message.message_to_primitive()
    except Exception as error:  # whatever pynetdicom and pydicom raise on hostile values
        raise ValueError("the command set cannot be decoded") from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response says: its status (PS3.4 B.2.3), and an Error Comment (0000,0902) of at most 64 characters."""

    status: int
    comment: str = ""


def response(context: int, command: Command, answer: Answer, longest_pdu: int) -> bytes:
    """The P-DATA-TF PDUs of a response that has no data set, as of C-STORE.

    Args:
        context: id of the presentation context that the request came on.
        command: the request's.
        answer: the status, and what it says beside it.
        longest_pdu: bytes that the other side takes behind a PDU's header (PS3.8 D.1.1); 0: any.
    """
    rest = b"".join(
        (
            _element(_AFFECTED_CLASS, command.sop_class) if command.sop_class else b"",
            _element(_FIELD, _US.pack(command.field | RESPONSE)),
            _element(_RESPONDS_TO, _US.pack(command.message_id)),
            _element(_DATA_SET_TYPE, _US.pack(_NO_DATA_SET)),
            _element(0x0900, _US.pack(answer.status)),
            _element(0x0902, answer.comment.encode("ascii", "replace")[:64], b" ") if answer.comment else b"",
            _element(_AFFECTED_INSTANCE, command.sop_instance) if command.sop_instance else b"",
        )
    )
    command_set = _element(0x0000, struct.pack("<I", len(rest))) + rest
    room = max(longest_pdu - 6, 1) if longest_pdu else len(command_set)
    pdus = []
    for at in range(0, len(command_set), room):
        piece = command_set[at : at + room]
        control = 0x03 if at + room >= len(command_set) else 0x01
        pdus.append(struct.pack(">BxIIBB", 0x04, len(piece) + 6, len(piece) + 2, context, control) + piece)
    return b"".join(pdus)


def _element(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    padded = value + padding * (len(value) % 2)
    return _ELEMENT.pack(0x0000, number, len(padded)) + padded
