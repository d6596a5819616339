"""The whole way of a withdrawal: images come corrected, models go back, readings fail, and an archive hides the old."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import KeyObjectSelectionDocumentStorage, generate_uid

from dicom_node.config.settings import Settings
from dicom_node.node import Node
from dicom_node.results.objects.report_text import report_text
from tests.node.test_way import detail, ended, radiograph, spoiled
from tests.support.archive import HidingArchive, hiding_archive
from tests.support.nodes import settings_for
from tests.support.peers import Orthanc, send
from tests.support.samples import make_image
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # each starts a reading process

StartNode = Callable[..., Node]


@pytest.fixture
def archive() -> Iterator[HidingArchive]:
    with hiding_archive() as archive:
        yield archive


def settings(folder: Path, port: int, **peer: Any) -> Settings:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "destination": True}
    routes = [{"name": "all", "models": ["phantom_cxr"], "to": ["pacs"]}]
    return settings_for(folder / "node", peers=[{**pacs, "iocm": True, **peer}], routes=routes)


def read_again(node: Node, image: Any, revision: int) -> dict[str, Any]:
    """Send an image, and wait until the study's revision has its outcome."""
    assert send(node.port, image) == [0x0000]
    study = image.StudyInstanceUID
    wait_until(lambda: detail(node, study)["revision"] == revision, "the study to be opened again")
    found = ended(node, study)
    assert found["state"] == "delivered", found["reason"]
    return found


def results(reading: dict[str, Any]) -> list[str]:
    return [one["instance"] for one in reading["results"] if one["role"] != "rejection"]


def of_no_model(image: Any) -> Any:
    """A late image that no model reads, in the study of another."""
    return make_image(
        Modality="OT",
        StudyInstanceUID=image.StudyInstanceUID,
        PatientID=image.PatientID,
        SeriesInstanceUID=generate_uid(),
    )


def test_an_image_corrected_there_and_back_has_three_sets_of_results_and_the_last_is_seen(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path
) -> None:
    node = start_node(settings(tmp_path, archive.port))
    image = radiograph(7, "nodule")
    for revision, side in enumerate(("L", "R", "L"), 1):
        image.ImageLaterality = side
        found = read_again(node, image, revision)
    runs = [results(reading) for reading in found["readings"]]
    assert len(runs) == 3
    assert len({uid for run in runs for uid in run}) == sum(map(len, runs)), "no UID is used twice"
    assert archive.visible(image.StudyInstanceUID) == set(runs[2])
    assert archive.rejected == dict.fromkeys(runs[0] + runs[1], "113037")
    assert archive.refusals == []
    for old, new, note in zip(runs[:2], runs[1:], archive.notes, strict=True):
        at = archive.order.index(note.SOPInstanceUID)
        assert {*old, *new} <= set(archive.order[:at]), "not before the new ones are there"
    assert found["withdrawn"] == [f"withdrawn at pacs: {len(runs[1])} objects (Rejected for Patient Safety Reasons)"]
    assert [one["state"] for one in found["withdrawals"]] == ["done", "done"]


def test_a_model_that_is_rolled_back_gives_new_uids(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path
) -> None:
    first, second = (spoiled(tmp_path / name, expression) for name, expression in (("a", "0"), ("b", "0 + 0")))
    image = radiograph(7, "nodule")
    versions, readings = (first, second, first), []
    for revision, bundles in enumerate(versions, 1):
        node = start_node(settings(tmp_path, archive.port), bundles=bundles)
        found = read_again(node, image if revision == 1 else of_no_model(image), revision)
        readings = found["readings"]
        node.stop()
    assert [one["digest"] == readings[0]["digest"] for one in readings] == [True, False, True]
    runs = [results(reading) for reading in readings]
    assert len({uid for run in runs for uid in run}) == sum(map(len, runs)), "no UID is used twice"
    assert archive.visible(image.StudyInstanceUID) == set(runs[2])
    assert archive.rejected == dict.fromkeys(runs[0] + runs[1], "113001")
    assert archive.refusals == []
    node = start_node(settings(tmp_path, archive.port), bundles=first)
    found = read_again(node, of_no_model(image), 4)  # nothing is new: nothing is read, sent or rejected
    assert len(found["readings"]) == 3
    assert len(archive.notes) == 2


