"""The parts of hostile inputs: bytes of PDUs and commands, harmful texts and numbers, and random changes of bytes.

Everything is random and reproducible: the same seed and the same number of an input give the same bytes.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

AE_TITLE = b"FUZZED"
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
APPLICATION = b"1.2.840.10008.3.1.1.1"
VERIFICATION = b"1.2.840.10008.1.1"
CR = ComputedRadiographyImageStorage.encode()
MPPS = b"1.2.840.10008.3.1.2.3.3"
COMMITMENT = b"1.2.840.10008.1.20.1"
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}".encode() for number in (1, 2, 3))
WORKLIST = b"1.2.840.10008.5.1.4.31"
PRIVATE = b"1.2.276.0.7230010.99.1"

MARK = b"MARKED"
"""Stands in every name and description of a data set: none of them may be logged or answered."""

# The presentation contexts of every association that is opened to bring further inputs.
ECHO, COMPRESSED = 1, 11
STORES: dict[int, str] = {
    3: ImplicitVRLittleEndian,
    5: ExplicitVRLittleEndian,
    7: ExplicitVRBigEndian,
    9: DeflatedExplicitVRLittleEndian,
    COMPRESSED: JPEGLSLossless,
}
CONTEXTS: dict[int, tuple[bytes, bytes]] = {
    ECHO: (VERIFICATION, ImplicitVRLittleEndian.encode()),
    **{context: (CR, syntax.encode()) for context, syntax in STORES.items()},
    **{
        context: (sop_class, ImplicitVRLittleEndian.encode())
        for context, sop_class in zip(range(13, 25, 2), (MPPS, COMMITMENT, FIND, MOVE, GET, WORKLIST), strict=True)
    },
}
CONTEXT_OF = {sop_class: context for context, (sop_class, _) in CONTEXTS.items() if sop_class != CR}
PROBE = 0xFFFF  # the Message ID of the C-ECHO behind an input, which tells that the node goes on

SIZES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 255, 256, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000]
SIZES += [0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF]
UIDS = [
    *(
        b"",
        b" ",
        b"\0",
        b".",
        b"..",
        b"1.",
        b".1",
        b"1..2",
        b"-1",
        b"1.2.-3",
        b"1,2",
        b"0x1.2",
        b"1.2.3\n4",
        b"*",
        b"?",
    ),
    *(b"../../evil", b"../../../../../../tmp/evil", b"/tmp/evil", b"..\\..\\evil", b"1.2/../../../evil", b"1.2.3/"),
    *(b"1.2.3\0.4", b"\x001.2.3", b"1.2.3\0../../evil", b"1.2.3.dcm", b"C:\\evil", b"file:///etc/passwd", b"~/evil"),
    *(
        b"1" * 64,
        b"1" * 65,
        b"1." * 40 + b"1",
        b"1" * 5000,
        b"9" * 30000,
        b"\xff\xfe1.2",
        "१.२.३".encode(),
        b"1.2\\1.3",
    ),
    *(b"'; DROP TABLE instances; --", b"<script>alert(1)</script>", b"%s%s%n", b"${jndi:ldap://x}", b"{0.__class__}"),
    *(
        b"\x1b[2J",
        b"\r\n\r\n",
        b"1.2.840.10008.1.1",
        b"00.01.002",
        b"1.2.3 ",
        b" 1.2.3",
        b"CON",
        b"NUL",
        b"[red]1[/blue]",
    ),
]
TEXTS = [
    *(
        b"<script>alert('x')</script>",
        b"<img src=x onerror=alert(1)>",
        b"Robert'); DROP TABLE studies;--",
        b"' OR 1=1 --",
    ),
    *(
        b"A^B^C^D^E^F=G=H=I=J",
        b"\\" * 50,
        b"=" * 50,
        b"^" * 50,
        b"\0" * 8,
        b"a\0b",
        b"\x1b[31mred\x1b[0m",
        b"\x1b]0;x\x07",
    ),
    *(
        b"line\nforged: line\r",
        b"\x1b$)C\xc8\xab\xb1\xe6",
        b"\x1b$B\x3b\x33",
        b"\x1b(",
        b"\x1b",
        b"\xff" * 40,
        b"\xc3\x28",
    ),
    *(
        b"$(touch evil)",
        b"`touch evil`",
        b"; touch evil",
        b"| touch evil",
        b"../../evil",
        b"%n%s%x",
        b"{0}{1}",
        b"[/red][b]",
    ),
    *(
        "\u202eflipped\u2066".encode(),
        "😀\u0000".encode(),
        "é".encode("latin-1"),
        b"\xed\xa0\x80",
        b"=cmd|' /C calc'!A0",
    ),
    *(b"x" * 65, b"x" * 1025, b"x" * 17000, b"1\\" * 600, b""),
]
CHARSETS = [b"", b"ISO_IR 100", b"ISO_IR 192", b"GB18030", b"\\ISO 2022 IR 149", b"ISO 2022 IR 87\\ISO 2022 IR 13"]
CHARSETS += [
    b"\\" * 60,
    b"NONE SUCH",
    b"\xff\xfe",
    b"ISO_IR 192\\GB18030",
    b"ISO 2022 IR 58\\" * 40,
    b"utf-7",
    b"idna",
    b"\0",
]


@dataclass(frozen=True, slots=True)
class Input:
    """What is sent at once.

    ``alone``: on a connection of its own. ``ends``: nothing more is sent behind it, since what it says of lengths may
    swallow that. ``quiet``: it may be left without an answer. ``data_sets``: the data set of each C-STORE by its
    Message ID. ``good``: every one of them, and at least one, is to be answered 0000.
    """

    data: bytes
    alone: bool = False
    ends: bool = False
    quiet: bool = False
    data_sets: Mapping[int, bytes] = field(default_factory=dict)
    good: bool = False


@dataclass(slots=True)
class Dice:
    """What an input is drawn from, and the UIDs that are its own."""

    random: random.Random
    seed: int
    number: int
    uids: int = 0

    def uid(self) -> bytes:
        """A valid UID that no other input has."""
        self.uids += 1
        return f"1.2.826.0.1.3680043.8.498.2.{self.seed}.{self.number}.{self.uids}".encode()

    def study(self) -> bytes:
        """A study that some inputs share."""
        return f"1.2.826.0.1.3680043.8.498.3.{self.seed}.{self.number // 50}".encode()

    def any(self, choices: Sequence[bytes]) -> bytes:
        """One of them."""
        return self.random.choice(choices)

    def size(self, true: int) -> int:
        """A length that lies (32 bit)."""
        if self.random.random() < 0.5:
            return max(true + self.random.choice([-8, -4, -2, -1, 1, 2, 4, 8]), 0)
        return self.random.choice(SIZES)

    def noise(self, most: int) -> bytes:
        """Any bytes."""
        return self.random.randbytes(self.random.randint(0, most))


Maker = Callable[[Dice], Input]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of input: what it is called in the table, how often it is drawn beside the others, and what makes it."""

    name: str
    weight: float
    make: Maker


