"""The report says in codes what was found, where, how surely and by whom, and in words what a person must know."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image, run_tool, tool
from pydicom.dataset import Dataset
from test_results_common import (
    BOXES,
    MODEL,
    NOT_READ,
    SOURCES,
    _strict_pydicom,  # noqa: F401 (an autouse fixture)
    header_of,
    run_of,
    written,
)

from ai.contract import Code, InstanceRef, PassedOver, Presence, Region
from dicom_node.results import Run, common, sr

PRESENT, ABSENT, UNDETERMINED = "52101004", "272519000", "373068000"


def named(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def children(item: Dataset, name: str) -> list[Dataset]:
    return [child for child in item.get("ContentSequence", []) if named(child) == name]


def child(item: Dataset, name: str) -> Dataset:
    (found,) = children(item, name)
    return found


def groups(document: Dataset) -> list[Dataset]:
    found = children(document, "126010")
    return children(found[0], "125007") if found else []


def sentences(document: Dataset) -> list[str]:
    return [item.TextValue for item in children(document, "121106")]


def evaluations(document: Dataset) -> dict[str, str]:
    return {named(i): i.ConceptCodeSequence[0].CodeValue for i in child(document, "C0034375").ContentSequence}


def items(dataset: Dataset) -> Iterator[Dataset]:
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from items(item)


def build(boxes: str = "one", **attributes: object) -> tuple[Dataset, Run]:
    image = make_image(**attributes)
    run = run_of(image, boxes=BOXES[boxes], rows=64, columns=64)
    return written(sr.build(run, [image])), run


def test_it_is_a_preliminary_unverified_measurement_report() -> None:
    document, run = build()
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"
    assert document.Modality == "SR"
    assert (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert named(document) == "126000"
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert child(document, "121049").ConceptCodeSequence[0].CodeValue == "en-US"
    assert child(document, "121005").ConceptCodeSequence[0].CodeValue == "121007"  # the observer is a device
    assert common.device_uid("here", MODEL) == child(document, "121012").UID
    assert child(document, "121016").TextValue == MODEL.digest
    assert child(document, "121058").ConceptCodeSequence[0].CodeValue == "399208008"
    assert document.SOPInstanceUID == common.derived_uid(run.key, "sr", 0)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("boxes", BOXES)
def test_each_finding_is_a_group_with_its_box(name: str, boxes: str) -> None:
    header = header_of(SOURCES[name])
    shape = header_of(SOURCES[name])
    run = run_of(header, boxes=BOXES[boxes], rows=shape.Rows, columns=shape.Columns)
    document = written(sr.build(run, [header]))
    assert len(groups(document)) == len(run.reading.findings)
    for number, (group, finding) in enumerate(zip(groups(document), run.reading.findings, strict=True)):
        box = finding.region
        outline = [
            box.left,
            box.top,
            box.right,
            box.top,
            box.right,
            box.bottom,
            box.left,
            box.bottom,
            box.left,
            box.top,
        ]
        region = child(group, "111030")
        (inferred,) = child(group, "111012").ContentSequence
        assert inferred.RelationshipType == "INFERRED FROM"
        assert "ConceptNameCodeSequence" not in inferred  # PS3.16 TID 320 gives it none
        for scoord in (region, inferred):
            assert (scoord.ValueType, scoord.GraphicType) == ("SCOORD", "POLYLINE")
            assert scoord.GraphicData == [np.float32(value) for value in outline]
            (selected,) = scoord.ContentSequence
            assert selected.RelationshipType == "SELECTED FROM"
            assert selected.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == shape.SOPInstanceUID
            assert selected.ReferencedSOPSequence[0].ReferencedSOPClassUID == shape.SOPClassUID
        measured = child(group, "111012").MeasuredValueSequence[0]
        assert measured.NumericValue == round(100 * finding.score, 1)
        assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "%"
        assert child(group, "121071").ConceptCodeSequence[0].CodeValue == finding.code.value
        assert common.tracking_uid(run.key, number) == child(group, "112040").UID
        assert finding.name in child(group, "112039").TextValue
        assert child(group, "130400").ConceptCodeSequence[0].CodeValue == "75958009"
        assert child(group, "111001").TextValue == MODEL.name
        assert child(group, "111003").TextValue == MODEL.version
        assert child(group, "111000").ConceptCodeSequence[0].CodeValue == "123110"
        assert MODEL.digest in child(group, "111002").TextValue
        site = child(group, "363698007")
        assert site.ConceptCodeSequence[0].CodeValue == "39607008"
        assert len(children(site, "272741003")) == (finding.laterality is not None)


def test_a_finding_without_a_site_has_none() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    finding = replace(run.reading.findings[0], site=None, laterality=None)
    document = written(sr.build(replace(run, reading=replace(run.reading, findings=(finding,))), [image]))
    assert children(groups(document)[0], "363698007") == []


def test_every_class_is_present_or_absent() -> None:
    document, run = build("one")
    assert evaluations(document) == {"111017": "111242", "27925004": PRESENT, "60046008": ABSENT, "36118008": ABSENT}
    assert evaluations(document).keys() - {"111017"} == {result.code.value for result in run.reading.classes}


def test_no_findings_are_said_in_code_and_in_words() -> None:
    document, _ = build("none")
    assert groups(document) == []
    assert children(document, "126010") == []
    assert evaluations(document) == {"111017": "111241", "27925004": ABSENT, "60046008": ABSENT, "36118008": ABSENT}
    assert sentences(document)[-1].startswith("No findings: Nodule absent (12.3 %, threshold 50 %), ")


@pytest.mark.parametrize(
    ("presence", "outcome", "words"),
    [
        (Presence.UNDETERMINED, "111243", "No findings, but not every class could be determined"),
        (Presence.PRESENT, "111242", "Findings without a region"),
    ],
)
def test_a_class_without_a_region_is_not_passed_over(presence: Presence, outcome: str, words: str) -> None:
    image = make_image()
    run = run_of(image)
    classes = (replace(run.reading.classes[0], presence=presence), *run.reading.classes[1:])
    document = written(sr.build(replace(run, reading=replace(run.reading, classes=classes)), [image]))
    assert groups(document) == []  # a group without a region hides all boxes in OHIF
    assert evaluations(document)["111017"] == outcome
    assert evaluations(document)["27925004"] == {"undetermined": UNDETERMINED, "present": PRESENT}[presence.value]
    assert sentences(document)[-1].startswith(words)


def test_the_warnings_come_first_and_in_plain_text() -> None:
    document, _ = build()
    assert sentences(document)[:2] == ["AI - not for diagnostic use", "Demonstration model, trained on no patient"]
    assert "phantom_cxr version 1.2.0, dicom-node project" in sentences(document)[2]
    assert "not for diagnostic use" in document.SeriesDescription


def test_a_product_is_not_called_research() -> None:
    image = make_image()
    run = run_of(image, content_qualification="PRODUCT")
    document = written(sr.build(run, [image]))
    assert document.ContentQualification == "PRODUCT"
    assert sentences(document)[0] == "Demonstration model, trained on no patient"
    assert "diagnostic" not in document.SeriesDescription


def test_what_was_not_read_is_named() -> None:
    image = make_image()
    document = written(sr.build(run_of(image, passed_over=NOT_READ), [image]))
    assert sentences(document)[-2].startswith("No findings: ")
    assert sentences(document)[-1] == (
        "Not read: 3 images, other objects or series: view LL is not among PA, AP (2); it is no image (1)."
    )
    one = written(sr.build(run_of(image, passed_over=(PassedOver("1", "modality SR is not among CR"),)), [image]))
    assert sentences(one)[-1] == "Not read: 1 image, other object or series: modality SR is not among CR (1)."
    assert not any("Not read" in sentence for sentence in sentences(build()[0]))


def test_all_images_are_evidence_and_stand_in_the_library() -> None:
    images = [make_image(Modality="CR"), make_image(Modality="OT")]
    images[1].StudyInstanceUID = images[0].StudyInstanceUID
    run = run_of(*images, boxes=BOXES["one"])
    document = written(sr.build(run, images))
    uids = {image.SOPInstanceUID for image in images}
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == images[0].StudyInstanceUID
    assert {s.SeriesInstanceUID for s in study.ReferencedSeriesSequence} == {i.SeriesInstanceUID for i in images}
    evidence = {r.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for r in s.ReferencedSOPSequence}
    library = child(child(document, "111028"), "126200").ContentSequence
    assert evidence == uids == {entry.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for entry in library}
    described = [{named(i) for i in entry.ContentSequence} for entry in library]
    assert described == [{"121139", "110910", "110911"}, {"110910", "110911"}]  # CID 29 has no modality OT


def test_no_stand_in_is_left_behind() -> None:
    document, run = build("overlapping")
    known = {common.device_uid("here", MODEL), run.key, *(common.tracking_uid(run.key, i) for i in range(3))}
    known |= {common.derived_uid(run.key, "sr", 0), common.series_uid(run.key, "sr")}
    ours = [e.value for item in items(document) for e in item if e.VR == "UI" and str(e.value).startswith("2.25.")]
    source = {ref.sop_instance_uid for ref in run.reading.sources} | {document.StudyInstanceUID}
    evidence = document.CurrentRequestedProcedureEvidenceSequence[0]
    source.add(evidence.ReferencedSeriesSequence[0].SeriesInstanceUID)
    assert set(ours) <= known | source


def test_a_box_beyond_the_image_ends_at_its_border() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    region = Region(image.SOPInstanceUID, -3, -2.5, 70, 65)
    finding = replace(run.reading.findings[0], region=region)
    document = written(sr.build(replace(run, reading=replace(run.reading, findings=(finding,))), [image]))
    assert child(groups(document)[0], "111030").GraphicData == [0, 0, 64, 0, 64, 64, 0, 64, 0, 0]


def test_a_finding_on_another_image_is_refused() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    sources = (InstanceRef("1.2.3", image.SOPClassUID, ""),)
    other = make_image(SOPInstanceUID="1.2.3")
    with pytest.raises(ValueError, match="is no source of the reading"):
        sr.build(replace(run, reading=replace(run.reading, sources=sources)), [other])


def test_long_codes_and_names_are_written() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    code = Code("12345678901234567890", "99VERYLONGSCHEMENAME", "m" * 80)
    reading = replace(
        run.reading,
        findings=(replace(run.reading.findings[0], code=code),),
        classes=(replace(run.reading.classes[0], code=code),),
        model=replace(MODEL, name="n" * 64, manufacturer="m" * 80),
    )
    document = written(sr.build(replace(run, reading=reading), [image]))
    assert child(groups(document)[0], "121071").ConceptCodeSequence[0].LongCodeValue == code.value
    assert len(document.SeriesDescription) == len(document.Manufacturer) == 64


@pytest.mark.parametrize(
    ("modality", "body_part", "procedure"),
    [("DX", "CHEST", "399208008"), ("CR", "KNEE", "363679005"), ("CT", "CHEST", "25045-6"), ("XX", "", "363679005")],
)
def test_the_procedure_is_the_one_reported_on(modality: str, body_part: str, procedure: str) -> None:
    document, _ = build(Modality=modality, BodyPartExamined=body_part)
    assert child(document, "121058").ConceptCodeSequence[0].CodeValue == procedure


# --- other programs -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["none", "overlapping"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    header = header_of(SOURCES["dx"])
    shape = header_of(SOURCES["dx"])
    run = run_of(header, boxes=BOXES[request.param], rows=shape.Rows, columns=shape.Columns, passed_over=NOT_READ)
    path = tmp_path / "sr.dcm"
    path.write_bytes(common.to_bytes(sr.build(run, [header])))
    return path


def test_dciodvfy_finds_no_error(file: Path) -> None:
    done = run_tool("dciodvfy", file, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("file", ["overlapping"], indirect=True)  # it takes seconds a file
def test_dicomsrvalidator_finds_no_error(file: Path) -> None:
    # JDK 17 caps XPath operators below what the validator needs.
    java = "-Djdk.xml.xpathTotalOpLimit=0 -Djdk.xml.xpathExprOpLimit=0 -Djdk.xml.xpathExprGrpLimit=0"
    done = subprocess.run(
        [tool("DicomSRValidator"), file],
        env={"PATH": "/usr/bin:/bin", "JAVA_TOOL_OPTIONS": java},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    errors = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
    # 122405 is newer than its templates, and its CID 100 (extensible) has no plain radiograph.
    assert [e for e in errors if "Algorithm Manufacturer" not in e and "Procedure reported" not in e] == []


def test_dcmtk_reads_it_as_plain_sentences(file: Path) -> None:
    html = run_tool("dsr2html", file).stdout
    assert "AI - not for diagnostic use" in html
    assert "Demonstration model, trained on no patient" in html
    assert ("No findings: Nodule absent" in html) != ("3 findings with a region: Nodule present (87.3 %" in html)
    assert "Not read: 3 images, other objects or series: view LL" in html
    assert run_tool("dsrdump", "-q", file).stderr == ""