def test_without_iocm_a_model_that_is_rolled_back_has_its_results_of_then(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path
) -> None:
    first, second = (spoiled(tmp_path / name, expression) for name, expression in (("a", "0"), ("b", "0 + 0")))
    image = radiograph(7, "nodule")
    for revision, bundles in enumerate((first, second, first), 1):
        node = start_node(settings(tmp_path, archive.port, iocm=False), bundles=bundles)
        found = read_again(node, image if revision == 1 else of_no_model(image), revision)
        node.stop()
    assert len(found["readings"]) == 2
    assert archive.notes == []
    assert found["withdrawals"] == []


def test_the_report_of_a_failure_is_hidden_when_the_study_is_read(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path
) -> None:
    bundles = spoiled(tmp_path, "0")
    weights = bundles["phantom_cxr"] / "models/model.pt"
    good = weights.read_bytes()
    weights.write_bytes(b"no weights")
    node = start_node(settings(tmp_path, archive.port), bundles=bundles)
    image = radiograph(8)
    study = image.StudyInstanceUID
    send(node.port, image)
    assert ended(node, study)["state"] == "failed"
    wait_until(lambda: {one["state"] for one in detail(node, study)["deliveries"]} == {"done"}, "the report to be sent")
    failed = archive.visible(study)
    assert failed
    node.stop()
    weights.write_bytes(good)
    node = start_node(settings(tmp_path, archive.port), bundles=bundles)
    assert node.index is not None
    assert node.index.revive(study, time.time()) == 1
    wait_until(lambda: detail(node, study)["state"] == "delivered", "the study to be read")
    assert archive.rejected == dict.fromkeys(failed, "113001")
    assert archive.visible(study) == set(results(detail(node, study)["readings"][-1]))
    (note,) = archive.notes
    (text,) = (item.TextValue for item in note.ContentSequence if "withdrawn" in item.get("TextValue", ""))
    assert text.startswith("The report of a reading that failed is withdrawn")


@pytest.mark.programs
def test_orthanc_commits_to_the_new_results_before_it_gets_the_rejection(
    start_node: StartNode, orthanc: Orthanc, tmp_path: Path
) -> None:
    node = start_node(settings(tmp_path, orthanc.dicom, commitment=True, may_store=True))
    orthanc.know(node.port)
    image = radiograph(7, "nodule")
    read_again(node, image, 1)
    image.PatientID = "CORRECTED"
    found = read_again(node, image, 2)
    times = {kind: [one["finished"] for one in found[kind]] for kind in ("deliveries", "commitments", "withdrawals")}
    assert max(times["deliveries"] + times["commitments"]) <= times["withdrawals"][0]
    held = orthanc.objects(image.StudyInstanceUID)
    (note,) = (
        one
        for one in held.values()
        if one.SOPClassUID == KeyObjectSelectionDocumentStorage and one.ConceptNameCodeSequence[0].CodeValue == "113037"
    )
    old, new = (results(reading) for reading in found["readings"])
    named = [item.ReferencedSOPSequence[0] for item in note.ContentSequence if "ReferencedSOPSequence" in item]
    assert [one.ReferencedSOPInstanceUID for one in named] == old
    assert note.PatientID == held[old[0]].PatientID != "CORRECTED"
    assert {*old, *new} < held.keys(), "Orthanc hides nothing"


def text_of(node: Node, uid: str) -> str:
    file = node.result_file(uid)
    assert file is not None
    return report_text(pydicom.dcmread(file))


