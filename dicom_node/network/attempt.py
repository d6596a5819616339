"""How a request for an association ended (PS3.8 7.1), as data and in words for a hospital's IT."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dicom_node.network.status import abort, rejection


class Outcome(StrEnum):
    """How a request for an association ended."""

    ESTABLISHED = "established"
    UNKNOWN_HOST = "unknown host"  # the host name cannot be resolved
    NO_CONNECTION = "no connection"  # there is no TCP connection: `Attempt.failure` tells why
    REJECTED = "rejected"  # an A-ASSOCIATE-RJ came: `Attempt.rejection`
    NO_CONTEXT = "no context"  # the peer accepted none of the presentation contexts: `Attempt.contexts`
    ABORTED = "aborted"  # an A-ABORT came: `Attempt.abort`
    MALFORMED = "malformed"  # something came that is not an answer to an association request
    CLOSED = "closed"  # the peer closed the connection and sent nothing
    NO_ANSWER = "no answer"  # nothing came in the time that was allowed


_WHY = {
    Outcome.ESTABLISHED: "",
    Outcome.UNKNOWN_HOST: "its host name cannot be resolved",
    Outcome.NO_CONTEXT: "it accepts none of our SOP classes",
    Outcome.MALFORMED: "it answered the association request with something that is no answer to it",
    Outcome.CLOSED: "it closed the connection and did not answer the association request",
    Outcome.NO_ANSWER: "it took the connection but did not answer the association request within {seconds:g} s",
}


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """The answer to one proposed presentation context; ``result`` is one of PS3.8 table 9-18."""

    sop_class: str
    transfer_syntax: str
    result: int

    @property
    def accepted(self) -> bool:
        """Whether the peer accepted it."""
        return self.result == 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request for an association.

    ``seconds`` is the time from the request to its end, and ``patience`` the time that the answer was allowed to take.
    ``connected`` tells whether there was a TCP connection. ``failure`` is the error of the network or of the decoder.
    ``rejection`` holds source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 9.3.4), ``abort`` source and reason of an
    A-ABORT (PS3.8 9.3.8). ``implementation`` is what the A-ASSOCIATE-AC says of the peer's software (PS3.7 D.3.3.2):
    its version name, else its class UID, else empty. It comes from a stranger and may hold any character.
    """

    outcome: Outcome
    seconds: float
    patience: float
    connected: bool = False
    failure: Exception | None = None
    rejection: tuple[int, int] | None = None
    abort: tuple[int, int] | None = None
    contexts: tuple[ContextAnswer, ...] = ()
    implementation: str = ""

    def accepted(self, sop_class: str) -> frozenset[str]:
        """The transfer syntaxes in which the peer accepted a SOP class."""
        return frozenset(one.transfer_syntax for one in self.contexts if one.accepted and one.sop_class == sop_class)

    def why(self, *, ours: str, theirs: str, peer: str) -> str:
        """Why there is no association, and what to do about it where that is known.

        Args:
            ours: our AE title.
            theirs: the AE title that was called.
            peer: the name of the peer in the configuration.
        """
        if self.outcome is Outcome.NO_CONNECTION:
            return f"no connection: {self._no_connection()}"
        if self.outcome is Outcome.REJECTED:
            told = rejection(*(self.rejection or (0, 0)), ours=ours, theirs=theirs, peer=peer)
            return f"it rejected the association: {': '.join(filter(None, told))}"
        if self.outcome is Outcome.ABORTED:
            return f"it aborted the association request: {abort(*(self.abort or (0, 0)))}"
        return _WHY[self.outcome].format(seconds=self.patience)

    def _no_connection(self) -> str:
        if isinstance(self.failure, ConnectionRefusedError):
            return "it was refused, so nothing listens there or a firewall is in between"
        if isinstance(self.failure, TimeoutError):
            within = f"within {self.patience:g} s"
            return f"no answer {within}, so the machine is off or a firewall is in between"
        return getattr(self.failure, "strerror", None) or str(self.failure or "its cause is not known")
