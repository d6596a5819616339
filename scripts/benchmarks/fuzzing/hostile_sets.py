"""Hostile data sets: a small valid image with changes of its encoding (PS3.5 7), and decompression bombs."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from scripts.benchmarks.fuzzing.hostile import (
    CHARSETS,
    COMPRESSED,
    CR,
    MARK,
    SIZES,
    STORES,
    TEXTS,
    UIDS,
    Dice,
    Input,
    Kind,
    changed,
    stored,
)

_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")
_VRS = [
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"OB", b"OW", b"PN", b"SH"),
    *(b"SL", b"SQ", b"SS", b"ST", b"SV", b"TM", b"UC", b"UI", b"UL", b"UN", b"UR", b"US", b"UT", b"ZZ", b"\0\0", b"??"),
]
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEFLATED = next(context for context, syntax in STORES.items() if syntax == DeflatedExplicitVRLittleEndian)
_IMPLICIT = next(context for context, syntax in STORES.items() if syntax == ImplicitVRLittleEndian)
_BIG = next(context for context, syntax in STORES.items() if syntax == ExplicitVRBigEndian)
_HEADER = [0x00080005, 0x00080016, 0x00080018, 0x00080060, 0x00081030, 0x0008103E, 0x00180015, 0x0020000D, 0x0020000E]
_UID_TAGS = [0x00080016, 0x00080018, 0x0020000D, 0x0020000E]
_TEXT_TAGS = [0x00080060, 0x00081030, 0x0008103E, 0x00100010, 0x00100020, 0x00180015, 0x00091001]
_BOMB_PIECE = 1 << 20  # bytes that each piece of a bomb inflates to


@dataclass(frozen=True, slots=True)
class El:
    """An element; ``size`` is what it says of its length where that is not true, ``items`` are a sequence's."""

    tag: int
    vr: bytes
    value: bytes = b""
    size: int | None = None
    items: tuple[tuple[El, ...], ...] | None = None
    closed: bool = True  # whether an end that is to be marked is


def elements(dice: Dice, uid: bytes, *, compressed: bool = False) -> list[El]:
    """A small image of nobody, of 8 x 8 pixels, with marks in every name."""
    pixels = bytes(range(64)) * 2
    found = [
        El(0x00080005, b"CS", b"ISO_IR 192"),
        El(0x00080008, b"CS", b"ORIGINAL\\PRIMARY"),
        El(0x00080016, b"UI", CR),
        El(0x00080018, b"UI", uid),
        El(0x00080020, b"DA", b"20260101"),
        El(0x00080060, b"CS", b"CR"),
        El(0x00081030, b"LO", MARK + b" description"),
        El(0x0008103E, b"LO", MARK + b" series"),
        El(0x00081140, b"SQ", items=((El(0x00081150, b"UI", CR), El(0x00081155, b"UI", b"1.2.3")),)),
        El(0x00090010, b"LO", MARK + b" PRIVATE"),
        El(0x00091001, b"UN", MARK),
        El(0x00100010, b"PN", MARK + b"^NAME"),
        El(0x00100020, b"LO", MARK + b"-1"),
        El(0x00180015, b"CS", b"CHEST"),
        El(0x0020000D, b"UI", dice.study()),
        El(0x0020000E, b"UI", dice.study() + b".1"),
        El(0x00280002, b"US", b"\x01\0"),
        El(0x00280004, b"CS", b"MONOCHROME2"),
        El(0x00280010, b"US", b"\x08\0"),
        El(0x00280011, b"US", b"\x08\0"),
        El(0x00280100, b"US", b"\x10\0"),
        El(0x00280101, b"US", b"\x0c\0"),
        El(0x00280102, b"US", b"\x0b\0"),
        El(0x00280103, b"US", b"\0\0"),
    ]
    if compressed:
        frame = b"\xff\xd8\xff\xf7" + pixels
        content = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
        found.append(El(0x7FE00010, b"OB", content + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), _UNDEFINED))
    else:
        found.append(El(0x7FE00010, b"OW", pixels))
    return found


def encoded(found: list[El] | tuple[El, ...], context: int) -> bytes:
    """The data set as the context's transfer syntax has it, not deflated yet."""
    implicit, order = context == _IMPLICIT, ">" if context == _BIG else "<"
    return b"".join(_element(each, order, implicit=implicit) for each in found)


