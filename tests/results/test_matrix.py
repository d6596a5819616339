"""A sample of the validation matrix is free of faults, and the matrix finds the faults that are there."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pydicom
import pytest

from dicom_node.results.source_bytes import text_of
from tests.support import matrix
from tests.support.matrix import PROFILES, Report, built, cases, written_sources
from tests.support.matrix_outcomes import outcomes
from tests.support.matrix_sources import Study, raw, save, sources, study_of
from tests.support.samples import DATA
from tests.support.validators import ALLOWED, Verdict, complaints, judge, missing

SAMPLE = {
    # source: outcome
    "dx": "overlapping",
    "mg": "border",
    "ct-oblique": "segments",
    "enhanced-ct": "probabilities",
    "type-2-missing": "partial-failure",
    "uids-with-leading-zeros": "one",
    "texts-too-long": "long-texts",
    "chrH32": "superseding",
    "cr-jpegls": "none",
}
needs_programs = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    return written_sources(sources(), tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def sample(studies: list[Study], tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What the matrix says of the sample, and of a report spoiled on purpose, which is no part of its cases."""
    chosen = [case for case in cases(studies, outcomes()) if SAMPLE.get(case.study.name) == case.outcome]
    everything = built(chosen, tmp_path_factory.mktemp("results"), jobs=2)
    files = matrix.files_of(everything)
    report = next(path for path in files if path.parts[-3:] == ("dx", "overlapping", "sr-0.dcm"))
    files[_spoiled(report)] = files[report]
    return Report(everything, judge(files, jobs=2))


def _spoiled(report: Path) -> Path:
    """A report with a relationship that its template does not know, and with an item that has no name."""
    data = pydicom.dcmread(report)
    names = [item.ConceptNameCodeSequence[0].CodeValue for item in data.ContentSequence]
    del data.ContentSequence[-1].ContentSequence[0].ConceptNameCodeSequence
    data.ContentSequence[names.index("121058")].RelationshipType = "CONTAINS"
    path = report.with_name("broken.dcm")
    data.save_as(path)
    return path


@pytest.mark.programs
@needs_programs
def test_a_sample_has_no_fault(sample: Report) -> None:
    assert sample.faults == []
    assert len(sample.cases) == len([name for name in SAMPLE if (DATA / "MANIFEST.tsv").is_file() or "-" in name])
    assert {path.name.partition("-")[0] for each in sample.cases for path in each.files} >= {"sr", "sc"}


@pytest.mark.programs
@needs_programs
def test_what_the_source_has_wrong_is_told_apart(sample: Report) -> None:
    by_source = {line.partition("/")[0] for line in sample.inherited}
    # Of the one without type 2 attributes dcmpschk wants the patient's name in the presentation state.
    assert by_source == {"texts-too-long", "uids-with-leading-zeros", "type-2-missing"}


def test_each_pair_is_covered(studies: list[Study]) -> None:
    chosen = cases(studies, outcomes())
    pairs = {(case.study.name, case.outcome) for case in chosen}
    assert pairs == {(s.name, o.name) for s in studies for o in outcomes() if o.fits(s)}
    settings = {(p.language, p.character_set, p.sr_class) for p in PROFILES}
    assert len(settings) == len(PROFILES) == 12
    for outcome in outcomes():
        assert {case.profile for case in chosen if case.outcome == outcome.name} >= (
            set(PROFILES) if outcome.name not in ("segments", "probabilities") else set()
        )
    for study in studies:
        if study.located and study.readable:
            assert {case.profile for case in chosen if case.study == study} == set(PROFILES)
        elif study.readable:
            mine = [case.profile for case in chosen if case.study == study]
            for one, other in itertools.combinations(("language", "character_set", "sr_class"), 2):
                assert len({(getattr(p, one), getattr(p, other)) for p in mine}) >= 4
    quick = cases(studies, outcomes(), quick=True)
    assert len(quick) == len(studies)
    assert len({case.outcome for case in quick}) > 8


def test_every_source_is_what_its_name_says(studies: list[Study]) -> None:
    assert len({study.name for study in studies}) == len(studies)
    by_name = {study.name: study for study in studies}
    assert by_name["enhanced-ct"].frames == 4
    assert by_name["us-colour-loop"].frames == 5
    assert len(by_name["ct-oblique"].refs) == 4
    assert by_name["ct-oblique"].located
    assert not by_name["dx"].located
    header = pydicom.dcmread(by_name["uids-with-leading-zeros"].refs[0].content, stop_before_pixels=True)
    assert text_of(header, "StudyInstanceUID") == "1.2.03.4"


