"""Makes bundles for tests: small, of the forms that a hospital may bring, with weights whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LUNG = {"value": "39607008", "scheme": "SCT", "meaning": "Lung"}
METADATA: dict[str, Any] = {
    "version": "1.0.0",
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.4.6",
    "task": "Test",
    "description": "For tests.",
    "authors": "Test",
    "copyright": "Test",
}


def output(key: str, channel: int, threshold: float = 0.5, **more: Any) -> dict[str, Any]:
    """An output of reading.json with a code that need not be true."""
    code = {"value": str(27925004 + channel), "scheme": "SCT", "meaning": key.replace("_", " ").capitalize()}
    name = key.replace("_", " ").capitalize()
    return {"key": key, "name": name, "channel": channel, "code": code, "threshold": threshold} | more


def reading(task: str, *outputs: dict[str, Any], kind: str = "image", **more: Any) -> dict[str, Any]:
    """A reading.json for radiographs of the chest, or for CT."""
    source = {"kind": kind, "modality": ["CR", "DX"] if kind == "image" else ["CT"]}
    return {
        "format": 1,
        "name": f"test_{task}",
        "task": task,
        "manufacturer": "Test",
        "intended_use": "For tests.",
        "input": source | more.pop("input", {}),
        "outputs": list(outputs),
    } | more


def metadata(shape: list[Any], channels: int, *, inputs: int = 1, **image: Any) -> dict[str, Any]:
    """A metadata.json for an input ``image`` of a shape and a ``pred`` of so many channels."""
    return METADATA | {
        "network_data_format": {
            "inputs": {"image": {"type": "image", "num_channels": inputs, "spatial_shape": shape} | image},
            "outputs": {"pred": {"type": "image", "num_channels": channels, "spatial_shape": shape}},
        }
    }


def write(
    path: Path,
    *,
    config: dict[str, Any] | str,
    reading: dict[str, Any],
    metadata: dict[str, Any],
    weights: Any = None,
    script: torch.jit.ScriptModule | None = None,
) -> Path:
    """Write the files of a bundle; a ``config`` that is text is YAML."""
    (path / "configs").mkdir(parents=True)
    (path / "models").mkdir()
    if isinstance(config, str):
        (path / "configs" / "inference.yaml").write_text(config)
    else:
        (path / "configs" / "inference.json").write_text(json.dumps(config, indent=4))
    for name, content in (("metadata", metadata), ("reading", reading)):
        (path / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4))
    if weights is not None:
        torch.save(weights, path / "models" / "model.pt")
    if script is not None:
        torch.jit.save(script, path / "models" / "model.ts")
    return path


# --- a classifier of radiographs ------------------------------------------------------------------------------------


_BRIGHTNESS = """
import torch


class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU())
        self.head = torch.nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3)))
"""


def brightness_weights() -> dict[str, torch.Tensor]:
    """Class 0 is how much is whiter than 0.7, class 1 how much is darker than 0.3, and class 2 is always at 0.9."""
    return {
        "features.1.weight": torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1),
        "features.1.bias": torch.tensor([-0.7, 0.3]),
        "head.weight": torch.tensor([[1000.0, 0.0], [0.0, 100.0], [0.0, 0.0]]),
        "head.bias": torch.tensor([-4.0, -20.0, 2.2]),
    }


def classifier(path: Path, *, cam: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A classifier of our own form: a bright place is present, where it is; and one class that is undetermined."""
    script = path / "scripts"
    script.mkdir(parents=True)
    (script / "__init__.py").write_text("")
    (script / "net.py").write_text(_BRIGHTNESS)
    config = {
        "network_def": {"_target_": "scripts.net.Brightness"},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Resized", "keys": "image", "spatial_size": [128, 128], "mode": "area"}],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
        },
    } | changes
    outputs = (
        output("bright", 0, site=LUNG),
        output("dark", 1),
        output("unsure", 2, undetermined="It was seen in too few images."),
    )
    return write(
        path,
        config=config,
        reading=reading("classification", *outputs, **({"cam": cam} if cam else {})),
        metadata=metadata([128, 128], 3),
        weights=brightness_weights(),
    )
