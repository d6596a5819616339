"""The timing of a reading beside its bare network measures both, of the same image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ai.evaluation import timing
from tests.support.bundles import classifier, radiograph


def test_a_reading_is_timed_beside_its_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = radiograph(tmp_path, np.tile(np.arange(400, dtype=np.uint16) * 10, (480, 1)))
    bundle = classifier(tmp_path / "bundle", cam={"layer": "features"})
    assert timing.main([ref.content, "--bundle", str(bundle), "--rounds", "3", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["columns"], found["rounds"]) == (480, 400, 3)
    seconds = found["seconds"]
    assert seconds.keys() >= {"reading", "network alone", "of the reading: decode"}
    assert seconds["reading"]["median"] > seconds["network alone"]["median"] > 0
    assert found["ratio"] == seconds["reading"]["median"] / seconds["network alone"]["median"]


def test_an_image_that_the_model_does_not_take_is_named(tmp_path: Path) -> None:
    ref = radiograph(tmp_path, np.full((40, 40), 7, dtype=np.uint16))
    reading = json.loads((classifier(tmp_path / "bundle") / "configs" / "reading.json").read_text())
    reading["input"]["modality"] = ["MG"]
    (tmp_path / "bundle" / "configs" / "reading.json").write_text(json.dumps(reading))
    with pytest.raises(ValueError, match=r"is not read: modality DX is not among MG"):
        timing.main([ref.content, "--bundle", str(tmp_path / "bundle"), "--rounds", "1"])
