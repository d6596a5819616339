"""Outlines that hold only the box around them: frame by frame they are the masks that they were cut from."""

from __future__ import annotations

import numpy as np
import pytest

from ai.mask import CutMask


@pytest.mark.parametrize(
    "box",
    [
        np.s_[2:5, 3:9, 1:4],
        np.s_[0:1, 0:1, 0:1],  # corners
        np.s_[5:6, 11:12, 7:8],
        np.s_[:, :, :],
        np.s_[3:3, 0:2, 0:2],  # nothing
    ],
)
def test_a_cut_mask_is_the_whole_one_frame_by_frame(box: tuple[slice, slice, slice]) -> None:
    whole = np.zeros((6, 12, 8), dtype=np.bool_)
    whole[box] = np.random.default_rng(1).random(whole[box].shape) < 0.5
    if whole[box].size:
        whole[tuple(side.start or 0 for side in box)] = True
    cut = CutMask.of(whole)
    assert (cut.shape, cut.dtype, len(cut)) == (whole.shape, whole.dtype, 6)
    np.testing.assert_array_equal(np.stack(list(cut)), whole)
    np.testing.assert_array_equal(cut[-1], whole[-1])
    assert cut.part.size <= whole[box].size
    assert cut.part.base is None  # the whole mask can be forgotten
    with pytest.raises(IndexError):
        cut[6]


def test_two_things_apart_share_a_box() -> None:
    whole = np.zeros((4, 10, 10), dtype=np.bool_)
    whole[0, 1, 8] = whole[3, 7, 2] = True
    cut = CutMask.of(whole)
    assert cut.part.shape == (4, 7, 7)
    np.testing.assert_array_equal(np.stack(list(cut)), whole)
