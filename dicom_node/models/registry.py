"""The models of a node: which are installed or shipped, which version is current, and which can be removed.

Start here for: which version a node reads with (:func:`find`, :meth:`Models.current`), going back to an earlier one
(:meth:`Models.rollback`), and why one cannot be removed (:meth:`Models.remove`). The files of the store, below
``data_dir/models``, are in :mod:`records`.

A version appears by one rename, so it is complete or absent. It is current once the history says so: after a loss of
power between the two steps it is a former version. If the version that the history calls current is missing, no other
version replaces it by itself. The store can be changed while a node runs: a node reads it only when it starts.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ai.bundle.files import BundleError, describe
from ai.bundle.files import shipped as shipped_bundles
from ai.bundle.pins import Pinned, shipped_pins
from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigError, ModelError
from dicom_node.models.records import FOLDER, Record, Records
from dicom_node.models.sources import remove_tree
from dicom_node.models.users import user_name


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a model; ``state`` is current, former (installed, not in use) or hidden (shipped, replaced).

    ``record`` is None if the model ships with the node, or if the record of an installed one cannot be read
    (``fault``).
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
        """The bundle with the digests that its files must have."""
        if self.shipped:
            return shipped_pins()[self.name]
        remedy = f"add it again from its source, or go back with dicom-node models rollback {self.name}"
        files = self.record.files if self.record else {}
        # The fault of a damaged history already says what to do.
        fault = self.fault if self.digest == "unknown" else f"{self.fault}; {remedy}"
        return Pinned(self.path, files, remedy, fault if self.fault else "")


class Models:
    """The models of one node: those installed below its ``data_dir`` and those that ship with it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.root = data_dir / FOLDER
        self.records = Records(self.root)

    # --- looking ------------------------------------------------------------------------------------------------

    def entries(self, name: str = "") -> list[Entry]:
        """Every version of every model (or of ``name``): of each the current one first, then by latest use.

        Raises:
            ModelError: the store cannot be read.
        """
        installed = self.records.installed()
        names = [name] if name else sorted({*shipped_bundles(), *installed})
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
            ModelError: no digest, or more than one, begins with it.
        """
        found = [e for e in self.entries(name) if not e.shipped and digest and e.digest.startswith(digest.lower())]
        if len(found) != 1:
            there = ", ".join(e.digest[:12] for e in self.entries(name) if not e.shipped) or "none"
            raise ModelError(
                f"{len(found)} installed versions of {name!r} have a digest that begins with {digest!r}; "
                f"there are: {there}"
            )
        return found[0]

    def _of(self, name: str, here: set[str] | None) -> Iterator[Entry]:
        """The versions of a model; ``here`` are the digests of the installed ones, None if it was never installed."""
        folder = self.root / name
        history: tuple[str, ...] = ()
        fault, lost = "", "unknown"
        if here is not None and (not here or self.records.has_history(name)):
            try:
                history = self.records.history(name)
            except ModelError as error:  # the chosen version is unknown, so the node must read with none
                fault = str(error)
        if history and here is not None and history[-1] not in here:
            lost = history[-1]
            fault = f"{folder / lost}: is missing, the version of {name} that is to read"
        if fault:
            yield Entry(name, "unknown", lost, "current", False, folder / lost / "bundle", None, fault)
        order = [d for d in reversed(history) if d in (here or ())]
        order += sorted((here or set()) - set(order))
        for digest in order:
            record, unread = self.records.record(name, digest)
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
        if name in shipped_bundles():
            path = shipped_bundles()[name]
            state: Literal["hidden", "current"] = "hidden" if history or fault else "current"
            try:
                identity = describe(path).identity
            except BundleError as error:
                yield Entry(name, "unknown", "unknown", state, True, path, None, str(error))
            else:
                yield Entry(name, identity.version, identity.digest, state, True, path)

    # --- changing -----------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[Path]:
        """Hold the store for one change; gives a new folder in it, which is removed at the end if it still exists.

        Raises:
            ModelError: the store cannot be written, belongs to another user, or another command is changing it.
        """
        self._check_owner()
        try:
            for folder in (self.data_dir, self.root):  # as the node does: patients' images will be there too
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
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
                for left in self.root.glob(".part-*"):  # left by a command that was killed
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
        """Refuse to change another user's store.

        The node's user could not read what root writes here, and links of the node's user could lead root to other
        files.
        """
        try:
            owner = self.data_dir.stat().st_uid
        except OSError:
            return  # it does not exist yet: the user that creates it owns it
        if owner != os.geteuid():
            name, me = user_name(owner), user_name(os.geteuid())
            raise ModelError(
                f"data_dir {self.data_dir} belongs to {name}, but this runs as {me}: run it as the user that the node "
                f"runs as (sudo -u {name} dicom-node models ...)"
            )

    def adopt(self, part: Path, record: Record) -> None:
        """Make a prepared folder (with ``bundle/`` in it) the current version of its model; called inside `changing`.

        It replaces a damaged version with the same digest.
        """
        old = self.records.place(part, record)
        self.make_current(record.name, record.digest)
        if old is not None:
            remove_tree(old)

    def make_current(self, name: str, digest: str) -> None:
        """Let the node read with this version from its next start on; called inside `changing`."""
        try:
            before = self.records.history(name)
        except ModelError:  # the first version, or a damaged file that is written anew
            before = ()
        self.records.write_history(name, (*(d for d in before if d != digest), digest))

    def rollback(self, name: str) -> tuple[Entry, Entry]:
        """Make the version current that was current before; the present one stays installed.

        Returns:
            the version that was current, and the one that is now.

        Raises:
            ModelError: there is no version before it, or it is damaged.
        """
        with self.changing():
            was = self.current(name)
            there = {e.digest: e for e in self.entries(name) if e.path.is_dir() and not e.shipped}
            before = tuple(
                d for d in (() if was.shipped else self.records.history(name)) if d in there and d != was.digest
            )
            if not before:
                others = ", ".join(sorted(d[:12] for d in there.keys() - {was.digest}))
                more = f"; installed, but not current before it: {others}" if others else ""
                if name in shipped_bundles() and not was.shipped:
                    more += f"; dicom-node models remove {name} goes back to the one that ships"
                raise ModelError(f"model {name}: there is no version before {was.version}, {was.digest[:12]}{more}")
            to = there[before[-1]]
            try:
                to.pinned().check()
            except BundleError as error:
                raise ModelError(
                    f"model {name}: the version before, {to.version}, {to.digest[:12]}, is damaged too: "
                    f"{str(error).partition('; ')[0]}; add it again from its source, or, to go further back, first "
                    f"dicom-node models remove {name} --digest {to.digest[:12]}"
                ) from None
            self.records.write_history(name, before)
        return was, self.current(name)

    def remove(self, settings: Settings, name: str, digest: str = "", *, running: bool) -> list[Entry]:
        """Delete the installed versions of a model, or one of them.

        Args:
            settings: the configuration; its routes say which models are needed.
            name: the model.
            digest: the beginning of one version's digest; empty for all versions.
            running: whether a node runs on this folder.

        Raises:
            ModelError: there is nothing to remove, a route still needs the last version, or the running node reads with
                it.
        """
        with self.changing() as part:
            entries = [e for e in self.entries(name) if not e.shipped]
            gone = [self.version(name, digest)] if digest else entries
            if not gone:
                why = "ships with the node" if name in shipped_bundles() else "is not installed"
                raise ModelError(f"model {name!r} {why}: there is nothing to remove")
            routes = routes_of(settings, name)
            left = [e for e in entries if e not in gone]
            if routes and not left and name not in shipped_bundles():
                named = f"the route{'s' * (len(routes) > 1)} {', '.join(routes)}"
                raise ModelError(f"model {name}: {named} of the configuration needs it; take it out there first")
            loaded = self.records.loaded().get(name, "") if running else ""
            if any(e.digest == loaded for e in gone):
                raise ModelError(
                    f"model {name}: the running node reads with {loaded[:12]}; make another version current, restart "
                    "the node, then remove it"
                )
            kept: tuple[str, ...] = ()
            if left:
                digests = {e.digest for e in gone}
                kept = tuple(d for d in self.records.history(name) if d not in digests)
                if not kept and any(e.state == "current" for e in gone):
                    raise ModelError(
                        f"model {name}: none of the versions that would stay was current before {gone[0].version}; add "
                        "the one that is to read again, then remove this one"
                    )
            self.records.write_history(name, kept)
            for entry in gone:
                self.records.take_out(name, entry.digest, part)
            if not left:
                with suppress(OSError):
                    (self.root / name).rmdir()
        return gone

    # --- the running node ---------------------------------------------------------------------------------------

    def note_loaded(self, bundles: Mapping[str, Pinned]) -> None:
        """Record which installed versions the starting node reads with, so that none is removed while it runs."""
        loaded = {name: each.path.parent.name for name, each in bundles.items() if self.root in each.path.parents}
        self.records.note_loaded(loaded)


def find(settings: Settings) -> dict[str, Pinned]:
    """The current version of each model that a route names, with its pins; nothing is hashed or loaded here.

    Raises:
        ConfigError: a model does not exist; the message names every such model.
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
    """The routes of the configuration that read with a model; those that only have it in shadow are marked."""
    reading = [route.name for route in settings.routes if name in route.models]
    return reading + [f"{route.name} (shadow)" for route in settings.routes if name in route.shadow]
