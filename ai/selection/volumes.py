"""Selects the stack of slices of a study that a model reads, by headers, with reasons for passing over the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Any, Literal

from ai.bundle.manifest import InputSpec, Range
from ai.contract import InstanceRef, PassedOver, ReadingError, Selection, SeriesRef
from ai.images.elements import shown
from ai.selection.rules import NO_IMAGE, NO_IMAGES, TWICE, first_match, of_header, of_series
from ai.volumes.slices import Sheet, read_sheet
from ai.volumes.stacks import Flaw, Stack, placed_once, stacks_of
from ai.volumes.volume import same_pixels

_Rule = Literal["kernel", "thin", "thick", "many", "latest"]
BETTER: dict[_Rule, str] = {
    "kernel": "preferred kernel",
    "thin": "thinner slices",
    "thick": "thicker slices",
    "many": "more slices",
    "latest": "acquired later",
}
_UNREADABLE = "its header cannot be read"
_DIGITS = 3
"""Digits (of mm) to which distances are compared: a distance of 1.25 may be computed as 1.2500001."""


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A stack that the model takes. ``flaw`` says why reading it will fail, empty if nothing is known."""

    series: SeriesRef
    number: float
    stack: Stack
    kernel: int
    thickness: float | None
    acquired: str
    original: bool
    unreadable: tuple[InstanceRef, ...]
    flaw: str

    @property
    def instances(self) -> tuple[InstanceRef, ...]:
        """The images in the order of their slices, then unreadable images that may also belong to it."""
        own = {each.instance.sop_instance_uid: each.instance for each in self.stack.slices}
        return (*own.values(), *self.unreadable)


@dataclass(frozen=True, slots=True)
class _Looked:
    """The stacks of a series that may be read, what is passed over, and images whose header cannot be read."""

    candidates: list[_Candidate]
    passed: list[PassedOver]
    unreadable: list[InstanceRef]


def select_volume(spec: InputSpec, series: Sequence[SeriesRef]) -> Selection:
    """Choose the stack that ``spec`` takes and prefers. ``chosen`` are its images in the order of their slices.

    A stack that lacks slices, or whose series has an unreadable image, is chosen only if no other stack of the study
    suits. Reading it then fails visibly, while passing it over would look like a study without a volume.
    """
    passed: list[PassedOver] = []
    candidates: list[_Candidate] = []
    unreadable: list[InstanceRef] = []
    seen: set[str] = set()
    for one in series:
        if reason := of_series(spec, one):
            passed.append(PassedOver(one.series_instance_uid, reason))
            continue
        looked = _look(spec, one, seen)
        candidates += looked.candidates
        passed += looked.passed
        unreadable += looked.unreadable
    ranked = _ranked(spec, candidates)
    if not ranked:
        return Selection(tuple(unreadable), tuple(passed))
    best = ranked[0]
    for other in ranked[1:]:
        passed.append(PassedOver(other.series.series_instance_uid, _why_not(spec, other, best)))
    chosen = {each.sop_instance_uid for each in best.instances}
    left = [each for each in unreadable if each.sop_instance_uid not in chosen]
    passed += [PassedOver(each.sop_instance_uid, _UNREADABLE) for each in left]
    return Selection(best.instances, tuple(dict.fromkeys(passed)))


# --- one series -------------------------------------------------------------------------------------------------------


def _look(spec: InputSpec, one: SeriesRef, seen: set[str]) -> _Looked:
    sheets: list[Sheet] = []
    unreadable: list[InstanceRef] = []
    refused: list[PassedOver] = []
    for instance in one.instances:
        uid, reason = instance.sop_instance_uid, ""
        if uid in seen:
            reason = TWICE
        elif instance.sop_class_uid.startswith(NO_IMAGES):
            reason = NO_IMAGE
        else:
            seen.add(uid)
            try:
                sheet = read_sheet(instance)
            except ReadingError:
                unreadable.append(instance)
                continue
            reason = of_header(spec, one, sheet.header) or sheet.placeless
            if not reason:
                sheets.append(sheet)
        if reason:
            refused.append(PassedOver(uid, reason))
    if len(refused) == len(one.instances) and len({each.reason for each in refused}) == 1:
        refused = [PassedOver(one.series_instance_uid, refused[0].reason)]
    stacks = stacks_of((each for sheet in sheets for each in sheet.slices), same_pixels)
    candidates = []
    by_uid = {sheet.instance.sop_instance_uid: sheet for sheet in sheets}
    for stack in stacks:
        own = dict.fromkeys(each.instance.sop_instance_uid for each in stack.slices)
        refused += [
            PassedOver(each.instance.sop_instance_uid, "it shows the same as another image of the series")
            for each in stack.copies
            if each.instance.sop_instance_uid not in own
        ]
        candidate = _candidate(spec, one, stack, [by_uid[uid] for uid in own], tuple(unreadable))
        if isinstance(candidate, str):
            refused.append(PassedOver(one.series_instance_uid, candidate))
        else:
            candidates.append(candidate)
    return _Looked(candidates, list(dict.fromkeys(refused)), unreadable)


