"""The page: an Encapsulated PDF object (PS3.3 A.45.1, C.24.2) of one printable page, for readers without a viewer.

Start here for: what the page says (:func:`_page`, :func:`_notes`) and when it names the patient (:func:`_identity`).
The layout is in :mod:`objects.page`.

It says what the report says, with the picture. A printed page is separated from the DICOM header that identifies the
other objects, so it names the patient if the source's characters are certain. If they are not, it names nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from highdicom import SOPClass
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from ai.scores import score_text
from dicom_node.results import highdicom_mends, short_report
from dicom_node.results.encode import finish, fitted, identity
from dicom_node.results.objects.page import Page, Table, printable, render
from dicom_node.results.objects.sizes import Size, size_of
from dicom_node.results.pictures.palette import Palette
from dicom_node.results.run import Run
from dicom_node.results.scores import shown_finding_score
from dicom_node.results.source import Source, check_findings, read_sources
from dicom_node.results.source_bytes import text_of
from dicom_node.results.source_text import certain_text, within
from dicom_node.results.times import in_zone_of, local_time, shown_time
from dicom_node.results.verdict import (
    cautions,
    finding_name,
    in_words,
    is_faint,
    is_incomplete,
    meanings,
    not_read_sentence,
    scope,
    summary,
)


def build(run: Run, headers: Sequence[Dataset], picture: NDArray[np.uint8] | None) -> list[Dataset]:
    """The page of a run, alone in its list.

    ``headers`` are those of ``run.reading.sources``, in order; ``picture`` is rows x columns x 3, or None if there is
    nothing to show. The result keeps copied attributes as raw bytes: write it with :func:`encode.to_bytes`.

    Raises:
        ReadingError: the headers are not all of one patient.
        ValueError: the headers are not those of the reading's sources, a finding lies on another image, or the picture
            does not have the expected shape and type.
    """
    if picture is not None and (picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8):
        raise ValueError(f"expected rows x columns x 3 of uint8, got {picture.shape} of {picture.dtype}")
    images = read_sources(run.reading.sources, headers)
    check_findings(run.reading.findings, images)
    content = render(_page(run, images, picture))
    return [_document(fitted(run, images[0].header), images, content)]


def _document(run: Run, images: Sequence[Source], content: bytes) -> Dataset:
    """The object around the page (PS3.3 C.24.2); highdicom has no class for it."""
    first = images[0]
    at = local_time(run, first.header)
    document: Dataset = SOPClass(
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **highdicom_mends.empty_patient_and_study(first),
        **identity(run, first, "pdf", 0),
    )
    document.ConversionType = "WSD"
    document.AcquisitionDateTime = at.strftime("%Y%m%d%H%M%S.%f%z")
    document.BurnedInAnnotation = "YES"  # the page names the patient and the date
    document.SourceInstanceSequence = [_reference(image) for image in images]
    document.DocumentTitle = within(f"{run.words.report}: {run.reading.model.name}", 1024)
    document.ConceptNameCodeSequence = [CodedConcept.from_code(codes.DCM.ImagingMeasurementReport)]
    document.VerificationFlag = "UNVERIFIED"
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(content)
    document.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    finish(document, run, images)
    return document


def _reference(image: Source) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.stand_in.SOPClassUID
    item.ReferencedSOPInstanceUID = image.stand_in.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImage)]
    return item


# --- what stands on it ----------------------------------------------------------------------------------------------


def _page(run: Run, images: Sequence[Source], picture: NDArray[np.uint8] | None) -> Page:
    reading, say = run.reading, run.words
    by_uid = {image.sop_instance_uid: image.header for image in images}
    found = [size_of(each, by_uid[each.region.sop_instance_uid]) for each in reading.findings]
    sizes = {number: size for number, size in enumerate(found) if size is not None}
    verdict = [summary(run)]
    verdict += [*cautions(run), *scope(run), *meanings(run)]
    if picture is None and not reading.failure:
        verdict.append(say.no_picture)
    return Page(
        language=say.locale[0],
        created=local_time(run, images[0].header),
        author=reading.model.manufacturer,
        warnings=run.warnings,
        title=f"{say.report}: {reading.model.name} {reading.model.version}",
        identity=_identity(run, images[0].header),
        verdict=tuple(verdict),
        picture=None if reading.failure else picture,
        tables=() if reading.failure else (_findings(run, sizes), _classes(run)),
        notes=_notes(run, images[0].header, sizes),
        more=say.see_report,
        alarming=bool(reading.failure) or is_incomplete(reading),
    )


def _findings(run: Run, sizes: Mapping[int, Size]) -> Table:
    say = run.words
    rows = [
        (
            str(number + 1),
            finding_name(run, finding),
            say.name(finding.laterality, finding.laterality.meaning) if finding.laterality else "",
            score_text(shown_finding_score(run.reading, finding)),
            *([_axes(run, sizes.get(number))] if sizes else []),
        )
        for number, finding in enumerate(run.reading.findings)
    ]
    heading = ("", say.finding, say.side, _capital(say.score), *([say.size] if sizes else []))
    palette = Palette(run.reading)
    return Table(heading, tuple(rows), 1, colours=tuple(palette.colour(each) for each in run.reading.findings))


def _classes(run: Run) -> Table:
    say = run.words
    rows = []
    for each in run.reading.classes:
        score, threshold, presence = in_words(run, each)
        rows.append((finding_name(run, each), presence, score, threshold))
    faint = frozenset(n for n, each in enumerate(run.reading.classes) if is_faint(each))
    heading = tuple(_capital(each) for each in ("", say.verdict, say.score, say.threshold))
    colours = Palette(run.reading).classes
    return Table(heading, tuple(rows), 0, faint, tuple(colours[each.key] for each in run.reading.classes))


def _notes(run: Run, header: Dataset, sizes: Mapping[int, Size]) -> tuple[str, ...]:
    model, say = run.reading.model, run.words
    at, passed_over = local_time(run, header), not_read_sentence(run)
    replaced = run.predecessor and in_zone_of(header, run.predecessor.created)
    return (
        *short_report.lines(run),
        *([passed_over] if passed_over else []),
        *([say.at_detector] if any(size.at_detector for size in sizes.values()) else []),
        f"{say.read_by(model.name, model.version, model.manufacturer)} (SHA-256 {model.digest[:16]})",
        say.read_at(shown_time(at)),
        f"{say.intended_use}: {say.use(model.intended_use)}",
        *([say.replaces(shown_time(replaced))] if replaced else []),
    )


def _identity(run: Run, header: Dataset) -> tuple[str, ...]:
    """Patient and study as lines of text: each part only if its characters are certain and the font can print them."""
    name = " = ".join(
        " ".join(group.replace("^", " ").split())
        for group in certain_text(header, "PatientName").split("=")
        if group.strip(" ^") and printable(group)
    )
    number, issuer = (certain_text(header, keyword) for keyword in ("PatientID", "IssuerOfPatientID"))
    patient = [
        name,
        f"ID {number}" + (f" ({issuer})" if issuer and printable(issuer) else "") if printable(number) else "",
        _date(text_of(header, "PatientBirthDate")),
        _plain(text_of(header, "PatientSex"), "[MFO]"),
    ]
    description, accession = (certain_text(header, keyword) for keyword in ("StudyDescription", "AccessionNumber"))
    study = [
        _date(text_of(header, "StudyDate")),
        description if printable(description) else "",
        accession if printable(accession) else "",
    ]
    lines = ((run.words.patient, patient if name or number else []), (run.words.study, study))
    return tuple(f"{label}: {', '.join(filter(None, parts))}" for label, parts in lines if any(parts))


def _axes(run: Run, size: Size | None) -> str:
    return "" if size is None else run.words.axes(f"{size.long:.1f}", f"{size.short:.1f}")


def _date(text: str) -> str:
    found = re.fullmatch(r"(\d{4})(\d{2})(\d{2})", text)
    return "-".join(found.groups()) if found else ""


def _plain(text: str, pattern: str) -> str:
    return text if re.fullmatch(pattern, text) else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
