"""The store of models: what comes in, what is refused and why, and what a node reads with."""

from __future__ import annotations

import http.server
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from ai.bundle import pins
from ai.bundle.code import code_in
from ai.bundle.files import BundleError, bundle_digest, describe, shipped
from ai.bundle.metadata import metadata_faults
from ai.bundle.pins import Pinned, TamperedError, shipped_pins
from ai.contract import ReadingError
from ai.phantom.dicom import to_dicom
from ai.phantom.draw import draw_phantom
from dicom_node.errors import ConfigError, ModelError
from dicom_node.models.install import Candidate, add, load_once, try_out
from dicom_node.models.registry import Models, find
from dicom_node.models.sources import Limits
from dicom_node.node import Node
from dicom_node.operations import study_status
from dicom_node.reading.loading import Broken, load_models
from dicom_node.storage.spool import Spool
from tests.support.nodes import settings_for
from tests.support.peers import Pacs, send
from tests.support.samples import make_image
from tests.support.waiting import scaled, wait_until

PHANTOM = shipped()["phantom_cxr"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small operations: threads would wait for each other longer than they work, where other work is going on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_bundle(folder: Path, name: str = "local_cxr", version: str = "1.0.0") -> Path:
    """The shipped bundle under another name and version."""
    shutil.copytree(PHANTOM, folder)
    for file, key, value in (("reading", "name", name), ("metadata", "version", version)):
        change(folder / f"configs/{file}.json", **{key: value})
    return folder


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_bytes())
    content.update(values)
    file.write_text(json.dumps(content))


def zipped(folder: Path, to: Path, root: str = "local/") -> Path:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, root + file.relative_to(folder).as_posix())
    return to


def load_here(path: Path) -> dict[str, str]:
    """The trial in this process, where torch is loaded already; `try_out` has tests of its own."""
    try:
        return load_once(str(path))
    except ReadingError as error:
        raise ModelError(str(error)) from None


def untried(_path: Path) -> dict[str, str]:
    """No trial, where another thing is tested."""
    return {}


def install(store: Models, source: Path | str, **wishes: Any) -> Any:
    return add(store, str(source), **{"confirm": lambda _c: True, "trial": load_here, "trust": True, **wishes})


def untouched(store: Models) -> bool:
    """Whether nothing but the lock is there."""
    return [p.name for p in store.root.iterdir()] == [".lock"] if store.root.exists() else True


def tampered(file: Path, content: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> Models:
    return Models(tmp_path / "state")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "source")


# --- what comes in ------------------------------------------------------------------------------------------------


def test_a_bundle_is_installed_read_only_with_the_digest_of_every_file(store: Models, source: Path) -> None:
    added = install(store, source, now=lambda: 1_700_000_000.0)
    entry, identity = added.entry, describe(source).identity
    assert (added.new, added.was) == (True, None)
    assert (entry.name, entry.version, entry.digest) == ("local_cxr", "1.0.0", identity.digest)
    assert entry.path == store.root / "local_cxr" / identity.digest / "bundle"
    for file in source.rglob("*"):
        copy = entry.path / file.relative_to(source)
        if file.is_file():
            assert entry.record.files[file.relative_to(source).as_posix()] == sha256(file.read_bytes()).hexdigest()
        assert stat.S_IMODE(copy.stat().st_mode) == (0o444 if file.is_file() else 0o555)
    assert entry.record.added == "2023-11-14T22:13:20+00:00"
    assert (entry.record.kind, entry.record.place) == ("directory", str(source))
    assert entry.record.user
    assert "loaded and run once" in entry.record.checks
    assert entry.pinned().faults() == []
    assert {p.name for p in store.root.iterdir()} == {".lock", "local_cxr"}


@pytest.mark.parametrize("root", ["", "local/"])
def test_a_zip_file_is_the_same_bundle(store: Models, source: Path, tmp_path: Path, root: str) -> None:
    file = zipped(source, tmp_path / "local.zip", root)
    pin = sha256(file.read_bytes()).hexdigest()
    added = install(store, file, sha256=pin.upper(), trial=untried)
    assert added.entry.digest == bundle_digest(source)
    assert added.entry.record.archive_sha256 == pin
    with pytest.raises(ModelError, match="another file"):
        install(store, file, sha256="0" * 64)


