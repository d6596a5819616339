"""Imports published weights of DenseNet-121 classifiers of chest radiographs: weights -> a MONAI bundle.

Most published classifiers of chest radiographs are a DenseNet-121 (Huang et al. 2017) with the layer names of
torchvision: CheXNet (Rajpurkar et al. 2017) and its reproductions, and TorchXRayVision (Cohen et al. 2022). MONAI's
``DenseNet121`` is the same network with other layer names, so the weights are renamed and not changed.

Whoever imports weights must describe what they do not contain: the names of the classes in the order of the outputs,
how an image becomes the network's input, and the operating points.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from ai.bundle.files import INFERENCE, METADATA, READING, WEIGHTS, BundleError, made_with, short, write_json
from ai.bundle.manifest import ReadingSpec
from ai.contract import Code
from ai.training.chest_codes import finding_code, key_of, meaning_of

Normalise = Literal["chexnet", "torchxrayvision", "none"]

NOTICE: Final = "Not validated at this site; operating points were not chosen on local images"
_IMAGENET: Final = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net", "network")
_LAYER = re.compile(r"(denselayer\d+)\.(?:layers\.)?(norm|conv)\.?([12])\.")
_CLASSIFIER = re.compile(r"(?:classifier|fc|class_layers\.out)(?:\.\d+)?\.(weight|bias)")
_FIRST: Final = "features.conv0.weight"
_UNTRAINED: Final = "These weights were not trained for this class"


@dataclass(frozen=True, slots=True)
class WeightsDescription:
    """What weights do not contain, and whoever imports them must describe.

    ``name`` is the name of the model. ``classes`` names each output in order; "-" or "" is an output that is not
    reported. ``normalise`` is how an image (grey 0..1, bone white) becomes the input of ``size`` x ``size`` pixels:
    "chexnet" squeezes the whole image, with three equal channels and ImageNet's mean and deviation; "torchxrayvision"
    takes the central square, with one channel from -1024 to 1024; "none" squeezes the whole image, from 0 to 1.
    ``channels``, if not None, must be the number of channels of the weights. ``codes`` are codes by the name of the
    class, which replace the built-in ones. ``thresholds`` are the operating points, None for 0.5.
    """

    name: str
    classes: Sequence[str]
    normalise: Normalise
    channels: int | None = None
    codes: Mapping[str, Code] = field(default_factory=dict)
    thresholds: Sequence[float] | None = None
    size: int = 224


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a DenseNet-121 with MONAI's layer names.

    ``state`` are the tensors by name. The network takes ``channels`` and returns ``classes`` logits. ``op_threshs`` are
    the operating points that TorchXRayVision stores beside its weights (NaN for an untrained class), or None.
    """

    state: Mapping[str, Any]
    channels: int
    classes: int
    op_threshs: tuple[float, ...] | None


def import_densenet121(file: Path, out: Path, described: WeightsDescription) -> Path:
    """Write a bundle from a file with the weights of a DenseNet-121.

    Raises:
        BundleError: the weights are no DenseNet-121, or do not fit their description. Nothing was written.
    """
    weights = read_densenet121(file)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return write_bundle(weights, out, described, digest)


def write_bundle(weights: Weights, out: Path, described: WeightsDescription, digest: str) -> Path:
    """Write a bundle; ``digest`` is the SHA-256 (hex) of the file that the weights came from.

    Raises:
        BundleError: the weights do not fit their description, or ``out`` exists. Nothing was written.
    """
    _check(weights, described)
    reading = _reading(described, weights)
    try:
        ReadingSpec.model_validate(reading)
    except ValueError as error:
        raise BundleError(f"the {READING} of these classes would be wrong: {short(error)}") from error
    if out.exists():
        raise BundleError(f"{out}: exists already; a new folder was expected")
    for folder in ("configs", "models", "docs"):
        (out / folder).mkdir(parents=True)
    write_json(out / READING, reading)
    write_json(out / INFERENCE, _inference(weights, described.normalise, described.size))
    write_json(out / METADATA, _metadata(described, weights, digest))
    (out / "docs/README.md").write_text(_card(described, weights, digest), encoding="utf-8")
    import torch  # noqa: PLC0415  (see read_densenet121)

    torch.save(dict(weights.state), out / WEIGHTS)
    return out


def read_densenet121(file: Path) -> Weights:
    """Read the weights of a DenseNet-121 from a file that ``torch.save`` wrote; see `weights_of`.

    Raises:
        BundleError: the file holds no plain weights, or those of another network.
    """
    import torch  # noqa: PLC0415  (seconds, and the receiving process does without)

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged file fails inside pickle or zip in many ways
        raise BundleError(
            f"{file}: is no file of plain weights: {short(error)[:160]}. A whole pickled model runs code when it is "
            "opened and is not read; on a machine where that does no harm, save its weights alone: "
            "torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW)"
        ) from error
    try:
        return weights_of(content)
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from None


