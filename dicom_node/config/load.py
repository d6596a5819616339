"""Reads the configuration file into `Settings`, or reports each fault: file, key, value found and value expected."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigError


def load(path: Path) -> Settings:
    """Read and check a configuration file. A relative ``data_dir`` is taken relative to the file's folder.

    Raises:
        ConfigError: the file cannot be used. It has one line for each fault: file, key or line, value found and value
            expected.
    """
    try:
        # Windows' Notepad begins a UTF-8 file with a byte order mark, which TOML does not allow.
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_fault(path, e) for e in error.errors(include_url=False))) from error
    data_dir = settings.node.data_dir
    if not data_dir.is_absolute():
        data_dir = Path(os.path.normpath(path.resolve().parent / data_dir))
    return settings.model_copy(update={"node": settings.node.model_copy(update={"data_dir": data_dir})})


def _fault(path: Path, error: Any) -> str:
    """One line about a fault that pydantic found."""
    key = ""
    for part in error["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{path}: {key}: there is no such key; config/hospital.toml lists every key"
    if error["type"] == "missing":
        return f"{path}: {key}: is missing"
    shown = repr(error["input"])
    found = f"found {shown}; " if len(shown) <= 80 and not isinstance(error["input"], dict) else ""
    return f"{path}: {key or 'file'}: {found}{message[0].lower()}{message[1:]}"