def test_hidden_files_and_compiled_python_stay_outside(store: Models, source: Path, tmp_path: Path) -> None:
    for name in (".git/config", "scripts/__pycache__/a.pyc", "scripts/b.pyc", ".DS_Store"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    archive = zipped(source, tmp_path / "a.zip")
    added = install(store, source, trial=untried)
    left = {p.relative_to(added.entry.path).as_posix() for p in added.entry.path.rglob("*") if p.is_file()}
    assert left == {p.relative_to(PHANTOM).as_posix() for p in PHANTOM.rglob("*") if p.is_file()}
    assert set(added.entry.record.left_out) == {".git", "scripts/__pycache__", "scripts/b.pyc", ".DS_Store"}
    assert install(store, archive).new is False


def test_a_reading_json_may_be_given_beside_the_bundle(store: Models, source: Path, tmp_path: Path) -> None:
    reading = tmp_path / "reading.json"
    (source / "configs/reading.json").rename(reading)
    with pytest.raises(ModelError, match=r"configs/reading\.json is missing.*--reading FILE"):
        install(store, source)
    assert untouched(store)
    added = install(store, source, reading=reading, trial=untried, origin="imported from weights.pth")
    assert added.entry.record.place == "imported from weights.pth"
    assert added.entry.record.reading == str(reading)
    assert json.loads((added.entry.path / "configs/reading.json").read_bytes()) == json.loads(reading.read_bytes())


def test_nothing_is_installed_unless_confirmed(store: Models, source: Path) -> None:
    seen: list[Candidate] = []
    change(source / "configs/inference.json", imports=["$import os"])
    with pytest.raises(ModelError, match="nothing was installed"):
        install(store, source, confirm=lambda c: bool(seen.append(c)), trial=pytest.fail)
    assert seen[0].info.identity.name == "local_cxr"
    assert seen[0].code == ("configs/inference.json: imports[0]: runs $import os",)
    assert untouched(store)


@pytest.mark.slow
def test_the_trial_runs_in_a_process_of_its_own_under_a_time_limit(store: Models, source: Path) -> None:
    change(source / "configs/inference.json", stuck="$__import__('time').sleep(600)", network_def="@stuck")
    with pytest.raises(ModelError, match="loading it took longer than 1 s; its process was stopped"):
        install(store, source, trial=lambda path: try_out(path, seconds=1.0))
    assert untouched(store)


@pytest.mark.slow
def test_a_model_that_ends_its_process_is_refused(source: Path) -> None:
    change(source / "configs/inference.json", end="$__import__('os')._exit(7)", network_def="@end")
    with pytest.raises(ModelError, match="exit status 7"):
        try_out(source)


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        ("metadata", {"copyright": ""}, r"configs/metadata\.json breaks .*: copyright: .*at least 1 character"),
        ("metadata", {"version": ""}, r"^configs/metadata\.json: version is missing or empty"),
        ("reading", {"name": "../evil"}, r"^configs/reading\.json: name: .*should match pattern"),
        ("reading", {"outputs": []}, r"^configs/reading\.json: outputs: "),
        (
            "inference",
            {"network_def": {"_target_": "NoSuchNet"}},
            r"^configs/inference\.json: network_def cannot be built",
        ),
        ("inference", {"inferer": "$1"}, "a callable was expected"),
    ],
)
def test_what_is_wrong_with_a_bundle_is_told_and_nothing_is_left(
    store: Models, source: Path, file: str, values: dict[str, Any], told: str
) -> None:
    change(source / f"configs/{file}.json", **values)
    with pytest.raises(ModelError, match=told) as error:
        install(store, source)
    assert ".part-" not in str(error.value)
    assert untouched(store)


def test_a_bundle_that_changes_its_own_files_is_refused(store: Models, source: Path) -> None:
    def trial(path: Path) -> dict[str, str]:
        (path / "configs/inference.json").write_text("{}")
        return {}

    with pytest.raises(ModelError, match="changes its own files"):
        install(store, source, trial=trial)
    assert untouched(store)


def test_the_name_of_a_shipped_model_is_not_taken_by_accident(store: Models, tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "other", name="phantom_cxr", version="9.0.0")
    with pytest.raises(ModelError, match=r"ships with the node.*--replace-shipped"):
        install(store, source)
    with pytest.raises(ModelError, match="nothing to add"):
        install(store, PHANTOM)
    assert untouched(store)
    assert install(store, source, replace_shipped=True, trial=untried).entry.record.replaces_shipped
    assert [(e.version, e.state) for e in store.entries("phantom_cxr")] == [("9.0.0", "current"), ("0.2.0", "hidden")]
    (pinned,) = find(settings_for(store.data_dir, pacs_port=104)).values()
    assert pinned.path == store.current("phantom_cxr").path


# --- hostile archives ---------------------------------------------------------------------------------------------


def hostile(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/configs/metadata.json", "{}")
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("archive", "told"),
    [
        (hostile(("m/../../evil", b"")), "no plain path"),
        (hostile(("../evil", b"")), "no plain path"),
        (hostile(("/etc/evil", b"")), "no plain path"),
        (hostile(("C:/evil", b"")), "no plain path"),
        (hostile(("m\\..\\evil", b"")), "no plain path"),
        (hostile(("m//evil", b"")), "no plain path"),
        (hostile(("m/a\x1b[2Jb", b"")), r"a\\\\x1b\[2Jb.*no plain path"),
        (hostile(("m/" + "d/" * 20 + "f", b"")), "too deep"),
        (hostile((link("m/link"), b"/etc/passwd")), "is a link or a device"),
        (hostile(("m/a", b"1"), ("m/A", b"2")), "twice"),
        (hostile(("other/a", b"")), "beside the bundle"),
        (hostile(("n/configs/metadata.json", b"")), "it holds more than one"),
        (hostile(("m/big", b"\0" * 3_000_000)), "unpacks to more than 2 MiB"),
        (hostile(*((f"m/{i}", b"") for i in range(30))), "holds 31 files; 20 at most"),
        (hostile().replace(b"PK\x01\x02", b"PK\x01\x03"), "no sound zip file"),
        (b"PK\x03\x04 nonsense", "no sound zip file"),
        (b"", "no sound zip file"),
    ],
)
def test_a_hostile_archive_is_refused_and_nothing_is_left(
    store: Models, tmp_path: Path, archive: bytes, told: str
) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(archive)
    with pytest.raises(ModelError, match=told):
        install(store, file, limits=Limits(unpacked=2 * 1024**2, files=20))
    assert untouched(store)
    assert not list(tmp_path.rglob("*evil*"))


