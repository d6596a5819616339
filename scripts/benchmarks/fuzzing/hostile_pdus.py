"""Hostile connections: association requests, PDUs and fragments that break PS3.8 in every way."""

from __future__ import annotations

import struct

from scripts.benchmarks.fuzzing.hostile import (
    ABORT,
    AE_TITLE,
    ASSOCIATE_RQ,
    COMMITMENT,
    CONTEXTS,
    CR,
    ECHO,
    MPPS,
    P_DATA,
    PROBE_MESSAGE,
    RELEASE,
    SIZES,
    STORES,
    TEXTS,
    UIDS,
    VERIFICATION,
    Dice,
    Input,
    Kind,
    associate_rq,
    changed,
    command_set,
    context_item,
    echo_rq,
    item,
    message,
    pdu,
    pdv,
    store_rq,
)
from scripts.benchmarks.fuzzing.hostile_sets import image

_FIVE = 5  # the presentation context of Explicit VR Little Endian
_LANGUAGES = ["가나다", "病院", "ÄÖÜ", "больница", "بيت"]
_NOT_DICOM = [
    *(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b"", b"\n"),
    *(b"SSH-2.0-OpenSSH_9.6\r\n", b"\0" * 600, b"\xff" * 600, b"EHLO x\r\n", b"MSH|^~\\&|A|B\r", b"\x0bMSH|\x1c\r"),
]


def _asked(body: bytes, *, size: int | None = None) -> Input:
    """A request, and what a caller does that is let in: a C-ECHO and a release."""
    return Input(pdu(ASSOCIATE_RQ, body, size) + PROBE_MESSAGE + RELEASE, alone=True, ends=True, quiet=size is not None)


def _no_dicom(dice: Dice) -> Input:
    data = dice.any(_NOT_DICOM) if dice.random.random() < 0.5 else dice.noise(400)
    return Input(data, alone=True, ends=True, quiet=True)


def _first_pdu(dice: Dice) -> Input:
    body = dice.any([b"", bytes(4), associate_rq(), dice.noise(100)])
    size = dice.size(len(body)) if dice.random.random() < 0.4 else None
    kind = dice.random.choice([*range(9), dice.random.randrange(256)])
    return Input(pdu(kind, body, size) + PROBE_MESSAGE, alone=True, ends=True, quiet=True)


def _length(dice: Dice) -> Input:
    body = associate_rq()
    return _asked(body, size=dice.size(len(body)))


def _changed_request(dice: Dice) -> Input:
    return _asked(changed(dice, associate_rq()))


def _cut_request(dice: Dice) -> Input:
    whole = pdu(ASSOCIATE_RQ, associate_rq())
    return Input(whole[: dice.random.randrange(len(whole))], alone=True, ends=True, quiet=True)


def _title(dice: Dice) -> bytes:
    match dice.random.randrange(5):
        case 0:
            return dice.any(TEXTS)[:16]
        case 1:
            return dice.any(UIDS)[:16]
        case 2:
            return dice.random.randbytes(16)
        case 3:
            return dice.random.choice(_LANGUAGES).encode(dice.random.choice(["utf-8", "utf-16", "utf-8"]))[:16]
        case _:
            return dice.any(
                [b"", bytes(16), b" " * 16, AE_TITLE + bytes(10), b" " + AE_TITLE, AE_TITLE.lower(), b"\x7f" * 16]
            )


def _titles(dice: Dice) -> Input:
    called = AE_TITLE if dice.random.random() < 0.6 else _title(dice)
    return _asked(associate_rq(calling=_title(dice), called=called))


def _contexts(dice: Dice) -> Input:
    roll = dice.random
    echo = context_item(ECHO, *CONTEXTS[ECHO])
    match roll.randrange(10):
        case 0:
            items = b"".join(
                context_item(2 * n + 1, CR, b"1.2.840.10008.1.2") for n in range(roll.choice([128, 129, 300]))
            )
        case 1:
            items = echo * roll.choice([2, 3, 50])
        case 2:
            items = echo + context_item(roll.choice([0, 2, 254]), CR, b"1.2.840.10008.1.2")
        case 3:
            items = echo + context_item(3, CR)
        case 4:
            items = echo + item(0x20, b"\x03\0\0\0" + item(0x40, b"1.2.840.10008.1.2"))
        case 5:
            items = echo + item(0x20, b"\x03\0\0\0" + 3 * item(0x30, CR) + item(0x40, b"1.2.840.10008.1.2"))
        case 6:
            items = b""
        case 7:
            items = echo + context_item(3, CR, *(f"1.2.3.{n}".encode() for n in range(roll.choice([20, 200, 2000]))))
        case 8:
            items = echo + item(0x20, dice.noise(8), roll.choice([None, *SIZES]))
        case _:
            items = echo + item(roll.choice([0x21, 0x00, 0x50, 0x10, 0xFF]), dice.noise(60))
    return _asked(associate_rq(contexts=items))


