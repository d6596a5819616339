"""A model over many images: decoded ahead in threads, read one by one, each with its time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ai.contract import HeatMap, InstanceRef, ReadingError
from ai.errors import where
from ai.evaluation.pictures import Picture, load_picture

if TYPE_CHECKING:
    from ai.bundle import BundleModel
    from ai.evaluation.tables import Row

__all__ = ["Answer", "FoundBox", "ImageAnswer", "Unread", "answer", "read_rows"]

_AHEAD = 4  # images decoded and not yet read: tens of megabytes each at full resolution


@dataclass(frozen=True, slots=True)
class FoundBox:
    """Where the model saw a class (``key``): pixel edges (column, row) of the stored image."""

    key: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, eq=False)
class ImageAnswer:
    """What a model says of one image: a score for each output, in order, its boxes (best first) and heat maps."""

    scores: tuple[float, ...]
    boxes: tuple[FoundBox, ...]
    heat_maps: tuple[HeatMap, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of one image: the scores, the best box of each class, the picture's note, and the times.

    ``decode_seconds`` passes in a thread beside the model's ``model_seconds``. ``rows`` and ``columns`` are the
    image's.
    """

    row: Row
    scores: tuple[float, ...]
    best: tuple[FoundBox, ...]
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
        found = answer(model, picture.display)
        model_seconds = time.perf_counter() - started
    except (ReadingError, ValueError) as error:
        return Unread(row, str(error))
    except Exception as error:  # a codec, or the bundle's own code
        return Unread(row, f"cannot be read: {where(error)}")
    best: dict[str, FoundBox] = {}
    for box in sorted(found.boxes, key=lambda b: -b.score):
        best.setdefault(box.key, box)
    tall, wide = picture.display.shape
    return Answer(row, found.scores, tuple(best.values()), tall, wide, picture.note, decode_seconds, model_seconds)


def answer(model: BundleModel, display: NDArray[np.float32]) -> ImageAnswer:
    """What a model says of one image, given as greys from 0 to 1 (rows, columns) with white dense.

    Raises:
        ReadingError: the model cannot read it.
    """
    from ai.bundle import BundleError, _inside  # noqa: PLC0415
    from ai.tasks import regions, to_image  # noqa: PLC0415

    rows, columns = display.shape
    outputs = model.info.spec.outputs
    try:
        maps, affine = model._maps(display)
    except BundleError as error:
        raise ReadingError(str(error)) from None
    maps = _inside(maps, affine, rows, columns)
    boxes, scores = regions(maps, outputs)
    keys = {output.channel: output.key for output in outputs}
    found = []
    for box in boxes:
        place = to_image(affine, box)
        left, right = (min(max(x, 0.0), float(columns)) for x in (place.left, place.right))
        top, bottom = (min(max(y, 0.0), float(rows)) for y in (place.top, place.bottom))
        found.append(FoundBox(keys[box.channel], box.score, left, top, right, bottom))
    nowhere = InstanceRef("", "", "")
    return ImageAnswer(scores, tuple(found), tuple(model._heat_maps(nowhere, maps, affine, scores)))