def test_an_archive_that_was_damaged_on_its_way_is_refused(store: Models, source: Path, tmp_path: Path) -> None:
    file = zipped(source, tmp_path / "a.zip")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ModelError, match="no sound zip file"):
        install(store, file)
    assert untouched(store)


@pytest.mark.parametrize("what", ["file", "folder", "pipe"])
def test_links_and_devices_of_a_directory_are_not_followed(
    store: Models, source: Path, tmp_path: Path, what: str
) -> None:
    (tmp_path / "secret").mkdir()
    if what == "pipe":
        os.mkfifo(source / "pipe")
    else:
        (source / "link").symlink_to("/etc/hostname" if what == "file" else tmp_path / "secret")
    with pytest.raises(ModelError, match="is a link or a device"):
        install(store, source)
    assert untouched(store)


def test_what_is_not_there_is_told(store: Models, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.zip: cannot be read or unpacked: No such file"):
        install(store, tmp_path / "none.zip")
    with pytest.raises(ModelError, match="a directory has no SHA-256"):
        install(store, PHANTOM, sha256="0" * 64)
    (tmp_path / "beside.bin").touch()
    with pytest.raises(ModelError, match=r"holds no configs/metadata\.json; the folder of a MONAI bundle was expected"):
        install(store, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match=r"pipe: is neither a folder nor a file"):
        install(store, tmp_path / "pipe")


def test_names_that_are_no_text_are_written_down_all_the_same(store: Models, source: Path) -> None:
    (source / os.fsdecode(b".hidden\xff")).touch()
    moved = source.rename(source.with_name(os.fsdecode(b"b\xe4r")))
    record = install(store, moved, trial=untried).entry.record
    assert record.left_out == (r".hidden\udcff",)
    assert record.place == f"{source.parent}/" + r"b\udce4r"


# --- downloads ----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: /to/... redirects to the address after it, all else is a file of the folder."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def do_GET(self) -> None:
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *_args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_a_download_is_pinned_and_recorded_without_its_secrets(
    store: Models, source: Path, served: tuple[str, Path]
) -> None:
    address, folder = served
    file = zipped(source, folder / "a.zip")
    steps: list[tuple[int, int | None]] = []
    size, digest = file.stat().st_size, sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match="another file"):
        install(store, f"{address}/a.zip", sha256="0" * 64)
    assert untouched(store)
    secret = f"{address}/to//a.zip?token=s3cret"
    added = install(store, secret, sha256=digest, trial=untried, progress=lambda *step: steps.append(step))
    assert steps[-1] == (size, size)
    assert (added.entry.record.kind, added.entry.record.archive_sha256) == ("url", digest)
    assert added.entry.record.place == f"{address}/to//a.zip"
    assert "s3cret" not in "".join(p.read_text() for p in store.root.rglob("*.json") if "bundle" not in p.parts)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/none.zip", "answered 404"),
        ("/to/https://127.0.0.1:9/a.zip", "redirects to another kind of address"),
        ("/to/ftp://127.0.0.1/a.zip", "redirects to another kind of address"),
        ("/to/http://192.0.2.1/a.zip", "an https address was expected"),
        ("/big.zip", "1 MiB at most"),
    ],
)
def test_a_download_that_goes_astray_is_refused(store: Models, served: tuple[str, Path], path: str, told: str) -> None:
    address, folder = served
    (folder / "big.zip").write_bytes(b"\0" * 2_000_000)
    with pytest.raises(ModelError, match=told):
        install(store, address + path, limits=Limits(archive=1024**2))
    assert untouched(store)


@pytest.mark.parametrize(
    "address",
    [
        "http://192.0.2.1/a.zip",
        "http://localhost.example/a.zip",
        "ftp://127.0.0.1/a",
        "file:///etc/passwd",
        "https://",
        "https://[/a",
    ],
)
def test_only_https_is_asked(store: Models, address: str) -> None:
    with pytest.raises(ModelError, match="https address"):
        install(store, address)


# --- versions -----------------------------------------------------------------------------------------------------


def versions(store: Models) -> list[tuple[str, str]]:
    return [(e.version, e.state) for e in store.entries("local_cxr")]


