"""``configs/reading.json``: what a hospital must know of a model, and MONAI's files do not contain.

The file stands beside MONAI's ``metadata.json`` and ``inference.json``. It says which images the model takes, what each
output channel means in coded terms, the operating thresholds, and the intended use.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from ai.contract import Code

NAME: Final = r"^[a-z][a-z0-9_]{0,63}$"
"""The form of a model's name, which routes and folders use."""

Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
OperatingPointName = Literal["low_alarm", "balanced", "screening"]
"""The operating points that a bundle may offer and a route may name."""
Text = Annotated[str, Field(min_length=1, max_length=1024)]


class _Strict(BaseModel):
    # The receiver's process imports this module and reads no file, so validators are built with the first file.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class CodeSpec(_Strict):
    """A coded concept (PS3.3 section 8.8). The meaning has at most 64 characters, as VR LO."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: Annotated[str, Field(min_length=1, max_length=64)]

    @classmethod
    def of(cls, code: Code) -> CodeSpec:
        """The concept of an `ai.contract.Code`."""
        return cls(value=code.value, scheme=code.scheme, meaning=code.meaning)

    def code(self) -> Code:
        """The concept as an `ai.contract.Code`."""
        return Code(self.value, self.scheme, self.meaning)


class Range(_Strict):
    """Numbers from ``min`` to ``max``, both included. A side is open if it is None."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is greater than max {self.max:g}")
        return self

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class InputSpec(_Strict):
    """Which images the model takes. Upper and lower case are equal.

    ``""`` in a list admits an attribute that is missing or empty. A list of ``""`` alone admits everything.

    ``kind`` "image" is for single-frame radiographs: each is read alone, at most ``max_images`` of a study. ``view`` is
    ViewPosition (0018,5101). ``kind`` "volume" is for one stack of parallel slices, the best of the study; the
    fields from ``orientation`` on are for volumes. ``description``, ``not_description`` and ``kernel`` are patterns
    (``*``, ``?``) for SeriesDescription (0008,103E) and ConvolutionKernel (0018,1210).

    ``adult_frontal_chest`` says that the model is for frontal chest radiographs of adults alone: others are refused or
    marked, and places and sides follow from the body and the lungs in the picture (`ai.anatomy`).

    ``values`` is what preprocessing gets: "display" is grey from 0 to 1 as on screen (bone is white), "bytes" the same
    from 0 to 255 as in a PNG file, "modality" the values after the modality transformation (Hounsfield units for CT).
    None is "display" for images and "modality" for volumes.

    ``orientation`` lists the orientations that are taken, empty takes any. ``slices`` is their number,
    ``thickness_mm`` SliceThickness (0018,0050), ``spacing_mm`` the distance between slices, ``pixel_mm`` PixelSpacing
    (0028,0030). ``contrast`` is decided by ContrastBolusAgent (0018,0010). ``prefer`` chooses the best of several
    stacks: a rule decides where those before it are tied; "kernel" follows the order of the patterns in ``kernel``.
    """

    kind: Literal["image", "volume"] = "image"
    modality: tuple[str, ...]
    body_part: tuple[str, ...] = ("",)
    view: tuple[str, ...] = ("",)
    max_images: Annotated[int, Field(ge=1, le=64)] = 8
    adult_frontal_chest: bool = False
    values: Literal["display", "bytes", "modality"] | None = None
    description: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    not_description: tuple[str, ...] = ()
    orientation: tuple[Literal["axial", "coronal", "sagittal"], ...] = ()
    slices: Range = Range(min=2)
    thickness_mm: Range = Range()
    spacing_mm: Range = Range()
    pixel_mm: Range = Range()
    kernel: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    contrast: Literal["any", "with", "without"] = "any"
    prefer: tuple[Literal["kernel", "thin", "thick", "many", "latest"], ...] = ("kernel", "thin", "many")

    @property
    def gets(self) -> Literal["display", "bytes", "modality"]:
        """What preprocessing gets: ``values``, or the default of the kind."""
        return self.values or ("display" if self.kind == "image" else "modality")


class CamSpec(_Strict):
    """The layers that a classifier's class activation map is computed from.

    ``layer`` is the module (dotted, as in ``named_modules()``) whose output is the last feature map. ``classifier`` is
    the linear layer after its global mean (Zhou et al. 2016); if None, gradients weight the feature map (Selvaraju et
    al. 2017).
    """

    layer: Annotated[str, Field(min_length=1)]
    classifier: Annotated[str, Field(min_length=1)] | None = None


