"""The files of a MONAI bundle: what it says of itself and its digest, checked without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ai.contract import ModelIdentity
from ai.manifest import ReadingSpec, load_reading_spec

METADATA: Final = "configs/metadata.json"
INFERENCE: Final = "configs/inference.json"
READING: Final = "configs/reading.json"
WEIGHTS: Final = "models/model.pt"
BUILT = ("network_def", "preprocessing", "inferer", "postprocessing")

# What MONAI's bundle specification calls mandatory and we can check without its schema, which lies on the network.
_METADATA_TEXTS = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")


class BundleError(ValueError):
    """A bundle cannot be used; the message names the file, what stands there and what was expected."""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What a bundle says of itself, read without torch.

    ``input_shape`` is the declared (height, width) of the network's input; a side that is not fixed is None.
    """

    path: Path
    identity: ModelIdentity
    spec: ReadingSpec
    monai_version: str
    input_shape: tuple[int | None, int | None]
    output_channels: int


def shipped() -> dict[str, Path]:
    """The bundles that come with the package: name -> directory."""
    root = Path(__file__).parent / "bundles"
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
    """SHA-256 (hex) of each file below a directory, by its path inside it (with ``/``), in order; see `ai.pins`.

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
    for name in (METADATA, INFERENCE, READING, WEIGHTS):
        if not (path / name).is_file():
            raise BundleError(f"{path / name}: missing; a bundle holds {METADATA}, {INFERENCE}, {READING}, {WEIGHTS}")
    try:
        spec = load_reading_spec(path / READING)
    except ValueError as error:
        raise BundleError(str(error)) from error
    metadata = _json(path / METADATA)
    config = _json(path / INFERENCE)
    for name in BUILT:
        if name not in config:
            raise BundleError(f"{path / INFERENCE}: {name} is missing; {', '.join(BUILT)} were expected")
    for name in _METADATA_TEXTS:
        if not isinstance(metadata.get(name), str) or not metadata[name].strip():
            raise BundleError(f"{path / METADATA}: {name} is missing or empty; a text was expected")
    shape, channels = _data_format(path / METADATA, metadata)
    needed = max(output.channel for output in spec.outputs)
    if channels <= needed:
        raise BundleError(
            f"{path / METADATA}: network_data_format says {channels} output channels, "
            f"but {READING} names channel {needed}"
        )
    identity = ModelIdentity(spec.name, metadata["version"], digest, spec.manufacturer, spec.intended_use, spec.notice)
    return BundleInfo(path, identity, spec, metadata["monai_version"], shape, channels)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as JSON: {short(error)}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: a JSON object was expected")
    return content


def _data_format(path: Path, metadata: dict[str, Any]) -> tuple[tuple[int | None, int | None], int]:
    """The input's height and width and the number of output channels out of ``network_data_format``."""
    whole = metadata.get("network_data_format")
    place = f"{path}: network_data_format"
    if not isinstance(whole, dict):
        raise BundleError(f"{place} is missing; an object with inputs and outputs was expected")
    image, pred = (
        whole[side].get(name) if isinstance(whole.get(side), dict) else None
        for side, name in (("inputs", "image"), ("outputs", "pred"))
    )
    if not isinstance(image, dict) or not isinstance(pred, dict):
        raise BundleError(f"{place}: inputs.image and outputs.pred were expected")
    if image.get("num_channels") != 1:
        raise BundleError(f"{place}.inputs.image.num_channels is {image.get('num_channels')!r}; 1 was expected")
    shape = image.get("spatial_shape")
    if not isinstance(shape, list) or len(shape) != 2:
        raise BundleError(f"{place}.inputs.image.spatial_shape is {shape!r}; a height and a width were expected")
    channels = pred.get("num_channels")
    if not isinstance(channels, int) or channels < 1:
        raise BundleError(f"{place}.outputs.pred.num_channels is {channels!r}; a number of channels was expected")
    # MONAI also writes "*" and expressions such as "32*n" for a side that is not fixed.
    height, width = (side if isinstance(side, int) else None for side in shape)
    return (height, width), channels


def short(error: BaseException) -> str:
    """The type and the beginning of the message; a bundle holds no patient data, but a message may be very long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{'…' if len(text) > 400 else ''}"