@pytest.fixture
def three(store: Models, tmp_path: Path) -> dict[str, Path]:
    sources = {v: write_bundle(tmp_path / v, version=v) for v in ("1", "2", "3")}
    for path in sources.values():
        install(store, path, trial=untried)
    return sources


def test_the_latest_added_is_current_and_rollback_goes_back_step_by_step(
    store: Models, three: dict[str, Path], tmp_path: Path
) -> None:
    assert versions(store) == [("3", "current"), ("2", "former"), ("1", "former")]
    was, is_now = store.rollback("local_cxr")
    assert (was.version, is_now.version) == ("3", "2")
    # What comes after a rollback follows the version that was gone back to, not the one that was left.
    install(store, write_bundle(tmp_path / "4", version="4"), trial=untried)
    assert [store.rollback("local_cxr")[1].version for _ in range(2)] == ["2", "1"]
    with pytest.raises(ModelError, match="there is no version before 1"):
        store.rollback("local_cxr")
    again = install(store, three["3"], confirm=pytest.fail, trial=pytest.fail)  # it was seen and tried before
    assert (again.new, again.entry.version, again.was.version) == (False, "3", "1")
    assert versions(store)[0] == ("3", "current")
    with pytest.raises(ModelError, match="there is no version before 0"):
        store.rollback("phantom_cxr")


def test_adding_what_is_current_changes_nothing(store: Models, three: dict[str, Path]) -> None:
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("*")}
    added = install(store, three["3"], confirm=pytest.fail, trial=pytest.fail)
    assert (added.new, added.entry.version) == (False, "3")
    assert {p: p.stat().st_mtime_ns for p in store.root.rglob("*")} == before


def test_a_version_is_removed_unless_a_route_or_the_running_node_needs_it(
    store: Models, three: dict[str, Path]
) -> None:
    routes = [{"name": "chest", "models": ["local_cxr"], "to": ["pacs"]}]
    routed = settings_for(store.data_dir, pacs_port=104, routes=routes)
    free = settings_for(store.data_dir)
    in_shadow = settings_for(
        store.data_dir, pacs_port=104, routes=[{**routes[0], "models": ["phantom_cxr"], "shadow": ["local_cxr"]}]
    )
    with pytest.raises(ModelError, match=r"route chest \(shadow\) of the configuration needs it"):
        store.remove(in_shadow, "local_cxr", running=False)
    three_, two, one = (e.digest for e in store.entries("local_cxr"))
    with pytest.raises(ModelError, match="route chest of the configuration needs it"):
        store.remove(routed, "local_cxr", running=False)
    with pytest.raises(ModelError, match="0 installed versions"):
        store.remove(routed, "local_cxr", "ffffffffffff", running=False)
    store.note_loaded(find(routed))
    with pytest.raises(ModelError, match=f"running node reads with {three_[:12]}"):
        store.remove(routed, "local_cxr", three_[:10], running=True)
    assert [e.digest for e in store.remove(routed, "local_cxr", two[:10], running=True)] == [two]
    assert versions(store) == [("3", "current"), ("1", "former")]
    store.remove(routed, "local_cxr", three_, running=False)
    assert versions(store) == [("1", "current")]
    with pytest.raises(ModelError, match="needs it"):
        store.remove(routed, "local_cxr", one, running=False)
    assert [e.digest for e in store.remove(free, "local_cxr", running=False)] == [one]
    assert store.entries("local_cxr") == []
    assert not (store.root / "local_cxr").exists()
    with pytest.raises(ModelError, match="is not installed"):
        store.remove(free, "local_cxr", running=False)
    with pytest.raises(ModelError, match="ships with the node"):
        store.remove(free, "phantom_cxr", running=False)


@pytest.mark.slow
def test_one_change_at_a_time_and_a_killed_one_leaves_nothing(store: Models, three: dict[str, Path]) -> None:
    with store.changing(), pytest.raises(ModelError, match="another dicom-node models command"):
        store.rollback("local_cxr")
    code = f"""
import os
from pathlib import Path
from dicom_node.models.install import add
from dicom_node.models.registry import Models
add(Models(Path({str(store.data_dir)!r})), {str(PHANTOM)!r}, confirm=lambda c: True, replace_shipped=True,
    trial=lambda p: os._exit(9))
"""
    change_name = code.replace(repr(str(PHANTOM)), repr(str(three["1"])))
    tampered(three["1"] / "docs/README.md", b"new")
    done = subprocess.run([sys.executable, "-c", change_name], check=False, timeout=scaled(60))
    assert done.returncode == 9
    assert versions(store)[0] == ("3", "current")
    assert len(store.entries("local_cxr")) == 3  # what was half installed cannot be seen
    with store.changing():
        assert len(list(store.root.glob(".part-*"))) == 1  # the killed one's is gone, this one's is there
    assert not list(store.root.glob(".part-*"))


