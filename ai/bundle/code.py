"""Lists the code in a bundle, for the administrator who decides whether to install it.

MONAI calls ``_target_`` names, runs ``$...`` expressions as Python, takes ``%file::key`` from other files, and looks up
the texts of some arguments as modules. What is on the allow-list (`ai.bundle.known`) is usual and not listed.
Everything else is listed with its file and key: in every file as it stands, and in the inference configuration as it
is run, with its macros resolved and the overrides of ``reading.json`` in their places.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ai.bundle.files import CONFIGS, BundleError
from ai.bundle.known import LOOKED_UP, is_known, is_plain_import, names_a_program
from ai.bundle.macros import as_it_runs

_PROGRAMS: Final = (".py", ".pyd", ".so", ".dll", ".sh", ".ts")
_PICKLES: Final = (".pkl", ".pickle", ".npy", ".npz", ".joblib", ".pth", ".zip", ".egg", ".whl")
_CONFIGS: Final = (".json", ".yaml", ".yml")
# What a node builds of a configuration (`ai.bundle.build`); everything that these refer to is built as well.
_BUILT: Final = ("network_def", "network", "preprocessing", "inferer", "postprocessing", "detector", "detector_ops")
_FILE_NAME: Final = re.compile(r"\.(json|ya?ml)\b", re.IGNORECASE)
_REFERENCE: Final = re.compile(r"@([\w.]+)")

_SEPARATORS = re.compile(r"[.#:]")  # of nested entries: MONAI's "#" and ":", which ``override`` may use, and ours


def code_in(bundle: Path) -> list[str]:
    """One line for each piece of code that loading the bundle can run: its place and its kind.

    Control characters are escaped, so that no line can hide another on a terminal.
    """
    found: list[str] = []
    for file in sorted(bundle.rglob("*")):
        name = file.relative_to(bundle).as_posix()
        if not file.is_file():
            continue
        suffix = file.suffix.lower()
        if suffix in _PROGRAMS:
            kind = "compiled network (TorchScript)" if suffix == ".ts" else "a program that the configuration can use"
            found.append(f"{name}: {kind}")
        elif suffix in _PICKLES:
            found.append(f"{name}: data that can hold a program")
        elif suffix in _CONFIGS:
            found += [f"{name}: {line}" for line in _in_config(file)]
    found += _as_it_runs(bundle)
    return list(dict.fromkeys(printable(line) for line in found))


def _in_config(file: Path) -> Iterator[str]:
    try:
        if file.suffix.lower() == ".json":
            content = json.loads(file.read_bytes())
        else:
            content = importlib.import_module("yaml").safe_load(file.read_bytes())
    except ImportError:
        yield "cannot be looked into here (no YAML reader is installed): it may run anything"
        return
    except Exception as error:  # a YAML reader fails in its own ways
        yield f"cannot be read ({type(error).__name__}): it may run anything"
        return
    try:
        yield from _code(content, "", set())
    except RecursionError:
        yield "is too deep to be looked into: it may run anything"


def _code(value: Any, place: str, seen: set[int]) -> Iterator[str]:
    if isinstance(value, dict | list):
        if id(value) in seen:  # YAML can refer to a part many times, also from inside it
            return
        seen.add(id(value))
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _code(inner, f"{place}.{key}" if place else str(key), seen)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _code(inner, f"{place}[{number}]", seen)
    elif isinstance(value, str):
        if value.lstrip().startswith("$"):
            if not is_plain_import(value):
                yield f"{place}: runs {value}"
        elif value.lstrip().startswith("%") and _FILE_NAME.search(value):
            yield f"{place}: takes from a file {value}"
        elif _key(place) == "_target_" and not is_known(value, runs=False):
            yield f"{place}: calls {value}"


def _key(place: str) -> str:
    """The last key of a place in a configuration."""
    return _SEPARATORS.split(place)[-1].partition("[")[0]


def _as_it_runs(bundle: Path) -> list[str]:
    """What the inference configuration names beyond the allow-list when it runs."""
    config = next((bundle / name for name in CONFIGS if (bundle / name).is_file()), None)
    if config is None:
        return []
    name = config.relative_to(bundle).as_posix()
    try:
        whole = as_it_runs(bundle, config)
        return [f"{name}: {line}" for line in _Judge(whole, bundle).lines()]
    except BundleError as error:
        return [str(error).replace(f"{bundle}/", "")]
    except RecursionError:
        return [f"{name}: is too deep to be looked into: it may run anything"]


class _Judge:
    """Looks through a configuration without macros."""

    def __init__(self, config: dict[str, Any], bundle: Path) -> None:
        self._config = config
        self._bundle = bundle
        self._seen: set[int] = set()

    def lines(self) -> Iterator[str]:
        built = self._built()
        for key, value in self._config.items():
            yield from self._look(value, str(key), runs=str(key) in built)

    def _built(self) -> set[str]:
        """The entries that a node builds, and those that they refer to."""
        evaluator = self._config.get("evaluator")
        wanted = evaluator.get("_requires_", []) if isinstance(evaluator, dict) else []
        open_ends = [*_BUILT, *_REFERENCE.findall(str(wanted))]
        built: set[str] = set()
        while open_ends:
            one = open_ends.pop()
            if one in built or one not in self._config:
                continue
            built.add(one)
            open_ends += _REFERENCE.findall(" ".join(_texts(self._config[one], set())))
        return built

    def _look(self, value: Any, place: str, *, runs: bool) -> Iterator[str]:
        if isinstance(value, dict | list):
            if id(value) in self._seen:
                return
            self._seen.add(id(value))
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from self._look(inner, f"{place}.{key}", runs=runs)
                if str(key) in LOOKED_UP:
                    yield from self._looked_up(inner, f"{place}.{key}", str(key))
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from self._look(inner, f"{place}[{number}]", runs=runs)
        elif isinstance(value, str) and (what := self._said(value, _key(place), runs=runs)):
            yield f"{place}: {what} {value}"

    def _said(self, value: str, key: str, *, runs: bool) -> str:
        """What is to be said of a text; nothing if it is on the allow-list, or runs nothing."""
        if value.lstrip().startswith("$"):
            return "" if is_plain_import(value) else "runs"
        if key == "_target_":
            return "" if is_known(value, runs=runs) else "calls"
        return "names" if names_a_program(value, self._bundle) else ""

    def _looked_up(self, value: Any, place: str, key: str) -> Iterator[str]:
        """An argument whose text MONAI looks up: it may also be a list of texts, or refer to one."""
        if isinstance(value, list | tuple):
            for number, one in enumerate(value):
                yield from self._looked_up(one, f"{place}[{number}]", key)
        elif isinstance(value, str) and not value.startswith("$"):
            text = self._referred(value)
            if text is None or (isinstance(text, str) and not LOOKED_UP[key].fullmatch(text)):
                yield f"{place}: looks up {value}"
            elif isinstance(text, list):
                yield from self._looked_up(text, place, key)

    def _referred(self, value: Any) -> Any:
        """What a text refers to, if it is a reference; None if that is not there, or leads into itself."""
        for _ in range(16):
            if not isinstance(value, str) or not value.startswith("@"):
                return value
            part: Any = self._config
            for step in re.split("#|::", value[1:]):
                if isinstance(part, dict) and step in part:
                    part = part[step]
                elif isinstance(part, list) and step.isdecimal() and int(step) < len(part):
                    part = part[int(step)]
                else:
                    return None
            value = part
        return None


def _texts(value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one, seen)


def printable(text: str) -> str:
    """The text with its control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
