"""The store of models: what an administrator installed, under ``data_dir/models``, and what ships with the node.

Layout, where NAME is the model's name out of its reading.json (whose pattern is safe) and DIGEST that of its files::

    models/NAME/DIGEST/bundle/...    the files of the bundle, read-only
    models/NAME/DIGEST/record.json   the SHA-256 of each, where it came from, who added it, what was checked
    models/NAME/history.json         the versions that were current, in order; the last one is
    models/running.json              what the node that runs on this folder has loaded
    models/.lock, models/.part-*     one change at a time; a version that is being added

A version appears by one rename, so that it is there whole or not at all, and a node can run meanwhile: it looks here
only when it starts.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai import bundle
from ai.pins import Pinned, shipped_pins
from dicom_node.config import Settings
from dicom_node.errors import ConfigError, ModelError
from dicom_node.model_sources import remove_tree

FOLDER = "models"
_RECORD = "record.json"
_HISTORY = "history.json"
_RUNNING = "running.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Record(BaseModel):
    """``record.json``: what was known of a version when it was added; ``files`` are its pins."""

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


class _History(BaseModel):
    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    digests: tuple[_Hex, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a model; ``state`` is current, former (installed, not in use) or hidden (shipped, behind another).

    ``record`` is None where the model ships, and where the record of an installed one cannot be read (``fault``).
    """

    name: str
    version: str
    digest: str
    state: Literal["current", "former", "hidden"]
    shipped: bool
    path: Path
    record: Record | None = None
    fault: str = ""

    def pinned(self) -> Pinned:
        """The bundle with what its files must be."""
        if self.shipped:
            return shipped_pins()[self.name]
        remedy = f"dicom-node models verify {self.name} says more; dicom-node models rollback {self.name} goes back"
        files = self.record.files if self.record else {}
        return Pinned(self.path, files, remedy, f"{self.fault}; {remedy}" if self.fault else "")