def _candidate(
    spec: InputSpec, series: SeriesRef, stack: Stack, sheets: list[Sheet], unreadable: tuple[InstanceRef, ...]
) -> _Candidate | str:
    """A stack, or why it is passed over."""
    thicknesses = [each.thickness for each in stack.slices if each.thickness is not None]
    thickness = median(thicknesses) if thicknesses else None
    kernel = first_match(stack.slices[0].kernel, spec.kernel)
    contrast = any(sheet.contrast for sheet in sheets)
    reasons = (
        _outside("number of slices", len(stack.slices), spec.slices, ""),
        stack.reason if stack.flaw in (Flaw.UNEVEN, Flaw.CONFLICT) else "",
        _orientation(stack, spec),
        _outside("slice thickness", thickness, spec.thickness_mm),
        _outside("distance between slices", stack.spacing, spec.spacing_mm),
        *(_outside("pixel size", size, spec.pixel_mm) for size in stack.slices[0].spacing),
        _kernel(stack.slices[0].kernel, spec.kernel) if kernel is None else "",
        "a contrast agent was given" if spec.contrast == "without" and contrast else "",
        "no contrast agent was given" if spec.contrast == "with" and not contrast else "",
        "" if _recoverable(stack, sheets) else "its images hold another stack as large or larger",
    )
    if reason := next((reason for reason in reasons if reason), ""):
        return reason
    numbers = [sheet.header.series_number for sheet in sheets if sheet.header.series_number is not None]
    flaw = "an image of its series cannot be read" if unreadable else ""
    return _Candidate(
        series,
        min(numbers, default=inf),
        stack,
        kernel or 0,
        thickness,
        max(sheet.acquired for sheet in sheets),
        all(sheet.header.image_type[:1] == ("ORIGINAL",) for sheet in sheets),
        unreadable,
        stack.reason or flaw,
    )


def _recoverable(stack: Stack, sheets: Sequence[Sheet]) -> bool:
    """Whether the stack can be rebuilt from its images alone: an image with many frames may hold several stacks."""
    frames = sum(len(sheet.slices) for sheet in sheets)
    if frames == len(stack.slices) + len(stack.copies):
        return True
    found = placed_once(stacks_of((each for sheet in sheets for each in sheet.slices), same_pixels))
    return found is not None and {*found.slices} == {*stack.slices}


def _outside(what: str, value: float | None, admitted: Range, unit: str = " mm") -> str:
    if admitted.min is None and admitted.max is None:
        return ""
    low, high = admitted.min, admitted.max
    if low is None:
        taken = f"{high:g}{unit} or less"
    elif high is None:
        taken = f"{low:g}{unit} or more"
    else:
        taken = f"{low:g} to {high:g}{unit}"
    if value is None:
        return f"no {what} is given, and the model takes {taken}"
    return "" if admitted.holds(round(value, _DIGITS)) else f"{what} {value:.4g}{unit} is not among {taken}"


def _orientation(stack: Stack, spec: InputSpec) -> str:
    if not spec.orientation or stack.orientation in spec.orientation:
        return ""
    return f"orientation {stack.orientation} is not among {', '.join(spec.orientation)}"


def _kernel(values: tuple[str, ...], patterns: tuple[str, ...]) -> str:
    names = ", ".join(each for each in patterns if each.strip())
    if not any(values):
        return f"no kernel is given, and the model takes {names}"
    return f"kernel {shown(values[0].upper())} is not among {names}"


# --- the best ---------------------------------------------------------------------------------------------------------


def _ranked(spec: InputSpec, candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Sort stacks, the best first: readable ones, then the model's preferences, then originals, then series number."""
    ranked = sorted(candidates, key=lambda each: (not each.original, each.number, each.series.series_instance_uid))
    for rule in reversed(spec.prefer):
        worth, most_first = _WORTH[rule]
        ranked.sort(key=worth, reverse=most_first)
    return sorted(ranked, key=lambda each: bool(each.flaw))


def _thin(one: _Candidate) -> float:
    return round(one.stack.spacing if one.thickness is None else one.thickness, _DIGITS)


_WORTH: dict[_Rule, tuple[Callable[[_Candidate], Any], bool]] = {
    "kernel": (lambda one: one.kernel, False),
    "thin": (_thin, False),
    "thick": (_thin, True),
    "many": (lambda one: len(one.stack.slices), True),
    "latest": (lambda one: one.acquired, True),
}


def _why_not(spec: InputSpec, one: _Candidate, best: _Candidate) -> str:
    if one.flaw and not best.flaw:
        return one.flaw
    own = one.series.series_instance_uid == best.series.series_instance_uid
    what = "another stack of the series" if own else "another series of the study"
    telling = (rule for rule in spec.prefer if _WORTH[rule][0](one) != _WORTH[rule][0](best))
    rule = next(telling, None)
    if rule is not None:
        return f"{what} suits better: {BETTER[rule]}"
    return f"{what} suits as well and comes first"
