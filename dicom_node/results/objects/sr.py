"""The report: a Comprehensive SR or Comprehensive 3D SR document (PS3.3 A.35.3, A.35.13) by TID 1500 (PS3.16).

Start here for: the measurement group of a finding (TID 1410, :func:`_group`), where its site and laterality are written
(the side itself is decided in :mod:`ai.anatomy.side`), the outcome code of the whole reading (CID
6047, :func:`_outcome`), and the sentences of the report (:func:`_sentences`).

Each finding has one measurement group with its region, site, algorithm, score and, if the source gives its pixel size,
its size. The verdicts on the whole study, class by class, are qualitative evaluations of the root
(:mod:`objects.evaluations`): viewers (OHIF) reject groups without a region and then hide the others. Every sentence
that a person must see is a plain TEXT item. A reading that failed has no class at all: no answer must not read as
"absent".
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    NumContentItem,
    ObserverContext,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode

from ai.contract import Finding
from dicom_node.results import highdicom_mends, short_report, uids, verdict
from dicom_node.results.encode import concept, finish, fitted, identity
from dicom_node.results.objects import evaluations, seg, viewers
from dicom_node.results.objects.rois import Roi, add_evidence, roi_of
from dicom_node.results.objects.sizes import Size, size_of
from dicom_node.results.run import SCHEME, Predecessor, Run
from dicom_node.results.source import Source, check_findings, read_sources
from dicom_node.results.source_bytes import text_of, unsigned_of
from dicom_node.results.times import in_zone_of, shown_time

QUALITATIVE_EVALUATIONS = CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
SUMMARY = CodedConcept("121111", "DCM", "Summary")
_LATERALITY = CodedConcept("272741003", "SCT", "Laterality")
_LONG_AXIS = CodedConcept("103339001", "SCT", "Long Axis")
_SHORT_AXIS = CodedConcept("103340004", "SCT", "Short Axis")
_METHOD = CodedConcept("370129005", "SCT", "Measurement Method")
_AT_DETECTOR = CodedConcept("at_detector", SCHEME, "At the detector, magnification not corrected")
# Members of CID 100 for any body region. CID 100 is extensible and has no code for the two procedures of the chest.
_PROCEDURES = {
    "CT": CodedConcept("25045-6", "LN", "CT unspecified body region"),
    "MR": CodedConcept("25056-3", "LN", "MRI unspecified body region"),
    "PT": CodedConcept("44136-0", "LN", "PET unspecified body region"),
    "NM": CodedConcept("49118-3", "LN", "NM unspecified body region"),
}
_NONE_SUCCEEDED = codes.cid6047.NoAlgorithmsSucceededWithoutFindings
_CHEST_RADIOGRAPH = CodedConcept("399208008", "SCT", "Plain chest X-ray")
_CHEST_CT = CodedConcept("24627-2", "LN", "CT Chest")
_OTHER_PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
_MODALITIES: dict[str, PydicomCode] = {code.value: code for code in codes.cid29.concepts.values()}


def build(run: Run, sources: Sequence[Dataset]) -> Dataset:
    """The report of a run.

    ``sources`` are the headers of ``run.reading.sources``, in order; pixels are not needed. Patient and study are those
    of the first. The result keeps copied attributes as raw bytes: write it with :func:`encode.to_bytes`.

    Raises:
        ReadingError: the headers are not all of one patient.
        ValueError: the headers are not the reading's sources, a finding lies on another image or on a frame that the
            image does not have, or the reading contradicts itself.
    """
    images = read_sources(run.reading.sources, sources)
    run = fitted(run, images[0].header)
    by_uid = {image.sop_instance_uid: image for image in images}
    verdict.check(run.reading)
    check_findings(run.reading.findings, images)
    segments = seg.references(run, sources)
    if not all(finding.part in segments for finding in run.reading.findings):
        segments = {}  # groups of one kind only: validators take the template of the first for that of all
    places = [
        roi_of(run, finding, by_uid[finding.region.sop_instance_uid], segments.get(finding.part))
        for finding in run.reading.findings
    ]
    groups = [
        _group(run, number, finding, by_uid[finding.region.sop_instance_uid], place)
        for number, (finding, place) in enumerate(zip(run.reading.findings, places, strict=True))
    ]
    kind = Comprehensive3DSR if run.profile.sr_class == "comprehensive3d" else ComprehensiveSR
    listed = library(images)
    root = _root(run, images, listed, groups)
    document: Dataset = kind(
        evidence=[image.stand_in for image in images],
        content=container(codes.DCM.ImagingMeasurementReport, [listed], template="1500", relationship=None),
        is_complete=True,
        is_final=False,
        is_verified=False,
        **identity(run, images[0], "sr", 0),
    )
    highdicom_mends.set_content(document, root)
    scores = []
    for group, place in zip(_groups_of(document), places, strict=True):
        scores.append(next(item for item in group.ContentSequence if item.ValueType == "NUM"))
        highdicom_mends.add_inferred_from(scores[-1], place.region)
    if any(place.template == "1411" for place in places):
        add_evidence(document, run, segments)
    if run.profile.viewer == "ohif":
        viewers.adapt_to_ohif(document, run, scores)
    if run.predecessor is not None:
        document.PredecessorDocumentsSequence = [references([run.predecessor], images[0])]
    finish(document, run, images)
    return document


def references(reports: Sequence[Predecessor], image: Source) -> Dataset:
    """Earlier reports on the image's study as an item of Predecessor Documents Sequence and the like (PS3.3 C.17.2)."""
    study = Dataset()
    study.StudyInstanceUID = image.stand_in.StudyInstanceUID  # encode.finish puts the source's own there
    study.ReferencedSeriesSequence = []
    for report in reports:
        reference = Dataset()
        reference.ReferencedSOPClassUID = report.sop_class_uid
        reference.ReferencedSOPInstanceUID = report.sop_instance_uid
        series = Dataset()
        series.SeriesInstanceUID = report.series_instance_uid
        series.ReferencedSOPSequence = [reference]
        study.ReferencedSeriesSequence.append(series)
    return study


