"""A Storage SCU made of bytes: every fragment, PDU and TCP segment is as a test wants it (PS3.8 9.3, PS3.7 E.1)."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import Verification

from dicom_node.node import Node
from tests.support.waiting import scaled, wait_until

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
ECHO, STORE, COMPRESSED = 1, 3, 5  # presentation context ids
CONTEXTS = {
    ECHO: (Verification, ImplicitVRLittleEndian),
    STORE: (ComputedRadiographyImageStorage, ExplicitVRLittleEndian),
    COMPRESSED: (ComputedRadiographyImageStorage, JPEGLSLossless),
}
_UIDS = itertools.count(1)


# -- bytes


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def pdv(context: int, control: int, data: bytes) -> bytes:
    """A fragment; ``control``: 1 command, 2 last."""
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def associate_rq(
    contexts: Mapping[int, tuple[str, str]] | None = None,
    *,
    longest: int | None = 16384,
    version: int = 1,
    more: bytes = b"",
    calling: str = "TESTER",
    called: str = "AINODE",
) -> bytes:
    """An A-ASSOCIATE-RQ; ``longest``: its Maximum Length, ``more``: further user information."""
    body = struct.pack(">Hxx16s16s32x", version, called.ljust(16).encode(), calling.ljust(16).encode())
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for context, (sop_class, syntax) in (contexts or CONTEXTS).items():
        names = item(0x30, sop_class.encode()) + item(0x40, syntax.encode("latin-1"))
        body += item(0x20, struct.pack("Bxxx", context) + names)
    user = b"" if longest is None else item(0x51, struct.pack(">I", longest))
    return pdu(ASSOCIATE_RQ, body + item(0x50, user + item(0x52, b"1.2.826.0.1.3680043.9.1") + more))


RELEASE = pdu(RELEASE_RQ, bytes(4))


def command_set(elements: Mapping[int, bytes | int]) -> bytes:
    """A command set: element numbers of group 0000 with UIDs, or numbers of 16 bits."""
    rest = b""
    for number, value in elements.items():
        data = struct.pack("<H", value) if isinstance(value, int) else value + b"\0" * (len(value) % 2)
        rest += struct.pack("<HHI", 0, number, len(data)) + data
    return struct.pack("<HHII", 0, 0, 4, len(rest)) + rest


def store_rq(uid: str, message: int = 1, *, data_set: int = 0x0001) -> bytes:
    return command_set(
        {
            0x0002: ComputedRadiographyImageStorage.encode(),
            0x0100: 0x0001,
            0x0110: message,
            0x0700: 0x0002,
            0x0800: data_set,
            0x1000: uid.encode(),
        }
    )


def echo_rq(message: int = 1) -> bytes:
    return command_set({0x0002: Verification.encode(), 0x0100: 0x0030, 0x0110: message, 0x0800: 0x0101})


def new_uid() -> str:
    """Always of the same length."""
    return f"2.25.{next(_UIDS):030}"


def data_set(uid: str, pixels: bytes = b"") -> bytes:
    """A small one in Explicit VR Little Endian, with whatever pixels."""

    def text(tag: int, vr: str, value: str) -> bytes:
        data = value.encode() + b"\0" * (len(value) % 2)
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(data)) + data

    head = text(0x00080016, "UI", ComputedRadiographyImageStorage) + text(0x00080018, "UI", uid)
    head += text(0x00080060, "CS", "CR") + text(0x0020000D, "UI", "2.25.7") + text(0x0020000E, "UI", "2.25.8")
    return head + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", len(pixels)) + pixels


def cut(data: bytes, size: int) -> list[bytes]:
    """At least one piece, of ``size`` bytes at most."""
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


def fragments(context: int, pieces: Sequence[bytes], *, command: bool = False) -> list[bytes]:
    """The PDVs of a command or data set; the last piece ends it."""
    last = len(pieces) - 1
    return [pdv(context, int(command) | 2 * (n == last), piece) for n, piece in enumerate(pieces)]


def message(context: int, command: bytes, data: bytes | None = None, *, longest: int = 16384) -> bytes:
    """A DIMSE message in PDUs of ``longest`` bytes behind their header."""
    pieces = fragments(context, cut(command, longest - 6), command=True)
    if data is not None:
        pieces += fragments(context, cut(data, longest - 6))
    return b"".join(pdu(P_DATA, piece) for piece in pieces)


def store_message(uid: str, data: bytes, number: int = 1, *, longest: int = 16384) -> bytes:
    return message(STORE, store_rq(uid, number), data, longest=longest)


# -- sockets


class Raw:
    """A connection to a node, which is no association until it is asked for."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=scaled(20))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.longest = 0  # of the PDUs that came, behind their header

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def reset(self) -> None:
        """Close without a word: a TCP RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def pdu(self) -> tuple[int, bytes]:
        """The type and body of the next PDU; type 0 where the connection was closed instead."""
        head = self._take(6)
        if not head:
            return 0, b""
        kind, length = struct.unpack(">BxI", head)
        self.longest = max(self.longest, length)
        return kind, self._take(length)

    def response(self) -> tuple[int, dict[int, bytes]]:
        """The presentation context and the command set of the next message, which has no data set."""
        command = b""
        while True:
            kind, body = self.pdu()
            assert kind == P_DATA, f"a PDU of type {kind} ({body[:40].hex()}) came instead of a response"
            while body:
                length, context, control = struct.unpack_from(">IBB", body)
                command += body[6 : 4 + length]
                body = body[4 + length :]
                assert control & 1, "a data set came"
                if control & 2:
                    assert not body, "something stands behind the response in its PDU"
                    return context, parsed(command)

    def status(self, number: int = 1) -> int:
        """The status of the response to the request of this Message ID, which must come next."""
        _, response = self.response()
        assert response[0x0120] == struct.pack("<H", number)
        return int.from_bytes(response[0x0900], "little")

    def release(self) -> None:
        self.send(RELEASE)
        assert self.pdu() == (RELEASE_RP, bytes(4))
        self.socket.close()

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            try:
                piece = self.socket.recv(count - len(taken))
            except ConnectionResetError:
                piece = b""
            if not piece:
                return b""
            taken += piece
        return taken


def parsed(command: bytes) -> dict[int, bytes]:
    """The elements of a command set."""
    found, at = {}, 0
    while at < len(command):
        group, number, length = struct.unpack_from("<HHI", command, at)
        assert group == 0
        found[number] = command[at + 8 : at + 8 + length]
        at += 8 + length
    assert int.from_bytes(found[0], "little") == len(command) - 12
    return found


@contextmanager
def associated(node: Node, request: bytes | None = None) -> Iterator[Raw]:
    """An association that was accepted; the test releases it, or does not."""
    with Raw(node.port) as raw:
        raw.send(request or associate_rq())
        kind, body = raw.pdu()
        assert kind == ASSOCIATE_AC, (kind, body)
        raw.longest = 0
        yield raw


# -- what a node is left with


def stored_bytes(node: Node, uid: str) -> bytes | None:
    """The data set that a node has of an instance."""
    kept = node.received(uid)
    if kept is None:
        return None
    _, offset = split_dataset(kept[0])
    return kept[0].read_bytes()[offset:]


def associations() -> int:
    return sum(thread.name == "association" for thread in threading.enumerate())


def open_files() -> int:
    """How many files and sockets are open, without the folders of the spool, each of which is opened once."""
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += "/spool/" not in str(each.readlink())
    return count


def assert_nothing_left(node: Node) -> None:
    """Every association has ended, and left no partial file."""
    wait_until(lambda: not associations(), "the associations to end", 20)
    assert not list((node.settings.node.data_dir / "incoming").iterdir())
