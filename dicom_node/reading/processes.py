"""The warm processes of a node, which jobs each of them takes, and the processors that they share.

The first process reads. On CPUs a second one, the spare, is loaded while many studies wait. Models in shadow have a
process of their own, so a candidate that crashes or hangs disturbs no other model.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ai.bundle.pins import Pinned
from ai.engine.devices import reads_on_cpu
from ai.engine.process import WarmProcess
from ai.images import helpers
from dicom_node.config.settings import Settings
from dicom_node.index.index import Index
from dicom_node.jobs.patience import Patience
from dicom_node.log import logger
from dicom_node.models.cage import cage_of
from dicom_node.reading.loading import Loads, loader, loads

_SPARE_WORTH = 12  # studies that wait for a reading: then it is worth loading the models a second time
_SPARE_REST_SECONDS = 60.0  # how long the spare process keeps its models while it has nothing to read
_READ_PATIENCE = Patience(attempts=3, seconds=None, first_delay=1.0, longest_delay=30.0)
_SHADOW_PATIENCE = Patience(attempts=2, seconds=None, first_delay=1.0)  # it is not urgent, and each attempt costs time
_LOAD_SECONDS = 600.0  # a process may have to load its models before it reads


class Processors:
    """The processors of a machine, shared by the processes that read at the same time.

    Two networks with one thread each are faster than one network with two threads. Oversubscribed threads are slower
    than one thread.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._busy = 0
        self._lock = threading.Lock()

    @contextmanager
    def shared(self) -> Iterator[int]:
        """Read inside the block; yields how many threads the network may have."""
        with self._lock:
            self._busy += 1
            threads = max(1, self._count // self._busy)
        try:
            yield threads
        finally:
            with self._lock:
                self._busy -= 1


@dataclass(frozen=True, slots=True)
class Slot:
    """An executor that takes reading jobs, one at a time, and how its worker is to behave.

    ``lease_seconds`` is how long one job may take. ``when`` says whether the executor may take a job now; ``idle`` is
    called when it finds none. ``processors`` is None if the executor takes all processors that it finds.
    """

    kind: Literal["read", "shadow"]
    executor: Executor
    patience: Patience
    lease_seconds: float
    processors: Processors | None = None
    when: Callable[[], bool] = lambda: True
    idle: Callable[[], None] = lambda: None


class WarmProcesses:
    """Makes, starts, watches and stops the warm processes of a node.

    Args:
        bundles: the models by name, with the pins of their files.
        wake: called when the spare process is ready to read.
    """

    def __init__(
        self, settings: Settings, bundles: Mapping[str, Pinned], index: Index, wake: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._bundles = bundles
        self._index = index
        self._wake = wake
        self._first: WarmProcess | None = None
        self._spare: WarmProcess | None = None
        self._spare_until = 0.0  # the spare process may rest from then on (`time.monotonic`)
        self._spare_loading: Future[Loads] | None = None
        self._spare_failed = False
        self._shadow: WarmProcess | None = None

    def start(self) -> tuple[Slot, ...]:
        """Start the processes that the configuration needs; which jobs each of them takes."""
        settings, slots = self._settings, []
        if settings.routes:
            count = os.cpu_count() or 1
            processors = Processors(count)
            self._first = self._process(settings.reading_models(), partial(self._tell_load, False))
            slots.append(self._slot("read", self._first, _READ_PATIENCE, processors=processors))
            if count > 1 and reads_on_cpu(settings.node.device):
                self._spare = self._process(settings.reading_models(), self._tell_spare, background=True)
                slots.append(
                    self._slot(
                        "read",
                        self._spare,
                        _READ_PATIENCE,
                        processors=processors,
                        when=self._spare_is_wanted,
                        idle=self._spare_idles,
                    )
                )
        if settings.shadow_models():
            self._shadow = self._process(settings.shadow_models(), partial(self._tell_load, True), background=True)
            slots.append(self._slot("shadow", self._shadow, _SHADOW_PATIENCE))
        return tuple(slots)

    def stop(self) -> None:
        """End every process at once; what it reads fails."""
        for process in (self._first, self._spare, self._shadow):
            if process is not None:
                process.shutdown()

    @property
    def warm(self) -> bool:
        """Whether the first process has loaded its models."""
        return self._first is not None and self._first.warm

    @property
    def first_pid(self) -> int | None:
        """The process id of the first process while it lives."""
        return self._first.pid if self._first is not None else None

    @property
    def spare_pid(self) -> int | None:
        """The process id of the spare process, which lives while many studies wait."""
        return self._spare.pid if self._spare is not None else None

    @property
    def shadow_pid(self) -> int | None:
        """The process id of the process of models in shadow while it lives."""
        return self._shadow.pid if self._shadow is not None else None

    def _process(
        self, models: Sequence[str], on_load: Callable[[str], None], *, background: bool = False
    ) -> WarmProcess:
        """A process with these models; one in the background loads them when a job needs them.

        Until then it takes no memory, of a GPU above all, from the other processes.
        """
        bundles = {name: self._bundles[name] for name in models if name in self._bundles}
        node = self._settings.node
        return WarmProcess(
            loader(bundles, node.device, background=background),
            timeout=node.read_timeout_seconds,
            on_load=on_load,
            eager=not background,
            cage=cage_of(self._settings, bundles, background=background),
            before=helpers.start,
        )

    def _slot(
        self,
        kind: Literal["read", "shadow"],
        process: WarmProcess,
        patience: Patience,
        *,
        processors: Processors | None = None,
        when: Callable[[], bool] = lambda: True,
        idle: Callable[[], None] = lambda: None,
    ) -> Slot:
        lease = self._settings.node.read_timeout_seconds + _LOAD_SECONDS
        return Slot(kind, process, patience, lease, processors, when, idle)

    # --- the spare process --------------------------------------------------------------------------------------------

    def _tell_spare(self, reason: str) -> None:
        if reason:
            self._spare_failed = True
            logger().warning("models.failed", reason=f"studies are read by one process alone: {reason}")
        else:
            self._wake()

    def _spare_is_wanted(self) -> bool:
        """Whether the spare process is to take a job; it takes one only after its models are loaded.

        Until then the first process goes on reading, so no study waits for the spare to load.
        """
        process = self._spare
        if process is None or self._spare_failed:
            return False
        if self._index.is_waiting("read", 2 if process.warm else _SPARE_WORTH):
            self._spare_until = time.monotonic() + _SPARE_REST_SECONDS
            if process.warm:
                return True
            if self._spare_loading is None or self._spare_loading.done():
                self._spare_loading = process.submit(loads)
        return False

    def _spare_idles(self) -> None:
        process = self._spare
        if process is not None and process.warm and time.monotonic() > self._spare_until:
            process.rest()

    # --- how loading went ---------------------------------------------------------------------------------------------

    def _tell_load(self, shadow: bool, reason: str) -> None:
        process = self._shadow if shadow else self._first
        if reason:
            means = "nothing is read in shadow" if shadow else "studies wait or fail"
            logger().error("models.failed", reason=reason, fix=f"dicom-node check says more; {means}")
        elif process is not None:
            process.submit(loads).add_done_callback(partial(_tell_models, process))


def _tell_models(process: WarmProcess, done: Future[Loads]) -> None:
    if done.exception() is not None:
        return  # the process died at once; it is loaded again, and this is called again
    went = done.result()
    if went.complaint:
        logger().warning("device.missing", reason=went.complaint)
    for name, reason in went.failed.items():
        logger().error("models.failed", model=name, reason=reason, fix="mend the bundle and restart the node")
    for name, reason in went.waiting.items():
        logger().warning("models.waiting", model=name, reason=reason, fix="it is loaded when a study needs it")
    for name, device in went.loaded.items():
        logger().info("models.loaded", model=name, device=device, pid=process.pid)
