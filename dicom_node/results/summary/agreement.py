"""Which models agree on which classes, and which contradict each other: worst first.

Classes are the same if they have the same code. What a class may stand for (its differential) makes no two classes the
same: a model that calls an opacity present, which may be pneumonia, does not contradict one that calls pneumonia
absent. Anatomy is not compared.

The order is that of `Kind`: what every model that answers calls present; then contradictions; then what is present and
not confirmed; then what a model leaves open; then what two models or more call absent; then what one alone calls
absent. Within a kind, what more models call present comes first, then what stands first in the models' own order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from ai.contract import ClassResult, Code, Presence, Reading


class Kind(IntEnum):
    """How the models stand to each other on one class; a lower value is worse."""

    PRESENT = 1
    CONTRADICTION = 2
    UNCONFIRMED = 3
    OPEN = 4
    ABSENT = 5
    ABSENT_ALONE = 6


class Said(StrEnum):
    """What one model says of a class; a model that failed says nothing of any class."""

    PRESENT = "present"
    UNDETERMINED = "undetermined"
    ABSENT = "absent"
    FAILED = "failed"
    NOT_ASSESSED = "not assessed"
    NOT_LOOKED_FOR = "not looked for"


@dataclass(frozen=True, slots=True)
class Topic:
    """One class with what each model says of it, in the order of the models; ``results`` are None without a verdict."""

    code: Code
    name: str
    said: tuple[Said, ...]
    results: tuple[ClassResult | None, ...]
    kind: Kind

    @property
    def present(self) -> int:
        """How many models call it present."""
        return self.said.count(Said.PRESENT)


_VERDICTS = frozenset((Said.PRESENT, Said.UNDETERMINED, Said.ABSENT))
_WORST = (Presence.PRESENT, Presence.UNDETERMINED, Presence.ABSENT)


def topics(answers: Sequence[Reading]) -> list[Topic]:
    """Every class that a model has a verdict on, worst first."""
    classes: dict[tuple[str, str], ClassResult] = {}
    for answer in answers:
        for each in answer.classes:
            if each.finding:
                classes.setdefault((each.code.value, each.code.scheme), each)
    found = []
    for code, first in classes.items():
        results = tuple(_result(answer, code) for answer in answers)
        said = tuple(_said(answer, result) for answer, result in zip(answers, results, strict=True))
        if _VERDICTS.isdisjoint(said):  # nobody assesses it: no kind is true of it
            continue
        found.append(Topic(first.code, first.name, said, results, _kind(said)))
    return sorted(found, key=lambda each: (each.kind, -each.present))


def _result(answer: Reading, code: tuple[str, str]) -> ClassResult | None:
    """The worst verdict of a model on a code; None if it has none."""
    results: Iterable[ClassResult] = (each for each in answer.classes if (each.code.value, each.code.scheme) == code)
    return min(results, key=lambda each: _WORST.index(each.presence), default=None)


def _said(answer: Reading, result: ClassResult | None) -> Said:
    if answer.failure:
        return Said.FAILED
    if result is None:
        return Said.NOT_LOOKED_FOR
    return Said.NOT_ASSESSED if result.not_assessed else Said(result.presence.value)


def _kind(said: Sequence[Said]) -> Kind:
    present, absent, unsure = (said.count(each) for each in (Said.PRESENT, Said.ABSENT, Said.UNDETERMINED))
    if present and absent:
        return Kind.CONTRADICTION
    if present:
        return Kind.UNCONFIRMED if unsure or present == 1 else Kind.PRESENT
    if unsure:
        return Kind.OPEN
    return Kind.ABSENT if absent > 1 else Kind.ABSENT_ALONE
