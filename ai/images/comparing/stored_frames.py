"""Tells whether two files hold the same pixels, in whatever transfer syntax: decoded, before any window or table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.contract import Content, ReadingError
from ai.images import pixels
from ai.images.colour import SAMPLES, rgb
from ai.images.elements import frame_count, guarded, open_pixels, or_missing, text_of, whole_of
from ai.images.frame_data import FrameData
from ai.images.frames import IMAGE
from ai.images.grayscale import depth_of, form_of


def same_pixels(one: Content, other: Content) -> bool:
    """Whether every frame of two files has the same decoded pixels. One frame of each is in memory at a time.

    Raises:
        ReadingError: a file cannot be parsed or decoded, or holds colours of more than 8 bits.
    """
    with guarded():
        frames = (_stored_frames(one), _stored_frames(other))
        if next(frames[0])[0] != next(frames[1])[0]:  # how many there are
            return False
        return all(
            first.shape == second.shape and bool(np.array_equal(first, second))
            for first, second in zip(*frames, strict=True)
        )


def _stored_frames(content: Content) -> Iterator[NDArray[Any]]:
    """How many frames there are, in an array of one; then each: stored values, or RGB of 8 bits."""
    with open_pixels(content, IMAGE) as (dataset, syntax, value):
        photometric = text_of(dataset, "PhotometricInterpretation").upper()
        samples = SAMPLES.get(photometric, 1)
        if (said := whole_of(dataset, "SamplesPerPixel")) != samples:
            raise ReadingError(f"SamplesPerPixel is {or_missing(said)}; {samples} was expected")
        form = form_of(dataset, samples=samples)
        if samples > 1:
            if form.bits_allocated > 8:
                raise ReadingError("colours of more than 8 bits are not compared")
            form = replace(form, planar=whole_of(dataset, "PlanarConfiguration") == 1, photometric=photometric)
        frames = frame_count(dataset)
        yield np.array([frames])
        data = FrameData(value, dataset, form, frames, syntax)
        for frame in range(1, frames + 1):
            if samples > 1:
                yield rgb(data[frame], value.vr, form, syntax)
            else:
                yield depth_of(form, syntax).values(pixels.words(data[frame], value.vr, form, syntax))