def _root(run: Run, images: Sequence[Source], listed: ContentItem, groups: Sequence[ContentItem]) -> ContentItem:
    reported = procedure(images[0].header)
    content = [
        *LanguageOfContentItemAndDescendants(CodedConcept(run.words.locale[0], "RFC5646", run.words.locale[1])),
        *observer(run),
        CodeContentItem(codes.DCM.ProcedureReported, reported, relationship_type="HAS CONCEPT MOD"),
        TextContentItem(SUMMARY, "\r\n".join(short_report.lines(run)), relationship_type="CONTAINS"),
        *(TextContentItem(codes.DCM.Comment, each, relationship_type="CONTAINS") for each in _sentences(run, images)),
        listed,
        *([container(codes.DCM.ImagingMeasurements, groups)] if groups else []),
        _evaluations(run),
    ]
    return container(codes.DCM.ImagingMeasurementReport, content, template="1500", relationship=None)


def container(
    name: PydicomCode | CodedConcept,
    content: Sequence[ContentItem],
    *,
    template: str | None = None,
    relationship: str | None = "CONTAINS",
) -> ContainerContentItem:
    """A container with separate items: viewers show continuous content as running text, without the items' names."""
    container = ContainerContentItem(
        name, is_content_continuous=False, template_id=template, relationship_type=relationship
    )
    container.ContentSequence = ContentSequence(content)
    return container


def procedure(header: Dataset) -> CodedConcept:
    """What was done to the patient, as far as modality and body part tell."""
    modality, body_part = text_of(header, "Modality"), text_of(header, "BodyPartExamined").upper()
    if body_part in ("CHEST", "THORAX"):
        if modality in ("CR", "DX"):
            return _CHEST_RADIOGRAPH
        if modality == "CT":
            return _CHEST_CT
    return _PROCEDURES.get(modality, _OTHER_PROCEDURE)


def observer(run: Run) -> ObserverContext:
    """The model as the observing device (PS3.16 TID 1002)."""
    model = run.reading.model
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=uids.device_uid(run.site, model),
            name=f"{model.name} {model.version}",
            manufacturer_name=model.manufacturer,
            model_name=model.name,
            serial_number=model.digest,
        ),
    )


def _sentences(run: Run, images: Sequence[Source]) -> list[str]:
    """The sentences of the document, the most important first."""
    reading, say = run.reading, run.words
    model = reading.model
    verdicts = ", ".join(
        f"{verdict.finding_name(run, each)} {presence}"
        + ("" if each.not_assessed else f" ({say.score} {score}, {say.threshold} {threshold})")
        for each in reading.classes
        for score, threshold, presence in [verdict.in_words(run, each)]
    )
    return [
        *run.warnings,
        f"{say.read_by(model.name, model.version, model.manufacturer)}. "
        f"{say.intended_use}: {say.use(model.intended_use)}",
        *_replaced(run, images[0].header),
        verdict.summary(run) + (f": {verdicts}." if verdicts else "."),
        *(f"{each}." for each in (*verdict.cautions(run), *verdict.scope(run), *verdict.meanings(run))),
        *_caveat(run, images),
        *_not_read(run),
    ]


def _replaced(run: Run, header: Dataset) -> list[str]:
    if run.predecessor is None:
        return []
    made = shown_time(in_zone_of(header, run.predecessor.created))
    return [f"{run.words.replaces(made)}."]


def _caveat(run: Run, images: Sequence[Source]) -> list[str]:
    """That sizes are those at the detector, if they are."""
    by_uid = {image.sop_instance_uid: image.header for image in images}
    found = (size_of(each, by_uid[each.region.sop_instance_uid]) for each in run.reading.findings)
    return [f"{run.words.at_detector}."] if any(size is not None and size.at_detector for size in found) else []


def _not_read(run: Run) -> list[str]:
    """What the model passed over; without it a reader would take the verdict for one on the whole study."""
    sentence = verdict.not_read_sentence(run)
    return [f"{sentence}."] if sentence else []


