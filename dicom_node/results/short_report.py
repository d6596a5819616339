"""The reading in at most six lines, to be pasted into a report: in the SR and on the page.

They say what the pictures say, in the run's language, and nothing that needs the picture beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ai.contract import Finding, Presence
from ai.scores import score_text
from dicom_node.results import scores, verdict
from dicom_node.results.run import Run


def lines(run: Run) -> tuple[str, ...]:
    """The lines, six at most: the model, the verdict, what is present, what is absent, cautions, what was looked for.

    The model's line has its notice, too. A line with nothing to say is left out. A reading that failed names no class.
    """
    reading, say = run.reading, run.words
    model = f"{reading.model.name} {reading.model.version}"
    head = f"{say.not_for_diagnosis}: {model}" if run.research else f"AI: {model}"
    if notice := say.notice(reading.model.notice):
        head = f"{head}. {notice}."
    if reading.failure:
        return (head, _sentence([verdict.summary(run)]), *_sentences([verdict.cautions(run)]))
    # Anatomy that was not outlined, often because it is not in the image, is not absent from the patient.
    looked_for = (each for each in reading.classes if each.finding and each.presence is Presence.ABSENT)
    absent = [verdict.finding_name(run, each) for each in looked_for]
    return (
        head,
        _sentence([verdict.summary(run)]),
        *_listed(run, Presence.PRESENT, _present(run)),
        *_listed(run, Presence.ABSENT, absent),
        *_sentences([[*verdict.cautions(run), *filter(None, [verdict.not_read_sentence(run)])]]),
        *_sentences([[*verdict.scope(run), *verdict.meanings(run)]]),
    )


def finding_words(run: Run, finding: Finding) -> str:
    """What a finding is, and on which side: "Nodule, right"."""
    name, side = verdict.finding_name(run, finding), finding.laterality
    said = "" if side is None else run.words.name(side, side.meaning.lower())
    return name if not said or said in name.lower().split() else f"{name}, {said}"


def _present(run: Run) -> Iterator[str]:
    """Each finding with its score, then each present class without a place."""
    for finding in run.reading.findings:
        yield f"{finding_words(run, finding)} {score_text(scores.shown_finding_score(run.reading, finding))}"
    for each in verdict.unplaced(run.reading):
        yield f"{verdict.finding_name(run, each)} {score_text(scores.shown_score(each))}"


def _listed(run: Run, presence: Presence, names: Iterable[str]) -> list[str]:
    listed = "; ".join(names)
    said = run.words.presence[presence]
    return [f"{said[:1].upper()}{said[1:]}: {listed}."] if listed else []


def _sentences(groups: Iterable[Iterable[str]]) -> list[str]:
    return [_sentence(group) for each in groups if (group := list(each))]


def _sentence(parts: Iterable[str]) -> str:
    return " ".join(f"{part}." for part in parts)
