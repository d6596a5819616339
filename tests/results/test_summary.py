"""What a summary of several models says, and in which order: without a node."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai.contract import ClassResult, Code, InstanceRef, ModelIdentity, NotLookedFor, Presence, Reading
from dicom_node.config.settings import Profile
from dicom_node.config.values import Language
from dicom_node.results import Run, summary_key, summary_of, summary_reading
from dicom_node.results.pictures import legend, scene
from dicom_node.results.summary.agreement import Kind, topics
from tests.support.samples import make_image

P, A, U = Presence.PRESENT, Presence.ABSENT, Presence.UNDETERMINED
SOURCE = InstanceRef("1.2.3.1", "1.2.840.10008.5.1.4.1.1.1.1", "")


def said(name: str, failure: str = "", others: str = "", **classes: Presence) -> Reading:
    """What a model says of classes; ``others`` are the keys of those that it did not look for."""
    results = tuple(
        ClassResult(key, key, Code(key, "L", key), {P: 0.9, A: 0.1, U: 0.4}[presence], 0.5, presence)
        for key, presence in classes.items()
    )
    left = tuple(NotLookedFor(key, key, Code(key, "L", key)) for key in others)
    identity = ModelIdentity(name, "1", "00", "Test", "", "")
    return Reading(identity, (), (), results, (), (), failure=failure, not_looked_for=left)


def test_what_is_worst_stands_first() -> None:
    answers = [
        said("one", a=A, b=P, c=P, d=A, e=U, f=A, g=P),
        said("two", others="c", a=A, b=A, d=P, e=A, g=P),
        said("three", a=A, d=P, g=P),
    ]
    found = topics(answers)
    assert [(each.name, each.kind) for each in found] == [
        ("g", Kind.PRESENT),
        ("d", Kind.CONTRADICTION),  # two models against one
        ("b", Kind.CONTRADICTION),
        ("c", Kind.UNCONFIRMED),
        ("e", Kind.OPEN),
        ("a", Kind.ABSENT),
        ("f", Kind.ABSENT_ALONE),
    ]


def test_a_failure_agrees_with_nobody() -> None:
    (a, b) = topics([said("one", a=A, b=P), said("two", failure="it broke")])
    assert (a.name, a.kind) == ("b", Kind.UNCONFIRMED)
    assert (b.name, b.kind) == ("a", Kind.ABSENT_ALONE)


def test_what_no_model_assesses_is_no_class_of_the_summary_and_agrees_with_nothing() -> None:
    one = said("one", a=U)
    silent = dataclasses.replace(one.classes[0], not_assessed="Too few images.")
    one = dataclasses.replace(one, classes=(silent,))
    assert topics([one, said("two", others="a")]) == []
    (topic,) = topics([one, said("two", a=A)])
    assert topic.kind is Kind.ABSENT_ALONE


def test_anatomy_is_not_compared() -> None:
    one = said("one", a=P)
    lung = dataclasses.replace(one.classes[0], finding=False)
    assert topics([dataclasses.replace(one, classes=(lung,)), said("two")]) == []


class Header:
    """One radiograph."""

    def header(self, _ref: InstanceRef) -> Dataset:
        return make_image(
            SOPInstanceUID=SOURCE.sop_instance_uid,
            SOPClassUID=SOURCE.sop_class_uid,
            StudyInstanceUID="1.2.3",
            SeriesInstanceUID="1.2.3.0",
            Modality="DX",
        )

    def pixels(self, _ref: InstanceRef, _frame: int) -> NDArray[np.uint8]:
        raise AssertionError("a summary needs no pixels")


def made(answers: list[Reading], **profile: Any) -> dict[str, bytes]:
    reading = summary_reading("site", [SOURCE], answers)
    run = Run("k", datetime(2026, 1, 1, tzinfo=UTC), "site", reading, Profile(**profile))
    return {each.role: each.content for each in summary_of(run, answers, [], Header())}


@pytest.mark.parametrize(
    ("language", "word"), [("en", "Contradiction: a"), ("ko", "불일치: a"), ("ja", "不一致: a")]
)  # fmt: skip
def test_it_is_said_in_the_language_of_the_destination(language: Language, word: str) -> None:
    answers = [said("one", a=P), said("two", a=A)]
    objects = made(answers, language=language)
    assert list(objects) == ["sr", "sc"]
    assert word.encode() in objects["sr"]
    assert objects == made(answers, language=language), "the same bytes under the same UIDs"


def test_a_destination_that_wants_no_pictures_gets_none() -> None:
    assert list(made([said("one", a=P), said("two", a=A)], outputs=("sr",))) == ["sr"]


@pytest.mark.parametrize(("viewer", "title"), [("ohif", "AI_REPORT"), ("any", "126000")])
def test_ohif_shows_the_text_of_a_summary_which_has_no_boxes(viewer: str, title: str) -> None:
    content = made([said("one", a=P), said("two", a=A)], viewer=viewer)["sr"]
    assert dcmread(BytesIO(content)).ConceptNameCodeSequence[0].CodeValue == title


def large(monkeypatch: pytest.MonkeyPatch, *answers: Reading) -> list[tuple[str, bool]]:
    """What stands in large type on the card, and whether it is emphasized."""
    legends: list[legend.Legend] = []

    def spy(one: legend.Legend, size: int, columns: int) -> legend.Layout:
        legends.append(one)
        return legend.lay_out(one, size, columns)

    with monkeypatch.context() as patch:
        patch.setattr(scene, "lay_out", spy)
        made(list(answers))
    return [(each.text, each.emphasized) for each in legends[0].sentences]


def test_the_card_says_in_large_type_what_is_absent_only_where_nothing_is_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert large(monkeypatch, said("one", a=P, b=A), said("two", a=A, b=A)) == [("Contradiction: a", True)]
    assert large(monkeypatch, said("one", a=A, b=A), said("two", a=A)) == [
        ("Agreement, absent: a", False),
        ("Absent according to one model alone: b", False),
    ]


def test_a_failed_model_keeps_the_card_from_looking_negative_and_no_uid_stands_in_large_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    why = "PixelData is truncated: it holds 10 bytes, 20 were expected"
    answers = [said("one", a=A), said("two", failure=f"instance 1.2.3.1: {why}")]
    assert large(monkeypatch, *answers) == [
        (f"two 1: AI reading failed: {why}", True),
        ("Absent according to one model alone: a", False),
        ("This is not a negative result", True),
    ]
    assert b"instance 1.2.3.1: PixelData" in made(answers)["sr"]


def test_many_models_with_long_names_fit_on_the_card() -> None:
    answers = [said(f"a_model_with_a_long_name_{number}", a=P, b=A) for number in range(6)]
    assert made(answers)["sc"]


def test_the_same_readings_have_the_same_summary_in_whatever_order_and_a_withdrawn_one_never_again() -> None:
    runs = [["k1", "one", "1.1"], ["k2", "two", "1.2"]]
    key = summary_key("site", runs, ["1", "2"])
    assert key == summary_key("site", runs[::-1], ["2", "1"])
    others = [
        summary_key("site", runs, ["1", "2"], withdrawals=1),
        summary_key("other", runs, ["1", "2"]),
        summary_key("site", [runs[0], ["k2", "two", "1.3"]], ["1", "2"]),
    ]
    assert len({key, *others}) == 4