def changed(dice: Dice, data: bytes, most: int = 4) -> bytes:
    """The bytes with a few random changes: overwritten, inserted, left out, doubled, cut."""
    found = bytearray(data)
    for _ in range(dice.random.randint(1, most)):
        at = dice.random.randint(0, len(found))
        match dice.random.randrange(6):
            case 0:
                found[at : at + 1] = bytes((dice.random.randrange(256),))
            case 1:
                number = dice.random.choice(SIZES)
                width, order = dice.random.choice([2, 4]), dice.random.choice("<>")
                found[at : at + width] = struct.pack(order + "I", number)[-width:]
            case 2:
                found[at:at] = dice.noise(12)
            case 3:
                del found[at : at + dice.random.randint(1, 12)]
            case 4:
                found[at:at] = found[at : at + dice.random.randint(1, 40)]
            case _:
                if dice.random.random() < 0.3:
                    del found[at:]
                elif at < len(found):
                    found[at] ^= 1 << dice.random.randrange(8)
    return bytes(found)


# -- PDUs (PS3.8 9.3)


def pdu(kind: int, body: bytes, size: int | None = None) -> bytes:
    """A PDU; ``size`` is what it says of its length where that is not true."""
    return struct.pack(">BxI", kind, (len(body) if size is None else size) & 0xFFFFFFFF) + body