def library(images: Sequence[Source]) -> ContainerContentItem:
    """The image library (TID 1600), built by hand: highdicom's needs attributes that real images lack.

    CR images, for example, have no Imager Pixel Spacing.
    """
    group = container(codes.DCM.ImageLibraryGroup, [_library_entry(image) for image in images])
    return container(codes.DCM.ImageLibrary, [group])


def _library_entry(image: Source) -> ImageContentItem:
    entry = ImageContentItem(
        CodedConcept("260753009", "SCT", "Source"),
        image.stand_in.SOPClassUID,
        image.stand_in.SOPInstanceUID,
        relationship_type="CONTAINS",
    )
    modality = _MODALITIES.get(text_of(image.header, "Modality"))
    described: list[ContentItem] = []
    if modality is not None:  # CID 29 lists acquisition modalities only, so OT is left out; TID 1602 allows that
        described.append(CodeContentItem(codes.DCM.Modality, modality, relationship_type="HAS ACQ CONTEXT"))
    for name, keyword in ((codes.DCM.PixelDataRows, "Rows"), (codes.DCM.PixelDataColumns, "Columns")):
        count = unsigned_of(image.header, keyword)
        if count:
            unit = CodedConcept("{pixels}", "UCUM", "Pixels")
            described.append(NumContentItem(name, count, unit, relationship_type="HAS ACQ CONTEXT"))
    if described:
        entry.ContentSequence = ContentSequence(described)
    return entry


def _evaluations(run: Run) -> ContainerContentItem:
    outcome = CodeContentItem(codes.DCM.CADProcessingAndFindingsSummary, _outcome(run), relationship_type="CONTAINS")
    verdicts = (evaluations.evaluation(run, result) for result in run.reading.classes)
    others = map(evaluations.not_looked_for, run.reading.not_looked_for)
    return container(QUALITATIVE_EVALUATIONS, [outcome, *verdicts, *others])


def _outcome(run: Run) -> CodedConcept:
    """The outcome of the whole reading (CID 6047): an undetermined class is a failed algorithm, not a negative answer.

    A class that the model does not assess does not count as one of its algorithms.
    """
    if run.reading.failure:
        return _NONE_SUCCEEDED
    found = bool(run.reading.findings) or bool(verdict.unplaced(run.reading))
    return outcome(found=found, incomplete=verdict.is_incomplete(run.reading))


def outcome(*, found: bool, incomplete: bool) -> CodedConcept:
    """The outcome of algorithms (CID 6047) that found something or not, and all succeeded or not all."""
    if incomplete:
        nothing = codes.cid6047.NotAllAlgorithmsSucceededWithoutFindings
        return codes.cid6047.NotAllAlgorithmsSucceededWithFindings if found else nothing
    complete = codes.cid6047.AllAlgorithmsSucceededWithoutFindings
    return codes.cid6047.AllAlgorithmsSucceededWithFindings if found else complete


def _group(run: Run, number: int, finding: Finding, image: Source, place: Roi) -> ContainerContentItem:
    """The measurement group (TID 1410 or 1411) of one finding.

    It is built from its parts: highdicom's class for it admits no region below a measurement.
    """
    model = run.reading.model
    algorithm = AlgorithmIdentification(
        name=model.name,
        version=model.version,
        parameters=[f"weights SHA-256 {model.digest}"],
        family=CodedConcept("123110", "DCM", "Artificial Intelligence"),
        manufacturer=model.manufacturer,
    )
    laterality = None if finding.laterality is None else concept(finding.laterality)
    size = size_of(finding, image.header)
    content = [
        *TrackingIdentifier(uid=uids.tracking_uid(run.key, number), identifier=verdict.tracking_id(run, number)),
        CodeContentItem(codes.DCM.Finding, concept(finding.code), relationship_type="CONTAINS"),
        *([] if finding.site is None else [FindingSite(concept(finding.site), laterality=laterality)]),
        # Without a site the side has nothing to modify, so it is an item of its own.
        *(
            [CodeContentItem(_LATERALITY, laterality, relationship_type="CONTAINS")]
            if finding.site is None and laterality is not None
            else []
        ),
        *algorithm,
        viewers.comment(run, finding),
        # OHIF takes the box from the first measurement of a group; add_inferred_from adds it there.
        *evaluations.finding_scores(run, finding),
        *([] if size is None else _axes(size)),
        *place.measurements,
        *place.items,
    ]
    return container(codes.DCM.MeasurementGroup, content, template=place.template)


def _axes(size: Size) -> list[NumContentItem]:
    """The finding's long and short axis in mm, with one decimal; those at the detector say so (TID 300)."""
    items = []
    for name, length in ((_LONG_AXIS, size.long), (_SHORT_AXIS, size.short)):
        item = NumContentItem(name, round(length, 1), codes.UCUM.Millimeter, relationship_type="CONTAINS")
        if size.at_detector:
            method = CodeContentItem(_METHOD, _AT_DETECTOR, relationship_type="HAS CONCEPT MOD")
            item.ContentSequence = ContentSequence([method])
        items.append(item)
    return items


def _groups_of(document: Dataset) -> list[Dataset]:
    return [
        group
        for item in document.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.ImagingMeasurements.value
        for group in item.ContentSequence
    ]
