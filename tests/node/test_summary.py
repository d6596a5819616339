"""Several models read a study: a summary names agreements, contradictions and models that failed."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from sqlite_utils import Database

from dicom_node.config.settings import Settings
from dicom_node.errors import Retryable
from dicom_node.index.index import INDEX_FILE
from dicom_node.index.rows import SUMMARY, Job
from dicom_node.jobs.worker import Done
from dicom_node.node import Node
from dicom_node.reading.summary_job import Summarizer
from dicom_node.results.objects.report_text import report_text
from tests.node.test_way import StartNode, StartPacs, detail, ended, radiograph
from tests.support import bundles
from tests.support.archive import hiding_archive
from tests.support.nodes import settings_for
from tests.support.peers import send
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # each starts a reading process

YES, NO = 2.0, -2.0


def model(folder: Path, name: str, bright: float, dark: float, *, fails: bool = False) -> Path:
    """A bundle that says the same of every picture: logits of "bright" and "dark"; a third class is undetermined."""
    spoil = {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: 1 // 0"}
    resized = {"_target_": "Resized", "keys": "image", "spatial_size": [128, 128], "mode": "area"}
    steps = [*([spoil] if fails else []), resized]
    path = bundles.classifier(folder / name, preprocessing={"_target_": "Compose", "transforms": steps})
    weights = bundles.brightness_weights() | {
        "head.weight": torch.zeros(3, 2),
        "head.bias": torch.tensor([bright, dark, 0.0]),
    }
    torch.save(weights, path / "models" / "model.pt")
    file = path / "configs" / "reading.json"
    said = json.loads(file.read_text())
    said["name"] = name
    said["notice"] = f"Notice of {name}"
    file.write_text(json.dumps(said))
    return path


def settings(folder: Path, port: int, *routes: Sequence[str], **pacs: Any) -> Settings:
    """A node whose destination gets the results of all routes; each route is the models that it has."""
    peer = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "destination": True, **pacs}
    named = [{"name": f"r{number}", "models": list(models), "to": ["pacs"]} for number, models in enumerate(routes)]
    return settings_for(folder / "node", peers=[peer], routes=named)


def summaries(node: Node, uids: Sequence[str]) -> list[Dataset]:
    """The objects of summaries among those that a destination got, in the order in which they came."""
    files = [node.result_file(uid) for uid in uids]
    objects = [pydicom.dcmread(file) for file in files if file is not None]
    return [each for each in objects if str(each.get("SeriesDescription")).startswith("AI summary")]


def delivered(node: Node, image: Any, revision: int = 1) -> dict[str, Any]:
    assert send(node.port, image) == [0x0000]
    wait_until(lambda: detail(node, image.StudyInstanceUID)["revision"] == revision, "the revision")
    return ended(node, image.StudyInstanceUID)


@pytest.fixture(scope="module")
def image() -> Any:
    return radiograph(7, "nodule", rows=250, columns=200)


@pytest.mark.parametrize("routes", [[["a", "b"]], [["a"], ["b"]]], ids=["one route", "two routes"])
def test_two_models_that_disagree_get_one_summary_that_says_so(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, image: Any, routes: list[list[str]]
) -> None:
    pacs = start_pacs()
    there = {"a": model(tmp_path, "a", YES, YES), "b": model(tmp_path, "b", YES, NO)}
    node = start_node(settings(tmp_path, pacs.port, *routes), bundles=there)
    found = delivered(node, image)
    assert found["state"] == "delivered", found["reason"]
    sent = pacs.uids()
    report, card = summaries(node, sent)
    assert sent[-2:] == [report.SOPInstanceUID, card.SOPInstanceUID], "after the results of both models"
    assert len(set(sent)) == len(sent)
    assert (report.Modality, card.SOPClassUID) == ("SR", SecondaryCaptureImageStorage)
    assert (report.SeriesNumber, card.SeriesNumber) == (9009, 9010)
    assert report.SeriesDescription == "AI summary report - not for diagnostic use"
    text = report_text(report)
    told = [
        "Notice of a",
        "Notice of b",
        "Agreement, present: Bright: present: a 1.0.0 (score 0.88, threshold 0.50), b 1.0.0 (score 0.88",
        "Contradiction: Dark: present: a 1.0.0 (score 0.88, threshold 0.50); absent: b 1.0.0 (score 0.12, threshold",
    ]
    places = [text.find(each) for each in told]
    assert -1 not in places, text
    assert places == sorted(places), "worst first"
    assert "%" not in text
    (summary,) = (
        str(each.TextValue) for each in report.ContentSequence if each.ConceptNameCodeSequence[0].CodeValue == "121111"
    )
    assert len(summary.splitlines()) <= 6
    assert "Contradiction: Dark: present: a 1.0.0 (0.88); absent: b 1.0.0 (0.12)." in summary
    assert "Left open" not in text, "a class that no model assesses is nothing that one leaves open"
    assert "AI models compared: 2; Agreement, present: 1; Contradiction: 1" in summary
    ours = {str(each["instance"]) for one in found["readings"] for each in one["results"] if each["role"] == "sr"}
    named = {str(ref.ReferencedSOPInstanceUID) for one in report.PertinentOtherEvidenceSequence[0]
             .ReferencedSeriesSequence for ref in one.ReferencedSOPSequence}  # fmt: skip
    assert named == ours - {report.SOPInstanceUID}
    assert len(named) == 2
    assert [one["model"] for one in found["readings"]].count(SUMMARY) == 1
    assert node.index is not None
    assert node.index.reading_models() == ["a", "b"]


def test_a_model_alone_gets_none_nor_one_beside_a_model_in_shadow(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, image: Any
) -> None:
    pacs = start_pacs()
    there = {"a": model(tmp_path, "a", YES, YES), "b": model(tmp_path, "b", YES, NO)}
    only_a = settings(tmp_path, pacs.port, ["a"])
    (route,) = only_a.routes
    both = only_a.model_copy(update={"routes": (route.model_copy(update={"shadow": ("b",)}),)})
    node = start_node(both, bundles=there)
    found = delivered(node, image)
    wait_until(lambda: detail(node, image.StudyInstanceUID)["shadow"]["readings"], "the reading in shadow")
    assert summaries(node, pacs.uids()) == []
    assert [one["model"] for one in found["readings"]] == ["a"]


def test_a_model_that_fails_is_named_and_nothing_is_called_absent_by_it(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, image: Any
) -> None:
    pacs = start_pacs()
    there = {"a": model(tmp_path, "a", NO, NO), "b": model(tmp_path, "b", NO, NO, fails=True)}
    node = start_node(settings(tmp_path, pacs.port, ["a", "b"]), bundles=there)
    delivered(node, image)
    wait_until(lambda: len(summaries(node, pacs.uids())) == 2, "the summary", 90)
    report, _ = summaries(node, pacs.uids())
    text = report_text(report)
    assert "b 1.0.0: AI reading failed: " in text
    assert "Absent according to one model alone: Bright; Dark (absent: a 1.0.0; failed: b 1.0.0)." in text
    assert "This is not a negative result." in text
    assert "Not all algorithms succeeded; without findings" in text
    items = [each for each in report.ContentSequence[-1].ContentSequence if "ContentSequence" in each]
    of_b = [each for each in items if each.ContentSequence[0].TextValue == "b"]
    assert len(of_b) == 2
    assert {str(each.ConceptCodeSequence[0].CodeMeaning) for each in of_b} == {"Failed"}


def test_a_node_that_dies_before_or_after_the_summary_sends_it_once(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs = start_pacs()
    there = {"a": model(tmp_path, "a", YES, YES), "b": model(tmp_path, "b", YES, NO)}
    chosen = settings(tmp_path, pacs.port, ["a", "b"])
    node = start_node(chosen, bundles=there)
    tried: list[Job] = []

    def dies(_self: Summarizer, job: Job) -> Done:
        tried.append(job)
        raise Retryable("the node is about to die")

    with monkeypatch.context() as patch:
        patch.setattr(Summarizer, "__call__", dies)
        send(node.port, image)
        wait_until(lambda: tried, "the summary to be tried", 90)
        node.stop()
    assert tried[0].run_key is None
    node = start_node(chosen, bundles=there)
    assert ended(node, image.StudyInstanceUID)["state"] == "delivered"
    assert len(summaries(node, pacs.uids())) == 2
    sent = pacs.uids()
    node.stop()
    with Database(tmp_path / "node" / INDEX_FILE).conn as conn:  # killed before it was recorded as done
        conn.execute("UPDATE jobs SET state = 'running', token = 't', lease_until = 0 WHERE kind = 'summary'")
    node = start_node(chosen, bundles=there)
    wait_until(lambda: detail(node, image.StudyInstanceUID)["state"] == "delivered", "the summary to be done again", 90)
    assert pacs.uids() == sent


def test_the_summary_of_a_later_revision_replaces_and_withdraws_the_earlier(
    start_node: StartNode, tmp_path: Path, image: Any
) -> None:
    with hiding_archive() as archive:
        there = {"a": model(tmp_path, "a", YES, YES), "b": model(tmp_path, "b", YES, NO)}
        node = start_node(settings(tmp_path, archive.port, ["a", "b"], iocm=True), bundles=there)
        first = delivered(node, image)
        late = radiograph(9, rows=250, columns=200, study_uid=image.StudyInstanceUID, patient_id=image.PatientID)
        found = delivered(node, late, 2)
        assert found["state"] == "delivered", found["reason"]
        old, new = ([each["instance"] for each in one["results"] if each["role"] != "rejection"]
                    for one in found["readings"] if one["model"] == SUMMARY)  # fmt: skip
        assert [one["model"] for one in first["readings"]].count(SUMMARY) == 1
        path = node.result_file(new[0])
        assert path is not None
        (before,) = pydicom.dcmread(path).PredecessorDocumentsSequence[0].ReferencedSeriesSequence
        assert before.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old[0]
        assert set(new) <= archive.visible(image.StudyInstanceUID)
        assert {archive.rejected.get(uid) for uid in old} == {"113001"}
        assert archive.refusals == []


def test_where_one_model_is_left_its_summary_replaces_the_earlier(
    start_node: StartNode, tmp_path: Path, image: Any
) -> None:
    """The earlier one compares readings that were replaced, and names a model that no longer reads the study."""
    with hiding_archive() as archive:
        there = {"a": model(tmp_path, "a", YES, YES), "b": model(tmp_path, "b", YES, NO)}
        node = start_node(settings(tmp_path, archive.port, ["a", "b"], iocm=True), bundles=there)
        old = results_of(delivered(node, image), SUMMARY)[0]
        node.stop()
        node = start_node(settings(tmp_path, archive.port, ["a"], iocm=True), bundles=there)
        late = radiograph(9, rows=250, columns=200, study_uid=image.StudyInstanceUID, patient_id=image.PatientID)
        found = delivered(node, late, 2)
        assert found["state"] == "delivered", found["reason"]
        new = results_of(found, SUMMARY)[-1]
        assert "AI models compared: 1; " in report_text(pydicom.dcmread(node.result_file(new[0]) or ""))
        assert set(new) <= archive.visible(image.StudyInstanceUID)
        assert {archive.rejected.get(uid) for uid in old} == {"113001"}
        assert archive.refusals == []


@pytest.mark.parametrize("corrected", [False, True])
def test_where_all_that_is_left_fails_the_summary_goes_only_if_an_image_was_corrected(
    start_node: StartNode, tmp_path: Path, image: Any, corrected: bool
) -> None:
    """A failure is no answer, so what the readings found before still holds; of another patient's image it does not."""
    with hiding_archive() as archive:
        there = {"a": model(tmp_path, "a", YES, YES), "b": model(tmp_path, "b", YES, NO)}
        node = start_node(settings(tmp_path, archive.port, ["a", "b"], iocm=True), bundles=there)
        old = set(results_of(delivered(node, image), SUMMARY)[0])
        node.stop()
        there["b"] = model(tmp_path / "new", "b", YES, NO, fails=True)
        node = start_node(settings(tmp_path, archive.port, ["b"], iocm=True), bundles=there)
        again = radiograph(9, rows=250, columns=200, study_uid=image.StudyInstanceUID, patient_id=image.PatientID)
        if corrected:
            again = copy.deepcopy(image)
            again.PixelData = bytes(reversed(image.PixelData))
        delivered(node, again, 2)
        index = node.index
        assert index is not None
        open_still = ("queued", "running")  # the study has failed before its jobs are over
        wait_until(
            lambda: all(each.state not in open_still for each in index.jobs_of(image.StudyInstanceUID)), "all jobs"
        )
        made = results_of(detail(node, image.StudyInstanceUID), SUMMARY)
        assert len(made) == 1 + corrected
        assert {archive.rejected.get(uid) for uid in old} == ({"113037"} if corrected else {None})
        assert set(made[-1]) <= archive.visible(image.StudyInstanceUID)


def results_of(found: dict[str, Any], name: str) -> list[list[str]]:
    """The UIDs of each reading's results, but for rejections, in the order in which the readings were made."""
    made = [one for one in found["readings"] if one["model"] == name]
    return [[each["instance"] for each in one["results"] if each["role"] != "rejection"] for one in made]
