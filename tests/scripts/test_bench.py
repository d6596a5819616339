"""scripts/bench: it measures what really arrived, and says so where something did not; what it finds is plausible."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.index.index import Index
from scripts.benchmarks import ingest
from scripts.benchmarks.filling import MODEL, Hospital, fill, queue
from scripts.benchmarks.ingest import LostError
from scripts.benchmarks.sender import Sender
from scripts.benchmarks.servers import SERVERS, MissingError, Server
from tests.support.programs import ROOT, tool
from tests.support.waiting import scaled


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=scaled(150), check=False)


@pytest.mark.programs
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


@pytest.mark.programs
def test_an_image_that_was_acknowledged_and_is_not_there_is_no_figure(tmp_path: Path) -> None:
    tool("storescu")

    def forgetful(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
        command, stored = SERVERS["dcmtk"].prepare(folder, port)
        return command, lambda: max(0, stored() - 3)

    server = Server("forgetful", "nothing", forgetful)
    with pytest.raises(ingest.LostError, match="forgetful has 7 of the 8 images that it acknowledged"):
        ingest.run(tmp_path, [server], ingest.QUICK[:1], rounds=1, say=lambda text: None)


@pytest.mark.programs
def test_a_sender_that_fails_or_hangs_is_told_and_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.programs
def test_a_server_that_does_not_start_and_a_wrong_argument_are_named(tmp_path: Path) -> None:
    server = Server("broken", "nothing", lambda folder, port: (["sh", "-c", "echo no room; exit 1"], lambda: 0))
    with pytest.raises(MissingError, match="broken does not listen; its last words: no room"):
        ingest.run(tmp_path, [server], ingest.QUICK[:1], rounds=1, say=lambda text: None)
    told = bench("ingest", "--servers", "dcmtk,conquest")
    assert told.returncode == 2
    assert "conquest; expected some of dicom-node, dcmtk, orthanc, pynetdicom" in told.stderr


@pytest.mark.programs
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


@pytest.mark.programs
def test_studies_are_read_while_images_are_received(tmp_path: Path) -> None:
    told = bench("throughput", "--quick", "--dir", tmp_path, "--json", tmp_path / "figures.json")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["studies"] == 3
    assert all(value > 0 for turn in found["turns"] for value in turn.values())
    assert "| studies a minute / the network alone |" in told.stdout


@pytest.mark.long
@pytest.mark.programs
def test_what_the_node_holds_in_memory_is_asked_of_the_system(tmp_path: Path) -> None:
    tool("storescu")
    told = bench("memory", "--quick", "--dir", tmp_path, "--json", tmp_path / "figures.json")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    one, many, queue = found["object"], found["associations"], found["queue"]
    assert one["object_bytes"] > 64e6
    assert one["greatest"] - one["before"] == one["more"] < 32e6  # half of the object: it is never held
    assert 10e6 < one["before"] < 1e9
    assert many["instances"] == 240
    assert len(many["samples"]) == 20
    assert many["first"]["memory"] <= many["greatest"] < 2 * many["idle"]["memory"]
    assert many["last"]["threads"] <= many["idle"]["threads"] + 2  # the last association's may still say goodbye
    assert many["last"]["files"] < many["idle"]["files"] + 256 + 8  # the spool's folders stay open, nothing else
    assert queue["queued"] == 200
    assert abs(queue["more"]) < 50e6
    before, idle, slow, silent, after = found["pressure"]["stages"]
    assert [each["threads"] - before["threads"] for each in (idle, slow, silent)] == [20, 40, 70]
    assert after["threads"] <= before["threads"] + 2
    assert after["files"] <= before["files"] + 20 + 2  # folders of the spool that the slow ones opened
    assert silent["memory"] - before["memory"] < 70 * 200e3
    assert all(0 < each["echo_seconds"] < 10 for each in (before, idle, slow, silent, after))
    assert "senders of one byte a second" in told.stdout
    assert "(bar: 200.0 MB)" in told.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.slow
def test_what_a_full_index_costs_is_held_against_an_empty_one(tmp_path: Path) -> None:
    told = bench("index", "--quick", "--dir", tmp_path, "--json", tmp_path / "f.json", "--plot", tmp_path / "p.svg")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert [size["instances"] for size in found["sizes"]] == [0, 2500, 5000, 10_000, 20_000]
    assert found["sizes"][-1]["bytes"] > 20_000 * 500
    for size in found["sizes"]:
        for each in size["operations"]:
            assert 0 < each["empty_seconds"] < 1
            assert each["ratio"] > 0
            assert f"| {each['operation']} |" in told.stdout
    # Of those that wait for no disk: what looks through a table takes twenty times as long and more.
    last = {each["operation"]: each["ratio"] for each in found["sizes"][-1]["operations"]}
    for name in ("`studies UID`", "when the next is due", "three workers look", "queue again what ran"):
        ((operation, ratio),) = [(each, ratio) for each, ratio in last.items() if each.startswith(name)]
        assert ratio < 8, operation
    assert "<svg" in (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["f.json", "p.svg"]


@pytest.mark.programs
def test_how_soon_a_node_that_was_killed_serves_again(tmp_path: Path) -> None:
    told = bench("ready", "--quick", "--dir", tmp_path, "--json", tmp_path / "figures.json")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert sorted(found["nodes"]) == ["empty", "full"]
    for (each,) in found["nodes"].values():
        assert 0 < each["C-ECHO"] < each["image"] < 60
    assert found["nodes"]["full"][0]["jobs that wait"] < 200, "it worked when it was killed"
    assert "| C-ECHO |" in told.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]  # nothing is left behind


def test_the_index_is_filled_as_a_node_fills_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    Index(file, create=True).close()
    delivered = fill(file, Hospital(1), 20)
    queue(file, Hospital(2), 5, due=2e9)
    index = Index(file)
    try:
        states = {row.study: (row.state, row.instances) for row in index.studies_with_state()}
        assert {states[uid] for uid in delivered} == {("delivered", 20)}
        assert sorted(set(states.values())) == [("delivered", 20), ("reading", 20)]
        assert len(states) == 25
        for uid in delivered:
            assert len(index.instances_of(uid)) == 20
            assert len(index.series_of(uid)) == 2
            assert index.latest_report(uid, MODEL, ["pacs"]) is not None
            (reading,) = index.readings_of(uid)
            assert [result.role for result in index.results_of(reading.run_key)] == ["sr", "sc", "seg"]
        assert index.next_due("read", None) == 2e9
        assert index.next_due("send", "pacs") is None
    finally:
        index.close()
    with sqlite3.connect(file) as conn:
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
        (longest,) = conn.execute("SELECT max(length(sop_instance_uid)) FROM instances").fetchone()
    conn.close()
    assert longest <= 64


def test_the_quick_sender_takes_no_answer_but_success(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = b"\x02\x00\x00\x00\x00\x00"
    failed = b"\x04\x00\x00\x00\x00\x10" + b"\x00\x00\x00\x0c\x01\x03" + b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\xa7"
    for answer, message in (
        (b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00", "a PDU of type 07H where 02H was expected"),
        (accepted + failed, "refused an image"),
        (accepted, "closed the connection"),
    ):
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=_answer_once, args=(server, answer))
            thread.start()
            with pytest.raises(LostError, match=message):
                Sender(server.getsockname()[1]).associate(1, 1)
            thread.join()


def _answer_once(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
