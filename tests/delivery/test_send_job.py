"""Delivering: what each answer of a PACS means. Every PACS here is a real SCP behind a real socket."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom.dsutils import split_dataset

from dicom_node.delivery.send_job import RESULT_CLASSES, Sender
from dicom_node.errors import Permanent, Retryable
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, NewInstance, NewReading, NewResult
from dicom_node.jobs.patience import Patience
from dicom_node.jobs.worker import Worker
from dicom_node.network.requestor import Timeouts
from dicom_node.storage.spool import Spool
from tests.support.nodes import settings_for
from tests.support.peers import Pacs, free_port, listens
from tests.support.programs import running, tool
from tests.support.samples import make_image, reading_text
from tests.support.waiting import scaled, wait_until

StartPacs = Callable[..., Pacs]


def make_item(**attributes: Any) -> Dataset:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


class Bench:
    """An index and a spool with result objects in it, and a sender for them."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder)
        self.spool.open()
        self.index = Index(folder / "index.sqlite", create=True)
        self.index.add_instance(NewInstance("1.2", "1", "1", "1", "1.1", "CR", "", "", "", "A", "f", 1), 1.0)
        self.senders: list[Sender] = []

    def results(self, *sop_classes: str) -> list[Job]:
        """Results of one reading, queued."""
        jobs = [self.result(sop_class) for sop_class in sop_classes]
        with self.index.transaction():
            for number, job in enumerate(jobs):
                self.index._run(
                    "UPDATE results SET run_key = ? WHERE sop_instance_uid = ?", jobs[0].subject, job.subject
                )
                self.index.queue_sends(dataclasses.replace(job, id=number), jobs[0].subject, [("pacs", "p")], 1.0)
        return [dataclasses.replace(job, run_key=jobs[0].subject) for job in jobs]

    def result(self, sop_class: str = SecondaryCaptureImageStorage, *, size: int = 0) -> Job:
        uid = generate_uid(None)
        image = make_image(SOPClassUID=sop_class, SOPInstanceUID=uid)
        if size:
            image.PixelData = bytes(size)
        image.ContributingEquipmentSequence = [make_item(Manufacturer="x")]
        image.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence = [make_item(CodeValue="109102")]
        file = BytesIO()
        image.save_as(file, enforce_file_format=True)
        name = self.spool.adopt([(self.spool.write_parts([[file.getvalue()]])[0], uid)])[0]
        new = NewResult(uid, sop_class, "1.9", 0, "sc", name, 1, "p")
        with self.index.transaction():
            self.index.add_reading(NewReading(uid, "1", "m", "1", "d", 1.0, reading_text()), [new])
        return Job(1, "send", uid, "1", 1, "r", "pacs", uid, 1, 1.0, "t")

    def sender(self, port: int, timeouts: Timeouts | None = None) -> Sender:
        settings = settings_for(self.spool.root, pacs_port=port)
        self.senders.append(Sender(settings, settings.peer("pacs"), self.index, self.spool, timeouts))
        return self.senders[-1]

    def path(self, job: Job) -> Path:
        result = self.index.result(job.subject)
        assert result is not None
        return self.spool.path(result.file)

    def bytes_of(self, job: Job) -> bytes:
        path = self.path(job)
        return path.read_bytes()[split_dataset(path)[1] :]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "node")
    yield bench
    for sender in bench.senders:
        sender.close()
    bench.index.close()
    bench.spool.close()


@pytest.mark.slow
def test_the_bytes_of_the_file_arrive_over_one_association(bench: Bench, start_pacs: StartPacs) -> None:
    pacs = start_pacs()
    sender = bench.sender(pacs.port)
    jobs = [bench.result() for _ in range(3)]
    for job in jobs:
        assert sender(job).reason == ""
    assert pacs.stored == [(job.subject, bench.bytes_of(job)) for job in jobs]
    assert pacs.associations == 1
    sender.close()
    sender(bench.result())
    assert pacs.associations == 2


@pytest.mark.slow
@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0110, 0x0213, 0x0211, 0xFE00])
def test_a_status_that_may_go_away_is_tried_again(bench: Bench, start_pacs: StartPacs, status: int) -> None:
    pacs = start_pacs()
    pacs.answer = lambda _uid: status
    with pytest.raises(Retryable, match=f"{status:04X}"):
        bench.sender(pacs.port)(bench.result())


@pytest.mark.slow
@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0117, 0x0122, 0x0124])
def test_a_status_that_will_not_go_away_is_final(bench: Bench, start_pacs: StartPacs, status: int) -> None:
    pacs = start_pacs()
    pacs.answer = lambda _uid: status
    with pytest.raises(Permanent, match=f"{status:04X}"):
        bench.sender(pacs.port)(bench.result())


