"""What is said to be somewhere lies in the body, and what belongs in the lungs lies in the lungs."""

from __future__ import annotations

import io
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai.anatomy import field as anatomy_field
from ai.anatomy.field import ChestField
from ai.anatomy.side import LEFT, RIGHT
from ai.bundle.files import BundleError
from ai.bundle.manifest import ReadingSpec
from ai.contract import DEFAULT, Asked, HeatMap, InstanceRef, ReadingError, SeriesRef
from ai.images.radiograph import load_radiograph
from ai.inference.answers import ImageAnswer, MarkedBox
from ai.inference.bundle_model import BundleModel, load, title
from ai.inference.places import caution_about, findings_of, limited
from ai.phantom.dicom import to_dicom
from ai.phantom.draw import draw_phantom
from dicom_node.results.uids import run_key
from tests.support import bundles
from tests.support.programs import ROOT

HEART = {"value": "80891009", "scheme": "SCT", "meaning": "Heart"}
SPEC = ReadingSpec.model_validate(
    bundles.reading(
        "classification",
        bundles.output("lung", 0, site=bundles.LUNG),
        bundles.output("heart", 1, site=HEART),
        bundles.output("any", 2),
        input={"adult_frontal_chest": True},
    )
)
FRONTAL = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def field(*, lungs: bool = True) -> ChestField:
    """Of an image of 960 x 960: a body from column 200 to 760, lungs in columns 240 to 440 and 520 to 720."""
    body, inside = np.zeros((2, 96, 96), dtype=bool)
    body[:, 20:76] = True
    inside[20:70, 24:44] = inside[20:70, 52:72] = True
    return ChestField(960, 960, inside if lungs else None, body, FRONTAL, (480.0, 0.0) if lungs else None)


def box(key: str, left: float, right: float, top: float = 300.0, bottom: float = 400.0) -> MarkedBox:
    return MarkedBox(key, 0.9, left, top, right, bottom)


def answer(*boxes: MarkedBox, **more: Any) -> ImageAnswer:
    return ImageAnswer((0.9, 0.9, 0.9), boxes, **more)


def kept(*boxes: MarkedBox, lungs: bool = True) -> list[MarkedBox]:
    return list(limited(SPEC, answer(*boxes), field(lungs=lungs)).boxes)


def test_a_place_in_the_lungs_must_lie_in_them_by_half() -> None:
    inside, edge, beside, trachea, gas = (
        box("lung", 300, 400),
        box("lung", 380, 480),
        box("lung", 400, 500),
        box("lung", 450, 510),
        box("lung", 300, 400, top=720, bottom=800),
    )
    found = limited(SPEC, answer(inside, edge, beside, trachea, gas), field())
    assert list(found.boxes) == [inside, edge]
    assert found.dropped == 3
    assert found.scores == (0.9, 0.9, 0.9)


def test_other_places_must_lie_in_the_body() -> None:
    heart, anything = box("heart", 430, 530), box("any", 450, 510, top=720, bottom=800)
    assert kept(heart, anything, box("heart", 20, 120), box("any", 140, 240)) == [heart, anything]


def test_a_place_is_cut_to_the_body() -> None:
    (cut,) = kept(box("any", 160, 300))
    assert cut.left == pytest.approx(200, abs=5)
    assert cut.right == pytest.approx(300)


def test_without_a_lung_field_the_body_alone_limits() -> None:
    anywhere = box("lung", 450, 510)
    assert kept(anywhere, box("lung", 20, 120), lungs=False) == [anywhere]


def test_nothing_else_of_a_class_without_a_place_tells_one() -> None:
    heat = [HeatMap("1", key, np.ones((4, 4), dtype=np.float32), 0, 0, 960, 960) for key in ("lung", "any")]
    masks = [(key, np.ones((960, 960), dtype=bool)) for key in ("lung", "any")]
    whole = answer(box("lung", 450, 510), box("any", 450, 510), heat_maps=tuple(heat), masks=tuple(masks))
    found = limited(SPEC, whole, field())
    (map_,), ((key, mask),) = found.heat_maps, found.masks
    assert (map_.key, key) == ("any", "any")
    assert map_.values.tolist() == [[0.0, 1.0, 1.0, 0.0]] * 4  # its outer cells lie beside the body
    assert mask.any(axis=0).nonzero()[0].tolist() == list(range(200, 760))


def test_the_outline_of_a_dropped_place_goes_with_it() -> None:
    mask = np.zeros((960, 960), dtype=bool)
    mask[300:400, 300:400] = mask[300:400, 450:510] = True
    found = limited(SPEC, answer(box("lung", 300, 400), box("lung", 450, 510), masks=(("lung", mask),)), field())
    ((_, left_over),) = found.masks
    assert left_over.any(axis=0).nonzero()[0].tolist() == list(range(300, 400))


def test_a_bundle_for_other_images_is_left_alone() -> None:
    beside = answer(box("lung", 20, 120))
    assert limited(SPEC, beside, None) is beside


def test_an_image_that_is_none_is_refused_or_marked() -> None:
    strange = ChestField(96, 96, None, np.zeros((96, 96), dtype=bool), (0.01, 0.99, 0.0, 0.0, 0.0, 0.0), None)
    with pytest.raises(ReadingError, match="does not look like an upright frontal chest radiograph"):
        caution_about(strange)
    doubtful = ChestField(96, 96, None, np.zeros((96, 96), dtype=bool), (0.3, 0.7, 0.0, 0.0, 0.0, 0.0), None)
    (sentence,) = caution_about(doubtful)
    assert "may not be an upright frontal chest radiograph" in sentence
    assert caution_about(field()) == ()
    assert caution_about(None) == ()


