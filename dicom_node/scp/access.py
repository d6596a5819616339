"""Who may associate: titles and address of the caller, room on the disk, studies that wait, and a free place.

`Access` decides and touches no socket: its caller accepts, or rejects with what `Rejection` says, and writes the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from pynetdicom.sop_class import Verification

from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Peer
from dicom_node.log import printable
from dicom_node.network.addresses import addresses_of, plain

MAX_ASSOCIATIONS = 500  # for every service
MAX_ECHOES = (
    50  # more, for callers that propose Verification alone: monitoring keeps its access when all others are in use
)

# Result, source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 9.3.4).
_CALLING_UNKNOWN = (0x01, 0x01, 0x03)  # permanent, by the service user: calling AE title not recognized
_CALLED_UNKNOWN = (0x01, 0x01, 0x07)  # permanent, by the service user: called AE title not recognized
_CONGESTED = (0x02, 0x03, 0x01)  # transient, by the service provider (presentation): temporary congestion
_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)  # transient, by the service provider (presentation): local limit exceeded

#: Says why no images are accepted now (None: they are accepted), and what IT can do about it.
Mark = tuple[Callable[[], str | None], str]


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The AE that opened an association.

    ``peers`` are its entries in the configuration; empty for an unknown caller, if unknown callers are accepted.
    """

    ae_title: str
    peers: tuple[Peer, ...]

    @property
    def may_store(self) -> bool:
        """Whether it may store images here, and ask us to commit to them."""
        return not self.peers or any(peer.may_store for peer in self.peers)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an A-ASSOCIATE-RQ says of the caller: AE titles without padding, IP address, proposed abstract syntaxes."""

    called: str
    calling: str
    address: str
    sop_classes: frozenset[str]


class Place(Enum):
    """The kinds of places that an association takes."""

    ANY_SERVICE = "any service"
    ECHO_ALONE = "C-ECHO alone"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The caller may associate; it holds ``place`` until `Access.leave`."""

    peer: PeerIdentity
    place: Place


@dataclass(frozen=True, slots=True)
class Rejection:
    """The caller may not associate.

    ``answer`` is result, source and diagnostic of the A-ASSOCIATE-RJ (PS3.8 9.3.4); ``reason`` and ``fix`` are for IT.
    """

    answer: tuple[int, int, int]
    reason: str
    fix: str = ""

    @classmethod
    def failed(cls, where: str) -> Rejection:
        """The decision itself failed, at ``where``: nobody is accepted unchecked."""
        return cls(_CALLING_UNKNOWN, f"an unexpected error: {where}")


class Access:
    """Decides who may associate; any number of threads may ask.

    Args:
        settings: our AE title, the peers, and whether unknown callers are accepted.
        marks: hold off callers that may bring images.
        without_images: the SOP classes that bring no images; a caller that proposes no others is not held off.
    """

    def __init__(self, settings: SettingsHolder, marks: Sequence[Mark], without_images: Collection[str]) -> None:
        self._settings = settings
        self._marks = marks
        self._without_images = frozenset(without_images)
        self._counting = threading.Lock()
        self._taken = dict.fromkeys(Place, 0)

    def decide(self, proposal: Proposal) -> Acceptance | Rejection:
        """Accept a caller and give it a place, or say why it is rejected and what IT can do.

        Raises:
            OSError, sqlite3.Error: a mark cannot be read.
        """
        peer = self._identify(proposal)
        if isinstance(peer, Rejection):
            return peer
        if proposal.sop_classes - self._without_images:
            for mark, fix in self._marks:
                if (reason := mark()) is not None:
                    return Rejection(_CONGESTED, reason, f"{fix}; senders try again by themselves")
        place = Place.ANY_SERVICE if proposal.sop_classes - {Verification} else Place.ECHO_ALONE
        if not self._take(place):
            most = (
                f"{MAX_ASSOCIATIONS} associations"
                if place is Place.ANY_SERVICE
                else f"{MAX_ECHOES} associations for C-ECHO alone"
            )
            return Rejection(_LIMIT_EXCEEDED, f"{most} are open already; the caller may try again")
        return Acceptance(peer, place)

    def leave(self, place: Place) -> None:
        """Release the place of an association that has ended."""
        with self._counting:
            self._taken[place] -= 1

    def _take(self, place: Place) -> bool:
        with self._counting:
            if self._taken[place] >= (MAX_ASSOCIATIONS if place is Place.ANY_SERVICE else MAX_ECHOES):
                return False
            self._taken[place] += 1
            return True

    def _identify(self, proposal: Proposal) -> PeerIdentity | Rejection:
        """Find the caller among the peers by its AE title and address."""
        settings = self._settings.current
        node, calling, address = settings.node, proposal.calling, proposal.address
        if proposal.called != node.ae_title:
            return Rejection(
                _CALLED_UNKNOWN,
                f"it called AE title '{printable(proposal.called)}', but this node is '{node.ae_title}'",
                "correct the called AE title on the sender, or node.ae_title here",
            )
        titled = [peer for peer in settings.peers if peer.ae_title == calling]
        peers = tuple(peer for peer in titled if peer.any_host or _calls_from(peer, address))
        if peers or node.accept_unknown_callers:
            return PeerIdentity(calling, peers)
        if titled:
            hosts = ", ".join(str(peer.host) for peer in titled)
            return Rejection(
                _CALLING_UNKNOWN,
                f"AE title '{printable(calling)}' may call from {hosts}, not from {address}",
                f"set host = '{address}' (or any_host = true) on [[peers]] {titled[0].name}",
            )
        return Rejection(
            _CALLING_UNKNOWN,
            f"AE title '{printable(calling)}' at {address} is no peer of this node",
            'add to the configuration: [[peers]] name = "...", '
            f'ae_title = "{printable(calling)}", host = "{address}", may_store = true',
        )


def _calls_from(peer: Peer, address: str) -> bool:
    """Whether ``address`` is the peer's. A host name is looked up at each call, because IT may have moved it."""
    if peer.host is None:
        return False
    try:
        return plain(address) in addresses_of(peer.host)
    except (OSError, UnicodeError):  # the name cannot be looked up, or is not a name
        return False
