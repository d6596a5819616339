"""What the tests share: real data, real peers, nodes on free ports, and waiting for what is to happen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from dicom_node import log
from dicom_node.config.settings import Settings
from dicom_node.network.pynetdicom_setup import configure_pynetdicom
from dicom_node.node import Node
from tests.support import programs, waiting, warm_processes
from tests.support.peers import Orthanc, Pacs, running_orthanc
from tests.support.samples import DATA

TOGETHER = {
    "tests/ai/evaluation/test_evaluation.py",  # an evaluated model
    "tests/results/test_matrix.py",  # the sample of the matrix, and what every validator says of it
    "tests/results/test_viewer.py",  # a PACS, a viewer in a browser, and a study in them
}


def pytest_configure() -> None:
    """Prepare the process of a session, or of one of its workers, for the programs that its tests start."""
    # In a virtual environment that is switched on, pip's echoscu and gdcminfo would stand before the real ones.
    own = Path(sys.prefix) / "bin"
    os.environ["PATH"] = os.pathsep.join(each for each in os.get_exec_path() if Path(each) != own)
    waiting.begin()
    programs.start_reaper()
    programs.Guard.install()
    warm_processes.prepare()


class _Together(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each test to whoever is free, but for modules that make something costly once: one worker has all of it."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if module in TOGETHER else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``--dist loadgroup``; xdist 3.8 itself does not see its groups with pytest 9.2."""
    return _Together(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers begin with what takes long, so that none is left alone with it at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not any(map(item.get_closest_marker, ("long", "programs", "slow"))))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Limit the test's time by what this machine needs now, and refuse it programs if it is not marked."""
    own = item.get_closest_marker("timeout")
    seconds = own.args[0] if own else item.config.getoption("timeout") or item.config.getini("timeout")
    item.add_marker(pytest.mark.timeout(waiting.scaled(float(seconds))), append=False)
    programs.Guard.refused_for = "" if item.get_closest_marker("programs") else item.nodeid
    try:
        return (yield)
    finally:
        programs.Guard.refused_for = ""


@pytest.fixture(autouse=True)
def _nothing_is_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test ends the processes that it starts; those of its module's fixtures were there before."""
    marked = request.node.get_closest_marker("programs") is not None

    def running() -> set[int]:
        return programs.started() | (programs.orphans() if marked else set())  # orphans cost a look at all processes

    before = running()
    yield
    if (left := running() - before) and (commands := programs.end_all(left)):
        pytest.fail("left running: " + "; ".join(commands))


@pytest.fixture(autouse=True)
def _quiet_libraries() -> None:
    """As in a running node: libraries' warnings quote data sets and are not shown."""
    log.silence_libraries()


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not (DATA / "MANIFEST.tsv").is_file():
        pytest.skip(f"real test data is not at {DATA}; set DICOM_NODE_REAL_DATA to where it is")
    return DATA


@pytest.fixture
def start_pacs() -> Iterator[Callable[..., Pacs]]:
    """Start storage SCPs: ``start_pacs(port=0, ae_title="PACS", contexts=None, require_calling=())``."""
    with ExitStack() as stack:

        def start(
            port: int = 0,
            *,
            ae_title: str = "PACS",
            require_calling: tuple[str, ...] = (),
            syntaxes: tuple[str, ...] = (),
        ) -> Pacs:
            configure_pynetdicom()
            ae = AE(ae_title=ae_title)
            ae.require_called_aet = True
            if require_calling:
                ae.require_calling_aet = list(require_calling)
            pacs = Pacs(port)

            def on_store(event: Any) -> int:
                uid = str(event.request.AffectedSOPInstanceUID)
                status = pacs.answer(uid)
                if status == 0x0000 or status & 0xF000 == 0xB000:
                    with pacs.lock:
                        pacs.stored.append((uid, event.encoded_dataset(include_meta=False)))
                return status

            def on_accepted(_event: Any) -> None:
                pacs.associations += 1

            server = ae.start_server(
                ("127.0.0.1", port),
                block=False,
                evt_handlers=[(evt.EVT_C_STORE, on_store), (evt.EVT_ACCEPTED, on_accepted)],
            )
            pacs.port = server.server_address[1]
            stack.callback(ae.shutdown)
            return pacs

        yield start


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as pacs:
        yield pacs


@pytest.fixture
def start_node() -> Iterator[Callable[..., Node]]:
    """Start nodes; each is stopped when the test ends."""
    with ExitStack() as stack:

        def start(settings: Settings, **kwargs: Any) -> Node:
            node = Node(settings, **kwargs)
            node.start()
            stack.callback(node.stop)
            return node

        yield start
