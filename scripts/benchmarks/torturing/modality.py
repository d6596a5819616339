"""A modality that sends each study until every image of it is answered 0000."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE

from scripts.benchmarks.ingest import Load, LostError, make
from scripts.benchmarks.servers import AE_TITLE, ENVIRONMENT, PDU, program
from scripts.benchmarks.torturing.victim import Node

SMALL = Load("DX of 128 KiB", 1, 1, 256, 256, drawn=True)
LARGE = Load("DX of 10 MB", 1, 1, 2500, 2048, drawn=True)  # long enough on its way to be killed amid it
_OUTSTANDING = 12  # studies that are not delivered: with more, senders wait
_DRAIN_SECONDS = 300.0
_STORESCU = {"Success": "0000", "Refused: OutOfResources": "A700", "Unknown Status: 0x110": "0110"}  # its words
TRIED_AGAIN = {"0000", "A700", "0110"}  # what a sender of good images may be answered; with the others it gives up


@dataclass(slots=True)
class Sent:
    """What the senders know: the digest of every instance that was answered 0000, its study, and how often what."""

    answered: dict[str, str] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, *answers: str) -> None:
        """What a sender was answered, in the words of `Sent.answers`."""
        with self._lock:
            self.answers.update(answers)

    def note(self, file: Path) -> None:
        """An instance was answered 0000."""
        header = dcmread(file, stop_before_pixels=True)
        with self._lock:
            self.answered[str(header.SOPInstanceUID)] = digest(file)
            self.studies.add(str(header.StudyInstanceUID))


Push = Callable[[Node, Path, Sent], None]


def push_with_storescu(node: Node, folder: Path, sent: Sent) -> None:
    """A study as DCMTK sends it: all its images, until all are answered 0000 in one go."""
    sent.tries += 1
    command = [program("storescu"), "-v", "-aec", AE_TITLE, "-pdu", str(PDU), "-R", "+sd", "127.0.0.1", str(node.port)]
    done = subprocess.run(
        [*command, str(folder)], env=ENVIRONMENT, check=False, capture_output=True, timeout=_DRAIN_SECONDS
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    answers = [_STORESCU.get(each, each) for each in re.findall(r"Received Store Response \((.*)\)", said)]
    if "Association Rejected" in said:
        answers.append("rejected")
    elif done.returncode and not any(each != "0000" for each in answers):
        answers.append("no answer")
    sent.count(*answers)
    files = sorted(folder.iterdir())
    if done.returncode or answers != ["0000"] * len(files):
        raise LostError("no success")  # all of it once more
    for file in files:
        sent.note(file)


def push_with_pynetdicom(node: Node, folder: Path, sent: Sent) -> None:
    """A study image by image: what was answered 0000 counts at once, and all are sent again where one was not."""
    sent.tries += 1
    files = sorted(folder.iterdir())
    ae = AE("STORESCU")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.connection_timeout = 5
    header = dcmread(files[0], stop_before_pixels=True)
    ae.add_requested_context(header.SOPClassUID, header.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", node.port, ae_title=AE_TITLE)
    if not association.is_established:
        sent.count("rejected" if association.is_rejected else "no answer")
        raise LostError("no association")
    try:
        for file in files:
            try:
                answer = association.send_c_store(file)
            except RuntimeError as error:
                sent.count("no answer")
                raise LostError("the association broke") from error
            sent.count(f"{answer.Status:04X}" if "Status" in answer else "no answer")
            if answer.get("Status") != 0x0000:
                raise LostError("no success")
            sent.note(file)
    finally:
        if association.is_established:
            association.release()


class Modality:
    """Sends one study after the other, each until it is taken, in a thread of its own."""

    def __init__(self, node: Node, folder: Path, sent: Sent, push: Push, dice: random.Random) -> None:
        self._node, self._folder, self._sent, self._push, self._dice = node, folder, sent, push, dice
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Begin no other study; the one in work is sent until it is taken."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for the study in work.

        Raises:
            LostError: it is not taken.
        """
        self._thread.join(_DRAIN_SECONDS)
        if self._thread.is_alive():
            raise LostError("a study is not taken by a node that nobody kills any more")

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(self._dice.uniform(0.0, 0.4)):
            if self._node.unfinished() > _OUTSTANDING:
                continue
            number += 1
            load = self._dice.choice([SMALL, SMALL, LARGE])
            study = make(self._folder / f"{number}", self._dice.randint(1, 3), load)
            while not self._is_taken(study):
                time.sleep(self._dice.uniform(0.05, 0.5))
            shutil.rmtree(study)

    def _is_taken(self, study: Path) -> bool:
        try:
            self._push(self._node, study, self._sent)
        except LostError:
            return False
        return True


def digest(file: Path) -> str:
    """The SHA-256 of a file's data set: its meta information is the receiver's own."""
    content = file.read_bytes()
    length = int.from_bytes(content[140:144], "little")  # of the group (0002,0000), whose element ends at 144
    return hashlib.sha256(content[144 + length :]).hexdigest()
