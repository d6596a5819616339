"""What every result object shares: identity that repeats, one time, and a patient copied byte for byte."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ai.contract import (
    ClassResult,
    Code,
    Finding,
    InstanceRef,
    ModelIdentity,
    NotLookedFor,
    PassedOver,
    Presence,
    Reading,
    ReadingError,
    Region,
    Segment,
    Segmentation,
)
from dicom_node import __version__
from dicom_node.config.settings import Profile
from dicom_node.results import ROLES, Run, encode, left_out, run_key, verdict
from dicom_node.results.encode import to_bytes
from dicom_node.results.objects import sc, sr
from dicom_node.results.objects.report_text import report_text
from dicom_node.results.source_text import fit, within
from dicom_node.results.uids import derived_uid, device_uid, series_uid, tracking_uid
from dicom_node.results.words.texts import WORDS
from tests.support.programs import ROOT
from tests.support.samples import DATA, make_image
from tests.support.waiting import scaled

DICOM = DATA / "dicom"
CHARSETS = sorted(p for p in (DICOM / "pydicom/charset_files").glob("chr*.dcm") if "SQEncoding" not in p.name)
SOURCES = {
    "dx": DICOM / "highdicom/test_files/dx_image.dcm",
    "cr-jpegls": DICOM / "nema-wg04/WG04/JLSN/RG1_JLSN",
    "cr-bad-age": DICOM / "torchxrayvision/tests/Fake_MONOHR1.dcm",
    "ct": DICOM / "chest-ct/dicom/1-066.dcm",
    "mr-implicit": DICOM / "pydicom/test_files/MR_small_implicit.dcm",
    "mr-big-endian": DICOM / "pydicom/test_files/MR_small_bigendian.dcm",
    "no-study-id": DICOM / "pydicom/charset_files/chrKoreanMulti.dcm",
}
MODEL = ModelIdentity(
    "phantom_cxr",
    "1.2.0",
    "0123456789abcdef" * 4,
    "dicom-node project",
    "Shows the node at work.",
    "Demonstration model, trained on no patient",
)
CLASSES = (
    ("nodule", "Nodule", Code("27925004", "SCT", "Nodule")),
    ("effusion", "Pleural effusion", Code("60046008", "SCT", "Pleural effusion")),
    ("pneumothorax", "Pneumothorax", Code("36118008", "SCT", "Pneumothorax")),
)
LUNG = Code("39607008", "SCT", "Lung")
LEFT = Code("7771000", "SCT", "Left")
CREATED = datetime(2026, 3, 1, 23, 30, 15, 123456, tzinfo=UTC)

Boxes = dict[str, tuple[float, float, float, float]]
BOXES: dict[str, Boxes] = {  # left, top, right, bottom as shares of the image
    "none": {},
    "one": {"nodule": (0.55, 0.3, 0.72, 0.45)},
    "overlapping": {
        "nodule": (0.2, 0.2, 0.4, 0.45),
        "effusion": (0.3, 0.3, 0.55, 0.6),
        "pneumothorax": (0.35, 0.25, 0.5, 0.5),
    },
    "border": {"nodule": (0, 0, 0.2, 0.15), "effusion": (0.8, 0.85, 1, 1), "pneumothorax": (0, 0.7, 0.3, 1)},
}
NOT_READ = (
    PassedOver("1.2.3", "view LL is not among PA, AP"),
    PassedOver("1.2.4", "it is no image"),
    PassedOver("1.2.5", "view LL is not among PA, AP"),
)
SCORES = {"nodule": 0.8731, "effusion": 0.61, "pneumothorax": 0.5}


@pytest.fixture(autouse=True)
def _strict_pydicom(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A misspelt keyword raises, and so does every warning, whatever else a test has silenced."""
    monkeypatch.setattr(pydicom.config, "INVALID_KEYWORD_BEHAVIOR", "RAISE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # As in pyproject.toml: an earlier test's association may be collected while this one runs.
        warnings.filterwarnings("ignore", r"unclosed <(socket|ssl)", ResourceWarning)
        yield


def header_of(path: Path) -> Dataset:
    if not path.is_file():
        pytest.skip(f"real test data is not at {DATA}; set DICOM_NODE_REAL_DATA to where it is")
    return pydicom.dcmread(path, stop_before_pixels=True)


def plain(dataset: Dataset, keyword: str) -> str:
    """A UID or CS of a header that nobody has decoded yet."""
    element = dataset.get_item(Tag(keyword))
    value = element.value
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value)


