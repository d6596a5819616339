"""Small files, written so that a crash leaves either the old content or the new, never a part of it."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file atomically and durably: a reader, also after a crash, finds the old content or the new.

    Raises:
        OSError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with part.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the creation, renaming and deletion of files in a folder durable.

    Raises:
        OSError: the folder cannot be opened or written.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
