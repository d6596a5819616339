"""A bundle's configuration -> the parts that run: MONAI builds them, less what is about files and training.

Of an inference configuration ``network_def``, ``preprocessing``, ``inferer`` and ``postprocessing`` are built, with
what they refer to and what its evaluator requires (a detector's settings). Its data set, loader, evaluator and
handlers are not. Transforms that load the image from a file hand on the image that is given instead, and those that
write files hand on everything (`ai.bundle.given`), wherever they stand.

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

from ai.bundle.files import METADATA, BundleError, BundleInfo, read_config, short

_GIVEN = "ai.bundle.given.Given"
_UNWRITTEN = "ai.bundle.given.Unwritten"
_IMPORT = re.compile(r"^\$\s*(?:import|from)\s+([A-Za-z_]\w*)")
# What MONAI had before 1.0 and has no more; these arguments said what it knows by itself today.
_RENAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "AddChanneld": ("EnsureChannelFirstd", {"channel_dim": "no_channel"}),
    "AsChannelFirstd": ("EnsureChannelFirstd", {"channel_dim": -1}),
}
_GONE = ("meta_keys", "meta_key_postfix", "img_size")
_INNER = ("state_dict", "model", "model_state_dict", "network")  # where trainers put the weights in a checkpoint


@dataclass(slots=True)
class Parts:
    """What runs. ``key`` is the name of the image in the transforms' dictionaries.

    ``loads`` is true where preprocessing begins as if with a file: then it gets the axes that MONAI's readers give
    (columns first) and no channel axis. ``repeats`` is true where it makes several channels of one itself, and
    ``spacing`` is the one (mm) that it brings volumes to, 0 where it leaves a side as it is. ``follow`` are the
    attributes that were told to compute where the network is.
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
        """Move what has weights, and what was told to compute where they are.

        What was told to use the CPU by its name stays there: it is where a bundle puts what does not fit elsewhere.
        """
        for part in (self.network, self.detector):
            if part is not None:
                part.to(device)
        for place in self.follow:
            place.set(device)


@dataclass(frozen=True, slots=True)
class _Place:
    """An attribute that names a device, or (``key`` is its number) one of the devices of such an attribute."""

    held: dict[str, Any]
    name: str
    key: int | None

    def set(self, device: Any) -> None:
        old = self.held[self.name]
        new = device if self.key is None else tuple(device if at == self.key else one for at, one in enumerate(old))
        self.held[self.name] = new


def build(info: BundleInfo, device: Any) -> Parts:
    """Build a bundle's parts and fill its network.

    Raises:
        BundleError: something cannot be parsed, built or filled; the message names the file and the part.
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
    """Refuse an activation after another: a probability taken for a logit is 0.5 where nothing is."""
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
    """Have the bundle's own modules (``scripts``) found while it is built, and forgotten after.

    Two bundles may both have a ``scripts``; what is built keeps its own.
    """
    own = {path.stem for path in root.iterdir() if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))}
    others = {name: module for name, module in sys.modules.items() if name.split(".")[0] in own}
    for name in others:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a bundle's folder stays as it was installed
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if name.split(".")[0] in own]:
            del sys.modules[name]
        sys.modules.update(others)


def _parser(info: BundleInfo, device: Any) -> tuple[Any, str]:
    """MONAI's parser over the configuration, and a note of the modules that it imports and that are not installed."""
    from monai.bundle import ConfigParser  # noqa: PLC0415  (see the module)

    from ai.bundle.torchvision import provide  # noqa: PLC0415  (see the module)

    config = read_config(info.config)
    if unknown := sorted(name for name in info.spec.override if re.split("[#:]", name)[0] not in config):
        raise BundleError(f"{info.config}: override in reading.json names {unknown[0]}, which is not there")
    missing = _absent(config)
    config = _without_files(config)
    if "detector" in config or "RetinaNet" in str(config.get("network_def")):
        provide()
    try:
        parser = ConfigParser(config)
        parser.read_meta(str(info.path / METADATA))
        for name, value in info.spec.override.items():
            parser[name] = value
        parser["bundle_root"] = str(info.path)
        parser["device"] = f"$torch.device('{device}')"
        parser.parse()
    except Exception as error:  # a config is code and can fail in any way
        raise BundleError(f"{info.config}: cannot be parsed: {short(error)}") from error
    note = f" (it imports {', '.join(missing)}, which is not installed)" if missing else ""
    return parser, note


