"""Structured logging: one JSON line for each event (formatted text on a terminal), without patient data.

Only the keys of ``FIELDS`` are written. A value under another key is replaced by a note that names the key, so that a
careless ``log.info("x", patient=...)`` is found by a test and discloses nothing. Free text comes only from our own
code. Text from the network (AE titles, UIDs) is truncated and its control characters are escaped, so that no peer can
forge a line or control a terminal.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from ai.errors import where

__all__ = ["FIELDS", "configure", "logger", "printable", "silence_libraries", "where"]

#: Every key that a log line may have, and its meaning. docs/reference/log-events.md has this table.
FIELDS: dict[str, str] = {
    "event": "what happened, as area.verb",
    "level": "debug, info, warning or error",
    "time": "ISO 8601, UTC",
    "study": "Study Instance UID",
    "series": "Series Instance UID",
    "instance": "SOP Instance UID",
    "revision": "how many times the study has been completed",
    "sop_class": "SOP Class UID",
    "association": "number of the association since start",
    "calling_ae": "AE title of the caller",
    "called_ae": "AE title that was called",
    "address": "network address of the other side",
    "port": "TCP port",
    "peer": "name of the peer in the configuration",
    "routes": "names of the routes that take the study",
    "model": "name of the model",
    "models": "names of the models that were compared",
    "version": "version of the model or of the node",
    "device": "where a model runs: cpu, cuda:0",
    "job": "number of the job",
    "jobs": "how many jobs",
    "kind": "read, send, shadow, commit, promise, withdraw or summary",
    "attempt": "which attempt this was",
    "retry_in": "seconds until the next attempt",
    "status": "DIMSE status, four hexadecimal digits",
    "reason": "why, in plain words",
    "evidence": "what says that the study is complete",
    "fix": "what IT would have to change",
    "findings": "how many findings",
    "edition": "which version of an image under its UID: 1 is the first",
    "objects": "how many objects",
    "role": "kind of result object (sr, sc, gsps, seg, pdf, kos)",
    "bytes": "size in bytes",
    "seconds": "wall time in seconds",
    "pid": "process id",
    "error": "type of an unexpected error and where it was raised",
    "signal": "name of the signal received",
    "folder": "a folder of the node",
    "file": "a file of the node",
    "removed": "how many were removed",
}
_MAX_TEXT = 400  # characters
_UIDS = ("study", "series", "instance", "sop_class")
_MAX_UID = 64  # characters (PS3.5 9.1): what is longer is no UID, and whatever somebody has put there


def printable(text: str, limit: int = _MAX_TEXT) -> str:
    """The text with control and other unprintable characters as escapes, truncated to ``limit`` characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _only_known_fields(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor that lets only ``FIELDS`` pass."""
    kept: dict[str, Any] = {}
    for key, value in event.items():
        if key not in FIELDS:
            kept["error"] = f"the field {key!r} may not be logged; its value was left out"
        elif isinstance(value, str):
            kept[key] = printable(value, _MAX_UID if key in _UIDS else _MAX_TEXT)
        elif value is None or isinstance(value, bool | int | float):
            kept[key] = value
        elif isinstance(value, list | tuple):
            kept[key] = [printable(str(item)) for item in value]
        else:
            kept[key] = printable(str(value))
    return kept


class _Sink:
    """A stream whose errors (a full disk, a closed pipe) lose log lines and do not stop the node."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Write the log to ``stream`` (default: standard error), and silence libraries, whose messages quote data sets."""
    stream = stream or sys.stderr
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _only_known_fields,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(_Sink(stream)),  # type: ignore[arg-type]  # it writes and flushes
        cache_logger_on_first_use=False,
    )
    silence_libraries()
    threading.excepthook = _log_thread_death


def _log_thread_death(failed: threading.ExceptHookArgs) -> None:
    """Log the death of a thread as one line. A stack trace could contain values, that is patient data."""
    if failed.exc_value is not None and failed.exc_type is not SystemExit:
        logger().warning("thread.failed", error=where(failed.exc_value))


def silence_libraries() -> None:
    """Suppress the messages of DICOM libraries on every stream: they quote values, which are patient data."""
    for name in ("pydicom", "pynetdicom", "highdicom"):
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = False
    warnings.filterwarnings("ignore", category=UserWarning)  # the category of pydicom's and highdicom's warnings


def logger() -> Any:
    """A structlog logger, configured by `configure`."""
    return structlog.get_logger()
