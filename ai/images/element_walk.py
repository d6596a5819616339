"""Reads chosen elements of an encoded data set (PS3.5 7) without building objects for the rest.

pydicom builds objects for every item of a sequence of undefined length, and reads values whole. A few kilobytes of
deflated data can so take gigabytes and minutes. Here the memory is bounded by the longest value that is read, and the
time by the number of elements. What pydicom tolerates is tolerated here too: VRs that are missing, unknown or
unexpected.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from typing import BinaryIO, cast

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

LONGEST_VALUE = 4096
"""Bytes that are read of a value at most. The values that are needed have up to 64 characters (PS3.5 6.2)."""

# Of a sequence that is kept, with all that is in it. Functional groups have some 60 for each frame.
_MOST_KEPT, _LONGEST_KEPT = 200_000, 64 * 1024 * 1024
_MOST_ELEMENTS = 500_000  # and items of one data set; a header that names 100,000 instances has about as many
_UNDEFINED = 0xFFFFFFFF
_PIXELS = 0x7FE00000  # the least tag of pixels
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SEARCHED_AT_ONCE = 64 * 1024  # bytes
_LONG = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_VRS = {vr.encode(): str(vr) for vr in STANDARD_VR}


class Order:
    """How the heads of elements are read in one byte order."""

    def __init__(self, order: str) -> None:
        self.explicit = struct.Struct(order + "HH2sH")
        self.implicit = struct.Struct(order + "HHI")
        self.size = struct.Struct(order + "I")
        self.item = self.implicit.pack(_ITEM >> 16, _ITEM & 0xFFFF, 0)[:4]
        self.delimiter = self.implicit.pack(_SEQUENCE_END >> 16, _SEQUENCE_END & 0xFFFF, 0)[:4]


LITTLE, _BIG = Order("<"), Order(">")


class TooManyError(ValueError):
    """A data set has more elements or items than an image can need, so that reading it would take too long."""


class Walk:
    """Reads one data set once, from the current position of its file."""

    def __init__(self, file: BinaryIO, *, implicit: bool, little: bool, most: int = _MOST_ELEMENTS) -> None:
        """Prepare to read.

        Args:
            file: stands at the first element.
            implicit: what the transfer syntax says. If the first element shows otherwise, the element is believed.
            little: whether the byte order is little endian.
            most: elements and items at most; a million take 0.4 s.
        """
        self._file = file
        self.little = little
        self._order = LITTLE if little else _BIG
        self._left = self._most = most
        begin = file.read(6)
        file.seek(-len(begin), 1)
        self.implicit = not _is_vr(begin[4:]) if len(begin) == 6 else implicit

    def read(self, tags: Container[int], last: int, *, lenient: bool = False) -> dict[BaseTag, RawDataElement]:
        """Read the elements with some tags, up to the first element whose tag is greater than ``last``.

        If an element occurs twice, the second counts. Of a value at most `LONGEST_VALUE` bytes are read. ``lenient``
        ends a broken data set where it breaks, and keeps what was whole before.

        Raises:
            ValueError, struct.error: the data set is broken, or has too many elements.
        """
        found: dict[int, tuple[str | None, int, bytes]] = {}
        try:
            while (head := self._head(implicit=self.implicit)) is not None:
                tag, vr, size = head
                if tag == _ITEM_END or tag > last:
                    break
                if size == _UNDEFINED:
                    found.pop(tag, None)
                    if not self._pass(tag, vr, implicit=self.implicit):
                        return {}  # as pydicom does with a data set that is cut off there
                elif tag in tags:
                    found[tag] = (vr, size, self._value(size, whole=lenient))
                else:
                    self._file.seek(size, 1)
        except (ValueError, struct.error):
            if not lenient:
                raise
        return {
            BaseTag(tag): RawDataElement(
                BaseTag(tag), vr, size, value if size else _empty(vr), 0, self.implicit, self.little
            )
            for tag, (vr, size, value) in found.items()
        }

    def spans(self, keep: Container[int]) -> Iterator[tuple[int, int]]:
        """Where the data set is in its file, without the sequences of undefined length whose tags are not in ``keep``.

        Of those that are kept, elements and items are counted, whatever their length says. Each span is from one place
        of the file to another, in bytes from its start. Pixels are not passed over: the last span begins at the latest
        with them, and ends where the file ends.

        Raises:
            TooManyError: the data set, or a sequence that is kept, has too many elements.
            ValueError, struct.error: the data set is broken.
        """
        begin = self._file.tell()
        while True:
            at = self._file.tell()
            head = self._head(implicit=self.implicit)
            if head is None or head[0] >= _PIXELS:
                break
            tag, vr, size = head
            value = self._file.tell()
            if size != _UNDEFINED:
                self._file.seek(size, 1)
                if tag in keep:
                    self._check_kept(value, size)
                continue
            sequence = self._is_sequence(tag, vr, self._order)
            if not self._pass(tag, vr, implicit=self.implicit):
                break
            if sequence and tag in keep:
                self._check_kept(value, self._file.tell() - value)
            elif sequence:
                yield begin, at
                begin = self._file.tell()
        yield begin, self._file.seek(0, 2)

    def _check_kept(self, begin: int, size: int) -> None:
        """Count what is in an element that is kept, if it is a sequence; the file stands behind it, as before."""
        end = self._file.tell()
        self._file.seek(begin)
        first = self._file.read(min(size, 4))
        if first == self._order.item:
            self._file.seek(begin)
            value = self._file.read(min(size, _LONGEST_KEPT))
            if size > _LONGEST_KEPT or not has_at_most(value, _MOST_KEPT, implicit=self.implicit, little=self.little):
                raise TooManyError(f"a sequence has more than {_MOST_KEPT} elements, or {_LONGEST_KEPT} bytes")
        self._file.seek(end)

    def _value(self, size: int, *, whole: bool) -> bytes:
        """The beginning of a value; the file then stands behind the value.

        Raises:
            ValueError: the file ends inside it, and it should be ``whole``.
        """
        value = self._file.read(min(size, LONGEST_VALUE))
        if whole and len(value) < min(size, LONGEST_VALUE):
            raise ValueError("the data set ends inside a value")
        self._file.seek(max(size - LONGEST_VALUE, 0), 1)
        return value

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooManyError(f"the data set has more than {self._most} elements")

    def _head(self, *, implicit: bool, order: Order | None = None) -> tuple[int, str | None, int] | None:
        """The tag, VR and length of the next element; the file then stands at its value. None at the file's end."""
        self._count()
        order = order or self._order
        head = self._file.read(8)
        if len(head) < 8:
            return None
        if not implicit:
            group, element, vr, size = order.explicit.unpack(head)
            if vr in _VRS:
                name = _VRS[vr]
                if name in EXPLICIT_VR_LENGTH_32:
                    (size,) = order.size.unpack(self._file.read(4))
                return group << 16 | element, name, size
            if b"AA" <= vr <= b"ZZ":  # an unknown VR; its length is assumed to have 16 bits
                return group << 16 | element, vr.decode("latin-1"), size
        group, element, size = order.implicit.unpack(head)
        return group << 16 | element, None, size

    def _pass(self, tag: int, vr: str | None, *, implicit: bool) -> bool:
        """Skip a value of undefined length. False if it has no end."""
        if self._is_sequence(tag, vr, self._order):
            self._pass_sequence(implicit=implicit, order=self._order_in(vr, self._order))
            return True
        return self._pass_delimiter(self._order)

    def _is_sequence(self, tag: int, vr: str | None, order: Order) -> bool:
        """Whether a value of undefined length is a sequence; otherwise it is encapsulated pixel data, or unknown."""
        if vr is not None:
            return vr in ("SQ", "UN")  # PS3.5 6.2.2
        try:
            return dictionary_VR(tag) == "SQ"
        except KeyError:  # a private element: look whether its value begins with an item
            begin = self._file.read(4)
            self._file.seek(-len(begin), 1)
            return begin == order.item

    def _order_in(self, vr: str | None, order: Order) -> Order:
        """The byte order of a value of undefined length that begins here, in elements of an ``order``.

        With VR UN it is in Implicit VR Little Endian, whatever is around it (PS3.5 6.2.2). Some writers do not know
        that: an item in the order around it is believed.
        """
        if vr != "UN" or order is LITTLE:
            return order
        begin = self._file.read(4)
        self._file.seek(-len(begin), 1)
        return order if begin in (order.item, order.delimiter) else LITTLE

    def _pass_sequence(self, *, implicit: bool, order: Order) -> None:
        """Skip a sequence of undefined length. Nested sequences are kept in a list, so the depth has no limit."""
        items: list[bool | None] = [
            None
        ]  # for each open sequence: whether its open item is implicit; None: no open item
        around = [(implicit, order)]  # for each open sequence: whether its items are implicit, and their byte order
        while items:
            inside = items[-1]
            if inside is None:
                self._count()
                around_implicit, order = around[-1]
                group, element, size = order.implicit.unpack(self._file.read(8))
                if group << 16 | element == _SEQUENCE_END:
                    items.pop()
                    around.pop()
                elif group << 16 | element != _ITEM:
                    raise ValueError("a sequence contains an element that is not an item")
                elif size != _UNDEFINED:
                    self._file.seek(size, 1)
                else:
                    items[-1] = around_implicit or self._seems_implicit()
                continue
            head = self._head(implicit=inside, order=around[-1][1])
            if head is None:
                raise ValueError("the data set ends inside a sequence")
            tag, vr, size = head
            if tag == _ITEM_END:
                items[-1] = None
            elif size != _UNDEFINED:
                self._file.seek(size, 1)
            elif self._is_sequence(tag, vr, around[-1][1]):
                items.append(None)
                around.append((inside, self._order_in(vr, around[-1][1])))
            elif not self._pass_delimiter(around[-1][1]):
                raise ValueError("the data set ends inside a sequence")

    def _seems_implicit(self) -> bool:
        """Whether the item that begins here has no VRs, although the elements around it have (PS3.5 6.2.2)."""
        begin = self._file.read(6)
        self._file.seek(-len(begin), 1)
        return len(begin) == 6 and not _is_vr(begin[4:])

    def _pass_delimiter(self, order: Order) -> bool:
        """Skip to behind the next sequence delimiter. False if there is none."""
        kept = b""
        while piece := self._file.read(_SEARCHED_AT_ONCE):
            searched = kept + piece
            at = searched.find(order.delimiter)
            if at >= 0:
                self._file.seek(at + 8 - len(searched), 1)
                return True
            kept = searched[-3:]
        return False


