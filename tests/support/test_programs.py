"""A test's programs end with it, however it ends, and an unmarked test starts none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.programs import ROOT, running, tool
from tests.support.waiting import scaled, wait_until

# Orthanc by its fixture, DCMTK's storescp, and the node as a program with its reading process.
STARTS = """
import os, signal, subprocess, sys, time
from pathlib import Path
import pytest
from tests.support import reaper
from tests.support.peers import free_port, listens
from tests.support import programs
from tests.support.programs import running, tool
from tests.support.waiting import wait_until

CONFIG = '''
node = {port = PORT, data_dir = "state"}
peers = [{name = "pacs", ae_title = "PACS", host = "127.0.0.1", port = 104, destination = true}]
routes = [{name = "all", models = ["phantom_cxr"], to = ["pacs"]}]
'''

@pytest.mark.programs
def test_it(orthanc, tmp_path):
    dicom, scp = free_port(), free_port()
    (tmp_path / "node.toml").write_text(CONFIG.replace("PORT", str(dicom)))
    node = [sys.executable, "-m", "dicom_node", "run", "--config", tmp_path / "node.toml"]
    with running([tool("storescp"), scp]), running(node, stderr=subprocess.DEVNULL):
        wait_until(lambda: listens(dicom) and listens(scp), "the programs to listen")
        wait_until(lambda: b"spawn_main" in b"".join(map(command, started())), "the reading process")
        said = " ".join(map(str, [os.getpid(), *started()]))
        Path(os.environ["STARTED"]).with_suffix(".new").write_text(said)
        Path(os.environ["STARTED"]).with_suffix(".new").rename(os.environ["STARTED"])
        END
        time.sleep(600)

def started():
    return sorted(reaper.below(programs.started(), reaper.running()))

def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
"""

FORGETS = """
import subprocess
import pytest
from tests.support.peers import free_port, listens
from tests.support.programs import tool
from tests.support.waiting import wait_until

@pytest.mark.programs
@pytest.mark.parametrize("prefix", [[], ["sh", "-c", '"$@" & exit', "sh"]])  # an own child, and the child of another
def test_it(prefix):
    port = free_port()
    test_it.forgotten = subprocess.Popen([*prefix, tool("storescp"), str(port)])
    wait_until(lambda: listens(port), "it to listen")
    if prefix:
        test_it.forgotten.wait()
"""

UNMARKED = """
import os, subprocess, sys
import pytest
from tests.support.programs import run_tool, tool

@pytest.mark.parametrize("start", [
    lambda: subprocess.run(["true"], check=True),
    lambda: os.system("true"),
    lambda: tool("storescp"),
    lambda: run_tool("echoscu", "--version"),
])
def test_a_program(start):
    start()

def test_this_python():
    subprocess.run([sys.executable, "-c", "pass"], check=True)
"""


@contextmanager
def session(folder: Path, text: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A session of pytest with this project's hooks and fixtures, of one file."""
    folder.mkdir(exist_ok=True)
    (folder / "test_inner.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "-p"]
    command += ["no:cacheprovider", f"--basetemp={folder / 'made'}", *options, folder / "test_inner.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STARTED": str(folder / "started")}
    options_of = {"cwd": ROOT, "env": environment, "text": True}
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options_of) as process:
        yield process


@pytest.mark.programs
@pytest.mark.parametrize("end", ["time-out", "session killed", "worker killed", "session of workers killed"])
def test_nothing_is_left(tmp_path: Path, end: str) -> None:
    tool("Orthanc"), tool("storescp")
    # pytest-timeout's own signal, which needs no waiting for the time-out.
    text = STARTS.replace("END", "signal.setitimer(signal.ITIMER_REAL, 0.01)" if end == "time-out" else "")
    workers = ("-n", "1") if "worker" in end else ()
    with session(tmp_path / "inner", text, *workers) as inner:
        started = tmp_path / "inner/started"
        wait_until(lambda: started.exists() or inner.poll() is not None, "the programs to run")
        assert started.exists(), inner.communicate()[0]
        worker, *pids = map(int, started.read_text().split())
        assert len(pids) >= 4
        if end == "worker killed":
            os.kill(worker, signal.SIGKILL)
        elif end != "time-out":
            inner.kill()
        wait_until(lambda: not any(map(programs.alive, pids)), "its programs to end", 20)
        wait_until(lambda: not programs.alive(worker), "it to end", 20)
        if end == "time-out":
            said, _ = inner.communicate(timeout=scaled(60))
            assert "Timeout" in said
            assert "left running" not in said


@pytest.mark.programs
def test_a_test_that_forgets_a_program_fails(tmp_path: Path) -> None:
    tool("storescp")
    with session(tmp_path / "inner", FORGETS) as inner:
        said, _ = inner.communicate(timeout=scaled(60))
    assert inner.returncode == 1
    assert len(re.findall(r"^E .*left running: \S*storescp \d+$", said, re.MULTILINE)) == 2, said


@pytest.mark.slow
def test_an_unmarked_test_starts_no_program(tmp_path: Path) -> None:
    with session(tmp_path / "inner", UNMARKED, "-q", "-W", "ignore") as inner:
        said, _ = inner.communicate(timeout=scaled(60))
    assert "4 failed, 1 passed" in said
    assert said.count("is not marked: pytest.mark.programs") >= 4
