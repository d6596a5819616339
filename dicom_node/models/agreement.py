"""Compare two models over the studies that both read: how far they agree, where they differ, how long each takes.

Start here for ``dicom-node models compare`` and its figures: agreement and kappa (:func:`agreement`), which classes are
the same (:func:`same_classes`).

It reads the index alone, so it can run beside a node and needs neither images nor models. It compares scores, not the
truth: two models that agree may both be wrong. Nothing here names a patient; studies are named by their UID.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import NodeError
from dicom_node.index.index import Index
from dicom_node.index.recorded import RecordedClass, RecordedReading
from dicom_node.index.rows import ReadingRow

_STEPS_OF_RESULTS = frozenset({"encode", "write"})  # not the model's time: a reading in shadow makes no objects
_REASONS = 5
_UNREAD = {"queued": "waiting", "running": "being read", "failed": "failed"}
Box = tuple[str, int, float, float, float, float]  # image, frame, left, top, right, bottom in pixel edges


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reading says of one class: presence, score from 0 to 1, and the box of its most certain finding."""

    presence: str
    score: float
    box: Box | None


@dataclass(frozen=True, slots=True)
class Output:
    """A class of a model: its name, and its code as (value, scheme)."""

    name: str
    code: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Read:
    """A reading as it is compared; ``seconds`` are the model's own, without the time to make result objects."""

    study: str
    created: float
    version: str
    digest: str
    shadow: bool
    sources: frozenset[str]
    seconds: float
    verdicts: Mapping[str, Verdict]


@dataclass(frozen=True, slots=True)
class Row:
    """What the two models say of one class of one study."""

    study: str
    key: str
    a: Verdict
    b: Verdict

    @property
    def difference(self) -> float:
        """The score of the second model minus that of the first."""
        return self.b.score - self.a.score

    @property
    def iou(self) -> float | None:
        """Intersection over union of the surest findings' boxes: 0 on different images, None without two boxes."""
        return None if self.a.box is None or self.b.box is None else _iou(self.a.box, self.b.box)

    def plain(self) -> dict[str, Any]:
        """The row as plain values, ready for JSON."""
        return {
            "study": self.study,
            "class": self.key,
            "score_a": self.a.score,
            "score_b": self.b.score,
            "presence_a": self.a.presence,
            "presence_b": self.b.presence,
            "iou": self.iou,
        }


