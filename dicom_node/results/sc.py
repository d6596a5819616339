"""The picture: one Secondary Capture an image read, with the findings burned in (PS3.3 A.8.1).

It is the one result that every viewer shows, so it says everything in words: what was found and how surely, what was
not, what was not read, by which model, and that it is not for diagnosis. Only boxes and their labels lie on the image,
lines outside the box that they mark and labels where they hide no finding. The words stand in a black band below it, so
that the object has more rows than its source, but the same origin: pixel coordinates are the source's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.contract import Finding, Presence
from dicom_node.results import common
from dicom_node.results.common import Run, percent
from dicom_node.results.drawing import COLOURS, Box, Row, draw
from dicom_node.results.source import copy_attributes, copy_laterality, copy_optional, numbers_of, read_source, text_of

_LEGIBLE = 512
"""The shorter side, in pixels, below which a source is enlarged: at 512 the legend's 11 pixel type is the smallest."""

_LONGEST = 4096
"""No source is enlarged beyond this, in pixels, however narrow it is."""

_REASONS, _REASON = 3, 60
"""How many reasons for not reading something the legend gives, and how many characters of each."""


def render(run: Run, radiograph_pixels: NDArray[np.uint8], image_index: int) -> NDArray[np.uint8]:
    """The picture of one image of the reading.

    ``radiograph_pixels`` (rows x columns) is the display picture of ``run.reading.sources[image_index]``, white is
    bone. Both sides are multiplied by :func:`enlargement`, and the legend adds rows below and, where the picture is too
    narrow for it, columns on the right; the result is rows x columns x 3.

    Raises:
        ValueError: the pixels are not a two-dimensional array of unsigned bytes.
    """
    pixels = np.asarray(radiograph_pixels)
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ValueError(f"expected rows x columns of uint8, got {pixels.shape} of {pixels.dtype}")
    reading = run.reading
    factor = enlargement(*pixels.shape)
    if factor > 1:
        pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    colours = {result.key: COLOURS[i % len(COLOURS)] for i, result in enumerate(reading.classes)}
    here = [f for f in reading.findings if f.region.sop_instance_uid == reading.sources[image_index].sop_instance_uid]
    boxes = [
        Box(
            f.region.left * factor,
            f.region.top * factor,
            f.region.right * factor,
            f.region.bottom * factor,
            label=f"{common.finding_name(run, f)} {percent(f.score):.1f} %",
            colour=colours.get(f.key, COLOURS[-1]),
        )
        for f in here
    ]
    headline, table = _headline(run, here, image_index), _table(run, colours)
    return draw(pixels, boxes, headline, table, emphasized=len(run.warnings))


def enlargement(rows: int, columns: int) -> int:
    """The whole number by which both sides of a picture are multiplied so that its text can be read; mostly 1."""
    wanted = -(-_LEGIBLE // min(rows, columns))
    return max(1, min(wanted, _LONGEST // max(rows, columns)))


def build(run: Run, source: Dataset, pixels: NDArray[np.uint8], index: int) -> Dataset:
    """The Secondary Capture of ``run.reading.sources[index]``.

    ``source`` is its header, ``pixels`` its display picture as :func:`render` takes it. The result keeps copied
    attributes as raw bytes: write it with :func:`common.to_bytes`.

    Raises:
        ValueError: the header is not that of the source, or the pixels are not of the form wanted.
    """
    image = read_source(source, run.reading.sources[index])
    run = common.fitted(run, source)
    run = dataclasses.replace(run, created=common.local_time(run, source))
    rgb = render(run, pixels, index)
    picture = SCImage(
        pixel_array=rgb,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=image.stand_in.StudyInstanceUID,
        **common.identity(run, image, "sc", index),
    )
    common.mend_secondary_capture(picture, run, image)
    picture.DerivationDescription = _derivation(run, enlargement(*pixels.shape))
    aspect = _pixel_aspect(source)
    if aspect is not None:
        picture.PixelAspectRatio = list(aspect)
    common.finish(picture, run, [image])
    copy_optional(source, picture, ["BodyPartExamined", "PatientOrientation"])
    copy_laterality(source, picture)
    if text_of(source, "LossyImageCompression") == "01":
        copy_attributes(
            source,
            picture,
            ["LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"],
        )
    result: Dataset = picture
    return result


def _derivation(run: Run, factor: int) -> str:
    model = run.reading.model
    words = f"Display copy of the source image with the findings of {model.name} {model.version} burned in"
    words += " and a legend below the image"
    if factor > 1:
        words += f", enlarged {factor} times by repeating pixels so that the text can be read"
    return f"{words}. {'. '.join(run.warnings)}".strip()[:1024]


def _pixel_aspect(source: Dataset) -> tuple[int, int] | None:
    """Height to width of a pixel (PS3.3 C.7.6.3.1.7) in whole numbers, none where it is square or not known."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        sides = numbers_of(source, keyword)
        if len(sides) == 2 and min(sides) > 0:
            ratio = Fraction(sides[0] / sides[1]).limit_denominator(1000)
            return None if abs(ratio - 1) < 0.005 or ratio == 0 else (ratio.numerator, ratio.denominator)
    return None


def _headline(run: Run, here: Sequence[Finding], index: int) -> list[str]:
    """The legend's sentences, those that warn first."""
    model, total, say = run.reading.model, len(run.reading.sources), run.words
    verdict = common.summary(run)
    if run.reading.findings and not here:
        verdict = say.none_here(verdict)
    return [
        *run.warnings,
        f"{model.name} {model.version}",
        say.read_at(f"{run.created:%Y-%m-%d %H:%M} UTC{run.created:%z}"),
        *([say.image_of(index + 1, total)] if total > 1 else []),
        verdict,
        *_not_read(run),
    ]


def _not_read(run: Run) -> list[str]:
    """What the model passed over, with the reasons that are most frequent, shortened: the report has them in full."""
    counted = common.not_read(run)
    if not counted:
        return []
    total = sum(count for _, count in counted)
    reasons = [r if len(r) <= _REASON else f"{r[: _REASON - 3].rstrip()}..." for r, _ in counted[:_REASONS]]
    if len(counted) > _REASONS:
        reasons.append(run.words.other_reasons)
    return [run.words.not_read(total, "; ".join(reasons))]


def _table(run: Run, colours: dict[str, tuple[int, int, int]]) -> list[Row]:
    """The verdict on every class of the model over all images read."""
    return [
        Row(
            (
                common.finding_name(run, each),
                f"{percent(each.score):.1f} %",
                f"{percent(each.threshold):.1f} %",
                run.words.presence[each.presence],
            ),
            colours[each.key] if each.presence is not Presence.ABSENT else None,
        )
        for each in run.reading.classes
    ]
