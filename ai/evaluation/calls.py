"""How many images each operating point of a model calls, of those without a finding and of those with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ai.evaluation.metrics import wilson

if TYPE_CHECKING:
    from ai.bundle.manifest import ReadingSpec
    from ai.evaluation.reading import Answer

__all__ = ["called"]


def called(spec: ReadingSpec, answers: Sequence[Answer], *, negatives: bool) -> list[dict[str, Any]]:
    """The images that each operating point calls, in the bundle's order; empty for a model that offers none.

    An image is called if a class that is looked for by default is. ``normal`` images are those of the column of
    ``--negatives`` if ``negatives`` says that there is one, and otherwise those where every class with a label has 0;
    ``other`` images have a class with 1. ``classes`` have sensitivity and specificity (among the normal images) of each
    class that is called. Every share is a value from 0 to 1 with Wilson's 95 % interval.

    Scores of maps and outlines below the threshold that they were made with only rank images, so models of these tasks
    have no figures here.
    """
    if spec.task not in ("classification", "detection") or not answers:
        return []
    scores = np.array([answer.scores for answer in answers], dtype=np.float64)
    truth = np.array([answer.row.truth for answer in answers], dtype=np.int64)
    other = (truth == 1).any(axis=1)
    clean = np.array([answer.row.negative for answer in answers], dtype=np.bool_)
    normal = ~other & (clean if negatives else (truth == 0).any(axis=1))
    found = []
    for name, point in spec.operating_points.items():
        calls = {
            place: scores[:, place] >= point.thresholds[output.key]
            for place, output in enumerate(spec.outputs)
            if output.key in point.thresholds and not output.undetermined
        }
        default = [call for place, call in calls.items() if spec.outputs[place].default and spec.outputs[place].finding]
        anything = np.any(default, axis=0) if default else np.zeros(len(answers), dtype=np.bool_)
        found.append(
            {
                "name": name,
                "default": name == spec.operating_point,
                "normal": _share(anything, normal),
                "other": _share(anything, other),
                "promised_normal": point.called_of_100_normal,
                "promised_other": point.called_of_100_other,
                "classes": [
                    {
                        "key": spec.outputs[place].key,
                        "name": spec.outputs[place].name,
                        "looked_for": spec.outputs[place].default,
                        "threshold": point.thresholds[spec.outputs[place].key],
                        "sensitivity": _share(call, truth[:, place] == 1),
                        "specificity": _share(~call, normal),
                    }
                    for place, call in calls.items()
                ],
            }
        )
    return found


def _share(hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> dict[str, float | int | None]:
    count, total = int(hit[among].sum()), int(among.sum())
    if not total:
        return {"value": None, "low": None, "high": None, "count": 0, "of": 0}
    low, high = wilson(count, total)
    return {"value": count / total, "low": float(low), "high": float(high), "count": count, "of": total}
