"""The training of ``chest_xray``: folds by patient, sources kept apart, honest figures, and one command for all."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image
from typer.testing import CliRunner

from ai.bundle.files import describe, shipped
from ai.chest_network import ChestNetwork, ChestReader, LinearReader, pooled
from ai.inference.bundle_model import load
from ai.training.chest import hold_out as held_out
from ai.training.chest.__main__ import main
from ai.training.chest.augment import augment
from ai.training.chest.boxes import region_centre
from ai.training.chest.data import (
    COLUMNS,
    FOLDS,
    KEYS,
    NIH,
    ON_REQUEST,
    REPORTED,
    Cases,
    balanced_weights,
    fold,
    read_cases,
    source_odds,
)
from ai.training.chest.fit import OUTPUTS, Recipe, Stage, platt
from ai.training.chest.measure import (
    JOINED,
    MIXED,
    Calibration,
    auc_figures,
    calibration_error,
    measure,
    probabilities,
)
from ai.training.chest.run import Place, calibrate, preparation, train
from ai.training.chest.write import assemble, is_placed, undetermined
from ai.training.chest.write import reading as reading_of
from dicom_node.cli.main import app
from tests.support.programs import ROOT


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small lose more by the talk between threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FIELDS = ["file", "patient_id", "dataset", "source_repo", "view", "sex", "age", "stored_px", "boxes"]
FIELDS += [*NIH, "tuberculosis", "no_finding", "nodule_or_mass", "pneumonia_or_consolidation"]


def write_data(folder: Path, count: int = 40) -> list[dict[str, str]]:
    """Made-up images of two hospitals: a bright spot is a nodule in one, tuberculosis in the other."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(count):
        tb, sick = number % 2 == 1, number % 4 >= 2
        grey = rng.normal(90.0, 12.0, (64, 64))
        if sick:
            grey[20:30, 36:46] += 90.0
        name = f"{number}.png"
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(folder / name)
        row = dict.fromkeys(FIELDS, "")
        row |= {"file": name, "patient_id": f"P{number}", "view": "PA", "sex": "MF"[number % 2], "age": "50"}
        row |= {
            "dataset": "TB" if tb else "NIH",
            "source_repo": "a/b",
            "stored_px": "96x96",
            "no_finding": "01"[not sick],
        }
        if tb:
            row["tuberculosis"] = "01"[sick]
        else:
            row |= dict.fromkeys(NIH, "0") | {"Nodule": "01"[sick], "nodule_or_mass": "01"[sick]}
            row |= {"pneumonia_or_consolidation": "0", "boxes": "Nodule:54,30,15,15" if sick else ""}
        rows.append(row)
    write_table(folder, rows)
    return rows


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, FIELDS)
        table.writeheader()
        table.writerows(rows)


def some_cases(sources: list[str], labels: np.ndarray, patients: list[str] | None = None) -> Cases:
    count = len(sources)
    return Cases(
        files=tuple(f"{i}.png" for i in range(count)),
        patients=tuple(patients or (f"P{i}" for i in range(count))),
        sources=tuple(sources),
        pixels=np.zeros((count, 8, 8), dtype=np.uint8),
        labels=labels.astype(np.float32),
        nih=np.zeros((count, len(NIH)), dtype=np.float32),
        teacher=np.full((count, len(NIH)), np.nan, dtype=np.float32),
        extra=np.full((count, 3), np.nan, dtype=np.float32),
        stored=np.full(count, 320),
        boxes=((),) * count,
    )


