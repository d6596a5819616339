"""The report of a summary: a Comprehensive SR by TID 1500, without measurement groups; its observer is the node.

Each class stands once for each model among the qualitative evaluations, worst class first, with the model's name and
version (111001, 111003, DCM) below it: no item is a verdict of the summary itself. A model that failed has (111224,
DCM, "Failed"), one that did not look for the class (111225, DCM, "Not Attempted"; both CID 6042). The models' own
reports are Pertinent Other Evidence (PS3.3 C.17.2).
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContentItem,
    ContentSequence,
    LanguageOfContentItemAndDescendants,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai.contract import ClassResult, Reading
from dicom_node.results import highdicom_mends, verdict
from dicom_node.results.encode import concept, finish, identity
from dicom_node.results.objects import evaluations, sr, viewers
from dicom_node.results.run import Predecessor
from dicom_node.results.source import Source, read_sources
from dicom_node.results.source_text import within
from dicom_node.results.summary import sentences
from dicom_node.results.summary.agreement import Said, Topic
from dicom_node.results.summary.sentences import Compared
from dicom_node.results.times import in_zone_of, shown_time

_FAILED = CodedConcept("111224", "DCM", "Failed")


def build(compared: Compared, headers: Sequence[Dataset], reports: Sequence[Predecessor]) -> Dataset:
    """The report of a summary; ``headers`` are those of its sources, in order.

    Raises:
        ReadingError: the headers are not all of one patient.
    """
    run = compared.run
    images = read_sources(run.reading.sources, headers)
    kind = Comprehensive3DSR if run.profile.sr_class == "comprehensive3d" else ComprehensiveSR
    name = codes.DCM.ImagingMeasurementReport
    library = sr.library(images)
    document: Dataset = kind(
        evidence=[image.stand_in for image in images],
        content=sr.container(name, [library], template="1500", relationship=None),
        is_complete=True,
        is_final=False,
        is_verified=False,
        **identity(run, images[0], "sr", 0),
    )
    root = sr.container(name, [*_content(compared, images), library, _evaluations(compared)], template="1500",
                        relationship=None)  # fmt: skip
    highdicom_mends.set_content(document, root)
    if run.profile.viewer == "ohif":
        viewers.adapt_to_ohif(document, run, [])
    if run.predecessor is not None:
        document.PredecessorDocumentsSequence = [sr.references([run.predecessor], images[0])]
    if reports:
        document.PertinentOtherEvidenceSequence = [sr.references(reports, images[0])]
    finish(document, run, images)
    name_equipment(document, compared)
    return document


def name_equipment(dataset: Dataset, compared: Compared) -> None:
    """Say in the Contributing Equipment Sequence what the node did, in place: it read no image."""
    text = f"Comparison of the AI readings of {', '.join(compared.models)}"
    dataset.ContributingEquipmentSequence[0].ContributionDescription = within(text, 64)


def _content(compared: Compared, images: Sequence[Source]) -> list[ContentItem]:
    run = compared.run
    return [
        *LanguageOfContentItemAndDescendants(CodedConcept(run.words.locale[0], "RFC5646", run.words.locale[1])),
        *sr.observer(run),
        CodeContentItem(
            codes.DCM.ProcedureReported, sr.procedure(images[0].header), relationship_type="HAS CONCEPT MOD"
        ),
        TextContentItem(sr.SUMMARY, "\r\n".join(sentences.lines(compared)), relationship_type="CONTAINS"),
        *(TextContentItem(codes.DCM.Comment, each, relationship_type="CONTAINS") for each in _told(compared, images)),
    ]


def _told(compared: Compared, images: Sequence[Source]) -> list[str]:
    """The sentences of the document, the most important first."""
    run = compared.run
    replaced = []
    if run.predecessor is not None:
        made = shown_time(in_zone_of(images[0].header, run.predecessor.created))
        replaced.append(run.words.replaces(made))
    told = [
        sentences.title(compared),
        *replaced,
        *sentences.failures(compared),
        sentences.headline(run.words, compared.answers),
        *sentences.of_classes(compared),
        *sentences.cautions(compared),
        *sentences.differentials(compared),
    ]
    return [*sentences.warnings(compared), *(f"{each}." for each in told)]


def _evaluations(compared: Compared) -> ContentItem:
    found = any(each.present for each in compared.topics)
    incomplete = any(each.failure or verdict.is_incomplete(each) for each in compared.answers)
    summary = sr.outcome(found=found, incomplete=incomplete)
    items: list[ContentItem] = [
        CodeContentItem(codes.DCM.CADProcessingAndFindingsSummary, summary, relationship_type="CONTAINS")
    ]
    for topic in compared.topics:
        for answer, what, result in zip(compared.answers, topic.said, topic.results, strict=True):
            items.append(_by_model(compared, topic, answer, what, result))
    return sr.container(sr.QUALITATIVE_EVALUATIONS, items)


def _by_model(
    compared: Compared, topic: Topic, answer: Reading, what: Said, result: ClassResult | None
) -> CodeContentItem:
    """What one model says of a class, with the model below it."""
    if result is not None:
        item = evaluations.evaluation(compared.by(answer), result)
    else:
        status = _FAILED if what is Said.FAILED else evaluations.NOT_ATTEMPTED
        item = CodeContentItem(concept(topic.code), status, relationship_type="CONTAINS")
    model = [TextContentItem(codes.DCM.AlgorithmName, answer.model.name, relationship_type="HAS PROPERTIES")]
    if answer.model.version:
        version = TextContentItem(codes.DCM.AlgorithmVersion, answer.model.version, relationship_type="HAS PROPERTIES")
        model.append(version)
    item.ContentSequence = ContentSequence([*model, *(item.get("ContentSequence") or [])])
    return item