def pdv(context: int, control: int, data: bytes, size: int | None = None) -> bytes:
    """A fragment; ``control``: 1 command, 2 last."""
    return struct.pack(">IBB", (len(data) + 2 if size is None else size) & 0xFFFFFFFF, context, control) + data


def item(kind: int, body: bytes, size: int | None = None) -> bytes:
    """An item of an A-ASSOCIATE-RQ."""
    return struct.pack(">BxH", kind, (len(body) if size is None else size) & 0xFFFF) + body


def context_item(context: int, sop_class: bytes, *syntaxes: bytes) -> bytes:
    """A proposed presentation context."""
    names = item(0x30, sop_class) + b"".join(item(0x40, syntax) for syntax in syntaxes)
    return item(0x20, bytes((context & 0xFF, 0, 0, 0)) + names)


def associate_rq(
    *,
    contexts: bytes | None = None,
    user: bytes | None = None,
    called: bytes = AE_TITLE,
    calling: bytes = b"FUZZER",
    application: bytes = APPLICATION,
    version: int = 1,
) -> bytes:
    """The body of an A-ASSOCIATE-RQ; ``contexts`` and ``user`` are its items."""
    if contexts is None:
        contexts = b"".join(context_item(number, *names) for number, names in CONTEXTS.items())
    if user is None:
        user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.826.0.1.3680043.8.498.1")
    titles = called.ljust(16)[:16] + calling.ljust(16)[:16]
    return struct.pack(">Hxx", version) + titles + bytes(32) + item(0x10, application) + contexts + item(0x50, user)


RELEASE = pdu(RELEASE_RQ, bytes(4))


def message(context: int, command: bytes, data_set: bytes | None = None, *, longest: int = 16384) -> bytes:
    """A DIMSE message in PDUs of a fragment each."""
    sent = bytearray()
    for control, data in ((1, command), (0, data_set)):
        if data is None:
            continue
        for at in range(0, max(len(data), 1), longest):
            last = 2 * (at + longest >= len(data))
            sent += pdu(P_DATA, pdv(context, control | last, data[at : at + longest]))
    return bytes(sent)


# -- commands (PS3.7 E.1)

Elements = dict[int, bytes]


def us(number: int) -> bytes:
    """A number of 16 bits."""
    return struct.pack("<H", number)


def command_set(elements: Mapping[int, bytes], *, group_length: int | None = None) -> bytes:
    """A command set, its elements in the order given."""
    rest = b"".join(element(number, value) for number, value in elements.items())
    return element(0, struct.pack("<I", len(rest) if group_length is None else group_length)) + rest


def element(number: int, value: bytes, size: int | None = None, group: int = 0) -> bytes:
    """An element of a command set."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value) if size is None else size) + value


def store_rq(uid: bytes, number: int = 1, sop_class: bytes = CR) -> Elements:
    """The elements of a C-STORE request."""
    return {0x0002: sop_class, 0x0100: us(1), 0x0110: us(number), 0x0700: us(2), 0x0800: us(1), 0x1000: uid}


def echo_rq(number: int) -> Elements:
    """The elements of a C-ECHO request."""
    return {0x0002: VERIFICATION, 0x0100: us(0x30), 0x0110: us(number), 0x0800: us(0x0101)}


PROBE_MESSAGE = message(ECHO, command_set(echo_rq(PROBE)))


def stored(context: int, uid: bytes, data_set: bytes, *, good: bool = False, longest: int = 16384) -> Input:
    """A C-STORE that is as it should be but for its data set, or wholly."""
    data = message(context, command_set(store_rq(uid)), data_set, longest=longest)
    return Input(data, data_sets={1: data_set}, good=good)
