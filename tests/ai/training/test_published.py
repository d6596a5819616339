"""Published weights become a bundle that says the same, number for number."""

from __future__ import annotations

import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional

from ai.bundle.files import BundleError
from ai.bundle.manifest import load_reading_spec
from ai.bundle.metadata import metadata_faults
from ai.contract import Code
from ai.inference.bundle_model import load
from ai.training.chest_codes import NIH14, PRIVATE_SCHEME, XRV18, finding_code, key_of
from ai.training.published import (
    WeightsDescription,
    import_densenet121,
    read_densenet121,
    weights_of,
    write_bundle,
)
from tests.support.waiting import scaled

SIZE = 64


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small operations: threads would wait for each other longer than they work, where other work is going on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Layer(nn.Module):
    """One dense layer (Huang et al. 2017), under torchvision's names."""

    def __init__(self, taken: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(taken), nn.Conv2d(taken, 128, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(inner)))], 1)


class Transition(nn.Module):
    def __init__(self, taken: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(taken), nn.Conv2d(taken, taken // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(x))), 2)


class Reference(nn.Module):
    """DenseNet-121 by the paper's table 1, with nothing of MONAI's; made of random weights that are used everywhere."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(channels, 64, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(64))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        width = 64
        for number, layers in enumerate((6, 12, 24, 16), 1):
            block = nn.Sequential()
            for each in range(layers):
                block.add_module(f"denselayer{each + 1}", Layer(width + 32 * each))
            self.features.add_module(f"denseblock{number}", block)
            width += 32 * layers
            if number < 4:
                self.features.add_module(f"transition{number}", Transition(width))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, classes)
        for name, tensor in self.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(0.0, 0.1)
            elif name.endswith("running_var") or re.search(r"norm\d?\.weight", name):
                tensor.uniform_(0.5, 1.5)
        self.eval()

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(functional.relu(self.features(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def three() -> Reference:
    torch.manual_seed(1)
    return Reference(3, 14)


@pytest.fixture(scope="module")
def grey() -> Reference:
    torch.manual_seed(2)
    return Reference(1, 18)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def written(content: Any, folder: Path, **said: Any) -> Path:
    return write_bundle(weights_of(content), folder / "b", WeightsDescription(**{"size": SIZE, **said}), "0" * 64)


def run(folder: Path, display: np.ndarray) -> tuple[MetaTensor, np.ndarray]:
    """The bundle by MONAI's own parser: the network's input and the probabilities of one image (rows, columns) 0..1."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    parser.parse()
    network, before, after, inferer = (
        parser.get_parsed_content(name) for name in ("network_def", "preprocessing", "postprocessing", "inferer")
    )
    network.load_state_dict(torch.load(folder / "models/model.pt", weights_only=True), strict=True)
    network.eval()
    with torch.inference_mode():
        image = before({"image": MetaTensor(torch.from_numpy(display)[None], affine=torch.eye(4))})["image"]
        pred = inferer(image.as_tensor()[None], network)[0]
        return image, after({"pred": pred})["pred"].numpy()


@pytest.fixture(scope="module")
def display() -> np.ndarray:
    """A square image of the network's own size, so that nothing is interpolated."""
    return np.random.default_rng(3).random((SIZE, SIZE), dtype=np.float32)


@pytest.mark.slow
def test_chexnet_says_the_same(three: Reference, display: np.ndarray, tmp_path: Path) -> None:
    out = written(three.state_dict(), tmp_path, name="chexnet", classes=NIH14, normalise="chexnet")
    _, scores = run(out, display)
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = three(((torch.from_numpy(display)[None] - mean) / deviation)[None]).sigmoid()[0].numpy()
    assert np.abs(scores - expected).max() < 1e-5
    assert expected.std() > 0.01  # they tell the classes apart, so that a confusion would show


@pytest.mark.slow
def test_torchxrayvision_says_the_same_with_its_operating_points(
    grey: Reference, display: np.ndarray, tmp_path: Path
) -> None:
    points = np.linspace(0.02, 0.9, 18, dtype=np.float32)
    points[4] = math.nan
    out = written(
        {**grey.state_dict(), "op_threshs": torch.from_numpy(points)},
        tmp_path,
        name="xrv",
        classes=XRV18,
        normalise="torchxrayvision",
    )
    _, scores = run(out, display)
    expected = grey(torch.from_numpy(2048.0 * display - 1024.0)[None, None]).sigmoid()[0].numpy()
    for channel, (score, raw, point) in enumerate(zip(scores, expected, points, strict=True)):
        if channel == 4:  # not trained: its score stays as it is, and it is never called
            assert abs(score - raw) < 1e-5
        else:
            moved = raw / (2 * point) if raw < point else 1 - (1 - raw) / (2 * (1 - point))
            assert abs(score - moved) < 1e-5
            assert (score >= 0.5) == (raw >= point)
    spec = load_reading_spec(out / "configs/reading.json")
    assert [o.channel for o in spec.outputs if o.undetermined] == [4]


@pytest.mark.slow
def test_torchxrayvision_sees_the_central_square(grey: Reference, tmp_path: Path) -> None:
    out = written(grey.state_dict(), tmp_path, name="xrv", classes=XRV18, normalise="torchxrayvision")
    display = np.zeros((3 * SIZE, 2 * SIZE), dtype=np.float32)
    display[SIZE // 2 : -SIZE // 2] = 1.0
    image, scores = run(out, display)
    assert tuple(image.shape) == (1, SIZE, SIZE)
    inner = image.as_tensor()[0, 4:-4, 4:-4]  # what is smoothed away lies at the border
    assert (inner.min(), inner.max()) == (pytest.approx(1024.0, abs=0.1), pytest.approx(1024.0, abs=0.1))
    assert image.as_tensor().min() > 600.0  # nothing but the white square is in it
    # The affine says where the square lies: the middle of the input's first pixel is that of four image pixels.
    np.testing.assert_allclose(image.affine.numpy()[:2, 3], [SIZE // 2 + 0.5, 0.5])
    assert scores.shape == (18,)


@pytest.mark.slow
def test_a_network_without_normalisation_gets_the_greys(three: Reference, display: np.ndarray, tmp_path: Path) -> None:
    out = written(three.state_dict(), tmp_path, name="plain", classes=NIH14, normalise="none")
    _, scores = run(out, display)
    expected = three(torch.from_numpy(display).expand(1, 3, -1, -1)).sigmoid()[0].numpy()
    assert np.abs(scores - expected).max() < 1e-5


def old_names(state: dict[str, Any]) -> dict[str, Any]:
    """As PyTorch 0.3 named a dense layer's parts; it counted no batches either."""
    dotted = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", k): v for k, v in state.items()}
    return {k: v for k, v in dotted.items() if "num_batches" not in k}


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        lambda s: {"state_dict": {f"module.densenet121.{k}": v for k, v in old_names(s).items()}, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {k.replace("classifier.", "classifier.0."): v for k, v in s.items()},
        lambda s: {
            (f"module.{k}" if k.startswith("classifier") else f"module.densenet121.{k}"): v for k, v in s.items()
        },
        lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
        lambda s: {
            re.sub(r"(denselayer\d+)", r"\1.layers", k).replace("classifier.", "class_layers.out."): v
            for k, v in s.items()
        },
    ],
    ids=["chexnet of 2017", "data parallel", "classifier in a sequence", "outer classifier", "half", "monai"],
)
def test_every_form_of_a_checkpoint_has_the_same_weights(three: Reference, form: Any) -> None:
    plain, weights = weights_of(three.state_dict()).state, weights_of(form(three.state_dict()))
    assert (weights.channels, weights.classes, weights.op_threshs) == (3, 14, None)
    assert weights.state.keys() == plain.keys()
    for key, tensor in plain.items():
        torch.testing.assert_close(weights.state[key], tensor, atol=2e-3, rtol=1e-3)  # that of half precision


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("a pickle was run",))


def test_a_pickled_model_is_refused_and_not_run(three: Reference, tmp_path: Path, capfd: Any) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "text.pt").write_text("no weights")
    for name in ("whole.pt", "evil.pt", "text.pt"):
        with pytest.raises(BundleError, match=rf"{name}: is no file of plain weights.*weights alone"):
            read_densenet121(tmp_path / name)
    assert "was run" not in capfd.readouterr().out
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        read_densenet121(tmp_path / "none.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda s: {}, "0 tensors are called"),
        (lambda s: {k: v for k, v in s.items() if "classifier" not in k}, "no classifier"),
        (lambda s: {k: v for k, v in s.items() if "norm5.bias" not in k}, r"features\.norm5\.bias is missing"),
        (lambda s: {**s, "features.attention.weight": torch.zeros(2)}, r"features\.attention\.weight is unexpected"),
        (lambda s: {**s, "features.norm5.bias": torch.zeros(7)}, r"norm5\.bias has the shape \(7,\), not \(1024,\)"),
        (lambda s: {**s, "features.norm5.bias": torch.full((1024,), math.nan)}, r"norm5\.bias is not finite"),
        (lambda s: {**s, "features.norm5.bias": s["features.norm5.bias"].to_sparse()}, r"norm5\.bias is sparse"),
    ],
)
def test_what_is_no_densenet_121_is_told(three: Reference, spoil: Any, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        weights_of(spoil(three.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"classes": NIH14[:-1]}, "have 14 outputs, but 13 classes are named"),
        ({"classes": (*NIH14[:-1], "Mass")}, "mass: each may be named once"),
        ({"classes": ["-"] * 14}, "none is named"),
        ({"channels": 1}, "take 3 channels; 1 were declared"),
        ({"normalise": "torchxrayvision"}, "does not go with 'torchxrayvision'"),
        ({"thresholds": [0.5]}, "1 for 14 classes"),
        ({"thresholds": [1.5] * 14}, "between 0 and 1"),
        ({"name": "../evil"}, "name"),
    ],
)
def test_what_does_not_fit_the_weights_is_told(
    three: Reference, tmp_path: Path, said: dict[str, Any], told: str
) -> None:
    with pytest.raises(BundleError, match=told):
        written(three.state_dict(), tmp_path, **{"name": "x", "classes": NIH14, "normalise": "chexnet", **said})
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_the_bundle_says_what_it_is(three: Reference, tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pt", three.state_dict())
    classes = ["-", "Teddy bear swallowed by accident", *NIH14[2:]]
    own = Code("1234", "99HOSP", "Effusion")
    said = WeightsDescription("local", classes, "chexnet", channels=3, codes={"effusion": own}, thresholds=[0.3] * 14)
    out = import_densenet121(file, tmp_path / "b", said)
    assert sha256(file.read_bytes()).hexdigest() in (out / "docs/README.md").read_text()
    spec = load_reading_spec(out / "configs/reading.json")
    assert [o.channel for o in spec.outputs] == list(range(1, 14))
    teddy, effusion, infiltration = spec.outputs[:3]
    assert (teddy.name, teddy.code.scheme) == ("Teddy bear swallowed by accident", PRIVATE_SCHEME)
    assert len(teddy.code.value) <= 16
    assert effusion.code.code() == own
    assert infiltration.code.value == "112121"
    assert {o.threshold for o in spec.outputs} == {0.3}
    assert (spec.task, spec.cam.layer if spec.cam else "") == ("classification", "class_layers.relu")
    assert spec.notice.startswith("Not validated at this site")
    assert metadata_faults(json.loads((out / "configs/metadata.json").read_bytes())) == []
    assert "Not validated at this site" in (out / "docs/README.md").read_text()
    with pytest.raises(BundleError, match="exists already"):
        import_densenet121(file, out, said)


def test_every_published_class_has_a_code_and_a_key() -> None:
    for name in (*NIH14, *XRV18):
        code, _site = finding_code(name)
        private = key_of(name) in {"pleural_thickening", "lung_lesion", "enlarged_cardiomediastinum", "pneumonia"}
        assert (code.scheme == PRIVATE_SCHEME) is private, name
        assert len(code.value) <= 16
    assert len({finding_code(name)[0].value for name in XRV18}) == 18
    assert finding_code("Pleural Effusion")[0] == finding_code("effusion")[0]
    assert key_of("2nd opinion!") == "class_2nd_opinion"


@pytest.mark.slow
def test_the_layer_for_the_map_gives_the_scores_again(three: Reference, tmp_path: Path) -> None:
    """What ``cam`` names is such that the classifier over the map's mean is the logit (Zhou et al. 2016)."""
    out = written(three.state_dict(), tmp_path, name="x", classes=NIH14, normalise="chexnet")
    cam = load_reading_spec(out / "configs/reading.json").cam
    assert cam is not None
    parser = ConfigParser()
    parser.read_config(str(out / "configs/inference.json"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(out / "models/model.pt", weights_only=True))
    network.eval()
    kept: list[torch.Tensor] = []
    network.get_submodule(cam.layer).register_forward_hook(lambda _m, _i, o: kept.append(o.clone()))
    with torch.inference_mode():
        logits = network(torch.rand(1, 3, SIZE, SIZE))
        assert cam.classifier is not None
        again = network.get_submodule(cam.classifier)(kept[0].mean((2, 3)))
    torch.testing.assert_close(again, logits)


def test_importing_the_room_does_without_torch() -> None:
    code = "import sys, ai.training.published; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=scaled(60))
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_the_node_reads_with_it(grey: Reference, display: np.ndarray, tmp_path: Path) -> None:
    content = {**grey.state_dict(), "op_threshs": torch.full((18,), 0.5)}
    out = written(content, tmp_path, name="xrv", classes=XRV18, normalise="torchxrayvision")
    answer = load(out, threads=1).read_display(display)
    expected = grey(torch.from_numpy(2048.0 * display - 1024.0)[None, None]).sigmoid()[0].numpy()
    assert np.abs(np.array(answer.scores) - expected).max() < 1e-5
    present = {key_of(name) for name, score in zip(XRV18, expected, strict=True) if score >= 0.5}
    assert present
    # Noise has no body, so no place is shown, and it is said how many were dropped.
    assert (answer.boxes, answer.heat_maps) == ((), ())
    assert answer.dropped >= len(present)
    path = out / "configs/reading.json"
    reading = json.loads(path.read_text(encoding="utf-8"))
    assert reading["input"].pop("adult_frontal_chest") is True
    path.write_text(json.dumps(reading), encoding="utf-8")
    answer = load(out, threads=1).read_display(display)
    assert {heat.key for heat in answer.heat_maps} == {box.key for box in answer.boxes} == present
