"""One node: wires the rooms together, starts them in order, stops them in order."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from ai.bundle.pins import Pinned
from ai.engine.devices import reads_on_cpu
from ai.engine.process import WarmProcess
from dicom_node import __version__
from dicom_node.config.settings import Peer, Settings
from dicom_node.delivery.commit_job import Committer, note_report
from dicom_node.delivery.send_job import Sender
from dicom_node.errors import ConfigError, trouble
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import Job, JobKind
from dicom_node.jobs.patience import Patience
from dicom_node.jobs.worker import Done, Worker
from dicom_node.log import logger, where
from dicom_node.models.registry import Models, find
from dicom_node.reading.loading import Loads, loader, loads
from dicom_node.reading.processes import Processors
from dicom_node.reading.read_job import Reader
from dicom_node.scp.commitment import StorageCommitmentReports, StorageCommitmentSCP
from dicom_node.scp.mpps import MPPS
from dicom_node.scp.server import Server
from dicom_node.scp.service import Services
from dicom_node.scp.storage import StorageSCP
from dicom_node.scp.verification import VerificationSCP
from dicom_node.storage.ingest import Store
from dicom_node.storage.retention import Retention
from dicom_node.storage.spool import Spool
from dicom_node.studies.completion import Completer
from dicom_node.studies.pacs_count import Counter

_SEND_LEASE_SECONDS = 3600.0  # one worker serves a destination, so a lease only matters where that worker is gone
_SPARE_WORTH = 12  # studies that wait for a reading: then it is worth loading the models a second time
_SPARE_REST_SECONDS = 60.0  # what the second process of models is kept for when there is nothing for it to read
_READ_PATIENCE = Patience(attempts=3, seconds=None, first_delay=1.0, longest_delay=30.0)
_SHADOW_PATIENCE = Patience(attempts=2, seconds=None, first_delay=1.0)  # nobody waits for it, and each try costs time


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
        self._spare_process: WarmProcess | None = None  # reads beside the first while many studies wait, on CPUs
        self._spare_until = 0.0  # when it may rest (`time.monotonic`)
        self._spare_loading: Future[Loads] | None = None
        self._spare_failed = False
        self._shadow_process: WarmProcess | None = None  # a candidate that crashes or hangs takes nobody with it
        self._server: Server | None = None
        self._completer: Completer | None = None
        self._retention: Retention | None = None
        self._readers: list[Worker] = []
        self._senders: list[Worker] = []
        self._committers: dict[str, Worker] = {}
        self._reporters: dict[str, Worker] = {}
        self._counters: dict[str, Counter] = {}

    @property
    def port(self) -> int:
        """The TCP port that the node listens on, once started."""
        if self._server is None:
            raise RuntimeError("the node is not started")
        return self._server.port

    @property
    def warm(self) -> bool:
        """Whether the models are loaded (a node without routes has none to load); those in shadow do not count."""
        return not self.settings.routes or (self._process is not None and self._process.warm)

    @property
    def reading_pid(self) -> int | None:
        """Process id of the warm process."""
        return self._process.pid if self._process is not None else None

    @property
    def spare_pid(self) -> int | None:
        """Process id of the second warm process, which is there while many studies wait."""
        return self._spare_process.pid if self._spare_process is not None else None

    @property
    def shadow_pid(self) -> int | None:
        """Process id of the warm process of the models in shadow; None where no route has any."""
        return self._shadow_process.pid if self._shadow_process is not None else None

    def received(self, sop_instance_uid: str) -> tuple[Path, float] | None:
        """The file of a received instance and when it came (epoch seconds), or None where we have it not."""
        known = self.index.received(sop_instance_uid) if self.index is not None else None
        if known is None or known.removed is not None:
            return None
        return self._spool.path(known.file), known.received

    def result_file(self, sop_instance_uid: str) -> Path | None:
        """The file of a result that this node made, or None where it did not, or retention has removed it."""
        result = self.index.result(sop_instance_uid) if self.index is not None else None
        return None if result is None or result.removed is not None else self._spool.path(result.file)

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
        self._spool.open()
        index = self.index = Index(self._spool.root / INDEX_FILE, create=True)
        try:
            removed = self._spool.recover(index.known_files)
            again = index.requeue_running(clock())
            index.ask_again(clock())
        except (OSError, sqlite3.Error) as error:
            reason = trouble(error) or where(error)
            raise ConfigError(f"data_dir {self._spool.root}: cannot be put in order: {reason}") from error
        if removed or again:
            logger().info(
                "node.recovered",
                removed=removed,
                jobs=again,
                reason="unfinished files were deleted, unfinished jobs are queued again",
            )
        store = Store(
            index,
            self._spool,
            clock,
            keep_free=round(settings.node.keep_free_gb * 1e9),
            max_waiting=settings.node.max_waiting_studies,
        )
        storage = StorageSCP(store, on_release=self._wake_completer)
        marks = (
            (store.no_room, "make room on that disk"),
            (store.backlog, "see in dicom-node studies and in the log why reading does not keep up"),
        )
        self._server = Server(settings, self._services(index, storage), marks=marks, clock=clock)
        self._server.start()  # first of all: a modality that pushes now is served now
        Models(settings.node.data_dir).note_loaded(self._bundles)
        if settings.routes:
            count = os.cpu_count() or 1
            processors = Processors(count)
            self._process = self._warm_process(settings.reading_models(), partial(self._tell_load, False))
            self._readers.append(self._reader("read", index, self._process, _READ_PATIENCE, processors=processors))
            if count > 1 and reads_on_cpu(settings.node.device):
                self._spare_process = self._warm_process(settings.reading_models(), self._tell_spare, background=True)
                self._readers.append(
                    self._reader(
                        "read",
                        index,
                        self._spare_process,
                        _READ_PATIENCE,
                        processors=processors,
                        when=self._spare_is_wanted,
                        idle=self._spare_idles,
                    )
                )
        if settings.shadow_models():
            self._shadow_process = self._warm_process(
                settings.shadow_models(), partial(self._tell_load, True), background=True
            )
            self._readers.append(self._reader("shadow", index, self._shadow_process, _SHADOW_PATIENCE))
        for peer in settings.destinations():
            sender = Sender(settings, peer, index, self._spool)
            self._senders.append(self._calling_worker(index, "send", sender, peer, sender.close))
        for worker in self._workers:
            worker.start()
        self._counters = {
            name: Counter(settings.node.ae_title, settings.peer(name), clock)
            for name in dict.fromkeys(route.count_at for route in settings.routes)
            if name is not None
        }
        for counter in self._counters.values():
            counter.start()
        self._completer = Completer(
            settings,
            index,
            self._wake_readers,
            clock,
            last_byte=storage.last_byte,
            released=storage.released,
            counts={name: counter.count for name, counter in self._counters.items()},
        )
        self._completer.start()
        self._retention = Retention(settings.retention, index, self._spool, store, clock, last_byte=storage.last_byte)
        self._retention.start()
        logger().info(
            "node.started",
            called_ae=settings.node.ae_title,
            address=settings.node.host,
            port=self._server.port,
            folder=str(self._spool.root),
            version=__version__,
        )

    def _services(self, index: Index, storage: StorageSCP) -> Services:
        """What others may ask of this AE."""
        settings, clock = self.settings, self._clock
        for peer in settings.destinations():
            if peer.commitment:
                committer = Committer(settings, peer, index, on_answer=self._tell_committed, clock=clock)
                self._committers[peer.name] = self._calling_worker(index, "commit", committer, peer, committer.idle)
        commitment = StorageCommitmentSCP(settings, index, self._spool, on_request=self._wake_reporter, clock=clock)
        for peer in settings.callable():
            reporter = commitment.reporter(peer)
            self._reporters[peer.name] = self._calling_worker(index, "promise", reporter, peer, reporter.close)
        return Services(
            [
                VerificationSCP(),
                storage,
                MPPS(index, on_end=self._wake_completer, clock=clock),
                commitment,
                StorageCommitmentReports(
                    lambda kind, decode: note_report(index, kind, decode, clock(), self._tell_committed)[0]
                ),
            ]
        )

    def _calling_worker(
        self, index: Index, kind: JobKind, do: Callable[[Job], Done], peer: Peer, idle: Callable[[], None]
    ) -> Worker:
        """A worker that calls one peer, which may be away for as long as IT allows."""
        return Worker(
            index,
            kind,
            do,
            patience=Patience(attempts=None, seconds=self.settings.node.deliver_for_hours * 3600),
            lease_seconds=_SEND_LEASE_SECONDS,
            target=peer.name,
            idle=idle,
            clock=self._clock,
        )

    def _tell_committed(self, peer: str) -> None:
        """A destination has answered a request for commitment: something may be done, or is to be sent again."""
        self._wake_senders()
        if peer in self._committers:
            self._committers[peer].wake()

    def _wake_reporter(self, peer: str) -> None:
        if peer in self._reporters:
            self._reporters[peer].wake()

    def _wake_completer(self) -> None:
        if self._completer is not None:
            self._completer.wake()

    def _warm_process(
        self, models: Sequence[str], on_load: Callable[[str], None], *, background: bool = False
    ) -> WarmProcess:
        """A process with these models; one in the background is loaded when it is needed, and yields to the others.

        It takes memory, a GPU's above all, when the others have theirs.
        """
        bundles = {name: self._bundles[name] for name in models if name in self._bundles}
        node = self.settings.node
        return WarmProcess(
            loader(bundles, node.device, background=background),
            timeout=node.read_timeout_seconds,
            on_load=on_load,
            eager=not background,
        )

    def _tell_spare(self, reason: str) -> None:
        if reason:
            self._spare_failed = True
            logger().warning("models.failed", reason=f"studies are read by one process alone: {reason}")
        else:
            self._wake_readers()

    def _spare_is_wanted(self) -> bool:
        """Whether the second process is to take a job, which it does only when its models are loaded.

        Until they are the first process reads on, and no study waits for them.
        """
        process, index = self._spare_process, self.index
        if process is None or index is None or self._spare_failed:
            return False
        if index.is_waiting("read", 2 if process.warm else _SPARE_WORTH):
            self._spare_until = time.monotonic() + _SPARE_REST_SECONDS
            if process.warm:
                return True
            if self._spare_loading is None or self._spare_loading.done():
                self._spare_loading = process.submit(loads)
        return False

    def _spare_idles(self) -> None:
        process = self._spare_process
        if process is not None and process.warm and time.monotonic() > self._spare_until:
            process.rest()

    def _reader(
        self,
        kind: JobKind,
        index: Index,
        process: WarmProcess,
        patience: Patience,
        *,
        processors: Processors | None = None,
        when: Callable[[], bool] = lambda: True,
        idle: Callable[[], None] = lambda: None,
    ) -> Worker:
        settings = self.settings
        site = f"{settings.node.ae_title}/{index.node_id()}"
        reader = Reader(
            settings,
            index,
            self._spool,
            process,
            site,
            on_sends=self._wake_senders,
            processors=processors,
            clock=self._clock,
        )
        return Worker(
            index,
            kind,
            reader,
            patience=patience,
            lease_seconds=settings.node.read_timeout_seconds + 600.0,  # the process may have to load its models first
            on_failure=reader.failed,
            when=when,
            idle=idle,
            clock=self._clock,
        )

    @property
    def stuck(self) -> str:
        """The name of a part of the node that has died and would leave studies without an outcome; mostly empty."""
        if self._completer is not None and not self._completer.alive:
            return "completer"
        return next((worker.name for worker in self._workers if not worker.alive), "")

    @property
    def _workers(self) -> list[Worker]:
        return [*self._readers, *self._senders, *self._committers.values(), *self._reporters.values()]

    def _tell_load(self, shadow: bool, reason: str) -> None:
        process = self._shadow_process if shadow else self._process
        if reason:
            means = "nothing is read in shadow" if shadow else "studies wait or fail"
            logger().error("models.failed", reason=reason, fix=f"dicom-node check says more; {means}")
        elif process is not None:
            process.submit(loads).add_done_callback(partial(self._tell_models, process))

    def _tell_models(self, process: WarmProcess, done: Future[Loads]) -> None:
        if done.exception() is not None:
            return  # the process died at once; it is loaded again, and told again
        went = done.result()
        if went.complaint:
            logger().warning("device.missing", reason=went.complaint)
        for name, reason in went.failed.items():
            logger().error("models.failed", model=name, reason=reason, fix="mend the bundle and restart the node")
        for name, reason in went.waiting.items():
            logger().warning("models.waiting", model=name, reason=reason, fix="it is loaded when a study needs it")
        for name, device in went.loaded.items():
            logger().info("models.loaded", model=name, device=device, pid=process.pid)

    def _wake_readers(self) -> None:
        for worker in self._readers:
            worker.wake()

    def _wake_senders(self) -> None:
        for worker in self._senders:
            worker.wake()

    def stop(self) -> None:
        """Stop receiving, let go of what is in work (it is queued again), and free the folder."""
        if self._server is not None:
            self._server.stop()
        if self._completer is not None:
            self._completer.stop()
        if self._retention is not None:
            self._retention.stop()
        workers = self._workers
        for worker in workers:
            worker.ask_to_stop()
        for counter in self._counters.values():
            counter.stop()
        for process in (self._process, self._spare_process, self._shadow_process):
            if process is not None:
                process.shutdown()
        for worker in workers:
            worker.join(timeout=90.0)
        if self.index is not None:
            self.index.close()
            self.index = None
        self._spool.close()
