"""Lists the code in a bundle, for the administrator who decides whether to install it.

MONAI calls ``_target_`` names, runs ``$...`` expressions as Python, and takes ``%file::key`` from other files. Classes
that a module of MONAI or of ``torch.nn`` defines are usual and are not listed. Everything else is listed, also names
that such a module imports (``monai.utils.misc.subprocess.Popen``) and targets that another entry names. The list
informs and does not protect: whoever installs a bundle trusts its author.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

_PROGRAMS: Final = (".py", ".pyd", ".so", ".dll", ".sh", ".ts")
_PLAIN = re.compile(
    r"(?P<module>(?P<package>monai)\.(?!bundle\b)[a-z0-9_.]+|(?P<torch>torch)\.nn(\.[a-z0-9_.]+)?)\.[A-Z][A-Za-z0-9_]*"
    r"|torch\.device|torch\.tensor"
    r"|[A-Z][A-Za-z0-9_]*"  # a bare class name is looked up among MONAI's own
)

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
        if file.suffix in _PROGRAMS:
            kind = (
                "compiled network (TorchScript)" if file.suffix == ".ts" else "a program that the configuration can use"
            )
            found.append(f"{name}: {kind}")
        elif file.suffix in (".json", ".yaml", ".yml"):
            found += [f"{name}: {line}" for line in _in_config(file)]
    return [printable(line) for line in found]


def _in_config(file: Path) -> Iterator[str]:
    try:
        if file.suffix == ".json":
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
        target = _SEPARATORS.split(place)[-1] == "_target_"
        if value.lstrip().startswith("$"):
            yield f"{place}: runs {value}"
        elif value.lstrip().startswith("%") and "::" in value:
            yield f"{place}: takes from a file {value}"
        elif target and not _is_plain(value):
            yield f"{place}: calls {value}"


def _is_plain(target: str) -> bool:
    """Whether a target is a class in a module inside the folder of MONAI or of torch.nn."""
    found = _PLAIN.fullmatch(target)
    if found is None:
        return False
    if found["module"] is None:
        return True
    package = found["package"] or found["torch"]
    path = _folder(package)
    inside = found["module"].split(".")[1:]
    return path is not None and (
        path.joinpath(*inside, "__init__.py").is_file() or path.joinpath(*inside).with_suffix(".py").is_file()
    )


@cache
def _folder(package: str) -> Path | None:
    """The folder of a package, found without importing it. None if it is not installed."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def printable(text: str) -> str:
    """The text with its control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