def test_another_user_than_the_nodes_changes_nothing(
    store: Models, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.data_dir.mkdir()
    owner = store.data_dir.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 4_000_000)
    with pytest.raises(ModelError, match=rf"but this runs as user {owner + 4_000_000}: .*sudo -u "):
        install(store, source)
    assert not store.root.exists()


def test_a_damaged_history_lets_no_version_read_until_one_is_added_again(store: Models, three: dict[str, Path]) -> None:
    (store.root / "local_cxr/history.json").write_text("{")
    assert versions(store)[0] == ("unknown", "current")
    with pytest.raises(ModelError, match="add the version that is to read again"):
        store.rollback("local_cxr")
    with pytest.raises(BundleError, match=r"history\.json: is damaged"):
        store.current("local_cxr").pinned().check()
    install(store, three["2"])
    assert versions(store)[0] == ("2", "current")


def no_power(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def ends(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Models, method, ends)


@pytest.mark.parametrize("older", [False, True])
def test_a_loss_of_power_before_a_version_is_current_changes_nothing_and_adding_it_again_helps(
    store: Models, source: Path, tmp_path: Path, *, older: bool
) -> None:
    if older:
        install(store, write_bundle(tmp_path / "older", version="0"), trial=untried)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        no_power(patch, "make_current")
        install(store, source, trial=untried)
    assert versions(store) == [("0", "current")] * older + [("1.0.0", "former")]
    if not older:
        with pytest.raises(ModelError, match="is installed, but no version of it is current; add one again"):
            store.current("local_cxr")
    again = install(store, source, confirm=pytest.fail, trial=pytest.fail)
    assert (again.new, again.entry.version, again.entry.state) == (False, "1.0.0", "current")


def test_a_loss_of_power_leaves_a_model_that_ships_in_its_place(store: Models, tmp_path: Path) -> None:
    newer = write_bundle(tmp_path / "newer", "phantom_cxr", "9")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        no_power(patch, "make_current")
        install(store, newer, replace_shipped=True, trial=untried)
    assert store.current("phantom_cxr").shipped
    assert [e.version for e in store.remove(settings_for(store.data_dir), "phantom_cxr", running=False)] == ["9"]


def test_a_loss_of_power_during_removal_leaves_what_can_be_removed(store: Models, three: dict[str, Path]) -> None:
    free = settings_for(store.data_dir)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        store.remove(free, "local_cxr", running=False)
    assert {state for _, state in versions(store)} == {"former"}
    assert len(store.remove(free, "local_cxr", running=False)) == 3
    assert not (store.root / "local_cxr").exists()


@pytest.mark.parametrize("name", ["local_cxr", "phantom_cxr"])
def test_no_other_version_takes_the_place_of_one_that_is_gone(store: Models, tmp_path: Path, name: str) -> None:
    sources = [write_bundle(tmp_path / version, name, version) for version in ("1", "2")]
    _, entry = [install(store, each, replace_shipped=True, trial=untried).entry for each in sources]
    for folder in (entry.path, *entry.path.rglob("*")):
        folder.chmod(0o755)
    shutil.rmtree(entry.path.parent)
    lost = store.current(name)
    assert (lost.digest, lost.shipped) == (entry.digest, False)
    with pytest.raises(TamperedError, match=rf"{entry.digest}: is missing, the version of {name} that is to read"):
        lost.pinned().check()
    assert store.rollback(name)[1].version == "1"
    added = install(store, sources[1], trial=untried)
    assert (added.new, added.entry.version) == (True, "2")
    added.entry.pinned().check()


@pytest.mark.parametrize("what", ["bundle/models/model.pt", "record.json"])
def test_a_damaged_version_is_mended_by_adding_it_again(store: Models, source: Path, what: str) -> None:
    entry = install(store, source, trial=untried).entry
    tampered(entry.path.parent / what, b"x")
    with pytest.raises(TamperedError, match="add it again from its source"):
        store.current("local_cxr").pinned().check()
    seen: list[Path] = []
    added = install(store, source, trial=lambda path: seen.append(path) or {})
    assert (added.new, len(seen)) == (True, 1)  # it was tried anew
    assert added.was.digest == entry.digest
    added.entry.pinned().check()
    assert versions(store) == [("1.0.0", "current")]
    assert {p.name for p in store.root.iterdir()} == {".lock", "local_cxr"}


def test_a_damaged_version_is_not_gone_back_to(store: Models, three: dict[str, Path]) -> None:
    _, two, _ = store.entries("local_cxr")
    tampered(two.path / "configs/inference.json", b"{}")
    with pytest.raises(
        ModelError, match=rf"version before, 2, .* is damaged too: .*remove local_cxr --digest {two.digest[:12]}"
    ):
        store.rollback("local_cxr")
    assert versions(store)[0] == ("3", "current")
    store.remove(settings_for(store.data_dir), "local_cxr", two.digest, running=False)
    assert store.rollback("local_cxr")[1].version == "1"


def test_removal_puts_no_version_into_service_that_was_rolled_back_from(store: Models, three: dict[str, Path]) -> None:
    free = settings_for(store.data_dir)
    for _ in range(2):
        store.rollback("local_cxr")
    one = store.current("local_cxr")
    assert one.version == "1"
    with pytest.raises(ModelError, match="none of the versions that would stay was current before 1; add the one"):
        store.remove(free, "local_cxr", one.digest, running=False)
    assert versions(store)[0] == ("1", "current")


def test_a_damaged_history_does_not_keep_a_model_from_being_removed(store: Models, three: dict[str, Path]) -> None:
    (store.root / "local_cxr/history.json").write_text("{")
    store.remove(settings_for(store.data_dir), "local_cxr", running=False)
    assert store.entries("local_cxr") == []


def test_a_version_in_place_of_the_one_that_ships_says_how_to_get_that_back(store: Models, tmp_path: Path) -> None:
    install(store, write_bundle(tmp_path / "9", "phantom_cxr", "9"), replace_shipped=True, trial=untried)
    with pytest.raises(ModelError, match="dicom-node models remove phantom_cxr goes back to the one that ships"):
        store.rollback("phantom_cxr")


def test_a_folder_that_may_not_be_read_is_told(store: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refused)
    with pytest.raises(ModelError, match="models: cannot be read: Permission denied; run this as the user"):
        store.entries("local_cxr")


def test_the_data_folder_is_made_as_the_node_makes_it(store: Models) -> None:
    with store.changing():
        assert [stat.S_IMODE(p.stat().st_mode) & 0o007 for p in (store.data_dir, store.root)] == [0, 0]


# --- pins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("changed", r"configs/inference\.json: was changed"),
        ("missing", r"configs/inference\.json: is missing"),
        ("added", r"scripts/extra\.py: was added"),
        ("hidden", r"scripts/__pycache__/extra\.cpython-311\.pyc: was added"),
        ("link", r"docs/README\.md: is no plain file"),
        ("record", r"record\.json: cannot be read"),
    ],
)
def test_a_model_whose_files_are_not_what_they_were_is_refused(
    store: Models, source: Path, tmp_path: Path, how: str, told: str
) -> None:
    entry = install(store, source, trial=untried).entry
    pinned = entry.pinned()
    assert pinned.faults() == []
    for folder in (entry.path, *entry.path.rglob("*")):
        folder.chmod(0o755)
    (entry.path / "scripts/__pycache__").mkdir(parents=True)
    file = entry.path / "configs/inference.json"
    if how == "changed":
        file.write_bytes(file.read_bytes() + b" ")
    elif how == "missing":
        file.unlink()
    elif how == "added":
        (entry.path / "scripts/extra.py").touch()
    elif how == "hidden":
        (entry.path / "scripts/__pycache__/extra.cpython-311.pyc").touch()
    elif how == "link":
        (entry.path / "docs/README.md").unlink()
        (entry.path / "docs/README.md").symlink_to(source / "docs/README.md")
    else:
        tampered(entry.path.parent / "record.json", b"{}")
        pinned = store.current("local_cxr").pinned()
    with pytest.raises(BundleError, match=told):
        pinned.check()


