"""Writes an evaluation to files: ``evaluation.json``, ``report.html`` and the plots.

The page contains its pictures and loads nothing from elsewhere. Texts from the file of labels are escaped.
"""

from __future__ import annotations

import base64
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ai.contract import ReadingError
from ai.evaluation import calls, measure, plots
from ai.evaluation.pictures import load_picture

if TYPE_CHECKING:
    from ai.evaluation.reading import Answer, Unread
    from ai.evaluation.tables import Labels
    from ai.inference.bundle_model import BundleModel

__all__ = ["FORMAT", "evaluation", "write"]

FORMAT = 1
"""The format number of ``evaluation.json``. It rises with each change that programs reading the file must know."""

_LIBRARIES = ("dicom-node", "torch", "monai", "numpy", "pillow", "pydicom")
_SHOWN = 50  # the most passed over files that the page names; evaluation.json names all


def evaluation(
    model: BundleModel,
    labels: Labels,
    answers: Sequence[Answer],
    unread: Sequence[Unread],
    *,
    options: Mapping[str, Any],
    made: datetime,
    within: str | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """The content of ``evaluation.json``. It names no patient.

    Args:
        model: the model that was evaluated.
        labels: the table of labels.
        answers: the model's answer on each image.
        unread: the images that could not be read.
        options: the options of the command, as values for JSON.
        made: the time of the evaluation, with its time zone.
        within: the column within whose values images are compared; None compares all.
        seed: for the bootstrap.
        resamples: the number of resamples of the bootstrap.
    """
    identity = model.identity
    passed_over = [*labels.passed_over, *((one.row.file, one.reason) for one in unread)]
    notes = [(one.row.file, one.note) for one in answers if one.note]
    patients = {one.row.patient for one in answers if one.row.patient}
    return {
        "kind": "dicom-node evaluation",
        "format": FORMAT,
        "made": made.isoformat(timespec="seconds"),
        "model": {
            "name": identity.name,
            "version": identity.version,
            "digest": identity.digest,
            "manufacturer": identity.manufacturer,
            "task": model.info.spec.task,
            "intended_use": identity.intended_use,
            "notice": identity.notice,
        },
        "software": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        "options": dict(options),
        "images": {
            "rows_in_table": labels.rows_in_file,
            "left_out_by_options": labels.left_out,
            "used": len(answers),
            "patients": len(patients) if labels.has_patients else None,
            "passed_over": [{"file": file, "reason": reason} for file, reason in passed_over],
            "passed_over_by_reason": dict(Counter(reason for _, reason in passed_over).most_common()),
            "notes": [{"file": file, "note": note} for file, note in notes],
        },
        "columns": {
            "used": dict(labels.columns),
            "outputs_without_a_column": list(labels.unlabelled),
            "not_used": list(labels.unused),
            "cells_not_understood": dict(labels.not_understood),
            "boxes_of_no_output": dict(labels.unknown_boxes),
        },
        "seconds_per_image": measure.seconds(answers),
        "classes": [
            {**figures, "column": labels.columns[figures["key"]]}
            for figures in measure.class_figures(
                model.info.spec, answers, within=within, seed=seed, resamples=resamples
            )
            if figures["key"] in labels.columns
        ],
        "operating_points": calls.called(model.info.spec, answers, negatives=bool(options.get("negatives"))),
        "answers": [
            {
                "file": one.row.file,
                "scores": {o.key: _rounded(s) for o, s in zip(model.info.spec.outputs, one.scores, strict=True)},
                "labels": {
                    o.key: None if t < 0 else t for o, t in zip(model.info.spec.outputs, one.row.truth, strict=True)
                },
            }
            for one in answers
        ],
    }


def write(
    folder: Path, model: BundleModel, found: Mapping[str, Any], answers: Sequence[Answer], *, within: str | None = None
) -> list[Path]:
    """Write the report into a folder. The folder is made if it is missing; files of an older report are replaced.

    Args:
        folder: the folder of the report.
        model: the model. It reads the shown cases again to make their heat maps.
        found: the result of `evaluation`.
        answers: the answers that ``found`` was computed from.
        within: as in `evaluation`.

    Returns:
        The files, ``report.html`` first.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    pictures: dict[str, str] = {}
    places = {output.key: place for place, output in enumerate(model.info.spec.outputs)}
    for figures in found["classes"]:
        key = figures["key"]
        if figures["positives"] and figures["negatives"]:  # else there is no curve
            keep = measure.usable(answers, places[key], within=within is not None)
            known = [one for one, kept in zip(answers, keep, strict=True) if kept]
            png = plots.curves(
                figures,
                np.array([one.scores[places[key]] for one in known]),
                np.array([one.row.truth[places[key]] == 1 for one in known]),
                [one.row.stratum for one in known] if within is not None else None,
            )
            file = folder / f"{key}.png"  # the keys' pattern (reading.json) makes them safe as names
            file.write_bytes(png)
            files.append(file)
            pictures[key] = _data_uri("png", png)
    cases = _cases(model, found["classes"], answers)
    whole = folder / "evaluation.json"
    whole.write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    page = folder / "report.html"
    page.write_text(_page(found, pictures, cases), encoding="utf-8")
    return [page, whole, *files]


def _cases(
    model: BundleModel, classes: Sequence[Mapping[str, Any]], answers: Sequence[Answer]
) -> dict[str, list[dict[str, Any]]]:
    """The worst cases of each class with their pictures. An image that is a case of several classes is read once."""
    shown: dict[str, list[dict[str, Any]]] = {}
    of_file: dict[str, list[dict[str, Any]]] = {}
    for figures in classes:
        shown[figures["key"]] = [
            {"key": figures["key"], "kind": kind, **one, "picture": ""}
            for kind in ("missed", "false_alarms")
            for one in figures["worst"][kind]
        ]
        for case in shown[figures["key"]]:
            of_file.setdefault(case["file"], []).append(case)
    for answer in answers:
        if answer.row.file not in of_file:
            continue
        try:
            display = load_picture(answer.row.path).display
            answered = model.read_display(display)
        except ReadingError:  # the file has changed since it was read
            continue
        for case in of_file[answer.row.file]:
            jpeg = plots.case_picture(
                display,
                [heat for heat in answered.heat_maps if heat.key == case["key"]],
                [box for box in answered.boxes if box.key == case["key"]],
                [box for box in answer.row.boxes if box.key == case["key"]],
            )
            case["picture"] = _data_uri("jpeg", jpeg)
    return shown


def _page(
    found: Mapping[str, Any], pictures: Mapping[str, str], cases: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("ai.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": _share, "with_interval": _with_interval, "rate": _rate}
    return environment.get_template("report.html").render(
        e=found,
        pictures=pictures,
        cases=cases,
        most=_SHOWN,
        few=measure.FEW,
        model_colour=plots.MODEL_COLOUR,
        reader_colour=plots.READER_COLOUR,
    )


def _share(value: float | None, places: int = 2) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _with_interval(value: Mapping[str, float | None]) -> str:
    if value["value"] is None:
        return "-"
    return f"{_share(value['value'])} [{_share(value['low'])}, {_share(value['high'])}]"


def _rate(value: Mapping[str, Any]) -> str:
    return "-" if not value["of"] else f"{_with_interval(value)} ({value['count']}/{value['of']})"


def _rounded(score: float) -> float:
    return round(float(score), 6)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
