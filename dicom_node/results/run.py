"""What is encoded: one reading for one profile (`Run`), the roles of its result objects, and the report it replaces.

Start here for: the kinds of result object with their series numbers and descriptions (`ROLES`), when a result says that
it is not for diagnosis (`Run.research`, `Run.warnings`), and the language of its texts (`Run.words`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ai.contract import Reading
from dicom_node.config.settings import SERIES_OF_A_MODEL, Profile
from dicom_node.config.values import Language
from dicom_node.results.uids import digest_of
from dicom_node.results.words.language import Words
from dicom_node.results.words.texts import WORDS


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of result object: a series of its own in the source study.

    Its Series Number is that of the model's range (:attr:`Run.first_series`) plus ``offset``; ``kind`` tells it from
    the model's other series in the Series Description.
    """

    offset: int
    kind: str


SCHEME: Final = "99DICOMNODE"
"""The coding scheme (PS3.3 8.2) of the codes of our own: what no public scheme has a code for."""

ROLES: dict[str, Role] = {
    "sr": Role(0, "report"),
    "sc": Role(1, "picture"),
    "gsps": Role(2, "marks"),
    "seg": Role(3, "segments"),
    "pdf": Role(4, "page"),
    "kos": Role(5, "keys"),
}
"""The roles, in the order in which their objects are sent."""

SUMMARY_OFFSET: Final = 8
"""The offset of a summary's first role (:mod:`dicom_node.results.summary`), behind those of the model's own results."""

_SHORT = 11
"""The most characters of a model's name at the beginning of a Series Description."""


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The earlier report that this run's report replaces; ``created`` (timezone-aware) is when its reading was made."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One reading to be encoded as DICOM objects for the destinations of one profile.

    ``key`` is :func:`uids.run_key` (hex). ``created`` is timezone-aware, taken once when the run is created, and the
    only time in its result objects. ``site`` names the installation. ``in_english`` overrides the profile's language;
    it is set when a source's character set cannot hold that language and cannot be converted. ``place`` counts from 0
    the models of the configuration: each has a range of Series Numbers of its own, in which the roles begin at
    ``offset``.

    Raises:
        ValueError: ``created`` has no time zone.
    """

    key: str
    created: datetime
    site: str
    reading: Reading
    profile: Profile = field(default_factory=Profile)
    predecessor: Predecessor | None = None
    in_english: bool = False
    place: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError("Run.created has no time zone, so its local time would depend on the machine")

    @property
    def objects_key(self) -> str:
        """The key from which UIDs derive: another profile, or another range of Series Numbers, gives other objects."""
        return digest_of("objects", self.key, self.profile.digest, *([self.place] if self.place else []))

    @property
    def first_series(self) -> int:
        """The Series Number of the model's first role."""
        return self.profile.series_number_base + SERIES_OF_A_MODEL * self.place + self.offset

    def series_description(self, role: str) -> str:
        """The description of a role's series: what tells it from the others stands in its first 18 characters.

        Viewers cut the rest. A model whose name does not fit there has its full name at the end.
        """
        name = self.reading.model.name
        short = name if len(name) <= _SHORT else f"{name[:7]}~{digest_of(name)[:3]}"
        research = " - not for diagnostic use" if self.research else ""
        return f"AI {short} {ROLES[role].kind}{research}{'' if short == name else f': {name}'}"

    @property
    def language(self) -> Language:
        """The language of every text in the objects that a person reads."""
        return "en" if self.in_english else self.profile.language

    @property
    def words(self) -> Words:
        """The texts in the run's language."""
        return WORDS[self.language]

    @property
    def research(self) -> bool:
        """Whether the objects must say that they are not for diagnosis (Content Qualification RESEARCH)."""
        return self.profile.content_qualification == "RESEARCH"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sentences that every object must show: "not for diagnosis" if RESEARCH, then the model's own notice."""
        research = (self.words.not_for_diagnosis,) if self.research else ()
        notice = self.words.notice(self.reading.model.notice)
        return (*research, notice) if notice else research
