"""The colours of findings and segments: a class has one colour for ever, the same in every kind of result.

Start here for: the colour of a class (:class:`Palette`), which code has which colour (``_PLACES``).

A colour follows from the class's code, never from its place in a reading. Codes that the table does not have get theirs
from a digest of the code; among the classes of one model, one whose place is taken moves on to the next free one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

from ai.contract import Code, Finding, Reading, Segment
from dicom_node.results.pictures.drawing import Colour
from dicom_node.results.run import SCHEME

COLOURS: tuple[Colour, ...] = (
    *((86, 180, 233), (230, 159, 0), (204, 121, 167), (240, 228, 66), (0, 158, 115), (213, 94, 0)),
    *((165, 255, 225), (165, 240, 255), (180, 255, 165), (225, 0, 180), (255, 60, 105), (135, 210, 195)),
    *((180, 210, 165), (120, 135, 255), (135, 195, 210), (195, 150, 150), (75, 120, 195), (165, 105, 75)),
    *((75, 135, 135), (105, 210, 105)),
)
"""Those of Okabe and Ito that are not too dark on black, and others chosen to be as far as can be from all before them.

Any two are at least 9.8 apart (CIEDE2000), also as people without red or green cones see them; no place ever changes.
"""

# One place for what is one thing under several codes. Append; never move a line, or a class would change its colour.
_PLACES: dict[tuple[str, str], int] = {
    (value, scheme): place
    for place, codes in enumerate(
        (
            (("427359005", "SCT"), ("27925004", "SCT"), ("786838002", "SCT"), ("nodule_or_mass", SCHEME)),  # nodule
            (("36118008", "SCT"),),  # pneumothorax
            (("154283005", "SCT"), ("tb_susp", SCHEME)),  # tuberculosis
            (("60046008", "SCT"),),  # pleural effusion
            (("233604007", "SCT"), ("pneumonia_susp", SCHEME)),  # pneumonia
            (("95436008", "SCT"),),  # consolidation
            (("309529002", "SCT"), ("4147007", "SCT")),  # mass
            (("8186001", "SCT"),),  # cardiomegaly
            (("46621007", "SCT"),),  # atelectasis
            (("125605004", "SCT"),),  # fracture
            (("168734001", "SCT"), ("263654008", "SCT"), ("112033", "DCM")),  # abnormal
            (("19242006", "SCT"),),  # edema
            (("409609008", "SCT"), ("112121", "DCM")),  # infiltrate
            (("87433001", "SCT"),),  # emphysema
            (("51615001", "SCT"),),  # fibrosis
            (("39839004", "SCT"),),  # hernia
            (("112001", "DCM"),),  # opacity
            (("lung_lesion", SCHEME),),
            (("pleural_t_68c935", SCHEME),),  # pleural thickening
            (("enlarged__e8a336", SCHEME),),  # enlarged cardiomediastinum
        )
    )
    for value, scheme in codes
}


class Palette:
    """The colours of the classes and segments of a model, as its reading names them."""

    def __init__(self, reading: Reading) -> None:
        segments = [each for one in reading.segmentations for each in one.segments]
        classes = {each.key: each.code for each in reading.classes}
        classes |= {each.key: each.code for each in reading.not_looked_for}
        others = {each.key: each.code for each in segments if each.key not in classes}
        places = _places({**classes, **others})
        self.classes: dict[str, Colour] = {key: COLOURS[place] for key, place in places.items()}
        seen: Counter[Colour] = Counter()
        self._before: dict[int, int] = {}
        for key in classes:
            seen[self.classes[key]] += 1
        for each in segments:
            colour = self.classes[each.key]
            self._before[id(each)] = 0 if each.key in classes else seen[colour]
            seen[colour] += each.key not in classes

    def colour(self, finding: Finding) -> Colour:
        """The colour of a finding's class."""
        return self.classes.get(finding.key, COLOURS[place_of(finding.code)])

    def segment(self, segment: Segment) -> tuple[Colour, int]:
        """A segment's colour (its class's, if it has one), and how many earlier segments or classes have the same."""
        return self.classes[segment.key], self._before[id(segment)]


def place_of(code: Code) -> int:
    """The place of a code's colour in ``COLOURS``."""
    known = _PLACES.get((code.value, code.scheme))
    digest = hashlib.sha256(f"{code.scheme}\0{code.value}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % len(COLOURS) if known is None else known


def _places(codes: dict[str, Code]) -> dict[str, int]:
    """A place for each class (key: code), no two the same while there are places left, whatever their order is."""
    found: dict[str, int] = {}
    taken: set[int] = set()
    for key, code in _surest_first(codes.items()):
        wanted = [(place_of(code) + step) % len(COLOURS) for step in range(len(COLOURS))]
        found[key] = next((place for place in wanted if place not in taken), wanted[0])
        taken.add(found[key])
    return {key: found[key] for key in codes}


def _surest_first(codes: Iterable[tuple[str, Code]]) -> Iterator[tuple[str, Code]]:
    """Those whose place the table fixes before all others, each sorted by code and key."""
    return iter(sorted(codes, key=lambda one: ((one[1].value, one[1].scheme) not in _PLACES, *_sortable(one))))


def _sortable(one: tuple[str, Code]) -> tuple[str, str, str]:
    return one[1].scheme, one[1].value, one[0]
