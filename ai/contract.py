"""What travels between the node and a model: plain, frozen, picklable values.

Conventions, everywhere in the project:

* Pixel coordinates are ``(column, row)`` in the full-resolution stored image, at pixel *edges*: ``(0, 0)`` is the
  top left corner of the top left pixel and ``(columns, rows)`` the bottom right corner of the last one. This is the
  convention of SCOORD graphic data (PS3.3 C.18.6.1.1).
* Scores are probabilities in 0..1. Percent exists only inside DICOM objects and on screen.
* Coded values are ``Code(value, scheme, meaning)`` as in PS3.3 section 8.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:  # the receiver's process does without numpy
    import numpy as np
    from numpy.typing import NDArray

    from ai.mask import CutMask


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: code value, coding scheme designator, code meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that whoever made this value opened for reading, by its descriptor in this process.

    It is read by position (``pread``), so several threads may read it at once. Whoever opened it closes it, and not
    before the last reader is done: the number of a closed descriptor soon means another file. A number means nothing
    in another process, so pickle refuses it; `ai.engine.pipe` hands the descriptor itself over.
    """

    descriptor: int

    def __reduce__(self) -> Any:
        raise TypeError("an open file cannot be pickled: its descriptor means nothing in another process")


@dataclass(frozen=True, slots=True)
class LentFile:
    """A file that is opened while it travels to a process that may open none: what arrives there is an `OpenFile`.

    `ai.engine.pipe` does so. Nothing arrives, None, of a file that is not there.
    """

    path: str


Content: TypeAlias = str | Path | LentFile | OpenFile | bytes | None
"""Where the bytes of an image, a DICOM Part 10 file (PS3.10 section 7), are.

A path on this machine, a file to lend, an open file, or the bytes themselves. None if they are not here: the file is
gone, or only the identity of the image was told. `ai.images.content.open_content` opens each of them.
"""


@dataclass(frozen=True, slots=True)
class InstanceRef:
    """A stored SOP instance and where its bytes are.

    ``edition`` counts from 1 how often the instance was stored under the same UID with other content. Each edition has
    a file of its own, so a path never leads to the content of another edition.
    """

    sop_instance_uid: str
    sop_class_uid: str
    content: Content = field(repr=False)  # it may hold a patient's data, which no message shows
    edition: int = 1


@dataclass(frozen=True, slots=True)
class SeriesRef:
    """A stored series with every instance that we hold of it; texts are empty where the source has none."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    body_part: str
    description: str
    instances: tuple[InstanceRef, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """An upright box on one image, in pixel edges of the full-resolution image: ``left < right``, ``top < bottom``.

    ``frame`` counts from 1, as Referenced Frame Number (0008,1160) does; it is 1 for an image of a single frame.
    """

    sop_instance_uid: str
    left: float
    top: float
    right: float
    bottom: float
    frame: int = 1


Line: TypeAlias = tuple[tuple[float, float], tuple[float, float]]
"""Two points on one image, each (column, row) in pixel edges."""


@dataclass(frozen=True, slots=True)
class Axes:
    """The longest diameter of an outline and the longest one perpendicular to it, on the frame of its finding."""

    long: Line
    short: Line


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a model points at.

    ``key`` names the output class (``reading.json``); ``laterality`` is the patient's side, absent where the image
    does not say which side is which. ``part`` names its outline: the segment of the reading that has the same one.
    ``axes`` are measured on the outline, and are there only if the bundle vouches for its outlines (``measures``).
    """

    key: str
    name: str
    code: Code
    score: float
    region: Region
    site: Code | None = None
    laterality: Code | None = None
    part: str = ""
    axes: Axes | None = None


class Presence(StrEnum):
    """What a model says of one class over everything that it read."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True)
class ClassResult:
    """The verdict on one output class: its highest score over all images read, against its operating threshold.

    ``not_assessed`` says why a model that knows the class gives no verdict on it, whatever it reads: its presence is
    then undetermined although nothing went wrong, and its score is not to be shown. ``finding`` is false for anatomy,
    which is outlined and nothing to report. ``calibrated`` is true if the score is the probability of the class where
    as many images have it as not: only with the prevalence of a site does it become a probability there.
    ``differential`` are the conditions that the model cannot tell apart under this class. ``sensitivity`` and
    ``specificity`` (0 to 1) were measured at this threshold, the latter on images without any finding, and
    ``specificity_other`` on images with other findings; None if the model does not give them.
    """

    key: str
    name: str
    code: Code
    score: float
    threshold: float
    presence: Presence
    not_assessed: str = ""
    finding: bool = True
    calibrated: bool = False
    differential: tuple[Code, ...] = ()
    sensitivity: float | None = None
    specificity: float | None = None
    specificity_other: float | None = None


@dataclass(frozen=True, slots=True)
class NotLookedFor:
    """A class that the model has and that was not asked for: it is neither present nor absent."""

    key: str
    name: str
    code: Code


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reading is to look for, and how strictly.

    ``findings`` are patterns (``*``, ``?``) for the keys of classes; ``"*"`` alone is every class that the bundle looks
    for by default. ``operating_point`` names one that the bundle offers; empty is the bundle's default.
    """

    findings: tuple[str, ...] = ("*",)
    operating_point: str = ""


