"""The files of a MONAI bundle: what it says of itself and its digest, checked without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from ai.bundle.manifest import ReadingSpec, load_reading_spec
from ai.contract import ModelIdentity

METADATA: Final = "configs/metadata.json"
INFERENCE: Final = "configs/inference.json"
READING: Final = "configs/reading.json"
WEIGHTS: Final = "models/model.pt"
SCRIPT: Final = "models/model.ts"
_CONFIGS = (INFERENCE, "configs/inference.yaml", "configs/inference.yml")

# What MONAI's bundle specification calls mandatory and we can check without its schema, which lies on the network.
_METADATA_TEXTS = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
_VERSION_LENGTH = 64  # it stands in every result, as a Long String (LO, PS3.5 section 6.2)

_MADE_WITH = {"monai": "monai", "pytorch": "torch", "numpy": "numpy"}


class BundleError(ValueError):
    """A bundle cannot be used; the message names the file, what stands there and what was expected."""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What a bundle says of itself, read without torch.

    ``config`` is its inference configuration (JSON or YAML) and ``weights`` its state dict or TorchScript
    (``scripted``). ``input_key`` names the network's input; ``input_shape`` is the declared shape of its spatial axes,
    two for images and three for volumes; a side that is not fixed is None, and so are all of them where the network
    gets patches. ``output_channels`` is absent where they mean no classes (a detector's).
    """

    path: Path
    identity: ModelIdentity
    spec: ReadingSpec
    monai_version: str
    config: Path
    weights: Path
    scripted: bool
    input_key: str
    input_channels: int
    input_shape: tuple[int | None, ...]
    patches: tuple[int, ...] | None
    output_channels: int | None


def shipped() -> dict[str, Path]:
    """The bundles that come with the package: name -> directory."""
    root = Path(__file__).parent.parent / "bundles"
    return {path.name: path for path in sorted(root.iterdir()) if (path / READING).is_file()} if root.is_dir() else {}


def bundle_digest(path: Path) -> str:
    """SHA-256 (hex) over the files of a bundle: for each, in the order of their paths, path, length and bytes.

    Hidden files and ``__pycache__`` do not count: they come and go without the model changing.

    Raises:
        BundleError: there is no such directory, or a file in it cannot be read.
    """
    if not path.is_dir():
        raise BundleError(f"{path}: not there; the directory of a MONAI bundle was expected")
    files: dict[str, Path] = {}
    for file in path.rglob("*"):
        inside = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in inside.parts):
            files[inside.as_posix()] = file
    whole = hashlib.sha256()
    for name, file in sorted(files.items()):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
        whole.update(f"{name}\0{len(data)}\0".encode())
        whole.update(data)
    return whole.hexdigest()


