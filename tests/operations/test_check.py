"""``dicom-node check``: the folder of state and the peers, point by point."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pynetdicom import AE

from dicom_node.operations import check
from dicom_node.operations.check import Point, points
from tests.support.nodes import settings_for
from tests.support.peers import Pacs

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(autouse=True)
def _room_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=8 * 1024**3))


def test_a_missing_data_dir_is_told_and_not_made(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\ndata_dir = "a/b"', encoding="utf-8")
    (point,) = (p for p in points(file) if p.what == "data_dir")
    assert point == Point(
        "ok",
        "data_dir",
        f"{tmp_path}/a/b: does not exist yet; it will be made at the first start in {tmp_path}, which {ME} may write, "
        "8.0 GiB free",
    )
    assert list(tmp_path.iterdir()) == [file]


def test_a_data_dir_that_could_not_be_made_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # the superuser may write everywhere
    point = check._folder(tmp_path / "a", 1.0)
    assert point == Point(
        "FAIL", "data_dir", f"{tmp_path}/a: is not there, and {ME} may not make it: {tmp_path} cannot be written"
    )
    assert not (tmp_path / "a").exists()


def test_a_data_dir_that_is_there_is_written_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[Path]] = []
    monkeypatch.setattr(os, "fsync", lambda _fd: synced.append(list(tmp_path.iterdir())))
    assert check._folder(tmp_path, 1.0) == Point("ok", "data_dir", f"{tmp_path}: writable, 8.0 GiB free")
    assert len(synced[0]) == 1
    assert list(tmp_path.iterdir()) == []

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert check._folder(tmp_path, 1.0) == Point(
        "FAIL", "data_dir", f"{tmp_path}: cannot be written: No space left on device"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_fails(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path / "nowhere")
    for folder, culprit in ((file, file), (file / "a", file), (link, link)):
        point = check._folder(folder, 1.0)
        assert point == Point("FAIL", "data_dir", f"{folder}: cannot be written: {culprit} is no folder")


def test_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1024**3))
    assert [check._folder(folder, 1.0).verdict for folder in (tmp_path, tmp_path / "a")] == ["warn", "warn"]
    point = check._folder(tmp_path, 2.0)
    assert point.verdict == "FAIL"
    assert point.text.endswith("1.0 GiB free: no image would be taken, as node.keep_free_gb is 2")


def test_a_data_dir_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 4_000_000)
    point = check._folder(tmp_path, 1.0)
    assert point.verdict == "warn"
    assert f"it belongs to {ME}, but this check runs as user {tmp_path.stat().st_uid + 4_000_000}: " in point.text


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(-2, "Name or service not known"),
        UnicodeEncodeError("idna", "pacs.example", 0, 1, "label too long"),
    ],
)
def test_a_destination_whose_name_is_unknown_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def resolve(*_args: Any, **_kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    peer = {"name": "pacs", "ae_title": "PACS", "host": "pacs.example", "port": 104, "destination": True}
    settings = settings_for(tmp_path, peers=[peer])
    assert check._echo(settings, settings.peer("pacs")) == Point(
        "warn", "peer pacs", "PACS at pacs.example:104: its host name cannot be resolved"
    )


def test_another_network_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(AE, "associate", unreachable)
    settings = settings_for(tmp_path, pacs_port=104)
    assert check._echo(settings, settings.peer("pacs")) == Point(
        "warn", "peer pacs", "PACS at 127.0.0.1:104: no connection: Network is unreachable"
    )


@pytest.mark.slow
def test_a_destination_that_rejects_us_is_told(tmp_path: Path, start_pacs: Callable[..., Pacs]) -> None:
    settings = settings_for(tmp_path, pacs_port=start_pacs(require_calling=("SOMEBODY",)).port)
    assert check._echo(settings, settings.peer("pacs")) == Point(
        "warn",
        "peer pacs",
        f"PACS at 127.0.0.1:{settings.peer('pacs').port}: it rejected the association: it does not know our AE title "
        "'AINODE': add it to the PACS",
    )