DEFAULT = Asked()
"""Every class that a model looks for by default, at its default operating point."""


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """Where on one image a model saw one of its classes.

    ``values`` (rows x columns, float32) are from 0 to 1 and lie evenly over the area between the four edges, which are
    pixel edges of the full-resolution image and may reach beyond it. ``key`` names the output class.
    """

    sop_instance_uid: str
    key: str
    values: NDArray[np.float32]
    left: float
    top: float
    right: float
    bottom: float
    frame: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One thing that was outlined: ``code`` says what it is (property type), ``category`` of which kind (CID 7150).

    ``mask`` is frames x rows x columns over the segmentation's sources: bool where the segmentation is binary, float32
    from 0 to 1 where it is fractional. Its rows and columns are the source's own pixels, neither flipped nor shifted.
    A binary one may be a `CutMask`, which is gone through frame by frame: ``mask[frame]`` is rows x columns.
    ``part`` is that of the finding that it outlines, empty if it outlines none. ``volume_ml`` is the mask's volume, if
    it lies in a volume.
    """

    key: str
    name: str
    code: Code
    category: Code
    mask: NDArray[np.bool_] | NDArray[np.float32] | CutMask
    site: Code | None = None
    laterality: Code | None = None
    part: str = ""
    volume_ml: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Segments over frames of one series; ``frames`` says which source frame each mask's first axis stands for.

    A frame is an instance and its frame number (from 1). Frames need not be all of the series, nor in any order.
    """

    kind: Literal["binary", "fractional"]
    frames: tuple[tuple[InstanceRef, int], ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model it was, down to its weights.

    ``digest`` is the SHA-256 (hex) over every file of the bundle. ``notice`` is a sentence that every result must show
    (for example that the model is a demonstration), empty where the model needs none. ``field_digest`` is the SHA-256
    (hex) of the anatomy field's weights (`ai.anatomy.field`), by which the model's places are limited and have sides;
    empty where it does without.
    """

    name: str
    version: str
    digest: str
    manufacturer: str
    intended_use: str
    notice: str
    field_digest: str = ""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A series or instance that a model did not read, and why, in plain words without patient data."""

    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What a model will read of a study, in reading order, and what it passes over.

    ``surplus`` is what it should read and cannot, for there is too much of it: then no class is absent.
    """

    chosen: tuple[InstanceRef, ...]
    passed_over: tuple[PassedOver, ...]
    surplus: tuple[PassedOver, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A model's answer about a study.

    ``sources`` are the instances read; every class that was asked for stands in ``classes`` once, also when it is
    absent, and every other one in ``not_looked_for``. ``operating_point`` names the one whose thresholds the classes
    have, empty if the model offers none. ``seconds`` are wall times by step (decode, network, findings).

    ``cautions`` are sentences for whoever reads the results, in English without patient data and without a full stop:
    why the answer may be worth less than it seems. ``places_dropped`` counts the places of findings that are not shown,
    because they lie where such a finding cannot be.

    A reading can fail. In part: ``failed`` are instances that were chosen, could not be read and are no sources, and no
    class is then absent, only present or undetermined. As a whole: ``failure`` says why in plain words without patient
    data; then ``sources`` are what was to be read, and findings and classes are empty: no answer is no negative answer.
    ``not_meant`` says that it was not tried, because no image is of the kind that the model reads.
    """

    model: ModelIdentity
    sources: tuple[InstanceRef, ...]
    findings: tuple[Finding, ...]
    classes: tuple[ClassResult, ...]
    passed_over: tuple[PassedOver, ...]
    seconds: tuple[tuple[str, float], ...]
    heat_maps: tuple[HeatMap, ...] = ()
    segmentations: tuple[Segmentation, ...] = ()
    failed: tuple[PassedOver, ...] = ()
    failure: str = ""
    not_meant: bool = False
    device: str = ""
    remarks: tuple[str, ...] = ()
    operating_point: str = ""
    not_looked_for: tuple[NotLookedFor, ...] = ()
    cautions: tuple[str, ...] = ()
    places_dropped: int = 0


class ReadingError(Exception):
    """A model cannot read what it was given; the message says what and why, without patient data."""


class BusyError(Exception):
    """A model cannot read now, and may well later; the message says what is missing, without patient data."""


class Model(Protocol):
    """A loaded, warm model."""

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest of what is loaded."""

    def select(self, series: Sequence[SeriesRef]) -> Selection:
        """Choose what to read by headers alone, cheaply; an empty ``chosen`` means no eligible series."""

    def read(self, selection: Selection, asked: Asked = DEFAULT) -> Reading:
        """Read the chosen instances; ``asked`` is by default every class that the model looks for by default.

        Raises:
            ReadingError: the pixels cannot be decoded or are not of the kind that the model takes, or the model does
                not offer what was asked.
        """