@pytest.mark.slow
def test_one_command_trains_measures_and_writes_a_bundle(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "bundle"
    data.mkdir()
    write_data(data)
    small = Recipe(planes=(8, 8, 16, 16), stages=(Stage(32, 1, 1e-3), Stage(64, 1, 1e-3, 0.5)), batch=8)
    place = Place(seed=3, device="cpu", jobs=1, work=tmp_path / "work", where="a test")
    train(data, out, small, place=place, say=lambda text: None)
    reading = json.loads((out / "configs" / "reading.json").read_text(encoding="utf-8"))
    assert [output["key"] for output in reading["outputs"]] == list(REPORTED)
    channels = [channel for output in reading["outputs"] for channel in (output["channel"], *output.get("joined", ()))]
    assert sorted(channels) == list(range(len(KEYS)))
    # What no image shows cannot be measured, so the reader must not call it.
    silent = {output["key"] for output in reading["outputs"] if output.get("undetermined")}
    assert {"pneumothorax", "effusion", "cardiomegaly", "airspace_opacity"} <= silent
    metadata = json.loads((out / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["training"]["images"] == 40
    assert set(metadata["eval_metrics"]["classes"]) == {"nodule_or_mass", "tuberculosis", "abnormality"}
    assert metadata["eval_metrics"]["classes"]["nodule_or_mass"]["positives"] == 10
    card = (out / "docs" / "README.md").read_text(encoding="utf-8")
    assert "must not be used for diagnosis" in card
    assert "NIH Clinical Center" in card
    network = ChestNetwork(metadata["training"]["recipe"]["planes"], len(KEYS), FOLDS)
    network.load_state_dict(torch.load(out / "models" / "model.pt", weights_only=True))
    with torch.inference_mode():
        assert torch.isfinite(network.eval()(torch.rand(1, 1, 64, 64))).all()


@pytest.mark.slow
def test_what_is_held_out_is_evaluated_by_models_that_have_not_seen_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated_on = []

    def spy(cases: Cases, *rest: Any) -> list[Calibration]:
        calibrated_on.append(set(cases.folds.tolist()))
        return calibrate(cases, *rest)

    monkeypatch.setattr(held_out, "calibrate", spy)
    data, out = tmp_path / "data", tmp_path / "held"
    data.mkdir()
    rows = write_data(data)
    small = Recipe(planes=(8, 8, 16, 16), stages=(Stage(32, 1, 1e-3),), batch=8)
    place = Place(seed=3, device="cpu", jobs=1, work=tmp_path / "work", where="a test")
    said: list[str] = []
    held_out.hold_out(data, out, small, 2, place=place, say=said.append)
    assert calibrated_on == [set(range(FOLDS)) - {2}] * 2
    with (out / "labels.csv").open(newline="", encoding="utf-8") as opened:
        held = list(csv.DictReader(opened))
    assert [row["file"] for row in held] == [row["file"] for row in rows if fold(row["patient_id"]) == 2]
    assert {row["abnormality"] for row in held} == {"0", "1"}
    boxes = {row["boxes"] for row in held if row["nodule_or_mass"] == "1"}
    assert boxes == {"nodule_or_mass:36.0,20.0,10.0,10.0"}  # pixels of the file, which is smaller than stored_px says
    for name in ("network", "linear"):
        report, table = tmp_path / name, ["--images", str(data), "--labels", str(out / "labels.csv")]
        told = CliRunner().invoke(app, ["models", "evaluate", str(out / name), *table, "--report", str(report)])
        assert told.exit_code == 0, told.output
        found = json.loads((report / "evaluation.json").read_text(encoding="utf-8"))
        assert found["images"]["used"] == len(held)
        metadata = json.loads((out / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
        assert metadata["training"]["images"] == len(rows) - len(held)  # and the weights are those of the fold:
        state = torch.load(out / name / "models" / "model.pt", weights_only=True)
        if name == "network":
            (kept,) = (tmp_path / "work").glob("*/fold-2-seed-3.pt")
            trained = torch.load(kept, weights_only=True)["network"]
            assert torch.equal(state["features.members.0.conv1.weight"], trained["trunk.conv1.weight"].half())


def test_no_patient_is_in_two_folds_and_no_fold_is_empty() -> None:
    dealt = [fold(f"NIH{number:05d}") for number in range(500)]
    assert set(dealt) == set(range(FOLDS))
    assert min(dealt.count(number) for number in range(FOLDS)) > 60
    assert dealt[0] == fold("NIH00000")


def test_weights_leave_nothing_to_learn_from_the_source() -> None:
    labels = np.array([[1.0]] * 4 + [[0.0]] * 40 + [[1.0]] * 30 + [[0.0]] * 10 + [[1.0]] * 5 + [[np.nan]] * 6)
    sources = ["few"] * 44 + ["many"] * 40 + ["only positives"] * 5 + ["unknown"] * 6
    weights = balanced_weights(labels.astype(np.float32), sources, np.ones(len(labels), dtype=bool))[:, 0]
    names, truth = np.array(sources), labels[:, 0]
    for source in ("few", "many"):
        up, down = (weights[(names == source) & (truth == value)].sum() for value in (1.0, 0.0))
        assert up == pytest.approx(down, rel=1e-5)
        assert up > 0
    assert weights[names == "only positives"].sum() == 0
    assert weights[names == "unknown"].sum() == 0


def test_odds_are_those_of_the_source() -> None:
    labels = np.array([[1.0]] * 5 + [[0.0]] * 20 + [[1.0]] * 20 + [[0.0]] * 5, dtype=np.float32)
    odds, _ = source_odds(labels, ["a"] * 25 + ["b"] * 25, np.ones(50, dtype=bool))
    assert odds[0, 0] == pytest.approx(np.log(5 / 20))
    assert odds[-1, 0] == pytest.approx(np.log(20 / 5))


def test_pairs_across_sources_do_not_count() -> None:
    # The score knows the source and nothing else: over all images it looks good, within a source it is worth nothing.
    sources = ["a"] * 40 + ["b"] * 40
    truth = np.array([1] * 30 + [0] * 10 + [1] * 10 + [0] * 30)
    scores = np.array([0.9] * 40 + [0.1] * 40)
    labels = np.full((80, len(KEYS)), np.nan)
    labels[:, 0], labels[:, KEYS.index("abnormality")] = truth, truth
    cases = some_cases(sources, labels)
    figures = auc_figures(scores, truth == 1, truth == 0, cases)
    assert figures is not None
    assert figures["auc"] == 0.5
    measured = measure(cases, np.repeat(scores[:, None], len(KEYS), axis=1))
    control = measured["nodule_or_mass"]["control"]
    assert control["source_alone"] == 0.75
    assert control["normals_of_it"] == 1.0


def test_the_interval_draws_patients_and_not_images() -> None:
    rng = np.random.default_rng(5)
    truth = np.repeat([1, 0], 100)
    person = np.repeat(rng.normal(0.0, 1.0, 20), 10)  # ten images a patient that say nearly the same
    scores = truth * 1.0 + person + rng.normal(0.0, 0.01, 200)
    labels = np.full((200, len(KEYS)), np.nan)
    alone = some_cases(["a"] * 200, labels)
    together = some_cases(["a"] * 200, labels, [f"P{i // 10}" for i in range(200)])
    narrow, wide = (auc_figures(scores, truth == 1, truth == 0, cases) for cases in (alone, together))
    assert narrow is not None
    assert wide is not None
    assert narrow["auc"] == wide["auc"]
    brute = np.mean(scores[:100][:, None] > scores[100:])
    assert wide["auc"] == pytest.approx(brute, abs=1e-4)
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])
    assert wide["patients"] == 20


def test_calibration_finds_the_slope_and_the_error_falls() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0.0, 2.0, 4000)
    truth = (rng.random(4000) < 1.0 / (1.0 + np.exp(-(0.5 * logits - 1.0)))).astype(np.float32)
    weights = np.ones(4000, dtype=np.float32)
    slope, offset = platt(logits, truth, weights)
    assert slope == pytest.approx(0.5, abs=0.06)
    assert offset == pytest.approx(-1.0, abs=0.12)
    before, after = (
        calibration_error(1.0 / (1.0 + np.exp(-x)), truth, weights) for x in (logits, slope * logits + offset)
    )
    assert after < 0.03 < before


@pytest.mark.slow
def test_the_shipped_network_is_the_calibrated_mean_and_its_map_is_what_it_says() -> None:
    torch.manual_seed(4)
    planes = (8, 8, 16, 16)
    networks = [ChestReader(planes, OUTPUTS).eval() for _ in range(2)]
    baselines = [LinearReader(len(KEYS)).eval() for _ in range(2)]
    points = [Calibration(0.5 + 0.1 * k, 0.2 * k - 0.5, 0.3 * (k % 2), 0.4 * (k % 3)) for k in range(len(KEYS))]
    whole = assemble(networks, baselines, points, planes)
    image = torch.rand(2, 1, 64, 96)
    with torch.inference_mode():
        told = whole(image)
        each = [(n.maps(image * 2.0 - 1.0) + n.maps(image.flip(-1) * 2.0 - 1.0).flip(-1)) / 2.0 for n in networks]
        mean = torch.stack([pooled(maps)[:, : len(KEYS)] for maps in each]).mean(dim=0)
        linear = torch.stack([baseline(image) for baseline in baselines]).mean(dim=0)
        meant = torch.from_numpy(probabilities(mean.double().numpy(), linear.double().numpy(), points)).float()
        torch.testing.assert_close(torch.sigmoid(told), meant, rtol=1e-4, atol=1e-4)
        maps = torch.stack(each).mean(dim=0)[:, : len(KEYS)]
        shown = whole.places(whole.features(image))
        assert shown.shape == (2, len(KEYS), 4, 6)  # a cell for 16 x 16 pixels
        joined = [point.slope * maps[:, k] for k, point in enumerate(points)]
        abnormal = maps[:, KEYS.index("abnormality")]
        wanted = torch.stack([one + points[k].share * abnormal for k, one in enumerate(joined)], dim=1)
        wanted = torch.exp(wanted - wanted.amax(dim=(2, 3), keepdim=True))
        torch.testing.assert_close(shown, wanted, rtol=1e-4, atol=1e-4)


def test_a_map_that_is_high_somewhere_scores_more_than_its_mean() -> None:
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 1, 2, 3] = 12.0
    flat, peaked = pooled(maps)[0].tolist()
    assert flat == pytest.approx(0.0, abs=1e-6)
    assert 12.0 / 64 < peaked < 12.0


def test_the_shipped_bundle_reads_an_image_and_says_what_it_was_measured_to_know() -> None:
    info = describe(shipped()["chest_xray"])
    parser = ConfigParser()
    parser.read_config(str(info.path / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(info.path / "models" / "model.pt", weights_only=True))
    assert (info.path / "models" / "model.pt").stat().st_size < 25e6
    grey = np.random.default_rng(3).random((1, 350, 300), dtype=np.float32)
    with torch.inference_mode():
        image = parser.get_parsed_content("preprocessing")({"image": MetaTensor(torch.from_numpy(grey))})["image"]
        assert tuple(image.shape[1:]) == info.input_shape
        logits = network.eval()(image.as_tensor()[None])[0]
        scores = parser.get_parsed_content("postprocessing")({"pred": logits})["pred"]
    assert scores.shape == (len(KEYS),)
    assert 0.0 < float(scores.min()) < float(scores.max()) < 1.0
    measured = json.loads((info.path / "configs" / "metadata.json").read_text(encoding="utf-8"))["eval_metrics"]
    card = (info.path / "docs" / "README.md").read_text(encoding="utf-8")
    placed = any(is_placed(one) for one in measured["boxes"].values())
    assert (info.spec.cam is not None) == placed == ("No place is shown" not in card)
    assert {"features", "places"} <= {name for name, _ in network.named_modules()}
    assert tuple(output.key for output in info.spec.outputs) == tuple(REPORTED)
    assert {output.key for output in info.spec.outputs if not output.default} == set(ON_REQUEST)
    for output in info.spec.outputs:
        one = measured["classes"].get(output.key)
        assert bool(output.undetermined) == (one is None or one["low"] <= 0.60)
        if one:
            assert f"| {one['auc']:.2f} [{one['low']:.2f}, {one['high']:.2f}] |" in card


@pytest.mark.slow
def test_a_place_is_shown_for_what_was_measured_to_have_one_and_the_map_is_that_of_places(tmp_path: Path) -> None:
    bundle = shutil.copytree(shipped()["chest_xray"], tmp_path / "bundle")
    path = bundle / "configs" / "reading.json"
    reading = json.loads(path.read_text(encoding="utf-8"))
    for point in reading["operating_points"].values():
        point["thresholds"] = dict.fromkeys(point["thresholds"], 0.001)  # everything is present
    path.write_text(json.dumps(reading), encoding="utf-8")
    model = load(bundle, threads=1)
    grey = np.random.default_rng(3).random((300, 280), dtype=np.float32)
    found = model.read_display(grey)
    measured = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["eval_metrics"]
    placed = {key for key in REPORTED if is_placed(measured["boxes"].get(key))}
    assert {heat.key for heat in found.heat_maps} == {box.key for box in found.boxes} == placed
    assert len(found.scores) == len(REPORTED)
    image = preparation(256)(grey)
    with torch.inference_mode():
        maps = model.network.places(model.network.features(torch.from_numpy(image)[None, None]))[0]
        scores = model.network(torch.from_numpy(image)[None, None])[0]
    for heat in found.heat_maps:
        channel = max((KEYS.index(part) for part in REPORTED[heat.key]), key=lambda k: float(scores[k]))
        own = maps[channel].numpy()
        wanted = (own - own.min()) / (own.max() - own.min())
        shown = heat.values > 0  # outside the body it is 0
        assert shown.any()
        np.testing.assert_allclose(heat.values[shown], wanted[shown], atol=1e-4)
        box = next(box for box in found.boxes if box.key == heat.key)
        row, column = np.unravel_index(int(np.where(shown, own, own.min()).argmax()), own.shape)
        x, y = (column + 0.5) / own.shape[1] * 280, (row + 0.5) / own.shape[0] * 300
        assert box.left <= x <= box.right and box.top <= y <= box.bottom  # the best box has the highest place in it


def test_places_are_judged_for_each_class_by_its_own_boxes() -> None:
    assert is_placed({"findings": 21, "hits": 11, "chance": 1.7})
    assert not is_placed({"findings": 21, "hits": 4, "chance": 1.7})
    assert not is_placed({"findings": 1, "hits": 1, "chance": 0.1})  # one finding tells nothing
    assert not is_placed(None)
    said = reading_of("x", {"classes": {}, "boxes": {"airspace_opacity": {"findings": 9, "hits": 9, "chance": 1.0}}})
    assert [one["key"] for one in said["outputs"] if one.get("located", True)] == ["airspace_opacity"]
    assert "cam" in said
    assert "cam" not in reading_of("x", {"classes": {}, "boxes": {}})


def test_half_precision_moves_no_score_by_a_thousandth(tmp_path: Path) -> None:
    path = shipped()["chest_xray"] / "models" / "model.pt"
    halves = torch.load(path, weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in halves.values())
    # The layers with the largest numbers, written in full and read back out of halves.
    torch.manual_seed(2)
    planes = (8, 8, 16, 16)
    points = [Calibration(0.8, -0.3, 0.2, 0.3)] * len(KEYS)
    linear = LinearReader(len(KEYS)).eval()
    with torch.no_grad():
        linear.classifier.weight.mul_(60.0)
        linear.classifier.bias.fill_(15.0)
    whole = assemble([ChestReader(planes, OUTPUTS).eval()], [linear], points, planes)
    images = torch.rand(4, 1, 64, 64)
    small = ChestNetwork(planes, len(KEYS), 1).eval()
    small.load_state_dict(
        {key: value.half() if value.is_floating_point() else value for key, value in whole.state_dict().items()}
    )
    with torch.inference_mode():
        assert float((torch.sigmoid(whole(images)) - torch.sigmoid(small(images))).abs().max()) < 1e-3


@pytest.mark.slow
def test_the_linear_model_tells_the_direction_of_an_edge() -> None:
    ramp = torch.linspace(0.2, 0.8, 128).repeat(128, 1)[None, None]
    across, along = LinearReader.features(torch.cat([ramp, ramp.transpose(2, 3)])).split(1)
    bins = [one[0, 1024:].reshape(8, 8, 8).sum(dim=(1, 2)) for one in (across, along)]
    assert [int(one.argmax()) for one in bins] == [0, 4]
    noisy = LinearReader.features(ramp + 1e-6 * torch.randn(ramp.shape, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(noisy[:, 1024:], across[:, 1024:], atol=1e-2, rtol=0.0)


def test_parts_join_in_units_of_their_spread() -> None:
    rng = np.random.default_rng(8)
    truth = np.tile([0.0, 1.0], 200)
    labels = np.repeat(truth[:, None], len(KEYS), axis=1)
    cases = some_cases(["a"] * 400, labels)
    logits, linear = (rng.normal(0.0, 3.0, (400, len(KEYS))) + 2.0 * labels for _ in range(2))
    points = calibrate(cases, logits.astype(np.float32), 10.0 * linear.astype(np.float32))
    for key, point in zip(KEYS, points, strict=True):
        k, abnormal = KEYS.index(key), KEYS.index("abnormality")
        share = point.share * logits[:, abnormal].std() / (point.slope * logits[:, k].std())
        joined = point.linear * 10.0 * linear[:, k].std() / (point.slope * logits[:, k].std())
        assert share == pytest.approx(MIXED.get(key, 0.0), abs=1e-3)
        assert joined == pytest.approx(JOINED.get(key, 0.0), abs=1e-3)


def test_the_documentation_shows_the_figures_of_the_shipped_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures"]) == 0
    tables = capsys.readouterr().out
    assert tables.count("| nodule_or_mass |") == 2
    assert tables.count("| `balanced` (default) |") == 1
    page = (ROOT / "docs" / "reference" / "chest-xray.md").read_text(encoding="utf-8")
    for table in tables.strip().split("\n\n"):
        assert table in page


def test_the_region_of_a_map_lies_where_the_map_is_highest() -> None:
    cam = np.zeros((8, 8), dtype=np.float32)
    cam[1:3, 5:7], cam[6, 1] = 1.0, 0.9  # the smaller peak is another region
    x, y = region_centre(cam)
    assert (x, y) == (pytest.approx(6 / 8, abs=0.02), pytest.approx(2 / 8, abs=0.02))


def test_a_class_is_undetermined_when_its_interval_reaches_down_to_sixty() -> None:
    one = {"auc": 0.72, "low": 0.60, "high": 0.85, "positives": 19}
    assert "0.60 to 0.85" in undetermined("pneumothorax", {"pneumothorax": one})
    assert undetermined("pneumothorax", {"pneumothorax": {**one, "low": 0.61}}) == ""
    assert "too few" in undetermined("pneumothorax", {})


def test_changed_images_stay_images_and_the_same_seed_changes_them_alike() -> None:
    images = torch.rand(8, 1, 96, 96, generator=torch.Generator().manual_seed(1))
    one, same, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert one.shape == images.shape
    assert float(one.min()) >= 0.0
    assert float(one.max()) <= 1.0
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Nodule": "maybe"}, "line 2: Nodule is 'maybe'; 0, 1 or nothing was expected"),
        ({"file": "../secret.png"}, "line 2: file '../secret.png' lies outside"),
        ({"file": "gone.png"}, "line 2: 'gone.png' is no image that can be read"),
        ({"boxes": "Nodule:1,2"}, "line 2: boxes holds 'Nodule:1,2'; label:x,y,w,h was expected"),
        ({"age": "old"}, "line 2: age is 'old'; a number was expected"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, change: dict[str, str], said: str) -> None:
    rows = write_data(tmp_path, 4)
    write_table(tmp_path, [rows[0] | change, *rows[1:]])
    with pytest.raises(ValueError, match=r"labels\.csv") as raised:
        read_cases(tmp_path, lambda grey: grey)
    assert said in str(raised.value)


def test_a_missing_column_is_named_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text("file,patient_id\nx.png,P1\n", encoding="utf-8")
    assert main(["crossvalidate", "--data", str(tmp_path), "--work", str(tmp_path / "work")]) == 2
    assert "lacks the columns" in capsys.readouterr().err


def test_an_unknown_label_is_not_a_negative(tmp_path: Path) -> None:
    write_data(tmp_path, 4)
    cases = read_cases(tmp_path, lambda grey: grey)
    tuberculosis, nodule = (cases.labels[:, KEYS.index(key)] for key in ("tuberculosis", "nodule_or_mass"))
    assert np.isnan(tuberculosis).tolist() == [True, False, True, False]
    assert np.isnan(nodule).tolist() == [False, True, False, True]
    assert cases.labels[:, KEYS.index("abnormality")].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert len(COLUMNS) == len(KEYS)
    assert replace(cases, patients=("P", "P", "Q", "Q")).folds[0] == fold("P")


@pytest.mark.parametrize(
    ("hits", "findings", "chance", "shown"),
    [(4, 24, 1.9, False), (12, 24, 1.9, True), (3, 3, 2.5, False), (0, 0, 0.0, False)],
)
def test_heat_maps_are_shown_where_they_point_better_than_chance(
    hits: int, findings: int, chance: float, shown: bool
) -> None:
    assert is_placed({"images": findings, "findings": findings, "hits": hits, "chance": chance}) is shown
    assert not is_placed(None)
