"""One node: wires the rooms together, starts them in order, stops them in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

from ai.engine import WarmProcess
from ai.pins import Pinned
from dicom_node import __version__
from dicom_node.config import Settings
from dicom_node.db import INDEX_FILE, Index
from dicom_node.deliver import Sender
from dicom_node.infer import Reader
from dicom_node.log import logger
from dicom_node.models import Models, find
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.studies import Completer
from dicom_node.warm import loader, unloadable
from dicom_node.worker import Patience, Worker

_SEND_LEASE_SECONDS = 3600.0  # one worker serves a destination, so a lease only matters where that worker is gone
_READ_PATIENCE = Patience(attempts=3, seconds=None, first_delay=1.0, longest_delay=30.0)


class Node:
    """A node over one configuration; start it once, stop it once."""

    def __init__(
        self,
        settings: Settings,
        *,
        bundles: Mapping[str, Path] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Check what can be checked without touching the disk or the network.

        Raises:
            ConfigError: a route names a model that is not there.
        """
        self.settings = settings
        self._bundles = find(settings) if bundles is None else {name: Pinned(path) for name, path in bundles.items()}
        self._clock = clock
        self._spool = Spool(settings.node.data_dir)
        self.index: Index | None = None
        self._process: WarmProcess | None = None
        self._receiver: Receiver | None = None
        self._completer: Completer | None = None
        self._readers: list[Worker] = []
        self._senders: list[Worker] = []

    @property
    def port(self) -> int:
        """The TCP port that the node listens on, once started."""
        if self._receiver is None:
            raise RuntimeError("the node is not started")
        return self._receiver.port

    @property
    def warm(self) -> bool:
        """Whether the models are loaded (a node without routes has none to load)."""
        return not self.settings.routes or (self._process is not None and self._process.warm)

    @property
    def reading_pid(self) -> int | None:
        """Process id of the warm process."""
        return self._process.pid if self._process is not None else None

    def received(self, sop_instance_uid: str) -> tuple[Path, float] | None:
        """The file of a received instance and when it was received (epoch seconds), or None where we do not have it."""
        known = self.index.received(sop_instance_uid) if self.index is not None else None
        return None if known is None else (self._spool.path(known.file), known.received)

    def result_file(self, sop_instance_uid: str) -> Path | None:
        """The file of a result that this node made, or None where it did not."""
        result = self.index.result(sop_instance_uid) if self.index is not None else None
        return None if result is None else self._spool.path(result.file)

    def start(self) -> None:
        """Take the data folder, listen, and begin to work.

        Raises:
            ConfigError: the folder or the port cannot be used; nothing is left running.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        settings, clock = self.settings, self._clock
        removed = self._spool.open()
        index = self.index = Index(self._spool.root / INDEX_FILE, create=True)
        again = index.requeue_running(clock())
        if removed or again:
            logger().info(
                "node.recovered",
                removed=removed,
                jobs=again,
                reason="unfinished files were deleted, unfinished jobs are queued again",
            )
        self._receiver = Receiver(settings, Store(index, self._spool, clock))
        self._receiver.start()  # first of all: a modality that pushes now is served now
        if settings.routes:
            Models(settings.node.data_dir).note_loaded(self._bundles)
            timeout = settings.node.read_timeout_seconds
            self._process = WarmProcess(loader(self._bundles), timeout=timeout, on_load=self._tell_load)
            site = f"{settings.node.ae_title}/{index.node_id()}"
            reader = Reader(settings, index, self._spool, self._process, site, on_sends=self._wake_senders, clock=clock)
            lease = settings.node.read_timeout_seconds + 600.0  # the process may have to load its models first
            self._readers = [
                Worker(
                    index,
                    "read",
                    reader,
                    patience=_READ_PATIENCE,
                    lease_seconds=lease,
                    on_failure=reader.failed,
                    clock=clock,
                )
            ]
        patience = Patience(attempts=None, seconds=settings.node.deliver_for_hours * 3600)
        for peer in settings.destinations():
            sender = Sender(settings, peer, index, self._spool)
            self._senders.append(
                Worker(
                    index,
                    "send",
                    sender,
                    patience=patience,
                    lease_seconds=_SEND_LEASE_SECONDS,
                    target=peer.name,
                    idle=sender.close,
                    clock=clock,
                )
            )
        for worker in (*self._readers, *self._senders):
            worker.start()
        self._completer = Completer(settings, index, self._wake_readers, clock, last_byte=self._receiver.last_byte)
        self._completer.start()
        logger().info(
            "node.started",
            called_ae=settings.node.ae_title,
            address=settings.node.host,
            port=self._receiver.port,
            folder=str(self._spool.root),
            version=__version__,
        )

    @property
    def stuck(self) -> str:
        """The name of a part of the node that has died and would leave studies without an outcome; mostly empty."""
        if self._completer is not None and not self._completer.alive:
            return "completer"
        return next((worker.name for worker in (*self._readers, *self._senders) if not worker.alive), "")

    def _tell_load(self, reason: str) -> None:
        if reason:
            logger().error("models.failed", reason=reason, fix="dicom-node check says more; studies wait or fail")
        elif self._process is not None:
            self._process.submit(unloadable).add_done_callback(self._tell_models)

    def _tell_models(self, done: Future[dict[str, str]]) -> None:
        if done.exception() is not None:
            return  # the process died at once; it is loaded again, and told again
        failed = done.result()
        for name, reason in failed.items():
            logger().error("models.failed", model=name, reason=reason, fix="mend the bundle and restart the node")
        for name in self._bundles.keys() - failed.keys():
            logger().info("models.loaded", model=name, pid=self.reading_pid)

    def _wake_readers(self) -> None:
        for worker in self._readers:
            worker.wake()

    def _wake_senders(self) -> None:
        for worker in self._senders:
            worker.wake()

    def stop(self) -> None:
        """Stop receiving, let go of what is in work (it is queued again), and free the folder."""
        if self._receiver is not None:
            self._receiver.stop()
        if self._completer is not None:
            self._completer.stop()
        workers = (*self._readers, *self._senders)
        for worker in workers:
            worker.ask_to_stop()
        if self._process is not None:
            self._process.shutdown()
        for worker in workers:
            worker.join(timeout=90.0)
        if self.index is not None:
            self.index.close()
            self.index = None
        self._spool.close()
