"""C-STORE as a user of the service: in which transfer syntax a file goes, and how it fared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset

from dicom_node.config.settings import Peer
from dicom_node.errors import NodeError, Retryable
from dicom_node.network.requestor import Requestor, Timeouts, uncompressed
from dicom_node.network.status import Verdict
from dicom_node.network.storage_scu import Pushed, push, store
from tests.support.samples import make_image

Stored = list[tuple[str, bytes]]  # transfer syntax and data set


class Scp:
    """A storage SCP that takes Secondary Capture in some transfer syntaxes."""

    def __init__(self, *syntaxes: str, answer: Callable[[Any], int] = lambda _event: 0x0000) -> None:
        self.stored: Stored = []
        self.associations = 0
        self.answer = answer
        self._ae = AE("PACS")
        self._ae.add_supported_context(SecondaryCaptureImageStorage, list(syntaxes))
        handlers = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_REQUESTED, self._on_requested)]
        server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.server_address[1])

    def close(self) -> None:
        self._ae.shutdown()

    def _on_store(self, event: Any) -> int:
        self.stored.append((str(event.context.transfer_syntax), event.encoded_dataset(include_meta=False)))
        return self.answer(event)

    def _on_requested(self, _event: Any) -> None:
        self.associations += 1


@pytest.fixture
def start_scp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scp]]:
    """Start SCPs; unlike the node each refuses the storage classes that it does not know."""
    monkeypatch.setattr("dicom_node.network.pynetdicom_setup.configure_pynetdicom", lambda: None)
    monkeypatch.setattr("pynetdicom._config.UNRESTRICTED_STORAGE_SERVICE", False)
    monkeypatch.setattr("pynetdicom._config.STORE_SEND_CHUNKED_DATASET", True)
    started: list[Scp] = []

    def start(*syntaxes: str, **kwargs: Any) -> Scp:
        started.append(Scp(*syntaxes, **kwargs))
        return started[-1]

    yield start
    for one in started:
        one.close()


def file_of(folder: Path, *, syntax: str = ExplicitVRLittleEndian, **changes: Any) -> Path:
    image = make_image(SOPClassUID=SecondaryCaptureImageStorage, **changes)
    path = folder / f"{image.SOPInstanceUID}.dcm"
    image.save_as(path, enforce_file_format=True)
    if syntax != ExplicitVRLittleEndian:  # the syntax alone is what counts here
        del image.PixelData
        image.file_meta.TransferSyntaxUID = syntax
        image.save_as(path, implicit_vr=False, little_endian=True)
    return path


def data_set(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


def calling(scp: Scp, **kwargs: Any) -> Requestor:
    return Requestor("AINODE", scp.peer, uncompressed((SecondaryCaptureImageStorage,)), **kwargs)


@pytest.mark.slow
def test_a_file_goes_as_its_bytes_where_its_transfer_syntax_is_accepted(
    start_scp: Callable[..., Scp], tmp_path: Path
) -> None:
    scp, file = start_scp(ExplicitVRLittleEndian, ImplicitVRLittleEndian), file_of(tmp_path)
    requestor = calling(scp)
    response = store(requestor, file)
    requestor.release()
    assert response is not None
    assert (response.status, response.verdict, response.text) == (0x0000, Verdict.STORED, "0000, success")
    assert scp.stored == [(ExplicitVRLittleEndian, data_set(file))]


@pytest.mark.slow
def test_a_file_goes_in_implicit_vr_where_nothing_else_is_accepted(
    start_scp: Callable[..., Scp], tmp_path: Path
) -> None:
    scp, file = start_scp(ImplicitVRLittleEndian), file_of(tmp_path)
    requestor = calling(scp)
    assert store(requestor, file) is not None
    requestor.release()
    ((syntax, content),) = scp.stored
    assert syntax == ImplicitVRLittleEndian
    assert content != data_set(file)


@pytest.mark.slow
def test_what_cannot_be_sent_in_an_accepted_context_is_not_sent(start_scp: Callable[..., Scp], tmp_path: Path) -> None:
    scp = start_scp(ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    requestor = calling(scp)
    assert store(requestor, file_of(tmp_path, syntax=RLELossless)) is None
    requestor.release()
    assert scp.stored == []


@pytest.mark.slow
def test_a_response_that_does_not_come_ends_the_association(start_scp: Callable[..., Scp], tmp_path: Path) -> None:
    def gone(event: Any) -> int:
        event.assoc.abort()
        return 0x0110

    requestor = calling(start_scp(ExplicitVRLittleEndian, answer=gone), timeouts=Timeouts(answer=2.0))
    with pytest.raises(Retryable, match=r"pacs \(PACS at 127\.0\.0\.1:\d+\): (no answer within 2 s|the association)"):
        store(requestor, file_of(tmp_path))
    assert not requestor.is_open


@pytest.mark.slow
def test_a_file_that_is_not_dicom_is_not_sent(start_scp: Callable[..., Scp], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("nothing")
    with pytest.raises(NodeError, match="a: is not a DICOM file"):
        store(calling(start_scp(ExplicitVRLittleEndian)), tmp_path / "a")


@pytest.mark.slow
def test_pushed_files_go_over_one_association_each_with_its_status(
    start_scp: Callable[..., Scp], tmp_path: Path
) -> None:
    files = [file_of(tmp_path), file_of(tmp_path, syntax=JPEGBaseline8Bit), file_of(tmp_path)]
    statuses = iter([0x0000, 0xA700])
    scp = start_scp(ImplicitVRLittleEndian, answer=lambda _event: next(statuses))
    told: list[Pushed] = []
    pushed = push(files, scp.peer, calling_ae="TESTER", on_answer=told.append)
    assert pushed == told
    assert [one.path for one in pushed] == files
    assert [one.status for one in pushed] == [0x0000, None, 0xA700]
    assert scp.associations == 1


@pytest.mark.slow
def test_a_peer_that_accepts_none_of_the_files_is_asked_once(start_scp: Callable[..., Scp], tmp_path: Path) -> None:
    scp = start_scp(JPEGBaseline8Bit)
    told: list[Pushed] = []
    pushed = push([file_of(tmp_path), file_of(tmp_path)], scp.peer, calling_ae="TESTER", on_answer=told.append)
    assert [one.status for one in pushed] == [None, None]
    assert pushed == told
    assert scp.associations == 1


@pytest.mark.slow
def test_more_kinds_of_object_than_an_association_can_propose(start_scp: Callable[..., Scp], tmp_path: Path) -> None:
    """128 presentation contexts, two for each file in Explicit VR."""
    scp, files = start_scp(ExplicitVRLittleEndian), []
    for number in range(70):
        image = make_image(
            SOPClassUID=f"{SecondaryCaptureImageStorage}.{number}" if number else SecondaryCaptureImageStorage
        )
        files.append(tmp_path / f"{number}.dcm")
        image.save_as(files[-1], enforce_file_format=True)
    pushed = push([*files, files[0]], scp.peer, calling_ae="TESTER")
    assert [one.status for one in pushed] == [0x0000, *[None] * 69, 0x0000]
    assert scp.associations == 2