def weights_of(content: Any) -> Weights:
    """The weights in a checkpoint with the names of torchvision, DataParallel, early PyTorch or MONAI.

    Raises:
        BundleError: the checkpoint is of another network.
    """
    import torch  # noqa: PLC0415  (see read_densenet121)

    found = _state_dict(content)
    first = [key for key in found if f".{key}".endswith(f".{_FIRST}")]
    if len(first) != 1:
        raise BundleError(f"no DenseNet: {len(first)} tensors are called {_FIRST}; one was expected")
    before = first[0].removesuffix(_FIRST)
    state: dict[str, Any] = {}
    op_threshs: tuple[float, ...] | None = None
    for key, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise BundleError(f"{key} is sparse or quantized; a plain tensor was expected")
        inside = key.removeprefix(before) if key.startswith(before) else key.rpartition("module.")[2]
        if inside == "op_threshs":
            op_threshs = tuple(float(value) for value in tensor.flatten())
        elif inside.endswith("num_batches_tracked"):
            continue  # a counter of the training, which inference does not use
        elif match := _CLASSIFIER.fullmatch(inside):
            state[f"class_layers.out.{match[1]}"] = tensor.float().clone()
        else:
            state[_LAYER.sub(r"\1.layers.\2\3.", inside)] = tensor.float().clone()
    out = state.get("class_layers.out.weight")
    if out is None or out.ndim != 2:
        raise BundleError("no classifier: a tensor classifier.weight (classes, 1024) was expected")
    channels, classes = int(found[first[0]].shape[1]), int(out.shape[0])
    return Weights(_fitted(state, channels, classes), channels, classes, op_threshs)


def _state_dict(content: Any) -> dict[str, Any]:
    """The tensors of a checkpoint, without the mappings around them."""
    import torch  # noqa: PLC0415  (see read_densenet121)

    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
        content = inner
    return {}


