"""The words that viewers show of a report, each where the viewer takes it from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from ai.contract import Code
from dicom_node.results import Run
from dicom_node.results.encode import to_bytes
from dicom_node.results.objects import sr
from tests.results.objects.test_sr import child, children, groups
from tests.results.test_common import BOXES, LEFT, run_of, written
from tests.support.programs import run_tool, sr_validator_errors
from tests.support.samples import make_image


def report(boxes: str, **profile: Any) -> tuple[Dataset, Run]:
    image = make_image()
    run = run_of(image, boxes=BOXES[boxes], rows=64, columns=64, profile=profile)
    return written(sr.build(run, [image])), run


def measurements(group: Dataset) -> list[str]:
    """The names of a group's measurements: OHIF writes them at the box, in this order."""
    return [item.ConceptNameCodeSequence[0].CodeMeaning for item in group.ContentSequence if item.ValueType == "NUM"]


@pytest.mark.parametrize("viewer", ["any", "ohif"])
@pytest.mark.parametrize(
    ("language", "said"),
    [("en", "AI: Nodule, left, 0.87"), ("ko", "AI: 결절, 좌측, 0.87"), ("ja", "AI: 結節, 左, 0.87")],
)
def test_a_loaded_measurement_is_named_by_its_comment(viewer: str, language: str, said: str) -> None:
    document, _ = report("one", viewer=viewer, language=language)
    assert child(groups(document)[0], "121106").TextValue == said


def test_a_side_that_the_name_says_or_nobody_knows_is_not_added() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"], rows=64, columns=64)
    (finding,) = run.reading.findings
    code = Code("1", "99X", "x")
    for name, side, said in (("Left nodule", LEFT, "AI: Left nodule, 0.87"), ("Nodule", None, "AI: Nodule, 0.87")):
        changed = replace(finding, name=name, code=code, laterality=side)
        document = written(sr.build(replace(run, reading=replace(run.reading, findings=(changed,))), [image]))
        assert child(groups(document)[0], "121106").TextValue == said


def test_ohif_gets_the_finding_as_the_first_measurement_at_the_box() -> None:
    document, _ = report("overlapping", viewer="ohif")
    assert [measurements(each)[0] for each in groups(document)] == [
        "AI: Nodule",
        "AI: Pleural effusion",
        "AI: Pneumothorax",
    ]
    codes = {
        item.ConceptNameCodeSequence[0].CodeValue
        for each in groups(document)
        for item in each.ContentSequence
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodingSchemeDesignator == "99DICOMNODE"
        and item.ConceptNameCodeSequence[0].CodeMeaning.startswith("AI: ")
    }  # fmt: skip
    assert len(codes) == 3  # one meaning, one code
    plain, _ = report("overlapping")
    assert not any(name.startswith("AI: ") for each in groups(plain) for name in measurements(each))


@pytest.mark.parametrize(("boxes", "viewer", "title"), [
    ("none", "ohif", "AI_REPORT"), ("one", "ohif", "126000"), ("none", "any", "126000"),
])  # fmt: skip
def test_ohif_shows_the_text_of_a_report_without_boxes(boxes: str, viewer: str, title: str) -> None:
    document, _ = report(boxes, viewer=viewer)
    assert document.ConceptNameCodeSequence[0].CodeValue == title
    assert bool(children(document, "126010")) is (boxes == "one")


@pytest.mark.programs
@pytest.mark.parametrize("boxes", ["none", "overlapping"])
def test_validators_accept_a_report_for_ohif(boxes: str, tmp_path: Path) -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES[boxes], rows=64, columns=64, profile={"viewer": "ohif"})
    path = tmp_path / "sr.dcm"
    path.write_bytes(to_bytes(sr.build(run, [image])))
    told = run_tool("dciodvfy", path, check=False)
    assert [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")] == []
    # Newer than its templates, as in test_sr.
    known = ("Algorithm Manufacturer", "Rendering Intent", "121058,DCM")
    assert [line for line in sr_validator_errors(path) if not any(each in line for each in known)] == []