@pytest.mark.slow
def test_the_warm_process_does_not_load_what_was_changed_and_loads_the_others(store: Models, source: Path) -> None:
    entry = install(store, source, trial=untried).entry
    tampered(entry.path / "docs/README.md", b"something else")
    other = install(store, write_bundle(source.parent / "other", name="other_cxr"), trial=untried).entry
    chosen = {"local_cxr": entry.pinned(), "other_cxr": other.pinned(), "phantom_cxr": shipped_pins()["phantom_cxr"]}
    loaded = load_models(chosen, "cpu")
    assert set(loaded.shelf.places()) == {"other_cxr", "phantom_cxr"}
    broken = loaded.models["local_cxr"]
    assert isinstance(broken, Broken)
    assert broken.path is None  # it is not even asked what it would have read
    assert "docs/README.md: was changed" in broken.reason
    assert "dicom-node models rollback local_cxr" in broken.reason
    # One that left the device is compared once more when it is loaded again.
    tampered(other.path / "models/model.pt", b"other weights")
    with pytest.raises(TamperedError, match=r"models/model\.pt: was changed"):
        loaded.shelf._copies["other_cxr"].title.load("cpu")


def test_what_ships_is_pinned_as_it_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, pinned in shipped_pins().items():
        assert pinned.faults() == [], f"{name}: python -m ai.bundle.pins writes ai/bundles/pins.json anew"
    assert set(json.loads(pins._FILE.read_bytes())) == set(shipped())
    monkeypatch.setattr(pins, "_FILE", tmp_path / "pins.json")
    with pytest.raises(BundleError, match=r"phantom_cxr: is not pinned in pins\.json"):
        shipped_pins()["phantom_cxr"].check()
    pins.main()
    shipped_pins()["phantom_cxr"].check()


def test_a_bundle_that_nobody_pinned_is_not_compared(source: Path) -> None:
    Pinned(source).check()
    with pytest.raises(BundleError, match="not there"):
        Pinned(source / "none", {}).check()


