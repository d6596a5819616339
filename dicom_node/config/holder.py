"""The settings in force: one holder that all parts of a node ask, and that takes other settings while the node runs.

A part keeps the holder and asks for ``current`` each time that it needs a setting; so no part keeps an old one. What is
made once, at the start of the node, cannot follow: `NEEDS_RESTART` is the one table of these keys.

No command of today gives a running node other settings, so every change of the file needs a restart.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from dicom_node.config.settings import Settings

#: Keys that need a restart even if a running node is given other settings, and why. ``*`` is the name of a peer or
#: route.
NEEDS_RESTART: Mapping[str, str] = {
    "node.ae_title": "the node calls other stations by it",
    "node.host": "the node listens there from its start",
    "node.port": "the node listens there from its start",
    "node.data_dir": "the node locks this folder at its start",
    "node.device": "models are loaded onto it",
    "node.read_timeout_seconds": "the reading processes are made with it",
    "node.deliver_for_hours": "the workers are made with it",
    "peers.*.destination": "each destination has a worker of its own",
    "peers.*.commitment": "each destination that commits has a worker of its own",
    "peers.*.iocm": "each destination that takes withdrawals has a worker of its own",
    "peers.*.ae_title": "the workers that call the peer are made with it",
    "peers.*.host": "the workers that call the peer are made with it",
    "peers.*.port": "the workers that call the peer are made with it",
    "routes.*.models": "models are loaded at the start",
    "routes.*.shadow": "models are loaded at the start",
    "routes.*.count_at": "each PACS that counts has a thread of its own",
}


class SettingsHolder:
    """Holds the settings in force; safe for all threads."""

    def __init__(self, settings: Settings) -> None:
        self._current = settings
        self._lock = threading.Lock()

    @property
    def current(self) -> Settings:
        """The settings in force now. One decision asks once: two calls may see two states of the file."""
        return self._current

    def replace(self, settings: Settings) -> tuple[str, ...]:
        """Put other settings in force, all at once. Keys of ``[node]`` that need a restart keep their value until then.

        Returns:
            the keys that differ and take effect only at the next start (`needs_restart`).
        """
        with self._lock:
            before = self._current
            waiting = needs_restart(differences(before, settings))
            kept = [key.removeprefix("node.") for key in waiting if key.startswith("node.")]
            node = settings.node.model_copy(update={key: getattr(before.node, key) for key in kept})
            self._current = settings.model_copy(update={"node": node})
        return waiting


def differences(before: Settings, after: Settings) -> tuple[str, ...]:
    """The keys in which two settings differ, such as ``node.port`` or ``peers.pacs.host``, in the order of the file.

    Of a peer or route that came or went each key counts that is not at its default there.
    """
    old, new = dict(_keys(before)), dict(_keys(after))
    return tuple(key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key))


def needs_restart(keys: Iterable[str]) -> tuple[str, ...]:
    """Those of some keys that take effect only at the next start."""
    return tuple(key for key in keys if any(fnmatchcase(key, pattern) for pattern in NEEDS_RESTART))


def _keys(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Every key that is set, with its value."""
    for table in ("node", "retention"):
        for key, value in getattr(settings, table):
            yield f"{table}.{key}", value
    for table in ("peers", "routes"):
        for one in getattr(settings, table):
            yield f"{table}.{one.name}", True
            for key in one.model_fields_set - {"name"}:
                yield f"{table}.{one.name}.{key}", getattr(one, key)
