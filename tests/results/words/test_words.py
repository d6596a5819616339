"""Every text that people read exists in every language, and says what the English one says with the same parts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest

from ai.anatomy.screening import MARKED, REFUSED
from ai.anatomy.side import BILATERAL
from ai.bundle.files import describe, shipped
from ai.bundle.manifest import OperatingPointName
from ai.contract import Code, Presence
from ai.selection import images, rules, volumes
from ai.volumes import slices, stacks
from dicom_node.config.values import Language
from dicom_node.results.words.language import Words
from dicom_node.results.words.texts import WORDS
from tests.support.programs import ROOT

DROPPED = "Not shown, since outside the lungs or the body: 12 places"
LANGUAGES: tuple[Language, ...] = ("ko", "ja")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_with_the_same_places(language: Language) -> None:
    english, other = WORDS["en"], WORDS[language]
    assert set(WORDS) == {"en", *LANGUAGES}
    for field in dataclasses.fields(Words):
        one, two = getattr(english, field.name), getattr(other, field.name)
        if field.name in ("_names", "_axes"):
            continue
        assert one != two, field.name
        for a, b in zip(texts(one), texts(two), strict=True):
            assert len(re.findall(r"\{\d?\}", a)) == len(re.findall(r"\{\d?\}", b)), field.name
    assert set(other.presence) == set(Presence)


def texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [str(v) for v in value.values()]
    return list(value) if isinstance(value, tuple) else [str(value)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_for_passing_over_is_translated(language: Language) -> None:
    """The reasons are taken from the code that gives them, so that a new one is not forgotten here."""
    modules = (rules, images, slices, stacks, volumes)
    source = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in modules)
    measures = ("number of slices", "slice thickness", "distance between slices", "pixel size")
    ranges = ("1 to 2 mm", "1.5 mm or more", "2 mm or less")
    given = [
        "it is no image",
        "it has no pixels",
        "it has 5 frames, the model reads single images",
        "it is no grey image",
        "it is a localizer",
        "it is a derived secondary capture",
        "it is derived and has annotations burned in",
        "it is for processing, not for presentation",
        "the patient is under 18, the model reads adults",
        "it is a view from the side",
        "the same instance is in the study twice",
        "the model reads at most 1 image of a study",
        "the model reads at most 8 images of a study",
        *(f"{what} X is not among A, B" for what in ("modality", "body part", "view")),
        *(f"no {what} is given, and the model takes A, B" for what in ("modality", "body part", "view", "kernel")),
        *(f"{what} X is not among A, B" for what in ("orientation", "kernel")),
        *(f"{what} 5 mm is not among {taken}" for what in measures for taken in ranges),
        *(f"no {what} is given, and the model takes {taken}" for what in measures for taken in ranges),
        "number of slices 3 is not among 20 or more",
        "the series description is none that the model takes",
        "the series description is one that the model does not take",
        "it is a projection through the body, no slice",
        "it shows the same as another image of the series",
        "its header cannot be read",
        "an image of its series cannot be read",
        "a contrast agent was given",
        "no contrast agent was given",
        "its images hold another stack as large or larger",
        "different images lie at the same place (3 of 20 places)",
        "1 slice is missing: after slice 4 of 11 (from the feet) the next lies 5 mm on, not 2.5 mm",
        "2 slices are missing: after slice 4 of 11 (from the left) the next lies 7.5 mm on, not 2.5 mm",
        "the distance between its slices varies from 2.5 to 6 mm",
        "its slices are shifted against one another",
        "it has 12 frames and does not say where each of them lies",
        "the size of its matrix (Rows, Columns) is missing",
        "its ImageOrientationPatient is not two unit vectors at a right angle",
        "its PixelSpacing is missing",
        "its PixelSpacing is not 2 numbers",
        "its ImagePositionPatient is beyond every patient",
        "its PixelSpacing is not positive",
        *(
            f"another {what} {why}"
            for what in ("series of the study", "stack of the series")
            for why in (
                "suits as well and comes first",
                *(f"suits better: {each}" for each in volumes.BETTER.values()),
            )
        ),
    ]
    for literal in re.findall(r'[^"]f?"((?:its?|the|an?|no|different) (?!file )[^"]+)"(?!")', source):
        pattern = re.sub(r"\\\{.*?\\\}", ".+", re.escape(literal))
        assert any(re.fullmatch(pattern, reason.replace("images", "image")) or re.fullmatch(pattern, reason)
                   for reason in given), literal  # fmt: skip
    for reason in given:
        translated = WORDS[language].reason(reason)
        assert translated != reason
        assert not re.search(r"[{}]", translated)
        assert ("A, B" in reason) == ("A, B" in translated)
        assert set(re.findall(r"\d+", reason)) <= set(re.findall(r"\d+", translated))
        assert WORDS["en"].reason(reason) == reason


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_model_cautions_against_is_translated(language: Language) -> None:
    for caution in (REFUSED, MARKED, "Not shown, since outside the lungs or the body: 1 place", DROPPED):
        translated = WORDS[language].reason(caution)
        assert translated != caution
        assert ("12" in caution) == ("12" in translated)
    assert WORDS[language].name(BILATERAL, BILATERAL.meaning) != BILATERAL.meaning


@pytest.mark.parametrize("bundle", ["phantom_cxr", "chest_xray"])
def test_the_classes_of_the_shipped_models_have_a_name_in_every_language(bundle: str) -> None:
    spec = (ROOT / "ai" / "bundles" / bundle / "configs" / "reading.json").read_text(encoding="utf-8")
    codes = re.findall(r'"value": "(\w+)",\s*"scheme": "(\w+)",\s*"meaning": "([^"]+)"', spec)
    assert len(codes) >= 8
    for language in LANGUAGES:
        for value, scheme, meaning in codes:
            assert WORDS[language].name(Code(value, scheme, meaning), meaning) != meaning, meaning


def test_what_has_no_translation_stays_english() -> None:
    for language in LANGUAGES:
        assert WORDS[language].name(Code("1", "99X", "Thing"), "Thing") == "Thing"
        assert WORDS[language].reason("a reason of a model's own") == "a reason of a model's own"
        assert WORDS[language].notice("Another notice") == "Another notice"


def test_what_the_shipped_models_say_of_themselves_is_in_every_language() -> None:
    for path in shipped().values():
        spec = describe(path).spec
        for language in LANGUAGES:
            assert WORDS[language].use(spec.intended_use) != spec.intended_use, path
            assert not spec.notice or WORDS[language].notice(spec.notice) != spec.notice, path
            names = [output.code.code() for output in spec.outputs]
            names += [code.code() for output in spec.outputs for code in output.differential]
            for code in names:
                assert WORDS[language].name(code, code.meaning) != code.meaning, (path, code)


def test_a_list_of_conditions_ends_with_or_in_every_language() -> None:
    conditions = ["Pneumonia", "Consolidation", "Infiltrate"]
    assert WORDS["en"].differential("Opacity", conditions) == "Opacity: may be pneumonia, consolidation or infiltrate"
    assert WORDS["en"].differential("Opacity", conditions[:1]) == "Opacity: may be pneumonia"
    assert WORDS["ko"].differential("음영", ["폐렴", "경화", "침윤"]) == "음영: 폐렴, 경화 또는 침윤일 가능성 있음"
    assert WORDS["ja"].differential("陰影", ["肺炎", "浸潤影"]) == "陰影：肺炎または浸潤影の可能性"


def test_every_operating_point_that_a_model_may_offer_has_a_name() -> None:
    for words in WORDS.values():
        assert set(words.operating_points) == set(get_args(OperatingPointName))
