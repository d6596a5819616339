"""What a summary says in words: the headline, a sentence for each class, failures and cautions, the six lines.

A model that failed is named before any class. Scores stand beside their thresholds, as everywhere, and no probability
is stated: the prevalence of a route is not that of another model's route.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ai.contract import ClassResult, Presence, Reading
from ai.scores import score_text, shown_threshold
from dicom_node.results import scores, verdict
from dicom_node.results.run import Run
from dicom_node.results.summary.agreement import Kind, Said, Topic, topics
from dicom_node.results.words.language import Words


@dataclass(frozen=True, slots=True)
class Compared:
    """A summary to be encoded: its run, whose reading is that of this node, and what the models said."""

    run: Run
    answers: tuple[Reading, ...]

    @property
    def topics(self) -> list[Topic]:
        """Every class, worst first."""
        return topics(self.answers)

    @property
    def models(self) -> tuple[str, ...]:
        """The models by name and version."""
        return tuple(f"{each.model.name} {each.model.version}".strip() for each in self.answers)

    def by(self, answer: Reading) -> Run:
        """The run with what one model said in place of the node's reading, and without prevalence."""
        profile = dataclasses.replace(self.run.profile, prevalence=())
        return dataclasses.replace(self.run, reading=answer, profile=profile)


def headline(say: Words, answers: Sequence[Reading]) -> str:
    """How many models were compared, and how often they agree and contradict each other."""
    kinds = [each.kind for each in topics(answers)]
    counts = [(say.agreement[kind.name], kinds.count(kind)) for kind in (Kind.PRESENT, Kind.CONTRADICTION)]
    counts.append((say.agreement[Kind.UNCONFIRMED.name], kinds.count(Kind.UNCONFIRMED)))
    counts.append((say.models_failed, sum(bool(each.failure) for each in answers)))
    return "; ".join(f"{name}: {count}" for name, count in [(say.models_compared, len(answers)), *counts])


def warnings(compared: Compared) -> list[str]:
    """The sentences that every object must show: that of the run, then the notice of each model."""
    notices = [compared.run.words.notice(each.model.notice) for each in compared.answers if each.model.notice]
    return list(dict.fromkeys([*compared.run.warnings, *notices]))


def failures(compared: Compared) -> list[str]:
    """The models that failed and why, without full stops."""
    say = compared.run.words
    told = []
    for answer, model in zip(compared.answers, compared.models, strict=True):
        if answer.failure:  # without a run of its own only the log says why
            why = (
                say.failed_class
                if answer.failure == "failed"
                else say.unanswered(say.reason(answer.failure), tried=not answer.not_meant)
            )
            told.append(f"{model}: {why}")
    return told


def cautions(compared: Compared) -> list[str]:
    """What keeps an answer from being taken for more than it is, by model; and that this is no negative result."""
    told = [
        f"{model}: {each}"
        for answer, model in zip(compared.answers, compared.models, strict=True)
        for each in verdict.cautions(compared.by(answer))
        if not answer.failure and each != compared.run.words.no_negative_result
    ]
    return [*told, compared.run.words.no_negative_result] if is_no_negative_result(compared) else told


def is_no_negative_result(compared: Compared) -> bool:
    """Whether nothing is called present, and a model failed or lacks an answer."""
    unsure = any(each.failure or verdict.is_incomplete(each) for each in compared.answers)
    return unsure and not any(each.present for each in compared.topics)


def title(compared: Compared) -> str:
    """Which models were compared."""
    return compared.run.words.summary_of(compared.models)


def of_classes(compared: Compared) -> list[str]:
    """A sentence for each class that is not called absent by all, worst first; then those that are, together."""
    found, together = [], dict[str, list[str]]()
    for topic in compared.topics:
        label, name = compared.run.words.agreement[topic.kind.name], topic_name(compared, topic)
        if topic.kind < Kind.ABSENT:
            found.append(f"{label}: {name}: {_votes(compared, topic, scored=True)}")
        else:
            votes = _votes(compared, topic, scored=False)
            together.setdefault(f"{label}: {{}} ({votes})", []).append(name)
    return [*found, *(text.format("; ".join(names)) for text, names in together.items())]


def differentials(compared: Compared) -> list[str]:
    """For what the classes that a model calls present may stand, by the model."""
    told = (
        f"{model}: {each}"
        for answer, model in zip(compared.answers, compared.models, strict=True)
        for each in verdict.meanings(compared.by(answer))
    )
    return list(told)


def lines(compared: Compared) -> tuple[str, ...]:
    """The summary in at most six lines, to be pasted into a report."""
    say, found = compared.run.words, compared.topics
    head = title(compared)
    if compared.run.research:
        head = f"{say.not_for_diagnosis}: {head}"
    groups = ((Kind.PRESENT,), (Kind.CONTRADICTION,), (Kind.UNCONFIRMED, Kind.OPEN), (Kind.ABSENT, Kind.ABSENT_ALONE))
    parts = [_parts(compared, [each for each in found if each.kind in kinds]) for kinds in groups]
    first = [headline(say, compared.answers), *failures(compared), *cautions(compared)]
    return (head, *(" ".join(f"{each}." for each in group) for group in [first, *map(list, parts)] if group))


def _parts(compared: Compared, found: Iterable[Topic]) -> Iterator[str]:
    by_kind: dict[Kind, list[str]] = {}
    for topic in found:
        text = topic_name(compared, topic)
        if topic.kind is Kind.ABSENT_ALONE:
            text += f" ({compared.models[topic.said.index(Said.ABSENT)]})"
        elif topic.kind < Kind.ABSENT:
            text += f": {_votes(compared, topic, scored=True, brief=True)}"
        by_kind.setdefault(topic.kind, []).append(text)
    for kind, texts in by_kind.items():
        separator = ". " if kind < Kind.ABSENT else "; "
        yield f"{compared.run.words.agreement[kind.name]}: {separator.join(texts)}"


def topic_name(compared: Compared, topic: Topic) -> str:
    """The name of a class in the run's language."""
    return compared.run.words.name(topic.code, topic.name)


def said(compared: Compared, what: Said, result: ClassResult | None) -> str:
    """What a model says of a class, in a word or two."""
    say = compared.run.words
    if what is Said.FAILED:
        return say.failed_class
    if result is None:
        return say.not_looked_for_class
    return say.not_assessed_class if what is Said.NOT_ASSESSED else say.presence[Presence(what.value)]


def figures(result: ClassResult | None) -> tuple[str, str] | None:
    """A class's score and threshold as texts; None if it has no score."""
    if result is None or result.not_assessed:
        return None
    return score_text(scores.shown_score(result)), score_text(shown_threshold(result.threshold))


def _votes(compared: Compared, topic: Topic, *, scored: bool, brief: bool = False) -> str:
    """Who says what of a class: "present: a 1 (score 0.83, threshold 0.50); absent: b 2 (...)"."""
    say = compared.run.words
    voices: dict[str, list[str]] = {}
    for model, what, result in sorted(
        zip(compared.models, topic.said, topic.results, strict=True), key=lambda each: list(Said).index(each[1])
    ):
        shown = figures(result) if scored else None
        figure = ""
        if shown is not None:
            score, threshold = shown
            figure = f" ({score})" if brief else f" ({say.score} {score}, {say.threshold} {threshold})"
        voices.setdefault(said(compared, what, result), []).append(f"{model}{figure}")
    return "; ".join(f"{what}: {', '.join(models)}" for what, models in voices.items())
