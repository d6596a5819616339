"""Who may associate: titles and address of the caller, room on the disk, studies that wait, and a free place.

`Access` decides and touches no socket: its caller accepts, or rejects with what `Rejection` says, and writes the log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from pynetdicom.sop_class import Verification

from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Peer
from dicom_node.log import printable
from dicom_node.network.addresses import addresses_of, plain
from dicom_node.scp.fairness import Allowance, Shares

MAX_ASSOCIATIONS = 500  # for every service
MAX_ECHOES = (
    50  # more, for callers that propose Verification alone: monitoring keeps its access when all others are in use
)

# How many times what is left one peer, or one unknown address, may have of the places; and all peers of one address,
# since a hospital's network may hide many behind one (NAT). Of 500 places these are 400 and 444.
_PEER_SHARE, _ADDRESS_SHARE = 4, 8

# Seconds of the interpreter that a caller may cost a second by negotiating and by messages that bring no image, and how
# many at once. A request of 128 presentation contexts costs some 20 ms, a C-ECHO's 3 ms, a rejection 1 ms.
_PEER_RATE, _PEER_BURST = 0.5, 20.0
_STRANGER_RATE, _STRANGER_BURST = 0.05, 1.0

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

    def key(self, address: str) -> str:
        """Under which name it is counted: an unknown caller, which may call itself anything, by its address."""
        return f"peer {self.ae_title}" if self.peers else f"unknown at {address}"

    def shares(self, address: str) -> tuple[tuple[Hashable, int], ...]:
        """In whose names it takes what is shared, and how many times what is left each may have (`Shares.take`)."""
        if not self.peers:
            return ((f"address {address}", _PEER_SHARE),)
        return ((self.key(address), _PEER_SHARE), (f"address {address}", _ADDRESS_SHARE))


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an A-ASSOCIATE-RQ says of the caller: AE titles without padding, IP address, proposed abstract syntaxes.

    The fixed fields are known, and judged, before the abstract syntaxes.
    """

    called: str
    calling: str
    address: str
    sop_classes: frozenset[str] = frozenset()


class Place(Enum):
    """The kinds of places that an association takes."""

    ANY_SERVICE = "any service"
    ECHO_ALONE = "C-ECHO alone"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The caller may associate; it holds ``place``, in the name of ``holders``, until `Access.leave`."""

    peer: PeerIdentity
    place: Place
    holders: tuple[tuple[Hashable, int], ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """The caller may not associate.

    ``answer`` is result, source and diagnostic of the A-ASSOCIATE-RJ (PS3.8 9.3.4); ``reason`` and ``fix`` are for IT.
    """

    answer: tuple[int, int, int]
    reason: str
    fix: str = ""
    limited: bool = False  # whether it is for asking too often: the answer may wait, and is not logged each time

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
        self._places = {place: Shares() for place in Place}
        self._of_peers = Allowance(rate=_PEER_RATE, burst=_PEER_BURST)
        self._of_strangers = Allowance(rate=_STRANGER_RATE, burst=_STRANGER_BURST)

    def judge(self, proposal: Proposal) -> PeerIdentity | Rejection:
        """Know a caller by its AE titles and address, or say why it is rejected. Nothing else is known of it yet.

        A peer of the configuration is never limited by what others at its address cost.
        """
        peer = self._identify(proposal)
        if isinstance(peer, Rejection):
            return peer if self._of_strangers.has(proposal.address) else _asks_too_often(proposal.address)
        if self._of_peers.has((peer.key(proposal.address), proposal.address)):
            return peer
        return _asks_too_often(f"'{printable(proposal.calling)}' at {proposal.address}")

    def charge(self, peer: PeerIdentity | None, address: str, seconds: float) -> None:
        """Note what negotiating with a caller, or a message of its, cost. ``peer`` is None for one that is rejected."""
        if peer is None:
            self._of_strangers.charge(address, seconds)
        else:
            self._of_peers.charge((peer.key(address), address), seconds)

    def is_overdrawn(self, peer: PeerIdentity, address: str) -> bool:
        """Whether a caller has cost more than it may, and is to wait."""
        return not self._of_peers.has((peer.key(address), address))

    def decide(self, proposal: Proposal, peer: PeerIdentity) -> Acceptance | Rejection:
        """Give a caller a place, or say why it is rejected and what IT can do.

        Args:
            proposal: what it proposes.
            peer: who it is (`judge`).

        Raises:
            OSError, sqlite3.Error: a mark cannot be read.
        """
        if proposal.sop_classes - self._without_images:
            for mark, fix in self._marks:
                if (reason := mark()) is not None:
                    return Rejection(_CONGESTED, reason, f"{fix}; senders try again by themselves")
        place = Place.ANY_SERVICE if proposal.sop_classes - {Verification} else Place.ECHO_ALONE
        most, what = (
            (MAX_ASSOCIATIONS, "associations")
            if place is Place.ANY_SERVICE
            else (MAX_ECHOES, "associations for C-ECHO alone")
        )
        holders = peer.shares(proposal.address)
        refused = self._places[place].take(holders, of=most)
        if refused == "all":
            return Rejection(_LIMIT_EXCEEDED, f"{most} {what} are open already; the caller may try again")
        if refused:
            return Rejection(
                _LIMIT_EXCEEDED,
                f"this caller, or its address, has as many of the {most} {what} as it may; the rest is for others",
                "look why it leaves associations open; it may try again",
            )
        return Acceptance(peer, place, holders)

    def leave(self, left: Acceptance) -> None:
        """Release the place of an association that has ended."""
        self._places[left.place].give_back(left.holders)

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


def _asks_too_often(who: str) -> Rejection:
    return Rejection(
        _CONGESTED,
        f"{who} asks too often, or asks too much: answering it takes more of the node's time than it may have",
        "look what calls there: a scan, a broken check, an AE title that no longer is in the configuration?",
        limited=True,
    )


def _calls_from(peer: Peer, address: str) -> bool:
    """Whether ``address`` is the peer's. A host name is looked up at each call, because IT may have moved it."""
    if peer.host is None:
        return False
    try:
        return plain(address) in addresses_of(peer.host)
    except (OSError, UnicodeError):  # the name cannot be looked up, or is not a name
        return False
