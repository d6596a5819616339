"""What a node does about its index when it starts: it refuses to start without one over files, and looks at it."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from dicom_node.errors import ConfigError
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.journal.base import write_base
from dicom_node.index.statements import read_only
from dicom_node.log import logger, where
from dicom_node.operations.index_rebuild import image_files

_LOOK_SECONDS = 2.0
_STEPS = 10_000  # of SQLite's machine between two looks at the clock: some milliseconds


def refuse_without_index(data_dir: Path) -> None:
    """Refuse to start where there are images and no index of them: what it would answer 0000 to is stored already.

    Call it when the folder is locked, and before anything is deleted from it or the index is made.

    Raises:
        ConfigError: the index is missing, empty or damaged; the message says what to run.
    """
    path = data_dir / INDEX_FILE
    try:
        known = path.exists() and _knows_an_image(path)
    except sqlite3.Error as error:
        raise ConfigError(
            f"{path}: the index is damaged ({error}). Nothing was changed. Run dicom-node index rebuild, "
            "or restore a backup (docs/troubleshooting/index-lost.md)"
        ) from error
    if known:
        return
    # Files that were being received are named by their parts; an earlier run never acknowledged those.
    parts = {part.name.split(".", 1)[0] for part in (data_dir / "incoming").glob("*.part")}
    if any(file.stem[:64] not in parts for file in image_files(data_dir)):
        raise ConfigError(
            f"{path}: {'knows no image' if path.exists() else 'is not there'}, but {data_dir / 'spool'} has images. "
            "Nothing was changed. Run dicom-node index rebuild, or restore a backup "
            "(docs/troubleshooting/index-lost.md)"
        )


def _knows_an_image(path: Path) -> bool:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=30.0)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'instances'").fetchone() is None:
            return False
        return connection.execute("SELECT 1 FROM instances LIMIT 1").fetchone() is not None


class Upkeep:
    """Looks at the index beside a start, and writes the journal's base where it needs one; in a thread of its own."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index-upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is not written by then is written at the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            if found := damage(self._index.file, _LOOK_SECONDS, self._stopping):
                fix = "stop the node and run dicom-node index check, then dicom-node index rebuild"
                logger().error("index.damaged", reason=found, fix=fix)
            elif (base := self._index.begin_journal()) is not None:
                write_base(self._index.file, base, self._stopping.is_set)
        except (OSError, sqlite3.Error) as error:
            logger().error("journal.failed", reason=f"its base cannot be written: {where(error)}")


def damage(index: Path, seconds: float, stopping: threading.Event) -> str:
    """What SQLite's quick check finds within some seconds; empty if nothing, or if it was not through by then."""
    end = time.monotonic() + seconds
    with read_only(index) as connection:
        connection.set_progress_handler(lambda: stopping.is_set() or time.monotonic() > end, _STEPS)
        try:
            lines = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.OperationalError as error:
            return "" if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT else str(error)
        except sqlite3.DatabaseError as error:
            return str(error)
    return "" if lines == ["ok"] else "; ".join(lines)
