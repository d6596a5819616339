"""A reading as DICOM objects: one package for every kind of object that goes back to the hospital.

:func:`encode` is the door. :mod:`common` holds what all objects share, :mod:`source` the copying of the images' own
attributes, :mod:`words` the texts in each language, and each kind of object has a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.contract import (
    ClassResult,
    Code,
    Finding,
    InstanceRef,
    ModelIdentity,
    Presence,
    Reading,
    ReadingError,
    Region,
)
from dicom_node.results import source, source_bytes
from dicom_node.results.encode import in_the_wanted_characters, to_pieces
from dicom_node.results.images import Images, StoredImages
from dicom_node.results.objects import gsps, kos, pdf, sc, seg, sr
from dicom_node.results.run import ROLES, Predecessor, Run
from dicom_node.results.summary import datasets
from dicom_node.results.summary import key_of as summary_key
from dicom_node.results.summary import reading_of as summary_reading
from dicom_node.results.uids import run_key
from dicom_node.results.verdict import check

__all__ = [
    "ROLES",
    "Images",
    "Predecessor",
    "ResultObject",
    "Run",
    "StoredImages",
    "encode",
    "identified",
    "left_out",
    "objects_of",
    "run_key",
    "summary_key",
    "summary_of",
    "summary_reading",
    "warm_up",
]


@dataclass(frozen=True, slots=True)
class ResultObject:
    """A finished object: ``pieces`` are, one behind the other, a DICOM Part 10 file in explicit VR little endian.

    ``index`` counts the objects of a role from 0.
    """

    role: str
    index: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    pieces: tuple[bytes | memoryview, ...]

    @property
    def content(self) -> bytes:
        """The whole file."""
        return b"".join(self.pieces)


def encode(run: Run, images: Images | None = None) -> tuple[ResultObject, ...]:
    """`objects_of`, all at once."""
    return tuple(objects_of(run, images))


def objects_of(run: Run, images: Images | None = None) -> Iterator[ResultObject]:
    """Every object that the run's profile asks for, in the order in which they are sent, made when it is asked for.

    The same run gives the same bytes.

    Raises:
        ReadingError: a header cannot be parsed, or the sources are not all of one patient.
        ValueError: a source is not what the reading says, or the reading contradicts itself.
    """
    images = images or StoredImages()
    check(run.reading)
    headers = [images.header(ref) for ref in run.reading.sources]
    source.check_patient(headers)
    if run.reading.failure and not all(source_bytes.text_of(header, "StudyInstanceUID") for header in headers):
        raise ReadingError("an image does not say of which study it is, so that the report would belong to nobody")
    run, headers = in_the_wanted_characters(run, headers)
    for role in ROLES:
        if role in run.profile.made:
            for index, dataset in enumerate(_BUILDERS[role](run, headers, images)):
                yield _result(role, index, dataset)


def summary_of(
    run: Run, answers: Sequence[Reading], reports: Sequence[Predecessor], images: Images | None = None
) -> Iterator[ResultObject]:
    """The objects of a summary that the run's profile asks for: see :func:`summary.datasets`, also for the errors."""
    for role, dataset in datasets(run, answers, reports, images or StoredImages()):
        yield _result(role, 0, dataset)


def identified(refs: Iterable[InstanceRef], study: str, images: Images) -> tuple[InstanceRef, ...]:
    """Those whose headers still say which instance of ``study`` they are; a damaged file must not name another patient.

    For a reading that failed: a file that nobody can parse may be why, and must not keep the others from saying so.
    """

    def known(ref: InstanceRef) -> bool:
        try:
            header = images.header(ref)
        except ReadingError:
            return False
        found = tuple(source_bytes.text_of(header, keyword) for keyword in ("SOPInstanceUID", "StudyInstanceUID"))
        return found == (ref.sop_instance_uid, study)

    return tuple(filter(known, refs))


def left_out(run: Run, roles: Iterable[str], images: Images | None = None) -> tuple[str, ...]:
    """Why segmentations of the reading have no object among those of these roles that were made, in plain words."""
    made = sum(role == "seg" for role in roles)
    if "seg" not in run.profile.made or made == len(run.reading.segmentations):
        return ()
    images = images or StoredImages()
    return seg.refusals(run, [images.header(ref) for ref in run.reading.sources])


_BUILDERS: dict[str, Callable[[Run, Sequence[Dataset], Images], Iterable[Dataset]]] = {
    "sr": lambda run, headers, _: [sr.build(run, headers)],
    "sc": sc.build,
    "gsps": lambda run, headers, _: gsps.build(run, headers),
    "seg": lambda run, headers, _: seg.build(run, headers),
    "pdf": lambda run, headers, images: pdf.build(run, headers, sc.page_picture(run, headers, images)),
    "kos": lambda run, headers, _: kos.build(run, headers),
}


def warm_up() -> None:
    """Encode a made-up reading, so that the first real one does not wait for highdicom's tables and the fonts."""
    sop_class = "1.2.840.10008.5.1.4.1.1.1.1"
    ref, code = InstanceRef("2.25.1", sop_class, ""), Code("36118008", "SCT", "Pneumothorax")
    model = ModelIdentity("warm-up", "1", "00", "dicom-node", "none", "")
    finding = Finding("a", "A", code, 0.9, Region(ref.sop_instance_uid, 8.0, 8.0, 24.0, 24.0))
    verdict = ClassResult("a", "A", code, 0.9, 0.5, Presence.PRESENT)
    reading = Reading(model, (ref,), (finding,), (verdict,), (), ())
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = sop_class, ref.sop_instance_uid
    header.StudyInstanceUID, header.SeriesInstanceUID = "2.25.2", "2.25.3"
    header.Modality, header.BodyPartExamined, header.Rows, header.Columns = "DX", "CHEST", 512, 512
    run = Run("00", datetime(2000, 1, 1, tzinfo=UTC), "warm-up", reading)
    encode(run, _Blank(header))


@dataclass(frozen=True, slots=True)
class _Blank:
    """One made-up header with a black picture."""

    one: Dataset

    def header(self, _ref: InstanceRef) -> Dataset:
        return self.one

    def pixels(self, _ref: InstanceRef, _frame: int) -> NDArray[np.uint8]:
        return np.zeros((512, 512), np.uint8)


def _result(role: str, index: int, dataset: Dataset) -> ResultObject:
    return ResultObject(
        role,
        index,
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        str(dataset.SeriesInstanceUID),
        to_pieces(dataset),
    )
