"""Measures images per second from ``storescu`` to the disk: every server in turn, several rounds, the same files.

In each turn a new server starts in an empty folder, so that no image is a duplicate and all indexes are equally empty.
The time runs from the start of the first sender to the end of the last. Afterwards the server must have all instances:
a fast server that loses images has no result.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from ai.phantom.draw import draw_phantom
from scripts.benchmarks.servers import AE_TITLE, ENVIRONMENT, PDU, Running, Server, program

_WARM = 2  # images of another study that are sent first
_LIMIT_SECONDS = 1800.0


class LostError(Exception):
    """A sender failed, or a server does not have all that was sent to it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent at the same time: ``associations`` senders of ``images`` each; ``rows`` x ``columns`` of 16 bit.

    ``drawn``: the images are to be read, so they are drawn chest radiographs. The others are noise.
    """

    name: str
    associations: int
    images: int
    rows: int
    columns: int
    drawn: bool = False


LOADS = (
    Load("CT of 512 KiB, one association of 400", 1, 400, 512, 512),
    Load("DX of 10 MB, one association of 20", 1, 20, 2500, 2048),
    Load("CT of 512 KiB, eight associations of 100", 8, 100, 512, 512),
)
QUICK = (Load("CT of 512 KiB, one association of 8", 1, 8, 512, 512), Load("CT of 8 KiB, two of 4", 2, 4, 64, 64))


def run(
    folder: Path, servers: Sequence[Server], loads: Sequence[Load], *, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure; all figures, in images a second, by load and server.

    Raises:
        LostError: an image did not arrive.
        MissingError: a server or the sender is not installed.
    """
    found: dict[str, Any] = {"rounds": rounds, "loads": []}
    for number, load in enumerate(loads):
        images = folder / f"images-{number}"
        warm = make(images / "warm", _WARM, load)
        parts = [make(images / f"{part}", load.images, load) for part in range(load.associations)]
        rates: dict[str, list[float]] = {server.name: [] for server in servers}
        for turn in range(rounds):
            # Whoever comes first finds another disk than whoever comes last: the order goes round.
            for server in (*servers[turn % len(servers) :], *servers[: turn % len(servers)]):
                with server.running(folder / f"server-{number}-{turn}-{server.name.replace(' ', '-')}") as running:
                    rate = _turn(server, running, warm, parts, load)
                rates[server.name].append(rate)
                say(f"{load.name}, round {turn + 1} of {rounds}, {server.name}: {rate:.0f} images/s")
        found["loads"].append(
            {
                "load": load.name,
                "bytes": sum(file.stat().st_size for part in parts for file in part.iterdir()),
                "images": load.associations * load.images,
                "servers": [
                    {"server": server.name, "promise": server.promise, "images_per_second": rates[server.name]}
                    for server in servers
                ],
            }
        )
    return found


def _turn(server: Server, running: Running, warm: Path, parts: Sequence[Path], load: Load) -> float:
    send([warm], running.port)
    before = running.stored()
    began = time.perf_counter()
    send(parts, running.port)
    seconds = time.perf_counter() - began
    wanted, have = load.associations * load.images, running.stored() - before
    if have != wanted:
        raise LostError(f"{server.name} has {have} of the {wanted} images that it acknowledged")
    return wanted / seconds


def send(parts: Sequence[Path], port: int) -> None:
    """Send the files of each folder over an association of its own, all at once.

    Raises:
        LostError: a sender failed, or did not end.
    """
    command = [program("storescu"), "-aec", AE_TITLE, "-pdu", str(PDU), "-R", "+sd", "127.0.0.1", str(port)]
    senders = [
        subprocess.Popen([*command, str(part)], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for part in parts
    ]
    try:
        for sender in senders:
            said, _ = sender.communicate(timeout=_LIMIT_SECONDS)
            if sender.returncode:
                last = said[-500:].decode(errors="replace").strip()
                raise LostError(f"storescu failed ({sender.returncode}): {last}")
    except subprocess.TimeoutExpired:
        raise LostError(f"storescu did not end within {_LIMIT_SECONDS:.0f} s") from None
    finally:
        for sender in senders:
            if sender.poll() is None:
                sender.kill()
                sender.communicate()


def make(folder: Path, count: int, load: Load) -> Path:
    """Write ``count`` instances of one series into ``folder``.

    The pixels are noise, which no disk can compress, or a drawn chest radiograph, since a node reads no other.
    """
    folder.mkdir(parents=True)
    small = load.name.startswith("CT")
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage if small else DigitalXRayImageStorageForPresentation
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.BodyPartExamined = ("CT", "CHEST") if small else ("DX", "CHEST")
    image.PatientName, image.PatientID, image.StudyDate, image.StudyTime = "BENCH", "BENCH", "20200101", "120000"
    image.StudyDescription, image.SeriesDescription = "Benchmark", "Phantom" if load.drawn else "Noise"
    image.SeriesNumber = 1
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.Rows, image.Columns, image.BitsAllocated, image.BitsStored, image.HighBit = (
        load.rows,
        load.columns,
        16,
        16,
        15,
    )
    rng = np.random.default_rng(1)
    for number in range(count):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.InstanceNumber = number + 1
        image.PixelData = _drawn(load.rows, load.columns) if load.drawn else rng.bytes(2 * load.rows * load.columns)
        image.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return folder


@cache
def _drawn(rows: int, columns: int) -> bytes:
    """The stored values of a phantom, over all 16 bits."""
    phantom = draw_phantom(1, rows, columns, view="PA", photometric="MONOCHROME2")
    return (phantom.pixels << (16 - phantom.bits_stored)).astype("<u2").tobytes()


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown: medians, the least and the greatest, and how many times as fast the first server is."""
    lines = []
    for load in found["loads"]:
        named = load["servers"][0]["server"]
        first = statistics.median(load["servers"][0]["images_per_second"])
        lines += [
            f"{load['load']} ({load['bytes'] / 1e6:.0f} MB, {found['rounds']} rounds)",
            "",
            f"| server | at its answer an image is | images/s (least to greatest) | MB/s | {named} to it |",
            "|---|---|---|---|---|",
        ]
        for one in load["servers"]:
            rates = one["images_per_second"]
            median = statistics.median(rates)
            spread = f"{median:.0f} ({min(rates):.0f} to {max(rates):.0f})"
            through = f"{median * load['bytes'] / load['images'] / 1e6:.0f}"
            lines.append(f"| {one['server']} | {one['promise']} | {spread} | {through} | {first / median:.2f} |")
        lines.append("")
    return "\n".join(lines)
