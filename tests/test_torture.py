"""scripts/torture: a short campaign of kills loses nothing and sends nothing twice; its audit sees what is wrong."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, tool


@pytest.fixture
def torture(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))
    import torture  # noqa: PLC0415 - scripts are no package

    return torture


def test_kills_lose_nothing_and_the_audit_would_see_it(
    torture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("storescu", "Orthanc"):
        tool(name)
    audit, seen = torture.audit, {}

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
    told = torture.main(
        ["--kills", "5", "--seed", "7", "--dir", str(tmp_path), "--json", str(tmp_path / "figures.json")]
    )
    said = capsys.readouterr().out
    assert told == 0, said
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert (found["kills"], found["faults"]) == (5, [])
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
