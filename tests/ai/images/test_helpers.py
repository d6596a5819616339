"""Decoding in helper processes: a frame that ends its decoder ends a helper, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import get_frame

from ai.contract import ReadingError
from ai.errors import LostError
from ai.images import codecs, decode_process, helpers, pixels
from ai.images.codecs import Form
from ai.images.elements import frame_count, open_pixels, text_of, whole_of
from ai.images.frame_data import FrameData
from ai.images.frames import IMAGE
from ai.images.grayscale import form_of
from dicom_node.dicom.compressed import rle
from tests.support import programs
from tests.support.waiting import scaled, wait_until

pytestmark = pytest.mark.slow

# Mutations of real images that end GDCM by SIGABRT (of 8,475 such images, these among seven did): file, seed.
ABORTS = [
    ("dicom/pydicom/test_files/JPEG-lossy.dcm", 1714),
    ("dicom/nema-wg04/WG04/JPLY/NM1_JPLY", 1157),
    ("dicom/nema-wg04/WG04/JPLY/MR2_JPLY", 2286),
    ("dicom/chest-ct/dicom/1-124.dcm", 6354),
    ("dicom/chest-ct/dicom/1-067.dcm", 7697),
]


def frame_of(path: Path) -> tuple[bytes, Form, uid.UID]:
    """The first frame of a file, as its code stream."""
    with open_pixels(path, IMAGE) as (dataset, syntax, value):
        samples = whole_of(dataset, "SamplesPerPixel") or 1
        form = form_of(dataset, samples=samples)
        form = replace(
            form,
            planar=whole_of(dataset, "PlanarConfiguration") == 1,
            photometric=text_of(dataset, "PhotometricInterpretation").upper(),
        )
        data = FrameData(value, dataset, form, frame_count(dataset), syntax)[1]
    return get_frame(data, 0, number_of_frames=1), form, syntax


def mutated(frame: bytes, seed: int) -> bytes:
    """A frame with some bytes changed; the random numbers are those of the search that found the aborts."""
    source = random.Random(seed)
    source.choice(range(138))
    changed = bytearray(frame)
    reach = len(changed) if source.random() < 0.5 else min(len(changed), 400)
    for _ in range(source.randint(1, 8)):
        changed[source.randrange(reach)] = source.randrange(256)
    return bytes(changed)


def square(side: int = 64) -> tuple[bytes, Form, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    image = (np.arange(side * side) % 251).astype(np.uint8).reshape(side, side)
    return rle(image), Form(side, side, 8, 8, 7, signed=False, photometric="MONOCHROME2"), image


def values(decoded: helpers.Decoded) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(decoded.data, np.uint8).reshape(decoded.shape)


@pytest.mark.parametrize(("name", "seed"), ABORTS)
def test_an_image_that_aborts_its_decoder_is_refused_in_words_at_once(real_data: Path, name: str, seed: int) -> None:
    frame, form, syntax = frame_of(real_data / name)
    helpers.decode(*square()[:2], str(uid.RLELossless), 8)  # the first helper has started
    began = time.monotonic()
    with pytest.raises(ReadingError, match=r"PixelData cannot be decoded: GDCM was ended by it \(SIGABRT\)"):
        pixels.compressed(codecs.item(mutated(frame, seed)), form, syntax)
    sound, plain, image = square()
    assert np.array_equal(values(helpers.decode(sound, plain, str(uid.RLELossless), 8)), image)
    assert time.monotonic() - began < scaled(1.0), "the refusal, and the next image in a new helper"


def test_a_frame_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper hangs: it is stopped, as a decoder is that never comes to an end."""
    sound, form, image = square()
    with helpers._helpers.helper() as one:
        os.kill(one.process, signal.SIGSTOP)
    monkeypatch.setattr(helpers, "_PATIENCE", 0.05)
    with pytest.raises(ReadingError, match="pydicom's RLE decoder did not come to an end with it"):
        helpers.decode(sound, form, str(uid.RLELossless), 8)
    monkeypatch.undo()
    assert not programs.alive(one.process)
    assert np.array_equal(values(helpers.decode(sound, form, str(uid.RLELossless), 8)), image)


