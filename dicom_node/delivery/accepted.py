"""What destinations accept, and how the pictures of a study are encoded for them.

Start here for: the presentation contexts that are proposed for results (:func:`contexts`), and the choice of one pixel
encoding for the pictures of a study and of the class of its report (:func:`profiles`).

A destination's answers to the proposed presentation contexts (PS3.8 9.3.3.2) are recorded in the index, so that the
choice is made before anything is encoded. The choice is about pixels, and so part of what the UIDs derive from. At the
time of sending nothing is chosen any more: whoever does not accept the transfer syntax of a file gets its pixels
decompressed (:mod:`dicom_node.network.storage_scu`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicom_node.config.settings import Profile, Route, Settings
from dicom_node.config.values import Pictures
from dicom_node.dicom.attributes import LABEL_MAP
from dicom_node.index.index import Index
from dicom_node.network.attempt import Attempt, Outcome
from dicom_node.network.requestor import Context, uncompressed

COMPRESSED: Mapping[str, tuple[UID, ...]] = {
    str(SecondaryCaptureImageStorage): (JPEGBaseline8Bit, JPEGLSLossless),
    str(SegmentationStorage): (RLELossless,),
    str(LABEL_MAP): (RLELossless,),
}
"""The transfer syntaxes of compressed results, by SOP class."""


def contexts(sop_classes: Iterable[str]) -> list[Context]:
    """The presentation contexts to propose for results of these SOP classes: one for each transfer syntax."""
    classes = [str(each) for each in sop_classes]
    compressed = [(each, str(syntax)) for each in classes for syntax in COMPRESSED.get(each, ())]
    return [*uncompressed(classes), *compressed]


def note(index: Index, peer: str, attempt: Attempt, now: float) -> bool:
    """Record what a destination accepted of the contexts proposed to it; whether that differs from what was known."""
    if attempt.outcome not in (Outcome.ESTABLISHED, Outcome.NO_CONTEXT):
        return False
    classes = dict.fromkeys(each.sop_class for each in attempt.contexts)
    return index.note_accepted(peer, {each: attempt.accepted(each) for each in classes}, now)


def in_words(attempt: Attempt) -> str:
    """How pictures are sent to a destination that accepted these contexts."""
    accepted = attempt.accepted(SecondaryCaptureImageStorage)
    taken = [syntax.name for syntax in COMPRESSED[SecondaryCaptureImageStorage] if syntax in accepted]
    if taken:
        return f"pictures in {' or '.join(taken)}"
    return "pictures uncompressed" if accepted else "no pictures"


def profiles(settings: Settings, route: Route, index: Index, study: str) -> tuple[tuple[str, Profile], ...]:
    """Each destination of a route, with how the results of a study are made for it.

    Where the configuration does not say how pictures are encoded, all those destinations get them in one encoding. A
    study keeps the one that its first results have: otherwise the same images would get other results.
    """
    made = frozenset[str]().union(*index.known_runs(study).values())
    given = [(name, _with_report(settings.profile(route, name), index.accepted_by(name), made)) for name in route.to]
    free = [name for name in route.to if "pictures" not in settings.wishes(route, name)]
    if not free:
        return tuple(given)

    def of(profile: Profile, pictures: Pictures) -> Profile:
        return dataclasses.replace(profile, pictures=pictures)

    earlier = (
        pictures
        for pictures in get_args(Pictures)
        if any(of(profile, pictures).digest in made for name, profile in given if name in free)
    )
    pictures = next(earlier, None) or encoding([index.accepted_by(name) for name in free])
    return tuple((name, of(profile, pictures) if name in free else profile) for name, profile in given)


def _with_report(profile: Profile, accepted: Mapping[str, frozenset[str]], made: frozenset[str]) -> Profile:
    """The profile with a report that its destination stores: without one, nobody would be told what was found.

    Comprehensive 3D SR is made where the destination is known to accept it. A study keeps the kind that its first
    results have, as with pictures.
    """
    if profile.sr_class == "comprehensive":
        return profile
    plain = dataclasses.replace(profile, sr_class="comprehensive")
    for each in (profile, plain):
        if any(dataclasses.replace(each, pictures=pictures).digest in made for pictures in get_args(Pictures)):
            return each
    return profile if accepted.get(Comprehensive3DSRStorage) else plain


def encoding(known: Sequence[Mapping[str, frozenset[str]]]) -> Pictures:
    """The encoding for destinations of which this is known: the transfer syntaxes that each accepted by SOP class.

    It is JPEG if one of them accepts it or is not known yet: it is the smallest, and the others get it decoded. If all
    refuse JPEG, nothing is gained by a loss: it is JPEG-LS where all accept that, else uncompressed.
    """
    accepted = [each.get(SecondaryCaptureImageStorage) for each in known]
    pictures = [each for each in accepted if each != frozenset()]  # one that takes no pictures does not count
    if not pictures or any(each is None or JPEGBaseline8Bit in each for each in pictures):
        return "jpeg"
    return "jpeg-ls" if all(each and JPEGLSLossless in each for each in pictures) else "uncompressed"
