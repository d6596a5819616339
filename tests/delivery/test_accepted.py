"""Which encoding pictures get, from what their destinations are known to accept, and what a PACS gets of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from dicom_node.config.settings import Peer, Profile, Route, Settings
from dicom_node.config.values import Pictures
from dicom_node.delivery.accepted import encoding, profiles
from dicom_node.dicom import compressed
from dicom_node.errors import Retryable
from dicom_node.index.rows import Job, NewReading, NewResult
from tests.delivery.test_send_job import Bench, bench  # noqa: F401 (a fixture)
from tests.support.samples import make_image, reading_text

PICTURE, REPORT = str(SecondaryCaptureImageStorage), str(ComprehensiveSRStorage)
JPEG, LS = str(JPEGBaseline8Bit), str(JPEGLSLossless)
PLAIN = {str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)}


def picture() -> NDArray[np.uint8]:
    """Soft grey with noise, a coloured line and something black: what a secondary capture is made of."""
    rows, columns = np.mgrid[:301, :203]
    grey = 90 + 60 * np.sin(rows / 40) * np.cos(columns / 30)
    rgb = np.stack([grey + np.random.default_rng(1).normal(0, 4, grey.shape)] * 3, axis=2)
    rgb[100:103, 20:150] = (230, 159, 0)
    rgb[250:] = 0
    return rgb.clip(0, 255).astype(np.uint8)


class Pacs:
    """A PACS that accepts pictures, and 8 bit segmentations, in some transfer syntaxes only; it may change its mind."""

    def __init__(self, *syntaxes: str) -> None:
        self.stored: list[tuple[str, Dataset]] = []
        self.status = 0x0000
        self._ae = AE("PACS")
        self.accept(*syntaxes)
        self._server = self._ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)]
        )
        self.port = int(self._server.server_address[1])

    def accept(self, *syntaxes: str) -> None:
        self._ae.supported_contexts = []
        for sop_class in (SecondaryCaptureImageStorage, SegmentationStorage):
            self._ae.add_supported_context(sop_class, list(syntaxes))
        self._ae.add_supported_context(ComprehensiveSRStorage, list(PLAIN))
        if hasattr(self, "_server"):
            self._server.contexts = self._ae.supported_contexts

    def close(self) -> None:
        self._ae.shutdown()

    def _keep(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.stored.append((str(event.context.transfer_syntax), dataset))
        return self.status


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pacs]]:
    """Start PACS that refuse what they do not know, unlike this node's own SCP."""
    monkeypatch.setattr("dicom_node.network.pynetdicom_setup.configure_pynetdicom", lambda: None)
    monkeypatch.setattr("pynetdicom._config.UNRESTRICTED_STORAGE_SERVICE", False)
    monkeypatch.setattr("pynetdicom._config.STORE_SEND_CHUNKED_DATASET", True)
    started: list[Pacs] = []

    def make(*syntaxes: str) -> Pacs:
        started.append(Pacs(*syntaxes))
        return started[-1]

    yield make
    for one in started:
        one.close()


def result(bench: Bench, image: Dataset, role: str = "sc") -> Job:  # noqa: F811
    """A result file in the bench's spool, as a job to send it."""
    uid = str(image.SOPInstanceUID)
    out = BytesIO()
    image.save_as(out, enforce_file_format=True)
    name = bench.spool.adopt([(bench.spool.write_parts([[out.getvalue()]])[0], uid)])[0]
    new = NewResult(uid, str(image.SOPClassUID), "1.9", 0, role, name, 1, "p")
    with bench.index.transaction():
        bench.index.add_reading(NewReading(uid, "1", "m", "1", "d", 1.0, reading_text()), [new])
    return Job(1, "send", uid, "1", 1, "r", "pacs", uid, 1, 1.0, "t")


def capture(syntax: str, rgb: NDArray[np.uint8]) -> Dataset:
    image = make_image(SOPClassUID=SecondaryCaptureImageStorage)
    image.Rows, image.Columns, image.SamplesPerPixel, image.PlanarConfiguration = *rgb.shape[:2], 3, 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    if syntax == JPEG:
        image.PhotometricInterpretation = "YBR_FULL_422"
        image.LossyImageCompression, image.LossyImageCompressionMethod = "01", "ISO_10918_1"
        image.LossyImageCompressionRatio = "20"
        compressed.set_pixels(image, [compressed.jpeg(rgb)], JPEGBaseline8Bit)
    else:
        image.PhotometricInterpretation = "RGB"
        compressed.set_pixels(image, [compressed.jpeg_ls(rgb)], JPEGLSLossless)
    image["PixelData"].is_undefined_length = True
    return image


