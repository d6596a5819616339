"""What every result object shares: identity, time, the copied patient and study, equipment, and how it becomes bytes.

Two rules hold here. *Nothing is random and no clock is read*: every UID derives from the run's key and every time from
:attr:`Run.created`, so that the same run always encodes to the same bytes. *A source is copied, never interpreted*: the
patient and study attributes travel as the bytes that the modality wrote, under the character set that it declared, and
pydicom never decodes or validates them: a value that breaks the standard arrives as it was sent and is never logged.

Where highdicom 0.28 has to be mended stands in this module and says why (search for "highdicom"); the largest mend is
the stand-in of :class:`source.Source`, which keeps it from ever seeing a patient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from ai.contract import Reading
from dicom_node.config.settings import Profile
from dicom_node.config.values import Language
from dicom_node.results.uids import digest_of
from dicom_node.results.words.texts import WORDS, Words


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of result object: a series of its own in the source study, numbered from the profile's base."""

    offset: int
    description: str


ROLES: dict[str, Role] = {
    "sr": Role(0, "AI report"),
    "sc": Role(1, "AI picture"),
    "gsps": Role(2, "AI marks"),
    "seg": Role(3, "AI segmentation"),
    "pdf": Role(4, "AI page"),
    "kos": Role(5, "AI key images"),
}
"""The roles in the order in which their objects are sent."""


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The report that a run's report replaces; ``created`` (timezone-aware) is when its reading was made."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One reading on its way into DICOM, for the destinations of one profile.

    ``key`` is :func:`run_key` (hex); ``created`` is timezone-aware, taken once when the run is created, and the only
    time in its result objects; ``site`` names the installation. ``in_english`` overrides the profile's language: a
    source whose character set can neither hold the other language nor be converted.
    """

    key: str
    created: datetime
    site: str
    reading: Reading
    profile: Profile = field(default_factory=Profile)
    predecessor: Predecessor | None = None
    in_english: bool = False

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError("Run.created has no time zone: its local time would depend on the machine")

    @property
    def objects_key(self) -> str:
        """What UIDs derive from: other settings make other objects of the same reading."""
        return digest_of("objects", self.key, self.profile.digest)

    @property
    def language(self) -> Language:
        """The language of every text that a person reads."""
        return "en" if self.in_english else self.profile.language

    @property
    def words(self) -> Words:
        """The texts in the run's language."""
        return WORDS[self.language]

    @property
    def research(self) -> bool:
        """Whether the objects must say that they are not for diagnosis."""
        return self.profile.content_qualification == "RESEARCH"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sentences that every object must show: not for diagnosis while RESEARCH, and the model's own notice."""
        research = (self.words.not_for_diagnosis,) if self.research else ()
        notice = self.words.notice(self.reading.model.notice)
        return (*research, notice) if notice else research


# --- identity -------------------------------------------------------------------------------------------------------


# --- the object -----------------------------------------------------------------------------------------------------


# --- what highdicom gets wrong --------------------------------------------------------------------------------------