# --- a node -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_node_reads_with_the_installed_model_and_fails_visibly_once_it_was_changed(
    store: Models, source: Path, start_pacs: Callable[..., Pacs], start_node: Callable[..., Node]
) -> None:
    entry = install(store, source).entry
    routes = [{"name": "all", "models": ["local_cxr"], "to": ["pacs"]}]
    settings = settings_for(store.data_dir, pacs_port=start_pacs().port, routes=routes)
    node = start_node(settings)

    def ended(study: str) -> Any:
        found = study_status.detail(node.index, study) if node.index is not None else None
        return found if found is not None and found["state"] in ("delivered", "failed") else None

    chest = draw_phantom(1, 256, 256)  # the node reads what looks like a chest alone
    image = to_dicom(chest, seed=1, now=datetime(2026, 1, 1, tzinfo=UTC), study_uid="1.2.3")
    send(node.port, image)
    found = wait_until(lambda: ended(image.StudyInstanceUID), "the study to be read")
    assert (found["state"], found["readings"][0]["model"]) == ("delivered", "local_cxr")
    assert found["readings"][0]["digest"] == entry.digest
    assert store.records.loaded() == {"local_cxr": entry.digest}
    node.stop()
    (entry.path / "docs").chmod(0o755)
    tampered(entry.path / "docs/README.md", b"something else")
    node = start_node(settings)  # the receiver starts all the same
    image = make_image(StudyInstanceUID="1.2.4")
    send(node.port, image)
    found = wait_until(lambda: ended(image.StudyInstanceUID), "the study to fail")
    assert found["state"] == "failed"
    assert "docs/README.md: was changed after the model was checked" in found["reason"]
    assert "dicom-node models rollback local_cxr" in found["reason"]


def test_the_store_survives_the_start_of_a_node(store: Models, source: Path) -> None:
    entry = install(store, source, trial=untried).entry
    (store.data_dir / "incoming").mkdir()
    (store.data_dir / "incoming/a.part").touch()
    spool = Spool(store.data_dir)
    spool.open()
    assert spool.recover(lambda _names: ()) == 1
    install(store, write_bundle(source.parent / "next", version="2"), trial=untried)  # while a node runs
    spool.close()
    assert entry.pinned().faults() == []
    assert versions(store) == [("2", "current"), ("1.0.0", "former")]


def test_a_route_that_names_no_model_is_told(store: Models) -> None:
    routes = [{"name": "all", "models": ["a", "phantom_cxr", "b"], "to": ["pacs"]}]
    with pytest.raises(ConfigError, match=r"(?s)no model 'a'; there are: .*phantom_cxr.*no model 'b'"):
        find(settings_for(store.data_dir, pacs_port=104, routes=routes))


# --- what a bundle may run ----------------------------------------------------------------------------------------


def test_a_bundle_that_runs_more_than_known_parts_needs_to_be_trusted(store: Models, source: Path) -> None:
    assert "runs code of its own" in install(store, source, trust=False).entry.record.checks
    change(source / "configs/inference.json", more="$print(1)")
    shown: list[Any] = []
    with pytest.raises(ModelError, match=r"(?s)--trust installs it all the same:.*more: runs \$print\(1\)"):
        install(store, source, trust=False, confirm=lambda candidate: shown.append(candidate) or True)
    assert shown[0].code == ("configs/inference.json: more: runs $print(1)",), "it is shown before it is refused"
    checks = install(store, source).entry.record.checks
    assert checks["runs code of its own"] == "1 lines, trusted by --trust"


@pytest.mark.slow
def test_the_trial_is_in_the_cage(store: Models, source: Path, tmp_path: Path) -> None:
    """A bundle that is trusted, and still tries to get out while it is loaded."""
    store.data_dir.mkdir(exist_ok=True)
    (store.data_dir / "index.sqlite").write_bytes(b"patients")
    out = tmp_path / "escaped"
    expressions = {
        "read": f"$open({str(store.data_dir / 'index.sqlite')!r}).read()",
        "write": f"$open({str(out)!r}, 'w')",
        "program": f"$__import__('subprocess').run(['touch', {str(out)!r}])",
        "network": "$__import__('socket').create_connection(('127.0.0.1', 9))",
    }
    for name, expression in expressions.items():
        change(source / "configs/inference.json", preprocessing=expression)
        with pytest.raises(ModelError, match=r"preprocessing cannot be built: .*(Permission|not permitted)"):
            install(store, source, trial=try_out)
        assert not out.exists(), name


# --- what is shown of a bundle ------------------------------------------------------------------------------------


