"""A bundle becomes a model: real MONAI machinery around a network of one convolution that sees bright areas."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ai.bundle.files import BundleError, bundle_digest, describe, shipped
from ai.contract import Asked, Code, InstanceRef, Model, Presence, ReadingError, Selection, SeriesRef
from ai.inference.bundle_model import BundleModel, load

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
GRAYSCALE_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")

READING = {
    "format": 1,
    "name": "bright",
    "task": "regions",
    "manufacturer": "Test",
    "intended_use": "Finds what is bright, in tests.",
    "notice": "",
    "input": {"modality": ["CR", "DX"], "body_part": ["CHEST", ""], "view": ["PA", "AP", ""], "max_images": 3},
    "outputs": [
        {
            "key": key,
            "name": name,
            "channel": channel,
            "code": {"value": value, "scheme": "SCT", "meaning": name},
            "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
            "threshold": 0.5,
            "map_threshold": 0.5,
            "min_area": 4,
        }
        for key, name, channel, value in (("nodule", "Nodule", 0, "27925004"), ("mass", "Mass", 1, "4147007"))
    ],
}
INFERENCE: dict[str, Any] = {
    "network_def": {
        "_target_": "monai.networks.blocks.Convolution",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "kernel_size": 1,
        "conv_only": True,
    },
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Resized", "keys": "image", "spatial_size": [128, 128], "mode": "area"}],
    },
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
    },
}
METADATA: dict[str, Any] = {
    "version": "1.2.3",
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.4.6",
    "task": "Bright areas",
    "description": "One convolution.",
    "authors": "Test",
    "copyright": "Test",
    "network_data_format": {
        "inputs": {"image": {"type": "image", "num_channels": 1, "spatial_shape": [128, 128], "dtype": "float32"}},
        "outputs": {"pred": {"type": "probabilities", "num_channels": 2, "spatial_shape": [128, 128]}},
    },
}


def write_bundle(
    path: Path,
    *,
    inference: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    reading: dict[str, Any] | None = None,
    bias: float = -32.0,
) -> Path:
    (path / "configs").mkdir(parents=True)
    (path / "models").mkdir()
    for name, content in (("inference", inference or INFERENCE), ("metadata", metadata or METADATA)):
        (path / "configs" / f"{name}.json").write_text(json.dumps(content))
    (path / "configs" / "reading.json").write_text(json.dumps(reading or READING))
    # Channel 0 is the sigmoid of 40 x - 32, high where the image is whiter than 0.8; channel 1 never is.
    weights = {
        "conv.weight": torch.tensor([40.0, -10.0]).reshape(2, 1, 1, 1),
        "conv.bias": torch.tensor([bias, -10.0]),
    }
    torch.save(weights, path / "models" / "model.pt")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BundleModel:
    return load(write_bundle(tmp_path_factory.mktemp("bundle") / "bright"), threads=1)


def pixels(*bright: tuple[int, int, int, int]) -> np.ndarray:
    image = np.full((512, 384), 1000, dtype=np.uint16)
    image[0, 0] = 0
    for left, top, right, bottom in bright:
        image[top:bottom, left:right] = 4095
    return image


def write_image(path: Path, uid: str = "1.2.3.1", image: np.ndarray | None = None, **changes: Any) -> InstanceRef:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = changes.pop("SOPClassUID", DX)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid
    data.PatientName = "SECRET^PATIENT"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.PatientOrientation = ["L", "F"]
    data.SeriesNumber, data.InstanceNumber = 1, 1
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.WindowCenter, data.WindowWidth = 2048, 4096
    image = pixels() if image is None else image
    data.Rows, data.Columns = image.shape
    data.PixelData = image.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values are wrong on purpose
        for keyword, value in changes.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value)
        data.save_as(path / f"{uid}.dcm", enforce_file_format=True)
    return InstanceRef(uid, data.SOPClassUID, str(path / f"{uid}.dcm"))


def series(*instances: InstanceRef, uid: str = "1.2.3", modality: str = "DX", body_part: str = "CHEST") -> SeriesRef:
    return SeriesRef("1.2", uid, modality, body_part, "", instances)


def chosen(model: BundleModel, *instances: InstanceRef) -> Selection:
    selection = model.select([series(*instances)])
    assert selection.chosen == instances
    return selection


def reasons(selection: Selection) -> dict[str, str]:
    return {passed.uid: passed.reason for passed in selection.passed_over}


def test_a_bundle_is_a_model(model: BundleModel) -> None:
    as_model: Model = model
    assert (as_model.identity.name, as_model.identity.version) == ("bright", "1.2.3")
    assert as_model.identity.digest == bundle_digest(model.info.path)


def test_a_bright_square_is_found_where_it_is(model: BundleModel, tmp_path: Path) -> None:
    # The edges are multiples of 3 columns and 4 rows, the size of the network's pixels.
    reading = model.read(chosen(model, write_image(tmp_path, image=pixels((198, 100, 264, 164)))))
    (finding,) = reading.findings
    region = finding.region
    assert (region.left, region.top, region.right, region.bottom) == pytest.approx((198, 100, 264, 164), abs=1e-6)
    assert (finding.key, finding.code.value, finding.score > 0.99) == ("nodule", "27925004", True)
    assert finding.site == Code("39607008", "SCT", "Lung")
    assert finding.laterality is None  # the bundle is not for chests alone, so the picture has no midline
    assert [(c.key, c.presence) for c in reading.classes] == [
        ("nodule", Presence.PRESENT),
        ("mass", Presence.ABSENT),
    ]
    assert [name for name, _ in reading.seconds] == ["decode", "network", "findings"]


@pytest.mark.parametrize("square", [(0, 0, 60, 60), (324, 452, 384, 512), (0, 452, 60, 512), (17, 33, 101, 119)])
def test_any_square_is_found_within_a_network_pixel(
    model: BundleModel, tmp_path: Path, square: tuple[int, int, int, int]
) -> None:
    (finding,) = model.read(chosen(model, write_image(tmp_path, image=pixels(square)))).findings
    region = finding.region
    assert (region.left, region.right) == pytest.approx((square[0], square[2]), abs=3)
    assert (region.top, region.bottom) == pytest.approx((square[1], square[3]), abs=4)


@pytest.mark.parametrize("spacing", [None, [1e-3, 1e-3], [0.1, 0.1], [3.0, 3.0], [1e-3, 0.9]])
def test_a_spacing_that_no_film_can_have_neither_joins_nor_parts(
    model: BundleModel, tmp_path: Path, spacing: list[float] | None
) -> None:
    """The image is taken to be 350 mm wide: 0.9 mm a column, so that 9 columns join and 30 do not."""
    squares = ((60, 100, 90, 130), (99, 100, 129, 130), (159, 100, 189, 130), (159, 300, 189, 330))
    changes = {} if spacing is None else {"PixelSpacing": spacing}
    found = model.read(chosen(model, write_image(tmp_path, image=pixels(*squares), **changes))).findings
    across = sorted((round(one.region.left), round(one.region.right)) for one in found)
    assert across == [(60, 129), (159, 189), (159, 189)]


def test_a_spacing_that_a_film_can_have_counts(model: BundleModel, tmp_path: Path) -> None:
    squares = pixels((60, 100, 90, 130), (120, 100, 150, 130))
    read = {
        spacing: len(
            model.read(chosen(model, write_image(tmp_path, image=squares, PixelSpacing=[spacing, spacing]))).findings
        )
        for spacing in (0.14, 0.9, 2.6)
    }
    assert read == {0.14: 1, 0.9: 2, 2.6: 2}  # 30 columns of 0.14 mm are 4 mm


def test_an_inverted_image_reads_the_same(model: BundleModel, tmp_path: Path) -> None:
    plain = pixels((198, 100, 264, 164))
    inverted = write_image(
        tmp_path, image=4095 - plain, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"
    )
    (finding,) = model.read(chosen(model, inverted)).findings
    assert finding.region.left == pytest.approx(198)


@pytest.mark.parametrize(
    ("declared", "side"),
    [
        ({"ImageLaterality": "L"}, LEFT),
        ({"ImageLaterality": "", "Laterality": "R"}, RIGHT),
        ({"ImageLaterality": "L", "Laterality": "R"}, None),
        ({"ImageLaterality": "B"}, None),
    ],
)
def test_the_side_of_another_part_than_the_chest_is_the_declared_one(
    model: BundleModel, tmp_path: Path, declared: dict[str, str], side: Code | None
) -> None:
    image = write_image(tmp_path, image=pixels((198, 100, 264, 164)), **declared)
    (finding,) = model.read(chosen(model, image)).findings
    assert finding.laterality == side


def test_an_image_without_anything_has_every_class_absent(model: BundleModel, tmp_path: Path) -> None:
    reading = model.read(chosen(model, write_image(tmp_path)))
    assert reading.findings == ()
    assert {result.presence for result in reading.classes} == {Presence.ABSENT}
    assert all(result.score < result.threshold for result in reading.classes)


def test_a_class_has_its_best_score_over_all_images(model: BundleModel, tmp_path: Path) -> None:
    blank = write_image(tmp_path, "1.2.3.1", InstanceNumber=1)
    bright = write_image(tmp_path, "1.2.3.2", pixels((198, 100, 264, 164)), InstanceNumber=2)
    alone = model.read(chosen(model, bright))
    after = write_image(tmp_path, "1.2.3.3", InstanceNumber=3)
    both = model.read(chosen(model, blank, bright, after))
    assert both.classes[0].score == alone.classes[0].score
    assert both.sources == (blank, bright, after)
    assert {finding.region.sop_instance_uid for finding in both.findings} == {"1.2.3.2"}


def test_twice_the_same_is_the_same(model: BundleModel, tmp_path: Path) -> None:
    selection = chosen(model, write_image(tmp_path, image=pixels((198, 100, 264, 164), (30, 300, 90, 400))))
    first, second = (dataclasses.replace(model.read(selection), seconds=()) for _ in range(2))
    assert [dataclasses.astuple(each)[:2] for each in first.heat_maps] == [("1.2.3.1", "nodule")]
    for one, other in zip(first.heat_maps, second.heat_maps, strict=True):
        assert (one.values == other.values).all()
    assert dataclasses.replace(first, heat_maps=()) == dataclasses.replace(second, heat_maps=())
    assert len(first.findings) == 2


def test_a_heat_map_lies_where_the_class_was_seen(model: BundleModel, tmp_path: Path) -> None:
    reading = model.read(chosen(model, write_image(tmp_path, image=pixels((198, 100, 264, 164)))))
    (heat,) = reading.heat_maps
    rows, columns = np.nonzero(heat.values >= 0.5)
    down = (heat.bottom - heat.top) / heat.values.shape[0]
    across = (heat.right - heat.left) / heat.values.shape[1]
    (finding,) = reading.findings
    assert heat.left + across * columns.min() == pytest.approx(finding.region.left, abs=across)
    assert heat.left + across * (columns.max() + 1) == pytest.approx(finding.region.right, abs=across)
    assert heat.top + down * rows.min() == pytest.approx(finding.region.top, abs=down)
    assert heat.top + down * (rows.max() + 1) == pytest.approx(finding.region.bottom, abs=down)
    assert model.read(chosen(model, write_image(tmp_path, "1.2.3.7"))).heat_maps == ()


def test_what_lies_in_the_padding_is_no_finding(tmp_path: Path) -> None:
    inference = json.loads(json.dumps(INFERENCE))
    inference["preprocessing"]["transforms"] = [
        {"_target_": "Resized", "keys": "image", "spatial_size": 96, "size_mode": "longest", "mode": "area"},
        {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [128, 128], "constant_values": 1.0},
    ]
    model = load(write_bundle(tmp_path / "bundle", inference=inference), threads=1)
    assert model.read(chosen(model, write_image(tmp_path))).findings == ()
    bright = write_image(tmp_path, "1.2.3.2", pixels((192, 96, 256, 160)))
    (finding,) = model.read(chosen(model, bright)).findings
    region = finding.region
    assert (region.left, region.top, region.right, region.bottom) == pytest.approx((192, 96, 256, 160), abs=6)


def test_a_map_may_be_coarser_than_the_input(tmp_path: Path) -> None:
    inference = json.loads(json.dumps(INFERENCE))
    inference["network_def"] |= {"kernel_size": 4, "strides": 4, "padding": 0}
    path = write_bundle(tmp_path / "bundle", inference=inference)
    weights = torch.zeros(2, 1, 4, 4)
    weights[0] = 40.0 / 16
    torch.save({"conv.weight": weights, "conv.bias": torch.tensor([-32.0, -10.0])}, path / "models" / "model.pt")
    model = load(path, threads=1)
    # A cell of the map is 12 columns by 16 rows of the image.
    (finding,) = model.read(chosen(model, write_image(tmp_path, image=pixels((192, 96, 264, 160))))).findings
    region = finding.region
    assert (region.left, region.top, region.right, region.bottom) == pytest.approx((192, 96, 264, 160))


def test_a_region_ends_where_the_image_ends(tmp_path: Path) -> None:
    inference = json.loads(json.dumps(INFERENCE))
    inference["network_def"] |= {"kernel_size": 4, "strides": 4, "padding": 0}
    inference["preprocessing"]["transforms"] = [  # the image ends inside of a cell of the map
        {"_target_": "Resized", "keys": "image", "spatial_size": 94, "size_mode": "longest", "mode": "area"},
        {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [128, 128], "constant_values": 1.0},
    ]
    path = write_bundle(tmp_path / "bundle", inference=inference)
    weights = torch.zeros(2, 1, 4, 4)
    weights[0] = 40.0 / 16
    torch.save({"conv.weight": weights, "conv.bias": torch.tensor([-32.0, -10.0])}, path / "models" / "model.pt")
    model = load(path, threads=1)
    image = write_image(tmp_path, image=pixels((284, 412, 384, 512)))
    regions = [finding.region for finding in model.read(chosen(model, image)).findings]
    assert (max(region.right for region in regions), max(region.bottom for region in regions)) == (384, 512)
    assert all(0 <= region.left < region.right and 0 <= region.top < region.bottom for region in regions)


def test_the_network_infers_and_does_not_train(tmp_path: Path) -> None:
    inference = json.loads(json.dumps(INFERENCE))
    inference["network_def"] |= {"conv_only": False, "norm": None, "act": None, "dropout": 0.9}
    model = load(write_bundle(tmp_path / "bundle", inference=inference), threads=1)
    (finding,) = model.read(chosen(model, write_image(tmp_path, image=pixels((198, 100, 264, 164))))).findings
    assert finding.region.left == pytest.approx(198)


# --- failures are no negative readings


def test_where_one_image_cannot_be_read_nothing_is_absent(model: BundleModel, tmp_path: Path) -> None:
    good = write_image(tmp_path, "1.2.3.1", pixels((198, 100, 264, 164)))
    blank = write_image(tmp_path, "1.2.3.3")
    broken = write_image(tmp_path, "1.2.3.2", InstanceNumber=2, PixelData=b"\0" * 100)
    for one, presence in ((good, Presence.PRESENT), (blank, Presence.UNDETERMINED)):
        reading = model.read(chosen(model, one, broken))
        assert [failed.uid for failed in reading.failed] == ["1.2.3.2"]
        assert re.fullmatch(r"PixelData is truncated: .* 393216 were expected", reading.failed[0].reason)
        assert reading.sources == (one,)
        assert reading.classes[0].presence is presence
        assert Presence.ABSENT not in {each.presence for each in reading.classes}
        assert reading.failure == ""


def test_where_no_image_can_be_read_the_reading_fails(model: BundleModel, tmp_path: Path) -> None:
    broken = [write_image(tmp_path, uid, PixelData=b"\0" * 100) for uid in ("1.2.3.2", "1.2.3.4")]
    with pytest.raises(ReadingError, match=r"^instance 1\.2\.3\.2: PixelData is truncated: .* 393216 were expected$"):
        model.read(chosen(model, *broken))


def test_nothing_chosen_is_no_reading(model: BundleModel) -> None:
    with pytest.raises(ReadingError, match="no image was chosen"):
        model.read(Selection((), ()))


def test_a_file_of_another_instance_is_refused(model: BundleModel, tmp_path: Path) -> None:
    other = dataclasses.replace(write_image(tmp_path), sop_instance_uid="1.2.3.9")
    with pytest.raises(ReadingError, match=r"instance 1\.2\.3\.9: the file holds another instance"):
        model.read(Selection((other,), ()))


def test_a_file_that_cannot_be_opened_is_chosen_and_fails(model: BundleModel, tmp_path: Path) -> None:
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"SECRET^PATIENT" * 20)
    broken = InstanceRef("1.2.3.9", DX, str(tmp_path / "broken.dcm"))
    selection = model.select([series(broken)])
    assert selection.chosen == (broken,)
    with pytest.raises(ReadingError, match=r"instance 1\.2\.3\.9: ") as caught:
        model.read(selection)
    assert "SECRET" not in str(caught.value)


# --- what is read and what is passed over


def test_a_series_of_another_modality_is_passed_over_unopened(model: BundleModel) -> None:
    there_is_no_file = InstanceRef("1.2.3.1", DX, "/nowhere")
    selection = model.select([series(there_is_no_file, modality="CT"), series(there_is_no_file, body_part="FOOT")])
    assert selection.chosen == ()
    assert [passed.reason for passed in selection.passed_over] == [
        "modality CT is not among CR, DX",
        "body part FOOT is not among CHEST",
    ]
    assert {passed.uid for passed in selection.passed_over} == {"1.2.3"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ViewPosition": "LATERAL"}, "view LATERAL is not among PA, AP"),
        ({"ViewPosition": "PA^SECRET"}, "view an unusual value is not among PA, AP"),
        ({"Modality": "MG"}, "modality MG is not among CR, DX"),
        ({"BodyPartExamined": "HAND"}, "body part HAND is not among CHEST"),
        ({"PixelData": None}, "it has no pixels"),
        ({"NumberOfFrames": 3}, "it has 3 frames, the model reads single images"),
        ({"PhotometricInterpretation": "RGB"}, "it is no grey image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "it is a localizer"),
        (
            {"ImageType": ["DERIVED", "SECONDARY"], "SOPClassUID": SECONDARY_CAPTURE},
            "it is a derived secondary capture",
        ),
        (
            {"ImageType": ["DERIVED", "PRIMARY"], "BurnedInAnnotation": "YES"},
            "it is derived and has annotations burned in",
        ),
        ({"PresentationIntentType": "FOR PROCESSING"}, "it is for processing, not for presentation"),
        ({"SOPClassUID": GRAYSCALE_STATE}, "it is no image"),
    ],
)
def test_each_instance_passed_over_has_its_reason(
    model: BundleModel, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    good = write_image(tmp_path, "1.2.3.1")
    other = write_image(tmp_path, "1.2.3.2", **changes)
    selection = model.select([series(other, good)])
    assert selection.chosen == (good,)
    assert reasons(selection) == {"1.2.3.2": reason}


@pytest.mark.parametrize(
    "changes",
    [
        {"Modality": "cr", "BodyPartExamined": "Chest ", "ViewPosition": "pa"},
        {"BodyPartExamined": "", "ViewPosition": None},
        {"ImageType": ["DERIVED", "PRIMARY"]},  # a lossy copy of an original
        {"ImageType": ["ORIGINAL", "PRIMARY"], "SOPClassUID": SECONDARY_CAPTURE},  # a digitised film
        {"ImageType": ["ORIGINAL", "PRIMARY"], "BurnedInAnnotation": "YES"},  # a side marker, mostly
        {"NumberOfFrames": 1, "PhotometricInterpretation": "MONOCHROME1"},
    ],
)
def test_radiographs_are_chosen_however_they_are_labelled(
    model: BundleModel, tmp_path: Path, changes: dict[str, Any]
) -> None:
    image = write_image(tmp_path, **changes)
    assert model.select([series(image, modality="", body_part="")]).chosen == (image,)


def test_a_view_must_be_given_where_the_model_says_so(tmp_path: Path) -> None:
    reading = json.loads(json.dumps(READING))
    reading["input"]["view"] = ["PA"]
    model = load(write_bundle(tmp_path / "bundle", reading=reading), threads=1)
    selection = model.select([series(write_image(tmp_path, ViewPosition=""))])
    assert reasons(selection) == {"1.2.3.1": "no view is given, and the model takes PA"}


def test_the_index_knows_the_body_part_that_a_header_leaves_out(tmp_path: Path) -> None:
    reading = json.loads(json.dumps(READING))
    reading["input"]["body_part"] = ["CHEST"]
    model = load(write_bundle(tmp_path / "bundle", reading=reading), threads=1)
    image = write_image(tmp_path, BodyPartExamined="")
    assert model.select([series(image)]).chosen == (image,)
    assert reasons(model.select([series(image, body_part="")])) == {
        "1.2.3.1": "no body part is given, and the model takes CHEST"
    }


def test_images_are_read_in_order_and_none_is_absent_beyond_the_most(model: BundleModel, tmp_path: Path) -> None:
    numbers = [("1.2.3.10", 2, 1), ("1.2.3.9", 1, 10), ("1.2.3.8", 1, 9), ("1.2.3.7", 1, None), ("1.2.3.6", 3, 1)]
    images = {
        uid: write_image(tmp_path, uid, SeriesNumber=series_number, InstanceNumber=number)
        for uid, series_number, number in numbers
    }
    selection = model.select([series(*(images[uid] for uid, _, _ in numbers))])
    assert [one.sop_instance_uid for one in selection.chosen] == ["1.2.3.8", "1.2.3.9", "1.2.3.7"]
    told = [(passed.uid, passed.reason) for passed in selection.surplus]
    assert told == [(uid, "the model reads at most 3 images of a study") for uid in ("1.2.3.10", "1.2.3.6")]
    assert selection.passed_over == ()
    reading = model.read(selection)
    assert reading.failed == selection.surplus
    assert {each.presence for each in reading.classes} == {Presence.UNDETERMINED}


def test_the_same_instance_twice_is_read_once(model: BundleModel, tmp_path: Path) -> None:
    image = write_image(tmp_path)
    selection = model.select([series(image), series(image, uid="1.2.4")])
    assert selection.chosen == (image,)
    assert reasons(selection) == {"1.2.3.1": "the same instance is in the study twice"}


# --- digest and description


def test_the_digest_knows_every_file_and_no_litter(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle")
    before = bundle_digest(path)
    (path / "__pycache__").mkdir()
    (path / "__pycache__" / "x.pyc").write_bytes(b"x")
    (path / ".DS_Store").write_bytes(b"x")
    assert bundle_digest(path) == before == bundle_digest(write_bundle(tmp_path / "again"))
    (path / "docs").mkdir()
    (path / "docs" / "card.md").write_bytes(b"x")
    with_card = bundle_digest(path)
    (path / "docs" / "card.md").rename(path / "docs" / "cards.md")
    assert len({before, with_card, bundle_digest(path)}) == 3


def test_the_digest_does_not_confuse_a_path_with_its_bytes(tmp_path: Path) -> None:
    for folder, first, second in (("one", b"b\0", b""), ("two", b"", b"b\0")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_bytes(first)
        (tmp_path / folder / "b").write_bytes(second)
    assert bundle_digest(tmp_path / "one") != bundle_digest(tmp_path / "two")


@pytest.mark.slow
def test_a_bundle_is_described_without_torch(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle")
    code = (
        "import sys, pathlib; from ai.bundle.files import describe, shipped; shipped()\n"
        "info = describe(pathlib.Path(sys.argv[1])); print(info.identity.version, info.input_shape)\n"
        "assert not {'torch', 'monai'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1.2.3 (128, 128)\n"), done.stderr


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_bundle_loads(name: str) -> None:
    model = load(shipped()[name], threads=1)
    assert model.identity.name == name


# --- bundles that are not right


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def data_format(**changes: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(METADATA))
    for place, value in changes.items():
        side, key = place.split("_", 1)
        copy["network_data_format"][side]["image" if side == "inputs" else "pred"][key] = value
    return copy


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"metadata": without(METADATA, "version")}, r"metadata\.json: version is missing or empty"),
        ({"metadata": without(METADATA, "network_data_format")}, r"network_data_format is missing"),
        ({"metadata": data_format(outputs_num_channels=1)}, r"says 1 output channels, but .* names channel 1"),
        ({"metadata": data_format(inputs_num_channels=3)}, r"says an input of 3 channels, but preprocessing gives 1"),
        ({"metadata": data_format(inputs_spatial_shape=[1, 2, 3])}, r"a height and a width were expected"),
        ({"metadata": data_format(inputs_spatial_shape=[64, 64])}, r"says an input of 64 x 64, but preprocessing"),
        ({"metadata": data_format(outputs_num_channels=3)}, r"says 3 output channels, but the bundle gives 2"),
        ({"inference": without(INFERENCE, "preprocessing")}, r"inference\.json: preprocessing is missing"),
        (
            {"inference": INFERENCE | {"network_def": {"_target_": "NoSuchNetwork"}}},
            r"inference\.json: network_def cannot be built: .*NoSuchNetwork",
        ),
        ({"inference": INFERENCE | {"preprocessing": "$1 / 0"}}, r"preprocessing cannot be built: .*"),
        ({"inference": INFERENCE | {"preprocessing": 3}}, r"preprocessing is a int; a callable was expected"),
        ({"inference": INFERENCE | {"network_def": "$len"}}, r"network_def is a .*; a network was expected"),
        (
            {"inference": INFERENCE | {"network_def": INFERENCE["network_def"] | {"out_channels": 3}}},
            r"model\.pt: the weights do not fit network_def",
        ),
        (
            {"inference": INFERENCE | {"postprocessing": {"_target_": "Compose", "transforms": []}}},
            r"probabilities in 0\.\.1 were expected",
        ),
        (
            {"inference": INFERENCE | {"preprocessing": "$lambda item: {'image': item['image'].as_tensor()}"}},
            r"preprocessing gives image as a Tensor; a MetaTensor was expected",
        ),
        ({"inference": INFERENCE | {"inferer": "$lambda inputs, network: 1 / 0"}}, r"does not run: ZeroDivisionError"),
        (
            {"inference": INFERENCE | {"inferer": "$lambda inputs, network: network(inputs)[:, :1]"}},
            r"pred is an array of \(1, 128, 128\); .*at least 2 channels",
        ),
        ({"bias": float("nan")}, r"the output is not finite"),
        ({"reading": READING | {"format": 2}}, r"reading\.json: format"),
    ],
)
def test_a_wrong_bundle_is_refused_with_the_reason(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    path = write_bundle(tmp_path / "bundle", **parts)
    with pytest.raises(BundleError, match=message):
        load(path, threads=1)


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(content) and None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("models/model.pt"), r"model\.pt: missing"),
        (remove("configs/reading.json"), r"reading\.json: missing"),
        (write("configs/inference.json", b"{"), r"inference\.json: cannot be read as JSON"),
        (write("configs/metadata.json", b"[]"), r"metadata\.json: a JSON object was expected"),
        (write("models/model.pt", b"no weights"), r"model\.pt: is no file of weights"),
    ],
)
def test_a_damaged_bundle_is_refused_with_the_file(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = write_bundle(tmp_path / "bundle")
    damage(path)
    with pytest.raises(BundleError, match=message):
        load(path, threads=1)


def test_weights_cannot_carry_code(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle")
    torch.save({"conv.weight": Path}, path / "models" / "model.pt")
    with pytest.raises(BundleError, match=r"model\.pt: is no file of weights"):
        load(path, threads=1)


def test_no_directory_and_no_device_are_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the directory of a MONAI bundle was expected"):
        describe(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="device 'abacus' cannot be used"):
        load(write_bundle(tmp_path / "bundle"), device="abacus")


# --- what is asked for

POINTS = {
    "operating_points": {
        "low_alarm": {
            "thresholds": {"nodule": 0.9999, "mass": 0.9},
            "figures": {"nodule": {"sensitivity": 0.4, "specificity": 0.98, "positives": 50, "normals": 100}},
        },
        "balanced": {"thresholds": {"nodule": 0.5, "mass": 0.5}},
    },
    "operating_point": "balanced",
}


@pytest.fixture(scope="module")
def offering(tmp_path_factory: pytest.TempPathFactory) -> BundleModel:
    outputs = [READING["outputs"][0], READING["outputs"][1] | {"default": False}]  # type: ignore[index]
    reading = READING | POINTS | {"outputs": outputs}
    return load(write_bundle(tmp_path_factory.mktemp("bundle") / "bright", reading=reading), threads=1)


def test_an_operating_point_is_the_threshold_of_every_class(offering: BundleModel, tmp_path: Path) -> None:
    image = write_image(tmp_path, image=pixels((40, 40, 200, 200)))
    selection = chosen(offering, image)
    usual, strict = offering.read(selection), offering.read(selection, Asked(operating_point="low_alarm"))
    assert (usual.operating_point, usual.classes[0].threshold) == ("balanced", 0.5)
    assert (strict.operating_point, strict.classes[0].threshold) == ("low_alarm", 0.9999)
    assert usual.classes[0].presence is Presence.PRESENT and usual.findings
    assert strict.classes[0].presence is Presence.ABSENT and not strict.findings
    assert (strict.classes[0].sensitivity, strict.classes[0].specificity) == (0.4, 0.98)
    assert (usual.classes[0].sensitivity, usual.classes[0].specificity) == (None, None)  # those of another point


def test_a_class_that_nobody_asked_for_is_neither_present_nor_absent(offering: BundleModel, tmp_path: Path) -> None:
    selection = chosen(offering, write_image(tmp_path, image=pixels((40, 40, 200, 200))))
    usual = offering.read(selection)
    assert [each.key for each in usual.classes] == ["nodule"]
    assert [each.key for each in usual.not_looked_for] == ["mass"]
    everything = offering.read(selection, Asked(("*", "mass")))
    assert [each.key for each in everything.classes] == ["nodule", "mass"] and not everything.not_looked_for
    only = offering.read(selection, Asked(("ma*",)))
    assert [each.key for each in only.classes] == ["mass"]
    assert not only.findings and not only.heat_maps
    assert [each.key for each in only.not_looked_for] == ["nodule"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(("pox",)), r"findings: 'pox' fits no class of bright; it has: nodule, mass"),
        (Asked(operating_point="screening"), r"'screening' is not offered by bright; it offers: low_alarm, balanced"),
    ],
)
def test_what_a_model_does_not_offer_cannot_be_asked(
    offering: BundleModel, tmp_path: Path, asked: Asked, message: str
) -> None:
    with pytest.raises(ReadingError, match=message):
        offering.read(chosen(offering, write_image(tmp_path)), asked)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"operating_point": "balanced"}, "expected both or neither"),
        (POINTS | {"operating_point": "screening"}, "not among those offered: low_alarm, balanced"),
        (
            {"operating_points": {"balanced": {"thresholds": {"nodule": 0.5}}}, "operating_point": "balanced"},
            r"operating_points\.balanced\.thresholds: mass is missing",
        ),
        (
            {"operating_points": {"balanced": {"thresholds": {"pox": 0.5}}}, "operating_point": "balanced"},
            r"operating_points\.balanced: no output is named pox",
        ),
        ({"measures": True}, "measures: only outlines can be measured"),
    ],
)
def test_operating_points_that_contradict_the_outputs_are_refused(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        describe(write_bundle(tmp_path / "bundle", reading=READING | more))
