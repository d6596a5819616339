"""The command line, run as a program."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from dicom_node.cli.main import app
from dicom_node.index.studies import _STATE
from dicom_node.node import Node
from dicom_node.operations.study_status import STATES
from tests.support.nodes import settings_for
from tests.support.peers import free_port, send
from tests.support.programs import ROOT
from tests.support.samples import make_image
from tests.support.waiting import scaled


def dicom_node(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(170),
        cwd=cwd,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    port = free_port()
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nport = {port}\ndata_dir = "state"\n[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\n'
        'port = 1\ndestination = true\n[[routes]]\nname = "all"\nmodels = ["phantom_cxr"]\nto = ["pacs"]\n'
    )
    return file


@pytest.mark.slow
def test_a_wrong_configuration_never_starts_a_node(config: Path) -> None:
    config.write_text(config.read_text().replace('ae_title = "PACS"', 'ae_title = ""'))
    done = dicom_node("run", "--config", config)
    assert done.returncode == 2
    assert done.stderr.startswith(f"dicom-node: {config}: peers[0].ae_title: found ''")
    assert "Traceback" not in done.stderr
    assert not (config.parent / "state").exists()


@pytest.mark.slow
def test_check_says_one_line_a_point(config: Path) -> None:
    done = dicom_node("check", "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(re.match(r"(ok  |warn)  [a-z_ ]+", line) for line in lines)
    text = done.stdout
    for expected in ("configuration: ", "data_dir: ", "port: ", "model phantom_cxr: version ", "JPEG-LS Lossless"):
        assert expected in text
    assert "warn  peer pacs: PACS at 127.0.0.1:1: no connection" in text


@pytest.mark.slow
def test_check_fails_where_a_node_could_not_run(config: Path) -> None:
    port = int(re.search(r"port = (\d+)", config.read_text())[1])  # type: ignore[index]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = dicom_node("check", "--config", config)
    assert done.returncode == 1
    assert f"FAIL  port: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stdout


@pytest.mark.slow
def test_check_tells_every_fault_of_the_file(config: Path) -> None:
    config.write_text(config.read_text().replace("port = 1\n", "port = 0\n").replace('name = "all"', 'name = "a l"'))
    done = dicom_node("check", "--config", config)
    assert done.returncode == 1
    assert len(re.findall(r"^FAIL  configuration: ", done.stdout, re.MULTILINE)) == 2


@pytest.mark.slow
def test_studies_and_retry(config: Path) -> None:
    node = Node(settings_for(config.parent / "state"))
    node.start()
    image = make_image()
    send(node.port, image)
    table = dicom_node("studies", "--config", config)
    assert image.StudyInstanceUID in table.stdout
    (one,) = json.loads(dicom_node("studies", "--json", "--config", config).stdout)
    assert one["study"] == image.StudyInstanceUID
    assert set(one["times"]) == {"first_received", "received", "complete", "read", "delivered", "removed"}
    whole = json.loads(dicom_node("studies", image.StudyInstanceUID, "--json", "--config", config).stdout)
    assert {"readings", "jobs", "deliveries"} < set(whole)
    assert "state " in dicom_node("studies", image.StudyInstanceUID, "--config", config).stdout
    assert "NOBODY" not in table.stdout + json.dumps(whole)
    assert dicom_node("retry", "--all", "--config", config).stdout == "nothing has failed\n"
    for wrong in (["retry"], ["retry", "1.2", "--all"], ["retry", "1.2"], ["studies", "1.2"]):
        done = dicom_node(*wrong, "--config", config)
        assert done.returncode == 1
        assert done.stderr.startswith("dicom-node: ")
    node.stop()


@pytest.mark.slow
def test_studies_before_the_first_start_says_so(config: Path) -> None:
    done = dicom_node("studies", "--config", config)
    assert done.returncode == 2
    assert "index.sqlite: is not there; no node has run on this data_dir yet" in done.stderr


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = dicom_node("demo", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["everything_came_back"] is True
    sick, healthy = summary["studies"]
    assert {one["key"] for one in sick["detail"]["readings"][0]["findings"]} == {"nodule", "pneumothorax"}
    assert healthy["detail"]["readings"][0]["findings"] == []
    for number, roles in ((1, {"sr", "sc", "gsps", "pdf", "kos"}), (2, {"sr", "sc", "pdf"})):
        folder = tmp_path / f"out/study-{number}"
        assert {file.stem.split("-")[1] for file in folder.glob("*.dcm")} == roles
        (page,) = folder.glob("*.pdf")
        assert page.read_bytes().startswith(b"%PDF-")
        assert "Demonstration model, trained on no patient" in (folder / "1-sr.txt").read_text()
        with Image.open(folder / "2-sc.png") as picture:
            assert picture.mode == "RGB"
        assert pydicom.dcmread(folder / "1-sr.dcm").Modality == "SR"
    assert 0 < sick["seconds_to_last_object"] < 60


@pytest.mark.slow
def test_demo_with_ones_own_files_that_no_model_takes_ends_with_status_1(tmp_path: Path) -> None:
    make_image(Modality="MG").save_as(tmp_path / "a.dcm", enforce_file_format=True)
    done = dicom_node("demo", "--out", tmp_path / "out", "--dicom", tmp_path / "a.dcm")
    assert done.returncode == 1
    assert "no eligible series" in done.stdout
    assert json.loads((tmp_path / "out/summary.json").read_text())["everything_came_back"] is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--pacs", "nonsense"], "expected AET@HOST:PORT"),
        (["--pacs", "PACS@1.2.3.999:104"], "--pacs 'PACS@1.2.3.999:104': "),
        (
            ["--pacs", "PACS@127.0.0.1:1"],
            "pacs (PACS at 127.0.0.1:1): no connection: it was refused, so nothing listens there",
        ),
        (["--dicom", "none.dcm"], "there is no such file"),
    ],
)
def test_demo_tells_what_it_lacks(tmp_path: Path, args: list[str], told: str) -> None:
    done = dicom_node("demo", "--out", tmp_path / "out", *args)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_every_state_of_a_study_is_documented_and_no_other_is_told() -> None:
    text = (ROOT / "docs/reference/study-states.md").read_text(encoding="utf-8")
    for state, meaning in STATES.items():
        assert f"| {state} | {meaning} |" in text
    assert set(re.findall(r"(?:THEN|ELSE) '([a-z ]+)'", _STATE)) == set(STATES)


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) == 8
    for name in names:
        assert f"| [`dicom-node {name}`](#dicom-node-{name}) | " in text
