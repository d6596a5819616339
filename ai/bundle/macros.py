"""Resolves macros: texts of a configuration that begin with % and stand for a part of it, or of another file.

MONAI takes such a file from anywhere on the machine. Here it must lie in the bundle's folder, and all macros are
resolved before MONAI sees the configuration, so what is shown and what is run are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ai.bundle.files import READING, BundleError, read_config

_MACRO: Final = "%"
_SEPARATOR: Final = "::"
_FILE: Final = re.compile(r"(.*\.(?:json|yaml|yml))(?:::(.*))?", re.IGNORECASE)
_RELATIVE: Final = re.compile(r"[@%](?:::)+")
_DEEPEST: Final = 16
_MOST: Final = 100_000  # entries: macros of macros could make any number of them


def resolved(config: dict[str, Any], root: Path, file: Path) -> dict[str, Any]:
    """A copy of a configuration without macros.

    Args:
        config: the configuration as it was read.
        root: the folder of the bundle, in which the files of macros lie; their paths count from it.
        file: where the configuration was read, for messages.

    Raises:
        BundleError: a macro leads out of the bundle, to nothing, or into itself.
    """
    return dict(_Resolver(config, root.resolve(), file).whole())


def as_it_runs(root: Path, file: Path, override: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The inference configuration of a bundle as it runs: with the overrides of ``reading.json``, without macros.

    Args:
        root: the folder of the bundle.
        file: its inference configuration.
        override: the overrides; None to take them from the file.

    Raises:
        BundleError: it cannot be read, or a macro cannot be resolved.
    """
    config = dict(read_config(file))
    if override is None:
        reading = read_config(root / READING) if (root / READING).is_file() else {}
        given = reading.get("override")
        override = given if isinstance(given, dict) else {}
    for name, value in override.items():
        first, *_ = *above, last = name.replace("#", _SEPARATOR).split(_SEPARATOR)
        part: Any = config
        try:
            config[first]  # an entry may get further parts, and the configuration no further entry
            for step in above:
                part = part[int(step)] if isinstance(part, list) else part[step]
            part[int(last) if isinstance(part, list) else last] = value
        except (KeyError, IndexError, ValueError, TypeError):
            raise BundleError(f"{file}: override in reading.json names {name}; the configuration lacks it") from None
    return resolved(config, root, file)


class _Resolver:
    def __init__(self, config: dict[str, Any], root: Path, file: Path) -> None:
        self._config = config
        self._root = root
        self._file = file
        self._files: dict[Path, Any] = {}
        self._left = _MOST
        self._hops = 0

    def whole(self) -> Any:
        return self._resolve(self._config, "", self._config, 0)

    def _resolve(self, value: Any, place: str, base: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > 200:
            raise BundleError(f"{self._file}: has too many or too deep entries to be read")
        if isinstance(value, dict):
            return {
                key: self._resolve(one, f"{place}{_SEPARATOR}{key}" if place else str(key), base, depth + 1)
                for key, one in value.items()
            }
        if isinstance(value, list):
            return [
                self._resolve(one, f"{place}{_SEPARATOR}{number}" if place else str(number), base, depth + 1)
                for number, one in enumerate(value)
            ]
        if isinstance(value, str) and value.startswith(_MACRO):
            return self._macro(value, place, base, depth)
        return value

    def _macro(self, text: str, place: str, base: Any, depth: int) -> Any:
        name = _absolute(text.replace("#", _SEPARATOR), place)[len(_MACRO) :]
        found = _FILE.fullmatch(name)
        if found is not None:
            base, name = self._other(found[1], place, text), found[2] or ""
        part = base
        for step in name.split(_SEPARATOR) if name else []:
            try:
                part = part[int(step)] if isinstance(part, list) else part[step]
            except (KeyError, IndexError, ValueError, TypeError):
                raise self._wrong(place, text, f"names {step!r}, which is not there") from None
        if self._hops >= _DEEPEST:
            raise self._wrong(place, text, "leads into itself")
        self._hops += 1
        try:
            return self._resolve(part, name, base, depth + 1)  # what is told from its own place stays so
        finally:
            self._hops -= 1

    def _other(self, name: str, place: str, text: str) -> Any:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise self._wrong(place, text, "names a file that is not in the bundle")
        if path not in self._files:
            self._files[path] = read_config(path)
        return self._files[path]

    def _wrong(self, place: str, text: str, why: str) -> BundleError:
        return BundleError(f"{self._file}: {place}: the macro {text[:200]!r} {why}")


def _absolute(text: str, place: str) -> str:
    """A macro told from its own place (%:: for the same level, %:::: for the one above), told from the top."""
    found = _RELATIVE.match(text)
    if found is None:
        return text
    steps = place.split(_SEPARATOR)
    up = found[0][1:].count(_SEPARATOR)
    above = steps[: max(len(steps) - up, 0)]
    return text[0] + "".join(f"{step}{_SEPARATOR}" for step in above) + text[found.end() :]