def test_a_frame_has_limits_of_processor_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a helper that decodes, as the system sees them."""
    sound, form, _ = square()
    helpers.decode(sound, form, str(uid.RLELossless), 8)
    with helpers._helpers.helper() as one:
        told = Path(f"/proc/{one.process}/limits").read_text(encoding="ascii").splitlines()
    limits = {line[:26].strip(): line[26:].split() for line in told}
    assert int(limits["Max cpu time"][0]) <= decode_process.seconds_for(form.rows * form.columns) + 60
    assert limits["Max cpu time"][0] != "unlimited"
    assert int(limits["Max address space"][0]) < 8 << 30
    assert limits["Max core file size"][:2] == ["0", "0"]
    assert limits["Max file size"][:2] == ["0", "0"]


def test_what_wants_more_memory_than_an_image_needs_is_refused() -> None:
    sound, form, _ = square()
    huge = bytes(1 << 20)
    with helpers._helpers.helper() as one:
        space = int(Path(f"/proc/{one.process}/statm").read_text().split()[0]) * 4096
    assert space < 4 << 30
    # OpenJPEG takes memory for what a stream declares: this one 60,000 x 60,000 pixels, for an image of 64 x 64.
    sides = (60_000).to_bytes(4, "big") * 2
    siz = b"\xff\x4f\xff\x51\0\x29\0\0" + sides + bytes(8) + sides + bytes(8) + b"\0\1\x07\1\1"
    cod = b"\xff\x52\0\x0c\0\0\0\1\0\0\4\4\0\1"
    qcd = b"\xff\x5c\0\4\x40\x40"
    sot = b"\xff\x90\0\x0a\0\0\0\0\0\0\0\1\xff\x93"
    with pytest.raises(ReadingError, match=r"cannot be decoded|memory"):
        helpers.decode(siz + cod + qcd + sot + huge + b"\xff\xd9", form, str(uid.JPEG2000Lossless), 8)
    assert helpers.decode(sound, form, str(uid.RLELossless), 8).shape == (64, 64)


def test_a_helper_is_kept_and_replaced_after_some_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    own = helpers._Helpers()
    monkeypatch.setattr(helpers, "_helpers", own)
    monkeypatch.setattr(helpers, "_FRAMES", 3)
    sound, form, _ = square()
    seen: list[int] = []
    take = own._take

    def noted() -> helpers._Helper:
        one = take()
        seen.append(one.process)
        return one

    monkeypatch.setattr(own, "_take", noted)
    for _ in range(7):
        helpers.decode(sound, form, str(uid.RLELossless), 8)
    assert len(set(seen)) == 3
    assert seen[0] == seen[2] != seen[3] == seen[5] != seen[6]
    assert not programs.alive(seen[0])
    own._forget()
    wait_until(lambda: not programs.alive(seen[6]), "the last helper to end with what started it")


def test_several_threads_decode_at_once() -> None:
    sound, form, image = square(256)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(20):
            if not np.array_equal(values(helpers.decode(sound, form, str(uid.RLELossless), 8)), image):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


@pytest.mark.parametrize(
    "said",
    [
        {"shape": [64, 65], "bytes": 1, "photometric": "MONOCHROME2"},
        {"shape": [64, 64], "bytes": 8, "photometric": "MONOCHROME2"},
        {"shape": [64, 64], "bytes": 2, "photometric": "MONOCHROME2"},
        {"error": "HONG^GILDONG lives here"},
        ["shape"],
        None,
    ],
)
def test_a_helper_that_lies_is_not_believed(said: object) -> None:
    form = square()[1]
    with pytest.raises(ReadingError) as error:
        helpers._checked(said, bytearray(64 * 64), form, "GDCM", "1.2")
    assert "HONG" not in str(error.value)


def test_without_what_starts_helpers_this_process_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    own = helpers._Helpers()
    monkeypatch.setattr(helpers, "_helpers", own)
    sound, form, _ = square()
    helpers.decode(sound, form, str(uid.RLELossless), 8)

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    own._forget()
    monkeypatch.setattr(os, "posix_spawn", refused)  # as in a cage
    with pytest.raises(LostError, match="cannot be started"):
        pixels.compressed(codecs.item(sound), form, uid.RLELossless)


def test_a_jpeg_ls_image_with_zeros_before_its_end_is_read(real_data: Path) -> None:
    """Of the standard's own sample images; GDCM read it, CharLS by itself refuses it."""
    frame, form, syntax = frame_of(real_data / "dicom/nema-wg04/WG04/JLSL/MR1_JLSL")
    assert frame.endswith(b"\0\xff\xd9")
    lossless = frame_of(real_data / "dicom/nema-wg04/WG04/J2KR/MR1_J2KR")
    first, second = (
        pixels.compressed(codecs.item(one), how, which)[0] for one, how, which in ((frame, form, syntax), lossless)
    )
    assert np.array_equal(first, second)
