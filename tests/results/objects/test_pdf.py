"""The page says on one sheet what the report says, in words that can be searched, and whose it is."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

import tests.results.test_common as common_tests
from ai.contract import Axes, Code, PassedOver, Presence
from dicom_node.results import Run, encode
from dicom_node.results.encode import to_bytes
from dicom_node.results.objects import pdf
from dicom_node.results.pictures.palette import Palette
from dicom_node.results.run import Predecessor
from dicom_node.results.source_text import certain_text
from tests.results.test_common import (
    BOXES,
    CHARSETS,
    CREATED,
    MODEL,
    NOT_READ,
    SOURCES,
    header_of,
    run_of,
    with_raw,
    written,
)
from tests.support.programs import ROOT, run_tool
from tests.support.samples import make_image
from tests.support.waiting import scaled


def picture(rows: int = 300, columns: int = 200) -> NDArray[np.uint8]:
    ramp = np.linspace(0, 255, rows * columns).reshape(rows, columns).astype(np.uint8)
    return np.stack([ramp, ramp, 255 - ramp], axis=2)


class Sheet:
    """A page as other programs read it."""

    def __init__(self, folder: Path, document: Dataset) -> None:
        self.document = document
        self.path = folder / "page.pdf"
        self.path.write_bytes(self.document.EncapsulatedDocument[: self.document.EncapsulatedDocumentLength])
        self.text = run_tool("pdftotext", "-layout", self.path, "-").stdout
        self.info = dict(re.findall(r"^(\w[\w ]*):\s+(.*)$", run_tool("pdfinfo", self.path).stdout, re.MULTILINE))

    def words(self) -> list[tuple[float, float, float, float, str]]:
        found = re.findall(
            r'<word xMin="([\d.-]+)" yMin="([\d.-]+)" xMax="([\d.-]+)" yMax="([\d.-]+)">(.*?)</word>',
            run_tool("pdftotext", "-bbox", self.path, "-").stdout,
        )
        return [(float(x0), float(y0), float(x1), float(y1), word) for x0, y0, x1, y1, word in found]


def outlined(run: Run) -> Run:
    """The run with findings whose outlines reach from side to side of their boxes."""
    findings = tuple(
        replace(
            each, axes=Axes(((box.left, box.top), (box.left, box.bottom)), ((box.left, box.top), (box.right, box.top)))
        )
        for each in run.reading.findings
        for box in [each.region]
    )
    return replace(run, reading=replace(run.reading, findings=findings))


def sheet(folder: Path, run: Run, header: Dataset, image: NDArray[np.uint8] | None = None) -> Sheet:
    (document,) = pdf.build(run, [header], image)
    return Sheet(folder, document)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# --- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.programs
@pytest.mark.parametrize(
    ("language", "texts"),
    [
        (
            "en",
            "AI - not for diagnostic use|Demonstration model, trained on no patient|AI report: phantom_cxr 1.2.0"
            "|Patient: NOBODY TEST, ID TEST-1|Study: 2026-01-01, Chest|2 findings marked"
            "|1 Nodule 0.87 1.3 x 0.6 mm|2 Pleural effusion Left 0.61 3.8 x 1.9 mm"
            "|Pneumothorax absent 0.12 0.50"
            "|Not read: 3 images, other objects or series: view LL is not among PA, AP (2); it is no image (1)"
            "|Read by phantom_cxr version 1.2.0, dicom-node project (SHA-256 0123456789abcdef)"
            "|Read 2026-03-02 08:30 UTC+0900|Intended use: Shows the node at work."
            "|Replaces the report of 2026-03-01 08:30 UTC+0900"
            "|Sizes were measured at the detector",
        ),
        (
            "ko",
            "AI - 진단 목적으로 사용할 수 없음|시연용 모델, 환자 영상으로 학습되지 않음|AI 분석 보고서|환자: "
            "|검사: 2026-01-01|위치가 표시된 소견 2개|2 흉수 좌측 0.61|기흉 없음|분석하지 않음"
            "|분석 시각 2026-03-02",
        ),
        (
            "ja",
            "AI - 診断目的には使用できません|デモ用モデル、患者画像による学習なし|AI解析レポート|患者: "
            "|検査: 2026-01-01|位置の示された所見 2件|2 胸水 左 0.61|気胸 なし|解析していないもの"
            "|解析時刻 2026-03-02",
        ),
    ],
)
def test_its_words_can_be_read_and_searched(language: str, texts: str, tmp_path: Path) -> None:
    image = make_image(TimezoneOffsetFromUTC="+0900", PatientName="NOBODY^TEST", ImagerPixelSpacing=["0.2", "0.1"])
    boxes = {"nodule": (0.1, 0.1, 0.2, 0.2), "effusion": (0.6, 0.6, 0.9, 0.9)}
    run = run_of(image, boxes=boxes, rows=64, columns=64, passed_over=NOT_READ, profile={"language": language})
    earlier = Predecessor("1.2", "1.3", "1.4", CREATED - timedelta(days=1))
    page = sheet(tmp_path, outlined(replace(run, predecessor=earlier)), image, picture())
    for text in texts.split("|"):
        assert text in squeezed(page.text), text
    assert page.info["Pages"] == "1"
    assert page.info["Page size"].endswith("(A4)")
    assert page.info["CreationDate"].startswith("Sun Mar  1 23:30:15 2026") or "Mar  2" in page.info["CreationDate"]
    assert page.text.index(texts.split("|", 1)[0]) < 40  # the warning comes first


@pytest.mark.programs
def test_its_font_is_in_it(tmp_path: Path) -> None:
    image = make_image()
    page = sheet(tmp_path, run_of(image), image)
    fonts = run_tool("pdffonts", page.path).stdout.splitlines()[2:]
    assert len(fonts) == 1
    assert fonts[0].split()[-5:-2] == ["yes", "yes", "yes"]  # embedded, in part, with its characters' meanings


@pytest.mark.programs
def test_the_picture_is_on_it(tmp_path: Path) -> None:
    image, shown = make_image(), picture(600, 400)
    page = sheet(tmp_path, run_of(image, boxes=BOXES["one"]), image, shown)
    run_tool("pdfimages", "-png", page.path, tmp_path / "out")
    (found,) = tmp_path.glob("out*.png")
    with Image.open(found) as read:
        assert read.size == (400, 600)
        assert np.abs(np.asarray(read.convert("RGB")).astype(int) - shown).mean() < 3
    assert sheet(tmp_path, run_of(image), image).document.EncapsulatedDocument.count(b"/Image ") == 0


@pytest.mark.programs
def test_every_row_has_the_colour_of_its_class(tmp_path: Path) -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["overlapping"], rows=64, columns=64)
    made = sheet(tmp_path, run, image)
    run_tool("pdftoppm", "-r", "144", "-png", "-singlefile", made.path, tmp_path / "page")
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    palette = Palette(run.reading)
    found = Counter(palette.colour(each) for each in run.reading.findings)
    found.update(palette.classes[each.key] for each in run.reading.classes)
    for colour, rows in found.items():
        squares = (pixels == colour).all(axis=-1).sum()
        assert squares == pytest.approx(rows * 144, rel=0.35)  # 6 points wide at 144 dots an inch, less the rim


@pytest.mark.programs
def test_a_large_picture_is_made_smaller(tmp_path: Path) -> None:
    image = make_image()
    page = sheet(tmp_path, run_of(image), image, np.zeros((4000, 3000, 3), np.uint8))
    (row,) = run_tool("pdfimages", "-list", page.path).stdout.splitlines()[2:]
    assert max(map(int, row.split()[3:5])) < 2200
    assert row.split()[8] == "jpeg"


@pytest.mark.programs
def test_a_failed_reading_says_so_and_no_class_is_negative(tmp_path: Path) -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    reading = replace(run.reading, findings=(), classes=(), failure="it is no grey image")
    page = sheet(tmp_path, replace(run, reading=reading), image)
    assert "AI reading failed: it is no grey image" in page.text
    assert "This is not a negative result" in page.text
    assert "No findings" not in page.text
    assert "Threshold" not in page.text


@pytest.mark.programs
def test_nothing_found_is_said_with_every_class(tmp_path: Path) -> None:
    image = make_image()
    text = squeezed(sheet(tmp_path, run_of(image), image, picture()).text)
    assert "No findings" in text
    assert text.count(" absent 0.12 0.50") == 3


# --- one page, always -----------------------------------------------------------------------------------------------


def crowded(findings: int, classes: int, **texts: str) -> tuple[Run, Dataset]:
    image = make_image(PixelSpacing=["8.123", "7.5"], ImagerPixelSpacing=["9", "9"])
    run = outlined(run_of(image, boxes=BOXES["one"]))
    one = run.reading.classes[0]
    names = [f"class {number} {texts.get('name', '')}" for number in range(classes)]
    reading = replace(
        run.reading,
        findings=tuple(
            replace(run.reading.findings[0], name=names[number % classes], code=Code(str(number), "99", "x"))
            for number in range(findings)
        ),
        classes=tuple(replace(one, key=name, name=name, code=Code(name[:16], "99", "x")) for name in names),
        passed_over=tuple(PassedOver("1", f"{texts.get('reason', 'reason')} {number}") for number in range(40)),
        model=replace(
            MODEL,
            name=texts.get("model", "model"),
            notice=texts.get("notice", ""),
            intended_use=texts.get("use", "use"),
            manufacturer=texts.get("model", "model"),
        ),
    )
    return replace(run, reading=reading, predecessor=Predecessor("1", "2", "3", CREATED)), image


LONG = dict.fromkeys(("name", "reason", "model", "notice", "use"), "many words that say little " * 40)
UNBROKEN = dict.fromkeys(LONG, "x" * 900)
CHINESE = dict.fromkeys(LONG, "所見漢字" * 200)


@pytest.mark.programs
@pytest.mark.parametrize("texts", [{}, LONG, UNBROKEN, CHINESE], ids=["short", "long", "unbroken", "unspaced"])
@pytest.mark.parametrize(("findings", "classes"), [(12, 14), (300, 90)])
def test_it_always_fits_on_one_page(texts: dict[str, str], findings: int, classes: int, tmp_path: Path) -> None:
    run, image = crowded(findings, classes, **texts)
    page = sheet(tmp_path, run, image, picture())
    assert page.info["Pages"] == "1"
    words = page.words()
    assert all(30 < x0 < x1 < 565 and 30 < y0 < y1 < 812 for x0, y0, x1, y1, _ in words)
    # No line lies on another: words of different lines overlap by less than the space between the lines.
    lines = sorted({(round(y0, 1), round(y1, 1)) for _, y0, _, y1, _ in words})
    baselines = sorted({round((y0 + y1) / 2) for y0, y1 in lines})
    assert all(later - earlier >= 7 for earlier, later in pairwise(baselines))
    if texts:
        assert "see the report" in page.text
    # What gives way to the room is a name, never a number.
    shown = [min(count, 15 if count > 16 else 16) for count in (findings, classes)]
    tables = page.text.partition("not for diagnostic use: ")[0]  # before the notes, which begin with the short report
    assert [tables.count(" mm"), tables.count("0.50")] == shown
    assert tables.count("0.87") == sum(shown)
    assert ("+ 285: see the report" in page.text) == (findings == 300)
    # What the notes push away the picture gives, but it stays one.
    (row,) = run_tool("pdfimages", "-list", page.path).stdout.splitlines()[2:]
    assert int(row.split()[3]) > 60


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(st.text(max_size=60), st.tuples(st.integers(1, 400), st.integers(1, 400)))
def test_any_text_and_any_shape_make_a_page(text: str, shape: tuple[int, int]) -> None:
    run, image = crowded(2, 2, name=text, reason=text, model=text, notice=text, use=text)
    (document,) = pdf.build(run, [image], picture(*shape))
    content = bytes(document.EncapsulatedDocument)
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") == 1


# --- whose it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHARSETS, ids=lambda p: p.stem)
def test_names_are_printed_as_they_are_meant(path: Path) -> None:
    meant = str(pydicom.dcmread(path).PatientName)
    said = certain_text(header_of(path), "PatientName")
    assert said.rstrip("=") == meant or (said == "" and "\ufffd" in meant)


@pytest.mark.programs
@pytest.mark.parametrize(
    ("charset", "name", "expected"),
    [
        (
            b"ISO_IR 192",
            "Hong^Gildong=洪^吉洞=홍^길동".encode(),
            "Patient: Hong Gildong = 洪 吉洞 = 홍 길동, ID TEST-1",
        ),
        (b"\\ISO 2022 IR 149", b"Hong=\x1b$)C\xfb\xf3=\x1b$)C\xc8\xab", "Patient: Hong = 洪 = 홍, ID TEST-1"),
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Patient: Müller Jörg, ID TEST-1"),
        (b"", "Müller".encode("latin-1"), "Patient: ID TEST-1"),  # more than the declared ASCII
        (b"ISO_IR 192", b"M\xfcller", "Patient: ID TEST-1"),  # no UTF-8
        (b"UTF-9000", "홍길동".encode(), "Patient: ID TEST-1"),
        (b"ISO_IR 192", "Sawasdee=สวัสดี".encode(), "Patient: Sawasdee, ID TEST-1"),  # the font has no Thai
    ],
)
def test_a_doubtful_name_is_left_to_the_header(charset: bytes, name: bytes, expected: str, tmp_path: Path) -> None:
    image = with_raw(make_image(), SpecificCharacterSet=charset, PatientName=name)
    del image.StudyDescription
    text = squeezed(sheet(tmp_path, run_of(image), image).text)
    assert f"{expected} Study" in text


def test_a_source_that_breaks_the_standard_makes_a_page_and_no_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    image = with_raw(make_image(), **common_tests.BROKEN, SpecificCharacterSet=b"ISO 2022 IR 149\\GB18030 ")
    (document,) = pdf.build(run_of(image, boxes=BOXES["one"]), [image], picture())
    content = to_bytes(document)
    for keyword in ("PatientName", "PatientID", "StudyDate", "AccessionNumber", "StudyInstanceUID"):
        assert common_tests.element_in(content, keyword) == common_tests.BROKEN[keyword]
    out, err = capfd.readouterr()
    assert "SECRET" not in caplog.text + out + err


def test_a_name_of_any_length_makes_a_page() -> None:
    image = with_raw(make_image(), PatientName=b"A^" * 30_000, PatientID=b"B" * 60_000)
    (document,) = pdf.build(run_of(image), [image], None)
    assert document.EncapsulatedDocument.startswith(b"%PDF-")


@pytest.mark.programs
def test_metadata_of_the_file_names_no_patient(tmp_path: Path) -> None:
    image = make_image()
    page = sheet(tmp_path, run_of(image), image)
    assert not any("NOBODY" in value or "TEST-1" in value for value in page.info.values())


# --- the object -----------------------------------------------------------------------------------------------------


def test_it_is_an_encapsulated_document_of_its_sources() -> None:
    images = [make_image(), make_image()]
    run = run_of(*images, boxes=BOXES["one"])
    (document,) = (written(each) for each in pdf.build(run, images, picture()))
    assert (document.Modality, document.ConversionType, document.BurnedInAnnotation) == ("DOC", "WSD", "YES")
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    assert document.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert document.DocumentTitle == "AI report: phantom_cxr"
    assert [each.ReferencedSOPInstanceUID for each in document.SourceInstanceSequence] == [
        image.SOPInstanceUID for image in images
    ]
    purposes = {each.PurposeOfReferenceCodeSequence[0].CodeValue for each in document.SourceInstanceSequence}
    assert purposes == {"121324"}
    assert "HL7InstanceIdentifier" not in document
    assert document.PatientID == "TEST-1"
    assert len(document.EncapsulatedDocument) % 2 == 0
    assert document.EncapsulatedDocument[: document.EncapsulatedDocumentLength].rstrip().endswith(b"%%EOF")


def test_a_finding_on_another_image_is_refused() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    finding = replace(run.reading.findings[0], region=replace(run.reading.findings[0].region, sop_instance_uid="1.2"))
    with pytest.raises(ValueError, match="is no source of the reading"):
        pdf.build(replace(run, reading=replace(run.reading, findings=(finding,))), [image], None)


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4)])
def test_a_picture_of_another_form_is_refused(shape: tuple[int, ...]) -> None:
    image = make_image()
    with pytest.raises(ValueError, match="rows x columns x 3"):
        pdf.build(run_of(image), [image], np.zeros(shape, np.uint8))


def test_encode_makes_it_where_it_is_asked_for() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"], profile={"outputs": ("sr", "pdf", "kos")})
    objects = encode(run, common_tests.Held(image))
    assert [each.role for each in objects] == ["sr", "pdf", "kos"]
    assert b"/Image " in pydicom.dcmread(BytesIO(objects[1].content)).EncapsulatedDocument
    failed = replace(run, reading=replace(run.reading, findings=(), classes=(), failure="it is no image"))
    assert [each.role for each in encode(failed, common_tests.Held(image)) if each.role != "sr"] == ["pdf"]
    undetermined = tuple(replace(each, presence=Presence.UNDETERMINED) for each in run.reading.classes)
    assert encode(
        replace(run, reading=replace(run.reading, findings=(), classes=undetermined)), common_tests.Held(image)
    )


_AGAIN = """
import hashlib, sys, warnings
import tests.results.objects.test_pdf as t
header = t.header_of(t.SOURCES["dx"])
run = t.run_of(header, boxes=t.BOXES["overlapping"], passed_over=t.NOT_READ, profile={"language": "en"})
print(hashlib.sha256(t.to_bytes(t.pdf.build(run, [header], t.picture())[0])).hexdigest())
"""


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes_anywhere_at_any_time(real_data: Path) -> None:
    header = header_of(SOURCES["dx"])
    run = run_of(header, boxes=BOXES["overlapping"], passed_over=NOT_READ, profile={"language": "en"})
    built = [hashlib.sha256(to_bytes(pdf.build(run, [header], picture())[0])).hexdigest() for _ in range(2)]
    elsewhere = subprocess.run(
        [sys.executable, "-c", _AGAIN],
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Seoul", "SOURCE_DATE_EPOCH": "1000000000"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=scaled(120),
    )
    assert {elsewhere.stdout.strip(), *built} == {built[0]}


@pytest.mark.programs
@pytest.mark.parametrize("name", ["dx", "ct", "mr-implicit"])
def test_dciodvfy_finds_no_error(name: str, tmp_path: Path) -> None:
    header = header_of(SOURCES[name])
    (document,) = pdf.build(run_of(header, boxes=BOXES["overlapping"]), [header], picture())
    path = tmp_path / "pdf.dcm"
    path.write_bytes(to_bytes(document))
    done = run_tool("dciodvfy", path, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
