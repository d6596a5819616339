"""An image that came again in another transfer syntax: the reading process finds out whether it says the same."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.index.rows import Change, NewInstance
from dicom_node.reading import editions
from dicom_node.reading.messages import by_value
from tests.reading.test_messages import Here, OneNode, chest, models  # noqa: F401 - models is a fixture
from tests.support.samples import make_image

pytestmark = pytest.mark.usefixtures("models")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[OneNode]:
    """One that has read a radiograph."""
    node = OneNode(tmp_path / "node", chest(), "phantom_cxr")
    node.read(Here(nullcontext))
    yield node
    node.close()


def add_edition(node: OneNode, image: Dataset, edition: int, change: Change = "unknown") -> None:
    """As the receiver does with an image that it cannot compare."""
    file = node.folder / "again.dcm"
    image.save_as(file, enforce_file_format=True)
    part = node.spool.part_for(image.SOPInstanceUID)
    part.write([memoryview(file.read_bytes())])
    file.unlink()
    name = node.spool.place(part, image.SOPInstanceUID, edition=edition)
    uids = (image.SOPInstanceUID, image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    texts = (image.StudyInstanceUID, image.SeriesInstanceUID, image.Modality, "CHEST", "", "", "MOD", name)
    node.index.correct_instance(NewInstance(*map(str, (*uids, *texts)), part.size), edition, 25.0, change=change)
    part.discard()
    revision = node.index.revision(node.study)
    assert node.index.complete(node.study, revision, 25.0, [("all", "phantom_cxr")], 28.0)


def readings(node: OneNode) -> int:
    return len(node.index.readings_of(node.study))


def changes(node: OneNode) -> list[str]:
    return [row[0] for row in node.index._rows("SELECT change FROM corrections ORDER BY edition")]


def test_the_earlier_reading_stands_where_only_the_transfer_syntax_differs(node: OneNode) -> None:
    before = node.stored()
    for edition, syntax in enumerate((uid.RLELossless, uid.DeflatedExplicitVRLittleEndian, uid.JPEGLSLossless), 2):
        (image,) = chest(syntax)
        image.file_meta.TransferSyntaxUID = syntax
        add_edition(node, image, edition)
        assert node.index.told_of_corrected(node.study, "phantom_cxr") == "safety", "it is not compared yet"
        here = Here(nullcontext)
        node.read(here)
        assert here.answers[0] == ("none",)
        assert here.answers[1].reading is None, "it was read before"
        assert node.index.told_of_corrected(node.study, "phantom_cxr") is None
    assert changes(node) == ["none"] * 3
    assert node.stored() == before
    assert readings(node) == 1


def test_other_pixels_in_another_transfer_syntax_are_read(node: OneNode) -> None:
    (image,) = chest()
    words = np.frombuffer(image.PixelData, dtype=np.uint16).copy()
    words[1000] ^= 1
    image.PixelData = words.tobytes()
    image.compress(uid.RLELossless, generate_instance_uid=False)
    add_edition(node, image, 2)
    node.read(Here(nullcontext))
    assert changes(node) == ["safety"]
    assert readings(node) == 2
    # A further edition is compared with the one before, not with the first.
    (image,) = chest(uid.JPEGLSLossless)
    add_edition(node, image, 3)
    node.read(Here(nullcontext))
    assert changes(node) == ["safety", "safety"]


def test_what_was_never_read_is_not_compared(tmp_path: Path) -> None:
    node = OneNode(tmp_path / "node", chest(), "phantom_cxr")
    add_edition(node, chest(uid.RLELossless)[0], 2)
    assert node.index.unsettled(node.study) == []
    node.close()


COLOURS = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (lambda image: image.compress(uid.RLELossless, generate_instance_uid=False), "none"),
        (lambda image: image.compress(uid.JPEGLSLossless, generate_instance_uid=False), "none"),
        (lambda image: setattr(image, "PixelData", COLOURS[::-1].tobytes()), "safety"),
        (lambda image: setattr(image, "PatientID", "2"), "safety"),
        (lambda image: setattr(image, "WindowCenter", "5"), "quality"),
        (lambda image: setattr(image, "PixelData", image.PixelData[:100]), "safety"),
    ],
)
def test_colours_and_files_that_cannot_be_read(
    tmp_path: Path, changed: Callable[[Dataset], Any], expected: Change
) -> None:
    paths = [tmp_path / "before", tmp_path / "after"]
    image = make_image(
        SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, Rows=32, Columns=32,
        BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=COLOURS.tobytes(),
    )  # fmt: skip
    image["PixelData"].VR = "OB"
    image.save_as(paths[0], enforce_file_format=True)
    changed(image)
    image.save_as(paths[1], enforce_file_format=True)
    assert editions.change(str(paths[0]), str(paths[1])) == expected
    assert editions.change(paths[0].read_bytes(), paths[1].read_bytes()) == expected


def test_the_request_travels_as_any_other(node: OneNode) -> None:
    """To a process that has no disk in common with the node."""
    add_edition(node, chest(uid.RLELossless)[0], 2)
    here = Here(lambda request: nullcontext(pickle.loads(pickle.dumps(by_value(request)))))
    editions.settle(node.index, node.spool, here, node.study)
    assert changes(node) == ["none"]
