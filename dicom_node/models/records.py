"""The files of the model store: where they lie, and how records, histories and the running node's notes are kept.

Layout, where NAME is the model's name in its reading.json (whose pattern is safe) and DIGEST that of its files::

    models/NAME/DIGEST/bundle/...    the files of the bundle, read-only
    models/NAME/DIGEST/record.json   the SHA-256 of each, where it came from, who added it, what was checked
    models/NAME/history.json         the versions that were current, in order; the last one is current
    models/running.json              what the node that runs on this folder has loaded
    models/.lock, models/.part-*     one change at a time; a version that is being added

What the files mean together, which version is current and what may be removed, is decided in :mod:`registry`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai.bundle.manifest import NAME
from dicom_node.errors import ModelError
from dicom_node.storage.durable import fsync_folder, write_json

FOLDER = "models"
_RECORD = "record.json"
_HISTORY = "history.json"
_RUNNING = "running.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(pattern=NAME)]


class Record(BaseModel):
    """``record.json``: what was known of a version when it was added; ``files`` are its pins (path -> SHA-256)."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    name: _Name
    version: str
    digest: _Hex
    files: dict[str, _Hex]
    kind: Literal["directory", "zip", "url"]
    place: str
    archive_sha256: str = ""
    reading: str = ""
    left_out: tuple[str, ...] = ()
    added: str
    user: str
    replaces_shipped: bool = False
    checks: dict[str, str] = {}


class History(BaseModel):
    """``history.json``: the versions of a model that were current, in order; the last one is."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    digests: tuple[_Hex, ...]


class Records:
    """The files below ``root``, the store's folder; changes are made while the store is held (`Models.changing`)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def installed(self) -> dict[str, set[str]]:
        """The installed models, each with the digests of the versions whose folders exist.

        Raises:
            ModelError: the store cannot be read.
        """
        try:
            if not self.root.is_dir():
                return {}
            homes = {p.name: p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(".")}
            there = {
                name: {p.name for p in home.iterdir() if _DIGEST.fullmatch(p.name) and p.is_dir()}
                for name, home in homes.items()
            }
            return {name: digests for name, digests in there.items() if digests or self.has_history(name)}
        except OSError as error:
            raise ModelError(_unreadable(error, self.root)) from error

    def has_history(self, name: str) -> bool:
        """Whether ``history.json`` of a model exists."""
        return (self.root / name / _HISTORY).exists()

    def history(self, name: str) -> tuple[str, ...]:
        """The digests that were current, in order; the last one is.

        Raises:
            ModelError: ``history.json`` cannot be read.
        """
        file = self.root / name / _HISTORY
        try:
            return History.model_validate_json(file.read_bytes()).digests
        except OSError as error:
            raise ModelError(_unreadable(error, file)) from error
        except ValidationError as error:
            raise ModelError(f"{file}: is damaged; add the version that is to read again") from error

    def write_history(self, name: str, digests: tuple[str, ...]) -> None:
        """Write the digests that were current, in order; without any, delete the file."""
        if digests:
            write_json(self.root / name / _HISTORY, History(digests=digests).model_dump(mode="json"))
        else:
            (self.root / name / _HISTORY).unlink(missing_ok=True)

    def record(self, name: str, digest: str) -> tuple[Record | None, str]:
        """The record of a version, or None with the reason why it cannot be read."""
        file = self.root / name / digest / _RECORD
        try:
            record = Record.model_validate_json(file.read_bytes())
        except OSError as error:
            return None, _unreadable(error, file)
        except ValidationError:
            return None, f"{file}: cannot be read: it is damaged"
        if record.digest != digest or record.name != name:
            return None, f"{file}: is the record of another version"
        return record, ""

    def place(self, part: Path, record: Record) -> Path | None:
        """Make a prepared folder (with ``bundle/`` in it) a version of its model: read-only, by one rename.

        Returns:
            the damaged folder of the same digest that it replaces, moved aside; None if there was none.
        """
        write_json(part / _RECORD, record.model_dump(mode="json"))
        (part / _RECORD).chmod(0o444)
        for folder, _, files in os.walk(part / "bundle", topdown=False):
            for name in files:
                (Path(folder) / name).chmod(0o444)
            Path(folder).chmod(0o555)
        part.chmod(0o755)
        home = self.root / record.name
        home.mkdir(exist_ok=True, mode=0o755)
        place, old = home / record.digest, part.with_name(f"{part.name}-old")
        if os.path.lexists(place):
            place.rename(old)
        part.rename(place)
        fsync_folder(home)
        return old if old.exists() else None

    def take_out(self, name: str, digest: str, into: Path) -> None:
        """Move the folder of a version into ``into``; a version may be listed whose folder is missing."""
        folder = self.root / name / digest
        if folder.is_dir():
            folder.chmod(0o755)
            folder.rename(into / digest)

    def note_loaded(self, loaded: Mapping[str, str]) -> None:
        """Record which installed versions (model -> digest) the starting node reads with.

        If the disk cannot be written, nothing is recorded: a node must start all the same.
        """
        if loaded or (self.root / _RUNNING).exists():
            with suppress(OSError):
                write_json(self.root / _RUNNING, loaded)

    def loaded(self) -> dict[str, str]:
        """Model -> digest, as the node that started last recorded it; empty if it recorded nothing."""
        try:
            content = json.loads((self.root / _RUNNING).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _unreadable(error: OSError, file: Path) -> str:
    other = "; run this as the user that the node runs as" if isinstance(error, PermissionError) else ""
    return f"{error.filename or file}: cannot be read: {error.strerror}{other}"
