"""Messages that come on an association: streamed, or collected in memory before they are served, at what cost.

A collected data set may have 4 MiB and 61,000 elements; all of them together may have 64 MiB, of which no caller gets
more than its share. Two are parsed at a time. A message beyond its share is read and dropped, and answered 0213
(PS3.7 annex C).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import UID

from ai.images.element_walk import has_at_most
from dicom_node.network import dimse
from dicom_node.network.upper_layer import INVALID_PARAMETER, ViolationError
from dicom_node.scp.fairness import Share
from dicom_node.scp.service import AcceptedContext, CollectingService, Receipt

RESOURCE_LIMITATION = 0x0213  # PS3.7 annex C

_LONGEST = 4 * 1024 * 1024  # bytes of a data set
# Of a data set, items included. A procedure step names each image in one item with two elements: 20,000 images.
_MOST_ELEMENTS = 61_000


@dataclass(slots=True)
class Streaming:
    """A request whose data set goes to its service while it comes."""

    context: AcceptedContext
    command: dimse.Command
    receipt: Receipt


@dataclass(slots=True)
class Collected:
    """A message whose data set is collected. ``service`` is None if it is the response to a request of ours.

    ``share`` is what the caller may hold in memory; where that is not enough, the data set is dropped (``refused``).
    """

    share: Share
    context: AcceptedContext
    command: dimse.Command
    service: CollectingService | None = None
    message: Any = None
    data_set: bytearray = field(default_factory=bytearray)
    refused: bool = False
    _length: int = 0
    _held: int = 0

    def add(self, piece: memoryview) -> None:
        """Take the next bytes of the data set, if there is room for them.

        Raises:
            ViolationError: it is longer than any message that is no image.
        """
        self._length += len(piece)
        if self._length > _LONGEST:
            raise ViolationError(INVALID_PARAMETER, f"a data set of more than {_LONGEST} bytes that is no image")
        if self.refused:
            return
        if not self.share.take(len(piece)):
            self.refused = True
            self.release()
            return
        self._held += len(piece)
        self.data_set += piece

    def check(self) -> None:
        """Look how much it would cost to parse the data set that is whole now.

        Raises:
            ViolationError: it has too many elements.
        """
        syntax = UID(self.context.transfer_syntax)
        if syntax.is_deflated or not has_at_most(
            self.data_set, _MOST_ELEMENTS, implicit=syntax.is_implicit_VR, little=syntax.is_little_endian
        ):
            raise ViolationError(INVALID_PARAMETER, f"a data set of more than {_MOST_ELEMENTS} elements and items")

    def release(self) -> None:
        """Give back the room; it may be called again."""
        self.share.give_back(self._held)
        self._held, self.data_set = 0, bytearray()