def _uids(dice: Dice) -> Input:
    def uid(good: bytes) -> bytes:
        return dice.any(UIDS) if dice.random.random() < 0.5 else good

    items = context_item(ECHO, *CONTEXTS[ECHO]) + context_item(
        3, uid(CR), uid(b"1.2.840.10008.1.2"), uid(b"1.2.840.10008.1.2.1")
    )
    application = dice.any(UIDS) if dice.random.random() < 0.2 else b"1.2.840.10008.3.1.1.1"
    return _asked(associate_rq(contexts=items, application=application))


def _sized(*values: bytes) -> bytes:
    return b"".join(struct.pack(">H", len(value)) + value for value in values)


def _user(dice: Dice) -> Input:
    roll = dice.random
    uid = dice.any([CR, VERIFICATION, MPPS, COMMITMENT, *UIDS[:20]])
    choices = [
        lambda: item(0x51, struct.pack(">I", roll.choice(SIZES))),
        lambda: item(0x51, dice.noise(8)),
        lambda: item(0x52, dice.any(UIDS)[:60000]),
        lambda: item(0x53, struct.pack(">HH", roll.choice(SIZES) & 0xFFFF, roll.choice(SIZES) & 0xFFFF)),
        lambda: item(0x53, dice.noise(8)),
        lambda: item(0x54, _sized(uid) + bytes((roll.randrange(256), roll.randrange(256)))),
        lambda: item(0x54, dice.noise(30)),
        lambda: item(0x55, dice.any(TEXTS)[:200]),
        lambda: item(0x56, _sized(uid) + dice.noise(40)),
        lambda: item(0x57, _sized(uid, uid, _sized(uid))),
        lambda: item(0x57, dice.noise(60)),
        lambda: item(
            0x58,
            bytes((roll.choice([0, 1, 2, 3, 4, 5, 6, 255]), roll.randrange(3)))
            + _sized(dice.any(TEXTS), dice.any(TEXTS)),
        ),
        lambda: item(0x58, dice.noise(30)),
        lambda: item(0x59, _sized(dice.any(TEXTS))),
        lambda: item(roll.randrange(256), dice.noise(60), roll.choice([None, None, *SIZES])),
    ]
    items = b"".join(roll.choice(choices)() for _ in range(roll.randint(1, 6)))
    if roll.random() < 0.6:
        items = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.826.0.1.3680043.8.498.1") + items
    return _asked(associate_rq(user=items))


def _version(dice: Dice) -> Input:
    return _asked(associate_rq(version=dice.random.choice([0, 1, 2, 3, 0x8000, 0xFFFE, 0xFFFF])))


def _huge_request(dice: Dice) -> Input:
    """About the longest that is read at all, of as many items as it holds, or a little more."""
    roll = dice.random
    few = context_item(ECHO, *CONTEXTS[ECHO])
    many = dice.any(
        [
            item(0x40, b"1.2.3"),
            item(0x20, b"\x03\0\0\0"),
            context_item(3, CR, b"1.2"),
            context_item(3, VERIFICATION, b"1.2.840.10008.1.2"),
        ]
    )
    count = roll.choice([60_000, 200_000, 256_000, 1_000_000]) // len(many)
    user = None
    if roll.random() < 0.4:
        user = (
            dice.any([item(0x54, _sized(CR) + b"\1\1"), item(0x56, _sized(CR)), item(0x58, b"\1\0\0\0\0\0")]) * 5000
        )[:65000]
    elif roll.random() < 0.3:
        body = bytearray(associate_rq(contexts=few))
        return _asked(bytes(body) + item(0x50, b"") * 100_000)
    return _asked(associate_rq(contexts=few + many * count, user=user))


# -- on an established association


def _any_pdu(dice: Dice) -> Input:
    roll = dice.random
    body = dice.any([b"", bytes(4), dice.noise(40), bytes(2000), associate_rq()])
    kind = roll.choice([*range(9), roll.randrange(256)])
    size = dice.size(len(body)) if roll.random() < 0.4 else None
    # A release or abort has its own end, and data that says less than it is are other PDUs.
    return Input(pdu(kind, body, size), ends=True, quiet=True)


def _abort(dice: Dice) -> Input:
    part = message(_FIVE, command_set(store_rq(dice.uid()))) if dice.random.random() < 0.5 else b""
    return Input(
        part + pdu(ABORT, bytes((0, 0, dice.random.randrange(4), dice.random.randrange(8)))), ends=True, quiet=True
    )


def _fragment_length(dice: Dice) -> Input:
    command = command_set(echo_rq(1))
    bodies = [pdv(ECHO, 3, command, dice.size(len(command) + 2))]
    if dice.random.random() < 0.5:
        bodies.insert(dice.random.randrange(2), pdv(ECHO, dice.random.randrange(4), dice.noise(20)))
    return Input(pdu(P_DATA, b"".join(bodies)), ends=True)