def _fitted(state: dict[str, Any], channels: int, classes: int) -> dict[str, Any]:
    """The complete state of MONAI's network.

    Raises:
        BundleError: a tensor is missing, unknown, of another shape, or not finite.
    """
    import torch  # noqa: PLC0415  (see read_densenet121)
    from monai.networks.nets import DenseNet121  # noqa: PLC0415

    with torch.device("meta"):
        network = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=classes)
    expected = network.state_dict()
    counters = {key: torch.zeros((), dtype=torch.long) for key in expected if key.endswith("num_batches_tracked")}
    faults = [f"{key} is unexpected" for key in state if key not in expected]
    faults += [f"{key} is missing" for key in expected if key not in state and key not in counters]
    faults += [
        f"{key} has the shape {tuple(tensor.shape)}, not {tuple(expected[key].shape)}"
        for key, tensor in state.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    faults += [f"{key} is not finite" for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise BundleError(f"no DenseNet-121: {'; '.join(faults[:3])}{more}")
    return {**state, **counters}


def _check(weights: Weights, described: WeightsDescription) -> None:
    taken = weights.channels
    if described.channels not in (None, taken):
        raise BundleError(f"the weights take {taken} channels; {described.channels} were declared")
    if taken not in {"chexnet": (3,), "torchxrayvision": (1,), "none": (1, 3)}[described.normalise]:
        raise BundleError(f"the weights take {taken} channels, which does not go with {described.normalise!r}")
    if len(described.classes) != weights.classes:
        raise BundleError(f"the weights have {weights.classes} outputs, but {len(described.classes)} classes are named")
    keys = [key_of(each) for each in described.classes if _named(each)]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise BundleError(f"classes: {', '.join(twice)}: each may be named once")
    if not keys:
        raise BundleError("classes: none is named")
    if weights.op_threshs is not None and len(weights.op_threshs) != weights.classes:
        raise BundleError(f"op_threshs has {len(weights.op_threshs)} values for {weights.classes} outputs")
    if described.thresholds is not None and len(described.thresholds) != len(described.classes):
        raise BundleError(f"thresholds: {len(described.thresholds)} for {len(described.classes)} classes")
    if described.thresholds is not None and not all(0.0 < value < 1.0 for value in described.thresholds):
        raise BundleError("thresholds: numbers between 0 and 1 were expected")


def _named(name: str) -> bool:
    return name.strip() not in ("", "-")


def _reading(described: WeightsDescription, weights: Weights) -> dict[str, Any]:
    outputs = []
    given = {key_of(each): code for each, code in described.codes.items()}
    for channel, each in enumerate(described.classes):
        if not _named(each):
            continue
        code, site = finding_code(each)
        output: dict[str, Any] = {
            "key": key_of(each),
            "name": meaning_of(each)[:64],
            "channel": channel,
            "code": _code(given.get(key_of(each), code)),
            "threshold": 0.5 if described.thresholds is None else described.thresholds[channel],
        }
        if site is not None:
            output["site"] = _code(site)
        if weights.op_threshs is not None and math.isnan(weights.op_threshs[channel]):
            output["undetermined"] = _UNTRAINED
        outputs.append(output)
    return {
        "format": 1,
        "name": described.name,
        "task": "classification",
        "manufacturer": "imported weights",
        "intended_use": (
            "Classifies frontal chest radiographs of adults. Imported from published weights; it was not validated at "
            "this site and must not be used for a decision about a patient until it was."
        ),
        "notice": NOTICE,
        "input": {
            "modality": ["CR", "DX"],
            "body_part": ["CHEST", "THORAX", ""],
            "view": ["PA", "AP", ""],
            "max_images": 8,
            "adult_frontal_chest": True,
        },
        "cam": {"layer": "class_layers.relu", "classifier": "class_layers.out"},
        "outputs": outputs,
    }


def _code(code: Code) -> dict[str, str]:
    return {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}


def _inference(weights: Weights, normalise: Normalise, size: int) -> dict[str, Any]:
    resize = {
        "_target_": "Resized",
        "keys": "image",
        "spatial_size": [size, size],
        "mode": "bilinear",
        "anti_aliasing": True,
    }
    repeat = {"_target_": "RepeatChanneld", "keys": "image", "repeats": weights.channels}
    transforms: list[dict[str, Any]]
    if normalise == "torchxrayvision":
        square = "$lambda image: monai.transforms.CenterSpatialCrop(min(image.shape[1:]))(image)"
        scale = {"a_min": 0.0, "a_max": 1.0, "b_min": -1024.0, "b_max": 1024.0}
        transforms = [
            {"_target_": "Lambdad", "keys": "image", "func": square},
            resize,
            {"_target_": "ScaleIntensityRanged", "keys": "image", **scale},
        ]
    elif normalise == "chexnet":
        mean, deviation = _IMAGENET
        normal = {"subtrahend": mean, "divisor": deviation, "channel_wise": True}
        transforms = [resize, repeat, {"_target_": "NormalizeIntensityd", "keys": "image", **normal}]
    else:
        transforms = [resize, *([repeat] if weights.channels > 1 else [])]
    after: list[dict[str, Any]] = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
    config: dict[str, Any] = {"imports": ["$import monai", "$import torch"]}
    if weights.op_threshs is not None:
        # TorchXRayVision moves each class's operating point to 0.5, linearly on both sides. 0.5 itself changes nothing.
        config["op_threshs"] = [0.5 if math.isnan(value) else value for value in weights.op_threshs]
        point = "torch.tensor(@op_threshs, device=p.device)"
        moved = f"$lambda p: (lambda t: torch.where(p < t, p / (2 * t), 1 - (1 - p) / (2 * (1 - t))))({point})"
        after.append({"_target_": "Lambdad", "keys": "pred", "func": moved})
    return {
        **config,
        "device": "cpu",
        "network_def": {
            "_target_": "monai.networks.nets.DenseNet121",
            "spatial_dims": 2,
            "in_channels": weights.channels,
            "out_channels": weights.classes,
        },
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }


def _metadata(described: WeightsDescription, weights: Weights, digest: str) -> dict[str, Any]:
    tensor = {"dtype": "float32", "is_patch_data": False}
    ranges = {"torchxrayvision": [-1024, 1024], "none": [0, 1]}
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": "Imported"},
        **made_with(),
        "name": described.name,
        "task": "Classifies frontal chest radiographs",
        "description": f"DenseNet-121 with imported weights; the SHA-256 of their file is {digest}.",
        "authors": "those who published the weights",
        "copyright": "that of the weights; see where they were published",
        "intended_use": "Not validated at this site.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "DX",
                    "num_channels": weights.channels,
                    "spatial_shape": [described.size, described.size],
                    "value_range": ranges.get(described.normalise, []),
                    "channel_def": {str(number): "image" for number in range(weights.channels)},
                    **tensor,
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": weights.classes,
                    "spatial_shape": [1],
                    "value_range": [0, 1],
                    "channel_def": {str(number): each or "-" for number, each in enumerate(described.classes)},
                    **tensor,
                }
            },
        },
    }


def _card(described: WeightsDescription, weights: Weights, digest: str) -> str:
    seen = {
        "chexnet": "The whole image is squeezed into a square; three equal channels, ImageNet's mean and deviation.",
        "torchxrayvision": "Only the central square of the image is read; what lies beside it is not seen.",
        "none": "The whole image is squeezed into a square; greys from 0 to 1.",
    }[described.normalise]
    if described.thresholds is not None:
        points = "They were given when the weights were imported."
    elif weights.op_threshs is not None:
        points = "Those that came with the weights lie at 0.5 (TorchXRayVision); nobody chose them for this site."
    else:
        points = "All are 0.5, which nobody chose: `dicom-node models evaluate` measures the model and proposes others."
    lines = [
        f"# {described.name}",
        "",
        f"**{NOTICE}. It must not be used for a decision about a patient until it was validated here.**",
        "",
        f"A DenseNet-121 with imported weights (SHA-256 of their file: `{digest}`).",
        "What they were trained and tested on, and under which licence, is told where they were published.",
        "",
        "## Input",
        "",
        f"Frontal chest radiographs. {seen}",
        "",
        "## Operating points",
        "",
        points,
        "",
        "## Classes",
        "",
        *(f"* {meaning_of(each)}" for each in described.classes if _named(each)),
        "",
    ]
    return "\n".join(lines)
