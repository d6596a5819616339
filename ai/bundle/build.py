"""Builds the parts of a bundle that run, from its inference configuration, with MONAI.

``network_def``, ``preprocessing``, ``inferer`` and ``postprocessing`` are built, with the entries that they refer to
and those that the evaluator requires (a detector's settings). Data set, loader, evaluator and handlers are not built.
Transforms that load or write files are replaced everywhere by those of `ai.bundle.given`.

torch and monai are imported when something is built: see `ai.inference.bundle_model`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai.bundle.files import METADATA, BundleError, BundleInfo, short
from ai.bundle.macros import as_it_runs

_GIVEN = "ai.bundle.given.Given"
_UNWRITTEN = "ai.bundle.given.Unwritten"
_IMPORT = re.compile(r"^\$\s*(?:import|from)\s+([A-Za-z_]\w*)")
# Names and arguments that MONAI had before 1.0. Today it finds the values of these arguments itself.
_RENAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "AddChanneld": ("EnsureChannelFirstd", {"channel_dim": "no_channel"}),
    "AsChannelFirstd": ("EnsureChannelFirstd", {"channel_dim": -1}),
}
_GONE = ("meta_keys", "meta_key_postfix", "img_size")
_INNER = ("state_dict", "model", "model_state_dict", "network")  # where trainers put the weights in a checkpoint


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a bundle that run.

    ``key`` is the name of the image in the transforms' dictionaries. ``loads`` is true if preprocessing begins with
    loading a file: it then gets the axes of MONAI's readers (columns first), without a channel axis. ``repeats`` is
    true if preprocessing repeats the channel itself. ``spacing`` (mm) is that of volumes after preprocessing, 0 for an
    axis whose spacing stays. ``follow`` are attributes that hold the network's device and change with it.
    """

    network: Any
    preprocessing: Any
    inferer: Any
    postprocessing: Any
    detector: Any
    key: str
    loads: bool
    repeats: bool
    spacing: tuple[float, ...]
    follow: tuple[_Place, ...]

    def to(self, device: Any) -> None:
        """Move the weights to a device, and the parts that compute on the weights' device.

        A part that the bundle puts on the CPU by name stays there, because it may not fit elsewhere.
        """
        for part in (self.network, self.detector):
            if part is not None:
                part.to(device)
        for place in self.follow:
            place.set(device)


@dataclass(frozen=True, slots=True)
class _Place:
    """An attribute that names a device, or several devices, of which ``key`` is the place of this one."""

    held: dict[str, Any]
    name: str
    key: int | None

    def set(self, device: Any) -> None:
        old = self.held[self.name]
        new = device if self.key is None else tuple(device if at == self.key else one for at, one in enumerate(old))
        self.held[self.name] = new


def build(info: BundleInfo, device: Any) -> Parts:
    """Build a bundle's parts and load its weights.

    Raises:
        BundleError: a part cannot be parsed, built or loaded. The message names the file and the part.
    """
    with _importable(info.path):
        parser, missing = _parser(info, device)
        config: Mapping[str, Any] = parser.config
        network = _network(info, parser, device, missing)
        try:
            for number in _required(config):
                parser.get_parsed_content(number, instantiate=True)
        except Exception as error:  # a config is code and can fail in any way
            raise BundleError(f"{info.config}: {number} cannot be run: {_whole(error)}{missing}") from error
        found = {
            name: _part(info, parser, name, missing)
            for name in ("preprocessing", "inferer", "postprocessing", "detector")
            if name in config
        }
    preprocessing = _settle(found["preprocessing"])
    postprocessing = _settle(found.get("postprocessing", _as_it_is), scores=info.spec.task == "classification")
    _check_activation(info, postprocessing)
    given = [one for one in each_of(preprocessing) if type(one).__name__ == "Given"]
    own_device = parser.get_parsed_content("device")
    detector = found.get("detector", getattr(found.get("inferer"), "detector", None))
    if detector is not None and hasattr(detector, "eval"):
        detector.eval()
    inner = getattr(detector, "inferer", None)
    return Parts(
        network=network,
        preprocessing=preprocessing,
        inferer=found.get("inferer", _plainly),
        postprocessing=postprocessing,
        detector=detector if hasattr(detector, "to") else None,
        key=_key([str(key) for one in given for key in one.keys], info.input_key),
        loads=bool(given),
        repeats=any(type(one).__name__.startswith("RepeatChannel") for one in each_of(preprocessing)),
        spacing=next((one for one in map(_spacing, each_of(preprocessing)) if one), (0.0, 0.0, 0.0)),
        follow=tuple(
            place
            for part in (*each_of(preprocessing), *each_of(postprocessing), found.get("inferer"), inner)
            for held in (part, *getattr(part, "__dict__", {}).values())
            for place in _places(held, own_device)
        ),
    )