@pytest.mark.parametrize(
    ("corrected", "expected"),
    [
        ({"ViewPosition": "LL", "PatientID": "ANOTHER"}, ("view LL is not among PA, AP", "113037")),
        ({"PatientAge": "007Y"}, ("the patient is under 18", "113037")),
        ({"BodyPartExamined": "HAND"}, ("body part HAND is not among CHEST, THORAX", "113001")),
    ],
    ids=["other view and patient", "child", "other body part"],
)
def test_an_image_corrected_to_one_that_is_not_read_takes_its_results_back(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path, corrected: dict[str, str], expected: tuple[str, str]
) -> None:
    why, title = expected
    node = start_node(settings(tmp_path, archive.port))
    image = radiograph(7, "nodule")
    old = results(read_again(node, image, 1)["readings"][0])
    for keyword, value in corrected.items():
        setattr(image, keyword, value)
    found = read_again(node, image, 2)
    assert archive.rejected == dict.fromkeys(old, title)
    new = results(found["readings"][1])
    assert archive.visible(image.StudyInstanceUID) == set(new)
    assert archive.refusals == []
    assert f"Not read by AI: {why}" in text_of(node, new[0])
    assert "failed" not in text_of(node, new[0])
    assert "This is not a negative result" in text_of(node, new[0])
    report = pydicom.dcmread(node.result_file(new[0]))  # type: ignore[arg-type]
    assert report.PatientID == image.PatientID


@pytest.mark.parametrize("other", ["series", "route"])
def test_a_correction_that_the_route_takes_no_longer_takes_the_results_back(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path, other: str
) -> None:
    chosen = settings(tmp_path, archive.port)
    (route,) = chosen.routes
    match = route.match.model_copy(update={"body_part": ("CHEST",)})
    route = route.model_copy(update={"match": match, "report_failures": False})
    node = start_node(chosen.model_copy(update={"routes": (route,)}))
    image = radiograph(7, "nodule")
    old = results(read_again(node, image, 1)["readings"][0])
    node.stop()
    if other == "series":
        image.SeriesInstanceUID = generate_uid()
        image.BodyPartExamined = "SKULL"
    else:
        image.PatientID = "ANOTHER"
        route = route.model_copy(update={"match": match.model_copy(update={"modality": ("CT",)})})
    node = start_node(chosen.model_copy(update={"routes": (route,)}))
    found = read_again(node, image, 2)
    assert archive.rejected == dict.fromkeys(old, "113001" if other == "series" else "113037")
    (report, *_) = results(found["readings"][1])
    assert "it is not of the kind that is read here" in text_of(node, report)


def test_a_corrected_image_that_cannot_be_read_takes_its_results_back(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path
) -> None:
    node = start_node(settings(tmp_path, archive.port))
    image = radiograph(7, "nodule")
    old = results(read_again(node, image, 1)["readings"][0])
    image.PatientID, image.PixelData = "ANOTHER", image.PixelData[:1000]
    send(node.port, image)
    wait_until(lambda: detail(node, image.StudyInstanceUID)["state"] == "failed", "the reading to fail")
    wait_until(lambda: archive.rejected, "the rejection")
    assert archive.rejected == dict.fromkeys(old, "113037")


def test_a_study_that_is_not_read_has_a_report_where_the_route_wants_it(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path
) -> None:
    chosen = settings(tmp_path, archive.port)
    image = radiograph(7)
    image.ViewPosition = "LL"
    node = start_node(chosen)
    send(node.port, image)
    assert ended(node, image.StudyInstanceUID)["state"] == "no eligible series"
    node.stop()
    (route,) = chosen.routes
    node = start_node(chosen.model_copy(update={"routes": (route.model_copy(update={"report_not_read": True}),)}))
    image = radiograph(8)
    image.ViewPosition = "LL"
    found = read_again(node, image, 1)
    assert "view LL is not among PA, AP" in found["reason"]
    assert "view LL is not among PA, AP" in text_of(node, results(found["readings"][0])[0])
    assert archive.rejected == {}
