"""What of a bundle is code: shown to the administrator who decides whether to install it.

MONAI builds a network out of ``_target_`` names, runs ``$...`` expressions as Python and takes ``%file::key`` out of
other files. Targets of MONAI's own parts and of ``torch.nn`` are the plain case and are left out here; everything else
is listed. The list informs, it protects from nothing: whoever installs a bundle trusts its author.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_PROGRAMS: Final = (".py", ".pyd", ".so", ".dll", ".sh", ".ts")
_PLAIN = re.compile(
    r"monai\.(?!bundle\b)[A-Za-z0-9_.]+"  # MONAI's own, except what runs other bundles
    r"|torch\.nn\.[A-Za-z0-9_.]+|torch\.device|torch\.tensor"
    r"|[A-Z][A-Za-z0-9_]*"  # a bare class name is looked up among MONAI's own
    r"|@[A-Za-z0-9_#:.]+"  # a reference to another part of the same file
)


def code_in(bundle: Path) -> list[str]:
    """One line for each piece of code that loading the bundle runs or may run: where it stands, and what it is.

    Control characters are written as escapes, so that a line cannot hide another one on the terminal.
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
    yield from _code(content, "")


def _code(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _code(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _code(inner, f"{place}[{number}]")
    elif isinstance(value, str):
        target = place.rpartition(".")[2] == "_target_"
        if value.lstrip().startswith("$"):
            yield f"{place}: runs {value}"
        elif value.lstrip().startswith("%") and "::" in value:
            yield f"{place}: takes from a file {value}"
        elif target and not _PLAIN.fullmatch(value):
            yield f"{place}: calls {value}"


def printable(text: str) -> str:
    """The text with everything that a terminal would act on written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