def _empty(vr: str | None) -> bytes | None:
    """What pydicom uses as a value of length 0."""
    return cast("bytes | None", empty_value_for_VR(vr, raw=True))


def _is_vr(text: bytes) -> bool:
    """Whether two bytes look like a VR. In an implicit element the length stands there, and it hardly ever looks so."""
    return all(0x40 < each < 0x5B for each in text)


def has_at_most(encoded: bytes | bytearray, most: int, *, implicit: bool, little: bool) -> bool:
    """Whether a data set has at most ``most`` elements and items, those of its sequences included.

    It counts what pydicom would parse: whatever may be a sequence is looked into. A data set that breaks off is
    counted to there. pydicom makes an object of each, which takes some 20 us for an item; counting takes 1 us.
    """
    end = len(encoded)
    order = "<" if little else ">"
    tag_of, short, long = struct.Struct(order + "HH"), struct.Struct(order + "H"), struct.Struct(order + "I")
    item = tag_of.pack(0xFFFE, 0xE000)
    at = 0
    while at + 8 <= end:
        most -= 1
        if most < 0:
            return False
        group, element = tag_of.unpack_from(encoded, at)
        if group == 0xFFFE:  # an item or a delimiter: what follows it is counted as what is around it
            at += 8
            continue
        vr = bytes(encoded[at + 4 : at + 6])
        if implicit or not vr.isalpha():
            (length,) = long.unpack_from(encoded, at + 4)
            at += 8
            nested = length == _UNDEFINED or _named_sequence(group << 16 | element)
        elif vr in _LONG:
            if at + 12 > end:
                break
            (length,) = long.unpack_from(encoded, at + 8)
            at += 12
            nested = vr == b"SQ" or length == _UNDEFINED
        else:
            (length,) = short.unpack_from(encoded, at + 6)
            at += 8
            nested = False
        if not nested and encoded[at : at + 4] == item and vr in (b"UN", b"OB"):
            nested = True  # a sequence whose VR was lost
        if not nested:
            at += length
    return True


def _named_sequence(tag: int) -> bool:
    """Whether the data dictionary calls an element a sequence; of a private one pydicom looks no further."""
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False
