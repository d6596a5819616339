"""The store of models: what an administrator installed, under ``data_dir/models``, and what ships with the node.

Layout, where NAME is the model's name out of its reading.json (whose pattern is safe) and DIGEST that of its files::

    models/NAME/DIGEST/bundle/...    the files of the bundle, read-only
    models/NAME/DIGEST/record.json   the SHA-256 of each, where it came from, who added it, what was checked
    models/NAME/history.json         the versions that were current, in order; the last one is
    models/running.json              what the node that runs on this folder has loaded
    models/.lock, models/.part-*     one change at a time; a version that is being added

A version appears by one rename, so that it is there whole or not at all, and is current once the history says so: what
a loss of power leaves between the two is a former version. Where the version that the history calls current is not
there, no other takes its place by itself. A node can run meanwhile: it looks here only when it starts.
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
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai.bundle.manifest import NAME
from ai.bundle.pins import Pinned, shipped_pins
from ai.inference import bundle_model
from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigError, ModelError
from dicom_node.models.sources import remove_tree
from dicom_node.storage.durable import fsync_folder, write_json

FOLDER = "models"
_RECORD = "record.json"
_HISTORY = "history.json"
_RUNNING = "running.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(pattern=NAME)]


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
        remedy = f"add it again from its source, or go back with dicom-node models rollback {self.name}"
        files = self.record.files if self.record else {}
        fault = self.fault if self.digest == "unknown" else f"{self.fault}; {remedy}"  # a damaged history has its own
        return Pinned(self.path, files, remedy, fault if self.fault else "")


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
        installed = self._installed()
        names = [name] if name else sorted({*bundle_model.shipped(), *installed})
        return [entry for each in names for entry in self._of(each, installed.get(each))]

    def current(self, name: str) -> Entry:
        """The version of a model that a node reads with when it starts.

        Raises:
            ModelError: there is no such model.
        """
        there = self.entries(name)
        entry = next((each for each in there if each.state == "current"), None)
        if entry is None and there:
            raise ModelError(f"model {name}: is installed, but no version of it is current; add one again")
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

    def _installed(self) -> dict[str, set[str]]:
        """The models that were installed, each with the digests of the versions that lie there."""
        try:
            if not self.root.is_dir():
                return {}
            homes = {p.name: p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(".")}
            there = {
                name: {p.name for p in home.iterdir() if _DIGEST.fullmatch(p.name) and p.is_dir()}
                for name, home in homes.items()
            }
            return {name: digests for name, digests in there.items() if digests or (homes[name] / _HISTORY).exists()}
        except OSError as error:
            raise ModelError(_unreadable(error, self.root)) from error

    def _of(self, name: str, here: set[str] | None) -> Iterator[Entry]:
        """The versions of a model; ``here`` are the digests that lie there, None where it was never installed."""
        folder = self.root / name
        history: tuple[str, ...] = ()
        fault, lost = "", "unknown"
        if here is not None and (not here or (folder / _HISTORY).exists()):
            try:
                history = self.history(name)
            except ModelError as error:  # which version was chosen is not known, so that none reads
                fault = str(error)
        if history and here is not None and history[-1] not in here:
            lost = history[-1]
            fault = f"{folder / lost}: is missing, the version of {name} that is to read"
        if fault:
            yield Entry(name, "unknown", lost, "current", False, folder / lost / "bundle", None, fault)
        order = [d for d in reversed(history) if d in (here or ())]
        order += sorted((here or set()) - set(order))
        for digest in order:
            record, unread = _read_record(folder / digest)
            yield Entry(
                name,
                record.version if record else "unknown",
                digest,
                "current" if history and digest == history[-1] else "former",
                False,
                folder / digest / "bundle",
                record,
                unread,
            )
        if name in bundle_model.shipped():
            path = bundle_model.shipped()[name]
            state: Literal["hidden", "current"] = "hidden" if history or fault else "current"
            try:
                identity = bundle_model.describe(path).identity
            except bundle_model.BundleError as error:
                yield Entry(name, "unknown", "unknown", state, True, path, None, str(error))
            else:
                yield Entry(name, identity.version, identity.digest, state, True, path)

    def history(self, name: str) -> tuple[str, ...]:
        """The digests that were current, in order; the last is.

        Raises:
            ModelError: ``history.json`` cannot be read.
        """
        file = self.root / name / _HISTORY
        try:
            return _History.model_validate_json(file.read_bytes()).digests
        except OSError as error:
            raise ModelError(_unreadable(error, file)) from error
        except ValidationError as error:
            raise ModelError(f"{file}: is damaged; add the version that is to read again") from error

    # --- changing -----------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[Path]:
        """Hold the store for one change; gives a fresh folder in it that is removed at the end, if it is still there.

        Raises:
            ModelError: it cannot be written, belongs to another user, or another command changes it now.
        """
        self._check_owner()
        try:
            for folder in (self.data_dir, self.root):  # as the node makes it: images of patients will lie beside
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = (self.root / ".lock").open("a")
        except OSError as error:
            raise ModelError(f"{self.root}: cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ModelError(f"{self.root}: another dicom-node models command is changing it; try again") from error
            part = self.root / f".part-{uuid.uuid4().hex}"
            try:
                for left in self.root.glob(".part-*"):  # a command that was killed
                    with suppress(OSError):
                        remove_tree(left)
                part.mkdir(mode=0o700)
                yield part
            except OSError as error:
                raise ModelError(f"{error.filename or self.root}: cannot be written: {error.strerror}") from error
            finally:
                with suppress(OSError):
                    if part.exists():
                        remove_tree(part)

    def _check_owner(self) -> None:
        """What root would write here the node's user could not read, and that user's links would lead root astray."""
        try:
            owner = self.data_dir.stat().st_uid
        except OSError:
            return  # it is not there yet: whoever makes it owns it
        if owner != os.geteuid():
            name, me = user_name(owner), user_name(os.geteuid())
            raise ModelError(
                f"data_dir {self.data_dir} belongs to {name}, but this runs as {me}: run it as the user that the node "
                f"runs as (sudo -u {name} dicom-node models ...)"
            )

    def adopt(self, part: Path, record: Record) -> None:
        """Make a prepared folder (``bundle/`` in it) a version of its model, and the current one; inside `changing`.

        It takes the place of one of the same digest, which was damaged.
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
        self.make_current(record.name, record.digest)
        if old.exists():
            remove_tree(old)

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
        with self.changing():
            was = self.current(name)
            there = {e.digest: e for e in self.entries(name) if e.path.is_dir() and not e.shipped}
            before = tuple(d for d in (() if was.shipped else self.history(name)) if d in there and d != was.digest)
            if not before:
                others = ", ".join(sorted(d[:12] for d in there.keys() - {was.digest}))
                more = f"; installed, but not current before it: {others}" if others else ""
                if name in bundle_model.shipped() and not was.shipped:
                    more += f"; dicom-node models remove {name} goes back to the one that ships"
                raise ModelError(f"model {name}: there is no version before {was.version}, {was.digest[:12]}{more}")
            to = there[before[-1]]
            try:
                to.pinned().check()
            except bundle_model.BundleError as error:
                raise ModelError(
                    f"model {name}: the version before, {to.version}, {to.digest[:12]}, is damaged too: "
                    f"{str(error).partition('; ')[0]}; add it again from its source, or, to go further back, first "
                    f"dicom-node models remove {name} --digest {to.digest[:12]}"
                ) from None
            self._write_history(name, before)
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
                why = "ships with the node" if name in bundle_model.shipped() else "is not installed"
                raise ModelError(f"model {name!r} {why}: there is nothing to remove")
            routes = routes_of(settings, name)
            left = [e for e in entries if e not in gone]
            if routes and not left and name not in bundle_model.shipped():
                named = f"the route{'s' * (len(routes) > 1)} {', '.join(routes)}"
                raise ModelError(f"model {name}: {named} of the configuration needs it; take it out there first")
            loaded = self.loaded().get(name, "") if running else ""
            if any(e.digest == loaded for e in gone):
                raise ModelError(
                    f"model {name}: the running node reads with {loaded[:12]}; make another version current, restart "
                    "the node, then remove it"
                )
            home = self.root / name
            kept: tuple[str, ...] = ()
            if left:
                digests = {e.digest for e in gone}
                kept = tuple(d for d in self.history(name) if d not in digests)
                if not kept and any(e.state == "current" for e in gone):
                    raise ModelError(
                        f"model {name}: none of the versions that would stay was current before {gone[0].version}; add "
                        "the one that is to read again, then remove this one"
                    )
            if kept:
                self._write_history(name, kept)
            else:
                (home / _HISTORY).unlink(missing_ok=True)
            for entry in gone:
                if (home / entry.digest).is_dir():  # it may be what is wrong that it is not
                    (home / entry.digest).chmod(0o755)
                    (home / entry.digest).rename(part / entry.digest)
            if not left:
                with suppress(OSError):
                    home.rmdir()
        return gone

    # --- the running node ---------------------------------------------------------------------------------------

    def note_loaded(self, bundles: Mapping[str, Pinned]) -> None:
        """Write down which installed versions the starting node reads with, so that none is removed under it.

        A disk that cannot be written is no reason for a node not to start.
        """
        loaded = {name: each.path.parent.name for name, each in bundles.items() if self.root in each.path.parents}
        if loaded or (self.root / _RUNNING).exists():
            with suppress(OSError):
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
    """The routes of the configuration that read with a model, those that have it in shadow too."""
    reading = [route.name for route in settings.routes if name in route.models]
    return reading + [f"{route.name} (shadow)" for route in settings.routes if name in route.shadow]


def whoever() -> str:
    """The user that runs this command, for the record."""
    user = user_name(os.geteuid())
    by = os.environ.get("SUDO_USER", "")
    return f"{user} (sudo by {by})" if by and by.isprintable() and by != user else user


def user_name(uid: int) -> str:
    """The name of a user of this machine, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _unreadable(error: OSError, file: Path) -> str:
    other = "; run this as the user that the node runs as" if isinstance(error, PermissionError) else ""
    return f"{error.filename or file}: cannot be read: {error.strerror}{other}"


def _read_record(folder: Path) -> tuple[Record | None, str]:
    file = folder / _RECORD
    try:
        record = Record.model_validate_json(file.read_bytes())
    except OSError as error:
        return None, _unreadable(error, file)
    except ValidationError:
        return None, f"{file}: cannot be read: it is damaged"
    if record.digest != folder.name or record.name != folder.parent.name:
        return None, f"{file}: is the record of another version"
    return record, ""