def run_of(
    *headers: Dataset,
    boxes: Boxes | None = None,
    rows: int = 100,
    columns: int = 100,
    passed_over: tuple[PassedOver, ...] = (),
    profile: dict[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A run over images of rows x columns; the boxes are shares of the first image."""
    refs = tuple(InstanceRef(plain(h, "SOPInstanceUID"), plain(h, "SOPClassUID"), "unused") for h in headers)
    findings = tuple(
        Finding(
            key, name, code, SCORES[key],
            Region(refs[0].sop_instance_uid, left * columns, top * rows, right * columns, bottom * rows),
            LUNG, LEFT if left > 0.5 else None,
        )
        for key, name, code in CLASSES
        if key in (boxes or {})
        for left, top, right, bottom in [(boxes or {})[key]]
    )  # fmt: skip
    classes = tuple(
        ClassResult(key, name, code, SCORES[key], 0.5, Presence.PRESENT)
        if key in (boxes or {})
        else ClassResult(key, name, code, 0.123, 0.5, Presence.ABSENT)
        for key, name, code in CLASSES
    )
    reading = Reading(MODEL, refs, findings, classes, passed_over, ())
    key = run_key("here", MODEL, [ref.sop_instance_uid for ref in refs], "settings")
    return replace(Run(key, CREATED, "here", reading, Profile(**(profile or {}))), **changes)


PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
CONSOLIDATION = Code("95436008", "SCT", "Consolidation")
TUBERCULOSIS = NotLookedFor("tuberculosis", "Tuberculosis", Code("154283005", "SCT", "Pulmonary tuberculosis"))


def with_scope(run: Run) -> Run:
    """The run at an operating point, with a class that was not looked for and one that stands for two conditions."""
    first, *others = run.reading.classes
    first = replace(first, calibrated=True, sensitivity=0.9, specificity=0.8, specificity_other=0.4)
    first = replace(first, differential=(PNEUMONIA, CONSOLIDATION))
    reading = replace(run.reading, classes=(first, *others), operating_point="balanced", not_looked_for=(TUBERCULOSIS,))
    return replace(run, reading=reading)


def grey(rows: int = 100, columns: int = 100) -> NDArray[np.uint8]:
    return (np.add.outer(np.arange(rows), np.arange(columns)) % 200 + 20).astype(np.uint8)


def written(dataset: Dataset) -> Dataset:
    """A built object as another program would read it."""
    return pydicom.dcmread(BytesIO(to_bytes(dataset)))


class Held:
    """Headers at hand, each with the same picture."""

    def __init__(self, *headers: Dataset, picture: NDArray[np.uint8] | None = None) -> None:
        self._headers = {plain(header, "SOPInstanceUID"): header for header in headers}
        self._picture = grey() if picture is None else picture

    def header(self, ref: InstanceRef) -> Dataset:
        return self._headers[ref.sop_instance_uid]

    def pixels(self, _ref: InstanceRef, _frame: int) -> NDArray[np.uint8]:
        return self._picture


def objects_of(header: Dataset, **changes: Any) -> list[Dataset]:
    """The SR and the SC of one source, built and not yet written."""
    run = run_of(header, boxes=BOXES["one"], **changes)
    return [sr.build(run, [header]), *sc.build(run, [header], Held(header))]


def with_raw(dataset: Dataset, **values: bytes) -> Dataset:
    """Put values into a header as a broken modality would: unchecked bytes."""
    for keyword, value in values.items():
        tag = Tag(keyword)
        dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    return dataset


# --- identity -------------------------------------------------------------------------------------------------------


def test_the_same_question_has_the_same_key_in_any_order() -> None:
    key = run_key("here", MODEL, ["1.2", "1.3"], "s")
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert key == run_key("here", MODEL, ["1.3", "1.2"], "s")


def test_every_part_of_the_question_changes_the_key() -> None:
    keys = {
        run_key(*question)
        for question in (
            ("here", MODEL, ["1.2", "1.3"], "s"),
            ("there", MODEL, ["1.2", "1.3"], "s"),
            ("here", MODEL, ["1.2"], "s"),
            ("here", MODEL, ["1.21.3"], "s"),
            ("here", MODEL, ["1.2", "1.3"], "t"),
            ("here", replace(MODEL, version="1.2.1"), ["1.2", "1.3"], "s"),
            ("here", replace(MODEL, digest="f" * 64), ["1.2", "1.3"], "s"),
            ("here", replace(MODEL, name="phantom", version="cxr1.2.0"), ["1.2", "1.3"], "s"),
            ("here", replace(MODEL, field_digest="a" * 64), ["1.2", "1.3"], "s"),
            ("here", replace(MODEL, field_digest="b" * 64), ["1.2", "1.3"], "s"),
        )
    }
    assert len(keys) == 10
    again = {run_key("here", MODEL, ["1.2", "1.3"], "s", withdrawals=count) for count in range(3)}
    assert len(keys | again) == 12
    assert len(keys & again) == 1, "what was never withdrawn has the key that it always had"


def test_uids_are_derived_and_never_change() -> None:
    """Golden values: another number here means that a retry would send the same result under a second UID."""
    key = "ab" * 32
    uids = [
        derived_uid(key, "sr", 0),
        derived_uid(key, "sc", 0),
        derived_uid(key, "sc", 1),
        series_uid(key, "sr"),
        tracking_uid(key, 0),
        device_uid("here", MODEL),
    ]
    assert uids == [
        "2.25.138816925167510769317659377680686228120",
        "2.25.173177361782094652876963814423148415119",
        "2.25.148819695834546387862223523000259699770",
        "2.25.309107937925061125762671218746415738996",
        "2.25.314467629562367032730110220055673770737",
        "2.25.137579627581419923399479126219176778649",
    ]
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) and len(uid) <= 64 for uid in uids)


def test_other_weights_are_another_device() -> None:
    assert device_uid("here", MODEL) != device_uid("here", replace(MODEL, digest="f" * 64))
    assert device_uid("here", MODEL) != device_uid("there", MODEL)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        run_of(make_image(), created=datetime(2026, 1, 1))


def test_another_image_than_the_reading_says_is_refused() -> None:
    run = run_of(make_image())
    with pytest.raises(ValueError, match="was given for the source"):
        sr.build(run, [make_image()])
    with pytest.raises(ValueError, match="1 images cannot be encoded from 0 headers"):
        sr.build(run, [])


# --- encode ---------------------------------------------------------------------------------------------------------


def test_objects_come_in_the_order_of_sending_and_are_what_they_say() -> None:
    images = [make_image(), make_image()]
    run = run_of(*images, boxes=BOXES["one"], profile={"outputs": ("sc", "sr")})
    objects = encode(run, Held(*images))
    assert [(o.role, o.index) for o in objects] == [("sr", 0), ("sc", 0), ("sc", 1)]
    for o in objects:
        read = pydicom.dcmread(BytesIO(o.content))
        assert (o.sop_class_uid, o.sop_instance_uid, o.series_instance_uid) == (
            read.SOPClassUID, read.SOPInstanceUID, read.SeriesInstanceUID,
        )  # fmt: skip
        syntax = pydicom.uid.JPEGBaseline8Bit if o.role == "sc" else pydicom.uid.ExplicitVRLittleEndian
        assert read.file_meta.TransferSyntaxUID == syntax
        assert read.file_meta.MediaStorageSOPInstanceUID == o.sop_instance_uid
        assert o.sop_instance_uid == derived_uid(run.objects_key, o.role, o.index)
    assert len({o.series_instance_uid for o in objects}) == 2


def test_only_what_is_asked_for_is_encoded() -> None:
    image = make_image()
    assert [o.role for o in encode(run_of(image, profile={"outputs": ("sr",)}), Held(image))] == ["sr"]


_AGAIN = """
import hashlib, json, sys, warnings
warnings.simplefilter("error")
import tests.results.test_common as t
from pathlib import Path
header = t.header_of(Path(sys.argv[1]))
run = t.run_of(header, boxes=t.BOXES["overlapping"], passed_over=t.NOT_READ)
before = "torch" in sys.modules
print(json.dumps([before] + [hashlib.sha256(o.content).hexdigest() for o in t.encode(run, t.Held(header))]))
"""


@pytest.mark.slow
def test_a_second_encoding_anywhere_at_any_time_gives_the_same_bytes(real_data: Path) -> None:
    path = SOURCES["dx"]
    run = run_of(header_of(path), boxes=BOXES["overlapping"], passed_over=NOT_READ)
    here = [hashlib.sha256(o.content).hexdigest() for o in encode(run, Held(header_of(path)))]
    elsewhere = subprocess.run(
        [sys.executable, "-c", _AGAIN, path],
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Seoul"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=scaled(120),
    )
    assert json.loads(elsewhere.stdout)[1:] == here


@pytest.mark.slow
def test_results_are_encoded_without_torch() -> None:
    code = "import sys, dicom_node.results; print('torch' in sys.modules or 'monai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=scaled(120))
    assert done.stdout.strip() == "False"


def test_equal_reasons_are_counted_the_most_frequent_first() -> None:
    reasons = ["b", "a", "c", "a"]
    run = run_of(make_image(), passed_over=tuple(PassedOver(str(i), r) for i, r in enumerate(reasons)))
    assert verdict.not_read(run) == [("a", 2), ("b", 1), ("c", 1)]
    assert verdict.not_read(run_of(make_image())) == []


# --- patient and study ----------------------------------------------------------------------------------------------

COPIED = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "ReferringPhysicianName",
)
TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


def element_in(content: bytes, keyword: str) -> bytes | None:
    """The value of a top-level text element in explicit VR little endian bytes, found without any DICOM library."""
    tag = Tag(keyword)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little") + dictionary_VR(tag).encode()
    at = content.find(head)
    if at < 0:
        return None
    length = int.from_bytes(content[at + 6 : at + 8], "little")
    return content[at + 8 : at + 8 + length]


@pytest.mark.parametrize("path", CHARSETS, ids=lambda p: p.stem)
def test_names_survive_byte_for_byte_in_every_character_set(path: Path) -> None:
    source = path.read_bytes()
    for built in objects_of(header_of(path)):
        content = to_bytes(built)
        for keyword in COPIED:
            expected = element_in(source, keyword)
            assert element_in(content, keyword) == (b"" if expected is None and keyword == "StudyID" else expected)
        assert str(pydicom.dcmread(BytesIO(content)).PatientName) == str(pydicom.dcmread(path).PatientName)


def characters(dataset: Dataset) -> dict[str, str]:
    return {keyword: str(dataset.get(keyword, "")) for keyword in COPIED if keyword != "SpecificCharacterSet"}


@pytest.mark.parametrize("path", CHARSETS, ids=lambda p: p.stem)
def test_names_survive_character_for_character_where_unicode_is_wanted(path: Path) -> None:
    wanted = {"character_set": "utf-8", "outputs": ("sr",)}
    (made,) = encode(run_of(header_of(path), profile=wanted), Held(header_of(path)))
    result = pydicom.dcmread(BytesIO(made.content))
    assert result.SpecificCharacterSet == "ISO_IR 192"
    assert characters(result) == characters(pydicom.dcmread(path))


@pytest.mark.parametrize("path", CHARSETS, ids=lambda p: p.stem)
@pytest.mark.parametrize("language", ["ko", "ja"])
def test_another_language_is_written_whatever_the_sources_character_set(path: Path, language: str) -> None:
    run = run_of(header_of(path), profile={"language": language, "outputs": ("sr",)})
    (made,) = encode(run, Held(header_of(path)))
    result = pydicom.dcmread(BytesIO(made.content))
    kept = pydicom.dcmread(path).get("SpecificCharacterSet")
    assert result.SpecificCharacterSet == (kept if kept == "GB18030" else "ISO_IR 192")
    assert characters(result) == characters(pydicom.dcmread(path))
    assert run.words.not_for_diagnosis in report_text(result)


def test_twenty_characters_tell_every_series_of_every_model_apart() -> None:
    image, seen = make_image(), {}
    names = (
        "phantom_cxr",
        "chest_xray",
        "lung_nodule_ct_detection",
        "lung_nodule_ct_segmentation",
        "chest_xray_2026_a",
    )
    for place, name in enumerate(names):
        run = run_of(image, boxes=BOXES["one"], profile={"outputs": tuple(ROLES)})
        run = replace(run, place=place, reading=replace(run.reading, model=replace(MODEL, name=name)))
        for made in encode(run, Held(image)):
            result = written(pydicom.dcmread(BytesIO(made.content)))
            said = result.SeriesDescription
            assert said.startswith("AI ") and "not for diagnostic use" in said
            seen.setdefault(said[:20], set()).add((int(result.SeriesNumber), made.series_instance_uid))
    assert len(seen) == len(names) * (len(ROLES) - 1)  # all but seg: nothing is outlined
    assert all(len(each) == 1 for each in seen.values())
    assert len({number for each in seen.values() for number, _ in each}) == len(seen)
    assert "AI chest_xray pictur" in seen


def test_another_range_of_series_numbers_has_other_uids() -> None:
    run = run_of(make_image())
    assert len({replace(run, place=place).objects_key for place in range(3)}) == 3


def test_ohif_gets_nothing_that_it_does_not_draw() -> None:
    image = make_image()
    made = encode(run_of(image, boxes=BOXES["one"], profile={"viewer": "ohif"}), Held(image))
    assert {each.role for each in made} == {"sr", "sc"}


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (b"ISO_IR 192", b"\xb1\xe8^\xc8\xf1"),  # declared UTF-8 that is EUC-KR
        (b"", b"Buc^J\xe9r\xf4me"),  # Latin-1 that is not declared
        (b"\\ISO 2022 IR 87", b"Yamada=\x1b$)C\xfb\xf3"),  # an escape to a set that is not declared
        (b"ISO_IR 999", b"\xb1\xe8"),
        (b"ISO 2022 IR 6\\ISO 2022 IR 149", b"Hong=\x1b$)C\xfb\xf3^\xd1\xce=\xc8\xab"),  # no escape after "="
    ],
)
@pytest.mark.parametrize("wanted", [{"language": "ko"}, {"character_set": "utf-8"}])
def test_a_name_that_is_not_what_it_was_declared_to_be_stays_as_it_is(
    charset: bytes, name: bytes, wanted: dict[str, Any]
) -> None:
    image = with_raw(make_image(), SpecificCharacterSet=charset, PatientName=name)
    run = run_of(image, profile={**wanted, "outputs": ("sr",)})
    (made,) = encode(run, Held(image))
    assert element_in(made.content, "PatientName") == name + b" " * (len(name) % 2)
    assert (element_in(made.content, "SpecificCharacterSet") or b"").strip() == charset
    speaks = "ko" if charset == b"ISO_IR 192" and "language" in wanted else "en"  # our own texts are what is declared
    assert WORDS[speaks].not_for_diagnosis.encode() in made.content
    assert made.sop_instance_uid == derived_uid(run.objects_key, "sr", 0)


def test_there_are_character_sets_to_test(real_data: Path) -> None:
    assert {"chrKoreanMulti", "chrH32", "chrX1", "chrX2"} <= {path.stem for path in CHARSETS}


@pytest.mark.parametrize("name", SOURCES)
def test_patient_and_study_are_the_sources_whatever_its_transfer_syntax(name: str) -> None:
    untouched, expected = header_of(SOURCES[name]), header_of(SOURCES[name])
    for built in objects_of(untouched):
        result = written(built)
        for keyword in COPIED:
            assert result.get(keyword) == expected.get(keyword, result.get(keyword)), keyword
        assert result.StudyInstanceUID == expected.StudyInstanceUID
        assert result.SeriesInstanceUID != expected.SeriesInstanceUID


def test_a_header_somebody_looked_at_is_copied_all_the_same() -> None:
    path = CHARSETS[0] if CHARSETS else DICOM / "missing"
    looked_at = header_of(path)
    for _ in looked_at.iterall():
        pass
    assert to_bytes(objects_of(looked_at)[0]) == to_bytes(objects_of(header_of(path))[0])


def test_type_2_attributes_that_the_source_lacks_stand_empty() -> None:
    image = make_image()
    for keyword in (*TYPE_2, "StudyDescription", "SpecificCharacterSet"):
        del image[keyword]
    for built in objects_of(image):
        result = written(built)
        for keyword in TYPE_2:
            assert result[keyword].value in ("", None), keyword
        assert "StudyDescription" not in result


BROKEN = {
    "SOPInstanceUID": b"1.2.03.004",
    "SOPClassUID": b"1.2.840.99999.1 ",
    "StudyInstanceUID": b"1..2.x",
    "SeriesInstanceUID": b"abc ",
    "StudyDate": b"01/02/2020",
    "StudyTime": b"noon",
    "PatientBirthDate": b"19401399",
    "PatientSex": b"f?",
    "PatientID": b"SECRET" * 40,
    "PatientName": b"SECRET^\xff\xfe\x80=\xc3(=^^^^^^^^",
    "AccessionNumber": b"SECRET and longer than sixteen",
    "StudyID": b"12345678901234567890",
    "StudyDescription": b"d" * 200,
    "ReferringPhysicianName": b"SECRET" * 20,
    "IssuerOfPatientID": b"SECRET\\SECRET ",
}


@pytest.mark.parametrize(
    "charset", [b"", b"ISO_IR 192", b"UTF-9000", b"ISO 2022 IR 149\\GB18030 ", b"\\\\ISO 2022 IR 87 "]
)
def test_a_source_that_breaks_the_standard_is_copied_and_says_nothing(
    charset: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    image = with_raw(make_image(), **BROKEN, SpecificCharacterSet=charset, TimezoneOffsetFromUTC=b"banana")
    with_raw(image, PatientAge=b"old ", BodyPartExamined=b"chest!", PatientOrientation=b"left", Rows=b"\1\2\3\4")
    with caplog.at_level(logging.DEBUG):
        for built in objects_of(image):
            content = to_bytes(built)
            for keyword, value in BROKEN.items():
                if keyword not in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID"):
                    assert element_in(content, keyword) == value
            # The references name the source as it is named, or no viewer would find it.
            assert content.count(b"1.2.03.004") >= 1
            assert b"1.2.840.99999.1" in content
            # What is optional, and what our own times would be read by, is left out where it is broken.
            for keyword in ("TimezoneOffsetFromUTC", "PatientAge", "BodyPartExamined"):
                assert element_in(content, keyword) is None
    out, err = capfd.readouterr()
    assert "SECRET" not in caplog.text + out + err


UNTRUSTED = ("IssuerOfAccessionNumberSequence", "PixelSpacing", "Laterality", "Modality", "TimezoneOffsetFromUTC")


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    st.dictionaries(
        st.sampled_from([*COPIED, "IssuerOfAccessionNumberSequence", "PixelSpacing"]), st.binary(max_size=90)
    )
)
def test_whatever_bytes_a_source_holds_they_arrive(values: dict[str, bytes]) -> None:
    values = {keyword: value + b" " * (len(value) % 2) for keyword, value in values.items()}
    if not values.get("StudyInstanceUID", b"1.2").decode("latin-1").strip(" \0"):
        del values["StudyInstanceUID"]
    for built in objects_of(with_raw(make_image(), **values)):
        content = to_bytes(built)
        for keyword in values.keys() & set(COPIED) - {"StudyInstanceUID"}:
            assert element_in(content, keyword) == values[keyword]


def test_a_source_without_a_study_still_gets_objects_that_can_be_stored() -> None:
    image = make_image()
    del image.StudyInstanceUID, image.SeriesInstanceUID
    first, second = objects_of(image)
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.StudyInstanceUID.startswith("2.25.")


def test_a_name_too_long_for_explicit_vr_is_left_out() -> None:
    image = with_raw(make_image(), PatientName=b"A" * 70_000)
    assert all(written(built).PatientName == "" for built in objects_of(image))


@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": b"TEST-2"},
        {"PatientID": b""},
        {"IssuerOfPatientID": b"ELSEWHERE "},
        {"PatientID": b"SECRET\xff ", "IssuerOfPatientID": b"SECRET"},
    ],
)
@pytest.mark.parametrize("outputs", [["sr"], ["sc"], ["sr", "sc"]])
def test_images_of_two_patients_are_refused(other: dict[str, bytes], outputs: list[str]) -> None:
    images = [make_image(), make_image(), with_raw(make_image(), **other)]
    with pytest.raises(ReadingError, match="the study holds images of more than one patient") as caught:
        encode(run_of(*images, profile={"outputs": tuple(outputs)}), Held(*images))
    assert re.search("TEST|SECRET|ELSEWHERE", str(caught.value)) is None
    with pytest.raises(ReadingError, match="more than one patient"):
        sr.build(run_of(*images), images)


def test_padding_makes_no_other_patient() -> None:
    images = [make_image(), with_raw(make_image(), PatientID=b" TEST-1\0", IssuerOfPatientID=b"  ")]
    assert len(encode(run_of(*images, profile={"outputs": ("sr", "sc")}), Held(*images))) == 3


def test_issuer_sequences_are_copied() -> None:
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "HOSPITAL"
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    image = make_image(IssuerOfAccessionNumberSequence=[issuer], AccessionNumber="A1")
    buffer = BytesIO()
    image.save_as(buffer)
    for header in (image, pydicom.dcmread(BytesIO(buffer.getvalue()), stop_before_pixels=True)):
        for built in objects_of(header):
            copied = written(built).IssuerOfAccessionNumberSequence
            assert [item.LocalNamespaceEntityID for item in copied] == ["HOSPITAL"]
            assert copied[0].UniversalEntityIDType == "ISO"


# --- time, equipment, text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "date", "time"),
    [
        ("+0900", "20260302", "083015.123456"),
        ("-0430", "20260301", "190015.123456"),
        (None, "20260301", "233015.123456"),
    ],
)
def test_times_are_the_runs_in_the_sources_zone(offset: str | None, date: str, time: str) -> None:
    image = make_image(**({"TimezoneOffsetFromUTC": offset} if offset else {}))
    for built in objects_of(image):
        result = written(built)
        assert result.get("TimezoneOffsetFromUTC") == offset
        for kind in ("InstanceCreation", "Series", "Content"):
            assert (result[f"{kind}Date"].value, result[f"{kind}Time"].value) == (date, time)


def test_a_run_made_in_a_zone_is_written_in_it() -> None:
    seoul = CREATED.astimezone(timezone(timedelta(hours=9)))
    assert written(objects_of(make_image(), created=seoul)[0]).ContentDate == "20260302"


def test_equipment_names_the_model_the_node_and_the_weights() -> None:
    for built, number in zip(objects_of(make_image()), (9001, 9002), strict=True):
        result = written(built)
        assert (result.Manufacturer, result.ManufacturerModelName) == ("dicom-node project", "phantom_cxr 1.2.0")
        assert (result.SoftwareVersions, result.DeviceSerialNumber) == (__version__, MODEL.digest)
        assert result.SeriesNumber == number
        assert result.SeriesDescription.startswith("AI ")
        assert result.ContentQualification == "RESEARCH"
        equipment, node = result.ContributingEquipmentSequence
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert equipment.DeviceUID == device_uid("here", MODEL)
        assert equipment.SoftwareVersions == __version__
        assert equipment.ContributionDateTime == "20260301233015.123456"
        assert (node.ManufacturerModelName, node.SoftwareVersions) == ("dicom-node", __version__)
        assert node.ContributionDescription.endswith(f"settings SHA-256 {Profile().digest}")


@pytest.mark.parametrize(
    ("charset", "text", "expected"),
    [
        ("ISO_IR 100", "Épanchement – gauche", "Epanchement - gauche"),
        ("ISO_IR 100", "Épanchement", "Épanchement"),
        ("ISO_IR 192", "흉수", "흉수"),
        ("ISO_IR 100", "흉수 pleural", "?? pleural"),
        (["", "ISO 2022 IR 149"], "Épanchement", "Epanchement"),
        ("", "Épanchement", "Epanchement"),
        ("ISO_IR 192", "a\\b\nc", "a/b c"),
    ],
)
def test_our_text_fits_the_sources_character_set(charset: str | list[str], text: str, expected: str) -> None:
    image = make_image(SpecificCharacterSet=charset)
    shown = fit(text, image)
    assert shown == expected
    model = replace(MODEL, notice=text)
    run = run_of(image)
    document = written(sr.build(replace(run, reading=replace(run.reading, model=model)), [image]))
    assert fit(text, image) in [item.get("TextValue") for item in document.ContentSequence]


# --- what could not be made -----------------------------------------------------------------------------------------


def test_a_segmentation_without_an_object_is_told_with_the_reason() -> None:
    image = make_image()  # no Frame of Reference UID
    run = run_of(image)
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 5:9, 5:9] = True
    lungs = Segment("lung", "Lung", LUNG, Code("91723000", "SCT", "Anatomical Structure"), mask)
    outlined = replace(run.reading, segmentations=(Segmentation("binary", ((run.reading.sources[0], 1),), (lungs,)),))
    run = replace(run, reading=outlined)
    objects = encode(run, Held(image))
    assert "seg" not in {each.role for each in objects}
    (reason,) = left_out(run, [each.role for each in objects], Held(image))
    assert "FrameOfReferenceUID" in reason or "Frame of Reference" in reason
    wanted = replace(run, profile=replace(run.profile, outputs=("sr",)))
    assert left_out(wanted, [each.role for each in encode(wanted, Held(image))], Held(image)) == ()
    assert left_out(run_of(image), (), Held(image)) == ()


# --- what other programs choke on -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("abc", 64, "abc"),
        ("a" * 65, 64, "a" * 64),
        ("결절" * 20, 64, "결절" * 8),
        ("é" * 10, 5, "éé"),
        ("", 3, ""),
    ],
)
def test_texts_are_cut_by_bytes_and_never_inside_a_character(text: str, limit: int, kept: str) -> None:
    assert within(text, limit) == kept
    assert max(len(within(text, limit).encode(encoding)) for encoding in ("utf-8", "gb18030")) <= limit


def test_long_names_in_korean_fit_their_attributes_in_bytes() -> None:
    image = make_image()
    model = replace(MODEL, name="결" * 64, manufacturer="절" * 64)
    run = run_of(image, boxes=BOXES["one"], profile={"outputs": tuple(ROLES)})
    run = replace(run, reading=replace(run.reading, model=model))
    for made in encode(run, Held(image)):
        result = pydicom.dcmread(BytesIO(made.content))
        for keyword in ("Manufacturer", "ManufacturerModelName", "SeriesDescription", "ContentDescription"):
            assert len(str(result.get(keyword, "")).encode("utf-8")) <= 64, (made.role, keyword)


def test_optional_attributes_with_too_many_values_are_left_out() -> None:
    image = with_raw(make_image(), BodyPartExamined=b"CHEST\\HAND ", PatientOrientation=b"L\\F\\H ")
    for built in objects_of(image):
        result = written(built)
        assert not result.get("BodyPartExamined")
        assert not result.get("PatientOrientation")
    good = with_raw(make_image(), PatientOrientation=b"L\\F ")
    assert list(written(objects_of(good)[1]).PatientOrientation) == ["L", "F"]


def test_a_damaged_item_of_a_sequence_is_left_out() -> None:
    image = make_image()
    image.IssuerOfAccessionNumberSequence = [Dataset()]
    for built in objects_of(image):
        assert not written(built).get("IssuerOfAccessionNumberSequence")


def test_a_finding_is_known_by_one_name_and_uid_in_every_object() -> None:
    image = make_image()
    wanted = {"language": "ko", "outputs": ("sr", "gsps")}
    report, marks = (
        pydicom.dcmread(BytesIO(made.content))
        for made in encode(run_of(image, boxes=BOXES["overlapping"], profile=wanted), Held(image))
    )
    drawn = marks.GraphicAnnotationSequence[0].GraphicObjectSequence
    text = report_text(report)
    for graphic in drawn:
        assert f"Tracking Identifier: {graphic.TrackingID}" in text
        assert f"Tracking Unique Identifier: {graphic.TrackingUID}" in text
    assert len(drawn) == 3
