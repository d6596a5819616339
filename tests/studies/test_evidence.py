"""When a study is complete: what modalities say of their steps, the end of associations, and the count of a PACS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep as Mpps

from dicom_node.config.settings import Peer
from dicom_node.index.rows import StudyRow
from dicom_node.network.storage_scu import push
from dicom_node.node import Node
from tests.support.nodes import settings_for
from tests.support.peers import Orthanc, associate, free_port, send
from tests.support.samples import make_image
from tests.support.waiting import wait_until

StartNode = Callable[..., Node]
LONG = {"quiet_seconds": 60.0, "wait_seconds": 60.0}


def study_of(count: int) -> list[FileDataset]:
    study = generate_uid(None)
    return [make_image(StudyInstanceUID=study, SOPInstanceUID=generate_uid(None)) for _ in range(count)]


def row(node: Node, image: FileDataset) -> StudyRow:
    assert node.index is not None
    return node.index.studies_with_state(image.StudyInstanceUID)[0]


def completed(node: Node, image: FileDataset, seconds: float = 10.0) -> str:
    """Wait until a study is complete; what said so."""
    wait_until(lambda: row(node, image).completed, "the study to be complete", seconds)
    return row(node, image).evidence


def item(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


class Step:
    """A procedure step, as a modality tells of it."""

    def __init__(self, association: Any, *studies: str) -> None:
        self.association = association
        self.uid = generate_uid(None)
        self.studies = studies

    def begin(self, **changes: Any) -> int:
        attributes = item(
            PerformedProcedureStepStatus="IN PROGRESS",
            ScheduledStepAttributesSequence=[item(StudyInstanceUID=study) for study in self.studies],
            PatientName="DOE^JOHN",
        )
        attributes.update(item(**changes))
        return int(self.association.send_n_create(attributes, Mpps, self.uid)[0].Status)

    def set(self, images: Sequence[FileDataset] = (), **changes: Any) -> Dataset:
        references = [
            item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
            for image in images
        ]
        attributes = item(PerformedSeriesSequence=[item(ReferencedImageSequence=references)])
        attributes.update(item(**changes))
        status: Dataset = self.association.send_n_set(attributes, Mpps, self.uid)[0]
        return status

    def end(self, images: Sequence[FileDataset], state: str = "COMPLETED") -> int:
        return int(self.set(images, PerformedProcedureStepStatus=state).Status)


@contextmanager
def modality(node: Node) -> Iterator[Any]:
    association = associate(node.port, (Mpps, ExplicitVRLittleEndian))
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED"])
def test_a_study_is_complete_when_all_that_its_step_made_is_here(
    start_node: StartNode, tmp_path: Path, state: str
) -> None:
    node = start_node(settings_for(tmp_path / "node", node=LONG))
    images = study_of(3)
    with modality(node) as association:
        step = Step(association, images[0].StudyInstanceUID)
        assert step.begin() == 0x0000
        assert send(node.port, *images[:2]) == [0x0000] * 2
        assert step.end(images, state) == 0x0000
        time.sleep(0.5)
        assert row(node, images[0]).completed is None, "one of its images is missing"
        send(node.port, images[2])
        assert completed(node, images[0], 5.0) == "all 3 instances that its procedure steps made are here"


@pytest.mark.slow
def test_a_study_waits_while_a_step_is_in_progress_but_not_for_ever(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 0.2, "wait_seconds": 2.5}))
    images = study_of(2)
    with modality(node) as association:
        steps = [Step(association, images[0].StudyInstanceUID) for _ in range(2)]
        assert [step.begin() for step in steps] == [0x0000] * 2
        send(node.port, *images)
        steps[0].end(images)
        time.sleep(1.0)
        assert row(node, images[0]).completed is None
        assert completed(node, images[0]) == "the longest wait of 2.5 s is over: 1 of 2 procedure steps is in progress"


@pytest.mark.slow
def test_images_that_never_come_hold_nothing_up_for_ever(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 0.2, "wait_seconds": 1.5}))
    images = study_of(3)
    with modality(node) as association:
        step = Step(association, images[0].StudyInstanceUID)
        step.begin()
        send(node.port, images[0])
        step.end(images)
    told = "the longest wait of 1.5 s is over: 2 of the 3 instances that its procedure steps made are missing"
    assert completed(node, images[0]) == told
    # They come after all: the study is opened again, and complete at once.
    send(node.port, *images[1:])
    wait_until(lambda: row(node, images[0]).revision == 2, "the next revision")
    assert completed(node, images[0]) == "all 3 instances that its procedure steps made are here"


@pytest.mark.slow
def test_images_that_no_step_made_have_their_quiet_time(start_node: StartNode, tmp_path: Path) -> None:
    """Otherwise each of them would be complete, and read, by itself."""
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 1.5}))
    images = study_of(3)
    with modality(node) as association:
        step = Step(association, images[0].StudyInstanceUID)
        step.begin()
        step.end(images[:1])
    send(node.port, images[0])
    completed(node, images[0], 1.0)
    for image in images[1:]:
        send(node.port, image)
        time.sleep(0.4)
    assert completed(node, images[0]) == "no image arrived during the quiet time"
    assert row(node, images[0]).revision == 2


def test_what_a_step_says_survives_a_restart(start_node: StartNode, tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node", node=LONG)
    node, images = start_node(settings), study_of(1)
    with modality(node) as association:
        step = Step(association, images[0].StudyInstanceUID)
        step.begin()
        step.end(images)
    node.stop()
    again = start_node(settings)
    send(again.port, *images)
    completed(again, images[0], 5.0)


def test_a_step_of_several_studies_completes_each_when_all_is_here(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node=LONG))
    (one,), (other,) = study_of(1), study_of(1)
    with modality(node) as association:
        step = Step(association, one.StudyInstanceUID, other.StudyInstanceUID)
        step.begin()
        step.end([one, other])
    send(node.port, one, other)
    for image in (one, other):
        assert completed(node, image) == "all 2 instances that its procedure steps made are here"


def test_statuses_of_steps(start_node: StartNode, tmp_path: Path) -> None:
    """PS3.4 F.7.2, PS3.7 C.5."""
    node = start_node(settings_for(tmp_path / "node", node=LONG))
    with modality(node) as association:
        step = Step(association, "1.2.3")
        assert step.set().Status == 0x0112, "nobody began it"
        assert step.begin(PerformedProcedureStepStatus="COMPLETED") == 0x0106
        assert step.begin(ScheduledStepAttributesSequence=[]) == 0x0120
        assert step.begin(ScheduledStepAttributesSequence=[item(StudyInstanceUID="../../etc/passwd")]) == 0x0106
        assert step.begin(ScheduledStepAttributesSequence=[item(PatientID="1")]) == 0x0106
        assert step.begin() == 0x0000
        assert step.begin() == 0x0111
        assert step.set(PerformedProcedureStepStatus="'; DROP TABLE steps; --").Status == 0x0106
        assert step.set([item(SOPClassUID="1.2", SOPInstanceUID="<b>")]).Status == 0x0106
        assert step.end([]) == 0x0000
        ended = step.set()
        assert (ended.Status, ended.ErrorID) == (0x0110, 0xA501)
        unnamed = Step(association, "1.2.3")
        unnamed.uid = "1.2.3/../4"
        assert unnamed.begin() == 0x0117
        assert association.is_established


def whole(port: int | None = None) -> dict[str, Any]:
    there = {} if port is None else {"port": port}
    return {
        "name": "dx1",
        "ae_title": "DX1",
        "host": "127.0.0.1",
        "may_store": True,
        "sends_whole_studies": True,
        **there,
    }


def test_the_release_of_an_association_completes_what_it_brought(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node=LONG, peers=[whole()]))
    images, others = study_of(3), study_of(2)
    assert send(node.port, *images, *others, calling="DX1") == [0x0000] * 5
    for image in (images[0], others[0]):
        assert completed(node, image, 5.0) == "the association that brought the study was released"
    late = make_image(StudyInstanceUID=images[0].StudyInstanceUID)
    send(node.port, late, calling="DX1")
    wait_until(lambda: row(node, late).revision == 2, "the next revision")
    completed(node, late, 5.0)


@pytest.mark.slow
def test_only_the_release_of_the_last_association_completes(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node=LONG, peers=[whole()]))
    images = study_of(3)
    first = associate(node.port, (images[0].SOPClassUID, ExplicitVRLittleEndian), calling="DX1")
    assert first.send_c_store(images[0]).Status == 0x0000
    send(node.port, images[1], calling="DX1")
    time.sleep(0.6)
    assert row(node, images[0]).completed is None, "another association still brings of it"
    assert first.send_c_store(images[2]).Status == 0x0000
    first.release()
    completed(node, images[0], 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["an abort", "another peer's release", "a refused image"])
def test_what_is_no_evidence_completes_nothing(start_node: StartNode, tmp_path: Path, case: str) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 2.0}, peers=[whole()]))
    image = make_image()
    if case == "an abort":
        association = associate(node.port, (image.SOPClassUID, ExplicitVRLittleEndian), calling="DX1")
        assert association.send_c_store(image).Status == 0x0000
        association.abort()
    elif case == "a refused image":
        refused = make_image(StudyInstanceUID=image.StudyInstanceUID, SeriesInstanceUID="")
        assert send(node.port, image, refused, calling="DX1") == [0x0000, 0xC000]
    else:
        send(node.port, image)
    time.sleep(0.8)
    assert row(node, image).completed is None
    assert completed(node, image) == "no image arrived during the quiet time"


def counting(pacs_port: int) -> dict[str, Any]:
    """A configuration whose route asks a PACS; its model reads nothing of what is sent here."""
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port, "destination": True}
    route = {"name": "all", "models": ["phantom_cxr"], "to": ["pacs"], "count_at": "pacs"}
    return {"peers": [pacs], "routes": [route]}


@pytest.mark.programs
def test_a_study_is_complete_when_as_much_is_here_as_the_pacs_has(
    start_node: StartNode, orthanc: Orthanc, tmp_path: Path
) -> None:
    images, files = study_of(3), []
    for number, image in enumerate(images):
        files.append(tmp_path / f"{number}.dcm")
        image.save_as(files[-1], enforce_file_format=True)
    pushed = push(files, Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=orthanc.dicom), calling_ae="TESTER")
    assert [one.status for one in pushed] == [0x0000] * 3
    node = start_node(settings_for(tmp_path / "node", node=LONG, **counting(orthanc.dicom)))
    orthanc.know(node.port)
    send(node.port, *images[:2])
    time.sleep(2.5)
    assert row(node, images[0]).completed is None, "the PACS has another one"
    send(node.port, images[2])
    assert completed(node, images[0], 15.0) == "pacs has 3 instances of the study, all are here"


@pytest.mark.programs
def test_a_pacs_that_does_not_say_is_not_waited_for(start_node: StartNode, orthanc: Orthanc, tmp_path: Path) -> None:
    """Orthanc knows nothing of the study; and nothing listens at the second one's port."""
    for number, port in enumerate((orthanc.dicom, free_port())):
        node = start_node(settings_for(tmp_path / f"node{number}", node={"quiet_seconds": 1.5}, **counting(port)))
        orthanc.know(node.port)
        image = make_image()
        send(node.port, image)
        assert completed(node, image, 20.0) == "no image arrived during the quiet time"
        assert row(node, image).completed - row(node, image).last_received < 5.0


@pytest.mark.programs
def test_a_pacs_that_has_more_is_waited_for_a_while(start_node: StartNode, orthanc: Orthanc, tmp_path: Path) -> None:
    images, files = study_of(2), []
    for number, image in enumerate(images):
        files.append(tmp_path / f"{number}.dcm")
        image.save_as(files[-1], enforce_file_format=True)
    push(files, Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=orthanc.dicom), calling_ae="TESTER")
    limits = {"quiet_seconds": 2.0, "wait_seconds": 4.0}
    node = start_node(settings_for(tmp_path / "node", node=limits, **counting(orthanc.dicom)))
    orthanc.know(node.port)
    send(node.port, images[0])
    assert (
        completed(node, images[0], 15.0)
        == "the longest wait of 4 s is over: pacs has 2 instances of the study, 1 are here"
    )


def test_unknown_services_are_refused_at_the_negotiation(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node"))
    ae = AE("TESTER")
    ae.add_requested_context(Mpps)
    ae.add_requested_context("1.2.840.10008.5.1.1.9")  # Basic Grayscale Print Management
    association = ae.associate("127.0.0.1", node.port, ae_title="AINODE")
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Mpps]
    association.release()