# --- with what ships ------------------------------------------------------------------------------------------------


def content(seed: int, findings: tuple[str, ...], turns: int = 0, **changes: Any) -> tuple[bytes, Any]:
    """A phantom's file, turned by quarters, and the phantom."""
    phantom = draw_phantom(seed, 384, 320, findings=findings, view="PA", photometric="MONOCHROME2")
    data = to_dicom(phantom, seed=seed, now=datetime(2026, 1, 1, tzinfo=UTC))
    pixels = np.ascontiguousarray(np.rot90(phantom.pixels, turns))
    data.Rows, data.Columns = pixels.shape
    data.PixelData = pixels.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in changes.items():
            setattr(data, name, value)
        file = io.BytesIO()
        data.save_as(file, enforce_file_format=True)
    return file.getvalue(), phantom


@pytest.fixture(scope="module")
def shipped() -> BundleModel:
    return load(ROOT / "ai" / "bundles" / "phantom_cxr", threads=1)


def read(model: BundleModel, file: bytes, asked: Asked = DEFAULT) -> Any:
    header = load_radiograph(file)
    instance = InstanceRef(header.sop_instance_uid, header.sop_class_uid, file)
    selection = model.select([SeriesRef("1", "2", "DX", "CHEST", "", (instance,))])
    return selection, (model.read(selection, asked) if selection.chosen else None)


def test_other_weights_of_the_field_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places follow from them; a bundle for other images does without, and its runs stay the same."""
    chest, other = ROOT / "ai" / "bundles" / "phantom_cxr", bundles.classifier(tmp_path / "other")

    def keys(path: Path) -> set[str]:
        made = {run_key("here", identity, ["1.2"], "") for identity in (title(path).identity, load(path).identity)}
        assert len(made) == 1  # a process that holds it tells the same as one that does not
        return made

    before = keys(chest), keys(other)
    changed = tmp_path / "field.pt"
    changed.write_bytes(anatomy_field.WEIGHTS.read_bytes() + b"\0")
    monkeypatch.setattr(anatomy_field, "WEIGHTS", changed)
    anatomy_field.field_digest.cache_clear()
    try:
        after = keys(chest), keys(other)
        changed.unlink()
        anatomy_field.field_digest.cache_clear()
        with pytest.raises(BundleError, match=r"field\.pt: cannot be read"):
            title(chest)
    finally:
        anatomy_field.field_digest.cache_clear()
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)


def test_a_nodule_has_the_side_of_its_lung(shipped: BundleModel) -> None:
    sides = 0
    for seed in range(4):
        file, phantom = content(seed, ("nodule",))
        (drawn,) = phantom.findings
        for finding in read(shipped, file)[1].findings:
            region = finding.region
            if region.left < drawn.right and drawn.left < region.right:
                assert finding.laterality == (RIGHT if drawn.right < 160 else LEFT)
                sides += 1
    assert sides >= 2


def test_a_turned_film_is_no_negative_answer(shipped: BundleModel) -> None:
    file, _ = content(3, (), turns=2)
    with pytest.raises(ReadingError, match="does not look like an upright frontal chest"):
        read(shipped, file)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"PatientAge": "009Y"}, "the patient is under 18, the model reads adults"),
        ({"PatientBirthDate": "20200101"}, "the patient is under 18, the model reads adults"),
        ({"ViewPosition": "LL"}, "view LL is not among PA, AP"),
        ({"ViewPosition": "", "PatientOrientation": ["A", "F"]}, "it is a view from the side"),
        ({"BodyPartExamined": "HAND"}, "body part HAND is not among CHEST, THORAX"),
    ],
)
def test_the_header_refuses_what_the_model_is_not_for(shipped: BundleModel, told: dict[str, Any], reason: str) -> None:
    file, _ = content(3, (), **told)
    selection, reading = read(shipped, file)
    assert reading is None
    assert [each.reason for each in selection.passed_over] == [reason]


def test_dropped_places_are_counted_and_told(shipped: BundleModel, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = content(0, ("nodule",))
    found = read(shipped, file)[1]
    assert found.findings
    assert (found.places_dropped, found.cautions) == (0, ())
    nowhere = ChestField(384, 320, np.zeros((96, 96), dtype=bool), np.ones((96, 96), dtype=bool), FRONTAL, None)
    monkeypatch.setattr("ai.inference.places.chest_field", lambda _: nowhere)
    without = read(shipped, file)[1]
    # Places of a class that was not looked for would tell that it was found.
    other = read(shipped, file, Asked(("pneumothorax",)))[1]
    assert (other.places_dropped, other.cautions) == (0, ())
    assert without.findings == ()
    assert [each.presence for each in without.classes] == [each.presence for each in found.classes]
    count = len(found.findings)
    assert without.places_dropped == count
    assert without.cautions == (f"Not shown, since outside the lungs or the body: {count} place{'s' * (count > 1)}",)


def test_findings_of_a_bundle_for_other_images_have_the_declared_side() -> None:
    file, _ = content(1, (), ImageLaterality="L")
    (finding,) = findings_of(SPEC, load_radiograph(file), answer(box("any", 10, 20)), None)
    assert finding.laterality == LEFT
    assert finding.site is None
