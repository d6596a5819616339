"""The report says in codes what was found, where, how surely and by whom, and in words what a person must know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

from ai.contract import Axes, ClassResult, Code, InstanceRef, NotLookedFor, PassedOver, Presence, Region
from dicom_node.results import Run, encode
from dicom_node.results.encode import to_bytes
from dicom_node.results.objects import sr
from dicom_node.results.run import Predecessor
from dicom_node.results.uids import derived_uid, device_uid, series_uid, tracking_uid
from tests.results.test_common import (
    BOXES,
    MODEL,
    NOT_READ,
    SOURCES,
    Held,
    header_of,
    run_of,
    with_raw,
    with_scope,
    written,
)
from tests.support.programs import run_tool, sr_validator_errors
from tests.support.samples import make_image

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


def measurements(item: Dataset) -> list[Dataset]:
    return [child for child in item.get("ContentSequence", []) if child.ValueType == "NUM"]


def figures(found: list[Dataset]) -> dict[tuple[str, str], tuple[float, str]]:
    """The value and unit of measurements by the code of their names, in their order."""
    return {
        (named(each), str(each.ConceptNameCodeSequence[0].CodingSchemeDesignator)): (
            float(each.MeasuredValueSequence[0].NumericValue),
            str(each.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue),
        )
        for each in found
    }


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
    assert device_uid("here", MODEL) == child(document, "121012").UID
    assert child(document, "121016").TextValue == MODEL.digest
    assert child(document, "121058").ConceptCodeSequence[0].CodeValue == "399208008"
    assert document.SOPInstanceUID == derived_uid(run.objects_key, "sr", 0)


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
        (inferred,) = measurements(group)[0].ContentSequence
        assert inferred.RelationshipType == "INFERRED FROM"
        assert "ConceptNameCodeSequence" not in inferred  # PS3.16 TID 320 gives it none
        for scoord in (region, inferred):
            assert (scoord.ValueType, scoord.GraphicType) == ("SCOORD", "POLYLINE")
            assert scoord.GraphicData == [np.float32(value) for value in outline]
            (selected,) = scoord.ContentSequence
            assert selected.RelationshipType == "SELECTED FROM"
            assert selected.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == shape.SOPInstanceUID
            assert selected.ReferencedSOPSequence[0].ReferencedSOPClassUID == shape.SOPClassUID
        # no probability is known
        assert figures(measurements(group)) == {("algorithm_score", "99DICOMNODE"): (round(finding.score, 2), "1")}
        assert child(group, "121071").ConceptCodeSequence[0].CodeValue == finding.code.value
        assert tracking_uid(run.key, number) == child(group, "112040").UID
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


def anatomy(header: Dataset, **shape: int) -> Run:
    """A reading by a model that outlines two organs and looks for a nodule, of which one organ was not outlined."""
    run = run_of(header, boxes=BOXES["one"], **shape)
    lung, spleen = (replace(one, finding=False) for one in run.reading.classes[1:])
    classes = (run.reading.classes[0], replace(lung, score=0.9, presence=Presence.PRESENT), spleen)
    return replace(run, reading=replace(run.reading, classes=classes))


def test_anatomy_that_was_not_outlined_is_not_absent() -> None:
    """It may lie outside the images: a report must not say that the patient has no spleen."""
    image = make_image()
    run = anatomy(image, rows=64, columns=64)
    document = written(sr.build(run, [image]))
    codes = [each.code.value for each in run.reading.classes]
    assert [evaluations(document)[code] for code in codes] == [PRESENT, PRESENT, "not_outlined"]
    assert figures(measurements(class_item(document, codes[2]))) == {
        ("algorithm_score", "99DICOMNODE"): (0.12, "1"),
        ("score_threshold", "99DICOMNODE"): (0.5, "1"),
    }
    assert not any("absent" in each for each in sentences(document))
    assert any(f"{run.reading.classes[2].name} not outlined (score 0.12" in each for each in sentences(document))


# --- scores, what was looked for, what a verdict means ----------------------------------------------------------------


def class_item(document: Dataset, code: str) -> Dataset:
    return child(child(document, "C0034375"), code)


def test_every_class_has_its_score_and_threshold_in_code_absent_ones_too() -> None:
    document, _ = build("one")
    for code, score in (("27925004", 0.87), ("60046008", 0.12), ("36118008", 0.12)):
        below = class_item(document, code).ContentSequence
        assert figures(measurements(class_item(document, code))) == {
            ("algorithm_score", "99DICOMNODE"): (score, "1"),
            ("score_threshold", "99DICOMNODE"): (0.5, "1"),
        }
        assert {each.RelationshipType for each in below} == {"HAS PROPERTIES"}
    assert "%" not in "".join(sentences(document))
    (scheme,) = document.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99DICOMNODE"
    used = [each for item in items(document) for each in [item.get("CodingSchemeDesignator")] if each]
    assert used.count("99DICOMNODE") == 1 + 1 + 2 * 3  # the scheme, the finding, three classes


def test_the_operating_point_and_what_was_not_looked_for_are_said_in_code_and_in_words() -> None:
    image = make_image()
    document = written(sr.build(with_scope(run_of(image, boxes=BOXES["one"])), [image]))
    for code in ("27925004", "60046008", "36118008"):
        assert child(class_item(document, code), "111081").TextValue == "balanced"
    assert evaluations(document)["154283005"] == "111225"  # not attempted: neither present nor absent
    assert "ContentSequence" not in class_item(document, "154283005")
    assert evaluations(document)["111017"] == "111242"  # all algorithms succeeded: this was none of them
    assert "Operating point: balanced." in sentences(document)
    assert "Not looked for: Tuberculosis." in sentences(document)
    assert not any("Tuberculosis absent" in each for each in sentences(document))
    plain, _ = build("one")
    assert not any("perating point" in each or "ooked for" in each for each in sentences(plain))
    assert all(named(item) != "111081" for item in items(plain))


def test_what_a_model_cannot_tell_apart_is_a_differential() -> None:
    image = make_image()
    document = written(sr.build(with_scope(run_of(image, boxes=BOXES["one"])), [image]))
    found = children(class_item(document, "27925004"), "111023")
    assert [each.ConceptCodeSequence[0].CodeValue for each in found] == ["233604007", "95436008"]
    assert "Nodule: may be pneumonia or consolidation." in sentences(document)
    run = with_scope(run_of(image, boxes=BOXES["one"]))
    said = replace(run.reading.classes[0], name="Pneumonia or consolidation", code=Code("x", "99X", "Either"))
    reading = replace(run.reading, classes=(said, *run.reading.classes[1:]))
    named_so = written(sr.build(replace(run, reading=reading), [image]))
    assert len(children(class_item(named_so, "x"), "111023")) == 2
    assert not any("may be" in each for each in sentences(named_so))  # the name says it already
    absent = written(sr.build(with_scope(run_of(image)), [image]))
    assert children(class_item(absent, "27925004"), "111023") == []
    assert not any("may be" in each for each in sentences(absent))


def test_a_probability_is_stated_with_the_prevalence_of_the_site_alone() -> None:
    image = make_image()
    profile = {"prevalence": (("nodule", 0.005),)}
    document = written(sr.build(with_scope(run_of(image, boxes=BOXES["one"], profile=profile)), [image]))
    # odds 0.8731 / 0.1269 x 0.005 / 0.995, and 0.9 x 0.005 / (0.9 x 0.005 + 0.2 x 0.995)
    assert figures(measurements(class_item(document, "27925004"))) == {
        ("algorithm_score", "99DICOMNODE"): (0.87, "1"),
        ("score_threshold", "99DICOMNODE"): (0.5, "1"),
        ("111012", "DCM"): (3.3, "%"),
        ("ppv", "99DICOMNODE"): (2.2, "%"),
        ("ppv_other", "99DICOMNODE"): (0.75, "%"),
        ("prevalence", "99DICOMNODE"): (0.5, "%"),
    }
    assert (
        "Nodule: probability 3.3 %, positive predictive value 2.2 % (against images without findings), "
        "0.75 % (against images with other findings) at a prevalence of 0.5 %."
    ) in sentences(document)
    (group,) = groups(document)
    assert figures(measurements(group))["111012", "DCM"] == (3.3, "%")
    assert named(measurements(group)[0]) == "algorithm_score"  # OHIF takes the box from the first one
    for other in ("60046008", "36118008"):
        assert len(measurements(class_item(document, other))) == 2
    silent = written(sr.build(with_scope(run_of(image, boxes=BOXES["one"])), [image]))
    assert not any("probability" in each for each in sentences(silent))
    assert all(named(item) not in ("111012", "ppv", "prevalence") for item in items(silent))


def test_a_finding_with_another_score_than_its_class_has_no_certainty() -> None:
    image = make_image()
    run = with_scope(run_of(image, boxes=BOXES["one"], profile={"prevalence": (("nodule", 0.005),)}))
    weaker = replace(run.reading.findings[0], score=0.6)
    document = written(sr.build(replace(run, reading=replace(run.reading, findings=(weaker,))), [image]))
    (group,) = groups(document)
    assert ("111012", "DCM") not in figures(measurements(group))
    assert figures(measurements(group))["algorithm_score", "99DICOMNODE"] == (0.6, "1")


def test_a_class_that_was_not_looked_for_can_have_no_verdict() -> None:
    image = make_image()
    run = run_of(image)
    other = NotLookedFor("nodule", "Nodule", run.reading.classes[0].code)
    with pytest.raises(ValueError, match="not looked for"):
        sr.build(replace(run, reading=replace(run.reading, not_looked_for=(other,))), [image])


def not_assessed(classes: tuple[ClassResult, ...]) -> tuple[ClassResult, ...]:
    """The last class as one that the model gives no verdict on, however high its score."""
    reason = "too few examples to learn from"
    return (*classes[:-1], replace(classes[-1], presence=Presence.UNDETERMINED, score=0.97, not_assessed=reason))


def test_a_class_that_is_not_assessed_is_named_without_a_score_and_the_reading_is_complete() -> None:
    image = make_image()
    run = run_of(image)
    reading = replace(run.reading, classes=not_assessed(run.reading.classes))
    document = written(sr.build(replace(run, reading=reading), [image]))
    assert evaluations(document) == {
        "111017": "111241",  # all algorithms succeeded, without findings: this class is none of them
        "27925004": ABSENT,
        "60046008": ABSENT,
        "36118008": UNDETERMINED,
    }
    verdict = next(each for each in sentences(document) if each.startswith("No findings"))
    assert verdict.endswith("Pneumothorax not assessed.")
    assert not any("97" in each for each in sentences(document))
    assert "Not assessed by this model: Pneumothorax." in sentences(document)
    assert "This is not a negative result." not in sentences(document)


def test_a_class_that_is_not_assessed_can_have_no_verdict() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    silent = tuple(replace(each, not_assessed="too few examples") for each in run.reading.classes)
    with pytest.raises(ValueError, match="only be undetermined"):
        encode(replace(run, reading=replace(run.reading, classes=silent)), Held(image))
    silent = tuple(replace(each, presence=Presence.UNDETERMINED) for each in silent)
    with pytest.raises(ValueError, match="neither findings nor heat maps"):
        encode(replace(run, reading=replace(run.reading, classes=silent)), Held(image))


def test_no_findings_are_said_in_code_and_in_words() -> None:
    document, _ = build("none")
    assert groups(document) == []
    assert children(document, "126010") == []
    assert evaluations(document) == {"111017": "111241", "27925004": ABSENT, "60046008": ABSENT, "36118008": ABSENT}
    assert sentences(document)[-1].startswith("No findings: Nodule absent (score 0.12, threshold 0.50), ")


@pytest.mark.parametrize(
    ("presence", "outcome", "words"),
    [
        (Presence.UNDETERMINED, "111243", "Incomplete reading: no findings in what could be read"),
        (Presence.PRESENT, "111242", "1 finding without a place"),
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
    verdict = next(sentence for sentence in sentences(document) if sentence.startswith(words))
    assert ("This is not a negative result." in sentences(document)) is verdict.startswith("Incomplete")


def test_the_warnings_come_first_and_in_plain_text() -> None:
    document, _ = build()
    assert sentences(document)[:2] == ["AI - not for diagnostic use", "Demonstration model, trained on no patient"]
    assert "phantom_cxr version 1.2.0, dicom-node project" in sentences(document)[2]
    assert "not for diagnostic use" in document.SeriesDescription


def test_a_product_is_not_called_research() -> None:
    image = make_image()
    run = run_of(image, profile={"content_qualification": "PRODUCT"})
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
    known = {device_uid("here", MODEL), run.key, *(tracking_uid(run.key, i) for i in range(3))}
    known |= {derived_uid(run.objects_key, "sr", 0), series_uid(run.objects_key, "sr")}
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
    [
        ("DX", "CHEST", "399208008"),
        ("CR", "KNEE", "363679005"),
        ("CT", "CHEST", "24627-2"),
        ("CT", "THORAX", "24627-2"),
        ("CT", "ABDOMEN", "25045-6"),
        ("MR", "CHEST", "25056-3"),
        ("XX", "", "363679005"),
    ],
)
def test_the_procedure_is_the_one_reported_on(modality: str, body_part: str, procedure: str) -> None:
    document, _ = build(Modality=modality, BodyPartExamined=body_part)
    assert child(document, "121058").ConceptCodeSequence[0].CodeValue == procedure


# --- failure --------------------------------------------------------------------------------------------------------


def test_a_reading_that_failed_has_no_class_and_says_that_it_is_not_negative() -> None:
    image = make_image()
    run = run_of(image)
    failed = replace(run.reading, classes=(), failure="the reading process died")
    document = written(sr.build(replace(run, reading=failed), [image]))
    assert evaluations(document) == {"111017": "111245"}
    assert groups(document) == []
    assert sentences(document)[-2:] == [
        "AI reading failed: the reading process died.",
        "This is not a negative result.",
    ]
    assert ABSENT not in {i.get("CodeValue") for i in items(document)}
    assert "no findings" not in " ".join(sentences(document)).lower()


def test_a_reading_that_failed_cannot_have_an_answer() -> None:
    image = make_image()
    run = run_of(image)
    with pytest.raises(ValueError, match="failed as a whole cannot have findings or classes"):
        sr.build(replace(run, reading=replace(run.reading, failure="x")), [image])
    with pytest.raises(ValueError, match="failed in part cannot call a class absent"):
        sr.build(replace(run, reading=replace(run.reading, failed=(PassedOver("1", "x"),))), [image])


@pytest.mark.parametrize(("boxes", "outcome"), [("none", "111243"), ("one", "111244")])
def test_a_reading_that_failed_in_part_calls_nothing_absent(boxes: str, outcome: str) -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES[boxes], rows=64, columns=64, passed_over=NOT_READ)
    classes = tuple(
        replace(each, presence=Presence.UNDETERMINED if each.presence is Presence.ABSENT else each.presence)
        for each in run.reading.classes
    )
    partial = replace(run.reading, classes=classes, failed=(PassedOver("1.2.3", "it cannot be decoded"),))
    document = written(sr.build(replace(run, reading=partial), [image]))
    assert evaluations(document)["111017"] == outcome
    assert ABSENT not in evaluations(document).values()
    assert "ncomplete reading" in sentences(document)[3]
    (unreadable,) = (each for each in sentences(document) if "could not be read" in each)
    assert unreadable.endswith("it cannot be decoded.")
    assert ("This is not a negative result." in sentences(document)) is (boxes == "none")
    assert sentences(document)[-1].startswith("Not read: 3 images, other objects or series: view LL")


# --- superseding ----------------------------------------------------------------------------------------------------


def test_the_report_that_it_replaces_is_named() -> None:
    image = make_image(TimezoneOffsetFromUTC="+0900")
    run = run_of(image)
    earlier = Predecessor(run_sop_class(run), "1.2.3.4", "1.2.3", datetime(2026, 2, 28, 22, 5, tzinfo=UTC))
    document = written(sr.build(replace(run, predecessor=earlier), [image]))
    (study,) = document.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == image.StudyInstanceUID
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3"
    (old,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert (old.ReferencedSOPClassUID, old.ReferencedSOPInstanceUID) == (earlier.sop_class_uid, "1.2.3.4")
    assert "Replaces the report of 2026-03-01 07:05 UTC+0900." in sentences(document)
    assert "PredecessorDocumentsSequence" not in build()[0]


def run_sop_class(run: Run) -> str:
    return "1.2.840.10008.5.1.4.1.1.88.34" if run.profile.sr_class == "comprehensive3d" else ComprehensiveSRStorage


_LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "axes", "caveat"),
    [
        ({}, None, False),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (1.9, 1.0), True),
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.2, 0.1]}, (1.9, 1.0), True),
        ({"PixelSpacing": [0.1, 0.2], "ImagerPixelSpacing": [0.2, 0.1]}, (2.0, 1.0), False),
        ({"PixelSpacing": [0.1, 0.2], "PixelSpacingCalibrationType": "FIDUCIAL"}, (2.0, 1.0), False),
        ({"PixelSpacing": [0.1, 0.2]}, None, False),  # nobody knows whether it is calibrated
        ({"PixelSpacing": [0.1, 0.2], "Modality": "CT"}, (2.0, 1.0), False),
        *(({"PixelSpacing": [0.1, 0.2], "Modality": modality}, (2.0, 1.0), False) for modality in ("MR", "PT", "NM")),
        *(
            ({"PixelSpacing": [0.1, 0.2], "Modality": modality}, None, False)
            for modality in ("OT", "XC", "ES", "US", "SC", "HC", "DG", "")
        ),
        ({"PixelSpacing": [0.1, 0.2], "ImagerPixelSpacing": [0.2, 0.1], "Modality": "OT"}, (2.0, 1.0), False),
        ({"PixelSpacing": [0.1, 0.2], "PixelSpacingCalibrationType": "GEOMETRY", "Modality": "XC"}, (2.0, 1.0), False),
        ({"PixelSpacing": [0.1, 0.2], "Modality": "CT", "ImageType": _LOCALIZER}, None, False),
        ({"PixelSpacing": [0.1, 0.2], "Modality": "MR", "ImageType": _LOCALIZER}, (2.0, 1.0), False),
        ({"ImagerPixelSpacing": [0.2, 0.1], "Modality": "CT"}, None, False),
        ({"ImagerPixelSpacing": [0, 0]}, None, False),
        ({"NominalScannedPixelSpacing": [0.2, 0.1]}, None, False),
    ],
)
def test_an_outline_is_measured_where_the_spacing_is_known(
    attributes: dict[str, Any], axes: tuple[float, float] | None, caveat: bool
) -> None:
    document = measured(**attributes)
    (group,) = groups(document)
    if axes is None:
        assert children(group, "103339001") + children(group, "103340004") == []
        assert not any("magnification" in sentence for sentence in sentences(document))
        return
    lengths = [child(group, code) for code in ("103339001", "103340004")]
    assert tuple(sorted(float(each.MeasuredValueSequence[0].NumericValue) for each in lengths))[::-1] == axes
    for each in lengths:
        assert each.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"
        methods = [child(each, "370129005").ConceptCodeSequence[0].CodeValue] if "ContentSequence" in each else []
        assert methods == (["at_detector"] if caveat else [])
    assert any("magnification" in sentence for sentence in sentences(document)) is caveat


# 10 columns wide and 9.5 rows high
AXES = Axes(((10.0, 12.0), (20.0, 12.0)), ((15.0, 10.0), (15.0, 19.5)))


def measured(axes: Axes | None = AXES, **attributes: Any) -> Dataset:
    image = make_image(**attributes)
    run = run_of(image, boxes=BOXES["one"], rows=64, columns=64)
    findings = tuple(replace(finding, axes=axes) for finding in run.reading.findings)
    return written(sr.build(replace(run, reading=replace(run.reading, findings=findings)), [image]))


@pytest.mark.parametrize("modality", ["CT", "DX"])
def test_a_box_is_never_measured(modality: str) -> None:
    document = measured(None, PixelSpacing=[0.1, 0.2], ImagerPixelSpacing=[0.2, 0.2], Modality=modality)
    (group,) = groups(document)
    assert children(group, "103339001") + children(group, "103340004") == []
    assert len([item for item in group.ContentSequence if item.ValueType == "NUM"]) == 1  # the score


def test_broken_spacing_measures_nothing() -> None:
    for broken in (b"a\\b ", b"0.1 ", b"-1\\1", b"nan\\1 ", b"1e8\\1 "):
        image = with_raw(make_image(Modality="CT"), PixelSpacing=broken)
        run = run_of(image, boxes=BOXES["one"])
        findings = tuple(replace(finding, axes=AXES) for finding in run.reading.findings)
        run = replace(run, reading=replace(run.reading, findings=findings))
        (group,) = groups(written(sr.build(run, [image])))
        assert children(group, "103339001") == [], broken


def test_the_spacing_of_an_enhanced_object_is_that_of_all_its_frames() -> None:
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.25]
    shared.PixelMeasuresSequence = [measures]
    document = measured(Modality="CT", NumberOfFrames=3, SharedFunctionalGroupsSequence=[shared])
    (group,) = groups(document)
    assert child(group, "103339001").MeasuredValueSequence[0].NumericValue == 4.8  # the longer side is 9.5 rows


# --- frames, kinds, languages ---------------------------------------------------------------------------------------


def test_a_finding_on_a_frame_refers_to_that_frame() -> None:
    image = make_image(NumberOfFrames=5)
    run = run_of(image, boxes=BOXES["one"], rows=64, columns=64)
    (finding,) = run.reading.findings

    def on(frame: int) -> Dataset:
        moved = replace(finding, region=replace(finding.region, frame=frame))
        return sr.build(replace(run, reading=replace(run.reading, findings=(moved,))), [image])

    (group,) = groups(written(on(4)))
    for scoord in (child(group, "111030"), measurements(group)[0].ContentSequence[0]):
        assert scoord.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 4
    with pytest.raises(ValueError, match=r"frame 6 of .*, which has 5"):
        on(6)
    single, _ = build()
    assert "ReferencedFrameNumber" not in child(groups(single)[0], "111030").ContentSequence[0].ReferencedSOPSequence[0]


def test_a_destination_can_have_a_comprehensive_3d_report() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"], profile={"sr_class": "comprehensive3d", "series_number_base": 501})
    document = written(sr.build(run, [image]))
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert document.SeriesNumber == 501
    assert document.SOPInstanceUID != build()[0].SOPInstanceUID
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "locale", "said"),
    [
        (
            "ko",
            "ko-KR",
            [
                "AI - 진단 목적으로 사용할 수 없음",
                "시연용 모델, 환자 영상으로 학습되지 않음",
                "기흉 없음",
                "영상이 아님",
            ],
        ),
        ("ja", "ja-JP", ["AI - 診断目的には使用できません", "デモ用モデル", "気胸 なし", "画像ではない"]),
    ],
)
def test_what_people_read_is_in_their_language_and_codes_are_the_same(
    language: str, locale: str, said: list[str]
) -> None:
    image = make_image()
    english = run_of(image, boxes=BOXES["one"], passed_over=NOT_READ)
    run = run_of(image, boxes=BOXES["one"], passed_over=NOT_READ, profile={"language": language})
    document, other = written(sr.build(run, [image])), written(sr.build(english, [image]))
    assert child(document, "121049").ConceptCodeSequence[0].CodeValue == locale
    for text in said:
        assert any(text in sentence for sentence in sentences(document)), text
    assert evaluations(document) == evaluations(other)

    def coded(dataset: Dataset) -> list[tuple[str, str, str]]:
        return [(i.CodeValue, i.CodingSchemeDesignator, i.CodeMeaning) for i in items(dataset) if "CodeValue" in i]

    assert [c for c in coded(document) if c[1] != "RFC5646"] == [c for c in coded(other) if c[1] != "RFC5646"]
    assert tracking_uid(run.key, 0) == child(groups(document)[0], "112040").UID
    assert child(groups(other)[0], "112040").UID == child(groups(document)[0], "112040").UID


# --- other programs -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["none", "overlapping", "anatomy"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    header = header_of(SOURCES["dx"])
    shape = header_of(SOURCES["dx"])
    size = {"rows": int(shape.Rows), "columns": int(shape.Columns)}
    if request.param == "anatomy":
        run = anatomy(header, **size)
        run = replace(run, reading=replace(run.reading, passed_over=NOT_READ))
    else:
        run = run_of(header, boxes=BOXES[request.param], passed_over=NOT_READ, **size)
    path = tmp_path / "sr.dcm"
    path.write_bytes(to_bytes(sr.build(run, [header])))
    return path


@pytest.mark.programs
def test_dciodvfy_finds_no_error(file: Path) -> None:
    done = run_tool("dciodvfy", file, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []


@pytest.mark.programs
@pytest.mark.parametrize("file", ["overlapping", "anatomy"], indirect=True)  # it takes seconds a file
def test_dicomsrvalidator_finds_no_error(file: Path) -> None:
    errors = sr_validator_errors(file)
    # 122405 is newer than its templates, and its CID 100 (extensible) has no plain radiograph.
    assert [e for e in errors if "Algorithm Manufacturer" not in e and "Procedure reported" not in e] == []


@pytest.mark.programs
def test_dcmtk_reads_it_as_plain_sentences(file: Path) -> None:
    html = run_tool("dsr2html", file).stdout
    assert "AI - not for diagnostic use" in html
    assert "Demonstration model, trained on no patient" in html
    assert ("No findings: Nodule absent" in html) != ("marked: Nodule present (score 0.87" in html)
    assert "Not read: 3 images, other objects or series: view LL" in html
    assert run_tool("dsrdump", "-q", file).stderr == ""