class DetectionSpec(_Strict):
    """The form of a detector's ``pred``, which is a dict for each image.

    ``boxes``, ``labels`` and ``scores`` are the keys of the dict. ``mode`` is MONAI's name of the box mode, None for
    corners. ``space`` "image" is in pixels of the network's input, "world" in mm of the affine (right, anterior,
    superior).
    """

    boxes: str = "box"
    labels: str = "label"
    scores: str = "label_scores"
    mode: Literal["xyxy", "xyzxyz", "ccwh", "cccwhd", "xyxyzz", "xywh", "xyzwhd"] | None = None
    space: Literal["image", "world"] = "image"


class Output(_Strict):
    """One class of the network's output: its meaning and its operating point.

    ``channel`` is its channel of the output, or its value if the output holds labels (a label map, a detector's
    labels). ``threshold`` is the least score (probability) of a region, a box or the image that calls it present.
    ``map_threshold`` is the least value of the cells of a region, in a probability or activation map. A region of fewer
    than ``min_area`` cells (of the network's grid) is dropped; a segment below ``min_volume_ml`` counts as absent.

    ``default`` false makes it a class that is looked for only where it is asked for by its key. ``joined`` are further
    channels of a classification that the network cannot tell from ``channel``: the class's score is the greatest of
    theirs, and ``differential`` names the conditions that it then stands for. ``calibrated`` says that the score is a
    probability where as many images have the class as not.

    ``finding`` is false for anatomy, which is outlined and not reported as a finding. ``category`` is the segment's
    (CID 7150); if None, it is an abnormality for findings and an anatomical structure otherwise. ``undetermined`` is
    the reason why the class is never called present or absent: its score is unreliable. ``located`` false hides the
    activation map of a class whose score is reliable and whose place is not.
    """

    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    channel: Annotated[int, Field(ge=0)]
    code: CodeSpec
    site: CodeSpec | None = None
    category: CodeSpec | None = None
    threshold: Probability
    map_threshold: Probability = 0.5
    min_area: Annotated[int, Field(ge=1)] = 1
    min_volume_ml: Annotated[float, Field(ge=0.0)] = 0.0
    finding: bool = True
    undetermined: Annotated[str, Field(max_length=256)] = ""
    located: bool = True
    default: bool = True
    joined: tuple[Annotated[int, Field(ge=0)], ...] = ()
    differential: tuple[CodeSpec, ...] = ()
    calibrated: bool = False


class ClassFigures(_Strict):
    """What was measured of one class at an operating point, on images that its threshold's network had not seen.

    ``sensitivity`` is among images with the class, ``specificity`` among images without any finding; ``positives`` and
    ``normals`` are how many those were. ``specificity_other`` is among images that have other findings and not this
    class, None if it was not measured.
    """

    sensitivity: Annotated[float, Field(ge=0.0, le=1.0)]
    specificity: Annotated[float, Field(ge=0.0, le=1.0)]
    specificity_other: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    positives: Annotated[int, Field(ge=0)]
    normals: Annotated[int, Field(ge=0)]


class OperatingPoint(_Strict):
    """A set of thresholds, one for each class that is called, chosen together for whole studies.

    ``called_of_100_normal`` is how many of a hundred images without any finding have at least one default class called
    present, ``called_of_100_other`` the same among images with findings. ``figures`` are by class key.
    """

    thresholds: Annotated[dict[str, Probability], Field(min_length=1)]
    called_of_100_normal: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    called_of_100_other: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    figures: dict[str, ClassFigures] = {}


