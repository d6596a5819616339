"""What a reading says, in words and figures that are the same in all objects: summary, cautions, scores, names.

Start here for: when a reading counts as incomplete (:func:`is_incomplete`), what was looked for and how readily it is
called (:func:`scope`), what a verdict means (:func:`meanings`), what a contradictory reading is (:func:`check`). How a
score is rounded is in :mod:`scores`; the sentences themselves, in each language, are in :mod:`words.texts`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from ai.contract import ClassResult, Finding, NotLookedFor, Presence, Reading, Segment
from ai.scores import score_text, shown_threshold
from dicom_node.results import scores
from dicom_node.results.run import Run

_INSTANCE = re.compile(r"^instance [0-9.]+: ")
"""What :mod:`ai` writes before the reason of a failure that one image caused."""


def tracking_id(run: Run, finding: int) -> str:
    """The Tracking ID (PS3.16 TID 4108) of the ``finding``-th finding (from 0), the same in every object."""
    return f"AI {finding + 1}: {finding_name(run, run.reading.findings[finding])}"


def finding_label(run: Run, finding: Finding) -> str:
    """The name of a finding with its score, as it stands beside the finding's box in every object."""
    return f"{finding_name(run, finding)} {score_text(scores.shown_finding_score(run.reading, finding))}"


def finding_name(run: Run, finding: Finding | ClassResult | Segment | NotLookedFor) -> str:
    """The name of a class in the run's language."""
    return run.words.name(finding.code, finding.name)


def summary(run: Run) -> str:
    """The verdict on the whole study in one sentence, without a full stop."""
    reading, say = run.reading, run.words
    if reading.failure:
        return say.unanswered(say.reason(reading.failure), tried=not reading.not_meant)
    marked, without = len(reading.findings), len(unplaced(reading))
    verdicts = [say.findings(marked, without)] if marked or without else []
    if not verdicts and reading.classes and not any(each.finding for each in reading.classes):
        # The model only outlines anatomy: "no findings" would be an answer to a question that it was not asked.
        verdicts.append(say.outlined(sum(each.presence is Presence.PRESENT for each in reading.classes)))
    if not verdicts:
        return say.incomplete_without_findings if is_incomplete(reading) else say.no_findings
    return "; ".join([*verdicts, *([say.incomplete] if is_incomplete(reading) else [])])


def in_large_type(reading: Reading) -> Reading:
    """The reading as a card says it: its failure does not name the image, whose UID no person reads.

    The report has the UID.
    """
    return replace(reading, failure=_INSTANCE.sub("", reading.failure))


def is_incomplete(reading: Reading) -> bool:
    """Whether the reading lacks an answer that it should have: for an image, or for a class that it assesses."""
    left_open = (each for each in reading.classes if each.presence is Presence.UNDETERMINED and not each.not_assessed)
    return bool(reading.failed) or any(left_open)


def unplaced(reading: Reading) -> list[ClassResult]:
    """The classes that are present but have no finding that shows where. Anatomy is not a finding."""
    placed = {finding.key for finding in reading.findings}
    return [
        each
        for each in reading.classes
        if each.presence is Presence.PRESENT and each.finding and each.key not in placed
    ]


def cautions(run: Run) -> list[str]:
    """The sentences that keep a reading from being taken for more negative than it is.

    They say that it failed, in whole or in part, or that the model does not assess some classes; and they hold what the
    model itself warns of.
    """
    reading, say = run.reading, run.words
    lines = [say.reason(each) for each in reading.cautions]
    if reading.failed:
        counted = Counter(say.reason(each.reason) for each in reading.failed).most_common()
        lines.append(say.unreadable(len(reading.failed), "; ".join(reason for reason, _ in counted)))
    if names := [finding_name(run, each) for each in reading.classes if each.not_assessed]:
        lines.append(say.not_assessed(names))
    nothing = not reading.findings and not unplaced(reading)
    open_still = bool(reading.failure) or is_incomplete(reading)
    return [*lines, say.no_negative_result] if nothing and open_still else lines


