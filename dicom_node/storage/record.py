"""The record in a stored file: what its index entry holds that the data set does not say.

It stands in the 128 bytes of the preamble, which PS3.10 7.1 leaves to the one who writes the file, and is written
before the one fsync that an answer 0000 stands on. An index that is lost is made anew from these files
(`operations.rebuild`).

Layout, big endian: ``DNR1``, node id (16 bytes), received (float64, epoch seconds), edition (uint16), calling AE title
(16 bytes, padded with 0), bytes of the data set (uint64), its SHA-256 (32 bytes), length of the peer's name (255: not
noted) and the name (33 bytes, padded with 0), zeros, CRC-32 of all before.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

PREAMBLE_BYTES = 128
_AT_ONCE = 1024 * 1024  # bytes
_MAGIC = b"DNR1"
_FIELDS = struct.Struct(">4s16sdH16sQ32sB33s")
_LONGEST_NAME, _NOT_NOTED = 33, 255
_CRC = struct.Struct(">I")
_PADDING = bytes(PREAMBLE_BYTES - _FIELDS.size - _CRC.size)


@dataclass(frozen=True, slots=True)
class Record:
    """What a node noted of an instance when it stored it; ``digest`` is the SHA-256 of its data set.

    ``peer`` is the name in the configuration of the peer that sent it, empty for an unknown caller; None if it is not
    noted, because it has more than 33 characters.
    """

    node: str
    received: float
    edition: int
    calling_ae: str
    data_set_bytes: int
    digest: bytes
    peer: str | None = None

    def is_of(self, file: BinaryIO, size: int) -> bool:
        """Whether an open file of ``size`` bytes ends with the data set that was received; this reads all of it.

        Raises:
            OSError: it cannot be read.
        """
        file.seek(max(size - self.data_set_bytes, 0))
        digest = hashlib.sha256()
        while piece := file.read(_AT_ONCE):
            digest.update(piece)
        return digest.digest() == self.digest

    def preamble(self) -> bytes:
        """The record as the 128 bytes of a preamble."""
        title = self.calling_ae.encode("ascii", "replace")[:16]
        name = None if self.peer is None else self.peer.encode("utf-8")
        length = _NOT_NOTED if name is None or len(name) > _LONGEST_NAME else len(name)
        fields = _FIELDS.pack(
            *(_MAGIC, UUID(self.node).bytes, self.received, self.edition, title, self.data_set_bytes, self.digest),
            *(length, b"" if name is None or length == _NOT_NOTED else name),
        )
        return fields + _PADDING + _CRC.pack(zlib.crc32(fields + _PADDING))


def record_in(preamble: bytes) -> Record | None:
    """The record in a preamble; None if there is none, or it is damaged."""
    if len(preamble) != PREAMBLE_BYTES or not preamble.startswith(_MAGIC):
        return None
    body, (crc,) = preamble[: -_CRC.size], _CRC.unpack(preamble[-_CRC.size :])
    if zlib.crc32(body) != crc:
        return None
    _, node, received, edition, title, size, digest, length, name = _FIELDS.unpack_from(body)
    peer = None if length == _NOT_NOTED else name[:length].decode("utf-8", "replace")
    return Record(str(UUID(bytes=node)), received, edition, title.rstrip(b"\0").decode("ascii"), size, digest, peer)
