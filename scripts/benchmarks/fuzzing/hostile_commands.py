"""Hostile commands: messages of every service, and C-STORE requests that break PS3.7 in every way."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from scripts.benchmarks.fuzzing.hostile import (
    COMMITMENT,
    CONTEXT_OF,
    CONTEXTS,
    CR,
    ECHO,
    FIND,
    GET,
    MOVE,
    MPPS,
    PRIVATE,
    STORES,
    TEXTS,
    UIDS,
    VERIFICATION,
    WORKLIST,
    Dice,
    Elements,
    Input,
    Kind,
    changed,
    command_set,
    echo_rq,
    element,
    message,
    store_rq,
    us,
)
from scripts.benchmarks.fuzzing.hostile_sets import El, encoded, image

_FIVE = 5  # the presentation context of Explicit VR Little Endian
_IMPLICIT = 3  # the one of Implicit VR Little Endian, whose encoding all others have


@dataclass(frozen=True, slots=True)
class Service:
    """A request: its Command Field, its SOP class and what else it has; ``requested`` by Requested SOP Class UID."""

    name: str
    field: int
    sop_class: bytes
    more: Elements
    requested: bool = False
    data_set: bool = True


SERVICES = [
    Service("C-FIND", 0x0020, FIND, {0x0700: us(2)}),
    Service("C-FIND", 0x0020, WORKLIST, {0x0700: us(2)}),
    Service("C-GET", 0x0010, GET, {0x0700: us(2)}),
    Service("C-MOVE", 0x0021, MOVE, {0x0600: b"../../EVIL", 0x0700: us(2)}),
    Service("N-CREATE", 0x0140, MPPS, {0x1000: b""}),
    Service("N-SET", 0x0120, MPPS, {0x1001: b""}, requested=True),
    Service("N-GET", 0x0110, MPPS, {0x1001: b"", 0x1005: struct.pack("<HHHH", 8, 5, 0x10, 0x10)}, requested=True),
    Service("N-DELETE", 0x0150, MPPS, {0x1001: b""}, requested=True, data_set=False),
    Service("N-ACTION", 0x0130, COMMITMENT, {0x1001: b"1.2.840.10008.1.20.1.1", 0x1008: us(1)}, requested=True),
    Service("N-EVENT-REPORT", 0x0100, COMMITMENT, {0x1000: b"1.2.840.10008.1.20.1.1", 0x1002: us(1)}),
    Service("C-CANCEL", 0x0FFF, FIND, {0x0120: us(1)}, data_set=False),
    Service("C-ECHO", 0x0030, VERIFICATION, {}, data_set=False),
]


def _attributes(dice: Dice, service: Service) -> bytes:
    """The data set of a request: what its SOP class asks for, in part, with hostile values; or whatever."""
    roll = dice.random
    reference = (El(0x00081150, b"UI", CR), El(0x00081155, b"UI", dice.any([dice.uid(), *UIDS])[:2000]))
    found = {
        MPPS: [
            El(0x00400252, b"CS", dice.any([b"IN PROGRESS", b"COMPLETED", b"DISCONTINUED", b"NONSENSE", b"", *TEXTS])),
            El(0x00400253, b"SH", dice.any(TEXTS)),
            El(0x00400270, b"SQ", items=((El(0x0020000D, b"UI", dice.any([dice.study(), *UIDS])[:2000]),),)),
            El(
                0x00400340,
                b"SQ",
                items=((El(0x0020000E, b"UI", dice.any(UIDS)[:2000]), El(0x00081140, b"SQ", items=(reference,))),),
            ),
        ],
        COMMITMENT: [
            El(0x00081195, b"UI", dice.any([dice.uid(), *UIDS])[:2000]),
            El(0x00081199, b"SQ", items=(reference,) * roll.choice([0, 1, 2, 500])),
            El(0x00081198, b"SQ", items=(reference,) * roll.choice([0, 1])),
        ],
    }.get(
        service.sop_class, [El(0x00080052, b"CS", b"STUDY"), El(0x00100010, b"PN", b"*"), El(0x0020000D, b"UI", b"*")]
    )
    whole = encoded(sorted(found, key=lambda one: one.tag), _IMPLICIT)
    match roll.randrange(6):
        case 0:
            return changed(dice, whole)
        case 1:
            return whole[: roll.randrange(len(whole) + 1)]
        case 2:
            nest = encoded([El(0x00081199, b"SQ", size=0xFFFFFFFF)], _IMPLICIT) + struct.pack(
                "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
            )
            return nest * roll.choice([20, 1000, 5000]) + whole
        case 3:
            return dice.any([b"", dice.noise(300), struct.pack("<HHI", 0x0008, 0x1199, 0xFFFFFFF0)])
        case _:
            return whole


def _service(dice: Dice) -> Input:
    roll = dice.random
    service = roll.choice(SERVICES)
    elements = {0x0003 if service.requested else 0x0002: service.sop_class, 0x0100: us(service.field), 0x0110: us(7)}
    elements |= {0x0800: us(1 if service.data_set else 0x0101)} | service.more
    for number in (0x1000, 0x1001):
        if number in elements and roll.random() < 0.6:
            elements[number] = dice.any([dice.uid(), *UIDS])[:8000]
    if roll.random() < 0.3:
        _spoil(dice, elements)
    context = CONTEXT_OF.get(service.sop_class, ECHO) if roll.random() < 0.8 else roll.choice([*CONTEXTS, 0, 2, 255])
    data_set = _attributes(dice, service) if service.data_set != (roll.random() < 0.1) else None
    return Input(message(context, command_set(dict(sorted(elements.items()))), data_set), quiet=False)


def _unknown(dice: Dice) -> Input:
    """Any Command Field, responses among them."""
    elements = echo_rq(1) if dice.random.random() < 0.5 else store_rq(dice.uid())
    elements[0x0100] = us(
        dice.random.choice([0x8001, 0x8030, 0x8020, 0x8100, 0x8130, 0, 0xFFFF, dice.random.randrange(65536)])
    )
    context = ECHO if elements[0x0002] == VERIFICATION else _FIVE
    return Input(message(context, command_set(elements), dice.any([b"", image(dice, _FIVE)])))


def _spoil(dice: Dice, elements: Elements) -> None:
    """A change of what a command says."""
    roll = dice.random
    number = roll.choice(list(elements))
    match roll.randrange(6):
        case 0:
            del elements[number]
        case 1:
            elements[number] = dice.any([b"", b"\0", b"\1\2\3", dice.noise(9), bytes(200)])
        case 2:
            elements[0x0800] = us(roll.choice([0, 1, 2, 0x0100, 0x0101, 0x0102, 0xFFFF]))
        case 3:
            elements[0x0110] = us(roll.choice([0, 1, 0x7FFF, 0xFFFE]))
        case 4:
            elements[roll.choice([0x0002, 0x0003, 0x1000, 0x1001])] = dice.any(UIDS)[:8000]
        case _:
            elements[roll.randrange(0x10000)] = dice.noise(30)


def _elements(dice: Dice) -> Input:
    """A C-STORE or C-ECHO whose elements are missing, of other lengths, more, or other numbers."""
    if dice.random.random() < 0.3:
        elements, context, data = echo_rq(1), ECHO, None
    else:
        uid = dice.uid()
        elements, context, data = store_rq(uid), _FIVE, image(dice, _FIVE, uid)
    for _ in range(dice.random.randint(1, 2)):
        _spoil(dice, elements)
    if elements.get(0x0800) == us(0x0101):
        data = None
    return Input(message(context, command_set(elements), data), data_sets=_sets(elements, data))


def _sets(elements: Elements, data: bytes | None) -> dict[int, bytes]:
    number = elements.get(0x0110, b"\0\0")
    return {int.from_bytes(number, "little"): data} if data is not None and len(number) == 2 else {}


def _encoding(dice: Dice) -> Input:
    """A command whose lengths lie, whose elements stand twice, in another order, or of another group."""
    roll, uid = dice.random, dice.uid()
    data, rq = image(dice, _FIVE, uid), store_rq(uid)
    parts = [element(number, value) for number, value in rq.items()]
    at = roll.randrange(len(parts))
    number, value = list(rq.items())[at]
    group_length: int | None = None
    match roll.randrange(6):
        case 0:
            parts[at] = element(number, value, dice.size(len(value)))
        case 1:
            parts.insert(roll.randrange(len(parts)), parts[at])
        case 2:
            roll.shuffle(parts)
        case 3:
            parts[at] = element(number, value, group=roll.choice([0x0002, 0x0008, 0xFFFE]))
        case 4:
            group_length = dice.size(sum(map(len, parts)))
        case _:
            return Input(message(_FIVE, changed(dice, command_set(rq)), data), data_sets={1: data})
    rest = b"".join(parts)
    head = element(0, struct.pack("<I", len(rest) if group_length is None else group_length & 0xFFFFFFFF))
    head = dice.any([head, head, b"", head * 2])
    return Input(message(_FIVE, head + rest, data), data_sets={1: data})


def _uids(dice: Dice) -> Input:
    """A C-STORE whose command names hostile UIDs, or whose SOP class is not that of its context."""
    roll = dice.random
    context, uid = roll.choice(list(STORES)), dice.uid()
    sop_class = dice.any([CR, *UIDS, PRIVATE, VERIFICATION])[:20000]
    named = dice.any([uid, *UIDS])[:20000]
    data = image(dice, context, uid)
    return Input(message(context, command_set(store_rq(named, 1, sop_class)), data), data_sets={1: data})


def _huge(dice: Dice) -> Input:
    size = dice.random.choice([60_000, 65_000, 66_000, 200_000])
    if dice.random.random() < 0.5:
        return Input(message(_FIVE, command_set(store_rq(b"1" * size)), b""))
    return Input(message(_FIVE, b"".join(element(number & 0xFFFF, b"") for number in range(size // 8)), b""))


def _noise(dice: Dice) -> Input:
    return Input(message(dice.random.choice([*CONTEXTS, 0, 77]), dice.noise(400), dice.any([dice.noise(200), b""])))


def _echo(dice: Dice) -> Input:
    """A C-ECHO that brings a data set, a small one or one too large."""
    elements = echo_rq(1) | {0x0800: us(1)}
    size = dice.random.choice([0, 10, 5000, 100_000]) if dice.random.random() < 0.98 else 17 * 1024 * 1024
    return Input(message(ECHO, command_set(elements), bytes(size)))


KINDS = [
    Kind("command: of every service", 8, _service),
    Kind("command: any field", 2, _unknown),
    Kind("command: elements", 6, _elements),
    Kind("command: encoding", 5, _encoding),
    Kind("command: UIDs", 4, _uids),
    Kind("command: huge", 0.3, _huge),
    Kind("command: noise", 1, _noise),
    Kind("C-ECHO: with a data set", 1, _echo),
]