def _element(one: El, order: str, *, implicit: bool) -> bytes:
    value, size = one.value, one.size
    if one.items is not None:
        value = b""
        for each in one.items:
            content = b"".join(_element(inner, order, implicit=implicit) for inner in each)
            if size == _UNDEFINED:
                value += _tag(_ITEM, order) + b"\xff" * 4 + content + _tag(_ITEM_END, order) + bytes(4)
            else:
                value += _tag(_ITEM, order) + struct.pack(order + "I", len(content)) + content
        if size == _UNDEFINED and one.closed:
            value += _tag(_SEQUENCE_END, order) + bytes(4)
    elif one.vr == b"US" and order == ">":
        value = value[::-1]
    if len(value) % 2:
        value += b"\0" if one.vr in (b"UI", b"OB", b"UN") else b" "
    told = (len(value) if size is None else size) & _UNDEFINED
    if implicit:
        return _tag(one.tag, order) + struct.pack(order + "I", told) + value
    if one.vr in _LONG:
        return _tag(one.tag, order) + one.vr + b"\0\0" + struct.pack(order + "I", told) + value
    return _tag(one.tag, order) + one.vr + struct.pack(order + "H", told & 0xFFFF) + value


def _tag(tag: int, order: str) -> bytes:
    return struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)


