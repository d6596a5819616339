"""Chooses the operating points of ``chest_xray`` per study, and measures them on patients that chose nothing.

An operating point promises how many of a hundred images without any finding have anything at all called. The classes
that are looked for by default share that budget: each gets the threshold above which the same share of those images
lies, and that share is the greatest that keeps all of them together within the budget. One number is chosen for a
point, however few positives a class has. A class that is looked for on request alone has the budget to itself.

Images come from several collections; each counts alike, however many images it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ai.bundle.manifest import ClassFigures
from ai.training.chest.data import FOLDS, ON_REQUEST, REPORTED, Cases
from ai.training.chest.measure import DRAWS, FEWEST_OF_SOURCE

PROMISES: Final = {"low_alarm": 0.10, "balanced": 0.25, "screening": 0.45}
"""The share of images without finding that an operating point may call at most."""
DEFAULT: Final = "balanced"
PREVALENCES: Final = (0.005, 0.05, 0.2)
_STEP = 0.005
_OF_CLASS: Final = ("sensitivity", "normal", "other", "tuberculosis")
Mask = NDArray[np.bool_]
Scores = Mapping[str, NDArray[np.float64]]
Key = TypeVar("Key")


def operating_points(cases: Cases, scores: Scores, silent: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The operating points with everything that was measured of them, by name; empty without a class to call.

    ``scores`` are by class, out of fold. ``silent`` classes are never called. Thresholds are chosen on all images;
    figures are of calls with thresholds that were chosen on the other folds. Where these call more than promised, the
    budget is lowered until they do not.
    """
    called = [key for key in REPORTED if key not in silent and key in scores]
    together = [key for key in called if key not in ON_REQUEST]
    groups = [group for group in (together, *([key] for key in called if key in ON_REQUEST)) if group]
    if not groups or not cases.normal.any():
        return {}
    return {name: _point(cases, scores, groups, promised) for name, promised in PROMISES.items()}


def thresholds(cases: Cases, scores: Scores, keys: Sequence[str], budget: float) -> dict[str, float]:
    """The thresholds of ``keys`` that together call at most ``budget`` of the normal images, each the same share."""
    weights = source_weights(cases, cases.normal)
    used = np.flatnonzero(weights > 0.0)
    table, w = np.stack([scores[key][used] for key in keys]), weights[used]
    low, high = 0.0, 1.0
    for _ in range(40):
        rate = (low + high) / 2.0
        cuts = np.array([_cut(row, w, rate) for row in table])
        if float(w[(table >= cuts[:, None]).any(axis=0)].sum()) <= budget + 1e-9:
            low = rate
        else:
            high = rate
    return {key: _cut(row, w, low) for key, row in zip(keys, table, strict=True)}


def _cut(scores: NDArray[np.float64], weights: NDArray[np.float64], rate: float) -> float:
    """A threshold, of four decimals, that at most ``rate`` of the weight reaches: midway between two scores."""
    order = np.argsort(-scores, kind="stable")
    count = int(np.searchsorted(np.cumsum(weights[order]), rate + 1e-12, side="right"))
    ends = np.concatenate([[1.0], scores[order], [0.0]])
    middle = (ends[count] + ends[count + 1]) / 2.0
    rounded = round(float(middle), 4)
    if rounded <= ends[count + 1]:  # scores so close that rounding would call the next one, too
        rounded = math.ceil(float(middle) * 1e4) / 1e4
    return min(max(rounded, 0.0001), 0.9999)


def source_weights(cases: Cases, among: Mask) -> NDArray[np.float64]:
    """Weights (n,) that add up to 1 over the images of ``among``, the same in each source with enough of them."""
    weights, names = np.zeros(len(among)), np.array(cases.sources)
    parts = [among & (names == source) for source in sorted(set(cases.sources))]
    parts = [part for part in parts if part.sum() >= FEWEST_OF_SOURCE] or [among]
    for part in parts:
        weights[part] = 1.0 / max(int(part.sum()), 1) / len(parts)
    return weights


def _point(cases: Cases, scores: Scores, groups: Sequence[Sequence[str]], promised: float) -> dict[str, Any]:
    calls: dict[str, Mask] = {}
    chosen: dict[str, float] = {}
    for group in groups:
        found, budget = _within(cases, scores, group, promised)
        calls |= found
        chosen |= thresholds(cases, scores, group, budget)
    told = {"promised": promised, "thresholds": chosen} | _figures(cases, calls)
    if len(groups[0]) > 1 and "abnormality" in calls:  # what it would change if it shared their budget
        sharing, _ = _within(cases, scores, (*groups[0], "abnormality"), promised)
        told["sharing_with_abnormality"] = _called(cases, {"": _any(sharing)})[""]
    return told


def _within(cases: Cases, scores: Scores, keys: Sequence[str], promised: float) -> tuple[dict[str, Mask], float]:
    """Out-of-fold calls of at most the promised share of normal images, and the budget that leads to them."""
    weights = source_weights(cases, cases.normal)
    for step in range(round(promised / _STEP)):
        budget = promised - step * _STEP
        calls = _out_of_fold(cases, scores, keys, budget)
        if float(weights @ _any(calls)) <= promised:
            break
    return calls, budget


def _out_of_fold(cases: Cases, scores: Scores, keys: Sequence[str], budget: float) -> dict[str, Mask]:
    """What is called in each fold with the thresholds that the other folds choose."""
    calls = {key: np.zeros(len(cases.files), dtype=bool) for key in keys}
    for number in range(FOLDS):
        others, here = cases.folds != number, cases.folds == number
        if not (cases.normal & others).any():
            continue
        learnt = thresholds(cases.part(others), {key: scores[key][others] for key in keys}, keys, budget)
        for key in keys:
            calls[key][here] = scores[key][here] >= learnt[key]
    return calls