def _check_activation(info: BundleInfo, postprocessing: Any) -> None:
    """Refuse two activations in a row: a sigmoid of the probability 0 would be 0.5."""
    done = [type(one).__name__ for one in each_of(postprocessing)]
    done = [name for name in done if name.startswith(("Activations", "AsDiscrete"))]
    if info.spec.activation is not None and done:
        raise BundleError(
            f"{info.config}: postprocessing has {done[0]}, and reading.json names an activation to come after it; "
            "one of the two was expected"
        )


def _as_it_is(item: Any) -> Any:
    return item


def _plainly(inputs: Any, network: Any) -> Any:
    return network(inputs)


def _key(loaded: list[str], declared: str) -> str:
    return declared if declared in loaded or not loaded else "image" if "image" in loaded else loaded[0]


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Make the bundle's own modules (``scripts``) importable while it is built, and remove them afterwards.

    Two bundles may both have a module ``scripts``; each keeps its own.
    """
    own = {path.stem for path in root.iterdir() if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))}
    others = {name: module for name, module in sys.modules.items() if name.split(".")[0] in own}
    for name in others:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the bundle's folder must not change
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if name.split(".")[0] in own]:
            del sys.modules[name]
        sys.modules.update(others)


def _parser(info: BundleInfo, device: Any) -> tuple[Any, str]:
    """MONAI's parser with the configuration, and a note of imported modules that are not installed."""
    from monai.bundle import ConfigParser  # noqa: PLC0415  (see the module)

    from ai.bundle import torchvision  # noqa: PLC0415  (see the module)

    config = as_it_runs(info.path, info.config, info.spec.override)
    missing = _remove_missing_imports(config)
    config = _without_files(config)
    if "detector" in config or "RetinaNet" in str(config.get("network_def")):
        torchvision.replace_missing()
    try:
        parser = ConfigParser(config)
        parser.read_meta(str(info.path / METADATA))
        parser["bundle_root"] = str(info.path)
        parser["device"] = f"$torch.device('{device}')"
        parser.parse()
    except Exception as error:  # a config is code and can fail in any way
        raise BundleError(f"{info.config}: cannot be parsed: {short(error)}") from error
    note = f" (it imports {', '.join(missing)}, which is not installed)" if missing else ""
    return parser, note


def _remove_missing_imports(config: dict[str, Any]) -> list[str]:
    """Remove imports of modules that are not installed, and return their names. Most are for training alone."""
    missing = []
    for name in ("imports", "import"):
        kept = []
        statements = config.get(name, [])
        for statement in statements if isinstance(statements, list) else [statements]:
            match = _IMPORT.match(statement) if isinstance(statement, str) else None
            if match and importlib.util.find_spec(match[1]) is None:
                missing.append(match[1])
            else:
                kept.append(statement)
        if name in config:
            config[name] = kept
    return missing


def _without_files(node: Any) -> Any:
    """A copy of the configuration in which transforms that load or write files are replaced."""
    if isinstance(node, list):
        return [_without_files(one) for one in node]
    if not isinstance(node, dict):
        return node
    copy = {key: _without_files(value) for key, value in node.items()}
    target = copy.get("_target_")
    if isinstance(target, str):
        name = target.rsplit(".", 1)[-1]
        if name in ("LoadImaged", "LoadImageD", "LoadImageDict"):
            copy["_target_"] = _GIVEN
            copy.pop("reader", None)  # its library may be missing
        elif name.startswith(("Save", "Write")):
            kept = ("keys", "_disabled_", "_requires_", "_desc_")
            copy = {key: value for key, value in copy.items() if key in kept} | {"_target_": _UNWRITTEN}
        else:
            copy = _modernised(copy, name)
    return copy


def _modernised(component: dict[str, Any], name: str) -> dict[str, Any]:
    """A component with today's names and arguments of MONAI in place of older ones."""
    from monai import transforms  # noqa: PLC0415  (see the module)
    from monai.networks import nets  # noqa: PLC0415  (see the module)

    if name in _RENAMED and not hasattr(transforms, name):
        name, fixed = _RENAMED[name]
        component = component | {"_target_": name} | {key: component.get(key, value) for key, value in fixed.items()}
    found = getattr(transforms, name, None) or getattr(nets, name, None)
    if found is None or not any(key in component for key in _GONE):
        return component
    taken = inspect.signature(found).parameters
    return {key: value for key, value in component.items() if key not in _GONE or key in taken}


def _required(config: Mapping[str, Any]) -> list[str]:
    """The entries that the evaluator requires to run first, and a detector's settings by their usual name."""
    evaluator = config.get("evaluator")
    wanted = evaluator.get("_requires_", []) if isinstance(evaluator, dict) else []
    names = [name[1:] for name in ([wanted] if isinstance(wanted, str) else wanted) if str(name).startswith("@")]
    if "detector_ops" in config and "detector_ops" not in names:
        names.append("detector_ops")
    return names