class _Side:
    """All readings of one model: for each study the newest one on each set of images."""

    def __init__(self, index: Index, asked: str, since: float) -> None:
        self.asked = asked
        self.model, _, self._digest = asked.partition("@")
        self.readings = 0
        self.in_shadow = 0
        self.files: dict[str, int] = {}
        self.outputs: dict[str, Output] = {}
        self.by_study: dict[str, dict[frozenset[str], Read]] = {}
        for row in index.readings_by(self.model, since):
            if row.digest.startswith(self._digest) and not row.reading.failure:
                self._add(row)
        self._jobs = index.reading_jobs(self.model, since)
        if not self.readings:
            there = ", ".join(index.reading_models()) or "none"
            counts = {state: sum(job.jobs for job in self._jobs if job.state == state) for state in _UNREAD}
            more = "".join(f"; {_UNREAD[state]}: {count}" for state, count in counts.items() if count)
            why = next((f" ({job.reason})" for job in self._jobs if job.state == "failed"), "")
            raise NodeError(
                f"there is no reading by {asked}{' since then' if since else ''}; models that have read: {there}{more}"
                + why
            )

    def _add(self, row: ReadingRow) -> None:
        one = _read(row)
        self.readings += 1
        self.in_shadow += one.shadow
        self.files[one.digest] = self.files.get(one.digest, 0) + 1
        for each in _assessed(row.reading):
            self.outputs[each.key] = Output(each.name, each.code)
        self.by_study.setdefault(one.study, {})[one.sources] = one  # oldest first, so the newest stays

    def figures(self, seconds: Sequence[float]) -> dict[str, Any]:
        """The figures of the model; ``seconds`` are those of its readings that are compared."""
        failed = [each for each in self._jobs if each.state == "failed"]
        return {
            "model": self.asked,
            "readings": self.readings,
            "studies": len(self.by_study),
            "in_shadow": self.in_shadow,
            "files": self.files,
            "waiting": sum(each.jobs for each in self._jobs if each.state in {"queued", "running"}),
            "not_eligible": sum(each.jobs for each in self._jobs if not each.eligible),
            "failed": sum(each.jobs for each in failed),
            "failures": [{"reason": each.reason, "jobs": each.jobs} for each in failed[:_REASONS]],
            "seconds": {"median": _percentile(seconds, 50), "p95": _percentile(seconds, 95)},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """``summary`` is ready for JSON; ``rows`` are the values from which it was made, one for each study and class."""

    summary: dict[str, Any]
    rows: tuple[Row, ...]


def compare(index: Index, a: str, b: str, *, since: float = 0.0, limit: int = 20) -> Comparison:
    """Compare two models over the studies of which both read the same images, since a moment (epoch seconds).

    A model is named as in the configuration, or as ``name@digest`` with the beginning of the digest of its files. A
    study that was read more than once counts once, by the newest readings of the same images. Two classes are the same
    if their keys in ``reading.json`` are, or else their codes.

    Raises:
        NodeError: one of the models has read nothing, or both are the same.
    """
    if a == b:
        raise NodeError(f"{a} and {b} are the same model; expected two, or name@digest for two versions of one")
    one, other = _Side(index, a, since), _Side(index, b, since)
    both = sorted(one.by_study.keys() & other.by_study.keys())
    pairs = [pair for study in both if (pair := _pair(one.by_study[study], other.by_study[study])) is not None]
    same = same_classes(one.outputs, other.outputs)
    rows = tuple(_rows(pairs, same))
    seconds_a, seconds_b = [first.seconds for first, _ in pairs], [second.seconds for _, second in pairs]
    differ = sorted(
        (row for row in rows if row.a.presence != row.b.presence), key=lambda row: (-abs(row.difference), row.study)
    )
    figures_a, figures_b = one.figures(seconds_a), other.figures(seconds_b)
    median_a, median_b = figures_a["seconds"]["median"], figures_b["seconds"]["median"]
    summary = {
        "a": figures_a,
        "b": figures_b,
        "since": datetime.fromtimestamp(since, UTC).isoformat() if since else None,
        "studies": len(pairs),
        "other_images": len(both) - len(pairs),
        "seconds_ratio": median_b / median_a if median_a and median_b is not None else None,
        "classes": [
            {
                "key": key,
                "key_b": same[key],
                "name": one.outputs[key].name,
                **agreement([row for row in rows if row.key == key]),
            }
            for key in same
        ],
        "only_a": [key for key in one.outputs if key not in same],
        "only_b": [key for key in other.outputs if key not in same.values()],
        "differing": len(differ),
        "differ": [row.plain() for row in differ[:limit]],
    }
    return Comparison(summary, rows)


def same_classes(a: Mapping[str, Output], b: Mapping[str, Output]) -> dict[str, str]:
    """The classes that both models have, the first's key -> the second's: by key, else by code; each at most once."""
    same = {key: key for key in a if key in b}
    for key, output in a.items():
        if key not in same:
            fits = (other for other, its in b.items() if its.code == output.code and other not in same.values())
            found = next(fits, None)
            if found is not None:
                same[key] = found
    return {key: same[key] for key in a if key in same}


def agreement(rows: Sequence[Row]) -> dict[str, Any]:
    """How far two models agree on one class.

    ``agreement`` and Cohen's ``kappa`` (Educational and Psychological Measurement 20, 1960) are over the studies for
    which both say present or absent; kappa is None if chance alone would make them always agree. Correlations are None
    with fewer than three studies, or if a model gives the same score to all.
    """
    decided = [row for row in rows if {row.a.presence, row.b.presence} <= {"present", "absent"}]
    table = {
        (first, second): sum(row.a.presence == first and row.b.presence == second for row in decided)
        for first in ("present", "absent")
        for second in ("present", "absent")
    }
    first = np.array([row.a.score for row in rows])
    second = np.array([row.b.score for row in rows])
    ious = [row.iou for row in rows if row.iou is not None]
    difference = second - first
    return {
        "studies": len(rows),
        "both_present": table["present", "present"],
        "only_a": table["present", "absent"],
        "only_b": table["absent", "present"],
        "both_absent": table["absent", "absent"],
        "undetermined": len(rows) - len(decided),
        "agreement": (table["present", "present"] + table["absent", "absent"]) / len(decided) if decided else None,
        "kappa": cohens_kappa(
            table["present", "present"],
            table["present", "absent"],
            table["absent", "present"],
            table["absent", "absent"],
        ),
        "pearson": _pearson(first, second),
        "spearman": _pearson(_ranks(first), _ranks(second)),
        "difference": {
            "mean": float(difference.mean()) if len(rows) else None,
            "mean_absolute": float(np.abs(difference).mean()) if len(rows) else None,
            "largest_absolute": float(np.abs(difference).max()) if len(rows) else None,
        },
        "boxes": {
            "studies": len(ious),
            "median_iou": _percentile(ious, 50),
            "at_least_half": sum(iou >= 0.5 for iou in ious),
        },
    }


def cohens_kappa(both: int, only_a: int, only_b: int, neither: int) -> float | None:
    """Agreement beyond chance of two yes-or-no verdicts, from the four counts. None if it is not defined."""
    n = both + only_a + only_b + neither
    if not n:
        return None
    chance = (both + only_a) * (both + only_b) + (only_b + neither) * (only_a + neither)
    if chance == n * n:
        return None
    return (n * (both + neither) - chance) / (n * n - chance)


def _read(row: ReadingRow) -> Read:
    surest: dict[str, tuple[float, Box]] = {}
    for found in row.reading.findings:
        if found.key not in surest or found.score > surest[found.key][0]:
            at = found.region
            surest[found.key] = (found.score, (at.sop_instance_uid, at.frame, at.left, at.top, at.right, at.bottom))
    return Read(
        row.study,
        row.created,
        row.version,
        row.digest,
        row.shadow,
        frozenset(row.reading.sources),
        sum(seconds for step, seconds in row.reading.seconds.items() if step not in _STEPS_OF_RESULTS),
        {
            each.key: Verdict(each.presence, each.score, surest.get(each.key, (0.0, None))[1])
            for each in _assessed(row.reading)
        },
    )


def _assessed(reading: RecordedReading) -> list[RecordedClass]:
    """The classes on which a reading has a verdict; the score of any other class has no meaning."""
    return [each for each in reading.classes if not each.not_assessed]


def _pair(a: Mapping[frozenset[str], Read], b: Mapping[frozenset[str], Read]) -> tuple[Read, Read] | None:
    """The newest readings of the same images."""
    pairs = [(a[sources], b[sources]) for sources in a.keys() & b.keys()]
    return max(pairs, key=lambda pair: (pair[0].created, pair[1].created), default=None)


def _rows(pairs: Iterable[tuple[Read, Read]], same: Mapping[str, str]) -> Iterator[Row]:
    for a, b in pairs:
        for key, key_b in same.items():
            if key in a.verdicts and key_b in b.verdicts:
                yield Row(a.study, key, a.verdicts[key], b.verdicts[key_b])


def _iou(a: Box, b: Box) -> float:
    if a[:2] != b[:2]:
        return 0.0
    width = min(a[4], b[4]) - max(a[2], b[2])
    height = min(a[5], b[5]) - max(a[3], b[3])
    shared = max(width, 0.0) * max(height, 0.0)
    whole = sum((box[4] - box[2]) * (box[5] - box[3]) for box in (a, b)) - shared
    return shared / whole if whole > 0 else 0.0


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place], dtype=np.float64)


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
