"""The verdicts of a report as coded content: a class, whether it is present, its score, threshold, operating point.

Start here for: the codes of our own, what stands below each class (:func:`evaluation`), and how a class that was not
looked for is written (:func:`not_looked_for`).

DICOM and SNOMED CT have no concept for a classifier's score: Certainty of Finding (111012, DCM) and Probability
(122157, DCM) are probabilities, which a score is only for a calibrated class at a known prevalence.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import CodeContentItem, CodedConcept, ContentItem, ContentSequence, NumContentItem, TextContentItem
from pydicom.sr.codedict import codes

from ai.contract import ClassResult, Finding, NotLookedFor, Presence
from ai.scores import shown_threshold
from dicom_node.results import scores, verdict
from dicom_node.results.encode import concept
from dicom_node.results.run import SCHEME, Run

SCORE = CodedConcept("algorithm_score", SCHEME, "Algorithm score")
_THRESHOLD = CodedConcept("score_threshold", SCHEME, "Score threshold")
_PREVALENCE = CodedConcept("prevalence", SCHEME, "Stated prevalence")
_PPV = CodedConcept("ppv", SCHEME, "Positive predictive value")
_PPV_OTHER = CodedConcept("ppv_other", SCHEME, "Positive predictive value, others with findings")
_NPV = CodedConcept("npv", SCHEME, "Negative predictive value")
_CERTAINTY = CodedConcept("111012", "DCM", "Certainty of Finding")
_OPERATING_POINT = CodedConcept("111081", "DCM", "CAD Operating Point Description")
_DIFFERENTIAL = CodedConcept("111023", "DCM", "Differential Diagnosis/Impression")
NOT_ATTEMPTED = CodedConcept("111225", "DCM", "Not Attempted")  # CID 6042, Status of Results
_NOT_OUTLINED = CodedConcept("not_outlined", SCHEME, "Not outlined")
_PRESENCE = {
    Presence.PRESENT: CodedConcept("52101004", "SCT", "Present"),
    Presence.ABSENT: CodedConcept("272519000", "SCT", "Absent"),
    Presence.UNDETERMINED: CodedConcept("373068000", "SCT", "Undetermined"),
}
_BELOW = "HAS PROPERTIES"


def evaluation(run: Run, result: ClassResult) -> CodeContentItem:
    """The verdict on a class, with its score, threshold, operating point, differential and chances below it.

    A class that is not assessed has no score. Anatomy that was not outlined is not called absent: it may lie outside
    the images, and no code of DICOM or SNOMED CT says that.
    """
    value = _NOT_OUTLINED if verdict.is_not_outlined(result) else _PRESENCE[result.presence]
    item = CodeContentItem(concept(result.code), value, relationship_type="CONTAINS")
    if not result.not_assessed:
        point = run.reading.operating_point
        item.ContentSequence = ContentSequence(
            [
                _number(SCORE, scores.shown_score(result), _BELOW),
                _number(_THRESHOLD, shown_threshold(result.threshold), _BELOW),
                *([TextContentItem(_OPERATING_POINT, point, relationship_type=_BELOW)] if point else []),
                *(
                    CodeContentItem(_DIFFERENTIAL, concept(code), relationship_type=_BELOW)
                    for code in result.differential
                    if result.presence is not Presence.ABSENT
                ),
                *_chances(run, result),
            ]
        )
    return item


def not_looked_for(other: NotLookedFor) -> CodeContentItem:
    """That a class was not looked for: it is neither present nor absent."""
    return CodeContentItem(concept(other.code), NOT_ATTEMPTED, relationship_type="CONTAINS")


def finding_scores(run: Run, finding: Finding) -> list[ContentItem]:
    """The measurements of a finding: its score first, and its certainty if it has one.

    The threshold stands below the class: whatever else is a measurement here, a viewer takes for one of the finding.
    Calibration is that of the class, so only a finding with the score of its class has a certainty.
    """
    result = next((each for each in run.reading.classes if each.key == finding.key), None)
    items: list[ContentItem] = [_number(SCORE, scores.shown_finding_score(run.reading, finding), "CONTAINS")]
    if result is None or finding.score != result.score:
        return items
    certain = scores.probability(run.profile, result)
    return [*items, *([] if certain is None else [_percent(_CERTAINTY, certain, "CONTAINS")])]


def _number(name: CodedConcept, value: float, relationship: str) -> NumContentItem:
    return NumContentItem(name, value, codes.UCUM.NoUnits, relationship_type=relationship)


def _chances(run: Run, result: ClassResult) -> Sequence[NumContentItem]:
    chances = scores.chances(run.profile, result)
    if chances is None:
        return []
    shares = (
        (_CERTAINTY, chances.probability),
        (_PPV, chances.ppv),
        (_PPV_OTHER, chances.ppv_other),
        (_NPV, chances.npv),
    )
    return [
        *(_percent(name, share, _BELOW) for name, share in shares if share is not None),
        NumContentItem(_PREVALENCE, round(100.0 * chances.prevalence, 6), codes.UCUM.Percent, relationship_type=_BELOW),
    ]


def _percent(name: CodedConcept, share: float, relationship: str) -> NumContentItem:
    return NumContentItem(name, scores.percent(share), codes.UCUM.Percent, relationship_type=relationship)
