"""scripts/bench: it measures what really arrived, and says so where something did not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, tool

BENCH = ROOT / "scripts" / "benchmarks"


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture
def ingest(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import ingest  # noqa: PLC0415 - scripts are no package

    return ingest


def test_every_server_gets_every_image(tmp_path: Path) -> None:
    for name in ("storescu", "storescp", "Orthanc"):
        tool(name)
    told = bench("ingest", "--quick", "--dir", tmp_path, "--json", tmp_path / "figures.json")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [load["images"] for load in found["loads"]] == [8, 8]
    for load in found["loads"]:
        names = [one["server"] for one in load["servers"]]
        assert names == ["dicom-node", "DCMTK storescp", "Orthanc", "pynetdicom storescp"]
        assert all(len(one["images_per_second"]) == 1 and one["images_per_second"][0] > 0 for one in load["servers"])
        for name in names:
            assert f"| {name} |" in told.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]  # nothing is left behind


def test_an_image_that_was_acknowledged_and_is_not_there_is_no_figure(ingest: Any, tmp_path: Path) -> None:
    tool("storescu")
    from servers import SERVERS, Server  # type: ignore[import-not-found]  # noqa: PLC0415 - see ingest

    def forgetful(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
        command, stored = SERVERS["dcmtk"].prepare(folder, port)
        return command, lambda: max(0, stored() - 3)

    server = Server("forgetful", "nothing", forgetful)
    with pytest.raises(ingest.LostError, match="forgetful has 7 of the 8 images that it acknowledged"):
        ingest.run(tmp_path, [server], ingest.QUICK[:1], rounds=1, say=lambda text: None)


def test_a_sender_that_fails_or_hangs_is_told_and_none_is_left(
    ingest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = tmp_path / "sender"
    monkeypatch.setattr(ingest, "program", lambda name: str(sender))
    monkeypatch.setattr(ingest, "_LIMIT_SECONDS", 1.0)
    left = tmp_path / "left"
    for what, message in (
        ("echo no peer; exit 3", r"failed \(3\): no peer"),
        ("exec sleep 60", "did not end within 1 s"),
    ):
        sender.write_text(f'#!/bin/sh\necho $$ > "{left}"\n{what}\n', encoding="utf-8")
        sender.chmod(0o755)
        with pytest.raises(ingest.LostError, match=message):
            ingest.send([tmp_path], 1)
        assert not Path(f"/proc/{left.read_text(encoding='utf-8').strip()}").exists()


def test_a_server_that_does_not_start_and_a_wrong_argument_are_named(ingest: Any, tmp_path: Path) -> None:
    from servers import MissingError, Server  # noqa: PLC0415 - see ingest

    server = Server("broken", "nothing", lambda folder, port: (["sh", "-c", "echo no room; exit 1"], lambda: 0))
    with pytest.raises(MissingError, match="broken does not listen; its last words: no room"):
        ingest.run(tmp_path, [server], ingest.QUICK[:1], rounds=1, say=lambda text: None)
    told = bench("ingest", "--servers", "dcmtk,conquest")
    assert told.returncode == 2
    assert "conquest; expected some of dicom-node, dcmtk, orthanc, pynetdicom" in told.stderr


def test_a_study_is_followed_from_its_last_image_to_its_last_result(tmp_path: Path) -> None:
    told = bench("turnaround", "--quick", "--trace", "--dir", tmp_path, "--json", tmp_path / "figures.json")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    (start,), (study,) = found["starts"], found["studies"]
    assert 0 < start["first C-ECHO"] < start["first reading"]
    assert found["turnaround"] == [pytest.approx(sum(study.values()))]
    steps = {name for name in study if not name.startswith("sending of ")}
    assert {"reading: decode", "reading: network", "reading: encode", "reading: write"} < steps
    assert all(seconds > -0.01 for seconds in study.values()), "a step ended before it began"
    assert found["network alone"][0] > 0
    assert "| reading: encode |" in told.stdout


def test_studies_are_read_while_images_are_received(tmp_path: Path) -> None:
    told = bench("throughput", "--quick", "--dir", tmp_path, "--json", tmp_path / "figures.json")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["studies"] == 3
    assert all(value > 0 for turn in found["turns"] for value in turn.values())
    assert "| studies a minute / the network alone |" in told.stdout
