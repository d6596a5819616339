"""The images that results are made of in `matrix`: what hospitals send, what they ought not to send, and both again.

Every source is a folder of DICOM files, written anew, so that a defect can be put into any of them byte for byte.
"""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.tag import Tag

from ai.contract import InstanceRef
from dicom_node.results.source_bytes import text_of, unsigned_of
from tests.support.samples import DATA

CR, DX, MG = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    (uid.DigitalMammographyXRayImageStorageForPresentation),
)
_ROOT = "1.2.826.0.1.3680043.10.543."


@dataclass(frozen=True, slots=True)
class Source:
    """A kind of study: ``write`` puts its files into a folder and gives them in reading order."""

    name: str
    write: Callable[[Path], list[Path]]
    readable: bool = True
    """Whether its pixels can be shown; where they cannot, a reading can only fail."""


@dataclass(frozen=True, slots=True)
class Study:
    """A source as it lies on the disk; ``rows``, ``columns`` and ``frames`` are those of its first image."""

    name: str
    refs: tuple[InstanceRef, ...]
    rows: int
    columns: int
    frames: int
    located: bool
    """Whether it has a frame of reference, so that it can be segmented."""
    readable: bool


def study_of(source: Source, folder: Path) -> Study:
    """Write a source's files and say what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = source.write(folder)
        headers = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
    first = headers[0]
    frames = text_of(first, "NumberOfFrames")
    refs = tuple(
        InstanceRef(text_of(header, "SOPInstanceUID"), text_of(header, "SOPClassUID"), str(file))
        for header, file in zip(headers, files, strict=True)
    )
    return Study(
        source.name,
        refs,
        unsigned_of(first, "Rows") or 1,
        unsigned_of(first, "Columns") or 1,
        int(frames) if frames.isdigit() else 1,
        bool(text_of(first, "FrameOfReferenceUID")),
        source.readable,
    )


# --- writing --------------------------------------------------------------------------------------------------------


def raw(keyword: str, value: bytes, vr: str = "") -> RawDataElement:
    """An element of any bytes, and of any VR."""
    tag = Tag(keyword)
    return RawDataElement(tag, vr or dictionary_VR(tag), len(value), value, 0, False, True)


def save(path: Path, dataset: Dataset, syntax: uid.UID = uid.ExplicitVRLittleEndian) -> Path:
    """Write a file (little endian, explicit) as it is, however wrong: pydicom's own writer would look at it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, uid.UID("1.2.3")
    meta.TransferSyntaxUID, meta.ImplementationClassUID = syntax, uid.UID(f"{_ROOT}9")
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    out.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(out, meta)
    terms = text_of(dataset, "SpecificCharacterSet").split("\\")
    for tag in sorted(dataset.keys()):
        write_data_element(out, dataset.get_item(tag), terms)
    path.write_bytes(out.getvalue())
    return path


def made(sop_class: uid.UID, words: np.ndarray, number: int = 1, **attributes: Any) -> Dataset:
    """An image of nobody, every attribute replaceable; ``words`` are (frames x) rows x columns, unsigned."""
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.SOPClassUID = sop_class
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{_ROOT}1", f"{_ROOT}1.2"
    image.SOPInstanceUID = f"{_ROOT}1.2.{number}"
    image.StudyDate = image.SeriesDate = image.ContentDate = image.AcquisitionDate = "20260102"
    image.StudyTime = image.SeriesTime = image.ContentTime = image.AcquisitionTime = "131415"
    image.AccessionNumber, image.StudyID, image.SeriesNumber, image.InstanceNumber = "A-17", "17", 3, number
    image.Modality, image.Manufacturer, image.BodyPartExamined = "DX", "Made up", "CHEST"
    image.ReferringPhysicianName, image.StudyDescription, image.SeriesDescription = "REFER^R", "Chest", "Thorax"
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "NOBODY^N", "N-1", "19500607", "O"
    image.PatientAge, image.PatientOrientation = "075Y", ["L", "F"]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = words.shape[-2:]
    bits = words.dtype.itemsize * 8
    image.BitsAllocated = bits
    image.BitsStored, image.HighBit, image.PixelRepresentation = (12, 11, 0) if bits == 16 else (8, 7, 0)
    for keyword, value in attributes.items():
        if value is None:
            del image[keyword]
        else:
            setattr(image, keyword, value)
    if "PixelData" not in attributes:
        image.PixelData = words.tobytes() + b"\0" * (words.nbytes % 2)
        image["PixelData"].VR = "OW" if bits == 16 else "OB"
    return image