def deflated(data: bytes) -> bytes:
    """As Deflated Explicit VR Little Endian has it (PS3.5 A.5)."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def image(dice: Dice, context: int, uid: bytes | None = None) -> bytes:
    """A valid image."""
    return _sent(elements(dice, uid or dice.uid(), compressed=context == COMPRESSED), context)


def _sent(found: list[El], context: int) -> bytes:
    data = encoded(found, context)
    return deflated(data) if context == _DEFLATED else data


# -- inputs


def _context(dice: Dice) -> int:
    return dice.random.choice(list(STORES))


def _valid(dice: Dice) -> Input:
    context, uid = _context(dice), dice.uid()
    return stored(context, uid, image(dice, context, uid), good=True, longest=dice.random.choice([100, 1000, 16384]))


def _spoiled(dice: Dice, found: list[El]) -> None:
    """One change of the elements that somebody makes who knows what they mean."""
    roll = dice.random
    at = roll.randrange(len(found))
    one = found[at]
    match roll.randrange(12):
        case 0:
            found[at] = replace(one, size=dice.size(len(one.value)))
        case 1:
            found[at] = replace(one, size=_UNDEFINED, closed=roll.random() < 0.5)
        case 2:
            found[at] = replace(one, vr=dice.any(_VRS))
        case 3:
            del found[at]
        case 4:
            found.insert(roll.randrange(len(found)), one)
        case 5:
            other = roll.randrange(len(found))
            found[at], found[other] = found[other], one
        case 6:
            found[at] = replace(one, value=dice.any([*TEXTS, *UIDS, dice.noise(300)]), items=None)
        case 7:
            group = roll.choice([0x0000, 0x0002, 0x0009, 0xFFFE, 0xFFFF, 0x0008, 0x7FE0])
            found.insert(at, El(group << 16 | roll.randrange(0x10000), dice.any(_VRS), dice.noise(20)))
        case 8:
            found.insert(at, El(roll.choice([_ITEM, _ITEM_END, _SEQUENCE_END]), b"\0\0", b"", roll.choice(SIZES)))
        case 9:
            items = tuple(tuple(found[:at]) for _ in range(roll.randint(0, 3)))
            tag = roll.choice([0x00081140, 0x00091002, 0x00101002, roll.choice(_HEADER)])
            closed = roll.random() < 0.7
            found.insert(at, El(tag, dice.any([b"SQ", b"UN", b"OB"]), size=_UNDEFINED, items=items, closed=closed))
        case 10:
            found[0] = El(0x00080005, b"CS", dice.any(CHARSETS))
        case _:
            found.insert(roll.randrange(len(found)), El(0x00091003, b"UN", MARK + dice.noise(500)))


def _structure(dice: Dice) -> Input:
    context, uid = _context(dice), dice.uid()
    found = elements(dice, uid, compressed=context == COMPRESSED)
    for _ in range(dice.random.randint(1, 3)):
        _spoiled(dice, found)
    return stored(context, uid, _sent(found, context))


def _header(dice: Dice) -> Input:
    """What the index reads, with any length and VR."""
    context, uid = _context(dice), dice.uid()
    tag = dice.random.choice(_HEADER)
    found = [
        replace(one, size=dice.size(len(one.value)), vr=dice.any([one.vr, dice.any(_VRS)])) if one.tag == tag else one
        for one in elements(dice, uid)
    ]
    return stored(context, uid, _sent(found, context))


def _bytes(dice: Dice) -> Input:
    context, uid = _context(dice), dice.uid()
    data = changed(dice, encoded(elements(dice, uid), context))
    return stored(context, uid, deflated(data) if context == _DEFLATED else data)


def _cut(dice: Dice) -> Input:
    context, uid = _context(dice), dice.uid()
    data = encoded(elements(dice, uid, compressed=context == COMPRESSED), context)
    data = data[: dice.random.randrange(len(data))]
    return stored(context, uid, deflated(data) if context == _DEFLATED else data)


def _names(dice: Dice) -> Input:
    """Names and descriptions with HTML, SQL, escapes; alphabets that are none."""
    context, uid = _context(dice), dice.uid()
    found = [
        replace(one, value=MARK + dice.any(TEXTS)) if one.tag in _TEXT_TAGS and dice.random.random() < 0.6 else one
        for one in elements(dice, uid)
    ]
    if dice.random.random() < 0.5:
        found[0] = El(0x00080005, b"CS", dice.any(CHARSETS))
    return stored(context, uid, _sent(found, context))


def _uids(dice: Dice) -> Input:
    context, uid = _context(dice), dice.uid()
    wanted = dice.random.choice(_UID_TAGS)
    other = dice.any(UIDS)
    found = [replace(one, value=other) if one.tag == wanted else one for one in elements(dice, uid)]
    # In both places: what the data set and the command agree about is not refused as a difference.
    in_both = wanted == 0x00080018 and dice.random.random() < 0.5
    return stored(context, other[:8000] if in_both else uid, _sent(found, context))


def _others_uid(dice: Dice) -> Input:
    context = _context(dice)
    return stored(context, dice.uid(), image(dice, context, dice.uid()))


def _again(dice: Dice) -> Input:
    """An instance, the same with other pixels, which take its place (a deflated one is not compared), and one of
    another study with its UID."""
    context, uid = _context(dice), dice.uid()
    first = elements(dice, uid)
    second = [replace(one, value=bytes(128)) if one.tag == 0x7FE00010 else one for one in first]
    third = [replace(one, value=dice.uid()) if one.tag == 0x0020000D else one for one in first]
    sent = [stored(context, uid, _sent(each, context)) for each in (first, second, third)]
    return Input(b"".join(each.data for each in sent), data_sets={1: sent[context != _DEFLATED].data_sets[1]})


def _deep(dice: Dice) -> Input:
    """Sequences a thousand deep, of any kind of length, closed or not."""
    context, uid = _context(dice), dice.uid()
    implicit, order = context == _IMPLICIT, ">" if context == _BIG else "<"
    depth = dice.random.choice([10, 17, 100, 900, 1000, 1100, 5000])
    tag, vr = dice.random.choice([0x00081140, 0x00091001, 0x0020000D, 0x00082112]), dice.any([b"SQ", b"SQ", b"UN"])
    opens = _element(El(tag, vr, size=_UNDEFINED), order, implicit=implicit) + _tag(_ITEM, order) + b"\xff" * 4
    closes = _tag(_ITEM_END, order) + bytes(4) + _tag(_SEQUENCE_END, order) + bytes(4)
    nest = opens * depth + (closes * depth if dice.random.random() < 0.7 else b"")
    found = elements(dice, uid)
    at = dice.random.choice([0, 8, len(found) - 1])
    data = encoded(found[:at], context) + nest + encoded(found[at:], context)
    return stored(context, uid, deflated(data) if context == _DEFLATED else data)


def _pixels(dice: Dice) -> Input:
    """Encapsulated pixels where they do not belong, or with fragments that lie."""
    context, uid = _context(dice), dice.uid()
    found = elements(dice, uid, compressed=True)
    fragments = b"".join(
        struct.pack("<HHI", 0xFFFE, dice.random.choice([0xE000, 0xE000, 0xE00D, 0xE0DD]), dice.size(20))
        + dice.noise(40)
        for _ in range(dice.random.randrange(6))
    )
    found[-1] = El(
        0x7FE00010, dice.any([b"OB", b"OW", b"UN", b"SQ"]), fragments, dice.random.choice([_UNDEFINED, None])
    )
    return stored(context, uid, _sent(found, context))


def _deflate(dice: Dice) -> Input:
    """A deflate stream that is broken, cut, of another kind, or followed by something."""
    uid = dice.uid()
    plain = encoded(elements(dice, uid), _DEFLATED)
    whole = deflated(plain)
    data = dice.any(
        [
            *(changed(dice, whole), whole[: dice.random.randrange(len(whole))], whole + dice.noise(300), whole * 3),
            *(plain, zlib.compress(plain), deflated(whole), dice.noise(500), b""),
        ]
    )
    return stored(_DEFLATED, uid, data)


@lru_cache(maxsize=8)
def _bomb_pieces(unit: bytes) -> tuple[bytes, bytes]:
    """A piece of a deflate stream that may be repeated and inflates to a megabyte of ``unit``, and the end of it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packer.compress(b"\0" * 16)
    packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(unit * (_BOMB_PIECE // len(unit))) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece, packer.flush()


def _bomb(dice: Dice) -> Input:
    """Up to a megabyte that inflates to a gigabyte: in the pixels, in a text, in tiny elements or in empty items."""
    roll, uid = dice.random, dice.uid()
    found = elements(dice, uid)
    kind = roll.randrange(5)
    tiny = _element(El(0x00080060, b"CS"), "<", implicit=False)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    sequence = _element(El(0x00081140, b"SQ", size=_UNDEFINED), "<", implicit=False)
    if kind == 0:  # behind all that is read: it is an image like any other, and is stored
        head, unit = encoded([*found[:-1], El(0x7FE00010, b"OW", size=0x3FFFFFFE)], _DEFLATED), bytes(16)
    else:
        before = encoded(found[: roll.choice([1, 4, 8])], _DEFLATED)
        long = _element(El(0x00081030, b"UT", size=0x7FFFFFFE), "<", implicit=False)
        opened, unit = [(long, b"A" * 16), (b"", tiny), (sequence, item), (sequence, item[:4] + b"\xff" * 4)][kind - 1]
        head = before + opened
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    begin = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    piece, end = _bomb_pieces(unit)
    return stored(_DEFLATED, uid, begin + piece * roll.choice([20, 100, 1024]) + end)


def _tiny(dice: Dice) -> Input:
    """Hundreds of thousands of elements, items or values where a header is to be read."""
    roll, uid = dice.random, dice.uid()
    context = roll.choice([context for context in STORES if context != _DEFLATED])
    implicit, order = context == _IMPLICIT, ">" if context == _BIG else "<"
    count = roll.choice([10_000, 100_000])
    found = elements(dice, uid)
    tiny = _element(El(0x00080060, b"CS"), order, implicit=implicit)
    item = _tag(_ITEM, order) + bytes(4)
    sequence = _element(El(0x00081140, b"SQ", size=_UNDEFINED), order, implicit=implicit)
    values = _element(El(roll.choice([0x00080005, 0x00081030]), b"UT", b"1\\" * count), order, implicit=implicit)
    middle = dice.any(
        [tiny * count, sequence + item * count, sequence + item * count + _tag(_SEQUENCE_END, order) + bytes(4), values]
    )
    data = encoded(found[:1], context) + middle + encoded(found[1:], context)
    return stored(context, uid, data, longest=100_000)


KINDS = [
    Kind("C-STORE: valid", 6, _valid),
    Kind("data set: structure changed", 12, _structure),
    Kind("data set: header's lengths and VRs", 6, _header),
    Kind("data set: bytes changed", 6, _bytes),
    Kind("data set: cut", 4, _cut),
    Kind("data set: names and texts", 5, _names),
    Kind("data set: UIDs", 4, _uids),
    Kind("data set: not the command's UID", 1, _others_uid),
    Kind("data set: again, with other content", 1, _again),
    Kind("data set: nested deep", 1, _deep),
    Kind("data set: encapsulated pixels", 2, _pixels),
    Kind("data set: deflate broken", 2, _deflate),
    Kind("data set: deflate bomb", 0.05, _bomb),
    Kind("data set: very many elements", 0.05, _tiny),
]