class ReadingSpec(_Strict):
    """The content of ``reading.json``.

    ``task`` says what ``pred`` is after postprocessing. "regions": probability maps (channels, rows, columns) of one
    image. "classification": probabilities (classes,) of one image or volume, with activation maps if ``cam`` is given.
    "detection": boxes with scores. "segmentation": the image or volume as probabilities (``prediction`` "channels") or
    as one map of labels ("labels"). ``activation`` turns logits into probabilities, if postprocessing does not.

    ``operating_points`` are offered to routes under their names; ``operating_point`` is the default among them. Without
    them each output's own ``threshold`` counts. ``measures`` says that the outlines of this model are good enough to
    measure lengths on; no other length is ever reported.

    ``override`` replaces entries of the inference configuration by their names (``"whether_raw_luna16": true``), as
    the arguments of MONAI's ``bundle run`` do.
    """

    format: Literal[1]
    name: Annotated[str, Field(pattern=NAME)]
    task: Literal["regions", "classification", "detection", "segmentation"]
    manufacturer: Annotated[str, Field(min_length=1, max_length=64)]
    intended_use: Text
    notice: Annotated[str, Field(max_length=128)] = ""
    input: InputSpec
    activation: Literal["sigmoid", "softmax"] | None = None
    prediction: Literal["channels", "labels"] = "channels"
    cam: CamSpec | None = None
    detection: DetectionSpec = DetectionSpec()
    override: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][\w#:]{0,127}$")], JsonValue] = {}
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)]
    operating_points: dict[OperatingPointName, OperatingPoint] = {}
    operating_point: OperatingPointName | None = None
    measures: bool = False

    @model_validator(mode="after")
    def _offers(self) -> ReadingSpec:
        if bool(self.operating_points) != (self.operating_point is not None):
            raise ValueError("operating_point: names the default of operating_points; expected both or neither")
        if self.operating_point is not None and self.operating_point not in self.operating_points:
            offered = ", ".join(self.operating_points)
            raise ValueError(f"operating_point: {self.operating_point!r} is not among those offered: {offered}")
        keys = {output.key for output in self.outputs}
        for name, point in self.operating_points.items():
            if unknown := sorted((point.thresholds.keys() | point.figures.keys()) - keys):
                raise ValueError(f"operating_points.{name}: no output is named {', '.join(unknown)}")
            called = {output.key for output in self.outputs if not output.undetermined}
            if missing := sorted(called - point.thresholds.keys()):
                raise ValueError(f"operating_points.{name}.thresholds: {', '.join(missing)} is missing")
        if self.measures and self.task != "segmentation":
            raise ValueError("measures: only outlines can be measured; task is no segmentation")
        if self.task != "classification" and any(output.joined for output in self.outputs):
            raise ValueError("outputs: joined channels are for a classification")
        return self

    def at(self, operating_point: str = "") -> ReadingSpec:
        """The same with the thresholds of an operating point in its outputs; empty is the default one.

        Raises:
            ValueError: the bundle does not offer it. The message names those that it offers.
        """
        name = operating_point or self.operating_point
        if name is None:
            return self
        point = next((point for each, point in self.operating_points.items() if each == name), None)
        if point is None:
            offered = ", ".join(self.operating_points) or "none"
            raise ValueError(f"operating point {name!r} is not offered by {self.name}; it offers: {offered}")
        outputs = (
            output.model_copy(update={"threshold": point.thresholds.get(output.key, output.threshold)})
            for output in self.outputs
        )
        return self.model_copy(update={"outputs": tuple(outputs), "operating_point": name})

    def figures(self, key: str) -> ClassFigures | None:
        """What was measured of a class at ``operating_point``; None if the bundle does not give it."""
        point = None if self.operating_point is None else self.operating_points[self.operating_point]
        return None if point is None else point.figures.get(key)

    def looked_for(self, findings: Sequence[str]) -> frozenset[str]:
        """The keys of the outputs that patterns ask for; see `ai.contract.Asked`. Anatomy is always among them.

        Raises:
            ValueError: a pattern fits no class. The message names the classes.
        """
        keys = [output.key for output in self.outputs if output.finding]
        wanted = {output.key for output in self.outputs if not output.finding}
        for pattern in findings:
            if pattern == "*":
                wanted |= {output.key for output in self.outputs if output.default}
                continue
            fitting = {key for key in keys if fnmatchcase(key, pattern.lower())}
            if not fitting:
                raise ValueError(f"findings: {pattern!r} fits no class of {self.name}; it has: {', '.join(keys)}")
            wanted |= fitting
        return frozenset(wanted)

    @model_validator(mode="after")
    def _distinct(self) -> ReadingSpec:
        for what in ("key", "channel"):
            values = [getattr(output, what) for output in self.outputs]
            if what == "channel":
                values += [channel for output in self.outputs for channel in output.joined]
            if len(set(values)) != len(values):
                raise ValueError(f"outputs: each {what} may stand once, got {values}")
        if self.input.kind == "volume" and self.input.adult_frontal_chest:
            raise ValueError("input.adult_frontal_chest: is for images; a volume is no radiograph")
        if self.input.kind == "image" and self.input.gets == "modality":
            raise ValueError("input.values: modality is for volumes; an image is given as display or bytes")
        if self.prediction == "labels" and self.task != "segmentation":
            raise ValueError("prediction: only a segmentation is a map of labels")
        if self.activation is not None and (self.prediction == "labels" or self.task == "detection"):
            raise ValueError("activation: makes probabilities of logits; labels and a detector's boxes are none")
        if self.prediction == "labels" and any(output.channel == 0 for output in self.outputs):
            raise ValueError("outputs: channel 0 of a map of labels is the background")
        if self.task == "regions" and self.input.kind == "volume":
            raise ValueError("task: regions are found in single images; input.kind is volume")
        if self.cam is not None and self.task != "classification":
            raise ValueError("cam: only a classification has activation maps")
        return self


def load_reading_spec(path: Path) -> ReadingSpec:
    """Read and check a ``reading.json``.

    Raises:
        ValueError: the file cannot be read or breaks the schema. The message names the file and each wrong entry.
    """
    try:
        return ReadingSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(str(part) for part in e['loc']) or 'file'}: {e['msg']}" for e in error.errors(include_url=False)
        )
        raise ValueError(f"{path}: {places}") from error
