"""What an A-ASSOCIATE-RQ (PS3.8 9.3.2) says at first sight, and what it may cost to parse the rest.

The fixed fields name the caller. They are judged before anything else is read, so that a stranger costs next to
nothing. The items behind them are counted in linear time before pynetdicom makes an object of each: tiny items, 50,000
in 200 KB, would hold the interpreter for half a second.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

FIXED_BYTES = 68  # protocol version, two AE titles, and what is reserved

MOST_CONTEXTS = 128  # presentation contexts: their ids are the odd numbers of a byte
MOST_SYNTAXES = 3072  # transfer syntaxes of all contexts together: 24 for each
_MOST_OTHERS = 512  # sub-items of the user information: roles and extended negotiation of each context, and a few more

# 128 contexts with 24 transfer syntaxes each, whose UIDs have 64 characters, are 219 KiB; the rest is user information.
LONGEST = 256 * 1024

_FIXED = struct.Struct(">H2x16s16s32x")
_ITEM = struct.Struct(">BxH")
_CONTEXT, _USER_INFORMATION, _TRANSFER_SYNTAX = 0x20, 0x50, 0x40


@dataclass(frozen=True, slots=True)
class Caller:
    """The fixed fields of a request: AE titles without padding, and the bits of the protocol version."""

    called: str
    calling: str
    version: int


def caller(fixed: bytes) -> Caller:
    """Who calls whom, by the first `FIXED_BYTES` of a request."""
    version, called, calling = _FIXED.unpack(fixed)
    return Caller(_title(called), _title(calling), version)


def check(items: bytes) -> None:
    """Count the items of a request, in linear time.

    Args:
        items: what stands behind the fixed fields.

    Raises:
        ValueError: there are more than a caller can need, or one is longer than what contains it.
    """
    contexts = syntaxes = others = 0
    for kind, begin, end in _items(items, 0, len(items)):
        if kind == _CONTEXT:
            contexts += 1
            if contexts > MOST_CONTEXTS:
                raise ValueError(f"more than {MOST_CONTEXTS} presentation contexts")
            if end - begin < 4:
                raise ValueError("a presentation context that is shorter than its id")
            names = 0
            for sub, _, _ in _items(items, begin + 4, end):
                syntaxes += sub == _TRANSFER_SYNTAX
                names += sub != _TRANSFER_SYNTAX
                if syntaxes > MOST_SYNTAXES or names > 1:
                    raise ValueError(f"more than {MOST_SYNTAXES} transfer syntaxes, or a context of two SOP classes")
            continue
        others += 1
        for _ in _items(items, begin, end) if kind == _USER_INFORMATION else ():
            others += 1
            if others > _MOST_OTHERS:
                break
        if others > _MOST_OTHERS:
            raise ValueError(f"more than {_MOST_OTHERS} items besides presentation contexts")


def _items(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, begin and end of each item's value."""
    while at < end:
        if end - at < _ITEM.size:
            raise ValueError("bytes behind the last item")
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if length > end - at:
            raise ValueError("an item that is longer than what contains it")
        yield kind, at, at + length
        at += length


def _title(field: bytes) -> str:
    """An AE title; in another alphabet it matches nobody, and the log shows it."""
    return field.decode("latin-1").strip(" \0")