@pytest.mark.slow
def test_a_warning_is_stored(bench: Bench, start_pacs: StartPacs) -> None:
    pacs = start_pacs()
    pacs.answer = lambda _uid: 0xB000
    assert bench.sender(pacs.port)(bench.result()).reason == "stored with warning B000"


@pytest.mark.slow
def test_a_pacs_that_is_down_and_comes_back(bench: Bench, start_pacs: StartPacs) -> None:
    port = free_port()
    sender, job = bench.sender(port), bench.result()
    with pytest.raises(Retryable, match=rf"PACS at 127\.0\.0\.1:{port}\): no connection: it was refused"):
        sender(job)
    pacs = start_pacs(port)
    sender(job)
    assert pacs.uids() == [job.subject]


@pytest.mark.slow
def test_a_pacs_that_does_not_know_us_says_what_to_add(bench: Bench, start_pacs: StartPacs) -> None:
    pacs = start_pacs(require_calling=("SOMEBODY",))
    with pytest.raises(Retryable, match="does not know our AE title 'AINODE'"):
        bench.sender(pacs.port)(bench.result())


@pytest.mark.slow
def test_a_pacs_of_another_name_says_what_to_correct(bench: Bench, start_pacs: StartPacs) -> None:
    pacs = start_pacs(ae_title="OTHER")
    with pytest.raises(Retryable, match="does not answer to AE title 'PACS': correct ae_title of peer pacs"):
        bench.sender(pacs.port)(bench.result())


@pytest.mark.slow
def test_something_that_is_no_pacs_is_tried_again(bench: Bench) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(Retryable, match=r"did not answer the association request within 0\.5 s"):
            bench.sender(silent.getsockname()[1], Timeouts(connect=0.5))(bench.result())


@pytest.mark.slow
def test_a_pacs_that_takes_an_object_and_never_answers_is_tried_again(bench: Bench, start_pacs: StartPacs) -> None:
    pacs, awake = start_pacs(), threading.Event()
    pacs.answer = lambda _uid: 0xA700 if awake.wait(scaled(60)) else 0
    sender, job = bench.sender(pacs.port, Timeouts(answer=0.5)), bench.result()
    with pytest.raises(Retryable, match=r"no answer within 0\.5 s"):
        sender(job)
    awake.set()
    pacs.answer = lambda _uid: 0x0000
    assert sender(job).reason == ""
    assert pacs.uids() == [job.subject]


@pytest.mark.slow
def test_a_pacs_that_is_slow_but_answers_gets_everything_once_and_keeps_no_other_waiting(
    bench: Bench, start_pacs: StartPacs
) -> None:
    """One object a minute, where a minute is 0.4 s: within the time for an answer, and longer than all the rest."""
    slow, fast, minute = start_pacs(), start_pacs(ae_title="FAST"), threading.Event()
    given: list[float] = []

    def at_leisure(_uid: str) -> int:
        minute.wait(0.4)
        given.append(time.monotonic())
        return 0x0000

    slow.answer = at_leisure
    jobs = [bench.result() for _ in range(8)]
    peer = {"name": "fast", "ae_title": "FAST", "host": "127.0.0.1", "port": fast.port, "destination": True}
    settings = settings_for(bench.spool.root, pacs_port=slow.port, peers=[peer])
    workers = []
    for name in ("pacs", "fast"):
        with bench.index.transaction():
            for job in jobs:
                bench.index.queue_sends(job, job.subject, [(name, "p")], 1.0)
        sender = Sender(settings, settings.peer(name), bench.index, bench.spool, Timeouts(answer=5.0))
        bench.senders.append(sender)
        patience = Patience(attempts=None, seconds=3600.0)
        workers.append(
            Worker(bench.index, "send", sender, patience=patience, lease_seconds=60.0, target=name, idle=sender.close)
        )
    for worker in workers:
        worker.start()
    try:
        wait_until(lambda: len(fast.uids()) == len(jobs), "the fast one to have all")
        had = len(given)
        wait_until(lambda: {each.state for each in bench.index.jobs_of("1")} == {"done"}, "the slow one to have all")
    finally:
        for worker in workers:
            worker.ask_to_stop()
        for worker in workers:
            worker.join()
    assert had < len(jobs), "the fast one had all before the slow one"
    assert sorted(slow.uids()) == sorted(fast.uids()) == sorted(job.subject for job in jobs)
    assert (slow.associations, fast.associations) == (1, 1)
    assert {each.attempts for each in bench.index.jobs_of("1")} == {1}


@contextmanager
def cutting(port: int, limit: list[int], last: bytes) -> Iterator[int]:
    """A way to a PACS that ends after so many bytes of an association; ``last`` is what the sender still gets.

    The bytes of each association are taken from ``limit``; when it is empty none is cut.
    """

    def forward(source: socket.socket, target: socket.socket, left: float) -> None:
        with suppress(OSError):
            while left > 0 and (data := source.recv(8192)):
                target.sendall(data)
                left -= len(data)
        for end in (source, target):
            with suppress(OSError):
                if left <= 0 and end is source and last:
                    end.sendall(last)
                end.shutdown(socket.SHUT_RDWR)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                left = float(limit.pop(0)) if limit else float("inf")
                for arguments in ((near, far, left), (far, near, float("inf"))):
                    threading.Thread(target=forward, args=arguments, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.parametrize("last", [b"", bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 0])], ids=["it hangs up", "it aborts"])
