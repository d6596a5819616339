"""One conversation with a node: an input is sent, and what comes back is an answer in words."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass

from scripts.benchmarks.fuzzing.hostile import ABORT, ASSOCIATE_AC, ASSOCIATE_RJ, MARK, P_DATA, PROBE, RELEASE_RP, Input

DEADLINE_SECONDS = 30.0  # seconds for an answer; without one the node hangs


PROMPT_SECONDS = 15.0  # seconds in which a good input is answered, whatever the others do


# What may be answered. 0110 is an error of ours, but to N-SET, where it says that a step is over (PS3.4 F.7.2.2.2).
_STATUSES = {
    "C-STORE": {0x0000, 0x0117, 0x0122, 0x0124, 0xA900, 0xC000, 0xC001},
    "C-ECHO": {0x0000},
    "N-CREATE": {
        0x0000,
        0x0105,
        0x0106,
        0x0107,
        0x0111,
        0x0116,
        0x0117,
        0x0118,
        0x0119,
        0x0120,
        0x0121,
        0x0122,
        0x0124,
    },
    "N-SET": {
        0x0000,
        0x0105,
        0x0106,
        0x0107,
        0x0110,
        0x0112,
        0x0116,
        0x0117,
        0x0118,
        0x0119,
        0x0120,
        0x0121,
        0x0122,
        0x0124,
    },
    "N-GET": {0x0000, 0x0107, 0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0124, 0x0211},
    "N-DELETE": {0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0124, 0x0211},
    "N-ACTION": {
        0x0000,
        0x0112,
        0x0113,
        0x0114,
        0x0115,
        0x0117,
        0x0118,
        0x0119,
        0x0122,
        0x0123,
        0x0124,
        0x0211,
        0x0212,
    },
    "N-EVENT-REPORT": {0x0000, 0x0112, 0x0113, 0x0114, 0x0115, 0x0117, 0x0118, 0x0119, 0x0122, 0x0211, 0x0212},
    "C-FIND": {0x0122, 0x0211, 0xA900, 0xC000},
    "C-GET": {0x0122, 0x0211, 0xA900, 0xC000},
    "C-MOVE": {0x0122, 0x0211, 0xA900, 0xC000},
}


FIELDS = {
    0x8001: "C-STORE",
    0x8030: "C-ECHO",
    0x8140: "N-CREATE",
    0x8120: "N-SET",
    0x8110: "N-GET",
    0x8150: "N-DELETE",
}


SILENT = "closed without a word"


HANGS = "no answer"


LIVES = "no answer, and it goes on"  # to what asks for none


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: in words, and the status of each C-STORE with its Message ID and SOP Instance UID."""

    words: tuple[str, ...]
    stores: tuple[tuple[int, bytes, int], ...]
    ended: bool
    seconds: float


def judged(sent: Input, answer: Answer) -> list[str]:
    """What is wrong with an answer, in words."""
    found = []
    for word in answer.words:
        name, _, status = word.rpartition(" ")
        if word == HANGS:
            found.append(f"not answered within {DEADLINE_SECONDS:g} s")
        elif word == SILENT and not sent.quiet:
            found.append("the connection was closed without a word")
        elif word.startswith("odd:"):
            found.append(word)
        elif name in _STATUSES and int(status, 16) not in _STATUSES[name]:
            found.append(f"{word}, which is no answer to hostile bytes")
    if sent.good and [status for _, _, status in answer.stores] != [0x0000] * max(len(sent.data_sets), 1):
        found.append(f"a good C-STORE was answered with {' + '.join(answer.words)}")
    return found


class Talk:
    """A connection to the node."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = bytearray()

    def close(self) -> None:
        """End it."""
        self._socket.close()

    def say(self, data: bytes, *, ends: bool) -> Answer:
        """Send and read the answers, up to that of the C-ECHO that tells that all are there, or to the end."""
        began = time.monotonic()
        with suppress(ConnectionError):  # it was closed amid this; what it said before is there
            self._socket.sendall(data)
        if ends:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        words: list[str] = []
        stores: list[tuple[int, bytes, int]] = []
        over = False
        try:
            over = self._listen(words, stores, whole=ends)
        except TimeoutError:
            words.append(HANGS)
            over = True
        except EOFError:
            over = True
            if not words:
                words.append(SILENT)
        return Answer(tuple(dict.fromkeys(words)) or (LIVES,), tuple(stores), over, time.monotonic() - began)

    def _listen(self, words: list[str], stores: list[tuple[int, bytes, int]], *, whole: bool) -> bool:
        """Whether the association is over, as opposed to the C-ECHO answered; EOFError where the connection is."""
        command = bytearray()
        while True:
            kind, body = self._pdu()
            if any(each in body for each in (*RAISED, MARK)):
                words.append("odd: it tells what it should not")
            if kind == ASSOCIATE_AC:
                words.append("A-ASSOCIATE-AC")
            elif kind == ASSOCIATE_RJ and len(body) == 4:
                words.append("A-ASSOCIATE-RJ {}/{}/{}".format(*body[1:]))
            elif kind == ABORT and len(body) == 4:
                words.append("A-ABORT {}/{}".format(*body[2:]))
            elif kind == RELEASE_RP:
                words.append("A-RELEASE-RP")
            elif kind != P_DATA:
                words.append(f"odd: a PDU of type {kind:02X}H and {len(body)} bytes")
            while kind == P_DATA and body:
                size, _, control = struct.unpack_from(">IBB", body)
                fragment, body = body[6 : 4 + size], body[4 + size :]
                if not control & 1:
                    continue  # of a data set that an N-service answers with
                command += fragment
                if control & 2:
                    name, status, number, uid = _response(bytes(command))
                    command.clear()
                    if number == PROBE and name == "C-ECHO" and not whole:
                        return False
                    words.append(name if name.startswith("odd:") else f"{name} {status:04X}")
                    if name == "C-STORE":
                        stores.append((number, uid, status))

    def _pdu(self) -> tuple[int, bytes]:
        kind, size = struct.unpack(">BxI", self._take(6))
        if size > 1 << 24:
            raise EOFError
        return kind, self._take(size)

    def _take(self, count: int) -> bytes:
        while len(self._left) < count:
            try:
                piece = self._socket.recv(65536)
            except ConnectionError:
                piece = b""
            if not piece:
                raise EOFError
            self._left += piece
        taken = bytes(self._left[:count])
        del self._left[:count]
        return taken


def _response(command: bytes) -> tuple[str, int, int, bytes]:
    """The service, status, Message ID and SOP Instance UID of an answer."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 8 <= len(command):
        _, number, size = struct.unpack_from("<HHI", command, at)
        found[number] = command[at + 8 : at + 8 + size]
        at += 8 + size
    numbers = [int.from_bytes(found.get(number, b"\xff\xff"), "little") for number in (0x0100, 0x0900, 0x0120)]
    name = FIELDS.get(numbers[0], f"odd: a message {numbers[0]:04X}H")
    return name, numbers[1], numbers[2], found.get(0x1000, b"")


RAISED = [b"Traceback (most recent", b'File "', b"Error: ", b".py"]
