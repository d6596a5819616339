"""Bundles of MONAI's Model Zoo form run as they are, whatever they find: classes, boxes, outlines, in images and CT."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.bundle.files import BundleError
from ai.contract import InstanceRef, Presence, Reading, ReadingError, Selection, SeriesRef
from ai.inference.bundle_model import BundleModel, load
from dicom_node.config.settings import Profile
from dicom_node.results import Run, encode, run_key
from tests.support import bundles
from tests.support.bundles import ct_series, radiograph


def chosen(*instances: InstanceRef) -> Selection:
    return Selection(instances, ())


def presences(reading: Reading) -> dict[str, str]:
    return {result.key: result.presence.value for result in reading.classes}


def bright(*places: tuple[int, int, int, int]) -> NDArray[np.uint16]:
    image = np.full((500, 400), 2048, dtype=np.uint16)
    for left, top, right, bottom in places:
        image[top:bottom, left:right] = 4095
    return image


@pytest.fixture
def ct(tmp_path: Path) -> tuple[InstanceRef, ...]:
    """40 slices of 48 x 64 at 2.5 x 1 x 1 mm: a body of 40 HU in air with a dense block."""
    body = np.full((40, 48, 64), -1000, dtype=np.int16)
    body[:, 8:40, 8:56] = 40
    body[10:20, 16:28, 20:40] = 600
    return ct_series(tmp_path, body)


DENSE = (20.0, 16.0, 40.0, 28.0)  # left, top, right, bottom of that block


def with_reading(path: Path, **changes: Any) -> Path:
    file = path / "configs" / "reading.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


# --- classification -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> BundleModel:
    cam = {"layer": "features", "classifier": "head"}
    return load(bundles.classifier(tmp_path_factory.mktemp("bundle") / "it", cam=cam), threads=1)


def test_a_class_that_is_present_is_shown_where_it_is(classifier: BundleModel, tmp_path: Path) -> None:
    reading = classifier.read(chosen(radiograph(tmp_path, bright((50, 100, 150, 200)))))
    assert presences(reading) == {"bright": "present", "dark": "absent", "unsure": "undetermined"}
    (finding,) = reading.findings
    region = finding.region
    assert finding.key == "bright"
    assert finding.score == reading.classes[0].score > 0.5
    # A cell of the feature map is 25 x 31 pixels.
    np.testing.assert_allclose((region.left, region.right), (50, 150), atol=13)
    np.testing.assert_allclose((region.top, region.bottom), (100, 200), atol=16)
    assert finding.site is not None
    (heat,) = reading.heat_maps
    assert (heat.key, heat.sop_instance_uid) == ("bright", "1.2.3.1")
    assert (heat.left, heat.top, heat.right, heat.bottom) == (0.0, 0.0, 400.0, 500.0)
    assert (heat.values.min(), heat.values.max()) == (0.0, 1.0)
    row, column = np.unravel_index(heat.values.argmax(), heat.values.shape)
    assert 100 <= (row + 0.5) * 500 / heat.values.shape[0] <= 200
    assert 50 <= (column + 0.5) * 400 / heat.values.shape[1] <= 150


def test_what_is_not_there_is_not_shown(classifier: BundleModel, tmp_path: Path) -> None:
    reading = classifier.read(chosen(radiograph(tmp_path, bright((0, 0, 2, 2)))))
    assert presences(reading) == {"bright": "absent", "dark": "absent", "unsure": "undetermined"}
    assert (reading.findings, reading.heat_maps) == ((), ())


def test_an_undetermined_class_is_never_present_however_high_its_score(classifier: BundleModel, tmp_path: Path) -> None:
    reading = classifier.read(chosen(radiograph(tmp_path, bright((50, 100, 150, 200)))))
    unsure = reading.classes[2]
    assert unsure.score > unsure.threshold
    assert unsure.presence is Presence.UNDETERMINED
    assert "unsure" not in {finding.key for finding in reading.findings} | {heat.key for heat in reading.heat_maps}


def test_the_map_comes_out_of_the_pass_that_made_the_scores(classifier: BundleModel) -> None:
    network = classifier._forward._parts.network
    passes: list[int] = []
    hook = network.features.register_forward_hook(lambda *_: passes.append(1))
    found = classifier.read_display(bright((50, 100, 150, 200)).astype(np.float32) / np.float32(4095))
    hook.remove()
    assert found.heat_maps
    assert len(passes) == 1


def test_gradients_show_the_same_place_where_no_classifier_is_named(tmp_path: Path) -> None:
    model = load(bundles.classifier(tmp_path / "bundle", cam={"layer": "features"}), threads=1)
    found = model.read_display(bright((50, 100, 150, 200)).astype(np.float32) / np.float32(4095))
    (box,) = found.boxes
    np.testing.assert_allclose((box.left, box.right), (50, 150), atol=13)
    np.testing.assert_allclose((box.top, box.bottom), (100, 200), atol=16)


def test_gradients_that_show_nothing_point_nowhere(tmp_path: Path) -> None:
    path = bundles.classifier(tmp_path / "bundle", cam={"layer": "features"})
    # Class 2 is present whatever the picture: no feature speaks for it.
    outputs = json.loads((path / "configs" / "reading.json").read_text())["outputs"]
    del outputs[2]["undetermined"]
    found = load(with_reading(path, outputs=outputs), threads=1).read_display(
        bright((50, 100, 150, 200)).astype(np.float32) / np.float32(4095)
    )
    assert found.scores[2] > 0.5
    assert {box.key for box in found.boxes} == {heat.key for heat in found.heat_maps} == {"bright"}


def test_a_class_without_a_map_is_present_and_has_no_place(tmp_path: Path) -> None:
    model = load(bundles.classifier(tmp_path / "bundle"), threads=1)
    reading = model.read(chosen(radiograph(tmp_path, bright((50, 100, 150, 200)))))
    assert presences(reading)["bright"] == "present"
    assert (reading.findings, reading.heat_maps) == ((), ())


def test_a_picture_reads_as_the_radiograph_does(classifier: BundleModel, tmp_path: Path) -> None:
    from ai.images.radiograph import load_radiograph  # noqa: PLC0415

    instance = radiograph(tmp_path, bright((50, 100, 150, 200)))
    reading = classifier.read(chosen(instance))
    found = classifier.read_display(load_radiograph(instance.content).display)
    assert found.scores == tuple(result.score for result in reading.classes)
    assert [(box.left, box.bottom) for box in found.boxes] == [
        (each.region.left, each.region.bottom) for each in reading.findings
    ]


@pytest.mark.parametrize("picture", [np.zeros((3, 4, 5), np.float32), np.zeros((3, 4))])
def test_a_picture_of_another_form_is_refused(classifier: BundleModel, picture: NDArray[Any]) -> None:
    with pytest.raises(ReadingError, match=r"\(rows, columns\), float32 was expected"):
        classifier.read_display(picture)


def test_torchscript_needs_no_network_def_and_scores_stay_scores(tmp_path: Path) -> None:
    model = load(bundles.scripted(tmp_path / "bundle"), threads=1)
    found = model.read_display(np.full((80, 60), 0.75, dtype=np.float32))
    np.testing.assert_allclose(found.scores, (0.75, 0.25), atol=1e-6)  # not the 1 and 0 of AsDiscreted


def test_a_model_of_colour_pictures_gets_the_grey_in_each_colour(tmp_path: Path) -> None:
    model = load(bundles.coloured(tmp_path / "bundle"), threads=1)
    ramp = np.tile(np.linspace(0.0, 1.0, 80, dtype=np.float32)[:, None], (1, 60))
    left_white = np.ascontiguousarray(ramp.T[:, ::-1])
    # Its class 0 is how bright the first half of the first axis is: MONAI's readers put columns first.
    assert model.read_display(left_white).scores[0] > 0.7
    np.testing.assert_allclose(model.read_display(ramp).scores, (0.5, 0.5), atol=0.01)


def test_bytes_are_given_where_the_bundle_wants_them(tmp_path: Path) -> None:
    path = bundles.scripted(tmp_path / "bundle")
    file = path / "configs" / "reading.json"
    file.write_text(file.read_text().replace('"kind": "image"', '"kind": "image", "values": "bytes"'))
    config = path / "configs" / "inference.json"
    scale = '{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 510, "b_min": 0, "b_max": 1}'
    config.write_text(
        config.read_text().replace(
            '"keys": "image",\n                "spatial_size"', '"keys": "image", "spatial_size"'
        )
    )
    text = config.read_text()
    at = text.index('{\n                "_target_": "Resized"')
    config.write_text(text[:at] + scale + ", " + text[at:])
    found = load(path, threads=1).read_display(np.full((80, 60), 0.75, dtype=np.float32))
    np.testing.assert_allclose(found.scores, (0.375, 0.625), atol=1e-6)


# --- outlines -------------------------------------------------------------------------------------------------------


def test_a_model_of_the_zoo_outlines_a_ct(ct: tuple[InstanceRef, ...], tmp_path: Path) -> None:
    model = load(bundles.ct_segmentation(tmp_path / "bundle"), threads=1)
    reading = model.read(chosen(*ct))
    assert presences(reading) == {"dense": "present"}
    assert reading.findings == ()  # it is anatomy
    (segmentation,) = reading.segmentations
    (segment,) = segmentation.segments
    assert segment.category.value == "123037004"
    assert [instance for instance, _ in segmentation.frames] == list(ct)
    expected = np.zeros((40, 48, 64), dtype=bool)
    expected[10:20, 16:28, 20:40] = True
    outline = np.stack(list(segment.mask))
    both, either = (outline & expected).sum(), (outline | expected).sum()
    assert outline.shape == expected.shape
    assert both / either > 0.8  # it went to 2 mm and back
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_what_was_found_has_a_box_on_its_largest_slice(ct: tuple[InstanceRef, ...], tmp_path: Path) -> None:
    path = bundles.ct_segmentation(tmp_path / "bundle", finding=True, spacing=1.0)
    reading = load(path, threads=1).read(chosen(*ct))
    (finding,) = reading.findings
    region = finding.region
    assert region.sop_instance_uid in {each.sop_instance_uid for each in ct[10:20]}
    np.testing.assert_allclose((region.left, region.top, region.right, region.bottom), DENSE, atol=1)
    assert reading.segmentations[0].segments[0].category.value == "49755003"


def test_a_segment_that_is_too_small_is_not_there(ct: tuple[InstanceRef, ...], tmp_path: Path) -> None:
    spec = bundles.reading(
        "segmentation", bundles.output("dense", 1, min_volume_ml=50.0), kind="volume", prediction="labels"
    )
    reading = load(bundles.ct_segmentation(tmp_path / "bundle", reading=spec), threads=1).read(chosen(*ct))
    assert presences(reading) == {"dense": "absent"}
    assert reading.classes[0].score < reading.classes[0].threshold
    assert (reading.findings, reading.segmentations) == ((), ())


def test_reading_json_overrides_what_a_bundle_leaves_open(ct: tuple[InstanceRef, ...], tmp_path: Path) -> None:
    dense = bundles.output("dense", 1)
    spec = bundles.reading("segmentation", dense, kind="volume", prediction="labels", override={"cut": 900})
    path = bundles.ct_segmentation(tmp_path / "bundle", reading=spec, config={"cut": 1000})
    config = path / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"a_max": 1000', '"a_max": "@cut"'))
    model = load(path, threads=1)
    (scale,) = [one for one in model._forward._parts.preprocessing.transforms if hasattr(one, "scaler")]
    assert scale.scaler.a_max == 900
    spec["override"] = {"cat": 900}
    with pytest.raises(BundleError, match=r"override in reading\.json names cat; the configuration lacks it"):
        load(bundles.ct_segmentation(tmp_path / "other", reading=spec), threads=1)


def test_without_a_way_back_the_affine_tells_where_an_outline_lies(ct: tuple[InstanceRef, ...], tmp_path: Path) -> None:
    reading = load(bundles.air_lesions(tmp_path / "bundle"), threads=1).read(chosen(*ct))
    expected = np.zeros((40, 48, 64), dtype=bool)
    expected[10:20, 16:28, 20:40] = True
    assert (np.stack(list(reading.segmentations[0].segments[0].mask)) == expected).all()  # axes turned alone: exactly
    assert reading.classes[0].score > 0.99


def test_an_outline_of_nobody_knows_where_is_refused(tmp_path: Path) -> None:
    strip = "$lambda item: {'pred': item['pred'].as_tensor()[:, ::2]}"
    path = bundles.ct_segmentation(tmp_path / "bundle", config={"postprocessing": strip})
    with pytest.raises(BundleError, match="so its place is unknown; a MetaTensor was expected"):
        load(path, threads=1)


def test_a_picture_is_outlined_on_its_own_pixels(tmp_path: Path) -> None:
    model = load(bundles.outlines_2d(tmp_path / "bundle"), threads=1)
    instance = radiograph(tmp_path, bright((50, 100, 150, 200), (300, 400, 304, 404)))
    reading = model.read(chosen(instance))
    (segmentation,) = reading.segmentations
    (segment,) = segmentation.segments
    assert segmentation.frames == ((instance, 1),)
    expected = np.zeros((1, 500, 400), dtype=bool)
    expected[0, 100:200, 50:150] = True  # the speck has fewer cells than min_area
    outline = np.stack(list(segment.mask))
    both, either = (outline & expected).sum(), (outline | expected).sum()
    assert both / either > 0.95
    (finding,) = reading.findings
    region = finding.region
    np.testing.assert_allclose((region.left, region.top, region.right, region.bottom), (50, 100, 150, 200), atol=4)


# --- boxes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [True, False])
def test_a_detector_of_the_zoo_boxes_a_ct(ct: tuple[InstanceRef, ...], tmp_path: Path, world: bool) -> None:
    reading = load(bundles.detection_3d(tmp_path / "bundle", world=world), threads=1).read(chosen(*ct))
    (finding,) = reading.findings
    region = finding.region
    assert finding.score == reading.classes[0].score == 0.875
    assert region.sop_instance_uid in {ct[14].sop_instance_uid, ct[15].sop_instance_uid}
    np.testing.assert_allclose((region.left, region.top, region.right, region.bottom), DENSE, atol=1.01)


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_monais_retinanet_runs_without_torchvision(
    ct: tuple[InstanceRef, ...], tmp_path: Path, dimensions: int
) -> None:
    model = load(bundles.retinanet(tmp_path / "bundle", dimensions), threads=1)
    source = ct if dimensions == 3 else (radiograph(tmp_path, bright((50, 100, 150, 200))),)
    reading = model.read(chosen(*source))
    width, height = (64, 48) if dimensions == 3 else (400, 500)
    assert 1 <= len(reading.findings) <= 6
    for finding in reading.findings:
        region = finding.region
        assert 0 <= region.left < region.right <= width
        assert 0 <= region.top < region.bottom <= height
    assert reading.classes[0].score == max(finding.score for finding in reading.findings)


# --- what a hospital gets of it --------------------------------------------------------------------------------------


def objects(reading: Reading, *roles: str) -> dict[str, list[Dataset]]:
    """The result objects of a reading, as another program reads them."""
    key = run_key("here", reading.model, [ref.sop_instance_uid for ref in reading.sources], "settings")
    run = Run(key, datetime(2026, 1, 1, tzinfo=UTC), "here", reading, Profile(outputs=roles))
    made: dict[str, list[Dataset]] = {}
    for each in encode(run):
        made.setdefault(each.role, []).append(pydicom.dcmread(BytesIO(each.content)))
    return made


def texts(document: Dataset) -> str:
    return " ".join(str(element.value) for element in document.iterall() if element.keyword == "TextValue")


@pytest.mark.slow
def test_anatomy_is_outlined_and_no_finding(ct: tuple[InstanceRef, ...], tmp_path: Path) -> None:
    model = load(bundles.ct_segmentation(tmp_path / "bundle"), threads=1)
    series = SeriesRef("1.2.4", "1.2.4.0", "CT", "CHEST", "", tuple(reversed(ct)))
    selection = model.select([series])
    assert selection.chosen == ct  # in the order of the slices
    made = objects(model.read(selection), "sr", "seg")
    assert "1 structure outlined: Dense present" in texts(made["sr"][0])
    assert "indings" not in texts(made["sr"][0])
    (outline,) = made["seg"]
    assert outline.SegmentSequence[0].SegmentLabel == "Dense"
    assert {
        item.SourceImageSequence[0].ReferencedSOPInstanceUID
        for frame in outline.PerFrameFunctionalGroupsSequence
        for item in frame.DerivationImageSequence
    } >= {each.sop_instance_uid for each in ct[11:19]}


@pytest.mark.slow
def test_a_hundred_organs_that_are_not_there_do_not_fill_the_picture(
    ct: tuple[InstanceRef, ...], tmp_path: Path
) -> None:
    rows = []
    for count in (1, 104):
        organs = (bundles.output(f"organ_{number}", number, finding=False) for number in range(1, count + 1))
        spec = bundles.reading("segmentation", *organs, kind="volume", prediction="labels")
        path = bundles.ct_segmentation(tmp_path / str(count), reading=spec)
        rows.append([each.Rows for each in objects(load(path, threads=1).read(chosen(*ct)), "sc")["sc"]])
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_class_without_a_place_is_told_in_the_report(tmp_path: Path) -> None:
    model = load(bundles.classifier(tmp_path / "bundle"), threads=1)
    made = objects(model.read(chosen(radiograph(tmp_path, bright((50, 100, 150, 200))))), "sr", "sc", "kos")
    told = texts(made["sr"][0])
    assert "1 finding without a place: Bright present" in told
    assert "Unsure not assessed" in told
    assert "90" not in told.split("Unsure")[1][:20]  # its score is not to be relied on
    assert "incomplete" not in told.lower()
    assert made["kos"]


@pytest.mark.slow
def test_boxes_and_outlines_of_a_ct_have_objects(ct: tuple[InstanceRef, ...], tmp_path: Path) -> None:
    model = load(bundles.ct_segmentation(tmp_path / "bundle", finding=True), threads=1)
    made = objects(model.read(chosen(*ct)), "sr", "seg", "gsps", "kos")
    assert "1 finding marked" in texts(made["sr"][0])
    assert set(made) == {"sr", "seg", "gsps", "kos"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [bundles.classifier, bundles.outlines_2d, bundles.retinanet], ids=lambda one: one.__name__
)
def test_anatomy_that_is_there_is_no_finding_whatever_the_task(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "bundle")
    if make is bundles.classifier:
        with_reading(path, cam={"layer": "features", "classifier": "head"})
    instance = radiograph(tmp_path, bright((50, 100, 150, 200)))
    found = load(path, threads=1).read(chosen(instance))
    assert found.findings
    outputs = json.loads((path / "configs" / "reading.json").read_text())["outputs"]
    organ = load(with_reading(path, outputs=[outputs[0] | {"finding": False}, *outputs[1:]]), threads=1)
    anatomy = organ.read(chosen(instance))
    assert anatomy.findings == ()
    assert (anatomy.classes[0].score, anatomy.classes[0].presence) == (found.classes[0].score, Presence.PRESENT)
    with_reading(path, outputs=[outputs[0] | {"undetermined": "Too few images."}, *outputs[1:]])
    unsure = load(path, threads=1).read(chosen(instance))
    assert (unsure.findings, unsure.heat_maps, unsure.segmentations) == ((), (), ())
    assert (unsure.classes[0].score, unsure.classes[0].presence) == (found.classes[0].score, Presence.UNDETERMINED)


@pytest.mark.parametrize("world", [True, False])
def test_anatomy_that_a_detector_boxes_is_no_finding(ct: tuple[InstanceRef, ...], tmp_path: Path, world: bool) -> None:
    path = bundles.detection_3d(tmp_path / "bundle", world=world)
    reading = load(with_reading(path, outputs=[bundles.output("rib", 0, finding=False)]), threads=1).read(chosen(*ct))
    assert (reading.findings, presences(reading)) == ((), {"rib": "present"})


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cam", "message"),
    [
        (
            {"layer": "feature", "classifier": "head"},
            r"cam\.layer in reading\.json is feature, .* for example features",
        ),
        ({"layer": "features", "classifier": "haed"}, r"cam\.classifier in reading\.json is haed"),
        ({"layer": "head", "classifier": "head"}, r"cam\.layer .*, head, gives \(1, 3\); a feature map"),
        ({"layer": "features.0", "classifier": "head"}, r"cam\.classifier .* does not take the features of cam\.layer"),
    ],
)
def test_a_wrong_layer_is_named(tmp_path: Path, cam: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load(bundles.classifier(tmp_path / "bundle", cam=cam), threads=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_def": {"_target_": "scripts.net.Darkness"}}, r"network_def cannot be built"),
        ({"network_def": "$Events()"}, r"network_def cannot be built: .*Events"),
        ({"detector_ops": ["$1 / 0"]}, r"detector_ops cannot be run"),
        ({"inferer": "$lambda inputs, network: 'yes'"}, r"the network gives a str; a tensor was expected"),
        ({"postprocessing": "$lambda item: {}"}, r"postprocessing leaves no pred"),
        ({"postprocessing": {"_target_": "Compose", "transforms": []}}, r"reading\.json can name one"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load(bundles.classifier(tmp_path / "bundle", **changes), threads=1)


def test_modality_values_are_for_volumes(tmp_path: Path) -> None:
    path = bundles.scripted(tmp_path / "bundle")
    file = path / "configs" / "reading.json"
    file.write_text(file.read_text().replace('"kind": "image"', '"kind": "image", "values": "modality"'))
    with pytest.raises(BundleError, match=r"input\.values: modality is for volumes"):
        load(path, threads=1)


_TRANSPOSED = {"_target_": "Transposed", "keys": "image", "indices": [0, 2, 1]}


def _own(code: str) -> dict[str, Any]:
    return {"_target_": "Lambdad", "keys": "image", "func": f"$lambda x: {code}"}


@pytest.mark.parametrize(
    "step",
    [_TRANSPOSED, _own("x.flip(1)"), _own("x.flip(2)"), _own("x[:, 40:]"), _own("x[:, ::2, ::2]")],
    ids=str,
)
@pytest.mark.parametrize("make", [bundles.classifier, bundles.outlines_2d], ids=["without a way back", "with one"])
def test_what_moves_a_picture_and_does_not_tell_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], step: dict[str, Any]
) -> None:
    path = make(tmp_path / "bundle")
    if make is bundles.classifier:
        with_reading(path, cam={"layer": "features"})
    config = json.loads((path / "configs" / "inference.json").read_text())
    steps = config["preprocessing"]["transforms"]
    at = next(number for number, one in enumerate(steps) if one["_target_"] in ("Resized", "Rotate90d"))
    good, bad = _own("monai.transforms.CenterSpatialCrop(300)(x)"), step
    for name, more in (("good", good), ("bad", bad)):
        changed = config | {"imports": ["$import monai"]}
        changed["preprocessing"] = {"_target_": "Compose", "transforms": [*steps[:at], more, *steps[at:]]}
        (path / "configs" / "inference.json").write_text(json.dumps(changed))
        # Invertd takes back what Transposed did, but not what code of the bundle's own does.
        if name == "good" or (step is _TRANSPOSED and make is bundles.outlines_2d):
            load(path, threads=1)
        else:
            with pytest.raises(BundleError, match="shown at another place"):
                load(path, threads=1)


@pytest.mark.parametrize("make", [bundles.ct_segmentation, bundles.detection_3d])
@pytest.mark.parametrize("code", ["x.flip(1)", "x.flip(2)", "x.flip(3)", "x.transpose(1, 2)", "x[:, 6:]"])
def test_what_moves_a_volume_and_does_not_tell_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], code: str
) -> None:
    path = make(tmp_path / "bundle")
    config = json.loads((path / "configs" / "inference.json").read_text())
    config["preprocessing"]["transforms"].append(_own(code))
    (path / "configs" / "inference.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="shown at another place"):
        load(path, threads=1)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [("labels", "one map of labels was expected"), ("channels", r"pred is an array of \(1, .*at least 2 channels")],
)
def test_labels_and_channels_are_told_apart(tmp_path: Path, prediction: str, message: str) -> None:
    spec = bundles.reading("segmentation", bundles.output("dense", 1), kind="volume", prediction=prediction)
    post = {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]}
    if prediction == "channels":
        post["transforms"].append({"_target_": "AsDiscreted", "keys": "pred", "argmax": True})  # type: ignore[attr-defined]
    path = bundles.ct_segmentation(tmp_path / "bundle", reading=spec, config={"postprocessing": post})
    with pytest.raises(BundleError, match=message):
        load(path, threads=1)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (bundles.classifier, {"activation": "sigmoid"}, "postprocessing has Activationsd, and reading.json names an"),
        (bundles.ct_segmentation, {"activation": "softmax"}, "activation: makes probabilities of logits; labels"),
        (bundles.detection_3d, {"activation": "sigmoid"}, "activation: makes probabilities of logits; labels"),
        (
            bundles.ct_segmentation,
            {"outputs": [bundles.output("dense", 0)]},
            "channel 0 of a map of labels is the back",
        ),
        (bundles.outlines_2d, {"task": "classification"}, r"pred is an array of .*; \(classes,\) with at least 1"),
    ],
)
def test_what_reading_json_says_of_pred_must_go_with_it(
    tmp_path: Path, make: Callable[[Path], Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        load(with_reading(make(tmp_path / "bundle"), **changes), threads=1)


def test_a_softmax_of_one_channel_is_refused(tmp_path: Path) -> None:
    path = bundles.air_lesions(tmp_path / "bundle")
    config = path / "configs" / "inference.yaml"
    config.write_text(config.read_text().partition("postprocessing")[0])
    assert load(with_reading(path, activation="sigmoid"), threads=1)
    with pytest.raises(BundleError, match=r"pred has one channel, but activation in reading\.json is softmax"):
        load(with_reading(path, activation="softmax"), threads=1)


def test_labels_between_labels_are_refused(tmp_path: Path) -> None:
    argmax = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    four = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: 4 * x"}
    back = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
    spec = bundles.reading(
        "segmentation", bundles.output("two", 2), bundles.output("four", 4), kind="volume", prediction="labels"
    )
    for nearest, message in ((True, ""), (False, "values between whole numbers, so it is no map of labels")):
        post = {"_target_": "Compose", "transforms": [argmax, four, back | {"nearest_interp": nearest}]}
        path = bundles.ct_segmentation(tmp_path / str(nearest), reading=spec, config={"postprocessing": post})
        resized = {"_target_": "Resized", "keys": "image", "spatial_size": [48, 48, 48], "mode": "trilinear"}
        config = json.loads((path / "configs" / "inference.json").read_text())
        config["preprocessing"]["transforms"].append(resized)
        (path / "configs" / "inference.json").write_text(json.dumps(config))
        if message:
            with pytest.raises(BundleError, match=message):
                load(path, threads=1)
        else:
            load(path, threads=1)


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    path = bundles.ct_segmentation(tmp_path / "bundle", config={"network_def": "$Events(1)"})
    with pytest.raises(BundleError, match=r"it imports ignite, which is not installed"):
        load(path, threads=1)


def test_a_picture_is_no_volume(ct: tuple[InstanceRef, ...], tmp_path: Path) -> None:
    model = load(bundles.ct_segmentation(tmp_path / "bundle"), threads=1)
    with pytest.raises(ReadingError, match="the model reads volumes"):
        model.read_display(np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(ReadingError):
        model.read(chosen(*ct[:5], *ct[9:]))  # slices are missing


def test_what_a_bundle_cannot_read_is_told_without_its_values(tmp_path: Path) -> None:
    picky = (
        "$lambda item: item if item['image'].shape[-1] == 400 else (_ for _ in ()).throw(RuntimeError('value 0.123'))"
    )
    path = bundles.classifier(tmp_path / "bundle", preprocessing=picky)
    meta = path / "configs" / "metadata.json"
    meta.write_text(json.dumps(bundles.metadata(["*", "*"], 3)))
    model = load(path, threads=1)
    with pytest.raises(ReadingError, match="the model cannot read this image: its bundle fails") as told:
        model.read_display(np.zeros((50, 60), dtype=np.float32))
    assert "0.123" not in str(told.value)
    assert "RuntimeError" in str(told.value)


def test_an_output_that_is_none_is_told_without_this_machines_folders(tmp_path: Path) -> None:
    logits = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda p: p if p[1] < 0.5 else 9 * p"}
    path = bundles.classifier(tmp_path / "bundle")
    config = json.loads((path / "configs" / "inference.json").read_text())
    config["postprocessing"]["transforms"].append(logits)
    (path / "configs" / "inference.json").write_text(json.dumps(config))
    model = load(path, threads=1)
    with pytest.raises(ReadingError, match=r"^test_classification/configs/inference\.json: pred lies between") as told:
        model.read_display(np.zeros((50, 60), dtype=np.float32))
    assert str(tmp_path) not in str(told.value)


def test_an_inferer_of_several_passes_has_no_map(tmp_path: Path) -> None:
    twice = "$lambda inputs, network: (network(inputs) + network(inputs.flip(-1))) / 2"
    for cam, message in (({"layer": "features", "classifier": "head"}, "through the network 2 times"), (None, "")):
        path = bundles.classifier(tmp_path / (message or "without"), cam=cam, inferer=twice)
        if message:
            with pytest.raises(BundleError, match=message):
                load(path, threads=1)
        else:
            load(path, threads=1)


def test_a_volume_that_would_fill_the_memory_at_the_models_spacing_is_refused(
    ct: tuple[InstanceRef, ...], tmp_path: Path
) -> None:
    for one in ct:
        image = pydicom.dcmread(one.content)
        image.PixelSpacing = [500, 500]
        image.save_as(one.content)
    model = load(bundles.ct_segmentation(tmp_path / "bundle"), threads=1)
    with pytest.raises(ReadingError, match=r"the volume would have 9\.6e\+09 voxels; at most 750000000 are read"):
        model.read(chosen(*ct))


def test_what_computes_on_a_device_goes_with_the_model_and_comes_back(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    window = {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_device": "@device", "device": "cpu"}
    path = bundles.ct_segmentation(tmp_path / "bundle", config={"inferer": window})
    config = path / "configs" / "inference.json"
    text = config.read_text()
    for name in ("EnsureTyped", "Invertd"):
        text = text.replace(f'"_target_": "{name}"', f'"_target_": "{name}", "device": "$@device"')
    config.write_text(text)
    parts = load(path, threads=1)._forward._parts
    typed = parts.preprocessing.transforms[-1]
    (inverted,) = [one for one in parts.postprocessing.transforms if type(one).__name__ == "Invertd"]
    parts = replace(parts, network=None)  # what is on the device "meta" has no values and cannot come back
    for device in map(torch.device, ("meta", "cpu", "meta")):
        parts.to(device)
        assert (typed.converter.device, inverted.device) == (device, (device,))
        assert (parts.inferer.sw_device, parts.inferer.device) == (device, "cpu")


@pytest.mark.parametrize("fault", ["torch.empty(2**50)", "(_ for _ in ()).throw(torch.OutOfMemoryError())"])
def test_no_memory_is_told_from_what_a_bundle_cannot_read(tmp_path: Path, fault: str) -> None:
    import torch  # noqa: PLC0415

    short = {"_target_": "Lambdad", "keys": "image", "func": f"$lambda x: x if x.shape[-1] == 400 else {fault}"}
    path = bundles.classifier(tmp_path / "bundle", imports=["$import torch"])
    config = json.loads((path / "configs" / "inference.json").read_text())
    config["preprocessing"]["transforms"].insert(0, short)  # MONAI raises another error from that of a transform
    (path / "configs" / "inference.json").write_text(json.dumps(config))
    model = load(path, threads=1)
    with pytest.raises((MemoryError, torch.OutOfMemoryError)):
        model.read_display(np.zeros((50, 60), dtype=np.float32))
    short["func"] = f"$lambda x: {fault}"
    for changes in ({}, {"inferer": f"${fault}"}):
        (path / "configs" / "inference.json").write_text(json.dumps(config | changes))
        with pytest.raises((MemoryError, torch.OutOfMemoryError)):
            load(path, threads=1)


def test_two_bundles_may_both_have_scripts(tmp_path: Path) -> None:
    def scripts() -> set[str]:
        return {name for name in sys.modules if name.split(".")[0] == "scripts"}

    before = scripts()  # the project's own, if a test of them ran here before
    load(bundles.classifier(tmp_path / "one"), threads=1)
    load(bundles.detection_3d(tmp_path / "two"), threads=1)
    assert scripts() == before
    assert not list(tmp_path.rglob("__pycache__"))


# --- speed that changes nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(700, 517), (60, 900), (90, 40)])
@pytest.mark.parametrize("size", [{"spatial_size": 128, "size_mode": "longest"}, {"spatial_size": (96, 64)}])
def test_resizing_quickly_gives_what_monai_gives(shape: tuple[int, int], size: dict[str, Any]) -> None:
    import torch  # noqa: PLC0415
    from monai.data import MetaTensor  # noqa: PLC0415
    from monai.transforms import Resized  # noqa: PLC0415

    from ai.bundle.fast_transforms import QuickResize, speed_up  # noqa: PLC0415

    picture = torch.from_numpy(np.random.default_rng(1).random((1, *shape), dtype=np.float32))
    plainly = Resized("image", mode="bilinear", anti_aliasing=True, **size)
    quickly = Resized("image", mode="bilinear", anti_aliasing=True, **size)
    speed_up(quickly)
    assert type(quickly.resizer) is QuickResize
    one, two = (each({"image": MetaTensor(picture, affine=torch.eye(4))})["image"] for each in (plainly, quickly))
    assert one.shape == two.shape
    assert torch.equal(one.affine, two.affine)
    assert float((one - two).abs().max()) < 1e-4
    back_one, back_two = (each.inverse({"image": image})["image"] for each, image in ((plainly, one), (quickly, two)))
    assert back_one.shape == back_two.shape == (1, *shape)


@pytest.mark.filterwarnings("ignore:Divide by zero")  # MONAI says so of a flat picture
@pytest.mark.parametrize("more", [{}, {"relative": True}, {"channel_wise": True}, {"clip": True, "dtype": None}])
@pytest.mark.parametrize("kind", ["smooth", "few values", "flat"])
def test_scaling_by_percentiles_quickly_gives_what_monai_gives(kind: str, more: dict[str, Any]) -> None:
    import torch  # noqa: PLC0415
    from monai.data import MetaTensor  # noqa: PLC0415
    from monai.transforms import ScaleIntensityRangePercentilesd  # noqa: PLC0415

    from ai.bundle.fast_transforms import QuickPercentiles, speed_up  # noqa: PLC0415

    drawn = np.random.default_rng(2).normal(40.0, 200.0, (2, 61, 47)).astype(np.float32)
    values = {"smooth": drawn, "few values": np.rint(drawn / 200.0), "flat": np.full_like(drawn, 7.0)}[kind]
    picture = MetaTensor(torch.from_numpy(values), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    plainly, quickly = (ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, **more) for _ in range(2))
    speed_up(quickly)
    assert type(quickly.scaler) is QuickPercentiles
    one, two = (each({"image": picture.clone()})["image"] for each in (plainly, quickly))
    assert torch.equal(one.affine, two.affine)
    assert one.dtype == two.dtype
    assert torch.allclose(one.as_tensor(), two.as_tensor(), rtol=1e-5, atol=1e-6)
