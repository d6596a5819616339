"""A reading as the index keeps it: JSON of `ai.contract.Reading`, without the paths of files, as typed values.

Older nodes wrote fewer attributes: what they did not write has the value that it had then.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ai.contract import ClassResult, Code, ModelIdentity, NotLookedFor, PassedOver, Presence, Reading, Region


@dataclass(frozen=True, slots=True)
class RecordedClass:
    """The verdict on one class; ``code`` is (value, scheme); ``not_assessed`` says why there is none."""

    key: str
    name: str
    code: tuple[str, str]
    presence: str
    score: float
    threshold: float
    not_assessed: str


@dataclass(frozen=True, slots=True)
class RecordedFinding:
    """One finding with its region; ``laterality`` is the meaning of its code, None if it has none."""

    key: str
    name: str
    score: float
    laterality: str | None
    region: Region


@dataclass(frozen=True, slots=True)
class RecordedReading:
    """What a model said of a study; ``sources`` are SOP Instance UIDs, ``seconds`` the time of each step.

    ``passed_over`` and ``failed`` are (SOP Instance or Series UID, reason). ``operating_point`` is empty if the model
    offers none. ``not_looked_for`` are (key, name) of classes. ``editions`` has those sources that were read as
    corrected, with the number of the edition; the others were read as first received, which is edition 1.
    """

    notice: str
    device: str
    remarks: tuple[str, ...]
    sources: tuple[str, ...]
    seconds: Mapping[str, float]
    classes: tuple[RecordedClass, ...]
    findings: tuple[RecordedFinding, ...]
    passed_over: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]
    failure: str
    operating_point: str
    not_looked_for: tuple[tuple[str, str], ...]
    editions: Mapping[str, int]


def recorded(text: str) -> RecordedReading:
    """A reading from its JSON."""
    whole: dict[str, Any] = json.loads(text)
    return RecordedReading(
        notice=whole["model"].get("notice", ""),
        device=whole.get("device", ""),
        remarks=(*whole.get("remarks", ()), *whole.get("cautions", ())),
        sources=tuple(whole["sources"]),
        seconds=whole["seconds"],
        classes=tuple(_class(each) for each in whole["classes"]),
        findings=tuple(_finding(each) for each in whole["findings"]),
        passed_over=tuple((each["uid"], each["reason"]) for each in whole.get("passed_over", ())),
        failed=tuple((each["uid"], each["reason"]) for each in whole.get("failed", ())),
        failure=whole.get("failure", ""),
        operating_point=whole.get("operating_point", ""),
        not_looked_for=tuple((each["key"], each["name"]) for each in whole.get("not_looked_for", ())),
        editions=whole.get("editions", {}),
    )


def restored(text: str) -> Reading:
    """A reading from its JSON, as the model gave it: without its sources, findings, heat maps and outlines."""
    whole: dict[str, Any] = json.loads(text)
    model = {field.name: whole["model"].get(field.name, "") for field in dataclasses.fields(ModelIdentity)}
    return Reading(
        ModelIdentity(**model),
        (),
        (),
        tuple(map(_whole_class, whole["classes"])),
        (),
        (),
        failed=tuple(PassedOver(each["uid"], each["reason"]) for each in whole.get("failed", ())),
        failure=whole.get("failure", ""),
        operating_point=whole.get("operating_point", ""),
        not_looked_for=tuple(
            NotLookedFor(each["key"], each["name"], Code(**each["code"])) for each in whole.get("not_looked_for", ())
        ),
        cautions=tuple(whole.get("cautions", ())),
    )


def _whole_class(each: dict[str, Any]) -> ClassResult:
    known = {field.name: each[field.name] for field in dataclasses.fields(ClassResult) if field.name in each}
    differential = tuple(Code(**code) for code in each.get("differential", ()))
    changed = {"code": Code(**each["code"]), "presence": Presence(each["presence"]), "differential": differential}
    return ClassResult(**{**known, **changed})


def _class(each: dict[str, Any]) -> RecordedClass:
    return RecordedClass(
        each["key"],
        each["name"],
        (each["code"]["value"], each["code"]["scheme"]),
        each["presence"],
        each["score"],
        each["threshold"],
        each.get("not_assessed", ""),
    )


def _finding(each: dict[str, Any]) -> RecordedFinding:
    side = each["laterality"]
    return RecordedFinding(
        each["key"], each["name"], each["score"], side["meaning"] if side else None, Region(**each["region"])
    )
