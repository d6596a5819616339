"""The phantoms: the same from the same seed, the same person at any size, findings where they belong, valid DICOM."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from scipy import ndimage  # type: ignore[import-untyped]

from ai.phantom.dicom import to_dicom
from ai.phantom.draw import FINDING_KEYS, Phantom, draw_phantom

NOW = datetime(2026, 1, 2, 3, 4, 5)


def small(phantom: Phantom) -> NDArray[np.float64]:
    """White is 1, at 64 x 52 pixels."""
    grey = phantom.pixels.astype(np.float64) / (2**phantom.bits_stored - 1)
    if phantom.photometric == "MONOCHROME1":
        grey = 1.0 - grey
    rows, columns = grey.shape
    shrunk = ndimage.zoom(
        ndimage.gaussian_filter(grey, rows / 128), (64 / rows, 52 / columns), order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray(shrunk)


def test_same_seed_same_picture() -> None:
    first, again, other = draw_phantom(5, 256, 210), draw_phantom(5, 256, 210), draw_phantom(6, 256, 210)
    assert np.array_equal(first.pixels, again.pixels)
    assert [(f.key, f.left, f.top) for f in first.findings] == [(f.key, f.left, f.top) for f in again.findings]
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 11])
def test_same_person_at_any_size(seed: int) -> None:
    low, high = (draw_phantom(seed, rows, columns, FINDING_KEYS) for rows, columns in ((320, 262), (1250, 1024)))
    stranger = draw_phantom(seed + 100, 320, 262, FINDING_KEYS)
    difference = np.abs(small(low) - small(high)).mean()
    assert difference < 0.02
    assert difference < 0.25 * np.abs(small(low) - small(stranger)).mean()
    for coarse, fine in zip(low.findings, high.findings, strict=True):
        assert coarse.key == fine.key
        for edge in ("left", "top", "right", "bottom"):
            assert getattr(coarse, edge) / 320 == pytest.approx(getattr(fine, edge) / 1250, abs=2.6 / 320)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(300, 246), (320, 500), (1400, 1147)])
def test_box_is_the_extent_of_the_mask(size: tuple[int, int]) -> None:
    phantom = draw_phantom(8, *size, findings=FINDING_KEYS)
    assert sorted(f.key for f in phantom.findings) == sorted(FINDING_KEYS)
    for finding in phantom.findings:
        assert finding.mask.shape == phantom.pixels.shape == size
        rows, columns = np.nonzero(finding.mask)
        assert (finding.left, finding.top) == (columns.min(), rows.min())
        assert (finding.right, finding.bottom) == (columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("seed", range(6))
def test_findings_lie_where_they_belong(seed: int) -> None:
    found = {f.key: f for f in draw_phantom(seed, 320, 262, FINDING_KEYS).findings}
    middle = {key: ((f.left + f.right) / 2 / 262, (f.top + f.bottom) / 2 / 320) for key, f in found.items()}
    assert 0.10 < middle["tuberculosis"][1] < 0.40  # the upper zone
    assert found["pneumothorax"].top / 320 < 0.20  # the air gathers at the apex
    assert middle["pneumonia"][1] > 0.28  # mid and lower zones
    for x, y in middle.values():
        assert 0.10 < x < 0.90
        assert 0.08 < y < 0.85


@pytest.mark.slow
def test_a_nodule_measures_8_to_30_mm() -> None:
    for seed in range(12):
        phantom = draw_phantom(seed, 500, 410, ["nodule"])
        nodule = phantom.findings[0]
        for extent in (nodule.right - nodule.left, nodule.bottom - nodule.top):
            assert 6.0 < extent * phantom.pixel_spacing_mm < 36.0


@pytest.mark.parametrize(("key", "sign"), [("nodule", 1), ("tuberculosis", 1), ("pneumonia", 1), ("pneumothorax", -1)])
def test_a_finding_changes_the_picture_in_its_place(key: str, sign: int) -> None:
    for seed in (1, 2, 3):
        with_it, without = draw_phantom(seed, 320, 262, [key]), draw_phantom(seed, 320, 262, [])
        mask = with_it.findings[0].mask
        change = [small_noise_free(with_it) - small_noise_free(without)]
        inside, outside = change[0][mask], change[0][~mask]
        assert sign * (inside.mean() - outside.mean()) > 4.0 * np.abs(outside).mean() / 3.0


def small_noise_free(phantom: Phantom) -> NDArray[np.float64]:
    grey = phantom.pixels.astype(np.float64) / (2**phantom.bits_stored - 1)
    return np.asarray(ndimage.gaussian_filter(1.0 - grey if phantom.photometric == "MONOCHROME1" else grey, 1.0))


def test_monochrome1_is_the_inverse() -> None:
    one, two = (draw_phantom(4, 320, 262, photometric=photometric) for photometric in ("MONOCHROME1", "MONOCHROME2"))
    assert (one.photometric, two.photometric) == ("MONOCHROME1", "MONOCHROME2")
    top = 2**one.bits_stored - 1
    assert np.abs(one.pixels.astype(int) - (top - two.pixels.astype(int))).max() <= 1
    assert one.window_center + two.window_center == pytest.approx(top, abs=1)
    assert one.window_width == two.window_width


def test_larger_is_denser() -> None:
    grey = small(draw_phantom(4, 320, 262, [], photometric="MONOCHROME2"))
    spine, lung, air = grey[40:44, 25:27].mean(), grey[25:29, 12:16].mean(), grey[:3, :3].mean()
    assert spine > lung > air


@pytest.mark.slow
def test_chance_gives_every_kind_and_none() -> None:
    drawn = [draw_phantom(seed, 96, 80) for seed in range(80)]
    kinds = {f.key for p in drawn for f in p.findings}
    assert kinds == set(FINDING_KEYS)
    counts = [len(p.findings) for p in drawn]
    assert min(counts) == 0
    assert max(counts) >= 3
    assert {p.view for p in drawn} == {"PA", "AP"}
    assert {p.photometric for p in drawn} == {"MONOCHROME1", "MONOCHROME2"}


@pytest.mark.slow
def test_the_heart_is_larger_in_ap() -> None:
    def heart(view: str) -> float:
        # White columns left and right of the spine, just above the diaphragm.
        greys = [small(draw_phantom(seed, 320, 262, [], view=view))[36:40] for seed in range(8)]
        return float(np.mean([(g > np.median(g)).mean() + g[:, 30:38].mean() for g in greys]))

    assert heart("AP") > heart("PA")


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (900, 300), (64, 400), (400, 64)])
def test_any_matrix_is_drawn(rows: int, columns: int) -> None:
    drawn = draw_phantom(7, rows, columns, findings=["nodule", "pneumothorax"])
    assert drawn.pixels.shape == (rows, columns)


@pytest.mark.parametrize("wrong", [{"findings": ["fracture"]}, {"view": "LL"}, {"photometric": "RGB"}, {"rows": 20}])
def test_wrong_arguments_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fracture|LL|RGB|20"):
        draw_phantom(1, **{"rows": 128, "columns": 128, **wrong})  # type: ignore[arg-type]


@pytest.mark.programs
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_data_set_is_complete(photometric: str, tmp_path: Path) -> None:
    phantom = draw_phantom(9, 400, 328, view="PA", photometric=photometric)
    path = tmp_path / "phantom.dcm"
    to_dicom(phantom, seed=9, now=NOW).save_as(path, enforce_file_format=True)
    data = dcmread(path)
    assert np.array_equal(data.pixel_array, phantom.pixels)
    assert data.PhotometricInterpretation == photometric
    assert data.PresentationLUTShape == ("INVERSE" if photometric == "MONOCHROME1" else "IDENTITY")
    assert str(data.PatientName).startswith("PHANTOM^")
    assert data.PatientID.startswith("PHANTOM-")
    assert (data.BodyPartExamined, data.ViewPosition, list(data.PatientOrientation)) == ("CHEST", "PA", ["L", "F"])
    validator = shutil.which("dciodvfy")
    if validator is None:
        pytest.skip("dciodvfy is not installed")
    report = subprocess.run([validator, str(path)], capture_output=True, text=True, check=False).stderr
    assert "DXImageForPresentation" in report
    assert "Error" not in report


def test_the_data_set_follows_from_the_seed() -> None:
    phantom = draw_phantom(9, 128, 105)
    first, again, other = (to_dicom(phantom, seed=seed, now=NOW) for seed in (9, 9, 10))
    written = []
    for data in (first, again):
        buffer = BytesIO()
        data.save_as(buffer, enforce_file_format=True)
        written.append(buffer.getvalue())
    assert written[0] == written[1]
    assert first.SOPInstanceUID.startswith("2.25.")
    assert first.SOPInstanceUID.is_valid
    assert len({first.SOPInstanceUID, first.SeriesInstanceUID, first.StudyInstanceUID, other.SOPInstanceUID}) == 4
    given = to_dicom(phantom, seed=9, now=NOW, study_uid="1.2.3", series_uid="1.2.4", sop_uid="1.2.5")
    assert (given.StudyInstanceUID, given.SeriesInstanceUID, given.SOPInstanceUID) == ("1.2.3", "1.2.4", "1.2.5")