@pytest.mark.programs
@needs_programs
def test_a_fault_of_ours_is_found_and_not_called_inherited(studies: list[Study], tmp_path: Path) -> None:
    by_name = {study.name: study for study in studies}
    source = Path(by_name["uids-with-leading-zeros"].refs[0].content)
    data = pydicom.dcmread(source)
    for keyword, value in (
        ("PatientSex", b"male"),  # which the source has not
        ("StudyInstanceUID", b"1.2.3.04"),  # another than the source's
        ("StudyDate", b"2026-02-30"),
        ("Modality", b"radiograph"),
    ):
        data[keyword] = raw(keyword, value)
    ours = save(tmp_path / "ours.dcm", data)
    verdict = judge({ours: (source,)}, jobs=1)[ours]
    keywords = {line.split(": ")[1] for line in verdict.faults if line.startswith("dciodvfy")}
    assert {"PatientSex", "StudyInstanceUID", "StudyDate", "Modality"} <= keywords
    assert all("SeriesInstanceUID" in line for line in verdict.inherited)
    assert any(line.startswith("pydicom: the file meta information") for line in verdict.faults)


@pytest.mark.programs
@needs_programs
def test_a_document_that_is_none_is_a_fault(sample: Report) -> None:
    (faults,) = [verdict.faults for path, verdict in sample.verdicts.items() if path.name == "broken.dcm"]
    assert any(re.match(r"DicomSRValidator: Error: .*121058.*Incorrect relationship", line) for line in faults)
    assert any(line.startswith("dsrdump: ") for line in faults)
    assert all("dciodvfy" not in line or "ConceptNameCodeSequence" in line for line in faults)


def test_a_result_that_cannot_be_made_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_run: object) -> object:
        raise ValueError("no such thing")

    monkeypatch.setattr(matrix, "encode", broken)
    study = study_of(next(source for source in sources() if source.name == "dx"), tmp_path / "dx")
    (fault,) = matrix.build(cases([study], outcomes())[0], tmp_path / "out").faults
    assert fault.startswith("encode raises ValueError at test_matrix.py:")
    assert fault.endswith("no such thing")


def test_only_what_is_said_is_allowed() -> None:
    """An allowance covers its own message, and neither another code nor another row."""
    said = (
        'Error: Template 1500 MeasurementReport/[Row 4] CODE (121058,DCM,"Procedure reported"): 1.8: '
        '/CONTAINER (126000,DCM,"Imaging Measurement Report")/CODE (121058,DCM,"Procedure reported"): '
        'Code ({},SCT,"{}") not found in context group 100'
    )
    verdict = Verdict()
    verdict.take("DicomSRValidator", said.format("399208008", "Plain chest X-ray"), inherited=False)
    assert (len(verdict.allowed), verdict.faults) == (1, [])
    verdict.take("DicomSRValidator", said.format("399208009", "Plain chest X-ray"), inherited=False)
    verdict.take("dsrdump", said.format("399208008", "Plain chest X-ray"), inherited=False)
    assert len(verdict.faults) == 2
    assert all(len(each.reason) > 20 for each in ALLOWED)


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        ("PatientName PN [김^희중=金^喜中=김^희중] does not conform to {all}*", True),
        ("PatientName PN [김^희중=金=김=김] does not conform to {all}*", False),
        ("PatientName PN [NOBODY^N] does not conform to {all}*", False),
        ("UnformattedTextValue ST [결절 0.87\r\n2] does not conform to all", True),
        ("UnformattedTextValue ST [결절\x07] does not conform to all", False),
        ("ContentDescription LO [결절\n] does not conform to all", False),
        ("ContributionDateTime DT [20260301233015.123456+0000] does not conform to [0-9]{8}", True),
        ("ContributionDateTime DT [20261301233015.123456+0000] does not conform to [0-9]{8}", False),
        ("ContributionDateTime DT [20260301233015.123456-0400] does not conform to [0-9]{8}", False),
        ("StudyDate DA [18000101] does not conform to [0-9]{8}", False),
    ],
)
def test_what_dcmpschk_does_not_know_is_allowed_where_it_is_right(message: str, allowed: bool) -> None:
    verdict = Verdict()
    verdict.take("dcmpschk", message, inherited=False)
    assert (len(verdict.allowed), len(verdict.faults)) == ((1, 0) if allowed else (0, 1))


@pytest.mark.programs
@needs_programs
def test_complaints_name_the_attribute_and_the_value(studies: list[Study]) -> None:
    source = Path(next(study for study in studies if study.name == "bad-age-and-sex").refs[0].content)
    assert ("PatientSex", "Unrecognized enumerated value = <male>") in complaints([source])