def seen(dataset: Dataset) -> NDArray[np.uint8]:
    """The pixels that a reader without this project's code sees."""
    pixels: NDArray[np.uint8] = dataset.pixel_array
    return pixels


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [JPEG, LS])
@pytest.mark.parametrize(
    ("accepts", "arrives"),
    [
        ({JPEG, LS}, None),
        ({JPEG, LS, *PLAIN}, None),
        (PLAIN, str(ExplicitVRLittleEndian)),
        ({str(ImplicitVRLittleEndian)}, str(ImplicitVRLittleEndian)),
    ],
    ids=["compressed only", "all", "uncompressed", "implicit"],
)
def test_a_picture_has_the_same_pixels_in_every_transfer_syntax(
    bench: Bench,  # noqa: F811
    start: Callable[..., Pacs],
    syntax: str,
    accepts: set[str],
    arrives: str | None,
) -> None:
    image = capture(syntax, picture())
    pacs, job = start(*accepts), result(bench, image)
    assert bench.sender(pacs.port)(job).reason == ""
    ((how, got),) = pacs.stored
    assert how == (arrives or syntax)
    assert (got.SOPInstanceUID, got.SeriesInstanceUID) == (image.SOPInstanceUID, image.SeriesInstanceUID)
    file = pydicom.dcmread(bench.path(job))
    assert file.file_meta.TransferSyntaxUID == syntax  # the file stays what it is
    assert np.array_equal(seen(got), seen(file))
    if syntax == LS:
        assert np.array_equal(seen(got), picture())
    else:
        assert 0 < np.abs(seen(got).astype(int) - picture()).mean() < 3
        (frame,) = generate_frames(file.PixelData, number_of_frames=1)
        with Image.open(BytesIO(frame)) as decoded:
            assert np.array_equal(seen(got), np.asarray(decoded))
        assert (got.LossyImageCompression, got.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    if arrives:
        assert (got.PhotometricInterpretation, got.PlanarConfiguration) == ("RGB", 0)
    apart = {"PixelData", "PhotometricInterpretation"}
    assert {e.keyword: e.value for e in got if e.keyword not in apart} == {
        e.keyword: e.value for e in file if e.keyword not in apart
    }


@pytest.mark.slow
def test_a_retry_after_the_pacs_changed_its_mind_sends_the_same_pixels(
    bench: Bench,  # noqa: F811
    start: Callable[..., Pacs],
) -> None:
    job = result(bench, capture(JPEG, picture()))
    pacs = start(JPEG, *PLAIN)
    pacs.status = 0xA700
    sender = bench.sender(pacs.port)
    with pytest.raises(Retryable, match="A700"):
        sender(job)
    sender.close()
    pacs.status = 0x0000
    pacs.accept(*PLAIN)
    assert sender(job).reason == ""
    (first, one), (second, other) = pacs.stored
    assert (first, second) == (JPEG, str(ExplicitVRLittleEndian))
    assert one.SOPInstanceUID == other.SOPInstanceUID
    assert np.array_equal(seen(one), seen(other))


@pytest.mark.slow
def test_a_pacs_without_rle_gets_the_probabilities_uncompressed(
    bench: Bench,  # noqa: F811
    start: Callable[..., Pacs],
) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (3, 19, 27)).astype(np.uint8)
    frames[:, :, 5:] = 0
    image = make_image(SOPClassUID=SegmentationStorage, NumberOfFrames=3)
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 19, 27, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    compressed.set_pixels(image, [compressed.rle(frame) for frame in frames], RLELossless)
    image["PixelData"].is_undefined_length = True
    job = result(bench, image, "seg")
    for accepts in ((str(RLELossless), *PLAIN), tuple(PLAIN)):
        pacs = start(*accepts)
        assert bench.sender(pacs.port)(job).reason == ""
        ((how, got),) = pacs.stored
        assert how == (RLELossless if RLELossless in accepts else ExplicitVRLittleEndian)
        assert np.array_equal(seen(got), frames)


@pytest.mark.slow
def test_what_a_pacs_accepts_is_recorded_when_it_is_called(
    bench: Bench,  # noqa: F811
    start: Callable[..., Pacs],
) -> None:
    assert bench.index.accepted_by("pacs") == {}
    pacs, job = start(JPEG, *PLAIN), result(bench, capture(JPEG, picture()))
    sender = bench.sender(pacs.port)
    sender(job)
    known = bench.index.accepted_by("pacs")
    assert known[PICTURE] == {JPEG, *PLAIN}
    assert known[REPORT] == PLAIN
    assert known["1.2.840.10008.5.1.4.1.1.104.1"] == frozenset()  # a PDF
    sender.close()
    pacs.accept(*PLAIN)
    sender(job)
    assert bench.index.accepted_by("pacs")[PICTURE] == PLAIN


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([{}], "jpeg"),
        ([{REPORT: PLAIN}], "jpeg"),
        ([{PICTURE: {JPEG, *PLAIN}}], "jpeg"),
        ([{PICTURE: {JPEG}}, {PICTURE: PLAIN}], "jpeg"),
        ([{PICTURE: PLAIN}, {}], "jpeg"),
        ([{PICTURE: {LS, *PLAIN}}], "jpeg-ls"),
        ([{PICTURE: {LS, *PLAIN}}, {PICTURE: PLAIN}], "uncompressed"),
        ([{PICTURE: {LS, *PLAIN}}, {PICTURE: set()}], "jpeg-ls"),
        ([{PICTURE: PLAIN}], "uncompressed"),
        ([{PICTURE: set()}], "jpeg"),
        ([], "jpeg"),
    ],
)
def test_the_encoding_follows_from_what_all_destinations_accept(
    known: list[dict[str, set[str]]], expected: Pictures
) -> None:
    frozen = [{sop_class: frozenset(syntaxes) for sop_class, syntaxes in each.items()} for each in known]
    assert encoding(frozen) == expected


