"""The errors that cross packages, and what a worker does about each.

NodeError
├── ConfigError     the configuration or the machine is wrong: the node does not start
├── ModelError      a model cannot be installed, shown or removed: nothing has changed
├── Retryable       it may succeed later: a PACS is down, a reading process died
│   └── Hindered    the machine fails (`trouble`): not the job's fault, and not an attempt of it
├── Waits           nothing went wrong: the job waits for another system's answer
└── Permanent       it will never succeed by itself: shown to IT, queued again by ``dicom-node retry``

Messages are for a hospital's IT. They say what is wrong, where, and what was expected. They contain no patient data.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable

_MACHINE_ERRORS = {  # of the disk, of its permissions, of open files and memory
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
}


class NodeError(Exception):
    """Base of every error that the node raises on purpose."""


class ConfigError(NodeError):
    """The configuration, or the machine that it describes, cannot run a node."""


class ModelError(NodeError):
    """A command on the store of models cannot be carried out. Nothing has changed."""


class Retryable(NodeError):  # noqa: N818 - the name says what the worker does
    """The job returns to the queue, with a later due time."""


class Hindered(Retryable):
    """The machine fails. The job is tried again, without limit, until the machine works again."""


class Waits(NodeError):  # noqa: N818 - as above
    """The job returns to the queue for ``seconds``, or is due at once if ``came`` returns True.

    ``came`` returns whether what the job waits for has arrived meanwhile. With ``begins`` the wait has just begun: the
    job is not given up, however old it is.
    """

    def __init__(
        self, reason: str, seconds: float, came: Callable[[], bool] = lambda: False, *, begins: bool = False
    ) -> None:
        super().__init__(reason)
        self.seconds = seconds
        self.came = came
        self.begins = begins


class Permanent(NodeError):  # noqa: N818 - as above
    """The job fails for good and is shown as failed, until somebody queues it again."""


class Refused(Exception):  # noqa: N818 - it is an answer, not an error of the node
    """A C-STORE that is answered with a status other than success (PS3.4 B.2.3)."""

    def __init__(self, status: int, reason: str, comment: str = "") -> None:
        """``reason`` is for the log; ``comment`` goes to the sender, as the Error Comment (0000,0902)."""
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.comment = comment


def trouble(error: Exception) -> str:
    """Which part of the machine failed, its disk or its index, in words for IT. Empty if it was neither."""
    if isinstance(error, Hindered):
        return str(error)
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
        return f"the disk gave an error: {error.strerror}"
    if isinstance(error, sqlite3.OperationalError):
        return "the index gave an error"
    return ""
