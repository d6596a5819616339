"""The name of an image in a table of labels -> the image's file, inside the folder of the images alone."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from ai.evaluation.csv_table import TableError

__all__ = ["ImageFinder"]


class ImageFinder:
    """Finds the file that a cell of a table names. A file outside the folder of the images is never found.

    Args:
        table: the file of the table; a name may be a path from its folder.
        images: the folder of the images.

    Raises:
        TableError: the folder of the images does not exist.
    """

    def __init__(self, table: Path, images: Path) -> None:
        if not images.is_dir():
            raise TableError(f"{images}: there is no such folder; the folder of the images was expected")
        self._root = images.resolve()
        self._beside = table.resolve().parent
        self._by_name: dict[str, Path | None] | None = None

    def find(self, file: str) -> Path | str:
        """The file, or a sentence that says why there is none."""
        if not file:
            return "the cell 'file' is empty"
        outside = False
        try:
            for base in (self._root, self._beside):
                path = (base / file).resolve()
                inside = path.is_relative_to(self._root)
                if inside and path.exists():
                    return path if stat.S_ISREG(path.stat().st_mode) else "is no file"
                outside = outside or (not inside and path.exists())
        except (OSError, ValueError):  # too long a name, a NUL in it, a loop of links, no right to look
            return "is no name of a file that can be opened"
        parts = re.split(r"[/\\]", file)
        if ".." in parts:
            return "leads outside the folder of the images"
        names = self._names()
        if parts[-1] in names:
            return names[parts[-1]] or "several files of the folder have this name; give the path from the folder"
        return "leads outside the folder of the images" if outside else "is not in the folder of the images"

    def _names(self) -> Mapping[str, Path | None]:
        if self._by_name is None:
            self._by_name = {}
            for path in self._files():
                self._by_name[path.name] = None if path.name in self._by_name else path
        return self._by_name

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._root):  # which follows no links
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield path
