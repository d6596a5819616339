"""An association that we ask a peer for, kept while there is work, and why there is none, in words for IT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt

from dicom_node.config.settings import Peer
from dicom_node.errors import Retryable
from dicom_node.network.pynetdicom_setup import application_entity, on_open
from dicom_node.network.status import rejection

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


class NoneTaken(Retryable):
    """The peer takes the association, and none of the SOP classes that it is for."""


class Calling:
    """Calls one peer, for some SOP classes; for one thread.

    ``handlers`` serve what the peer asks on the association, by pynetdicom's event; ``roles`` are role selection items
    (PS3.7 D.3.3.4) to propose.
    """

    def __init__(
        self,
        ae_title: str,
        peer: Peer,
        sop_classes: Sequence[str],
        *,
        handlers: Sequence[tuple[Any, Callable[[Any], Any]]] = (),
        roles: Sequence[Any] = (),
    ) -> None:
        self._ae_title = ae_title
        self._peer = peer
        self._sop_classes = sop_classes
        self._handlers = handlers
        self._roles = roles
        self._association: Any = None

    @property
    def name(self) -> str:
        """The peer, for a person."""
        peer = self._peer
        return f"{peer.name} ({peer.ae_title} at {peer.host}:{peer.port})"

    @property
    def is_open(self) -> bool:
        """Whether there is an association now."""
        return self._association is not None and bool(self._association.is_established)

    def open(self) -> Any:
        """The association, asked for where there is none.

        Raises:
            Retryable: it cannot be had now; `NoneTaken` where none of the SOP classes is taken.
        """
        if self.is_open:
            return self._association
        ae = application_entity(self._ae_title)
        ae.connection_timeout = ae.acse_timeout = CONNECT_SECONDS
        ae.dimse_timeout = ae.network_timeout = ANSWER_SECONDS
        for sop_class in self._sop_classes:
            # Each syntax in a context of its own: a file is sent as it is wherever the peer takes Explicit VR.
            ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
            ae.add_requested_context(sop_class, ImplicitVRLittleEndian)
        peer = self._peer
        connected: list[bool] = []
        try:
            association = ae.associate(
                peer.host,
                peer.port,
                ae_title=peer.ae_title,
                max_pdu=0,
                ext_neg=list(self._roles),
                evt_handlers=[(evt.EVT_CONN_OPEN, _on_connected, [connected]), *self._handlers],
            )
        except (OSError, UnicodeError) as error:  # pynetdicom looks the name up before it connects
            raise Retryable(f"{self.name}: its host name cannot be resolved") from error
        if association.is_established:
            self._association = association
            return association
        if association.rejected_contexts and not association.accepted_contexts:
            raise NoneTaken(f"{self.name}: it accepts none of our SOP classes")
        raise Retryable(f"{self.name}: {self._why_not(association, bool(connected))}")

    def close(self) -> None:
        """Release the association, if there is one."""
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.release()

    def drop(self) -> None:
        """Abort the association, if there is one."""
        association, self._association = self._association, None
        if association is not None and not association.is_released and not association.is_aborted:
            association.abort()

    def lost(self) -> Retryable:
        """The error for a request that was not answered; the association is aborted."""
        self.drop()
        return Retryable(f"{self.name}: no answer within {ANSWER_SECONDS:g} s, or the connection was lost")

    def broken(self, doing: str) -> Retryable:
        """The error for an association that broke while ``doing`` something; it is aborted."""
        self.drop()
        return Retryable(f"{self.name}: the association broke while {doing}")

    def _why_not(self, association: Any, connected: bool) -> str:
        if association.is_rejected:
            answer = association.acceptor.primitive
            ours, theirs, name = self._ae_title, self._peer.ae_title, self._peer.name
            told = rejection(answer.result_source, answer.diagnostic, ours=ours, theirs=theirs, peer=name)
            return f"it rejected the association: {': '.join(filter(None, told))}"
        if not connected:
            return "no connection: nothing listens there, or a firewall is in between"
        return "it took the connection but did not answer the association request"


def _on_connected(event: Any, connected: list[bool]) -> None:
    connected.append(True)
    on_open(event)
