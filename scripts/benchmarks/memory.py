"""Measures the node's memory: while a large object is received, over thousands of associations, and with a long queue.

It also measures the memory of many connections that are idle or slow, and whether a C-ECHO is answered meanwhile.

The figures are those of the system (/proc) for the process of ``dicom_node run``.
"""

from __future__ import annotations

import socket
import sqlite3
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameGrayscaleByteSecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.index.index import INDEX_FILE, Index
from scripts.benchmarks import ingest
from scripts.benchmarks.filling import DESTINATION, MODEL, ROUTE, Hospital, queue
from scripts.benchmarks.sender import Sender
from scripts.benchmarks.servers import AE_TITLE, SERVERS, Server, free_port

BAR = 200e6  # bytes that an object may take while it is received, whatever its size
_FRAME = 1024  # rows and columns of a frame of 8 bit
_SAMPLES = 20
_WARM_SAMPLES = 2  # samples until every folder is open and every cache is full
_AT_ONCE = 4  # associations
_SETTLE_SECONDS = 5.0
_IDLE_SECONDS = 0.5  # until the connection that tested the port has ended
_AT_FIRST = 400  # bytes that a slow sender sends at once: the command and the beginning of the data set
_SLOW_BYTES = 5  # bytes that it then sends one by one
_NODE = SERVERS["dicom-node"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the object is (bytes), how many associations of how many images there are, and how many studies wait.

    ``seconds`` is how long a node is watched after its start. Then there are so many ``idle`` associations, ``slow``
    senders (a byte a second) and ``silent`` connections at a time.
    """

    object_bytes: int
    associations: int
    images: int
    queued: int
    seconds: float
    idle: int
    slow: int
    silent: int


FULL = Scale(10**9, 2000, 10, 10_000, 12.0, 200, 200, 300)
QUICK = Scale(64 * 10**6, 60, 4, 200, 2.0, 20, 20, 30)


def run(folder: Path, scale: Scale, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure; all figures, memory in bytes.

    Raises:
        LostError: an image did not arrive.
        MissingError: the node does not start, or the sender is not installed.
        OSError: the system does not tell (it is no Linux).
    """
    found: dict[str, Any] = {"bar": BAR, "object": _object(folder, scale)}
    say(f"one object: {_megabytes(found['object']['more'])} more")
    found["associations"] = _associations(folder, scale, say)
    found["queue"] = _queue(folder, scale)
    found["pressure"] = _pressure(folder, scale, say)
    return found


# -- one large object


def _object(folder: Path, scale: Scale) -> dict[str, Any]:
    small = ingest.make(folder / "small", 2, ingest.Load("", 1, 2, 64, 64))
    large = folder / "large"
    large.mkdir()
    size = _write_large(large / "large.dcm", scale.object_bytes)
    with _NODE.running(folder / "node-object") as running:
        ingest.send([small], running.port)  # what the first image takes, every other one finds there
        before = _status(running.pid, "VmRSS")
        Path(f"/proc/{running.pid}/clear_refs").write_text("5", encoding="ascii")  # the greatest is now that of now
        began = time.perf_counter()
        ingest.send([large], running.port)
        seconds = time.perf_counter() - began
        greatest, after = _status(running.pid, "VmHWM"), _status(running.pid, "VmRSS")
        if running.stored() != 3:
            raise ingest.LostError("the node has not the object that it acknowledged")
    (large / "large.dcm").unlink()
    return {
        "object_bytes": size,
        "seconds": seconds,
        "before": before,
        "greatest": greatest,
        "after": after,
        "more": greatest - before,
    }


def _write_large(file: Path, size: int) -> int:
    """Write an image of at least ``size`` bytes of pixels, frame by frame. Returns the size of the file in bytes."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.PatientName, image.PatientID, image.Modality, image.ConversionType = "BENCH", "BENCH", "OT", "SYN"
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.Rows, image.Columns, image.BitsAllocated, image.BitsStored, image.HighBit = _FRAME, _FRAME, 8, 8, 7
    image.NumberOfFrames = frames = -(-size // _FRAME**2)
    image.save_as(file, enforce_file_format=True)
    rng = np.random.default_rng(1)
    with file.open("ab") as written:
        written.write(struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", frames * _FRAME**2))
        for _ in range(frames):
            written.write(rng.bytes(_FRAME**2))
    return file.stat().st_size


# -- many associations


def _associations(folder: Path, scale: Scale, say: Callable[[str], None]) -> dict[str, Any]:
    """Each association sends a study of its own. Memory is read after each twentieth of the associations."""
    block = scale.associations // _SAMPLES
    samples = []
    with _NODE.running(folder / "node-associations") as running:
        time.sleep(_IDLE_SECONDS)
        idle = _state(running.pid)
        sender = Sender(running.port)
        began = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as senders:
            for number in range(_SAMPLES):
                first = number * block
                list(senders.map(lambda at: sender.associate(at, scale.images), range(first, first + block)))
                samples.append({"associations": first + block, **_state(running.pid, threads=idle["threads"])})
                say(f"{first + block} associations: {_megabytes(samples[-1]['memory'])}")
        seconds = time.perf_counter() - began
        instances = _SAMPLES * block * scale.images
        if (stored := running.stored()) != instances:
            raise ingest.LostError(f"the node has {stored} of the {instances} images that it acknowledged")
    counted = samples[_WARM_SAMPLES - 1 :]
    memory = [each["memory"] for each in counted]
    return {
        "instances": instances,
        "seconds": seconds,
        "idle": idle,
        "first": counted[0],
        "last": counted[-1],
        "greatest": max(memory),
        "bytes_per_association": _slope(counted),
        "bytes_per_association_second_half": _slope(samples[_SAMPLES // 2 :]),
        "samples": samples,
    }


def _slope(samples: list[dict[str, int]]) -> float:
    """Bytes of memory per association: the slope of the straight line through the samples."""
    return float(np.polyfit([each["associations"] for each in samples], [each["memory"] for each in samples], 1)[0])


def _state(pid: int, threads: int = 0) -> dict[str, int]:
    """Resident memory (bytes), threads and open files. The threads of ended associations get a moment to end."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while threads and _number(pid, "Threads") > threads and time.monotonic() < deadline:
        time.sleep(0.02)
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {"memory": _status(pid, "VmRSS"), "threads": _number(pid, "Threads"), "files": files}


# -- a long queue


def _queue(folder: Path, scale: Scale) -> dict[str, Any]:
    found: dict[str, Any] = {"queued": scale.queued}
    for name, studies in (("empty", 0), ("full", scale.queued)):
        there = folder / f"node-queue-{name}"
        with _with_queue(studies).running(there) as running:
            time.sleep(
                scale.seconds
            )  # it looks for jobs, and for those that nobody does, at once and every few seconds
            found[name] = {"memory": _status(running.pid, "VmRSS"), "greatest": _status(running.pid, "VmHWM")}
        with closing(sqlite3.connect(there / "data" / INDEX_FILE)) as conn:
            (left,) = conn.execute("SELECT count(*) FROM jobs WHERE kind = 'read' AND state = 'queued'").fetchone()
        if left != studies:
            raise ingest.LostError(f"{left} of the {studies} queued studies were in the queue all the time")
    found["more"] = found["full"]["greatest"] - found["empty"]["greatest"]
    return found


def _with_queue(studies: int) -> Server:
    """A node that reads and starts with so many studies in its queue. All are due later, so that they stay there."""

    def prepare(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
        command, stored = _NODE.prepare(folder, port)
        with (folder / "node.toml").open("a", encoding="utf-8") as config:
            config.write(
                f'[[peers]]\nname = "{DESTINATION}"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {free_port()}\n'
                "destination = true\n"
                f'[[routes]]\nname = "{ROUTE}"\nmodels = ["{MODEL}"]\nto = ["{DESTINATION}"]\n'
            )
        index = folder / "data" / INDEX_FILE
        index.parent.mkdir()
        Index(index, create=True).close()
        queue(index, Hospital(1), studies, due=time.time() + 3600.0)
        return command, stored

    return Server("dicom-node", _NODE.promise, prepare)


# -- connections that do little or nothing


def _pressure(folder: Path, scale: Scale, say: Callable[[str], None]) -> dict[str, Any]:
    """Each kind of connection is added to those that are open already. In the end all are closed."""
    stages: list[dict[str, Any]] = []
    with _NODE.running(folder / "node-pressure") as running, ExitStack() as opened:
        sender = Sender(running.port)
        sender.associate(0, 1)

        def note(what: str, **state: int) -> None:
            stages.append({"what": what, **_state(running.pid, **state), "echo_seconds": _echo(running.port)})
            say(f"{what}: {_megabytes(stages[-1]['memory'])}")

        time.sleep(_IDLE_SECONDS)
        note("before")
        for _ in range(scale.idle):
            opened.enter_context(sender.open())
        note(f"{scale.idle} idle associations")
        slow = [opened.enter_context(sender.open()) for _ in range(scale.slow)]
        messages = [sender.message(number) for number in range(1, scale.slow + 1)]
        for connection, message in zip(slow, messages, strict=True):
            connection.sendall(message[:_AT_FIRST])
        for at in range(_AT_FIRST, _AT_FIRST + _SLOW_BYTES):
            for connection, message in zip(slow, messages, strict=True):
                connection.sendall(message[at : at + 1])
            time.sleep(1.0)
        note(f"- and {scale.slow} senders of one byte a second")
        for _ in range(scale.silent):
            opened.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        time.sleep(_IDLE_SECONDS)  # until all are accepted
        note(f"- and {scale.silent} connections that say nothing")
        opened.close()
        note("after all are gone", threads=stages[0]["threads"])
        sender.associate(scale.slow + 1, 1)
        if (stored := running.stored()) != 2:
            raise ingest.LostError(f"the node has {stored} of the 2 images that it acknowledged")
    return {"stages": stages}


def _echo(port: int) -> float:
    """Seconds that a C-ECHO takes, with its association.

    Raises:
        LostError: it is not answered.
    """
    ae = AE("STORESCU")
    ae.add_requested_context(Verification)
    began = time.perf_counter()
    association = ae.associate("127.0.0.1", port, ae_title=AE_TITLE)
    if not association.is_established or association.send_c_echo().get("Status") != 0x0000:
        raise ingest.LostError("C-ECHO is not answered")
    seconds = time.perf_counter() - began
    association.release()
    return seconds


# -- what the system says


def _status(pid: int, key: str) -> int:
    """A memory figure of a process (proc_pid_status(5)) in bytes."""
    return 1024 * _number(pid, key)


def _number(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0])
    raise OSError(f"/proc/{pid}/status has no {key}")


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    one, many, queue, pressure = found["object"], found["associations"], found["queue"], found["pressure"]
    first, last = many["first"], many["last"]
    rows = [
        (f"receiving one object of {_megabytes(one['object_bytes'])}: before", _megabytes(one["before"])),
        ("- at most, more than before", f"{_megabytes(one['more'])} (bar: {_megabytes(found['bar'])})"),
        (f"after {first['associations']} associations", _megabytes(first["memory"])),
        (f"after {last['associations']} associations, {many['instances']} images", _megabytes(last["memory"])),
        ("- at most", _megabytes(many["greatest"])),
        ("- growth", f"{many['bytes_per_association']:.0f} bytes an association"),
        ("- growth in the second half", f"{many['bytes_per_association_second_half']:.0f} bytes an association"),
        *(
            (f"- {what}: idle, first, last", ", ".join(str(each[key]) for each in (many["idle"], first, last)))
            for what, key in (("threads", "threads"), ("open files", "files"))
        ),
        ("started with an empty queue", _megabytes(queue["empty"]["memory"])),
        (f"started with {queue['queued']} studies in the queue", _megabytes(queue["full"]["memory"])),
        ("- at most, more than with an empty one", _megabytes(queue["more"])),
        *(
            (
                each["what"],
                f"{_megabytes(each['memory'])}, {each['threads']} threads, {each['files']} open files, "
                f"C-ECHO in {1000 * each['echo_seconds']:.0f} ms",
            )
            for each in pressure["stages"]
        ),
    ]
    return "\n".join(["| the node's memory | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows), ""])
