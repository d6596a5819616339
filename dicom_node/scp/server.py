"""The server: it listens, accepts and counts connections, cuts idle ones, and logs who may associate."""

from __future__ import annotations

import errno
import itertools
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from pynetdicom import AE

from dicom_node.config.holder import SettingsHolder
from dicom_node.errors import ConfigError
from dicom_node.log import logger, silence_libraries, where
from dicom_node.network.addresses import plain
from dicom_node.network.pynetdicom_setup import application_entity
from dicom_node.scp.access import (
    MAX_ASSOCIATIONS,
    MAX_ECHOES,
    Acceptance,
    Access,
    Mark,
    PeerIdentity,
    Proposal,
    Rejection,
)
from dicom_node.scp.association import Association
from dicom_node.scp.service import Services

_MAX_UNASKED = 250  # connections that have asked for no association yet; if there are more, some are cut
_BACKLOG = 1024  # connections that the system holds until they are accepted
# A socket and an image's file for each association, a socket for each other connection, the folders of the spool, and
# everything else.
_FILES = 2 * (MAX_ASSOCIATIONS + MAX_ECHOES) + _MAX_UNASKED + 512 + 256
_STOP_SECONDS = 30.0
_TELL_SECONDS = 60.0  # at most one log line about cut connections in this time, and one about callers that are limited
_LIMITED_SECONDS = 1.0  # how long a caller that asks too often waits for its rejection
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Server:
    """Listens as an AE; every association has a thread of its own.

    Args:
        settings: our AE title, host and port, and who may associate.
        services: what others may ask of this AE.
        marks: hold off callers that may bring images.
        clock: seconds, which no step of the machine's clock moves.
    """

    def __init__(
        self,
        settings: SettingsHolder,
        services: Services,
        *,
        marks: Sequence[Mark] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._services = services
        self._clock = clock
        self._access = Access(settings, marks, {each.sop_class for each in services.supported})
        self._numbers = itertools.count(1)
        # Every connection, the oldest first, and the place of its association; None: none was accepted yet.
        self._open: dict[Association, Acceptance | None] = {}
        self._opening = threading.Lock()
        self._log_cuts_after = self._log_limits_after = 0.0
        self._ae: AE | None = None
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The TCP port in use: the configured one, or the one that the system chose for port 0."""
        if self._listener is None:
            raise RuntimeError("the server is not started")
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Bind and listen.

        Raises:
            ConfigError: the address or port cannot be used.
        """
        silence_libraries()
        _allow_files(_FILES)
        node = self._settings.current.node
        self._ae = application_entity(node.ae_title)
        for each in self._services.supported:
            roles = each.peer_roles
            self._ae.add_supported_context(each.sop_class, each.transfer_syntaxes, scu_role=roles[0], scp_role=roles[1])
        try:
            found = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            both = node.host == "::" and socket.has_dualstack_ipv6()  # every address of this machine, of both families
            listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            raise ConfigError(
                f"node.host, node.port: cannot listen on {node.host}:{node.port}: {error.strerror or error}"
            ) from error
        self._listener = listener
        self._thread = threading.Thread(target=self._accept, args=(self._ae, listener), name="server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and abort every association. What was acknowledged is stored already."""
        if self._listener is None or self._thread is None:
            return
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._listener.close()
        self._listener = None
        with self._opening:
            left = list(self._open)
        for association in left:
            association.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for association in left:
            association.thread.join(max(deadline - time.monotonic(), 0.0))

    def _accept(self, ae: AE, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = listener.accept()
            except OSError as error:
                if error.errno == errno.EINVAL or listener.fileno() < 0:
                    return  # it is shut down
                if error.errno in _EXHAUSTED:
                    logger().error("association.rejected", reason=f"the system has no more to give: {error.strerror}")
                    time.sleep(0.1)
                continue
            host, port = plain(str(address[0])), int(address[1])
            try:
                association = Association(
                    sock,
                    (host, port),
                    ae,
                    self._clock,
                    judge=self._judge,
                    admit=self._admit,
                    charge=self._charge,
                    services=self._services,
                    on_end=self._on_end,
                )
                with self._opening:
                    self._open[association] = None
                    unasked = [one for one, place in self._open.items() if place is None]
                self._cut(_too_many(unasked))
                try:
                    association.thread.start()
                except BaseException:
                    self._on_end(association)
                    raise
            except Exception as error:  # there is no thread left, or the caller is gone; the next caller is served
                logger().error("association.rejected", address=host, reason=f"it cannot be served: {where(error)}")
                sock.close()

    def _cut(self, some: list[Association]) -> None:
        """Abort connections that still ask for nothing: a caller that wants an association asks for it at once."""
        for one in some:
            one.stop()
        if some and time.monotonic() > self._log_cuts_after:
            self._log_cuts_after = time.monotonic() + _TELL_SECONDS
            reason = (
                f"{_MAX_UNASKED} connections are open that ask for no association; the oldest of the address with most "
                f"are cut, now of {some[0].address}"
            )
            logger().warning("connections.cut", reason=reason, fix="look who opens them: a port scan, a broken check?")

    def _on_end(self, association: Association) -> None:
        with self._opening:
            place = self._open.get(association)
        try:
            if place is not None:
                self._services.ended(association)
        finally:
            with self._opening:
                self._open.pop(association, None)
            if place is not None:
                self._access.leave(place)

    def _judge(self, proposal: Proposal) -> PeerIdentity | Rejection:
        """Know the caller before its request is parsed, and log why it is rejected; a failure rejects."""
        structlog.contextvars.bind_contextvars(
            association=next(self._numbers),
            calling_ae=proposal.calling,
            called_ae=proposal.called,
            address=proposal.address,
        )
        try:
            decision = self._access.judge(proposal)
        except Exception as error:
            decision = Rejection.failed(where(error))
        if isinstance(decision, Rejection):
            self._tell_rejected(decision)
        return decision

    def _tell_rejected(self, rejection: Rejection) -> None:
        if rejection.limited:
            time.sleep(_LIMITED_SECONDS)  # who asks again at once is held up by its own question
            with self._opening:
                if time.monotonic() < self._log_limits_after:
                    return
                self._log_limits_after = time.monotonic() + _TELL_SECONDS
        logger().warning("association.rejected", reason=rejection.reason, fix=rejection.fix)

    def _charge(self, peer: PeerIdentity | None, address: str, seconds: float) -> bool:
        """Note what a caller cost; whether it may cost more now."""
        self._access.charge(peer, address, seconds)
        return peer is None or not self._access.is_overdrawn(peer, address)

    def _admit(self, association: Association, peer: PeerIdentity, proposal: Proposal) -> Rejection | None:
        """Decide whether a caller that is known may associate, and log the decision; a failure rejects."""
        try:
            decision = self._access.decide(proposal, peer)
        except Exception as error:
            decision = Rejection.failed(where(error))
        if isinstance(decision, Rejection):
            self._tell_rejected(decision)
            return decision
        with self._opening:
            self._open[association] = decision
        names = ", ".join(one.name for one in peer.peers)
        logger().debug("association.accepted", peer=names or "unknown caller")
        return None


def _too_many(unasked: list[Association]) -> list[Association]:
    """Those to cut of connections that ask for nothing, the oldest first: of the address that has most of them.

    So a caller that opens hundreds cuts its own, and not the modality's that is about to ask.
    """
    over = len(unasked) - _MAX_UNASKED
    if over <= 0:
        return []
    ((most, _),) = Counter(one.address for one in unasked).most_common(1)
    return [one for one in unasked if one.address == most][:over]


def _allow_files(count: int) -> None:
    """Raise this process's limit of open files and sockets to ``count``; log it if the system does not allow that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft < count:
        logger().warning(
            "files.limited",
            reason=f"this process may open {soft} files and sockets; with all associations in use it needs {count}",
            fix=f"LimitNOFILE={count} in the service's unit, or ulimit -n {count} before the start",
        )
