"""The errors that cross rooms, and what a worker does about each.

NodeError
├── ConfigError     the configuration or the machine is wrong: the node does not start
├── ModelError      a model cannot be installed, shown or removed: nothing has changed
├── Retryable       it may go well later: a PACS that is down, a reading process that died
│   └── Hindered    the machine keeps us from it (`trouble`): no fault of the job, and no attempt of it
├── Waits           nothing went wrong: somebody else's answer is waited for
└── Permanent       it will never go well by itself: shown to IT, revived by ``dicom-node retry``

Messages are read by a hospital's IT: they say what is wrong, where, and what was expected, and hold no patient data.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable

_OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
}


class NodeError(Exception):
    """Base of every error that the node raises on purpose."""


class ConfigError(NodeError):
    """The configuration, or the machine that it describes, cannot run a node."""


class ModelError(NodeError):
    """What was asked of the store of models cannot be done; nothing has changed."""


class Retryable(NodeError):  # noqa: N818 - it names what to do, as the table above is read
    """The job goes back into the queue with a later due time."""


class Hindered(Retryable):
    """The job is tried again for as long as it takes: its turn comes when the machine is well again."""


class Waits(NodeError):  # noqa: N818 - as above
    """The job goes back into the queue for ``seconds``, unless what it waits for ``came`` meanwhile.

    Where it ``begins`` to wait it is not given up, however old the job is.
    """

    def __init__(
        self, reason: str, seconds: float, came: Callable[[], bool] = lambda: False, *, begins: bool = False
    ) -> None:
        super().__init__(reason)
        self.seconds = seconds
        self.came = came
        self.begins = begins


class Permanent(NodeError):  # noqa: N818 - as above
    """The job fails for good, visibly, until somebody revives it."""


class Refused(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """A C-STORE that is answered with another status than success."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def trouble(error: Exception) -> str:
    """What of the machine an error comes from, its disk or its index, in plain words; empty where it is another's."""
    if isinstance(error, Hindered):
        return str(error)
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return f"the disk gave an error: {error.strerror}"
    if isinstance(error, sqlite3.OperationalError):
        return "the index gave an error"
    return ""
