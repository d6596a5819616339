"""The six lines that are pasted into a report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ai.contract import Code, NotLookedFor, PassedOver, Presence
from dicom_node.config.settings import Profile
from dicom_node.results import Run
from dicom_node.results.objects import pdf, sr
from dicom_node.results.short_report import lines
from tests.results.test_common import BOXES, NOT_READ, run_of, written
from tests.support.samples import make_image

TB = NotLookedFor("tuberculosis", "Tuberculosis", Code("154283005", "SCT", "Tuberculosis"))


IMAGE = make_image()


def run(boxes: str = "one", language: str = "en", **changes: Any) -> Run:
    made = run_of(IMAGE, boxes=BOXES[boxes], rows=64, columns=64, profile={"language": language})
    return replace(made, reading=replace(made.reading, **changes))


def test_they_say_what_is_there_where_and_how_surely() -> None:
    said = lines(run(not_looked_for=(TB,), operating_point="balanced"))
    assert said[:4] == (
        "AI - not for diagnostic use: phantom_cxr 1.2.0. Demonstration model, trained on no patient.",
        "1 finding marked.",
        "Present: Nodule, left 0.87.",
        "Absent: Pleural effusion; Pneumothorax.",
    )
    assert "balanced" in said[4]
    assert "Tuberculosis" in said[4]
    assert len(said) == 5


def test_a_class_without_a_place_is_counted_and_named() -> None:
    made = run()
    nodule, effusion, pneumothorax = made.reading.classes
    present = replace(effusion, presence=Presence.PRESENT, score=0.61)
    other = replace(pneumothorax, presence=Presence.PRESENT, score=0.7)
    said = lines(replace(made, reading=replace(made.reading, classes=(nodule, present, other))))
    assert said[1] == "1 finding marked; 2 without a place."
    assert said[2] == "Present: Nodule, left 0.87; Pleural effusion 0.61; Pneumothorax 0.70."
    only = replace(made.reading, findings=(), classes=(replace(nodule, presence=Presence.ABSENT), present, other))
    assert lines(replace(made, reading=only))[1] == "2 findings without a place."


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_six_lines_are_enough_for_everything(language: str) -> None:
    failed = (PassedOver("1.2.9", "it has no pixels"),)
    made = run("overlapping", language, not_looked_for=(TB,), operating_point="screening", passed_over=NOT_READ)
    classes = tuple(replace(each, presence=Presence.PRESENT) for each in made.reading.classes)
    said = lines(replace(made, reading=replace(made.reading, failed=failed, classes=classes)))
    assert 4 < len(said) <= 6
    assert len(lines(made)) <= 6
    assert all(said) and not any("\n" in each for each in said)


def test_what_the_model_says_of_itself_is_pasted_with_its_answer() -> None:
    made = run()
    model = replace(made.reading.model, notice="Research model, not for diagnostic use")
    product = replace(
        made, reading=replace(made.reading, model=model), profile=Profile(content_qualification="PRODUCT")
    )
    assert lines(product)[0] == "AI: phantom_cxr 1.2.0. Research model, not for diagnostic use."


def test_anatomy_that_was_not_outlined_is_not_absent() -> None:
    made = run("none")
    classes = (*made.reading.classes[:1], replace(made.reading.classes[1], finding=False))
    said = lines(replace(made, reading=replace(made.reading, classes=classes)))
    assert "Absent: Nodule." in said
    assert not any("effusion" in each for each in said)


def test_a_failure_is_no_negative_answer() -> None:
    said = lines(run("none", classes=(), failure="the file is damaged"))
    assert said[1].startswith("AI reading failed")
    assert said[2] == "This is not a negative result."
    assert not any("Nodule" in each for each in said)


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_the_report_and_the_page_hold_them(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(language=language)
    document = written(sr.build(made, [IMAGE]))
    (summary,) = (item for item in document.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121111")
    assert summary.TextValue.split("\r\n") == list(lines(made))
    said: list[tuple[str, ...]] = []
    monkeypatch.setattr(pdf, "render", lambda page: said.append(page.notes) or b"%PDF")
    pdf.build(made, [IMAGE], None)
    assert said[0][: len(lines(made))] == lines(made)
