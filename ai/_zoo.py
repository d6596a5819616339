"""A bundle's configuration -> the parts that run: MONAI builds them, less what is about files and training.

Of an inference configuration ``network_def``, ``preprocessing``, ``inferer`` and ``postprocessing`` are built, with
what they refer to and what its evaluator requires (a detector's settings). Its data set, loader, evaluator and
handlers are not. Transforms that load the image from a file hand on the image that is given instead, and those that
write files hand on everything (`ai._zoo_transforms`), wherever they stand.

torch and monai are imported when something is built: see `ai.bundle`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai._bundle_files import METADATA, BundleError, BundleInfo, read_config, short

_GIVEN = "ai._zoo_transforms.Given"
_UNWRITTEN = "ai._zoo_transforms.Unwritten"
_IMPORT = re.compile(r"^\$\s*(?:import|from)\s+([A-Za-z_]\w*)")
_INNER = ("state_dict", "model", "model_state_dict", "network")  # where trainers put the weights in a checkpoint


@dataclass(slots=True)
class Parts:
    """What runs. ``key`` is the name of the image in the transforms' dictionaries.

    ``loads`` is true where preprocessing begins as if with a file: then it gets the axes that MONAI's readers give
    (columns first) and no channel axis.
    """

    network: Any
    preprocessing: Any
    inferer: Any
    postprocessing: Any
    detector: Any
    key: str
    loads: bool
    repeats: bool

    def to(self, device: Any) -> None:
        """Move what has weights."""
        for part in (self.network, self.detector):
            if part is not None:
                part.to(device)


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
            raise BundleError(f"{info.config}: {number} cannot be run: {short(error)}{missing}") from error
        found = {
            name: _part(info, parser, name, missing)
            for name in ("preprocessing", "inferer", "postprocessing", "detector")
            if name in config
        }
    preprocessing = _settle(found["preprocessing"])
    postprocessing = _settle(found.get("postprocessing", _as_it_is), scores=info.spec.task == "classification")
    given = [one for one in _each(preprocessing) if type(one).__name__ == "Given"]
    detector = found.get("detector", getattr(found.get("inferer"), "detector", None))
    if detector is not None and hasattr(detector, "eval"):
        detector.eval()
    return Parts(
        network=network,
        preprocessing=preprocessing,
        inferer=found.get("inferer", _plainly),
        postprocessing=postprocessing,
        detector=detector if hasattr(detector, "to") else None,
        key=_key([str(key) for one in given for key in one.keys], info.input_key),
        loads=bool(given),
        repeats=any(type(one).__name__.startswith("RepeatChannel") for one in _each(preprocessing)),
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

    from ai._torchvision import provide  # noqa: PLC0415  (see the module)

    config = read_config(info.config)
    missing = _absent(config)
    config = _without_files(config)
    if "detector" in config or "RetinaNet" in str(config.get("network_def")):
        provide()
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
    return copy


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
        raise BundleError(f"{info.config}: {name} cannot be built: {short(error)}{missing}") from error
    if not callable(part):
        raise BundleError(f"{info.config}: {name} is a {type(part).__name__}; something to call was expected")
    return part


def _each(transform: Any) -> Iterator[Any]:
    """A transform and, of a composition, all that it is made of."""
    yield transform
    for one in getattr(transform, "transforms", ()) or ():
        yield from _each(one)


def _settle(transform: Any, *, scores: bool = False) -> Any:
    """Replace what the configuration built in an expression, where no name gives it away; keeps a composition's self.

    A composition may be named elsewhere (``Invertd`` takes preprocessing back), so it is changed in place. Boxes in the
    world are taken in the affine's own directions, whatever reader the bundle had in mind. With ``scores`` the values
    stay as they are and do not become 0 and 1: the operating point is that of ``reading.json``.
    """
    from ai._zoo_transforms import Given, Unwritten  # noqa: PLC0415  (see the module)

    name = type(transform).__name__
    if name in ("LoadImaged", "LoadImageD", "LoadImageDict"):
        return Given(transform.keys, ensure_channel_first=bool(transform._loader.ensure_channel_first))
    if name.startswith(("Save", "Write")) or (scores and name in ("AsDiscreted", "AsDiscreteD", "AsDiscreteDict")):
        return Unwritten(getattr(transform, "keys", "pred"))
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