def not_read(run: Run) -> list[tuple[str, int]]:
    """Why parts of the study were passed over, and how many for each reason; the most frequent reason first."""
    return Counter(run.words.reason(each.reason) for each in run.reading.passed_over).most_common()


def not_read_sentence(run: Run) -> str:
    """What was passed over, with every reason and without a full stop; empty if nothing was."""
    counted = not_read(run)
    reasons = "; ".join(f"{reason} ({count})" for reason, count in counted)
    return run.words.not_read(sum(count for _, count in counted), reasons) if counted else ""


def scope(run: Run) -> list[str]:
    """What the reading looked for, without full stops: the operating point, and the classes not looked for."""
    reading, say = run.reading, run.words
    point = [say.operating_point(reading.operating_point)] if reading.operating_point else []
    others = [finding_name(run, each) for each in reading.not_looked_for]
    return [*point, *([say.not_looked_for(others)] if others else [])]


def meanings(run: Run) -> list[str]:
    """What the verdicts mean, without full stops.

    For what each present class may stand, and the probabilities of each class whose prevalence the route states.
    """
    say = run.words
    lines = []
    for each in run.reading.classes:
        if each.differential and each.presence is Presence.PRESENT:
            name, may_be = finding_name(run, each), [say.name(code, code.meaning) for code in each.differential]
            if not all(one.lower() in name.lower() for one in may_be):  # "Nodule or mass" says it already
                lines.append(say.differential(name, may_be))
    for each in run.reading.classes:
        if (chances := scores.chances(run.profile, each)) is None:
            continue
        said = [
            text(scores.percent_text(share))
            for share, text in (
                (chances.probability, say.probability),
                (chances.ppv, say.ppv),
                (chances.ppv_other, say.ppv_other),
                (chances.npv, say.npv),
            )
            if share is not None
        ]
        lines.append(say.chances(finding_name(run, each), said, scores.prevalence_text(chances.prevalence)))
    return lines


def is_faint(result: ClassResult) -> bool:
    """Whether pictures and tables show a class faintly, because there is nothing to look for."""
    return result.presence is Presence.ABSENT or bool(result.not_assessed)


def is_not_outlined(result: ClassResult) -> bool:
    """Whether a class is anatomy that the model did not outline, often because it lies outside the images."""
    return not result.finding and result.presence is Presence.ABSENT


def in_words(run: Run, result: ClassResult) -> tuple[str, str, str]:
    """A class's score, threshold and presence as texts; a class that is not assessed has a dash for the first two."""
    if result.not_assessed:
        return "-", "-", run.words.not_assessed_class
    return (
        score_text(scores.shown_score(result)),
        score_text(shown_threshold(result.threshold)),
        run.words.not_outlined_class if is_not_outlined(result) else run.words.presence[result.presence],
    )


def check(reading: Reading) -> None:
    """Refuse a reading that contradicts itself.

    Raises:
        ValueError: it failed as a whole and has answers; failed in part and calls a class absent; or has a verdict on,
            or a finding of, a class that it does not assess or did not look for.
    """
    others = {each.key for each in reading.not_looked_for}
    told = {each.key for each in reading.classes} | {each.key for each in reading.findings}
    if others & (told | {each.key for each in reading.heat_maps}):
        raise ValueError("a class that was not looked for can have neither a verdict nor findings nor heat maps")
    silent = {each.key for each in reading.classes if each.not_assessed}
    if any(each.not_assessed and each.presence is not Presence.UNDETERMINED for each in reading.classes):
        raise ValueError("a class that is not assessed can only be undetermined")
    if silent & {each.key for each in reading.findings} or silent & {each.key for each in reading.heat_maps}:
        raise ValueError("a class that is not assessed can have neither findings nor heat maps")
    if reading.failure and (reading.findings or reading.classes):
        raise ValueError("a reading that failed as a whole cannot have findings or classes")
    if reading.failed and any(each.presence is Presence.ABSENT for each in reading.classes):
        raise ValueError("a reading that failed in part cannot call a class absent")
