"""The DICOM Upper Layer of an acceptor (PS3.8 section 9), from the socket to fragments of messages, in one thread.

It reads with ``recv_into`` into one buffer and hands out views of it: a fragment is never copied, and never held whole,
however long its PDU says that it is. pynetdicom's codecs decode and encode what negotiates an association.
"""

from __future__ import annotations

import mmap
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, P_DATA

from dicom_node.network import association_request

BUFFER_BYTES = 256 * 1024
_LONGEST_OTHER = 1024  # bytes of a PDU that is neither a request nor data; the standard's have 4
_GOODBYE_SECONDS = 2.0  # ARTIM: how long the other side may take to close, once everything is said
_BUSY_SECONDS = 0.1  # how long an abort waits for a PDU that another thread sends

_PDU = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")
_ASSOCIATE_RQ, _P_DATA, _RELEASE_RQ, _ABORT = 0x01, 0x04, 0x05, 0x07
_RELEASE_RP = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"

# PS3.8 9.3.8: why the upper layer aborts.
UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 0x01, 0x02, 0x06


class GoneError(Exception):
    """The connection is closed, or as good as that."""


class SilentError(GoneError):
    """Nothing came for too long, or too little."""


class AbortedError(Exception):
    """The other side aborted the association."""


class ViolationError(Exception):
    """What came breaks the protocol; the association is to be aborted for ``reason`` (PS3.8 9.3.8)."""

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UpperLayer:
    """One accepted connection. One thread reads; `send` and `abort` may be called from another one.

    Within ``request_seconds`` an association is to be asked for. ``on_bytes`` is called whenever something came.
    """

    def __init__(self, sock: socket.socket, *, request_seconds: float, on_bytes: Callable[[], None]) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Nagle against delayed acknowledgements: 40 ms
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = sock
        self._on_bytes = on_bytes
        self._sending = threading.Lock()
        # Of a mapping of its own only what was used takes memory, and all of it goes back to the system: hundreds of
        # connections that bring next to nothing cost next to nothing.
        self._buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._begin = self._end = 0  # what was read and not yet handed out
        self._before_reading: Callable[[], None] = self._hurry
        self._request_by = time.monotonic() + request_seconds
        self._least, self._least_seconds = 0, 0.0
        self._came, self._least_by = 0, 0.0  # bytes since something was got done, and until when they are to be enough

    def wait_at_most(self, seconds: float) -> None:
        """Set how long the other side may send nothing, or take nothing.

        The system watches that: a time-out of Python's would ask `poll` before each read.
        """
        self._socket.settimeout(None)
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def hurry_at_least(self, count: int, seconds: float) -> None:
        """Set that ``count`` bytes are to come within ``seconds``, or something that is `got_done` by them."""
        self._least, self._least_seconds = count, seconds

    def got_done(self) -> None:
        """Say that a message is through, however short it was."""
        self._came = 0

    def request_begins(self) -> tuple[association_request.Caller, Callable[[], A_ASSOCIATE_RQ]]:
        """Read the fixed fields of the A-ASSOCIATE-RQ that a connection begins with.

        Returns:
            Who calls, and what reads and parses the rest, with the same errors.

        Raises:
            GoneError, AbortedError, ViolationError: something else came, or nothing.
        """
        kind, length = self._pdu()
        if kind == _ABORT:
            raise AbortedError
        if kind != _ASSOCIATE_RQ:
            raise ViolationError(UNEXPECTED_PDU, f"a PDU of type {kind:02X}H came where an association is requested")
        if not association_request.FIXED_BYTES <= length <= association_request.LONGEST:
            raise ViolationError(INVALID_PARAMETER, f"a request for an association of {length} bytes")
        fixed = self._take(association_request.FIXED_BYTES)
        return association_request.caller(fixed), lambda: self._request_ends(kind, length, fixed)

    def _request_ends(self, kind: int, length: int, fixed: bytes) -> A_ASSOCIATE_RQ:
        rest = self._take(length - len(fixed))
        pdu = A_ASSOCIATE_RQ()
        try:
            association_request.check(rest)
            pdu.decode(_PDU.pack(kind, length) + fixed + rest)
        except Exception as error:  # whatever a decoder raises on hostile bytes
            raise ViolationError(INVALID_PARAMETER, "the request for an association cannot be parsed") from error
        return pdu

    def fragments(self, before_reading: Callable[[], None]) -> Iterator[tuple[int, int, memoryview, bool]]:
        """What comes on an established association, until it is released.

        Args:
            before_reading: called before the buffer, and with it every view that was handed out, is overwritten.

        Yields:
            (presentation context id, message control header (PS3.8 E.2), bytes, whether the fragment ends with them).

        Raises:
            GoneError, AbortedError, ViolationError: it ended in another way.
        """
        self._before_reading = before_reading
        buffer = self._buffer
        while True:
            kind, left = self._pdu()
            if kind != _P_DATA:
                if left > _LONGEST_OTHER:
                    raise ViolationError(INVALID_PARAMETER, f"a PDU of type {kind:02X}H of {left} bytes")
                self._take(left)
                if kind == _RELEASE_RQ:
                    return
                if kind == _ABORT:
                    raise AbortedError
                reason = UNEXPECTED_PDU if 0 < kind < _ABORT else UNRECOGNIZED_PDU
                raise ViolationError(reason, f"a PDU of type {kind:02X}H came on an established association")
            while left:
                if left < _PDV.size:
                    raise ViolationError(INVALID_PARAMETER, f"{left} bytes stand behind the last fragment of a PDU")
                self._need(_PDV.size)
                length, context, control = _PDV.unpack_from(buffer, self._begin)
                self._begin += _PDV.size
                if not 2 <= length <= left - 4:
                    raise ViolationError(INVALID_PARAMETER, f"a fragment of {length} bytes in {left} bytes of its PDU")
                left -= length + 4
                length -= 2
                while True:
                    begin = self._begin
                    self._begin = end = min(begin + length, self._end)
                    length -= end - begin
                    yield context, control, buffer[begin:end], not length
                    if not length:
                        break
                    self._read()

    def has_more(self) -> bool:
        """Whether something has come that `fragments` has not handed out; it waits for nothing.

        A connection that the other side has closed has more: reading it says so.
        """
        if self._end > self._begin:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def send(self, data: bytes) -> None:
        """Send an encoded PDU.

        Raises:
            GoneError: it cannot be sent.
        """
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError as error:
            raise GoneError from error

    def released(self) -> None:
        """Answer a release."""
        with suppress(GoneError):
            self.send(_RELEASE_RP)

    def abort(self, reason: int | None = None) -> None:
        """Abort: for a reason of the upper layer's (PS3.8 9.3.8), or as its user.

        Nobody waits for a side that takes nothing: it learns it from the connection's end.
        """
        pdu = b"\x07\x00\x00\x00\x00\x04\x00\x00" + (b"\x00\x00" if reason is None else bytes((2, reason)))
        if self._sending.acquire(timeout=_BUSY_SECONDS):
            try:
                with suppress(OSError):
                    self._socket.send(pdu, socket.MSG_DONTWAIT)
            finally:
                self._sending.release()

    def cut(self) -> None:
        """Close the connection under the thread that reads, which then meets `GoneError`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the other side close first, so that what was said last is not lost; it has a moment for that."""
        deadline = time.monotonic() + _GOODBYE_SECONDS
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.wait_at_most(max(left, 0.01))
                if not self._socket.recv_into(self._buffer):
                    break
        with suppress(OSError):
            self._socket.close()
        self._buffer = memoryview(b"")  # now, not when the objects are collected that know each other

    def _pdu(self) -> tuple[int, int]:
        """The type and length of the next PDU."""
        self._need(_PDU.size)
        kind, length = _PDU.unpack_from(self._buffer, self._begin)
        self._begin += _PDU.size
        return kind, length

    def _need(self, count: int) -> None:
        """Read until ``count`` bytes, a few, are in the buffer."""
        while self._end - self._begin < count:
            self._read()

    def _take(self, count: int) -> bytes:
        """The next ``count`` bytes, copied."""
        taken = bytearray()
        while True:
            piece = self._buffer[self._begin : min(self._begin + count - len(taken), self._end)]
            self._begin += len(piece)
            taken += piece
            if len(taken) == count:
                return bytes(taken)
            self._read()

    def _hurry(self) -> None:
        """Wait no longer than there is time to ask for an association, however slowly its bytes come."""
        left = self._request_by - time.monotonic()
        if left <= 0:
            raise SilentError
        self.wait_at_most(max(left, 0.001))

    def _read(self) -> None:
        """Read what is there, at least a byte, behind what is not yet handed out."""
        self._before_reading()
        kept = self._end - self._begin
        if kept:
            self._buffer[:kept] = bytes(self._buffer[self._begin : self._end])
        self._begin, self._end = 0, kept
        try:
            count = self._socket.recv_into(self._buffer[kept:] if kept else self._buffer)
        except BlockingIOError as error:
            raise SilentError from error
        except OSError as error:
            raise GoneError from error
        if not count:
            raise GoneError
        self._end += count
        self._on_bytes()
        self._keep_pace(count)

    def _keep_pace(self, count: int) -> None:
        """Note what came; a side that brings a byte now and then is as good as one that is silent."""
        if not self._came:
            self._least_by = time.monotonic() + self._least_seconds
        self._came += count
        if self._came >= self._least:
            self._came = 0
        elif time.monotonic() > self._least_by:
            raise SilentError(f"fewer than {self._least} bytes of a message came in {self._least_seconds:g} s")


class PynetdicomProvider:
    """An `UpperLayer` in the place of pynetdicom's own: what pynetdicom sends goes out at once, nothing comes in by it.

    Only an acceptor's PDUs can be sent; `UpperLayer.send` says what is raised.
    """

    socket = None

    def __init__(self, upper: UpperLayer) -> None:
        self._upper = upper

    def send_pdu(self, primitive: Any) -> None:
        """Encode a PDU and send it."""
        if isinstance(primitive, A_ASSOCIATE):
            pdu = A_ASSOCIATE_AC(primitive) if primitive.result == 0x00 else A_ASSOCIATE_RJ(primitive)
        elif isinstance(primitive, P_DATA):
            pdu = P_DATA_TF(primitive)
        elif isinstance(primitive, A_ABORT | A_P_ABORT):
            return  # our own upper layer aborts
        else:
            raise TypeError(f"no acceptor sends {type(primitive).__name__}")
        self._upper.send(pdu.encode())

    @staticmethod
    def is_alive() -> bool:
        """There is no thread that could be."""
        return False
