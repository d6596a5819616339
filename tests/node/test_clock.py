"""The machine's clock is set while a node runs, by libfaketime: nothing waits a day, and nothing fresh is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.operations.clock_watch import CLOCK_FILE
from tests.support.peers import free_port, send
from tests.support.programs import ROOT, faketime, running
from tests.support.samples import make_image
from tests.support.waiting import wait_until

DAY = 86400.0
QUIET = 1.0

# A node without routes, whose retention removes after a day; the file "synchronised" stands for adjtimex(2).
NODE = f"""
import sys
from pathlib import Path
from dicom_node import log
from dicom_node.config.retention import Retention
from dicom_node.node import Node
from dicom_node.storage import retention
from tests.support.nodes import settings_for
log.configure(sys.stdout)
retention._LOOK_SECONDS = 0.2
folder = Path(sys.argv[1])
settings = settings_for(folder / "node", node={{"port": int(sys.argv[2]), "quiet_seconds": {QUIET}}})
settings = settings.model_copy(update={{"retention": Retention(days=1.0)}})
node = Node(settings, synchronised=lambda: (folder / "synchronised").exists())
node.start()
sys.stdin.read()
node.stop()
"""


class Machine:
    """A machine whose clock a test sets; ``port`` is that of its node."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.set(0)

    def set(self, seconds: float) -> None:
        new = self.folder / "new"
        new.write_text(f"{seconds:+.0f}\n", encoding="ascii")
        new.replace(self.folder / "offset")

    def synchronise(self) -> None:
        (self.folder / "synchronised").touch()

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": faketime(),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_TIMESTAMP_FILE": str(self.folder / "offset"),
            "FAKETIME_CACHE_DURATION": "1",
        }

    @contextmanager
    def node(self) -> Iterator[None]:
        with (
            (self.folder / "log").open("a", encoding="utf-8") as log,
            running(
                [sys.executable, "-c", NODE, self.folder, self.port],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
            ) as process,
        ):
            started = len(self.logged("node.started"))
            wait_until(lambda: len(self.logged("node.started")) > started, "the node to start")
            yield
            assert process.poll() is None
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text(encoding="utf-8").splitlines(keepends=True)
        return [one for one in (json.loads(line) for line in lines if line.endswith("\n")) if one["event"] == event]

    def confirm(self) -> str:
        """An administrator's word, with the clock as it is set now."""
        config = self.folder / "node.toml"
        config.write_text(f'[node]\ndata_dir = "{self.folder / "node"}"\n', encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node", "clock", "--confirm", "--config", config],
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def study(self, uid: str) -> tuple[str, bool]:
        """Its state, and whether its files are removed."""
        index = Index(self.folder / "node" / INDEX_FILE)
        try:
            (row,) = index.studies_with_state(uid)
        finally:
            index.close()
        return row.state, row.removed is not None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def receive(machine: Machine, *, whole: bool = True) -> str:
    image = make_image()
    assert send(machine.port, image) == [0x0000]
    if whole:
        wait_until(lambda: machine.study(image.StudyInstanceUID)[0] == "no route", "the study to be complete", 20)
    return str(image.StudyInstanceUID)


@pytest.mark.programs
@pytest.mark.parametrize("step", [-DAY, 2 * DAY], ids=["back a day", "forward two days"])
def test_a_study_that_is_received_is_complete_after_its_quiet_time_as_ever(machine: Machine, step: float) -> None:
    with machine.node():
        study = receive(machine, whole=False)
        machine.set(step)
        wait_until(lambda: machine.study(study)[0] == "no route", "the study to be complete", 20)
        wait_until(lambda: machine.logged("clock.stepped"), "the step to be told", 20)
        (told,) = machine.logged("clock.stepped")
        assert abs(told["seconds"] - step) < 5
        second = receive(machine)
        assert machine.study(second) == ("no route", False)


@pytest.mark.programs
def test_what_is_fresh_stays_when_the_clock_jumps_and_old_things_wait_for_a_confirmation(machine: Machine) -> None:
    machine.synchronise()
    with machine.node():
        old = receive(machine)
    (machine.folder / "synchronised").unlink()
    with machine.node():
        fresh = receive(machine)
        assert not machine.logged("retention.waits"), "it was synchronised since the machine started"
        machine.set(2 * DAY)
        wait_until(lambda: machine.logged("retention.waits"), "retention to wait", 20)
        (told,) = machine.logged("retention.waits")
        assert "forward by 2.0 days since it was confirmed" in told["reason"]
        assert machine.study(old) == ("no route", False)
        assert "confirmed" in machine.confirm().splitlines()
        wait_until(lambda: machine.study(old) == ("no route", True), "retention to go on", 20)
        assert machine.study(fresh) == ("no route", False), "it came a moment ago, whatever the clock says"
    with machine.node():
        assert machine.study(fresh) == ("no route", False)


@pytest.mark.programs
def test_time_synchronisation_confirms_the_clock_and_nobody_else_does(machine: Machine) -> None:
    with machine.node():
        old = receive(machine)
        machine.set(2 * DAY)
        wait_until(lambda: machine.logged("clock.stepped"), "the step to be told", 20)
    with machine.node():
        wait_until(lambda: len(machine.logged("retention.waits")) == 2, "retention to wait again", 20)
        machine.set(4 * DAY)
        wait_until(lambda: len(machine.logged("clock.stepped")) == 2, "the step to be told", 20)
        assert machine.study(old) == ("no route", False)
        machine.synchronise()
        wait_until(lambda: machine.study(old) == ("no route", True), "retention to go on", 20)
        wait_until((machine.folder / "node" / CLOCK_FILE).exists, "the confirmation to be recorded", 20)


@pytest.mark.programs
def test_a_clock_that_was_set_back_while_the_node_was_off_is_told_and_nothing_waits_for_it(machine: Machine) -> None:
    with machine.node():
        study = receive(machine, whole=False)
    machine.set(-DAY)
    with machine.node():
        wait_until(lambda: machine.study(study)[0] == "no route", "the study to be complete", 20)
        (told,) = machine.logged("clock.stepped")
        assert "back by 24.0 hours, compared with the newest image of the index" in told["reason"]