def test_the_code_in_a_bundle_is_listed_and_cannot_hide(source: Path) -> None:
    change(
        source / "configs/inference.json",
        imports=["$import os"],
        hidden="$1\r\x1b[2K harmless",
        inferer={"_target_": "scripts.mine.Inferer"},
        loader={"_target_": "torch.hub.load"},
        builtin={"_target_": "eval", "nested": [{"_target_": "monai.bundle.run"}]},
        macro="%/etc/other.json::key",
    )
    (source / "scripts").mkdir()
    (source / "scripts/mine.py").write_text("pass")
    (source / "models/model.ts").touch()
    assert code_in(source) == [
        "configs/inference.json: imports[0]: runs $import os",
        "configs/inference.json: inferer._target_: calls scripts.mine.Inferer",
        r"configs/inference.json: hidden: runs $1\r\x1b[2K harmless",
        "configs/inference.json: loader._target_: calls torch.hub.load",
        "configs/inference.json: builtin._target_: calls eval",
        "configs/inference.json: builtin.nested[0]._target_: calls monai.bundle.run",
        "configs/inference.json: macro: takes from a file %/etc/other.json::key",
        "models/model.ts: compiled network (TorchScript)",
        "scripts/mine.py: a program that the configuration can use",
        "configs/inference.json: macro: the macro '%/etc/other.json::key' names a file that is not in the bundle",
    ]


@pytest.mark.parametrize(
    ("target", "listed"),
    [
        ("monai.networks.nets.DenseNet121", False),
        ("monai.networks.nets.densenet.DenseNet121", False),
        ("torch.nn.Conv2d", False),
        ("torch.nn.modules.conv.Conv2d", False),
        ("DenseNet121", False),
        # What a module of MONAI's or torch's only imports is not its own.
        ("monai.utils.misc.subprocess.Popen", True),
        ("monai.utils.misc.run_cmd", True),
        ("torch.nn.functional.torch.os.system", True),
        ("torch.nn.functional.torch.multiprocessing.Process", True),
        ("@elsewhere", True),
    ],
)
def test_code_cannot_hide_behind_the_name_of_a_library(source: Path, target: str, *, listed: bool) -> None:
    inference = source / "configs/inference.json"
    inference.write_text(json.dumps({"elsewhere": "os.system", "part": {"_target_": target}}))
    named = "configs/inference.json: elsewhere: names os.system"
    assert code_in(source) == [f"configs/inference.json: part._target_: calls {target}"] * listed + [named]


@pytest.mark.parametrize("key", ["preprocessing#transforms#0#_target_", "network_def::_target_"])
def test_code_cannot_hide_in_what_reading_json_overrides(source: Path, key: str) -> None:
    change(source / "configs/reading.json", override={key: "os.system"})
    assert f"configs/reading.json: override.{key}: calls os.system" in code_in(source)


# Ten lists, each nine times the one before: 3 thousand million entries.
_BOMB = "a: &a [$evil]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefghijk"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &a [*a, $evil]", ["a[1]: runs $evil", "has too many or too deep entries to be read"]),
        (_BOMB, ["a[0]: runs $evil", "has too many or too deep entries to be read"]),
        (
            "[" * 100_000,
            [
                "cannot be read (RecursionError): it may run anything",
                "cannot be read as YAML: RecursionError: maximum recursion depth exceeded",
            ],
        ),
    ],
    ids=["itself", "many times over", "deep"],
)
def test_a_configuration_cannot_keep_the_list_busy(source: Path, text: str, told: list[str]) -> None:
    (source / "configs/inference.json").unlink()
    (source / "configs/inference.yaml").write_text(text)
    assert code_in(source) == [f"configs/inference.yaml: {line}" for line in told]


@pytest.mark.parametrize("name", ["metadata", "inference"])
def test_a_configuration_that_is_too_deep_is_told(store: Models, source: Path, name: str) -> None:
    (source / f"configs/{name}.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=rf"configs/{name}\.json: cannot be read as JSON: RecursionError"):
        install(store, source)
    assert untouched(store)


@pytest.mark.parametrize("version", ["1.0\x1b[2K", "1" * 65, "1\n2"])
def test_a_version_is_one_short_line(store: Models, source: Path, version: str) -> None:
    change(source / "configs/metadata.json", version=version)
    with pytest.raises(ModelError, match=r"metadata\.json: version has \d+ characters or some that cannot be printed"):
        install(store, source)


def test_metadata_is_checked_as_monai_specifies_it() -> None:
    sound = json.loads((PHANTOM / "configs/metadata.json").read_bytes())
    assert metadata_faults(sound) == []
    detector = json.loads(json.dumps(sound))
    detector["network_data_format"]["outputs"]["pred"] = {"type": "object", "format": "dict"}
    assert metadata_faults(detector) == []
    image = sound["network_data_format"]["inputs"]["image"]
    for values, told in (
        ({"spatial_shape": [0, "*"]}, "network_data_format.inputs.image.spatial_shape.0"),
        ({"value_range": [1, 0]}, "value_range goes from 1 down to 0"),
        ({"is_patch_data": "no"}, "is_patch_data"),
        ({"num_channels": None}, "num_channels"),
    ):
        faults = metadata_faults(
            {**sound, "network_data_format": {"inputs": {"image": {**image, **values}}, "outputs": {"pred": image}}}
        )
        assert told in "; ".join(faults)
    assert metadata_faults({})[0] == "version: Field required"
