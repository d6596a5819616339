"""Reads many images with one model: threads decode ahead, the model reads one by one, both are timed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai.contract import ReadingError
from ai.errors import where
from ai.evaluation.pictures import Picture, load_picture
from ai.inference.answers import MarkedBox

if TYPE_CHECKING:
    from ai.evaluation.tables import Row
    from ai.inference.bundle_model import BundleModel

__all__ = ["Answer", "Unread", "read_rows"]

_AHEAD = 4  # images that are decoded and wait for the model: each takes tens of megabytes at full resolution


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer on one image.

    ``scores`` are probabilities in the order of the model's outputs. ``best`` is the best box of each class, in pixel
    edges of the image, which has ``rows`` x ``columns`` pixels. ``note`` is that of the `Picture`. ``decode_seconds``
    ran in a thread while the model read other images, so it does not add to ``model_seconds``.
    """

    row: Row
    scores: tuple[float, ...]
    best: tuple[MarkedBox, ...]
    rows: int
    columns: int
    note: str
    decode_seconds: float
    model_seconds: float


@dataclass(frozen=True, slots=True)
class Unread:
    """An image that could not be read, and the reason."""

    row: Row
    reason: str


def read_rows(model: BundleModel, rows: Sequence[Row]) -> Iterator[Answer | Unread]:
    """Read images in order. An image that cannot be decoded or read becomes an `Unread`, and the run continues."""
    with ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[Row, Future[tuple[Picture, float]]]] = deque()
        left = iter(rows)
        try:
            while True:
                while len(waiting) < _AHEAD and (row := next(left, None)) is not None:
                    waiting.append((row, pool.submit(_decode, row)))
                if not waiting:
                    return
                row, future = waiting.popleft()
                yield _read(model, row, future)
        finally:
            for _, future in waiting:
                future.cancel()


def _decode(row: Row) -> tuple[Picture, float]:
    started = time.perf_counter()
    return load_picture(row.path), time.perf_counter() - started


def _read(model: BundleModel, row: Row, future: Future[tuple[Picture, float]]) -> Answer | Unread:
    try:
        picture, decode_seconds = future.result()
        started = time.perf_counter()
        found = model.read_display(picture.display)
        model_seconds = time.perf_counter() - started
    except (ReadingError, ValueError) as error:
        return Unread(row, str(error))
    except Exception as error:  # a codec, or the bundle's own code
        return Unread(row, f"cannot be read: {where(error)}")
    best: dict[str, MarkedBox] = {}
    for box in sorted(found.boxes, key=lambda b: -b.score):
        best.setdefault(box.key, box)
    tall, wide = picture.display.shape
    return Answer(row, found.scores, tuple(best.values()), tall, wide, picture.note, decode_seconds, model_seconds)
