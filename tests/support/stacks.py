"""Makes CT and MR series on disk: of nobody, small, in any geometry, of single frames or of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from ai.contract import InstanceRef, SeriesRef
from tests.support.samples import make_image

ROWS, COLUMNS = 11, 14
SPACING = (0.7, 0.5)  # between rows, between columns
ORIGIN = np.array([-81.5, 33.25, -410.0])


def rotation(*degrees: float) -> NDArray[np.float64]:
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(x @ y @ z)


OBLIQUE, TILTED = rotation(23, -31, 8), rotation(-18, 0, 0)
# Row cosines, column cosines, and the way from one slice to the next, along row x column.
GEOMETRIES: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
    "axial": (np.array([1.0, 0, 0, 0, 1, 0]), np.array([0, 0, 2.5])),
    "prone": (np.array([-1.0, 0, 0, 0, -1, 0]), np.array([0, 0, 2.5])),
    "feet first": (np.array([1.0, 0, 0, 0, -1, 0]), np.array([0, 0, -2.5])),
    "sagittal": (np.array([0.0, 1, 0, 0, 0, -1]), np.array([-3.0, 0, 0])),
    "coronal": (np.array([1.0, 0, 0, 0, 0, -1]), np.array([0, 4.0, 0])),
    "oblique": (OBLIQUE[:, :2].T.ravel(), 3.2 * OBLIQUE[:, 2]),
    "tilted": (TILTED[:, :2].T.ravel(), np.array([0, 0, 2.5])),
}


def ds(values: Sequence[float]) -> str:
    return "\\".join(f"{value:+.8e}"[:16] for value in values)


def pixels(count: int, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.uint16]:
    """Stored values (slices, rows, columns), 12 bits, no two slices alike."""
    return np.random.default_rng(1).integers(0, 4096, (count, rows, columns), dtype=np.uint16)


def write(folder: Path, image: FileDataset) -> InstanceRef:
    folder.mkdir(exist_ok=True)
    path = folder / f"{image.SOPInstanceUID}.dcm"
    plain = Dataset(image)  # which does not know that it was made with another byte order
    plain.file_meta = image.file_meta
    plain.save_as(path, enforce_file_format=True)
    return InstanceRef(str(image.SOPInstanceUID), str(image.SOPClassUID), str(path))


def ct_images(
    geometry: str = "axial",
    count: int = 6,
    *,
    places: Sequence[float] | None = None,
    each: Callable[[int], dict[str, Any]] = lambda _number: {},
    stored: NDArray[Any] | None = None,
    **attributes: Any,
) -> list[FileDataset]:
    """A series in the order of its slices, whose instance numbers run the other way."""
    cosines, step = GEOMETRIES[geometry]
    at = list(range(count)) if places is None else list(places)
    stored = pixels(len(at)) if stored is None else stored
    series = str(attributes.get("SeriesInstanceUID", "1.2.4"))
    return [
        make_image(
            **{
                "SOPClassUID": CTImageStorage,
                "SOPInstanceUID": f"{series}.{number + 1}",
                "StudyInstanceUID": "1.2.3",
                "SeriesInstanceUID": series,
                "FrameOfReferenceUID": "1.2.5",
                "Modality": "CT",
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
                "SeriesDescription": "Thorax",
                "Rows": stored.shape[1],
                "Columns": stored.shape[2],
                "PixelSpacing": list(SPACING),
                "SliceThickness": 2.5,
                "ConvolutionKernel": "STANDARD",
                "ImageOrientationPatient": ds(cosines.tolist()),
                "ImagePositionPatient": ds((ORIGIN + place * step).tolist()),
                "InstanceNumber": len(at) - number,
                "AcquisitionNumber": 1,
                "RescaleSlope": 1,
                "RescaleIntercept": -1024,
                "PixelRepresentation": 0,
                "PixelData": stored[number].tobytes(),
                **attributes,
                **each(number),
            }
        )
        for number, place in enumerate(at)
    ]


def ct_series(folder: Path, *args: Any, **kwargs: Any) -> list[InstanceRef]:
    """The same on disk."""
    return [write(folder, image) for image in ct_images(*args, **kwargs)]


def enhanced(geometry: str = "axial", count: int = 6, *, shared: bool = True, shuffle: int = 1) -> FileDataset:
    """A multi-frame CT image: frames in no order, each with its own intercept; ``pixels(count)[k]`` is of slice k."""
    singles = ct_images(geometry, count)
    order = np.random.default_rng(shuffle).permutation(count)
    image = make_image(
        SOPClassUID=EnhancedCTImageStorage,
        SOPInstanceUID="1.2.4.100",
        SeriesInstanceUID="1.2.4",
        FrameOfReferenceUID="1.2.5",
        Modality="CT",
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        Rows=ROWS,
        Columns=COLUMNS,
        NumberOfFrames=count,
        PixelData=pixels(count)[order].tobytes(),
    )
    for keyword in ("WindowCenter", "WindowWidth"):
        del image[keyword]
    every, frames = Dataset(), []
    for place in order:
        single = singles[int(place)]
        orientation, measures, position, values, frame = (Dataset() for _ in range(5))
        orientation.ImageOrientationPatient = single.ImageOrientationPatient
        measures.PixelSpacing, measures.SliceThickness = single.PixelSpacing, single.SliceThickness
        target = every if shared else frame
        target.PlaneOrientationSequence, target.PixelMeasuresSequence = [orientation], [measures]
        position.ImagePositionPatient = single.ImagePositionPatient
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1000 - int(place), "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [values]
        frames.append(frame)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [every], frames
    return image


def series_of(refs: Sequence[InstanceRef], uid: str = "1.2.4", **known: str) -> SeriesRef:
    """What the index says of a series."""
    said = {"modality": "CT", "body_part": "CHEST", "description": "", **known}
    return SeriesRef("1.2.3", uid, said["modality"], said["body_part"], said["description"], tuple(refs))