def radiograph(**attributes: Any) -> Dataset:
    """A DX chest image of 12 bits with everything that its IOD wants of it to be read."""
    words = (np.add.outer(np.arange(160), np.arange(128)) * 14).astype("<u2")
    radiography = {
        "PresentationIntentType": "FOR PRESENTATION",
        "ViewPosition": "PA",
        "ImageLaterality": "U",
        "ImagerPixelSpacing": [0.2, 0.2],
        "WindowCenter": 2000,
        "WindowWidth": 3000,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "PresentationLUTShape": "IDENTITY",
    }
    return made(DX, words, **{**radiography, **attributes})


def _mammogram() -> Dataset:
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "399162004", "SCT", "cranio-caudal"
    view.ViewModifierCodeSequence = []
    return radiograph(
        SOPClassUID=MG, Modality="MG", BodyPartExamined="BREAST", ImageLaterality="R", ViewPosition="CC",
        ViewCodeSequence=[view], PatientOrientation=["P", "L"], PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE",
    )  # fmt: skip


def _slices(count: int = 4) -> list[Dataset]:
    """A CT series that lies obliquely in the patient, with pixels that are not square."""
    turn, tilt = 0.3, 0.4
    across = np.array([np.cos(turn), np.sin(turn), 0.0])
    down = np.array([-np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    through = np.cross(across, down)
    return [
        made(
            uid.CTImageStorage,
            (np.add.outer(np.arange(96), np.arange(80)) * 20 + 10 * number).astype("<u2"),
            number,
            Modality="CT",
            FrameOfReferenceUID=f"{_ROOT}1.9",
            PositionReferenceIndicator="",
            ImageOrientationPatient=[f"{value:.8f}" for value in (*across, *down)],
            ImagePositionPatient=[f"{value:.6f}" for value in (10, -20, 30) + 2.5 * number * through],
            PixelSpacing=[0.7, 0.9],
            SliceThickness=2.5,
            RescaleSlope=1,
            RescaleIntercept=-1024,
            WindowCenter=40,
            WindowWidth=400,
            PatientOrientation=None,
        )
        for number in range(1, count + 1)
    ]


def _ultrasound() -> Dataset:
    """A colour cine loop, each frame a JPEG."""
    base = np.add.outer(np.arange(96), np.arange(128)).astype(np.uint8)
    streams = []
    for number in range(5):
        out = io.BytesIO()
        Image.fromarray(np.stack([base, base // 2 + 20 * number, 255 - base], -1)).save(out, "JPEG", quality=95)
        streams.append(out.getvalue())
    image = made(
        uid.UltrasoundMultiFrameImageStorage, base, Modality="US", NumberOfFrames=5, SamplesPerPixel=3,
        PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0, FrameTime=40, BodyPartExamined="HEART",
        FrameIncrementPointer=0x00181063, LossyImageCompression="01", LossyImageCompressionRatio=9,
        LossyImageCompressionMethod="ISO_10918_1", PixelData=encapsulate(streams),
    )  # fmt: skip
    image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
    return image


def _items(**attributes: Any) -> list[Dataset]:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


def _enhanced(sop_class: uid.UID, modality: str) -> Dataset:
    """A volume in one object: position, rescale and window stand in the functional groups."""
    count = 4
    words = np.stack([np.add.outer(np.arange(64), np.arange(72)) * 20 + 30 * number for number in range(count)])
    shared = Dataset()
    shared.PixelMeasuresSequence = _items(PixelSpacing=[0.8, 0.8], SliceThickness=3, SpacingBetweenSlices=3)
    shared.PlaneOrientationSequence = _items(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelValueTransformationSequence = _items(
        RescaleSlope=1,
        RescaleIntercept=-1024 if modality == "CT" else 0,
        RescaleType="HU" if modality == "CT" else "US",
    )
    shared.FrameAnatomySequence = _items(FrameLaterality="U")
    each = []
    for number in range(count):
        groups = Dataset()
        groups.PlanePositionSequence = _items(ImagePositionPatient=[-30, -30, 3 * number])
        groups.FrameContentSequence = _items(
            DimensionIndexValues=[1, number + 1], StackID="1", InStackPositionNumber=number + 1
        )
        groups.FrameVOILUTSequence = _items(WindowCenter=40 + number, WindowWidth=400)
        each.append(groups)
    return made(
        sop_class, words.astype("<u2"), Modality=modality, NumberOfFrames=count, FrameOfReferenceUID=f"{_ROOT}1.9",
        PositionReferenceIndicator="", SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=each, PatientOrientation=None,
    )  # fmt: skip


# --- the list -------------------------------------------------------------------------------------------------------

_DICOM = DATA / "dicom"
_REAL = {
    "dx-real": "highdicom/test_files/dx_image.dcm",  # MONOCHROME1
    "cr-jpegls": "nema-wg04/WG04/JLSN/RG1_JLSN",
    "cr-j2k": "nema-wg04/WG04/J2KR/RG3_J2KR",
    "cr-jpeg12": "nema-wg04/WG04/JPLY/RG2_JPLY",
    "cr-jpeg-bad-age": "torchxrayvision/tests/Fake_MONOHR1.dcm",
    "ct-rle": "nema-wg04/WG04/RLE/CT1_RLE",
    "mr": "pydicom/test_files/MR_small.dcm",
    "mr-implicit": "pydicom/test_files/MR_small_implicit.dcm",
    "mr-big-endian": "pydicom/test_files/MR_small_bigendian.dcm",
    "pet": "suyashkumar/testdata/1.dcm",
    "us-rle-colour": "nema-wg04/WG04/RLE/US1_RLE",
    "sc-palette": "pydicom/test_files/examples_palette.dcm",
    "sc-deflated": "pynetdicom/dicom_files/SCImageStorage_Deflated.dcm",
}


def _copied(name: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        target = folder / "1.dcm"
        content = (_DICOM / name).read_bytes()
        header = pydicom.dcmread(_DICOM / name)
        if "PixelData" not in header:  # some of the character sets' files have none
            words = np.arange(header.Rows * header.Columns, dtype="<u2")
            content += b"\xe0\x7f\x10\x00OW\0\0" + words.nbytes.to_bytes(4, "little") + words.tobytes()
        target.write_bytes(content)
        return [target]

    return write


def _chest_ct(folder: Path) -> list[Path]:
    names = sorted((_DICOM / "chest-ct" / "dicom").glob("*.dcm"))[20:25]
    return [Path(shutil.copy(name, folder / name.name)) for name in names]


def _saved(*images: Dataset, syntax: uid.UID = uid.ExplicitVRLittleEndian) -> Callable[[Path], list[Path]]:
    return lambda folder: [save(folder / f"{number}.dcm", image, syntax) for number, image in enumerate(images, 1)]


def _with(images: Sequence[Dataset], *elements: RawDataElement) -> Callable[[Path], list[Path]]:
    for image in images:
        for element in elements:
            image[element.tag] = element
    return _saved(*images)


def _without(image: Dataset, *keywords: str) -> Callable[[Path], list[Path]]:
    for keyword in keywords:
        del image[keyword]
    return _saved(image)


def _cut_off(folder: Path) -> list[Path]:
    path = save(folder / "1.dcm", radiograph())
    path.write_bytes(path.read_bytes()[:-9000])
    return [path]


def _bytes(**values: bytes) -> list[RawDataElement]:
    return [raw(keyword, value) for keyword, value in values.items()]


_BROKEN: dict[str, list[RawDataElement]] = {
    "bad-dates": _bytes(
        PatientBirthDate=b"19000230", StudyDate=b"2020-01-31", StudyTime=b"256199", SeriesDate=b"next week ",
        ContentDate=b"00000000",
    ),
    "bad-age-and-sex": _bytes(PatientAge=b"45 years", PatientSex=b"male"),
    "wrong-vr": [
        raw("PatientName", b"NOBODY^N", "LO"), raw("StudyDate", b"20260102", "LO"), raw("PatientSex", b"O ", "UN"),
        raw("PatientID", b"N-1 ", "SH"), raw("BodyPartExamined", b"CHEST ", "LO"), raw("Rows", b"\xa0\0", "SS"),
        raw("StudyDescription", b"Chest ", "UN"),
    ],
    "uids-with-leading-zeros": _bytes(
        StudyInstanceUID=b"1.2.03.4", SeriesInstanceUID=b"1.02.3", SOPInstanceUID=b"1.2.840.007.1\0"
    ),
    "uids-empty": _bytes(StudyInstanceUID=b"", SeriesInstanceUID=b""),
    "uids-too-long": _bytes(StudyInstanceUID=b"1.2." + b"3" * 66, SeriesInstanceUID=b"1.2.x-ray"),
    "texts-too-long": _bytes(
        PatientID=b"P" * 80, StudyDescription=b"D" * 200, PatientName=b"N" * 90 + b"^" + b"M" * 90,
        AccessionNumber=b"A" * 40, StudyID=b"S" * 30, BodyPartExamined=b"CHESTCHESTCHESTCHEST",
        ReferringPhysicianName=b"R" * 100, IssuerOfPatientID=b"I" * 70,
    ),
    "control-characters": _bytes(
        PatientName=b"DOE\x00\n^J\x1b[31m", PatientID=b"ID\x7f\x01", StudyDescription=b"a\r\n\tb ",
        AccessionNumber=b"A\0B ", ReferringPhysicianName=b"\x1b\x1b\x1b\x1b", StudyID=b"\xff\xfe",
    ),
    "several-values": _bytes(
        PatientName=b"A^B\\C^D ", PatientID=b"1\\2 ", StudyDescription=b"a\\b ", AccessionNumber=b"1\\2 ",
        Modality=b"DX\\CR ", BodyPartExamined=b"CHEST\\HAND", PatientOrientation=b"L\\F\\H ", StudyID=b"1\\2 ",
    ),
    "several-windows": _bytes(
        WindowCenter=b"2000\\500\\9000 ", WindowWidth=b"3000\\100\\10", WindowCenterWidthExplanation=b"A\\B\\C "
    ),
    "windows-no-numbers": _bytes(WindowCenter=b"AUTO\\NORMAL ", WindowWidth=b"WIDE"),
    "windows-of-no-width": _bytes(WindowCenter=b"1e400 ", WindowWidth=b"-5"),
    "unknown-character-set": _bytes(SpecificCharacterSet=b"ISO_IR 999", PatientName=b"\xb1\xe8^\xc8\xf1\xc1\xdf"),
    "wrong-character-set": _bytes(SpecificCharacterSet=b"ISO_IR 192", PatientName=b"M\xfcller^J"),
    "no-character-set": _bytes(SpecificCharacterSet=b"", PatientName=b"M\xfcller^J"),
    "bad-numbers": _bytes(
        SeriesNumber=b"99999999999999", InstanceNumber=b"one ", ImagerPixelSpacing=b"0\\nan ",
        PixelSpacing=b"1e400\\-1", PixelAspectRatio=b"0\\0 ", RescaleSlope=b"",
    ),
    "bad-zone": _bytes(TimezoneOffsetFromUTC=b"+9999 "),
    "bad-codes": _bytes(
        Laterality=b"left", ImageLaterality=b"links ", BodyPartExamined=b"chest\xfc", ViewPosition=b"pa ",
        PresentationLUTShape=b"upside down ", LossyImageCompression=b"YES ", BurnedInAnnotation=b"maybe ",
    ),
    "bad-sequences": [
        raw("IssuerOfAccessionNumberSequence", b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x00\x01", "SQ"),
        raw("ProcedureCodeSequence", b"not a sequence", "SQ"),
        raw("ViewCodeSequence", b"", "SQ"),
        raw("ReferencedStudySequence", b"\xfe\xff\x00\xe0\x04\x00\x00\x00\x08\x00\x50\x11", "SQ"),
        raw("RequestAttributesSequence", b"\0" * 7 + b"\1", "SQ"),
    ],
}  # fmt: skip
_MISPLACED = _bytes(
    ImageOrientationPatient=b"1\\0\\0\\0\\1 ", ImagePositionPatient=b"a\\b\\c ", FrameOfReferenceUID=b"1.2.03"
)


def sources() -> list[Source]:
    """Every source; those out of the real data only where they are."""
    out = [
        Source("dx", _saved(radiograph())),
        Source("dx-monochrome1", _without(radiograph(PhotometricInterpretation="MONOCHROME1"), "PresentationLUTShape")),
        Source("mg", _saved(_mammogram())),
        Source("cr-bare", _without(radiograph(SOPClassUID=CR, Modality="CR"), "ImagerPixelSpacing", "WindowCenter")),
        Source("ct-oblique", _saved(*_slices())),
        Source("us-colour-loop", _saved(_ultrasound(), syntax=uid.JPEGBaseline8Bit)),
        Source("enhanced-ct", _saved(_enhanced(uid.EnhancedCTImageStorage, "CT"))),
        Source("enhanced-mr", _saved(_enhanced(uid.EnhancedMRImageStorage, "MR"))),
        Source(
            "type-2-missing",
            _without(
                radiograph(), "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
                "StudyID", "AccessionNumber", "ReferringPhysicianName", "BodyPartExamined", "PatientOrientation",
                "SpecificCharacterSet", "Manufacturer", "SeriesNumber", "InstanceNumber",
            ),
        ),
        Source("ct-misplaced", _with(_slices(2), *_MISPLACED)),
        Source("pixels-cut-off", _cut_off, readable=False),
        *(Source(name, _with([radiograph()], *elements)) for name, elements in _BROKEN.items()),
    ]  # fmt: skip
    if (DATA / "MANIFEST.tsv").is_file():
        out += [Source(name, _copied(path)) for name, path in _REAL.items()]
        charsets = sorted((_DICOM / "pydicom" / "charset_files").glob("chr*.dcm"))
        out += [
            Source(path.stem, _copied(str(path.relative_to(_DICOM)))) for path in charsets if "SQEnc" not in path.name
        ]
        out.append(Source("ct-series", _chest_ct))
    return out