def _data_length(dice: Dice) -> Input:
    """A P-DATA-TF that lies about its own length, 4 GB among others."""
    body = pdv(ECHO, 3, command_set(echo_rq(1)))
    return Input(pdu(P_DATA, body, dice.size(len(body))) + PROBE_MESSAGE, ends=True, quiet=True)


def _giant(dice: Dice) -> Input:
    """An image of 4 GB, of which little comes."""
    uid, body = dice.uid(), image(dice, _FIVE)
    begun = message(_FIVE, command_set(store_rq(uid)))
    part = struct.pack(">IBB", 0xFFFFFFF9, _FIVE, dice.random.choice([0, 2])) + body + dice.noise(3000)
    return Input(begun + pdu(P_DATA, part, 0xFFFFFFFF), ends=True, quiet=True)


def _empty_fragments(dice: Dice) -> Input:
    roll, uid = dice.random, dice.uid()
    data, command = image(dice, _FIVE, uid), command_set(store_rq(uid))
    parts = []
    for control, whole in ((1, command), (0, data)):
        at = roll.randrange(len(whole))
        pieces = [b""] * roll.randrange(30) + [whole[:at]] + [b""] * roll.choice([0, 1, 3000]) + [whole[at:]]
        parts += [pdv(_FIVE, control, piece) for piece in pieces] + [pdv(_FIVE, control | 2, b"")]
    several = roll.random() < 0.5
    sent = pdu(P_DATA, b"".join(parts)) if several else b"".join(pdu(P_DATA, part) for part in parts)
    return Input(pdu(P_DATA, b"") * roll.randrange(4) + sent, data_sets={1: data}, good=True)


def _mixed_contexts(dice: Dice) -> Input:
    """Fragments of several messages in one another."""
    roll = dice.random
    parts = []
    for _ in range(roll.randint(2, 4)):
        context = roll.choice([ECHO, *STORES, 13, 15, 0, 2, 255])
        command = command_set(echo_rq(1) if context == ECHO else store_rq(dice.uid()))
        at = roll.randrange(len(command))
        parts += [pdv(context, 1, command[:at]), pdv(context, 3, command[at:])]
        if context != ECHO:
            parts += [pdv(context, 0, dice.noise(50)), pdv(context, 2, dice.noise(50))]
    roll.shuffle(parts)
    return Input(b"".join(pdu(P_DATA, part) for part in parts))


def _control_bits(dice: Dice) -> Input:
    roll, uid = dice.random, dice.uid()
    data, command = image(dice, _FIVE, uid), command_set(store_rq(uid))
    parts = [(_FIVE, 1, command[:30]), (_FIVE, 3, command[30:]), (_FIVE, 0, data[:50]), (_FIVE, 2, data[50:])]
    over = roll.choice([0xFC, 0x80, 0x04])
    good = roll.random() < 0.3  # bits that mean nothing
    sent = [pdv(c, control | over if good else roll.randrange(256), piece) for c, control, piece in parts]
    return Input(b"".join(pdu(P_DATA, part) for part in sent), data_sets={1: data} if good else {}, good=good)


def _changed_stream(dice: Dice) -> Input:
    uid = dice.uid()
    whole = message(_FIVE, command_set(store_rq(uid)), image(dice, _FIVE, uid), longest=dice.random.choice([50, 16384]))
    return Input(changed(dice, whole) + PROBE_MESSAGE, ends=True, quiet=True)


def _cut_stream(dice: Dice) -> Input:
    """The connection ends after any byte of a C-STORE."""
    uid = dice.uid()
    whole = message(_FIVE, command_set(store_rq(uid)), image(dice, _FIVE, uid))
    return Input(whole[: dice.random.randrange(len(whole))], ends=True, quiet=True)


KINDS = [
    Kind("connection: no DICOM", 2, _no_dicom),
    Kind("connection: another PDU first", 3, _first_pdu),
    Kind("request: its length lies", 2, _length),
    Kind("request: bytes changed", 6, _changed_request),
    Kind("request: cut", 2, _cut_request),
    Kind("request: AE titles", 3, _titles),
    Kind("request: contexts", 3, _contexts),
    Kind("request: UIDs", 3, _uids),
    Kind("request: user information", 4, _user),
    Kind("request: protocol version", 0.5, _version),
    Kind("request: very long", 0.05, _huge_request),
    Kind("PDU: any type and length", 4, _any_pdu),
    Kind("PDU: abort", 1, _abort),
    Kind("PDU: data length lies", 2, _data_length),
    Kind("PDU: 4 GB of data", 1, _giant),
    Kind("fragment: length lies", 3, _fragment_length),
    Kind("fragment: empty ones", 2, _empty_fragments),
    Kind("fragment: of several contexts", 2, _mixed_contexts),
    Kind("fragment: control bits", 2, _control_bits),
    Kind("stream: bytes changed", 4, _changed_stream),
    Kind("stream: cut", 2, _cut_stream),
]
