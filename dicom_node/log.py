"""Structured logs: one JSON line an event, pretty on a terminal, and no patient data by construction.

Only the keys of ``FIELDS`` are ever written. A value under any other key is replaced by a note that names the key, so a
careless ``log.info("x", patient=...)`` shows up in a test and leaks nothing. Free text comes from our own code alone;
text from the network (AE titles, UIDs) is cut and its control characters are escaped, so no peer can forge a line or
drive a terminal.
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

#: Every key that a log line may carry, with what it means. docs/operations.md shows this table.
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
    "version": "version of the model or of the node",
    "device": "where a model runs: cpu, cuda:0",
    "job": "number of the job",
    "jobs": "how many jobs",
    "kind": "read, send, shadow, commit or promise",
    "attempt": "which attempt this was",
    "retry_in": "seconds until the next attempt",
    "status": "DIMSE status, four hexadecimal digits",
    "reason": "why, in plain words",
    "evidence": "what says that the study is complete",
    "fix": "what IT would have to change",
    "findings": "how many findings",
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
_MAX_TEXT = 400


def printable(text: str, limit: int = _MAX_TEXT) -> str:
    """``text`` with control and other unprintable characters shown as escapes, cut to ``limit`` characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _only_known_fields(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in event.items():
        if key not in FIELDS:
            kept["error"] = f"a log call gave the field {key!r}, which may not be logged"
        elif isinstance(value, str):
            kept[key] = printable(value)
        elif value is None or isinstance(value, bool | int | float):
            kept[key] = value
        elif isinstance(value, list | tuple):
            kept[key] = [printable(str(item)) for item in value]
        else:
            kept[key] = printable(str(value))
    return kept


class _Sink:
    """A stream whose faults (a full disk, a closed pipe) lose log lines and never stop the work that logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Send structlog to ``stream`` (default standard error); silence libraries, whose messages quote data sets."""
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
    threading.excepthook = _tell_of_thread


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A thread that dies (pynetdicom's do on garbage) is one line of the log, not a stack trace with values in it."""
    if failed.exc_value is not None and failed.exc_type is not SystemExit:
        logger().warning("thread.failed", error=where(failed.exc_value))


def silence_libraries() -> None:
    """Keep the messages of DICOM libraries off every stream: they quote values, and values are patient data."""
    for name in ("pydicom", "pynetdicom", "highdicom"):
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = False
    warnings.filterwarnings("ignore", category=UserWarning)  # what pydicom and highdicom warn with


def logger() -> Any:
    """A structlog logger, configured by `configure`."""
    return structlog.get_logger()
