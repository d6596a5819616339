"""A series becomes a volume in the patient's space, in the order of its slices; masks come back onto its pixels."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor, PydicomReader
from monai.transforms import Compose, EnsureChannelFirst, Orientation, Spacing
from numpy.typing import NDArray
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from ai.contract import InstanceRef, ReadingError
from ai.inference.forward import to_meta_tensor
from ai.volumes.resample import to_frames
from ai.volumes.volume import Volume, load_volume
from tests.support.stacks import COLUMNS, GEOMETRIES, ROWS, ct_images, ct_series, enhanced, pixels, write

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def place_in_patient(image: pydicom.Dataset, column: float, row: float) -> NDArray[np.float64]:
    """Equation C.7.6.2.1-1 of PS3.3, in RAS."""
    cosines = np.array(image.ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, image.PixelSpacing)
    lps = np.array(image.ImagePositionPatient, dtype=float)
    lps = lps + cosines[:3] * between_columns * column + cosines[3:] * between_rows * row
    return np.asarray(LPS_TO_RAS @ lps)


def shuffled(refs: list[InstanceRef], seed: int = 3) -> list[InstanceRef]:
    return [refs[int(at)] for at in np.random.default_rng(seed).permutation(len(refs))]


def as_frames(volume: Volume) -> NDArray[np.float32]:
    return volume.values.transpose(2, 1, 0)


# --- values and their place -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_each_voxel_lies_where_its_own_image_says(tmp_path: Path, geometry: str) -> None:
    refs = ct_series(tmp_path, geometry)
    volume = load_volume(shuffled(refs))
    assert volume.values.dtype == np.float32
    assert volume.values.shape == (COLUMNS, ROWS, 6)
    assert volume.modality == "CT"
    assert volume.frames == tuple((ref, 1) for ref in refs)
    np.testing.assert_array_equal(as_frames(volume), pixels(6).astype(np.float32) - 1024)
    for k, ref in enumerate(refs):
        image = pydicom.dcmread(ref.content)
        for i, j in ((0, 0), (COLUMNS - 1, 0), (4, ROWS - 1)):
            place = (volume.affine @ (i, j, k, 1))[:3]
            np.testing.assert_allclose(place, place_in_patient(image, i, j), atol=1e-4)


def test_a_tilted_gantry_shears_the_affine_and_nothing_else(tmp_path: Path) -> None:
    axes = load_volume(ct_series(tmp_path, "tilted")).affine[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    assert axes[:, 0] @ axes[:, 1] == pytest.approx(0, abs=1e-6)
    assert abs(axes[:, 1] @ axes[:, 2]) == pytest.approx(np.sin(np.radians(18)), abs=1e-6)


def test_every_slice_has_its_own_rescale(tmp_path: Path) -> None:
    refs = ct_series(tmp_path, each=lambda k: {"RescaleSlope": 1 + 0.25 * k, "RescaleIntercept": -10 * k})
    expected = pixels(6) * (1 + 0.25 * np.arange(6))[:, None, None] - 10 * np.arange(6)[:, None, None]
    np.testing.assert_array_equal(as_frames(load_volume(refs)), expected.astype(np.float32))


@pytest.mark.parametrize("bits", [16, 32])
def test_signed_values_keep_their_sign_and_modality_values_are_never_inverted(tmp_path: Path, bits: int) -> None:
    stored = pixels(4).astype(f"int{bits}") - 2000
    form = {
        "PixelRepresentation": 1,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PhotometricInterpretation": "MONOCHROME1",
    }
    refs = ct_series(tmp_path, count=4, stored=stored, **form)
    np.testing.assert_array_equal(as_frames(load_volume(refs)), stored.astype(np.float32) - 1024)


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_any_transfer_syntax_gives_the_same(tmp_path: Path, syntax: str) -> None:
    refs, stored = [], pixels(3, 64, 50)
    for image in ct_images(stored=stored, count=3):
        if syntax == ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
            image["PixelData"].VR = "OW"
            image.file_meta.TransferSyntaxUID = syntax
        elif syntax == DeflatedExplicitVRLittleEndian:
            image.file_meta.TransferSyntaxUID = syntax
        else:
            image.compress(syntax, generate_instance_uid=False)
        refs.append(write(tmp_path, image))
    np.testing.assert_array_equal(as_frames(load_volume(refs)), stored.astype(np.float32) - 1024)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_frames_of_an_enhanced_image_are_put_in_order(tmp_path: Path, geometry: str, shared: bool) -> None:
    ref = write(tmp_path, enhanced(geometry, shared=shared))
    volume = load_volume([ref])
    intercepts = -1000 - np.arange(6)
    np.testing.assert_array_equal(as_frames(volume), pixels(6) + intercepts[:, None, None].astype(np.float32))
    np.testing.assert_allclose(volume.affine, load_volume(ct_series(tmp_path / "singles", geometry)).affine, atol=1e-9)
    order = np.random.default_rng(1).permutation(6)
    assert volume.frames == tuple((ref, int(np.flatnonzero(order == k)[0]) + 1) for k in range(6))


def test_a_long_compressed_enhanced_image_is_read_in_parts(tmp_path: Path) -> None:
    image = enhanced(count=70)
    image.compress(RLELossless, generate_instance_uid=False)
    volume = load_volume([write(tmp_path, image)])
    expected = pixels(70) - 1000.0 - np.arange(70)[:, None, None]
    np.testing.assert_array_equal(as_frames(volume), expected.astype(np.float32))


def test_as_shown_is_from_0_to_1_white_is_1_and_bytes_are_rounded(tmp_path: Path) -> None:
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    refs = ct_series(
        tmp_path, each=lambda k: {"WindowCenter": 500 + 100 * k, "WindowWidth": 1000, **(inverse if k == 2 else {})}
    )
    shown = as_frames(load_volume(refs, "display"))
    values = pixels(6) - 1024.0
    expected = np.clip((values - (500 + 100 * np.arange(6)[:, None, None] - 0.5)) / 999 + 0.5, 0, 1)
    expected[2] = 1 - expected[2]
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    as_bytes = as_frames(load_volume(refs, "bytes"))
    assert as_bytes.dtype == np.float32
    np.testing.assert_array_equal(as_bytes, np.rint(shown * np.float32(255)))


def test_slices_without_a_window_share_one_so_that_they_are_comparable(tmp_path: Path) -> None:
    stored = pixels(4)
    stored[1] //= 8  # by its own percentiles this slice would be as bright as the others
    stored[3] = 0
    no_window = {"WindowCenter": None, "WindowWidth": None, "PixelPaddingValue": 0}
    shown = as_frames(load_volume(ct_series(tmp_path, count=4, stored=stored, **no_window), "display"))
    assert shown.min() == 0.0
    assert shown[0].max() == shown.max() == 1.0
    assert 0.0 < shown[1].max() < 0.2
    assert not shown[3].any()  # padding is black
    grey = np.interp(stored[0].ravel(), *(np.sort(each.ravel()) for each in (stored[[0, 2]], shown[[0, 2]])))
    np.testing.assert_allclose(shown[0].ravel(), grey, atol=1e-5)


def test_a_window_that_is_none_does_not_keep_values_from_being_read(tmp_path: Path) -> None:
    refs = ct_series(tmp_path, WindowWidth=0)
    assert load_volume(refs).values.max() > 3000 - 1024
    assert load_volume(refs, "display").values.max() == 1.0


# --- what is refused, and what is tolerated ---------------------------------------------------------------------------


def refusal(refs: list[InstanceRef]) -> str:
    with pytest.raises(ReadingError) as caught:
        load_volume(refs)
    assert "SECRET" not in str(caught.value)
    return str(caught.value)


def test_a_missing_slice_is_refused_with_its_place(tmp_path: Path) -> None:
    refs = ct_series(tmp_path, count=12)
    assert refusal(shuffled(refs[:4] + refs[5:])) == (
        "1 slice is missing: after slice 4 of 11 (from the feet) the next lies 5 mm on, not 2.5 mm"
    )
    assert refusal(refs[:7] + refs[9:]).startswith("2 slices are missing: after slice 7 of 10")
    assert len(load_volume(refs[3:]).frames) == 9  # at an end nobody can know


@pytest.mark.slow
def test_a_slice_that_is_missing_among_very_thin_ones_is_seen(tmp_path: Path) -> None:
    thin = [0.08 * number for number in range(60)]  # of 2.5 mm: 0.2 mm, as of a cone beam
    assert load_volume(ct_series(tmp_path / "whole", "axial", places=thin)).values.shape[2] == 60
    del thin[30]
    assert "1 slice is missing: after slice 30 of 59" in refusal(ct_series(tmp_path / "gap", "axial", places=thin))


def test_rounded_positions_are_tolerated_and_uneven_distances_are_not(tmp_path: Path) -> None:
    # 0.625 mm written with one digit, as some devices do: 0.6, 0.7, 0.6, ...
    places = np.round(np.arange(20) * 0.625, 1) / 2.5
    volume = load_volume(ct_series(tmp_path / "a", places=places))
    assert volume.affine[2, 2] == pytest.approx(0.625, abs=0.01)
    uneven = ct_series(tmp_path / "b", places=[0, 1, 2, 3, 5.4, 7.8, 10.2])
    assert refusal(uneven) == "the distance between its slices varies from 2.5 to 6 mm"


def test_slices_that_are_shifted_sideways_are_refused(tmp_path: Path) -> None:
    refs = ct_series(tmp_path, each=lambda k: {"ImagePositionPatient": [3.0 * (k == 3), 0, 2.5 * k]})
    assert refusal(refs) == "its slices are shifted against one another"


def test_an_exact_copy_of_a_slice_is_left_out_and_another_image_in_its_place_refused(tmp_path: Path) -> None:
    refs = ct_series(tmp_path)
    copy = pydicom.dcmread(refs[2].content)
    copy.SOPInstanceUID = "1.2.4.99"
    again = write(tmp_path, copy)
    volume = load_volume([*refs, again])
    assert volume.frames == tuple((ref, 1) for ref in refs)
    copy.RescaleIntercept = -1000
    write(tmp_path, copy)
    assert refusal([*refs, again]) == "different images lie at the same place (1 of 6 places)"


def test_stacks_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    axial = ct_series(tmp_path, "axial")
    sagittal = ct_series(tmp_path, "sagittal", SeriesInstanceUID="1.2.6")
    assert refusal(axial + sagittal) == "the images are no single volume: they make 2 stacks of slices"
    later = ct_series(tmp_path, "axial", SeriesInstanceUID="1.2.7", AcquisitionNumber=2)
    assert refusal(axial + later) == "the images are no single volume: they make 2 stacks of slices"
    assert refusal([]) == "no image was chosen, so there is nothing to read"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ImagePositionPatient": None}, "its ImagePositionPatient is missing"),
        ({"ImagePositionPatient": [1, 2]}, "its ImagePositionPatient is not 3 numbers"),
        ({"ImagePositionPatient": [1, 2, 1e300]}, "its ImagePositionPatient is beyond every patient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "is not two unit vectors at a right angle"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "is not two unit vectors at a right angle"),
        ({"PixelSpacing": [0, 1]}, "its PixelSpacing is not positive"),
        ({"PixelSpacing": None}, "its PixelSpacing is missing"),
        ({"Rows": 0}, "the size of its matrix (Rows, Columns) is missing"),
        ({"NumberOfFrames": 3}, "it has 3 frames and does not say where each of them lies"),
        ({"PhotometricInterpretation": "RGB"}, "MONOCHROME1 or MONOCHROME2 was expected"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3; 1 was expected"),
        ({"PixelData": b"\0\0"}, "PixelData is truncated"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
    ],
)
def test_one_bad_image_refuses_the_volume_and_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    refs = ct_series(tmp_path, each=lambda k: changes if k == 3 else {}, PatientName="SECRET^NAME")
    told = refusal(refs)
    assert told.startswith("instance 1.2.4.4: ")
    assert reason in told


def test_a_file_that_is_none_or_holds_another_instance_is_named(tmp_path: Path) -> None:
    refs = ct_series(tmp_path)
    assert "holds another instance" in refusal([*refs[1:], replace(refs[0], sop_instance_uid="1.9")])
    Path(refs[1].content).write_bytes(b"SECRET")
    assert refusal(refs).startswith("instance 1.2.4.2: the file is no DICOM Part 10 file")


def test_a_size_that_no_memory_holds_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    assert refusal(ct_series(tmp_path, count=10, Rows=10000, Columns=10000)) == (
        "10 slices of 10000 x 10000 are 1000000000 voxels; at most 750000000 are read"
    )


def test_a_volume_of_one_value_is_no_image(tmp_path: Path) -> None:
    refs = ct_series(tmp_path, stored=np.full((6, ROWS, COLUMNS), 7, np.uint16))
    assert refusal(refs) == "every voxel has the same value, a volume was expected"


def test_values_that_no_float_holds_are_refused(tmp_path: Path) -> None:
    assert "beyond what a float" in refusal(ct_series(tmp_path, RescaleSlope="1e37"))


# --- MONAI ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_chest_ct_is_what_pydicom_and_monai_make_of_it(real_data: Path) -> None:
    folder = real_data / "dicom/chest-ct/dicom"
    images = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    refs = [InstanceRef(str(each.SOPInstanceUID), str(each.SOPClassUID), str(each.filename)) for each in images]
    volume = load_volume(shuffled(refs))
    assert volume.values.shape == (512, 512, 60)
    images.sort(key=lambda each: float(each.ImagePositionPatient[2]))
    assert [ref.sop_instance_uid for ref, _ in volume.frames] == [each.SOPInstanceUID for each in images]
    for k in (0, 29, 59):
        expected = images[k].pixel_array.astype(np.float32) * images[k].RescaleSlope + images[k].RescaleIntercept
        np.testing.assert_array_equal(volume.values[:, :, k].T, expected)
        for i, j in ((0, 0), (511, 0), (0, 511)):
            np.testing.assert_allclose((volume.affine @ (i, j, k, 1))[:3], place_in_patient(images[k], i, j), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), (0.703125, 0.703125, 1.25))
    inside = volume.values[volume.values > -2000]  # the rest is padding
    air, soft = inside[(inside > -1100) & (inside < -900)], inside[(inside > -50) & (inside < 100)]
    assert np.median(air) == pytest.approx(-990, abs=30)
    assert min(len(air), len(soft)) > len(inside) / 10

    reader = PydicomReader()
    array, meta = reader.get_data(reader.read(str(folder)))
    # MONAI orders by instance number, which runs from head to feet here: slice k is its 59 - k.
    np.testing.assert_array_equal(array[:, :, ::-1], volume.values)
    turned = np.array(meta["affine"]) @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 59], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(volume.affine, turned, atol=1e-6)
    ours = to_meta_tensor(volume).meta
    assert ours["space"] == meta["space"]
    assert tuple(ours["spatial_shape"]) == tuple(meta["spatial_shape"])
    assert np.isnan(ours["original_channel_dim"])
    assert np.isnan(meta["original_channel_dim"])


def test_the_tensor_goes_through_monai_and_names_no_file(tmp_path: Path) -> None:
    volume = load_volume(ct_series(tmp_path / "SECRET", "oblique"))
    tensor = to_meta_tensor(volume)
    assert isinstance(tensor, MetaTensor)
    assert tensor.shape == volume.values.shape
    assert "SECRET" not in str(tensor.meta)
    np.testing.assert_array_equal(tensor.affine, volume.affine)
    image = EnsureChannelFirst()(tensor)
    assert image.shape == (1, *volume.values.shape)
    again = Compose([Orientation("RAS", labels=None), Orientation("LPI", labels=None)])(image)
    assert torch.equal(torch.sort(again.flatten()).values, torch.sort(image.flatten()).values)


# --- back onto the source ---------------------------------------------------------------------------------------------


def random_mask(volume: Volume, seed: int = 5) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(volume.values.shape) < 0.4


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_mask_on_the_volumes_own_grid_comes_back_exactly_however_it_was_turned(tmp_path: Path, geometry: str) -> None:
    volume = load_volume(ct_series(tmp_path, geometry))
    mask = random_mask(volume)
    for order in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            turned, affine = mask.transpose(order), np.eye(4)
            affine[:3, :3] = np.eye(3)[:, order]
            for axis in np.flatnonzero(flips):
                turned = np.flip(turned, axis)
                affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
                affine[:3, axis] *= -1
            back = to_frames(volume, turned, (volume.affine @ affine).astype(np.float32))
            assert back.dtype == bool
            np.testing.assert_array_equal(back, mask.transpose(2, 1, 0))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_monai_turned_comes_back_exactly(tmp_path: Path, geometry: str) -> None:
    volume = load_volume([write(tmp_path, enhanced(geometry))])
    turned = Orientation("PIR", labels=None)(EnsureChannelFirst()(to_meta_tensor(volume)))
    back = to_frames(volume, turned[0].numpy(), turned.affine.numpy())
    np.testing.assert_array_equal(back, as_frames(volume))


def test_a_crop_or_a_margin_is_copied_into_its_place(tmp_path: Path) -> None:
    volume = load_volume(ct_series(tmp_path, "tilted"))
    labels = np.random.default_rng(2).integers(0, 9, volume.values.shape, dtype=np.uint8)
    move = np.eye(4)
    move[:3, 3] = (2, 3, 1)
    expected = np.zeros_like(labels)
    expected[2:9, 3:8, 1:4] = labels[2:9, 3:8, 1:4]
    back = to_frames(volume, labels[2:9, 3:8, 1:4], volume.affine @ move)
    np.testing.assert_array_equal(back, expected.transpose(2, 1, 0))
    padded = np.pad(labels, 4)
    move[:3, 3] = -4
    np.testing.assert_array_equal(to_frames(volume, padded, volume.affine @ move), labels.transpose(2, 1, 0))
    move[:3, 3] = 100
    assert not to_frames(volume, labels, volume.affine @ move).any()


@pytest.mark.parametrize("turned", [False, True])
def test_a_map_on_another_grid_is_interpolated_and_labels_are_not_mixed(tmp_path: Path, turned: bool) -> None:
    volume = load_volume(ct_series(tmp_path, "oblique"))
    # A grid of other cells around the same place, parallel to the slices (with axes exchanged) or not.
    grid = np.array([[0, 1.3, 0, -2], [0.8, 0, 0, -1.2], [0, 0, 0.5, -0.3], [0, 0, 0, 1]])
    if turned:
        a = np.radians(20)
        grid = grid @ np.array(
            [[np.cos(a), -np.sin(a), 0, 0], [np.sin(a), np.cos(a), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        )
    affine = volume.affine @ grid
    shape = (30, 28, 15)
    index = np.indices(shape).reshape(3, -1)
    ramp = np.array([0.3, -0.7, 1.9])  # linear in the patient, so that interpolation gives it exactly
    world = (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)
    probabilities = np.tensordot(ramp, world, 1).astype(np.float32)
    labels = np.random.default_rng(4).integers(1, 200, shape, dtype=np.uint8)
    k, j, i = np.indices((6, ROWS, COLUMNS))
    places = np.tensordot(volume.affine, np.stack([i, j, k, np.ones_like(i)]), 1)
    at = np.tensordot(np.linalg.inv(affine), places, 1)[:3]
    inside = np.logical_and.reduce([(each >= -0.5) & (each < size - 0.5) for each, size in zip(at, shape, strict=True)])
    deep = np.logical_and.reduce([(each >= 0) & (each <= size - 1) for each, size in zip(at, shape, strict=True)])
    assert deep.mean() > 0.3
    assert not inside.all() or not turned
    maps = to_frames(volume, probabilities, affine)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps[deep], np.tensordot(ramp, places[:3], 1)[deep], atol=1e-3)
    assert not maps[~inside].any()
    nearest = np.clip(np.floor(at + 0.5).astype(int), 0, np.array(shape)[:, None, None, None] - 1)
    expected = np.where(inside, labels[tuple(nearest)], 0)
    tie = np.abs(at + 0.5 - np.rint(at + 0.5)).min(axis=0) < 1e-9
    back = to_frames(volume, labels, affine)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back[~tie], expected[~tie])


def test_what_monai_resampled_comes_back_close_and_covers_the_outermost_pixels(tmp_path: Path) -> None:
    k, j, i = np.indices((6, ROWS, COLUMNS))
    volume = load_volume(ct_series(tmp_path, stored=(1100 + 100 * i + 50 * j + 20 * k).astype(np.uint16)))
    coarse = Compose([EnsureChannelFirst(), Spacing((0.9, 0.9, 3.0), padding_mode="border")])(to_meta_tensor(volume))
    back = to_frames(volume, coarse[0].numpy(), coarse.affine.numpy())
    assert (back != 0).all()
    assert np.abs(back - as_frames(volume)).mean() < 5


@pytest.mark.parametrize(
    ("mask", "affine"),
    [
        (np.zeros((3, 3)), np.eye(4)),
        (np.zeros((0, 3, 3)), np.eye(4)),
        (np.zeros((3, 3, 3)), np.zeros((4, 4))),
        (np.zeros((3, 3, 3)), np.full((4, 4), np.nan)),
        (np.zeros((3, 3, 3)), np.eye(3)),
    ],
)
def test_a_result_without_a_place_is_refused(tmp_path: Path, mask: NDArray[Any], affine: NDArray[Any]) -> None:
    volume = load_volume(ct_series(tmp_path))
    with pytest.raises(ReadingError, match=r"expected|inverted"):
        to_frames(volume, mask, affine)
