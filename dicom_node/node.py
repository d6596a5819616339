"""One node: wires the packages together, starts them in order and stops them in order. It holds no policy."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from ai.bundle.pins import Pinned
from dicom_node import __version__
from dicom_node.clock import SteadyClock, is_synchronised
from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Peer, Settings
from dicom_node.delivery.commit_job import Committer, note_report
from dicom_node.delivery.send_job import Sender
from dicom_node.delivery.withdraw_job import Withdrawer
from dicom_node.errors import ConfigError, trouble
from dicom_node.index.commitments import peers_that_ask
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import Job, JobKind
from dicom_node.jobs.patience import Patience
from dicom_node.jobs.worker import Done, Worker
from dicom_node.log import logger, where
from dicom_node.models import asked
from dicom_node.models.registry import Models, find
from dicom_node.operations import index_start, upgrade
from dicom_node.operations.clock_watch import ClockWatch
from dicom_node.reading.processes import Slot, WarmProcesses
from dicom_node.reading.read_job import Reader
from dicom_node.reading.summary_job import Summarizer
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


class Node:
    """A node with one configuration; start it once, stop it once."""

    def __init__(
        self,
        settings: Settings,
        *,
        bundles: Mapping[str, Path] | None = None,
        clock: Callable[[], float] | None = None,
        synchronised: Callable[[], bool] = is_synchronised,
    ) -> None:
        """Check the configuration against the installed models, without network.

        Args:
            settings: the configuration.
            bundles: models by their names, in place of the installed ones.
            clock: epoch seconds, in place of the machine's clock, whose steps the node sees.
            synchronised: whether time synchronisation keeps the machine's clock.

        Raises:
            ConfigError: a route names a model that is not installed, or asks for what a model does not have.
        """
        self._holder = SettingsHolder(settings)
        self._bundles = find(settings) if bundles is None else {name: Pinned(path) for name, path in bundles.items()}
        asked.check(settings, self._bundles)
        self._steady = SteadyClock() if clock is None else SteadyClock(clock, clock)
        self._clock = self._steady.now
        self._synchronised = synchronised
        self._clock_watch: ClockWatch | None = None
        self._spool = Spool(settings.node.data_dir)
        self.index: Index | None = None
        self._processes: WarmProcesses | None = None
        self._server: Server | None = None
        self._completer: Completer | None = None
        self._retention: Retention | None = None
        self._upkeep: index_start.Upkeep | None = None
        self._readers: list[Worker] = []
        self._senders: list[Worker] = []
        self._withdrawers: list[Worker] = []
        self._committers: dict[str, Worker] = {}
        self._reporters: dict[str, Worker] = {}
        self._counters: dict[str, Counter] = {}

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._holder.current

    def use(self, settings: Settings) -> tuple[str, ...]:
        """Put other settings in force while the node runs.

        Returns:
            the keys that differ and take effect only at the next start.
        """
        return self._holder.replace(settings)

    @property
    def port(self) -> int:
        """The TCP port that the node listens on, after `start`."""
        if self._server is None:
            raise RuntimeError("the node is not started")
        return self._server.port

    @property
    def warm(self) -> bool:
        """Whether the models are loaded, other than those in shadow; always true for a node without routes."""
        return not self.settings.routes or (self._processes is not None and self._processes.warm)

    @property
    def reading_pid(self) -> int | None:
        """The process id of the first warm process while it lives."""
        return self._processes.first_pid if self._processes is not None else None

    @property
    def spare_pid(self) -> int | None:
        """The process id of the spare warm process, which lives while many studies wait."""
        return self._processes.spare_pid if self._processes is not None else None

    @property
    def shadow_pid(self) -> int | None:
        """The process id of the warm process of models in shadow; None if no route has any."""
        return self._processes.shadow_pid if self._processes is not None else None

    def received(self, sop_instance_uid: str) -> tuple[Path, float] | None:
        """The file of a received instance and when it came (epoch seconds); None if the node does not have it."""
        known = self.index.received(sop_instance_uid) if self.index is not None else None
        if known is None or known.removed is not None:
            return None
        return self._spool.path(known.file), known.received

    def result_file(self, sop_instance_uid: str) -> Path | None:
        """The file of a result of this node; None if the node did not make it, or retention has removed it."""
        result = self.index.result(sop_instance_uid) if self.index is not None else None
        return None if result is None or result.removed is not None else self._spool.path(result.file)

    def start(self) -> None:
        """Lock the data folder, listen, and begin to work.

        Raises:
            ConfigError: the folder or the port cannot be used; nothing keeps running.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        holder, clock = self._holder, self._clock
        settings = holder.current
        self._spool.open()
        index_start.refuse_without_index(self._spool.root)
        new = not (self._spool.root / INDEX_FILE).exists()
        index = self.index = Index(self._spool.root / INDEX_FILE, create=True)
        if new:  # nothing changes for a site that begins
            upgrade.remember(self._spool.root)
        try:
            removed = self._spool.recover(index.known_files)
            self._clock_watch = ClockWatch(
                self._steady, index, self._spool.root, synchronised=self._synchronised, on_step=self._wake_completer
            )
            self._clock_watch.begin()
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
            keep_free=lambda: round(holder.current.node.keep_free_gb * 1e9),
            max_waiting=lambda: holder.current.node.max_waiting_studies,
        )
        storage = StorageSCP(store, on_release=self._wake_completer, clock=self._steady.mark)
        marks = (
            (store.no_room, "make room on that disk"),
            (store.backlog, "see in dicom-node studies and in the log why reading does not keep up"),
        )
        self._server = Server(holder, self._services(index, storage), marks=marks, clock=self._steady.mark)
        self._server.start()  # first of all: a modality that pushes now is served now
        Models(settings.node.data_dir).note_loaded(self._bundles)
        self._processes = WarmProcesses(settings, self._bundles, index, self._wake_readers)
        slots = self._processes.start()
        self._readers = [self._reader(slot, index) for slot in slots]
        self._readers += [self._summarizer(slot, index) for slot in slots[:1]]
        for peer in settings.destinations():
            sender = Sender(settings, peer, index, self._spool, clock=clock)
            self._senders.append(self._calling_worker(index, "send", sender, peer, sender.close))
            if peer.iocm:
                withdrawer = Withdrawer(settings, peer, index, self._spool, self._site(index), clock=clock)
                self._withdrawers.append(self._calling_worker(index, "withdraw", withdrawer, peer, withdrawer.close))
        for worker in self._workers:
            worker.start()
        self._counters = {
            name: Counter(settings.node.ae_title, settings.peer(name), self._steady.mark)
            for name in dict.fromkeys(route.count_at for route in settings.routes)
            if name is not None
        }
        for counter in self._counters.values():
            counter.start()
        self._completer = Completer(
            holder,
            index,
            self._wake_readers,
            clock,
            last_byte=lambda study: self._steady.at(storage.last_byte(study)),
            released=lambda study: self._steady.at(storage.released(study)),
            counts={name: counter.count for name, counter in self._counters.items()},
        )
        self._completer.start()
        self._retention = Retention(
            holder,
            index,
            self._spool,
            store,
            clock,
            last_byte=storage.last_byte,
            doubts=self._clock_watch.doubts,
        )
        self._retention.start()
        self._upkeep = index_start.Upkeep(index)
        self._upkeep.start()
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
        commitment = StorageCommitmentSCP(self._holder, index, self._spool, on_request=self._wake_reporter, clock=clock)
        commitment.tell_at_start(peers_that_ask(self._spool.root / INDEX_FILE))
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

    def _site(self, index: Index) -> str:
        """What tells this installation's results from those of every other."""
        return f"{self.settings.node.ae_title}/{index.node_id()}"

    def _reader(self, slot: Slot, index: Index) -> Worker:
        """The worker of one executor of readings."""
        reader = Reader(
            self._holder,
            index,
            self._spool,
            slot.executor,
            self._site(index),
            on_sends=self._wake_all,
            processors=slot.processors,
            clock=self._clock,
        )
        return Worker(
            index,
            slot.kind,
            reader,
            patience=slot.patience,
            lease_seconds=slot.lease_seconds,
            on_failure=reader.failed,
            when=slot.when,
            idle=slot.idle,
            clock=self._clock,
        )

    def _summarizer(self, slot: Slot, index: Index) -> Worker:
        """The worker that compares what models say, with the executor of their readings."""
        summarizer = Summarizer(
            self._holder,
            index,
            self._spool,
            slot.executor,
            self._site(index),
            on_sends=self._wake_senders,
            clock=self._clock,
        )
        return Worker(
            index, "summary", summarizer, patience=slot.patience, lease_seconds=slot.lease_seconds, clock=self._clock
        )

    @property
    def stuck(self) -> str:
        """The name of a part of the node that has died, so that studies get no outcome; empty if all parts run."""
        if self._completer is not None and not self._completer.alive:
            return "completer"
        return next((worker.name for worker in self._workers if not worker.alive), "")

    @property
    def _workers(self) -> list[Worker]:
        delivering = (*self._senders, *self._withdrawers, *self._committers.values())
        return [*self._readers, *delivering, *self._reporters.values()]

    def _wake_readers(self) -> None:
        for worker in self._readers:
            worker.wake()

    def _wake_all(self) -> None:
        """A study was read: its results are to be sent, and may be compared."""
        self._wake_senders()
        self._wake_readers()

    def _wake_senders(self) -> None:
        for worker in self._senders:
            worker.wake()

    def stop(self) -> None:
        """Stop receiving, queue running jobs again, and release the data folder so another node can use it."""
        if self._server is not None:
            self._server.stop()
        if self._completer is not None:
            self._completer.stop()
        if self._retention is not None:
            self._retention.stop()
        if self._upkeep is not None:
            self._upkeep.stop()
        if self._clock_watch is not None:
            self._clock_watch.stop()
        workers = self._workers
        for worker in workers:
            worker.ask_to_stop()
        for counter in self._counters.values():
            counter.stop()
        if self._processes is not None:
            self._processes.stop()
        for worker in workers:
            worker.join(timeout=90.0)
        if self.index is not None:
            self.index.close()
            self.index = None
        self._spool.close()
