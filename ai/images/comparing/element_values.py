"""Reads whole values of chosen elements, with everything inside of sequences, in linear time (PS3.5 7).

`element_walk` passes over sequences; this reads them. Both keep no stack of calls, so the depth has no limit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.datadict import dictionary_has_tag, dictionary_VR

from ai.images.element_walk import LITTLE, Order, Walk

ITEM = 0xFFFEE000
"""The tag with which `Value` marks the begin of an item."""

_ITEM_END, _SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Value:
    """An element: ``depth`` is 0 at the top and one more in each sequence. ``vr`` is None in Implicit VR.

    ``little`` is the byte order of the value.

    The begin of an item has the tag `ITEM` and the depth of what is in it.
    """

    depth: int
    tag: int
    vr: str | None
    value: bytes
    little: bool = True


@dataclass(slots=True)
class _Open:
    """A sequence that is being read, or an item of one: where it ends (None: a delimiter says so)."""

    ends: int | None
    implicit: bool
    order: Order
    is_item: bool


class ValueWalk(Walk):
    """Reads one data set once, from the current position of its file."""

    def __init__(self, file: BinaryIO, *, implicit: bool, little: bool, most_elements: int, most_bytes: int) -> None:
        """As `Walk`; at most ``most_elements`` elements and items, and ``most_bytes`` of values, are read."""
        super().__init__(file, implicit=implicit, little=little)
        self._left = most_elements
        self._bytes_left = most_bytes

    def values(self, tags: Collection[int], last: int) -> dict[int, list[Value]]:
        """The elements with some tags, up to the first one whose tag is greater than ``last``: there the file stands.

        A sequence is a list of all that is in it, in its order; an element without items is a list of one value.

        Raises:
            ValueError, struct.error: the data set is broken, or too large.
        """
        found: dict[int, list[Value]] = {}
        while True:
            at = self._file.tell()
            head = self._head(implicit=self.implicit)
            if head is None or head[0] == _ITEM_END or head[0] > last:
                self._file.seek(at)
                return found
            tag, vr, size = head
            if tag in tags:
                found[tag] = self._whole(tag, vr, size)
            elif size != _UNDEFINED:
                self._file.seek(size, 1)
            elif not self._pass(tag, vr, implicit=self.implicit):
                raise ValueError("the data set ends inside a value")

    def next_of(self, tags: Collection[int]) -> tuple[int, int] | None:
        """The tag and length of the next element with one of some tags; the file then stands at its value.

        None if there is none.

        Raises:
            ValueError, struct.error: the data set is broken, or too large.
        """
        while (head := self._head(implicit=self.implicit)) is not None:
            tag, vr, size = head
            if tag in tags:
                return tag, size
            if size != _UNDEFINED:
                self._file.seek(size, 1)
            elif not self._pass(tag, vr, implicit=self.implicit):
                raise ValueError("the data set ends inside a value")
        return None

    def _whole(self, tag: int, vr: str | None, size: int) -> list[Value]:
        inside = self._opened(tag, vr, size, _Open(None, self.implicit, self._order, is_item=True))
        if inside is None:
            return [Value(0, tag, vr, self._bytes(size), _is_little(vr, self._order))]
        found: list[Value] = []
        open_ = [inside]
        while open_:
            now = open_[-1]
            if now.ends is not None and self._file.tell() >= now.ends:
                if self._file.tell() > now.ends:
                    raise ValueError("an element is longer than what it is in")
                open_.pop()
            elif now.is_item:
                self._next_element(open_, found)
            else:
                self._next_item(open_, found)
        return found

    def _next_item(self, open_: list[_Open], found: list[Value]) -> None:
        self._count()
        group, element, size = open_[-1].order.implicit.unpack(self._file.read(8))
        tag = group << 16 | element
        if tag == _SEQUENCE_END and open_[-1].ends is None:
            open_.pop()
            return
        if tag != ITEM:
            raise ValueError("a sequence contains an element that is not an item")
        ends = None if size == _UNDEFINED else self._file.tell() + size
        implicit = open_[-1].implicit or (size != 0 and self._seems_implicit())
        open_.append(_Open(ends, implicit, open_[-1].order, is_item=True))
        found.append(Value(len(open_) // 2, ITEM, None, b""))

    def _next_element(self, open_: list[_Open], found: list[Value]) -> None:
        now = open_[-1]
        head = self._head(implicit=now.implicit, order=now.order)
        if head is None:
            raise ValueError("the data set ends inside a sequence")
        tag, vr, size = head
        if tag == _ITEM_END and now.ends is None:
            open_.pop()
            return
        depth = len(open_) // 2
        inside = self._opened(tag, vr, size, now)
        if inside is None:
            found.append(Value(depth, tag, vr, self._bytes(size), _is_little(vr, now.order)))
        else:
            found.append(Value(depth, tag, "SQ", b""))
            open_.append(inside)

    def _opened(self, tag: int, vr: str | None, size: int, around: _Open) -> _Open | None:
        """The sequence that an element of ``around`` is; None if it has a value without items."""
        if size == _UNDEFINED:
            if not self._is_sequence(tag, vr, around.order):
                raise ValueError("a value of undefined length that is no sequence")
            return _Open(None, around.implicit, self._order_in(vr, around.order), is_item=False)
        said_otherwise = vr is None or vr == "UN"
        if vr == "SQ" or (said_otherwise and dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"):
            # A sequence that is called UN has Implicit VR Little Endian inside (PS3.5 6.2.2).
            order = LITTLE if vr == "UN" else around.order
            return _Open(self._file.tell() + size, around.implicit or vr == "UN", order, is_item=False)
        return None

    def _bytes(self, size: int) -> bytes:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise ValueError("the values are too long")
        value = self._file.read(size)
        if len(value) < size:
            raise ValueError("the data set ends inside a value")
        return value


def _is_little(vr: str | None, order: Order) -> bool:
    """The byte order of a value: one with VR UN is little endian wherever it stands (PS3.5 6.2.2)."""
    return vr == "UN" or order is LITTLE
