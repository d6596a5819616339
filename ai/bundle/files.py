"""Reads and checks the files of a MONAI bundle, and computes its digest. torch is not needed."""

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
CONFIGS: Final = (INFERENCE, "configs/inference.yaml", "configs/inference.yml")

# Mandatory by MONAI's bundle specification. Its schema lies on the network and is not used.
_METADATA_TEXTS = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
_VERSION_LENGTH = 64  # it stands in every result, as a Long String (LO, PS3.5 section 6.2)

_MADE_WITH = {"monai": "monai", "pytorch": "torch", "numpy": "numpy"}


class BundleError(ValueError):
    """A bundle cannot be used. The message names the file, what stands there and what was expected."""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """The description of a bundle, from its files.

    ``path`` is its directory, ``config`` its inference configuration (JSON or YAML), ``weights`` its state dict, or its
    TorchScript if ``scripted``. ``input_key`` names the network's input, which has ``input_channels``.
    ``input_shape`` is the declared shape of its spatial axes, two for images and three for volumes; a side is None if
    it is not fixed, and every side is None if the network gets patches. ``patches`` is the shape of the patches, or
    None. ``output_channels`` is None if channels are no classes (a detector, a map of labels).
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
    """The bundles that ship with the package: name -> directory."""
    root = Path(__file__).parent.parent / "bundles"
    return {path.name: path for path in sorted(root.iterdir()) if (path / READING).is_file()} if root.is_dir() else {}


def bundle_digest(path: Path) -> str:
    """SHA-256 (hex) over the files of a bundle: path, length and bytes of each file, in the order of their paths.

    Hidden files and ``__pycache__`` do not count, because they change while the model stays the same.

    Raises:
        BundleError: the directory does not exist, or a file in it cannot be read.
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
    """SHA-256 (hex) of each file in a directory, by its path in it (with ``/``), in order; for `ai.bundle.pins`.

    Every file counts, also hidden and compiled ones, unlike in `bundle_digest`: any file could be run.

    Raises:
        BundleError: the directory does not exist, or holds something that is no plain file or cannot be read.
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
    """Check the files of a bundle and read its description. This is fast and needs no torch.

    Raises:
        BundleError: a file is missing or has a wrong entry.
    """
    digest = bundle_digest(path)
    for name in (METADATA, READING):
        if not (path / name).is_file():
            raise BundleError(f"{path / name}: missing; a bundle holds {METADATA}, {INFERENCE}, {READING}, {WEIGHTS}")
    config = next((path / name for name in CONFIGS if (path / name).is_file()), None)
    if config is None:
        raise BundleError(f"{path / INFERENCE}: missing, as .json, .yaml and .yml; it says how the model runs")
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
    needed = max(max((output.channel, *output.joined)) for output in spec.outputs)
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
    """Read an inference configuration, JSON or YAML, unchanged.

    Raises:
        BundleError: the file cannot be read, or holds no object.
    """
    if file.suffix.lower() == ".json":
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
    """The file of weights, and whether it is TorchScript. TorchScript needs no ``network_def``."""
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
    """The network's input and output, from ``network_data_format`` of metadata.json; fields as in `BundleInfo`."""

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
            expected = "a height and a width" if axes == 2 else "three sizes (the input of reading.json is a volume)"
            raise BundleError(f"{place}.inputs.{key}.spatial_shape is {shape!r}; {expected} were expected")
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
    """The entries of ``metadata.json`` that name the libraries' versions, for a bundle that is written here."""
    versions = {f"{key}_version": version(name).split("+")[0] for key, name in _MADE_WITH.items()}
    return {**versions, "required_packages_version": {}}


def write_json(path: Path, value: object) -> None:
    """Write a configuration file of a bundle, indented."""
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def short(error: BaseException) -> str:
    """The type of an error and at most 400 characters of its message. A bundle's own errors hold no patient data."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{'…' if len(text) > 400 else ''}"