def _part(info: BundleInfo, parser: Any, name: str, missing: str) -> Any:
    try:
        part = parser.get_parsed_content(name, instantiate=True)
    except Exception as error:  # a config is code and can fail in any way
        raise BundleError(f"{info.config}: {name} cannot be built: {_whole(error)}{missing}") from error
    if not callable(part):
        raise BundleError(f"{info.config}: {name} is a {type(part).__name__}; a callable was expected")
    return part


def _whole(error: Exception) -> str:
    """The error and its first cause, because MONAI's own message often lacks the reason."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return short(error) if root is error else f"{short(error)} <- {short(root)}"


def _places(part: Any, device: Any) -> Iterator[_Place]:
    """The attributes of a part that hold the bundle's ``device``."""

    def follows(named: Any) -> bool:
        # On the CPU only the same object counts: an equal one was named as the CPU on purpose.
        return named is device or (device.type != "cpu" and str(named) == str(device))

    own = getattr(part, "__dict__", {})
    for name in ("device", "sw_device"):
        named = own.get(name)
        if follows(named):
            yield _Place(own, name, None)
        elif isinstance(named, tuple):  # one for each key of a transform
            yield from (_Place(own, name, number) for number, one in enumerate(named) if follows(one))


def each_of(transform: Any) -> Iterator[Any]:
    """A transform, and all transforms inside it if it is a composition."""
    yield transform
    for one in getattr(transform, "transforms", ()) or ():
        yield from each_of(one)


def _spacing(transform: Any) -> tuple[float, ...] | None:
    wanted = getattr(getattr(transform, "spacing_transform", None), "pixdim", None)
    if wanted is None or len(wanted) != 3:
        return None
    return tuple(float(side) if side and side > 0 else 0.0 for side in wanted)


def _settle(transform: Any, *, scores: bool = False) -> Any:
    """Replace transforms that an expression of the configuration built, and that `_without_files` could not see.

    A composition is changed in place, because other parts may refer to it (``Invertd`` inverts preprocessing). Boxes in
    world coordinates are taken in the directions of the affine, whatever reader the bundle expects. With ``scores`` the
    values are not rounded to 0 and 1, because ``reading.json`` holds the threshold.
    """
    from ai.bundle.fast_transforms import speed_up  # noqa: PLC0415  (see the module)
    from ai.bundle.given import Given, Unwritten  # noqa: PLC0415  (see the module)

    name = type(transform).__name__
    if name in ("LoadImaged", "LoadImageD", "LoadImageDict"):
        return Given(transform.keys, ensure_channel_first=bool(transform._loader.ensure_channel_first))
    if name.startswith(("Save", "Write")) or (scores and name in ("AsDiscreted", "AsDiscreteD", "AsDiscreteDict")):
        return Unwritten(getattr(transform, "keys", "pred"))
    speed_up(transform)
    if getattr(transform, "affine_lps_to_ras", False):
        transform.affine_lps_to_ras = False
    if getattr(transform, "transforms", None):
        transform.transforms = tuple(_settle(one, scores=scores) for one in transform.transforms)
    return transform


# --- weights --------------------------------------------------------------------------------------------------------


def _network(info: BundleInfo, parser: Any, device: Any, missing: str) -> Any:
    import torch  # noqa: PLC0415  (see the module)

    if info.scripted:
        try:
            network = torch.jit.load(str(info.weights), map_location=device)
        except Exception as error:  # a damaged file fails in many ways
            raise BundleError(f"{info.weights}: is no TorchScript that torch reads: {short(error)}") from error
        # Other entries may refer to the network by its name.
        for name in ("network_def", "network"):
            if name in parser.config:
                parser.ref_resolver.resolved_content[name] = network
        return network.eval()
    name = "network_def" if "network_def" in parser.config else "network"
    network = _part(info, parser, name, missing)
    if not isinstance(network, torch.nn.Module):
        raise BundleError(f"{info.config}: {name} is a {type(network).__name__}; a network was expected")
    _load_weights(info.weights, network, device)
    return network


def _load_weights(file: Path, network: Any, device: Any) -> None:
    """Load the weights into the network, move it to the device, and set it to inference."""
    import torch  # noqa: PLC0415  (see the module)

    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails inside pickle or zip in many ways
        raise BundleError(f"{file}: is no file of weights that torch reads: {short(error)}") from error
    try:
        network.load_state_dict(_state(weights), strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise BundleError(f"{file}: the weights do not fit network_def: {short(error)}") from error
    network.to(device).eval().requires_grad_(False)


def _state(loaded: Any) -> Any:
    """The weights in a file, which may be a checkpoint of a training, without the prefix of a wrapper."""
    for name in _INNER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if isinstance(loaded, Mapping) and loaded and all(str(key).startswith("module.") for key in loaded):
        return {str(key).removeprefix("module."): value for key, value in loaded.items()}
    return loaded
