"""Cropped masks of segmentations, which save memory: most of a mask is empty, and a model may make a hundred."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class CutMask:
    """A mask of ``shape`` (frames, rows, columns), of which only the bounding box of its outline is held in memory.

    ``part`` (bool) begins at the indices ``start``. The mask is false outside. A whole frame is made on request.
    """

    shape: tuple[int, int, int]
    start: tuple[int, int, int]
    part: NDArray[np.bool_]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> CutMask:
        """Crop a mask. The part is a copy, so that the memory of the whole mask can be released."""
        sides = []
        whole = mask
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            filled = np.flatnonzero(whole.any(axis=others))
            sides.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0))
            whole = mask[tuple(sides)]  # the next axis has less to search
        frames, rows, columns = mask.shape
        return cls((frames, rows, columns), (sides[0].start, sides[1].start, sides[2].start), whole.copy())

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the part."""
        return self.part.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """A frame (rows, columns), from 0. Negative numbers count from the end.

        Raises:
            IndexError: there is no such frame.
        """
        number = range(self.shape[0])[frame] - self.start[0]
        whole = np.zeros(self.shape[1:], dtype=np.bool_)
        if 0 <= number < len(self.part):
            _, top, left = self.start
            _, rows, columns = self.part.shape
            whole[top : top + rows, left : left + columns] = self.part[number]
        return whole

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self[frame] for frame in range(len(self)))
