"""The card of a summary: a Secondary Capture with words and a table and no image, worst class first.

What the models agree and disagree on stands in large type, and what is absent where nothing is worse; below it is a
row for each class with what each model says, its score and its threshold. The colour of a row is that of the class in
the pictures of the first model that calls it present; a class that no model calls present is faint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicom_node.results.objects import sc
from dicom_node.results.pictures.drawing import Colour
from dicom_node.results.pictures.legend import Legend, Row, Sentence
from dicom_node.results.pictures.palette import Palette
from dicom_node.results.pictures.scene import Shot, card
from dicom_node.results.run import Run
from dicom_node.results.source import read_sources
from dicom_node.results.summary import sentences
from dicom_node.results.summary.agreement import Kind, Said, Topic
from dicom_node.results.summary.report import name_equipment
from dicom_node.results.summary.sentences import Compared
from dicom_node.results.times import local_time, shown_time
from dicom_node.results.verdict import in_large_type

_LARGE = 12
"""The most classes that are named in large type; the table has all of them."""


def build(compared: Compared, headers: Sequence[Dataset]) -> Dataset:
    """The card of a summary; ``headers`` are those of its sources, in order.

    Raises:
        ReadingError: the headers are not all of one patient.
    """
    sources = read_sources(compared.run.reading.sources, headers)
    run = dataclasses.replace(compared.run, created=local_time(compared.run, headers[0]))
    compared = dataclasses.replace(compared, run=run)
    how = f"Card without an image. {sentences.title(dataclasses.replace(compared, run=_in_english(compared)))}"
    picture = sc.capture(run, sources, Shot(card(_above(compared), _below(compared)), (), how, False), 0)
    name_equipment(picture, compared)
    return picture


def _in_english(compared: Compared) -> Run:
    return dataclasses.replace(compared.run, in_english=True)


def _above(compared: Compared) -> Legend:
    say, found = compared.run.words, compared.topics[:_LARGE]
    named: dict[Kind, list[str]] = {}
    for topic in [each for each in found if each.kind < Kind.ABSENT] or found:
        named.setdefault(topic.kind, []).append(sentences.topic_name(compared, topic))
    shown = dataclasses.replace(compared, answers=tuple(map(in_large_type, compared.answers)))
    large = [Sentence(each, emphasized=True) for each in sentences.failures(shown)]
    large += [
        Sentence(f"{say.agreement[kind.name]}: {'; '.join(names)}", emphasized=kind is Kind.CONTRADICTION)
        for kind, names in named.items()
    ]
    if sentences.is_no_negative_result(compared):
        large.append(Sentence(say.no_negative_result, emphasized=True))
    return Legend(tuple(large or [Sentence(sentences.headline(say, compared.answers))]), (), ())


def _below(compared: Compared) -> Legend:
    run, say = compared.run, compared.run.words
    told = [Sentence(each, emphasized=True) for each in sentences.warnings(compared)]
    told += [Sentence(sentences.title(compared)), Sentence(say.read_at(shown_time(run.created)))]
    if run.predecessor is not None:
        told.append(Sentence(say.replaces(shown_time(run.predecessor.created.astimezone(run.created.tzinfo)))))
    told.append(Sentence(sentences.headline(say, compared.answers)))
    told += [Sentence(each, emphasized=True) for each in sentences.cautions(compared)]
    told += [Sentence(each) for each in sentences.differentials(compared)]
    heading = (f"{say.score} ({say.threshold})", *compared.models)
    return Legend(tuple(told), heading, tuple(_row(compared, each) for each in compared.topics))


def _row(compared: Compared, topic: Topic) -> Row:
    cells = []
    for what, result in zip(topic.said, topic.results, strict=True):
        shown = sentences.figures(result)
        figures = "" if shown is None else f" {shown[0]} ({shown[1]})"
        cells.append(f"{sentences.said(compared, what, result)}{figures}")
    return Row((sentences.topic_name(compared, topic), *cells), _colour(compared, topic))


def _colour(compared: Compared, topic: Topic) -> Colour | None:
    for answer, what, result in zip(compared.answers, topic.said, topic.results, strict=True):
        if what is Said.PRESENT and result is not None:
            return Palette(answer).classes[result.key]
    return None