def _any(calls: Mapping[str, Mask]) -> Mask:
    return np.asarray(np.any(list(calls.values()), axis=0))


def _kinds(cases: Cases) -> dict[str, Mask]:
    tuberculosis = cases.of("tuberculosis") == 1.0
    return {"normal": cases.normal, "other": ~cases.normal & ~tuberculosis, "tuberculosis": tuberculosis}


def _called(cases: Cases, calls: Mapping[str, Mask]) -> dict[str, dict[str, Any]]:
    """Of each call, which share of normal images, of others and of those with tuberculosis it takes."""
    kinds = _kinds(cases)
    asked = {(name, kind): (call, among) for name, call in calls.items() for kind, among in kinds.items()}
    told = _shares(cases, asked)
    return {name: {kind: told[name, kind] for kind in kinds} for name in calls}


def _figures(cases: Cases, calls: Mapping[str, Mask]) -> dict[str, Any]:
    kinds, names = _kinds(cases), np.array(cases.sources)
    found: dict[str, Any] = {"default": {}, "by_source": {}}
    default = {key: call for key, call in calls.items() if key not in ON_REQUEST}
    if default:
        together = {"default": _any(default)}
        if "tuberculosis" in calls:
            together["with_tuberculosis"] = together["default"] | calls["tuberculosis"]
        found |= _called(cases, together)
        normal, other = (found["default"][kind] for kind in ("normal", "other"))
        if normal and other:
            found["ppv_of_anything"] = {f"{p:g}": _ppv(other["share"], normal["share"], p) for p in PREVALENCES}
        found["by_source"] = {
            source: {kind: _plain(together["default"], among & (names == source)) for kind, among in kinds.items()}
            for source in sorted(set(cases.sources))
        }
    asked: dict[tuple[str, str], tuple[Mask, Mask]] = {}
    for key, call in calls.items():
        truth = cases.of(key)
        asked |= {
            (key, "sensitivity"): (call, truth == 1.0),
            (key, "normal"): (call, kinds["normal"]),
            (key, "other"): (call, kinds["other"] & (truth != 1.0)),
            (key, "tuberculosis"): (call, kinds["tuberculosis"] & (truth != 1.0)),
        }
    told = _shares(cases, asked)
    found["figures"] = {key: _class({kind: told[key, kind] for kind in _OF_CLASS}) for key in calls}
    return found


def _class(known: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    hit, false = known["sensitivity"], known["normal"]
    ppv: dict[str, dict[str, float | None]] = {}
    for against in ("normal", "other"):
        wrong = known[against]
        ppv[against] = {
            f"{prevalence:g}": _ppv(hit["share"], wrong["share"], prevalence) if hit and wrong else None
            for prevalence in PREVALENCES
        }
    return {**known, "ppv": ppv} if hit or false else {}


def _ppv(sensitivity: float, called: float, prevalence: float) -> float | None:
    true, wrong = sensitivity * prevalence, called * (1.0 - prevalence)
    return round(true / (true + wrong), 4) if true + wrong > 0.0 else None


def class_figures(one: Mapping[str, Any]) -> ClassFigures | None:
    """What ``reading.json`` says of a class at an operating point. None if it could not be measured."""
    hit, false, other = (one.get(kind) for kind in ("sensitivity", "normal", "other"))
    if not hit or not false:
        return None
    return ClassFigures(
        sensitivity=hit["share"],
        specificity=round(1.0 - false["share"], 4),
        specificity_other=round(1.0 - other["share"], 4) if other else None,
        positives=hit["images"],
        normals=false["images"],
    )


def _plain(call: Mask, among: Mask) -> dict[str, Any] | None:
    count = int(among.sum())
    return {"share": round(float(call[among].mean()), 4), "images": count} if count else None


def _shares(cases: Cases, asked: Mapping[Key, tuple[Mask, Mask]]) -> dict[Key, dict[str, Any] | None]:
    """Shares of images that are called, with 95 % intervals of a bootstrap that draws patients within each source.

    ``asked`` are (what is called, among which images). Every share weighs the sources as `source_weights` does.
    """
    weights = {name: source_weights(cases, among) for name, (_, among) in asked.items()}
    people = np.array([f"{source} {patient}" for source, patient in zip(cases.sources, cases.patients, strict=True)])
    rng = np.random.default_rng(1)
    names = np.array(cases.sources)
    drawn: dict[Key, list[NDArray[np.float64]]] = {name: [] for name in asked}
    for source in sorted(set(cases.sources)):
        rows = np.flatnonzero(names == source)
        _, who = np.unique(people[rows], return_inverse=True)
        count = int(who.max()) + 1
        times = rng.multinomial(count, np.full(count, 1.0 / count), size=DRAWS).astype(np.float64)
        for name, (call, _) in asked.items():
            w = weights[name][rows]
            if not w.any():
                continue
            hits, all_ = (np.bincount(who, weights=w * part, minlength=count) for part in (call[rows], 1.0))
            total = times @ all_
            share = np.divide(times @ hits, total, out=np.full(DRAWS, np.nan), where=total > 0)
            drawn[name].append(share * w.sum())
    found: dict[Key, dict[str, Any] | None] = {}
    for name, (call, among) in asked.items():
        if not among.any():
            found[name] = None
            continue
        low, high = np.nanpercentile(np.sum(drawn[name], axis=0), (2.5, 97.5))
        share = float(weights[name] @ call)
        ends = {"low": round(float(low), 4), "high": round(float(high), 4)}
        found[name] = {"share": round(share, 4), **ends, "images": int(among.sum())}
    return found
