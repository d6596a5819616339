"""What viewers show of a report: the words at a finding's box and in lists, where each viewer takes them from.

Start here for: the label of a finding (:func:`label`), what OHIF reads of a report (:func:`adapt_to_ohif`).
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import CodedConcept, TextContentItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai.contract import Finding
from ai.scores import score_text
from dicom_node.results.run import SCHEME, Run
from dicom_node.results.scores import shown_finding_score
from dicom_node.results.short_report import finding_words
from dicom_node.results.source_text import within
from dicom_node.results.uids import digest_of

_REPORT = CodedConcept("AI_REPORT", SCHEME, "AI report")


def label(run: Run, finding: Finding) -> str:
    """Who says it, what it is and on which side: "AI: Nodule, right"."""
    return f"AI: {finding_words(run, finding)}"


def comment(run: Run, finding: Finding) -> TextContentItem:
    """The label with the score as a comment (121106, DCM) on a measurement group; TID 1410 can be extended.

    OHIF names a measurement by it once it is loaded.
    """
    score = score_text(shown_finding_score(run.reading, finding))
    return TextContentItem(codes.DCM.Comment, f"{label(run, finding)}, {score}", relationship_type="CONTAINS")


def adapt_to_ohif(document: Dataset, run: Run, scores: Sequence[Dataset]) -> None:
    """Have a finished report say what it says where OHIF shows it, in place; ``scores`` are the findings' in order.

    OHIF writes the names and values of a group's measurements at its box, and never the name of the finding. So the
    score of each class on each side has a code of its own, with the label as its meaning. Of a report by the title
    Imaging Measurement Report it shows the boxes alone: without any, a black window. Under another title it shows the
    text. CID 7021 is extensible.
    """
    for score, finding in zip(scores, run.reading.findings, strict=True):
        said = label(run, finding)
        side = "" if finding.laterality is None else finding.laterality.value
        value = f"SCORE_{digest_of(finding.code.scheme, finding.code.value, side)[:8]}"
        score.ConceptNameCodeSequence = [CodedConcept(value, SCHEME, within(said, 64))]
    if not scores:
        document.ConceptNameCodeSequence = [_REPORT]
