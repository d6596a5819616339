"""Groups slices into stacks: parallel slices of one matrix size, one at each place, sorted along the normal.

The order follows the positions in the patient (PS3.3 section C.7.6.2.1.1). Instance numbers are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ai.volumes.slices import APART, Slice

Reals = NDArray[np.float64]

# The greatest difference of cosines of parallel planes, and the greatest relative difference of equal pixel sizes.
_PARALLEL = 1e-4
_SAME_SIZE = 1e-6
_SAME_PLACE = 0.01
"""Slices closer than this (mm) along the normal are at the same place."""
_EVEN, _LEAST_EVEN = 0.05, 0.11
"""The greatest deviation from an even row: a share of the distance between slices, or mm, whichever is more."""
_MANY = 64
"""Slices with more different orientations than this are not compared: they form no stacks."""


class Flaw(Enum):
    """The reason why a stack is no volume."""

    NONE = 0
    MISSING = 1  # slices of an otherwise even stack
    UNEVEN = 2
    CONFLICT = 3  # different images at the same place


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Slices sorted along the normal (row cosines x column cosines), with their flaw and its reason.

    ``copies`` are slices with the same pixels as another at their place. They are not in ``slices``.
    """

    slices: tuple[Slice, ...]
    copies: tuple[Slice, ...] = ()
    flaw: Flaw = Flaw.NONE
    reason: str = ""

    @property
    def normal(self) -> Reals:
        """The unit vector across the slices (LPS)."""
        return _normal(self.slices[0])

    @property
    def step(self) -> Reals:
        """The vector from one slice to the next (mm, LPS). It is not along the normal if the gantry was tilted."""
        if len(self.slices) == 1:
            return np.asarray(self.normal * (self.slices[0].thickness or 1.0))
        first, last = (np.array(self.slices[at].position) for at in (0, -1))
        return np.asarray((last - first) / (len(self.slices) - 1))

    @property
    def spacing(self) -> float:
        """The distance between neighbouring slices in mm along the normal. 0 for a single slice."""
        if len(self.slices) == 1:
            return 0.0
        return _usual(_along(self)) if self.flaw is Flaw.MISSING else float(self.step @ self.normal)

    @property
    def orientation(self) -> Literal["axial", "coronal", "sagittal"]:
        """The plane of the body that the slices are nearest to."""
        names: tuple[Literal["axial", "coronal", "sagittal"], ...] = ("sagittal", "coronal", "axial")
        return names[int(np.argmax(np.abs(self.normal)))]

    def affine(self) -> Reals:
        """The affine (4 x 4) from (column, row, slice) to patient mm in RAS+: LPS with x and y negated."""
        first = self.slices[0]
        affine = np.eye(4)
        affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
        affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
        affine[:3, 2] = self.step
        affine[:3, 3] = first.position
        affine[:2] *= -1.0
        return affine


def stacks_of(slices: Iterable[Slice], same: Callable[[Slice, Slice], bool]) -> list[Stack]:
    """Group slices into stacks, the largest first. ``same`` compares the pixels of two slices, if that is needed.

    Slices at the same place are separated by the attributes of `APART`. If these are equal, the slices are copies, or
    they conflict.
    """
    once = {(each.instance.sop_instance_uid, each.frame): each for each in slices}
    stacks = [stack for group in _parallel(list(once.values())) for stack in _split(group, same)]
    return sorted(stacks, key=lambda stack: -len(stack.slices))


def _normal(one: Slice) -> Reals:
    across = np.cross(one.orientation[:3], one.orientation[3:])
    return np.asarray(across / np.linalg.norm(across))


