"""A model over many images: decoded ahead in threads, read one by one, each with its time."""

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

_AHEAD = 4  # images decoded and not yet read: tens of megabytes each at full resolution


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of one image: the scores, the best box of each class, the picture's note, and the times.

    ``decode_seconds`` passes in a thread beside the model's ``model_seconds``. ``rows`` and ``columns`` are the
    image's.
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
    """An image that could not be read, and why."""

    row: Row
    reason: str


def read_rows(model: BundleModel, rows: Sequence[Row]) -> Iterator[Answer | Unread]:
    """Read images in order; one that cannot be decoded or read is told and does not end the run."""
    with ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[Row, Future[tuple[Picture, float]]]] = deque()
        left = iter(rows)
        try:
            while True:
                while len(waiting) < _AHEAD and (row := next(left, None)) is not None:
                    waiting.append((row, pool.submit(_decoded, row)))
                if not waiting:
                    return
                row, future = waiting.popleft()
                yield _read(model, row, future)
        finally:
            for _, future in waiting:
                future.cancel()


def _decoded(row: Row) -> tuple[Picture, float]:
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
