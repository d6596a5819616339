"""The list of attributes that are compared is what the code reads: traced while it reads, and searched in its text."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from ai.contract import InstanceRef
from dicom_node.dicom import header
from dicom_node.results import encode
from dicom_node.results.images import StoredImages
from dicom_node.storage.compared import COMPARED, OTHERWISE, SAFETY
from tests.reading.test_messages import STUDIES, Here, OneNode, models  # noqa: F401 - models is a fixture
from tests.support import matrix, stacks
from tests.support.matrix_outcomes import outcomes, run_of
from tests.support.matrix_sources import sources
from tests.support.programs import ROOT
from tests.support.samples import make_image
from tests.support.tracing import asked

KNOWN = COMPARED | OTHERWISE.keys()

# What `ai` and `results` name that is no attribute at the top level of an image: what sequences contain, which are
# compared with everything in them, and what our own objects hold.
IN_SEQUENCES = {
    *("CodeValue", "CodingSchemeDesignator", "CodeMeaning", "ReferencedInstanceSequence", "ReferencedSOPClassUID"),
    *("ReferencedSOPInstanceUID", "SourceImageSequence", "FrameType", "FrameAcquisitionDateTime"),
    *("EffectiveEchoTime", "MREchoSequence", "MRDiffusionSequence", "CardiacSynchronizationSequence"),
    *("MRImageFrameTypeSequence", "CTReconstructionSequence", "CTXRayDetailsSequence", "CTImageFrameTypeSequence"),
    *("PETFrameTypeSequence", "PlanePositionSequence", "PlaneOrientationSequence", "StackID", "FrameContentSequence"),
    *("TemporalPositionIndex", "NominalCardiacTriggerDelayTime", "FrameAcquisitionNumber", "PixelMeasuresSequence"),
    *("LUTExplanation", "ModalityLUTType", "FrameVOILUTSequence", "PixelValueTransformationSequence"),
    *("DimensionOrganizationType", "SoftcopyVOILUTSequence", "ReferencedRequestSequence"),
    *("SegmentIdentificationSequence", "GraphicData", "GraphicType", "TransferSyntaxUID"),
    # Of structured reports, and words that are keywords as well.
    *("ValueType", "ConceptNameCodeSequence", "PersonName", "UID", "TextValue", "MeasuredValueSequence"),
    *("CompletionFlag", "VerificationFlag", "ContentSequence", "Date", "Time"),
}


def words(tags: set[int] | frozenset[int]) -> set[str]:
    return {keyword_for_tag(tag) or f"{tag:08X}" for tag in tags}


def enhanced(_: Path) -> list[Dataset]:
    return [stacks.enhanced()]


READ: dict[str, tuple[str, Callable[[Path], list[Dataset]]]] = {
    **{name: (model, make) for name, (model, make, _) in STUDIES.items()},
    "enhanced CT": ("dense", enhanced),
}


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", READ)
def test_what_a_reading_reads_is_compared(tmp_path: Path, name: str) -> None:
    model, make = READ[name]
    node = OneNode(tmp_path / "node", make(tmp_path / "images"), model)
    with asked() as found:
        node.read(Here(nullcontext))
    node.close()
    assert {"PatientID", "Rows", "WindowCenter", "StudyDate"} <= words(found), "nothing was traced"
    assert not words(found - KNOWN), "storage.compared must say how these are compared"


def test_what_results_of_every_kind_read_is_compared(tmp_path: Path) -> None:
    made = list(outcomes())
    studies = matrix.written_sources(sources(), tmp_path)
    with asked() as found:
        for case in matrix.cases(studies, made, quick=True):
            encode(run_of(case.study, next(each for each in made if each.name == case.outcome), case.profile))
    assert {"PatientName", "SharedFunctionalGroupsSequence", "ShutterShape", "VOILUTSequence"} <= words(found)
    assert not words(found - KNOWN), "storage.compared must say how these are compared"


def test_a_header_that_is_read_without_pydicom_is_traced(tmp_path: Path) -> None:
    """What is broken is read by another reader, whose attributes count as well."""
    file = tmp_path / "broken"
    make_image().save_as(file, enforce_file_format=True)
    file.write_bytes(file.read_bytes()[:1200] + b"\x28\x00\x10\x00ZZ\xff\xff")
    with asked() as found:
        StoredImages().header(InstanceRef("1", "2", str(file)))
    assert not words(found - KNOWN)


def test_what_the_code_names_is_compared() -> None:
    """Tracing sees what the tests' images have; this sees the text of every module that opens images."""
    named: dict[str, str] = {}
    rooms = ("ai/images", "ai/selection", "ai/volumes", "ai/anatomy", "ai/inference", "dicom_node/results")
    for file in sorted(path for room in rooms for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and tag_for_keyword(node.value):
                named.setdefault(node.value, file.name)
    named.pop("", None)
    assert {"PatientName", "WindowCenter", "VerticesOfThePolygonalShutter"} <= named.keys()
    unknown = {word: file for word, file in named.items() if tag_for_keyword(word) not in KNOWN}
    assert {word: file for word, file in unknown.items() if word not in IN_SEQUENCES} == {}
    assert named.keys() >= IN_SEQUENCES, "take out what no module names any more"


def test_what_routes_are_chosen_by_is_compared() -> None:
    """The receiver's own reading of the header decides who reads a study."""
    assert not words(set(header._HEADER_TAGS.values()) - KNOWN)


def test_safety_is_a_part_of_what_is_compared() -> None:
    assert SAFETY < COMPARED
    assert not COMPARED & OTHERWISE.keys()