@pytest.mark.parametrize("limit", [1, 300, 20_000, 200_000])
def test_an_association_that_ends_amid_an_object_is_tried_again(
    bench: Bench, start_pacs: StartPacs, limit: int, last: bytes
) -> None:
    pacs = start_pacs()
    job = bench.result(size=400_000)
    with cutting(pacs.port, [limit], last) as port:
        sender = bench.sender(port)
        with pytest.raises(Retryable):
            sender(job)
        assert pacs.stored == []
        assert sender(job).reason == ""
    assert pacs.stored == [(job.subject, bench.bytes_of(job))]


@pytest.mark.slow
def test_an_association_that_the_pacs_ended_is_opened_again(bench: Bench, start_pacs: StartPacs) -> None:
    pacs = start_pacs()
    sender = bench.sender(pacs.port)
    sender(bench.result())
    association: Any = sender._requestor.association
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    job = bench.result()
    try:
        sender(job)
    except Retryable:
        sender(job)
    assert pacs.uids()[-1] == job.subject


@pytest.mark.slow
def test_a_class_that_was_never_agreed_on_is_final(bench: Bench, start_pacs: StartPacs) -> None:
    pacs = start_pacs()
    with pytest.raises(Permanent, match="does not take CT Image Storage"):
        bench.sender(pacs.port)(bench.result("1.2.840.10008.5.1.4.1.1.2"))


LIMITED = """
[[TransferSyntaxes]]
[Uncompressed]
TransferSyntax1 = LittleEndianExplicit
[[PresentationContexts]]
[Pictures]
PresentationContext1 = 1.2.840.10008.5.1.4.1.1.7\\Uncompressed
[[Profiles]]
[PicturesAlone]
PresentationContexts = Pictures
"""


@pytest.mark.programs
def test_a_pacs_that_refuses_a_class_gets_the_others(bench: Bench, tmp_path: Path) -> None:
    port, folder, rules = free_port(), tmp_path / "dcmtk", tmp_path / "rules.cfg"
    folder.mkdir()
    rules.write_text(LIMITED)
    picture, marks = bench.results(SecondaryCaptureImageStorage, GrayscaleSoftcopyPresentationStateStorage)
    (report,) = bench.results(ComprehensiveSRStorage)
    with running([tool("storescp"), "-xf", rules, "PicturesAlone", "-aet", "PACS", "-od", folder, port]):
        wait_until(lambda: listens(port), "DCMTK's storescp to listen")
        sender = bench.sender(port)
        assert sender(marks).reason == (
            f"not taken: pacs (PACS at 127.0.0.1:{port}) does not take Grayscale Softcopy Presentation State Storage"
        )
        assert sender(picture).reason == ""
        with pytest.raises(Permanent, match="does not take Comprehensive SR Storage"):  # it was all there was
            sender(report)
    (file,) = folder.iterdir()
    assert split_dataset(file)[0].MediaStorageSOPInstanceUID == picture.subject


@pytest.mark.slow
def test_every_kind_of_result_is_proposed(bench: Bench, start_pacs: StartPacs) -> None:
    pacs = start_pacs()
    jobs = bench.results(*RESULT_CLASSES)
    sender = bench.sender(pacs.port)
    for job in jobs:
        assert sender(job).reason == ""
    assert pacs.uids() == [job.subject for job in jobs]
    assert len(jobs) == 8


@pytest.mark.programs
def test_a_pacs_that_takes_implicit_vr_only_gets_it(bench: Bench, tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "dcmtk"
    folder.mkdir()
    job = bench.result()
    with running([tool("storescp"), "+xi", "-aet", "PACS", "-od", folder, port]):
        wait_until(lambda: listens(port), "DCMTK's storescp to listen")
        bench.sender(port)(job)
        (file,) = wait_until(lambda: list(folder.iterdir()), "the object")
    assert dcmread(file) == dcmread(bench.path(job))
    assert split_dataset(file)[0].TransferSyntaxUID == ImplicitVRLittleEndian
    assert split_dataset(file)[0].MediaStorageSOPInstanceUID == job.subject


@pytest.mark.slow
def test_a_result_whose_file_is_gone_is_final(bench: Bench, start_pacs: StartPacs) -> None:
    job = bench.result()
    result = bench.index.result(job.subject)
    assert result is not None
    bench.spool.path(result.file).unlink()
    with pytest.raises(Permanent, match="file is gone"):
        bench.sender(start_pacs().port)(job)
