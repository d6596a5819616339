"""What is known of an installed model, as plain values: what ``dicom-node models list`` and ``show`` print."""

from __future__ import annotations

import json
from typing import Any

from ai.bundle.files import BundleError, describe
from ai.bundle.manifest import ClassFigures, ReadingSpec
from dicom_node.config.settings import Settings
from dicom_node.models.registry import Entry, routes_of

PREVALENCES = (0.005, 0.05, 0.2)
"""Of how many images one has a finding, for the predictive values that are shown."""


def summary(settings: Settings, entry: Entry) -> dict[str, Any]:
    """A version of a model in a few values: name, version, digest, state, routes, and the fault if it has one."""
    return {
        "name": entry.name,
        "version": entry.version,
        "digest": entry.digest,
        "state": entry.state,
        "shipped": entry.shipped,
        "added": entry.record.added if entry.record else None,
        "routes": routes_of(settings, entry.name) if entry.state == "current" else [],
        "fault": entry.fault,
    }


def detail(settings: Settings, entry: Entry) -> dict[str, Any]:
    """Everything known of a version: `summary`, its files and record, and what its reading.json and metadata say.

    If the bundle is damaged, the values of its own files are missing and ``fault`` says why.
    """
    known = summary(settings, entry)
    known["folder"] = str(entry.path)
    known["files"] = dict(entry.pinned().files or {})
    known["record"] = entry.record.model_dump(mode="json", exclude={"files"}) if entry.record else None
    card = next((path for path in sorted(entry.path.glob("docs/README*")) if path.is_file()), None)
    known["model_card"] = str(card) if card else None
    try:
        entry.pinned().check()
        said = describe(entry.path).spec
        spec = said.model_dump(mode="json")
        metadata = json.loads((entry.path / "configs/metadata.json").read_bytes())
    except BundleError as error:
        known["fault"] = known["fault"] or str(error)
        return known
    for key in ("manufacturer", "task", "intended_use", "notice", "outputs"):
        known[key] = spec[key]
    known["operating_point"], known["operating_points"] = spec["operating_point"], _points(said)
    known["input"] = said.input.model_dump(mode="json", exclude_unset=True)
    for key in ("description", "authors", "copyright", "data_source", "eval_metrics"):
        known[key] = metadata.get(key)
    return known


def _points(spec: ReadingSpec) -> dict[str, Any]:
    """The operating points, with the positive predictive values of each class; see `predictive_values`."""
    return {
        name: {
            **point.model_dump(mode="json", exclude={"figures"}),
            "figures": {
                key: one.model_dump(mode="json") | {"ppv": predictive_values(one)} for key, one in point.figures.items()
            },
        }
        for name, point in spec.operating_points.items()
    }


def predictive_values(one: ClassFigures) -> dict[str, dict[str, float | None]]:
    """The positive predictive value (0 to 1) of a class by prevalence, if those without it are normal, or have others.

    None where the specificity is not known, or nothing is called.
    """
    found = {}
    for against, specificity in (("normal", one.specificity), ("other", one.specificity_other)):
        values: dict[str, float | None] = {}
        for prevalence in PREVALENCES:
            true = one.sensitivity * prevalence
            wrong = (1.0 - (specificity or 0.0)) * (1.0 - prevalence)
            known = specificity is not None and true + wrong > 0.0
            values[f"{prevalence:g}"] = round(true / (true + wrong), 4) if known else None
        found[against] = values
    return found
