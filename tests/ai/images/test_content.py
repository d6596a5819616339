"""An image reads the same from a path, from an open descriptor and from bytes."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import FileDataset

from ai.contract import Content, InstanceRef, OpenFile, ReadingError
from ai.images.content import open_content
from ai.images.frames import load_display
from ai.images.radiograph import load_radiograph, read_header
from ai.volumes.volume import load_volume
from dicom_node.results.images import StoredImages
from tests.support.samples import make_image
from tests.support.stacks import enhanced

Opened = Callable[[Path], OpenFile]


@pytest.fixture
def opened() -> Iterator[Opened]:
    descriptors: list[int] = []

    def open_file(path: Path) -> OpenFile:
        descriptors.append(os.open(path, os.O_RDONLY))
        return OpenFile(descriptors[-1])

    yield open_file
    for descriptor in descriptors:
        os.close(descriptor)


def everywhere(path: Path, opened: Opened) -> list[Content]:
    return [str(path), path, opened(path), path.read_bytes()]


def written(path: Path, syntax: uid.UID) -> Path:
    image = make_image(SOPInstanceUID="1.2.3")
    if syntax.is_encapsulated:
        image.compress(syntax)
    else:
        if syntax == uid.ExplicitVRBigEndian:
            image.PixelData = np.arange(64 * 64, dtype=">u2").tobytes()
        image.file_meta.TransferSyntaxUID = syntax
        plain = pydicom.Dataset(image)
        plain.file_meta = image.file_meta
        image = plain
    image.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEG2000Lossless,
        uid.JPEGLSLossless,
    ],
    ids=lambda syntax: str(uid.UID(syntax).keyword),
)
def test_header_pixels_and_frames_are_the_same_from_everywhere(tmp_path: Path, opened: Opened, syntax: uid.UID) -> None:
    path = written(tmp_path / "image.dcm", syntax)
    local, *others = everywhere(path, opened)
    header, radiograph, shown = read_header(local), load_radiograph(local), load_display(local)
    stored = StoredImages().header(InstanceRef("1.2.3", "1.2", local))
    assert header.has_pixels
    for content in others:
        assert read_header(content) == header
        found = load_radiograph(content)
        assert np.array_equal(found.display, radiograph.display)
        assert (found.voi, found.transfer_syntax_uid) == (radiograph.voi, str(syntax))
        assert np.array_equal(load_display(content), shown)
        assert StoredImages().header(InstanceRef("1.2.3", "1.2", content)) == stored


@pytest.mark.slow
def test_threads_read_many_frames_of_one_open_file_at_once(tmp_path: Path, opened: Opened) -> None:
    image: FileDataset = enhanced(count=80)  # more frames than one thread takes of an image
    path = tmp_path / "image.dcm"
    plain = pydicom.Dataset(image)
    plain.file_meta = image.file_meta
    plain.save_as(path, enforce_file_format=True)
    refs = [
        InstanceRef(str(image.SOPInstanceUID), str(image.SOPClassUID), content) for content in everywhere(path, opened)
    ]
    local, *others = (load_volume([ref]).values for ref in refs)
    for values in others:
        assert np.array_equal(values, local)
    shared = opened(path)
    frames = [load_display(path, number + 1) for number in range(80)]
    with ThreadPoolExecutor(4) as pool:
        for number, shown in enumerate(pool.map(lambda n: load_display(shared, n + 1), range(80))):
            assert np.array_equal(shown, frames[number])
    os.fstat(shared.descriptor)  # whoever opened it closes it


def test_an_open_file_stays_what_it_was_when_its_name_is_given_to_another(tmp_path: Path, opened: Opened) -> None:
    path = written(tmp_path / "image.dcm", uid.ExplicitVRLittleEndian)
    first = opened(path)
    before = load_display(path)
    path.unlink()
    make_image(PixelData=bytes(64 * 64 * 2)).save_as(path, enforce_file_format=True)
    assert np.array_equal(load_display(first), before)
    assert not np.array_equal(load_display(path), before)


def test_bytes_are_read_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    count = 3000
    make_image(NumberOfFrames=count, PixelData=bytes(range(256)) * (32 * count)).save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    load_display(content)  # what is imported on the way is not counted
    tracemalloc.start()
    try:
        load_display(content, count)
        assert tracemalloc.get_traced_memory()[1] < len(content) / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pieces", [(b"a",), (b"ab", b"cde", b"")])
def test_what_is_opened_is_a_file_like_any_other(tmp_path: Path, opened: Opened, pieces: tuple[bytes, ...]) -> None:
    whole = b"".join(pieces) * 5000
    path = tmp_path / "file"
    path.write_bytes(whole)
    for content in everywhere(path, opened):
        with open_content(content) as file:
            assert file.seek(0, os.SEEK_END) == len(whole)
            assert file.read() == b""
            assert file.seek(-3, os.SEEK_CUR) == len(whole) - 3
            assert file.read(10) == whole[-3:]
            assert file.seek(1) == 1
            assert file.read() == whole[1:]
            assert file.seek(len(whole) + 9) == len(whole) + 9
            assert file.read(1) == b""
            with pytest.raises((ValueError, OSError)):
                file.seek(-len(whole) - 1, os.SEEK_END)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "the file is not there"),
        ("/nowhere", "the file is not there"),
        (b"", "no DICOM Part 10 file"),
        (b"SECRET" * 100, "no DICOM Part 10 file"),
        (OpenFile(987654), r"cannot be read as a DICOM image \(OSError\)"),
    ],
    ids=["nothing", "no file", "empty", "no image", "closed"],
)
def test_what_cannot_be_opened_is_a_reading_error(content: Content, why: str) -> None:
    for read in (read_header, load_radiograph, load_display):
        with pytest.raises(ReadingError, match=why):
            read(content)
    with pytest.raises(ReadingError, match="cannot be parsed"):
        StoredImages().header(InstanceRef("1.2.3", "1.2", content))


def test_neither_a_message_nor_a_pickle_gives_away_what_it_must_not() -> None:
    assert "SECRET" not in repr(InstanceRef("1.2.3", "1.2", b"SECRET"))
    with pytest.raises(TypeError, match="an open file cannot be pickled"):
        pickle.dumps(InstanceRef("1.2.3", "1.2", OpenFile(3)))
