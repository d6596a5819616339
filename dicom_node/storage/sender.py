"""Who sends an image, and whether it may replace one that is stored."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.index.rows import Sender


@dataclass(frozen=True, slots=True)
class Submitter:
    """An AE that brings images: its title, and the names of the peers of the configuration that it is."""

    calling_ae: str = ""
    peers: tuple[str, ...] = ()
    may_correct: bool = False

    @property
    def peer(self) -> str:
        """The name that is recorded; empty for an unknown caller."""
        return self.peers[0] if self.peers else ""

    def may_replace(self, first: Sender) -> bool:
        """Whether it may bring a changed edition of an image that ``first`` sent.

        Where no name is recorded (an unknown caller, an image of an earlier version), the AE title alone counts.
        """
        return self.may_correct or (
            first.calling_ae == self.calling_ae and (not first.peer or first.peer in self.peers)
        )


UNKNOWN = Submitter()
"""A caller of which nothing is known."""
