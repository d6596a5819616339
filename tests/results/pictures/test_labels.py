"""Labels lie beside their boxes, on nothing that matters, and give way to numbers only where there is no room."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.results.pictures.labels import _MOST, Place, Rect, place, place_tags


def area(a: Rect, b: Rect) -> int:
    return max(min(a.right, b.right) - max(a.left, b.left), 0) * max(min(a.bottom, b.bottom) - max(a.top, b.top), 0)


def passes(line: tuple[tuple[int, int], tuple[int, int]], rect: Rect) -> bool:
    """Whether a line runs through a rectangle, by walking along it."""
    (x0, y0), (x1, y1) = line
    steps = np.linspace(0, 1, 4 * max(abs(x1 - x0), abs(y1 - y0), 1))
    x, y = x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)
    return bool(((x > rect.left) & (x < rect.right) & (y > rect.top) & (y < rect.bottom)).any())


def touches(a: Rect, b: Rect) -> bool:
    return a.left <= b.right and b.left <= a.right and a.top <= b.bottom and b.top <= a.bottom


def check(frames: list[Rect], sizes: list[tuple[int, int]], columns: int, rows: int, places: list[Place]) -> None:
    assert [(p.rect.right - p.rect.left, p.rect.bottom - p.rect.top) for p in places] == sizes
    for frame, each in zip(frames, places, strict=True):
        assert min(each.rect) >= 0
        assert each.rect.right <= columns
        assert each.rect.bottom <= rows
        assert all(area(each.rect, other) == 0 for other in frames)
        assert touches(each.rect, frame) != (each.leader is not None)
        if each.leader is not None:
            (x0, y0), (x1, y1) = each.leader
            assert area(Rect(x0, y0, x0 + 1, y0 + 1), each.rect.grown(1)) == 1
            assert area(Rect(x1, y1, x1 + 1, y1 + 1), frame.grown(1)) == 1
    assert all(area(a.rect, b.rect) == 0 for a, b in itertools.combinations(places, 2))


def scattered(seed: int, count: int, low: float = 0.0, high: float = 1.0, size: float = 0.2) -> list[Rect]:
    """Boxes on 512 x 512 within a share of the picture."""
    chance = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        width, height = chance.uniform(0.03, size, 2)
        left, top = chance.uniform(low, max(high - width, low)), chance.uniform(low, max(high - height, low))
        frames.append(Rect(*(round(512 * v) for v in (left, top, left + width, top + height))))
    return frames


LABEL = (152, 18)  # "12: Pleural effusion 0.50" in the smallest type


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("within", [(0.0, 1.0), (0.25, 0.7)], ids=["all over", "crowded"])
def test_twelve_findings_on_the_smallest_picture_have_their_labels(seed: int, within: tuple[float, float]) -> None:
    frames, sizes = scattered(seed, 12, *within), [LABEL] * 12
    places = place(frames, sizes, 512, 512)
    assert places is not None
    check(frames, sizes, 512, 512, places)
    lines = [each.leader for each in places if each.leader is not None]
    others = [each.rect.grown(-1) for each in places]
    crossed = sum(passes(line, label) for line in lines for label in others)
    assert crossed == 0


def test_a_lone_label_stands_on_its_box() -> None:
    (one,) = place([Rect(100, 100, 200, 150)], [(80, 18)], 512, 512) or []
    assert one == Place(Rect(100, 82, 180, 100), None)
    (at_the_top,) = place([Rect(100, 2, 200, 150)], [(80, 18)], 512, 512) or []
    assert at_the_top == Place(Rect(100, 150, 180, 168), None)


def test_a_label_inside_of_nothing_is_tied_to_its_box() -> None:
    frames = [Rect(100, 100, 300, 400), Rect(180, 220, 200, 240)]
    outer, inner = place(frames, [(80, 18), (80, 18)], 512, 512) or []
    assert outer.leader is None
    assert inner.leader is not None
    check(frames, [(80, 18), (80, 18)], 512, 512, [outer, inner])


def test_boxes_on_the_same_place_have_a_label_each() -> None:
    frames = [Rect(100, 100, 300, 300)] * 3
    check(frames, [LABEL] * 3, 512, 512, place(frames, [LABEL] * 3, 512, 512) or [])


def test_what_is_to_be_spared_is_spared_where_there_is_another_way() -> None:
    box, mark = Rect(100, 100, 200, 150), Rect(90, 40, 260, 100)
    (one,) = place([box], [(80, 18)], 512, 512, [mark]) or []
    assert area(one.rect, mark) == 0
    (hemmed,) = place([box], [(80, 18)], 512, 512, [Rect(0, 0, 512, 512)]) or []
    assert touches(hemmed.rect, box)


@pytest.mark.parametrize(
    ("frames", "sizes"),
    [
        ([Rect(0, 0, 512, 512)], [(80, 18)]),
        ([Rect(10, 10, 502, 502)], [(80, 18)]),
        ([Rect(0, 18, 512, 512), Rect(0, 18, 512, 512)], [(300, 18), (300, 18)]),
        ([Rect(100, 100, 200, 200)], [(513, 18)]),
        ([Rect(5, 5, 9, 9)] * (_MOST + 1), [(10, 10)] * (_MOST + 1)),
    ],
    ids=["full", "no margin", "one free line for two", "wider than the picture", "too many to read"],
)
def test_where_there_is_no_room_it_is_said(frames: list[Rect], sizes: list[tuple[int, int]]) -> None:
    assert place(frames, sizes, 512, 512) is None
    assert len(place_tags(frames, [(12, 18)] * len(frames), 512, 512)) == len(frames)


def test_one_free_line_is_room_enough_for_one_label() -> None:
    assert place([Rect(0, 18, 512, 512)], [(300, 18)], 512, 512) is not None


def test_a_tag_lies_where_it_covers_least() -> None:
    frames = [Rect(0, 0, 512, 512), Rect(100, 100, 200, 200)]
    full, other = place_tags(frames, [(12, 18)] * 2, 512, 512)
    assert area(full.rect, frames[1]) == 0
    assert area(full.rect, other.rect) == 0
    assert area(other.rect, frames[1]) == 0
    assert place_tags([], [], 512, 512) == []


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 480), st.integers(0, 480), st.integers(1, 300), st.integers(1, 300)), max_size=14
    ),
    st.integers(10, 200),
)
def test_whatever_the_boxes_are_a_placed_label_covers_nothing(
    boxes: list[tuple[int, int, int, int]], width: int
) -> None:
    frames = [Rect(x, y, min(x + w, 512), min(y + h, 512)) for x, y, w, h in boxes]
    sizes = [(width, 18)] * len(frames)
    places = place(frames, sizes, 512, 512)
    if places is not None:
        check(frames, sizes, 512, 512, places)
    tags = place_tags(frames, [(12, 18)] * len(frames), 512, 512)
    assert all(min(tag.rect) >= 0 and tag.rect.right <= 512 and tag.rect.bottom <= 512 for tag in tags)
