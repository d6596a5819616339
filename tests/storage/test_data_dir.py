"""The folder of a node belongs to one node and to its user alone."""

from __future__ import annotations

import fcntl
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node import log
from dicom_node.errors import ConfigError
from dicom_node.operations.check import points
from dicom_node.storage.spool import Spool
from tests.support.programs import ROOT
from tests.support.waiting import scaled, wait_until


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_lock_holds_when_its_file_is_deleted(tmp_path: Path) -> None:
    first, second = Spool(tmp_path / "node"), Spool(tmp_path / "node")
    assert not first.in_use()
    first.open()
    (tmp_path / "node" / "lock").unlink(missing_ok=True)
    assert second.in_use()
    with pytest.raises(ConfigError, match="another node is running"):
        second.open()
    first.close()
    assert not second.in_use()
    second.open()
    second.close()


def test_a_node_of_an_earlier_version_is_seen(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    with (tmp_path / "node" / "lock").open("w") as old:
        fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)  # all that it did
        assert Spool(tmp_path / "node").in_use()
        with pytest.raises(ConfigError, match="another node is running"):
            Spool(tmp_path / "node").open()


@pytest.mark.slow
def test_a_folder_that_others_may_enter_is_closed_and_told(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    folder.chmod(0o755)
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nport = 0\ndata_dir = "{folder}"\n', encoding="utf-8")
    (told,) = [each for each in points(config) if each.what == "data_dir" and "0755" in each.text]
    assert told.verdict == "warn"
    stream = io.StringIO()
    log.configure(stream)
    spool = Spool(folder)
    spool.open()
    spool.close()
    assert mode(folder) == 0o700
    (said,) = [each for each in map(json.loads, stream.getvalue().splitlines()) if each["event"] == "folder.closed"]
    assert "0755" in said["reason"]
    assert not [each for each in points(config) if "0755" in each.text]


@pytest.mark.programs
def test_what_a_node_writes_is_its_users_alone(tmp_path: Path) -> None:
    folder, config = tmp_path / "node", tmp_path / "node.toml"
    config.write_text(f'[node]\nport = 0\ndata_dir = "{folder}"\n', encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "dicom_node", "run", "--config", str(config)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        umask=0o022,
    ) as node:
        try:
            assert node.stderr is not None
            wait_until(lambda: "node.started" in node.stderr.readline(), "the node to start", scaled(60))  # type: ignore[union-attr]
        finally:
            node.terminate()
            node.communicate(timeout=scaled(60))
    open_to_others = [path for path in (folder, *folder.rglob("*")) if mode(path) & 0o077]
    assert [str(path.relative_to(folder)) for path in open_to_others] == []
    assert os.path.lexists(folder / "index.sqlite")
