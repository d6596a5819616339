"""scripts/torture: a short campaign of kills loses nothing and sends nothing twice; its audit sees what is wrong."""

from __future__ import annotations

import errno
import json
import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks import ingest
from scripts.benchmarks.torturing import audit as audits
from scripts.benchmarks.torturing import modality, torture
from scripts.benchmarks.torturing.faults import Fault, Faults
from tests.support.peers import free_port
from tests.support.programs import tool
from tests.support.waiting import wait_until

pytestmark = pytest.mark.programs


def test_kills_lose_nothing_and_the_audit_would_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("storescu", "Orthanc", "gcc"):
        tool(name)
    audit, seen = audits.audit, {}

    def spoil_and_audit(node: Any, sent: Any, pacs: list[str]) -> Any:
        """The audit as it is, and of the same folder with one thing spoiled after the other."""
        clean = audit(node, sent, pacs)
        uid = sorted(sent.answered)[0]
        ((name,),) = node.rows("SELECT file FROM instances WHERE sop_instance_uid = ?", uid)
        kept, content = node.data / str(name), (node.data / str(name)).read_bytes()

        def fault() -> list[str]:
            return list(audit(node, sent, pacs)[1])

        kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        seen["changed"] = fault()
        kept.unlink()
        seen["lost"] = fault()
        kept.write_bytes(content)
        (node.data / "incoming" / "0.part").touch()
        shutil.copy(kept, kept.with_name("stray.dcm"))
        seen["left over"] = fault()
        (node.data / "incoming" / "0.part").unlink()
        kept.with_name("stray.dcm").unlink()
        seen["twice"] = list(audit(node, sent, [*pacs, pacs[0], "1.2.3"])[1])
        seen["not there"] = list(audit(node, sent, pacs[1:])[1])
        sent.studies.add("1.2.4")
        seen["no outcome"] = fault()
        sent.studies.remove("1.2.4")
        with closing(sqlite3.connect(node.data / "index.sqlite")) as index, index:
            columns = "study, model, version, digest, created, reading, shadow"
            index.execute(f"INSERT INTO readings (run_key, {columns}) SELECT 'again', {columns} FROM readings LIMIT 1")
        seen["read twice"] = fault()
        return clean

    monkeypatch.setattr(torture, "audit", spoil_and_audit)
    figures = tmp_path / "figures.json"
    told = torture.main(["--kills", "3", "--apart", "3", "--seed", "7", "--dir", str(tmp_path), "--json", str(figures)])
    said = capsys.readouterr().out
    assert told == 0, said
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["kills"] >= 3
    assert found["wrong"] == []
    assert found["faults"] == 6
    assert set(found["calls that failed"]) == {"ENOSPC", "EDQUOT", "EIO", "EROFS"}
    assert set(found["answers"]) <= {"0000", "A700", "0110", "rejected", "no answer"}
    assert found["images answered 0000"] > 0
    assert found["results in the PACS"] > 0
    bad = (
        "lost",
        "changed",
        "duplicated",
        "without outcome",
        "failed",
        "said to be delivered and not there",
        "files left over",
    )
    assert [found[name] for name in bad] == [0] * len(bad)
    assert {name: len(faults) for name, faults in seen.items()} == {
        **{"changed": 1, "lost": 1, "left over": 2, "twice": 2, "not there": 1, "no outcome": 1, "read twice": 1}
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]  # nothing is left behind


@pytest.mark.parametrize(("number", "area"), [(errno.ENOSPC, "incoming"), (errno.EIO, "index")])
def test_a_study_whose_reading_meets_a_fault_is_read_when_it_is_over(tmp_path: Path, number: int, area: str) -> None:
    for name in ("storescu", "gcc"):
        tool(name)
    node, sent = torture.Node(tmp_path / "node", free_port()), modality.Sent()
    faults = Faults(tmp_path, node.data)
    node.environment = faults.environment
    node.start()
    try:
        modality.push_with_storescu(node, ingest.make(tmp_path / "images", 1, modality.SMALL), sent)
        if area == "index":  # when it is claimed, so that its end cannot be written
            wait_until(lambda: "reading" in node.steps(), "the reading")
        faults.begin(Fault(number, ("open", "write"), (area,)), node.pid, random.Random(1))
        wait_until(faults.struck, "the fault")
        time.sleep(5.0)  # longer than three attempts take
        faults.end([])
        state = "SELECT state, attempts FROM jobs WHERE kind = 'read'"
        wait_until(lambda: node.rows(state) == [("done", 1)], "the reading, by the same node", 40.0)
    finally:
        faults.end([])
        assert node.stop() == 0