class Models:
    """The models of one node: those below its ``data_dir`` and those that ship."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.root = data_dir / FOLDER

    # --- looking ------------------------------------------------------------------------------------------------

    def entries(self, name: str = "") -> list[Entry]:
        """Every version of every model (or of one), the current one of each first, then as they were in use.

        Raises:
            ModelError: the store cannot be read.
        """
        names = [name] if name else sorted({*bundle.shipped(), *self._installed_names()})
        return [entry for each in names for entry in self._of(each)]

    def current(self, name: str) -> Entry:
        """The version of a model that a node reads with when it starts.

        Raises:
            ModelError: there is no such model.
        """
        entry = next((each for each in self.entries(name) if each.state == "current"), None)
        if entry is None:
            known = sorted({each.name for each in self.entries() if each.state == "current"})
            raise ModelError(f"there is no model {name!r}; there are: {', '.join(known) or 'none'}")
        return entry

    def version(self, name: str, digest: str) -> Entry:
        """An installed version, named by the beginning of its digest.

        Raises:
            ModelError: none, or more than one, begins so.
        """
        found = [e for e in self.entries(name) if not e.shipped and digest and e.digest.startswith(digest.lower())]
        if len(found) != 1:
            there = ", ".join(e.digest[:12] for e in self.entries(name) if not e.shipped) or "none"
            raise ModelError(
                f"{len(found)} installed versions of {name!r} have a digest that begins with {digest!r}; "
                f"there are: {there}"
            )
        return found[0]

    def _installed_names(self) -> list[str]:
        if not self.root.is_dir():
            return []
        try:
            return sorted(
                p.name for p in self.root.iterdir() if not p.name.startswith(".") and (p / _HISTORY).is_file()
            )
        except OSError as error:
            raise ModelError(f"{self.root}: cannot be read: {error.strerror}") from error

    def _of(self, name: str) -> Iterator[Entry]:
        folder = self.root / name
        history: tuple[str, ...] = ()
        here = self._digests(name)
        if here:
            try:
                history = self.history(name)
            except ModelError as error:  # which version was chosen is not known, so that none reads
                yield Entry(name, "unknown", "unknown", "current", False, folder, None, str(error))
        order = [d for d in reversed(history) if d in here]
        order += sorted(here - set(order))
        for digest in order:
            record, fault = _read_record(folder / digest)
            yield Entry(
                name,
                record.version if record else "unknown",
                digest,
                "current" if digest == order[0] and digest in history else "former",
                False,
                folder / digest / "bundle",
                record,
                fault,
            )
        if name in bundle.shipped():
            path = bundle.shipped()[name]
            state: Literal["hidden", "current"] = "hidden" if here else "current"
            try:
                identity = bundle.describe(path).identity
            except bundle.BundleError as error:
                yield Entry(name, "unknown", "unknown", state, True, path, None, str(error))
            else:
                yield Entry(name, identity.version, identity.digest, state, True, path)

    def _digests(self, name: str) -> set[str]:
        """The versions of a model that lie there."""
        if name not in self._installed_names():
            return set()
        return {p.name for p in (self.root / name).iterdir() if _DIGEST.fullmatch(p.name) and p.is_dir()}

    def history(self, name: str) -> tuple[str, ...]:
        """The digests that were current, in order; the last is.

        Raises:
            ModelError: ``history.json`` cannot be read.
        """
        file = self.root / name / _HISTORY
        try:
            return _History.model_validate_json(file.read_bytes()).digests
        except (OSError, ValidationError) as error:
            raise ModelError(f"{file}: cannot be read ({type(error).__name__}); add the model again") from error

    # --- changing -----------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[Path]:
        """Hold the store for one change; gives a fresh folder in it that is removed at the end, if it is still there.

        Raises:
            ModelError: it cannot be written, or another command changes it now.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = (self.root / ".lock").open("a")
        except OSError as error:
            raise ModelError(
                f"{self.root}: cannot be written: {error.strerror}; run this as the user that the node runs as"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ModelError(f"{self.root}: another dicom-node models command is changing it; try again") from error
            part = self.root / f".part-{uuid.uuid4().hex}"
            try:
                for left in self.root.glob(".part-*"):  # a command that was killed
                    remove_tree(left)
                part.mkdir(mode=0o700)
                yield part
            except OSError as error:
                raise ModelError(f"{error.filename or self.root}: cannot be written: {error.strerror}") from error
            finally:
                with suppress(OSError):
                    if part.exists():
                        remove_tree(part)

    def adopt(self, part: Path, record: Record) -> None:
        """Make a prepared folder (``bundle/`` in it) a version of its model, and the current one; inside `changing`."""
        write_json(part / _RECORD, record.model_dump(mode="json"))
        (part / _RECORD).chmod(0o444)
        for folder, _, files in os.walk(part / "bundle", topdown=False):
            for name in files:
                (Path(folder) / name).chmod(0o444)
            Path(folder).chmod(0o555)
        part.chmod(0o755)
        home = self.root / record.name
        home.mkdir(exist_ok=True, mode=0o755)
        part.rename(home / record.digest)
        _fsync(home)
        self.make_current(record.name, record.digest)

    def make_current(self, name: str, digest: str) -> None:
        """Let the next start of a node read with this version; inside `changing`."""
        try:
            before = self.history(name)
        except ModelError:  # the first version, or a file that was damaged and is written anew
            before = ()
        self._write_history(name, (*(d for d in before if d != digest), digest))

    def _write_history(self, name: str, digests: tuple[str, ...]) -> None:
        write_json(self.root / name / _HISTORY, _History(digests=digests).model_dump(mode="json"))

    def rollback(self, name: str) -> tuple[Entry, Entry]:
        """Make the version current that was so before; the one that was stays installed.

        Returns:
            the version that was current, and the one that is now.

        Raises:
            ModelError: there is no version before it.
        """
        was = self.current(name)
        with self.changing():
            there = self._digests(name)
            before = tuple(d for d in (() if was.shipped else self.history(name)) if d in there)
            if len(before) < 2:
                others = ", ".join(sorted(d[:12] for d in there - {was.digest}))
                more = f"; installed, but not current before it: {others}" if others else ""
                raise ModelError(f"model {name}: there is no version before {was.version}, {was.digest[:12]}{more}")
            self._write_history(name, before[:-1])
        return was, self.current(name)

    def remove(self, settings: Settings, name: str, digest: str = "", *, running: bool) -> list[Entry]:
        """Delete the installed versions of a model, or one of them.

        Args:
            settings: the configuration; its routes say which models are needed.
            name: the model.
            digest: the beginning of one version's digest; empty for all.
            running: whether a node runs on this folder.

        Raises:
            ModelError: there is none, a route still needs the last one, or the running node reads with it.
        """
        with self.changing() as part:
            entries = [e for e in self.entries(name) if not e.shipped]
            gone = [self.version(name, digest)] if digest else entries
            if not gone:
                why = "ships with the node" if name in bundle.shipped() else "is not installed"
                raise ModelError(f"model {name!r} {why}: there is nothing to remove")
            routes = routes_of(settings, name)
            left = [e for e in entries if e not in gone]
            if routes and not left and name not in bundle.shipped():
                named = f"the route{'s' * (len(routes) > 1)} {', '.join(routes)}"
                raise ModelError(f"model {name}: {named} of the configuration needs it; take it out there first")
            loaded = self.loaded().get(name, "") if running else ""
            if any(e.digest == loaded for e in gone):
                raise ModelError(
                    f"model {name}: the running node reads with {loaded[:12]}; make another version current, restart "
                    "the node, then remove it"
                )
            home = self.root / name
            digests = {e.digest for e in gone}
            kept = tuple(d for d in self.history(name) if d not in digests) or tuple(e.digest for e in left)
            if kept:
                self._write_history(name, kept)
            else:
                (home / _HISTORY).unlink()
            for entry in gone:
                (home / entry.digest).chmod(0o755)
                (home / entry.digest).rename(part / entry.digest)
            if not left:
                with suppress(OSError):
                    home.rmdir()
        return gone

    # --- the running node ---------------------------------------------------------------------------------------

    def note_loaded(self, bundles: Mapping[str, Pinned]) -> None:
        """Write down which installed versions the starting node reads with, so that none is removed under it."""
        loaded = {name: each.path.parent.name for name, each in bundles.items() if self.root in each.path.parents}
        if loaded or (self.root / _RUNNING).exists():
            self.root.mkdir(exist_ok=True, mode=0o750)
            write_json(self.root / _RUNNING, loaded)

    def loaded(self) -> dict[str, str]:
        """Model -> digest, as the node that started last wrote it down."""
        try:
            content = json.loads((self.root / _RUNNING).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def find(settings: Settings) -> dict[str, Pinned]:
    """The current version of each model that a route names, with its pins; nothing is hashed or loaded here.

    Raises:
        ConfigError: there is no such model; told for every model at once.
    """
    store, found, faults = Models(settings.node.data_dir), {}, []
    for name in settings.models():
        try:
            found[name] = store.current(name).pinned()
        except ModelError as error:
            faults.append(f"routes: {error}")
    if faults:
        raise ConfigError("\n".join(faults))
    return found


def routes_of(settings: Settings, name: str) -> list[str]:
    """The routes of the configuration that read with a model."""
    return [route.name for route in settings.routes if name in route.models]


def whoever() -> str:
    """The user that runs this command, for the record."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"user {os.getuid()}"
    by = os.environ.get("SUDO_USER", "")
    return f"{user} (sudo by {by})" if by and by.isprintable() and by != user else user


def _read_record(folder: Path) -> tuple[Record | None, str]:
    file = folder / _RECORD
    try:
        record = Record.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        return None, f"{file}: cannot be read ({type(error).__name__})"
    if record.digest != folder.name or record.name != folder.parent.name:
        return None, f"{file}: is the record of another version"
    return record, ""


def write_json(path: Path, content: Any) -> None:
    """Write a file so that a reader sees the old content or the new, and a crash leaves one of them."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with part.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _fsync(path.parent)


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
