"""Pixels of the source images, asked for when an encoder needs them."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.contract import InstanceRef, ReadingError


class Images(Protocol):
    """Where the sources' headers and pictures come from."""

    def header(self, ref: InstanceRef) -> Dataset:
        """The header of an instance, without its pixels."""

    def pixels(self, ref: InstanceRef, frame: int) -> NDArray[np.uint8]:
        """A frame (from 1) as it is displayed: rows x columns of grey, or rows x columns x 3 where it has colours."""


class StoredImages:
    """The files of a reading's sources; each header, and the last few pictures, are read once for all objects."""

    def __init__(self) -> None:
        self._header = lru_cache(maxsize=None)(self._read_header)
        self._pixels = lru_cache(maxsize=4)(self._read_pixels)

    def header(self, ref: InstanceRef) -> Dataset:
        """The header of a stored instance; builders only read it."""
        return self._header(ref)

    def pixels(self, ref: InstanceRef, frame: int) -> NDArray[np.uint8]:
        """A frame of a stored instance; it cannot be written to."""
        return self._pixels(ref, frame)

    @staticmethod
    def _read_header(ref: InstanceRef) -> Dataset:
        from ai.images.content import open_content  # noqa: PLC0415 - as in `_read_pixels`
        from ai.images.elements import refuse_bomb  # noqa: PLC0415 - as above

        try:
            with open_content(ref.content) as file:
                refuse_bomb(file)
                file.seek(0)
                return pydicom.dcmread(file, stop_before_pixels=True, force=True)
        except Exception as error:  # pydicom raises nearly anything on a damaged file, and its messages quote the file
            raise ReadingError(f"the header of instance {ref.sop_instance_uid} cannot be parsed") from error

    @staticmethod
    def _read_pixels(ref: InstanceRef, frame: int) -> NDArray[np.uint8]:
        from ai.images import radiograph  # noqa: PLC0415 (what reads pixels is heavy, and only an encoder needs it)

        pixels = radiograph.load_display(ref.content, frame)
        pixels.flags.writeable = False
        return pixels