def _absent(config: dict[str, Any]) -> list[str]:
    """Take out the imports of modules that are not installed: most serve training, and what needs one says so."""
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
    """The same configuration with what loads the image and what writes files replaced."""
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
            copy.pop("reader", None)  # of a library that need not be installed
        elif name.startswith(("Save", "Write")):
            kept = ("keys", "_disabled_", "_requires_", "_desc_")
            copy = {key: value for key, value in copy.items() if key in kept} | {"_target_": _UNWRITTEN}
        else:
            copy = _of_today(copy, name)
    return copy


def _of_today(component: dict[str, Any], name: str) -> dict[str, Any]:
    """A component as this MONAI takes it, written for an older one that had other names and arguments."""
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
    """What the evaluator requires to have run before, and a detector's settings by their usual name."""
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
        raise BundleError(f"{info.config}: {name} is a {type(part).__name__}; something to call was expected")
    return part


def _whole(error: Exception) -> str:
    """What went wrong and, where MONAI says only that something did, why."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return short(error) if root is error else f"{short(error)} <- {short(root)}"


def _places(part: Any, device: Any) -> Iterator[_Place]:
    """Where a part was told to compute on the bundle's ``device``."""

    def is_it(told: Any) -> bool:
        # On the CPU it is this very object: another that equals it was named for itself.
        return told is device or (device.type != "cpu" and str(told) == str(device))

    own = getattr(part, "__dict__", {})
    for name in ("device", "sw_device"):
        told = own.get(name)
        if is_it(told):
            yield _Place(own, name, None)
        elif isinstance(told, tuple):  # one for each key of a transform
            yield from (_Place(own, name, number) for number, one in enumerate(told) if is_it(one))


def each_of(transform: Any) -> Iterator[Any]:
    """A transform and, of a composition, all that it is made of."""
    yield transform
    for one in getattr(transform, "transforms", ()) or ():
        yield from each_of(one)


def _spacing(transform: Any) -> tuple[float, ...] | None:
    wanted = getattr(getattr(transform, "spacing_transform", None), "pixdim", None)
    if wanted is None or len(wanted) != 3:
        return None
    return tuple(float(side) if side and side > 0 else 0.0 for side in wanted)


def _settle(transform: Any, *, scores: bool = False) -> Any:
    """Replace what the configuration built in an expression, where no name gives it away; keeps a composition's self.

    A composition may be named elsewhere (``Invertd`` takes preprocessing back), so it is changed in place. Boxes in the
    world are taken in the affine's own directions, whatever reader the bundle had in mind. With ``scores`` the values
    stay as they are and do not become 0 and 1: the operating point is that of ``reading.json``.
    """
    from ai.bundle.fast_transforms import quick  # noqa: PLC0415  (see the module)
    from ai.bundle.given import Given, Unwritten  # noqa: PLC0415  (see the module)

    name = type(transform).__name__
    if name in ("LoadImaged", "LoadImageD", "LoadImageDict"):
        return Given(transform.keys, ensure_channel_first=bool(transform._loader.ensure_channel_first))
    if name.startswith(("Save", "Write")) or (scores and name in ("AsDiscreted", "AsDiscreteD", "AsDiscreteDict")):
        return Unwritten(getattr(transform, "keys", "pred"))
    quick(transform)
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
    _fill(info.weights, network, device)
    return network


def _fill(file: Path, network: Any, device: Any) -> None:
    """Put the weights into the network and make it ready to infer."""
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
    """The weights in a file: alone, or in a checkpoint beside what training keeps; without a wrapper's prefix."""
    for name in _INNER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if isinstance(loaded, Mapping) and loaded and all(str(key).startswith("module.") for key in loaded):
        return {str(key).removeprefix("module."): value for key, value in loaded.items()}
    return loaded
