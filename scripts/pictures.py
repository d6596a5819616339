#!/usr/bin/env python3
"""Makes the pictures of the documentation, docs/pictures.jpg and docs/result.jpg.

Drawn radiographs (nobody's) of three sizes are read by the demonstration model that ships, and its secondary captures
are set side by side as a screen of one height would show them: in English, Korean and Japanese, and one with heat maps.

    .venv/bin/python scripts/pictures.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom
from PIL import Image

from ai.contract import InstanceRef, SeriesRef
from ai.inference import bundle_model
from ai.phantom import draw
from ai.phantom.dicom import to_dicom
from dicom_node import results
from dicom_node.config.settings import Profile
from dicom_node.config.values import Language

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HEIGHT, GAP = 820, 10


def pictures(
    model: bundle_model.BundleModel, seed: int, size: tuple[int, int], language: Language
) -> list[Image.Image]:
    """The secondary captures of a phantom of so many rows and columns."""
    drawn = draw.draw_phantom(seed, *size, findings=["nodule", "pneumonia"], view="PA", photometric="MONOCHROME2")
    image = to_dicom(drawn, seed=seed, now=NOW)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.dcm"
        image.save_as(path, enforce_file_format=True)
        ref = InstanceRef(image.SOPInstanceUID, image.SOPClassUID, str(path))
        series = SeriesRef(image.StudyInstanceUID, image.SeriesInstanceUID, "DX", "CHEST", "", (ref,))
        reading = model.read(model.select([series]))
        key = results.run_key("documentation", model.identity, [ref.sop_instance_uid], "")
        profile = Profile(outputs=("sc",), language=language)
        made = results.encode(results.Run(key, NOW, "documentation", reading, profile))
    return [Image.fromarray(pydicom.dcmread(BytesIO(each.content)).pixel_array) for each in made]


def beside(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side, each as high as the others."""
    scaled = [
        each.resize((round(each.width * HEIGHT / each.height), HEIGHT), Image.Resampling.LANCZOS) for each in images
    ]
    sheet = Image.new("RGB", (sum(each.width + GAP for each in scaled) - GAP, HEIGHT), (255, 255, 255))
    x = 0
    for each in scaled:
        sheet.paste(each, (x, 0))
        x += each.width + GAP
    return sheet


def main(folder: Path) -> None:
    """Read, draw, write."""
    model = bundle_model.load(ROOT / "ai/bundles/phantom_cxr")
    english, korean, japanese = (
        pictures(model, seed, size, language)
        for seed, size, language in ((11, (512, 512), "en"), (21, (2500, 2048), "ko"), (33, (4280, 3520), "ja"))
    )
    sheet = beside([english[0], korean[0], japanese[0], korean[1]])
    sheet.save(folder / "pictures.jpg", quality=82, optimize=True)
    one = pictures(model, 21, (2500, 2048), "en")[0]
    one.resize((760, round(one.height * 760 / one.width)), Image.Resampling.LANCZOS).save(
        folder / "result.jpg", quality=88, optimize=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