def _parallel(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Group slices of one matrix size, frame of reference, orientation and pixel size."""
    alike: dict[tuple[object, ...], list[Slice]] = {}
    for each in slices:
        key = (each.rows, each.columns, each.frame_of_reference, each.orientation, each.spacing)
        alike.setdefault(key, []).append(each)
    groups: list[list[Slice]] = []
    for some in alike.values():
        # A device rounds the cosines of each slice separately.
        near = next((group for group in groups if _fits(group[0], some[0])), None) if len(alike) <= _MANY else None
        if near is None:
            groups.append(some)
        else:
            near += some
    return groups


def _fits(one: Slice, other: Slice) -> bool:
    if (one.rows, one.columns, one.frame_of_reference) != (other.rows, other.columns, other.frame_of_reference):
        return False
    turned = np.abs(np.array(one.orientation) - other.orientation).max()
    scaled = np.abs(np.array(one.spacing) / other.spacing - 1.0).max()
    return bool(turned <= _PARALLEL and scaled <= _SAME_SIZE)


def _split(group: list[Slice], same: Callable[[Slice, Slice], bool]) -> list[Stack]:
    whole = _ordered(group)
    if any(len(place) > 1 for place in _places(whole)):
        parts = _separated(group, range(len(APART)), lambda part: _distinct(_ordered(part)))
        return [_judged(_ordered(part)) for part in parts] if parts else [_without_copies(whole, same)]
    stack = _judged(whole)
    if stack.flaw is not Flaw.NONE:
        # Stations of a long scan, or parts of a head in slices of two thicknesses.
        keys = [APART.index(name) for name in ("acquisition", "stack", "thickness", "kind")]
        parts = _separated(group, keys, lambda part: _judged(_ordered(part)).flaw is Flaw.NONE)
        if parts:
            return [_judged(_ordered(part)) for part in parts]
    return [stack]


def _separated(
    group: Sequence[Slice], keys: Iterable[int], sound: Callable[[list[Slice]], bool]
) -> list[list[Slice]] | None:
    """Separate slices by up to three attributes of `APART` into the fewest parts. None if no way fits.

    Each part must have at least two slices and be ``sound``.
    """
    differing = [key for key in keys if len({each.apart[key] for each in group}) > 1]
    found: list[list[list[Slice]]] = []
    for count in (1, 2, 3):
        for some in combinations(differing, count):
            parts: dict[tuple[str, ...], list[Slice]] = {}
            for each in group:
                parts.setdefault(tuple(each.apart[key] for key in some), []).append(each)
            if all(len(part) > 1 for part in parts.values()) and all(sound(part) for part in parts.values()):
                found.append(list(parts.values()))
        if found:
            return min(found, key=len)
    return None


def _ordered(group: Iterable[Slice]) -> Stack:
    some = list(group)
    along = np.array([each.position for each in some]) @ _normal(some[0])
    # Slices at one place keep their order.
    return Stack(tuple(some[int(at)] for at in np.argsort(along, kind="stable")))


def _along(stack: Stack) -> Reals:
    """The positions of the slices along the normal, in mm."""
    return np.asarray(np.array([each.position for each in stack.slices]) @ stack.normal)


def _places(stack: Stack) -> list[list[Slice]]:
    """The slices at each place."""
    along = _along(stack)
    places = [[stack.slices[0]]]
    for before, after, each in zip(along, along[1:], stack.slices[1:], strict=False):
        if after - before < _SAME_PLACE:
            places[-1].append(each)
        else:
            places.append([each])
    return places


def _distinct(stack: Stack) -> bool:
    return all(len(place) == 1 for place in _places(stack))


def _without_copies(stack: Stack, same: Callable[[Slice, Slice], bool]) -> Stack:
    """Keep one slice at each place. The others must have the same pixels, otherwise the stack has a conflict."""
    places = _places(stack)
    copies = [(place[0], other) for place in places for other in place[1:]]
    kept = _judged(Stack(tuple(place[0] for place in places)))
    moved = any(np.linalg.norm(np.subtract(one.position, other.position)) > _SAME_PLACE for one, other in copies)
    if moved or not all(same(*pair) for pair in copies):
        several = sum(len(place) > 1 for place in places)
        reason = f"different images lie at the same place ({several} of {len(places)} places)"
        return replace(stack, flaw=Flaw.CONFLICT, reason=reason)
    return replace(kept, copies=tuple(other for _, other in copies))


def _judged(stack: Stack) -> Stack:
    """The stack with the flaw that the distances between its slices show."""
    if len(stack.slices) < 3:
        return stack
    along = _along(stack)
    apart = np.diff(along)
    usual = _usual(along)
    even = np.linspace(along[0], along[-1], len(along))
    # In a long row of thin slices, a gap moves no slice far from its even place.
    gap = (apart - usual).max() > max(usual / 2.0, _LEAST_EVEN)
    if gap or np.abs(along - even).max() > max(_EVEN * usual, _LEAST_EVEN):
        steps = apart / usual
        jumps = np.flatnonzero(steps > 1.5)
        whole = np.abs(steps - np.rint(steps)).max() <= 0.2
        if len(jumps) and len(jumps) <= max(1, len(apart) // 10) and whole:
            lost = int((np.rint(steps[jumps]) - 1).sum())
            at = int(jumps[0])
            reason = (
                f"{lost} slice{'s are' if lost > 1 else ' is'} missing: after slice {at + 1} of {len(along)} "
                f"(from the {_begin(stack)}) the next lies {apart[at]:.4g} mm on, not {usual:.4g} mm"
            )
            return replace(stack, flaw=Flaw.MISSING, reason=reason)
        reason = f"the distance between its slices varies from {apart.min():.4g} to {apart.max():.4g} mm"
        return replace(stack, flaw=Flaw.UNEVEN, reason=reason)
    positions = np.array([each.position for each in stack.slices])
    line = positions[0] + np.arange(len(positions))[:, None] * stack.step
    aside = positions - line - np.outer((positions - line) @ stack.normal, stack.normal)
    if np.linalg.norm(aside, axis=1).max() > 0.5 * min(stack.slices[0].spacing):
        return replace(stack, flaw=Flaw.UNEVEN, reason="its slices are shifted against one another")
    return stack


def _usual(along: Reals) -> float:
    """The lower median of the distances: of two distances, the one that is no gap."""
    apart = np.sort(np.diff(along))
    return float(apart[(len(apart) - 1) // 2])


def _begin(stack: Stack) -> str:
    """The side of the body on which the first slice lies."""
    axis = int(np.argmax(np.abs(stack.normal)))
    ends = (("right", "left"), ("front", "back"), ("feet", "head"))[axis]
    return ends[0] if stack.normal[axis] > 0 else ends[1]


def placed_once(stacks: Sequence[Stack]) -> Stack | None:
    """The stack that has a slice of every image and more slices than any other. None if there is none."""
    images = {each.instance.sop_instance_uid for stack in stacks for each in (*stack.slices, *stack.copies)}
    largest = stacks[0]
    held = {each.instance.sop_instance_uid for each in (*largest.slices, *largest.copies)}
    alone = all(len(largest.slices) > len(other.slices) for other in stacks[1:])
    return largest if alone and held == images else None
