"""A reading as DICOM objects: one package for every kind of object that goes back to the hospital.

:func:`encode` is the door. :mod:`common` holds what all objects share, :mod:`source` the copying of the images' own
attributes, and each kind has a module of its own (:mod:`sr`, :mod:`sc`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pydicom
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
    Region,
)
from dicom_node.results import common, sc, source, sr
from dicom_node.results.common import ROLES, Run, run_key

__all__ = ["ROLES", "ResultObject", "Run", "encode", "load_instance", "run_key", "warm_up"]

Load = Callable[[InstanceRef], tuple[Dataset, NDArray[np.uint8]]]


@dataclass(frozen=True, slots=True)
class ResultObject:
    """A finished object: ``content`` is a complete DICOM Part 10 file in explicit VR little endian.

    ``index`` counts the objects of a role from 0.
    """

    role: str
    index: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    content: bytes


def load_instance(ref: InstanceRef) -> tuple[Dataset, NDArray[np.uint8]]:
    """The header of a stored instance, without its pixels, and its picture as it is displayed (rows x columns)."""
    from ai import images  # noqa: PLC0415 (what reads pixels is heavy, and only an encoder needs it)

    header = pydicom.dcmread(ref.path, stop_before_pixels=True, force=True)
    return header, images.display_uint8(images.load_radiograph(ref.path))


def encode(run: Run, outputs: Sequence[str], load: Load = load_instance) -> tuple[ResultObject, ...]:
    """Every object of a run, in the order in which they are sent; the same run gives the same bytes.

    ``outputs`` are keys of :data:`ROLES`; ``load`` gives a source's header and its display picture.

    Raises:
        ReadingError: the sources are not all of one patient.
        ValueError: an output is unknown, or a source is not what the reading says.
    """
    unknown = sorted(set(outputs) - set(ROLES))
    if unknown:
        raise ValueError(f"unknown outputs {unknown}; expected some of {list(ROLES)}")
    headers, pictures = [], []
    for index, ref in enumerate(run.reading.sources):  # each display picture goes before the next comes
        header, pixels = load(ref)
        headers.append(header)
        source.check_patient(headers)
        if "sc" in outputs:
            pictures.append(_result("sc", index, sc.build(run, header, pixels, index)))
    report = [_result("sr", 0, sr.build(run, headers))] if "sr" in outputs else []
    return (*report, *pictures)


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
    encode(run, list(ROLES), lambda _: (header, np.zeros((512, 512), np.uint8)))


def _result(role: str, index: int, dataset: Dataset) -> ResultObject:
    return ResultObject(
        role,
        index,
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        str(dataset.SeriesInstanceUID),
        common.to_bytes(dataset),
    )
