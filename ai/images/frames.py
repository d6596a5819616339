"""Displays any frame of any stored image as a viewer does, grey or in colours. Other frames are not read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from ai.contract import Content, ReadingError
from ai.images import pixels
from ai.images.colour import PALETTE, SAMPLES, paletted, rgb
from ai.images.elements import frame_count, guarded, open_pixels, or_missing, text_of, whole_of
from ai.images.frame_data import FrameData
from ai.images.grayscale import FORM, GREYS, PIPELINE, depth_of, form_of, grey_or_open, named_photometric
from ai.images.voi import BlankError, Words, as_bytes, render_bytes

IMAGE = [
    *FORM,
    *PIPELINE,
    *PALETTE,
    "PlanarConfiguration",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
]
# The functional groups of PS3.3 section C.7.6.16 in the greyscale pipeline -> their attributes.
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}


def load_display(content: Content, frame: int = 1) -> NDArray[np.uint8]:
    """Display a frame (from 1) as a viewer does: grey (rows, columns), or RGB (rows, columns, 3) if it has colours.

    255 is white. Greys pass the stages of PS3.3 section C.11, with rescale and window of the frame's functional groups
    (C.7.6.16) or of the image. Without a readable window, the window comes from the frame's percentiles. The greys
    equal those of `ai.images.radiograph.load_radiograph`, which refuses blank images; here they are drawn blank.
    Colours have no window: YBR becomes RGB (C.7.6.3.1.2), palettes are looked up (C.7.9), and more than 8 bits are
    scaled to 8.

    Raises:
        ReadingError: the file cannot be parsed or decoded, has no such frame, or contradicts itself.
    """
    with guarded(), open_pixels(content, IMAGE) as (dataset, syntax, value):
        photometric = text_of(dataset, "PhotometricInterpretation").upper()
        if photometric not in (*GREYS, *SAMPLES):
            expected = ", ".join((*GREYS, *SAMPLES))
            raise ReadingError(
                f"PhotometricInterpretation is {named_photometric(photometric)}; one of {expected} was expected"
            )
        wanted = SAMPLES.get(photometric, 1)
        if (samples := whole_of(dataset, "SamplesPerPixel")) != wanted:
            raise ReadingError(f"SamplesPerPixel is {or_missing(samples)}; {wanted} was expected for {photometric}")
        frames = frame_count(dataset)
        if not 1 <= frame <= frames:
            raise ReadingError(f"frame {frame} was asked for; the image has frames 1 to {frames}")
        form = form_of(dataset, samples=wanted)
        if wanted > 1:
            form = replace(form, planar=whole_of(dataset, "PlanarConfiguration") == 1, photometric=photometric)
        data = FrameData(value, dataset, form, frames, syntax)[frame]
        if wanted > 1:
            return rgb(data, value.vr, form, syntax)
        words = pixels.words(data, value.vr, form, syntax)
        if photometric == "PALETTE COLOR":
            stored = depth_of(form, syntax).values(words)
            return paletted(stored, dataset, little=bool(syntax.is_little_endian))
        return _grey(words, of_frame(dataset, frame), form, syntax)


def _grey(words: Words, dataset: Dataset, form: pixels.Form, syntax: uid.UID) -> NDArray[np.uint8]:
    pipeline = grey_or_open(dataset, form, syntax)
    try:
        return render_bytes(words, pipeline)
    except BlankError as blank:
        # A blank image cannot be read, but results are drawn on it, also the result that says so.
        return as_bytes(np.full(words.shape, blank.grey, dtype=np.float32))


def of_frame(dataset: Dataset, frame: int) -> Dataset:
    """The data set with the values of one frame at the top level, as in a single-frame image."""
    own = Dataset()
    for keyword in PIPELINE:
        if keyword in dataset:
            own[keyword] = dataset[keyword]
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*shared[:1], *each[frame - 1 : frame]):
        for group, keywords in _GROUPS.items():
            items = groups.get(group)
            if not items:
                continue
            for keyword in keywords:
                if keyword in items[0]:
                    own[keyword] = items[0][keyword]
                elif keyword in own:  # it belongs to a group whose other values were replaced
                    del own[keyword]
    return own