def settings_of(*peers: dict[str, Any], **route: Any) -> Settings:
    named = [
        Peer(name=f"p{i}", ae_title=f"P{i}", host="192.0.2.1", port=104 + i, destination=True, **each)
        for i, each in enumerate(peers)
    ]
    to = tuple(each.name for each in named)
    return Settings(peers=tuple(named), routes=(Route(name="r", models=("m",), to=to, **route),))


def test_all_destinations_of_a_route_get_one_encoding_unless_they_ask_for_another(bench: Bench) -> None:  # noqa: F811
    settings = settings_of({}, {}, {"pictures": "uncompressed"})

    def chosen(of: Settings = settings) -> list[Pictures]:
        return [profile.pictures for _, profile in profiles(of, of.routes[0], bench.index, "1")]

    assert chosen() == ["jpeg", "jpeg", "uncompressed"]
    for name in ("p0", "p1", "p2"):
        bench.index.note_accepted(name, {PICTURE: frozenset({LS, *PLAIN})}, 1.0)
    assert chosen() == ["jpeg-ls", "jpeg-ls", "uncompressed"]
    bench.index.note_accepted("p1", {PICTURE: frozenset({JPEG, *PLAIN})}, 2.0)
    assert chosen() == ["jpeg", "jpeg", "uncompressed"]
    assert chosen(settings_of({}, {}, pictures="jpeg-ls")) == ["jpeg-ls", "jpeg-ls"]


def test_a_study_keeps_the_encoding_of_its_first_results(bench: Bench) -> None:  # noqa: F811
    """Otherwise the same images, pushed once more, would get other results beside those that the PACS has."""
    settings = settings_of({"language": "ko"})
    (route,) = settings.routes
    digest = dataclasses.replace(Profile(language="ko"), pictures="jpeg").digest
    with bench.index.transaction():
        bench.index.add_reading(
            NewReading("k", "1", "m", "1", "d", 1.0, reading_text()),
            [NewResult("2.25.7", PICTURE, "1.9", 0, "sc", "f", 1, digest)],
        )
    bench.index.note_accepted("p0", {PICTURE: frozenset(PLAIN)}, 1.0)
    ((_, profile),) = profiles(settings, route, bench.index, "1")
    assert (profile.pictures, profile.digest) == ("jpeg", digest)
    ((_, other),) = profiles(settings, route, bench.index, "another study")
    assert other.pictures == "uncompressed"


def test_a_3d_report_is_made_only_where_it_is_known_to_be_stored(bench: Bench) -> None:  # noqa: F811
    settings = settings_of({"sr_class": "comprehensive3d"}, {})

    def chosen(study: str = "1") -> list[str]:
        return [profile.sr_class for _, profile in profiles(settings, settings.routes[0], bench.index, study)]

    assert chosen() == ["comprehensive", "comprehensive"], "nobody knows yet: a report that every PACS stores"
    for name in ("p0", "p1"):
        bench.index.note_accepted(name, {Comprehensive3DSRStorage: frozenset(PLAIN)}, 1.0)
    assert chosen() == ["comprehensive3d", "comprehensive"]
    ((_, profile), _) = profiles(settings, settings.routes[0], bench.index, "1")
    with bench.index.transaction():
        bench.index.add_reading(
            NewReading("k", "1", "m", "1", "d", 1.0, reading_text()),
            [NewResult("2.25.7", Comprehensive3DSRStorage, "1.9", 0, "sr", "f", 1, profile.digest)],
        )
    bench.index.note_accepted("p0", {Comprehensive3DSRStorage: frozenset()}, 2.0)
    assert chosen() == ["comprehensive3d", "comprehensive"], "the study keeps what it has"
    assert chosen("another study") == ["comprehensive", "comprehensive"]


def test_the_same_answer_is_recorded_once(bench: Bench) -> None:  # noqa: F811
    assert bench.index.note_accepted("pacs", {PICTURE: frozenset(PLAIN)}, 1.0)
    assert not bench.index.note_accepted("pacs", {PICTURE: frozenset(PLAIN)}, 2.0)
    assert bench.index.note_accepted("pacs", {PICTURE: frozenset()}, 3.0)
    assert bench.index.accepted_by("pacs") == {PICTURE: frozenset()}
