"""The key images are those with findings, each once, the surest first, and any PACS can read which they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileDataset

import tests.results.test_common as common_tests
from ai.contract import Presence, Region
from dicom_node.results import Run, encode, uids
from dicom_node.results.encode import to_bytes
from dicom_node.results.objects import kos
from tests.results.test_common import BOXES, MODEL, SOURCES, header_of, run_of, with_raw, written
from tests.support.programs import run_tool, sr_validator_errors
from tests.support.samples import make_image


def named(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def child(document: Dataset, name: str) -> Dataset:
    (found,) = (item for item in document.ContentSequence if named(item) == name)
    return found


def selected(document: Dataset) -> list[tuple[str, Any]]:
    """The images and their frames, in order."""
    references = [item.ReferencedSOPSequence[0] for item in document.ContentSequence if item.ValueType == "IMAGE"]
    return [(each.ReferencedSOPInstanceUID, each.get("ReferencedFrameNumber")) for each in references]


def study(count: int, **attributes: Any) -> list[FileDataset]:
    first = make_image(**attributes)
    return [first, *(make_image(StudyInstanceUID=first.StudyInstanceUID, **attributes) for _ in range(count - 1))]


def found(images: list[FileDataset], *places: tuple[int, int, float], **changes: Any) -> Run:
    """A run with findings on (image, frame) with a score."""
    run = run_of(*images, boxes=BOXES["one"], **changes)
    one = run.reading.findings[0]
    findings = tuple(
        replace(one, score=score, region=Region(images[image].SOPInstanceUID, 1, 1, 9, 9, frame))
        for image, frame, score in places
    )
    return replace(run, reading=replace(run.reading, findings=findings))


def only(run: Run, images: list[FileDataset]) -> Dataset:
    (document,) = kos.build(run, images)
    return written(document)


def test_images_with_findings_stand_once_the_surest_first() -> None:
    images = study(4)
    run = found(images, (1, 1, 0.6), (3, 1, 0.9), (1, 1, 0.7), (0, 1, 0.65))
    assert selected(only(run, images)) == [(images[n].SOPInstanceUID, None) for n in (3, 1, 0)]


def test_frames_stand_with_their_image() -> None:
    images = study(2, NumberOfFrames="30")
    run = found(images, (0, 7, 0.5), (1, 1, 0.9), (0, 12, 0.8), (0, 7, 0.7))
    assert selected(only(run, images)) == [(images[1].SOPInstanceUID, 1), (images[0].SOPInstanceUID, [12, 7])]


def test_evidence_is_what_is_selected_by_series() -> None:
    images = study(4)
    images[2].SeriesInstanceUID = images[0].SeriesInstanceUID
    run = found(images, (0, 1, 0.6), (2, 1, 0.9), (3, 1, 0.7))
    (evidence,) = only(run, images).CurrentRequestedProcedureEvidenceSequence
    assert evidence.StudyInstanceUID == images[0].StudyInstanceUID
    listed = {
        series.SeriesInstanceUID: {ref.ReferencedSOPInstanceUID for ref in series.ReferencedSOPSequence}
        for series in evidence.ReferencedSeriesSequence
    }
    assert listed == {
        images[0].SeriesInstanceUID: {images[0].SOPInstanceUID, images[2].SOPInstanceUID},
        images[3].SeriesInstanceUID: {images[3].SOPInstanceUID},
    }
    classes = {ref.ReferencedSOPClassUID for s in evidence.ReferencedSeriesSequence for ref in s.ReferencedSOPSequence}
    assert classes == {images[0].SOPClassUID}


@pytest.mark.parametrize(
    ("language", "description"),
    [
        ("en", "Images with findings of the AI reading. AI - not for diagnostic use. "),
        ("ko", "AI 분석 소견이 있는 영상. AI - 진단 목적으로 사용할 수 없음. "),
        ("ja", "AI解析の所見がある画像. AI - 診断目的には使用できません. "),
    ],
)
def test_it_says_what_it_is_and_who_selected(language: str, description: str) -> None:
    images = study(1)
    run = found(images, (0, 1, 0.6), profile={"language": language})
    document = only(run, images)
    assert (document.Modality, document.SOPClassUID) == ("KO", "1.2.840.10008.5.1.4.1.1.88.59")
    assert named(document) == "113000"
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "2010"
    assert child(document, "113012").TextValue == description + run.words.notice(MODEL.notice)
    assert child(document, "121005").ConceptCodeSequence[0].CodeValue == "121007"  # a device
    assert uids.device_uid("here", MODEL) == child(document, "121012").UID
    assert all("ConceptNameCodeSequence" not in i for i in document.ContentSequence if i.ValueType == "IMAGE")


def test_a_class_present_without_a_region_brings_all_sources() -> None:
    images = study(3)
    run = found(images, (2, 1, 0.6))
    classes = tuple(
        replace(each, presence=Presence.PRESENT) if each.key == "effusion" else each for each in run.reading.classes
    )
    both = replace(run, reading=replace(run.reading, classes=classes))
    assert [uid for uid, _ in selected(only(both, images))] == [images[n].SOPInstanceUID for n in (2, 0, 1)]
    alone = replace(both, reading=replace(both.reading, findings=()))
    assert [uid for uid, _ in selected(only(alone, images))] == [image.SOPInstanceUID for image in images]


def test_nothing_found_or_a_failure_selects_nothing() -> None:
    images = study(2)
    assert kos.build(run_of(*images), images) == []
    run = found(images, (0, 1, 0.6))
    assert kos.build(replace(run, reading=replace(run.reading, failure="broken")), images) == []
    undetermined = tuple(replace(each, presence=Presence.UNDETERMINED) for each in run.reading.classes)
    reading = replace(run.reading, findings=(), classes=undetermined)
    assert kos.build(replace(run, reading=reading), images) == []


def test_it_is_encoded_last_and_the_same_each_time() -> None:
    images = study(2)
    run = found(images, (0, 1, 0.6))
    one, two = (encode(run, common_tests.Held(*images)) for _ in range(2))
    assert one[-1].role == "kos"
    assert one == two


def test_a_source_that_breaks_the_standard_is_named_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    image = with_raw(make_image(), **common_tests.BROKEN, NumberOfFrames=b"many")
    (document,) = kos.build(run_of(image, boxes=BOXES["one"]), [image])
    content = to_bytes(document)
    for keyword in ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID"):
        assert common_tests.element_in(content, keyword) == common_tests.BROKEN[keyword]
    assert content.count(b"1.2.03.004") == 2  # as evidence and as content
    assert "SECRET" not in caplog.text


@pytest.fixture(params=["dx", "ct", "frames"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "kos.dcm"
    if request.param == "frames":
        images = study(3, NumberOfFrames="30", SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3")
        (document,) = kos.build(found(images, (0, 7, 0.5), (1, 1, 0.9), (0, 12, 0.8)), images)
    else:
        header = header_of(SOURCES[request.param])
        (document,) = kos.build(run_of(header, boxes=BOXES["overlapping"]), [header])
    path.write_bytes(to_bytes(document))
    return path


@pytest.mark.programs
def test_validators_find_no_fault(file: Path) -> None:
    done = run_tool("dciodvfy", file, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
    assert sr_validator_errors(file) == []


@pytest.mark.programs
def test_dcmtk_reads_it(file: Path) -> None:
    done = run_tool("dsrdump", "-q", "+Pl", file)
    assert done.stderr == ""
    assert "Of Interest" in done.stdout
    assert "Images with findings of the AI reading" in done.stdout


def test_a_finding_on_another_image_is_refused() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    for change in ({"sop_instance_uid": "1.2"}, {"frame": 2}):
        finding = replace(run.reading.findings[0], region=replace(run.reading.findings[0].region, **change))
        with pytest.raises(ValueError, match=r"is no source of the reading|which has 1"):
            kos.build(replace(run, reading=replace(run.reading, findings=(finding,))), [image])
