"""What the warm process says of its models: loaded, waiting for memory, broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ai.bundle.files import shipped
from ai.bundle.pins import Pinned
from ai.contract import ReadingError
from ai.engine import devices as places
from ai.engine import process
from ai.engine.devices import Device
from dicom_node.config.settings import Profile
from dicom_node.reading import loading, messages, warm_process
from tests.ai.inference.test_bundle_model import series, write_image


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped()["phantom_cxr"], tmp_path / "copy"))


def start(
    monkeypatch: pytest.MonkeyPatch, bundles: dict[str, Path], free: dict[str, int] | None = None
) -> loading.Loads:
    """Load as the warm process does, on a machine with so much memory."""
    if free is not None:
        there = (Device("cpu", lambda: free["cpu"]),)
        monkeypatch.setattr(loading, "devices", lambda _wanted: (there, ""))
    pinned = {name: Pinned(path) for name, path in bundles.items()}
    monkeypatch.setattr(process, "_state", loading.loader(pinned, "cpu")())
    return loading.loads()


@pytest.mark.slow
def test_a_damaged_bundle_is_told_and_the_others_are_loaded(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    (copy / "models" / "model.pt").write_bytes(b"no weights")
    went = start(monkeypatch, {"good": shipped()["phantom_cxr"], "bad": copy})
    assert went.loaded == {"good": places.CPU}
    assert went.failed.keys() == {"bad"}
    assert "no file of weights" in went.failed["bad"]


def test_a_model_without_room_waits_and_one_that_is_found_broken_then_says_so(
    monkeypatch: pytest.MonkeyPatch, copy: Path
) -> None:
    free = {"cpu": 1024**2}
    went = start(monkeypatch, {"one": copy}, free)
    assert (went.loaded, went.failed) == ({}, {})
    assert went.waiting.keys() == {"one"}
    (copy / "models" / "model.pt").write_bytes(b"damaged since")
    free["cpu"] = 1024**4
    image = series(write_image(copy.parent))
    request = messages.ReadRequest("one", "1.2.3", (image,), "site", 0.0, (messages.Wanted(Profile(), None),), {}, "")
    with pytest.raises(ReadingError, match=r"model one could not be loaded: .*no file of weights"):
        warm_process.read(request)
    assert loading.loads().failed.keys() == {"one"}