def file_digests(path: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file below a directory, by its path inside it (with ``/``), in order; see `ai.bundle.pins`.

    Unlike in `bundle_digest` every file counts, hidden and compiled ones too: what is not there cannot be run.

    Raises:
        BundleError: there is no such directory, something in it is neither a file nor a directory, or cannot be read.
    """
    if not path.is_dir():
        raise BundleError(f"{path}: not there; the directory of a MONAI bundle was expected")
    digests: dict[str, str] = {}
    for file in sorted(path.rglob("*")):
        if file.is_dir() and not file.is_symlink():
            continue
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{file}: is no plain file; a bundle holds files and directories, and no links")
        try:
            with file.open("rb") as content:
                digests[file.relative_to(path).as_posix()] = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
    return digests


def describe(path: Path) -> BundleInfo:
    """Check the files of a bundle and read what it says of itself; cheap, and needs no torch.

    Raises:
        BundleError: a file is missing or says what it may not say.
    """
    digest = bundle_digest(path)
    for name in (METADATA, READING):
        if not (path / name).is_file():
            raise BundleError(f"{path / name}: missing; a bundle holds {METADATA}, {INFERENCE}, {READING}, {WEIGHTS}")
    config = next((path / name for name in _CONFIGS if (path / name).is_file()), None)
    if config is None:
        raise BundleError(f"{path / INFERENCE}: missing, as .json, .yaml and .yml; it says how the model is run")
    try:
        spec = load_reading_spec(path / READING)
    except ValueError as error:
        raise BundleError(str(error)) from error
    metadata = _json(path / METADATA)
    parts = read_config(config)
    weights, scripted = _weights(path, config, parts)
    if "preprocessing" not in parts:
        raise BundleError(f"{config}: preprocessing is missing; it makes the network's input of an image")
    for name in _METADATA_TEXTS:
        if not isinstance(metadata.get(name), str) or not metadata[name].strip():
            raise BundleError(f"{path / METADATA}: {name} is missing or empty; a text was expected")
    version = metadata["version"]
    if len(version) > _VERSION_LENGTH or not version.isprintable():
        raise BundleError(
            f"{path / METADATA}: version has {len(version)} characters or some that cannot be printed; "
            f"a line of at most {_VERSION_LENGTH} was expected"
        )
    data = _DataFormat.of(path / METADATA, metadata, spec)
    needed = max(output.channel for output in spec.outputs)
    if data.output_channels is not None and data.output_channels <= needed:
        raise BundleError(
            f"{path / METADATA}: network_data_format says {data.output_channels} output channels, "
            f"but {READING} names channel {needed}"
        )
    identity = ModelIdentity(spec.name, metadata["version"], digest, spec.manufacturer, spec.intended_use, spec.notice)
    return BundleInfo(
        path=path,
        identity=identity,
        spec=spec,
        monai_version=metadata["monai_version"],
        config=config,
        weights=weights,
        scripted=scripted,
        input_key=data.input_key,
        input_channels=data.input_channels,
        input_shape=data.input_shape,
        patches=data.patches,
        output_channels=data.output_channels,
    )


def read_config(file: Path) -> dict[str, Any]:
    """An inference configuration as it stands in its file, JSON or YAML.

    Raises:
        BundleError: it cannot be read, or is no object.
    """
    if file.suffix == ".json":
        return _json(file)
    import yaml  # noqa: PLC0415  (few bundles need it)

    try:
        content = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BundleError(f"{file}: cannot be read as YAML: {short(error)}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{file}: a mapping was expected")
    return content


def _weights(path: Path, config: Path, parts: dict[str, Any]) -> tuple[Path, bool]:
    """The file of weights and whether it is TorchScript, which needs no ``network_def``."""
    defined = "network_def" in parts or "network" in parts
    if defined and (path / WEIGHTS).is_file():
        return path / WEIGHTS, False
    if (path / SCRIPT).is_file():
        return path / SCRIPT, True
    if not (path / WEIGHTS).is_file():
        raise BundleError(f"{path / WEIGHTS}: missing; a file of weights, or {SCRIPT}, was expected")
    raise BundleError(f"{config}: network_def is missing; only TorchScript ({SCRIPT}) can do without")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read as JSON: {short(error)}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: a JSON object was expected")
    return content


@dataclass(frozen=True, slots=True)
class _DataFormat:
    """What ``network_data_format`` of metadata.json says of the network's input and output."""

    input_key: str
    input_channels: int
    input_shape: tuple[int | None, ...]
    patches: tuple[int, ...] | None
    output_channels: int | None

    @classmethod
    def of(cls, path: Path, metadata: dict[str, Any], spec: ReadingSpec) -> _DataFormat:
        whole = metadata.get("network_data_format")
        place = f"{path}: network_data_format"
        if not isinstance(whole, dict):
            raise BundleError(f"{place} is missing; an object with inputs and outputs was expected")
        inputs, outputs = whole.get("inputs"), whole.get("outputs")
        if not isinstance(inputs, dict) or not isinstance(outputs, dict) or not inputs or "pred" not in outputs:
            raise BundleError(f"{place}: inputs and outputs.pred were expected")
        key = "image" if "image" in inputs else next(iter(inputs))
        image, pred = inputs[key], outputs["pred"]
        if not isinstance(image, dict) or not isinstance(pred, dict):
            raise BundleError(f"{place}: inputs.{key} and outputs.pred were expected to be objects")
        inputs_channels = image.get("num_channels")
        if not isinstance(inputs_channels, int) or inputs_channels < 1:
            raise BundleError(f"{place}.inputs.{key}.num_channels is {inputs_channels!r}; a number was expected")
        shape = image.get("spatial_shape")
        axes = 2 if spec.input.kind == "image" else 3
        if not isinstance(shape, list) or len(shape) != axes:
            expected = (
                "a height and a width were" if axes == 2 else "three sizes (the input of reading.json is a volume)"
            )
            raise BundleError(
                f"{place}.inputs.{key}.spatial_shape is {shape!r}; {expected}{'' if axes == 2 else ' were'} expected"
            )
        # MONAI also writes "*" and expressions such as "32*n" for a side that is not fixed.
        sides = tuple(side if isinstance(side, int) else None for side in shape)
        fixed = tuple(side for side in sides if side is not None)
        patches = fixed if image.get("is_patch_data") is True and len(fixed) == axes else None
        if image.get("is_patch_data") is True:
            sides = (None,) * axes
        if spec.task == "detection" or spec.prediction == "labels":
            return cls(key, inputs_channels, sides, patches, None)
        channels = pred.get("num_channels")
        if not isinstance(channels, int) or channels < 1:
            raise BundleError(f"{place}.outputs.pred.num_channels is {channels!r}; a number of channels was expected")
        return cls(key, inputs_channels, sides, patches, channels)


def made_with() -> dict[str, Any]:
    """What ``metadata.json`` of a bundle that is written here says of the libraries that it was made with."""
    said = {f"{key}_version": version(name).split("+")[0] for key, name in _MADE_WITH.items()}
    return {**said, "required_packages_version": {}}


def write_json(path: Path, value: object) -> None:
    """Write a file of a bundle's configuration as people read it."""
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def short(error: BaseException) -> str:
    """The type and the beginning of the message; a bundle holds no patient data, but a message may be very long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{'…' if len(text) > 400 else ''}"
