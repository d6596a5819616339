"""The words below each picture: model and time, the verdict, the warnings, and the score of every class.

Start here for what a legend says of an image (:meth:`Captions.of_frame`), of a montage (:meth:`Captions.of_montage`)
and of a reading that failed (:meth:`Captions.of_failure`). The sentences are in :mod:`words.texts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydicom.dataset import Dataset

from ai.contract import Finding, Presence
from ai.scores import score_text
from dicom_node.results.pictures import heat_maps
from dicom_node.results.pictures.legend import Legend, Row, Sentence
from dicom_node.results.pictures.overlay import Overlay
from dicom_node.results.pictures.slices import Frame
from dicom_node.results.run import Run
from dicom_node.results.scores import shown_finding_score
from dicom_node.results.source_bytes import numbers_of
from dicom_node.results.times import shown_time
from dicom_node.results.verdict import (
    cautions,
    finding_name,
    in_large_type,
    in_words,
    is_faint,
    meanings,
    not_read,
    scope,
    summary,
    unplaced,
)

_REASONS, _REASON, _FAILURE = 3, 60, 400
"""The most reasons for not reading something in a legend, the most characters of each, and of a failure's."""


class Captions:
    """The words of one run, in its language; ``headers`` are in the order of its sources."""

    def __init__(self, run: Run, headers: Sequence[Dataset], overlay: Overlay) -> None:
        self._run, self._headers, self._overlay = run, headers, overlay
        self._reading, self._say, self._stack = run.reading, run.words, overlay.stack

    @property
    def no_picture(self) -> str:
        """That an image cannot be displayed."""
        return self._say.no_picture

    def of_frame(self, frame: Frame, *, numbered: bool = False, shown: bool = True, heated: bool = False) -> Legend:
        """The legend of one frame.

        ``numbered``: its boxes have numbers in place of labels. ``shown``: its pixels can be displayed. ``heated``:
        heat maps lie on it.
        """
        say, here = self._say, self._overlay.findings(frame)
        total = len(self._stack) if self._stack.is_stack else len(self._reading.sources)
        verdict = summary(self._run)
        marked = here or self._overlay.heated(frame) or any(True for _ in self._overlay.segments(frame))
        if self._reading.findings and not marked and not unplaced(self._reading):
            verdict = say.none_here(verdict)
        about = []
        if total > 1:
            about.append(say.image_of((self._stack.place(frame) if self._stack.is_stack else frame.source) + 1, total))
        if self._stack.is_stack and (name := self.name(frame)) not in about:
            about.append(name)
        about.append(verdict)
        if heated:
            about.append(say.heat_map(("、" if say.language == "ja" else ", ").join(self._overlay.heated(frame))))
        rows = self._table()
        if numbered:
            rows += [
                Row(
                    (f"{number}: {finding_name(self._run, each)}", self._score(each), "", ""),
                    self._overlay.colour(each),
                )
                for number, each in here
            ]
        return self._legend(about, [*rows, *self._segments([frame])], shown=shown, heated=heated)

    def of_montage(self, frames: Sequence[Frame], keys: Sequence[Frame]) -> Legend:
        """The legend of a montage of ``frames``, of which ``keys`` have pictures of their own."""
        say = self._say
        about = [summary(self._run), say.montage(len(frames), len(self._stack))]
        if keys:
            about.append(say.light_captions)
        hidden = sum(
            not any(self._overlay.is_on(frame, each.region.sop_instance_uid, each.region.frame) for frame in keys)
            for each in self._reading.findings
        )
        if hidden:
            about.append(say.more_findings(hidden))
        return self._legend(about, [*self._table(), *self._segments(frames)])

    def of_failure(self) -> tuple[Legend, Legend]:
        """For a reading that failed: the large text, and the legend below it. No class is named."""
        failure = summary(replace(self._run, reading=in_large_type(self._reading)))
        if len(failure) > _FAILURE:
            failure = f"{failure[: _FAILURE - 3].rstrip()}..."
        above = [Sentence(failure), Sentence(self._say.no_negative_result, emphasized=True)]
        below = [*self._warnings(), *self._identity(), *map(Sentence, _not_read(self._run))]
        return Legend(tuple(above), (), ()), Legend(tuple(below), (), ())

    def name(self, frame: Frame) -> str:
        """The name by which a person finds a frame in the viewer."""
        if self._stack.counts[frame.source] > 1:
            return self._say.frame(frame.number)
        number = numbers_of(self._headers[frame.source], "InstanceNumber")
        if len(number) == 1 and self._stack.has_slices:
            return self._say.slice(int(number[0]))
        return self._say.image_of(self._stack.place(frame) + 1, len(self._stack))

    def _legend(self, about: Sequence[str], rows: Sequence[Row], *, shown: bool = True, heated: bool = False) -> Legend:
        missing = [] if shown else [Sentence(self._say.no_picture, emphasized=True)]
        sentences = [*self._warnings(), *self._incomplete(), *missing, *self._identity()]
        sentences += map(Sentence, [*about, *scope(self._run), *meanings(self._run), *_not_read(self._run)])
        heading = ("", self._say.score, self._say.threshold, "")
        return Legend(tuple(sentences), heading, tuple(rows), heat_maps.scale() if heated else None)

    def _score(self, finding: Finding) -> str:
        return score_text(shown_finding_score(self._reading, finding))

    def _warnings(self) -> list[Sentence]:
        return [Sentence(warning, emphasized=True) for warning in self._run.warnings]

    def _identity(self) -> list[Sentence]:
        """The model, the time of the reading, and the report that it replaces."""
        run, model, say = self._run, self._reading.model, self._say
        lines = [f"{model.name} {model.version}", say.read_at(shown_time(run.created))]
        if run.predecessor is not None:
            lines.append(say.replaces(shown_time(run.predecessor.created.astimezone(run.created.tzinfo))))
        return [Sentence(line) for line in lines]

    def _incomplete(self) -> list[Sentence]:
        """The cautions: that images could not be read, or classes are not assessed."""
        return [Sentence(line, emphasized=True) for line in cautions(self._run)]

    def _table(self) -> list[Row]:
        """The verdict on every class over all images read; for anatomy, only what is outlined."""
        return [
            Row(
                (finding_name(self._run, each), *in_words(self._run, each)),
                self._overlay.colours[each.key] if not is_faint(each) else None,
            )
            for each in self._reading.classes
            if each.finding or each.presence is Presence.PRESENT
        ]

    def _segments(self, frames: Sequence[Frame]) -> list[Row]:
        """The segments on these frames that the table does not already show in their colour."""
        named = {each.key for each in self._reading.classes if not is_faint(each)}
        drawn = {id(segment): segment for frame in frames for segment, _ in self._overlay.segments(frame)}
        return [
            Row((finding_name(self._run, segment), "", "", ""), *self._overlay.stroke(segment))
            for segment in drawn.values()
            if segment.key not in named
        ]


def _not_read(run: Run) -> list[str]:
    """What the model passed over, with the most frequent reasons; the report has all of them."""
    total = sum(count for _, count in not_read(run))
    return [run.words.not_read(total, _reasons(run))] if total else []


def _reasons(run: Run) -> str:
    counted = not_read(run)
    reasons = [r if len(r) <= _REASON else f"{r[: _REASON - 3].rstrip()}..." for r, _ in counted[:_REASONS]]
    if len(counted) > _REASONS:
        reasons.append(run.words.other_reasons)
    return "; ".join(reasons)
