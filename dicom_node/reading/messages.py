"""What goes to a warm process and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ai.contract import PassedOver, Reading, SeriesRef
from dicom_node.config.settings import Profile
from dicom_node.index.rows import StoredReport


@dataclass(frozen=True, slots=True)
class Wanted:
    """Results for the destinations of one profile, and the report that these have already."""

    profile: Profile
    predecessor: StoredReport | None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What goes into the warm process; ``known`` are this study's runs, each with the profiles it has results for.

    ``threads`` is how many processors the network may use; None leaves it to torch. ``batch`` is in the names of the
    result files while they lie under ``incoming/``. ``removed`` are instances that retention has removed.
    """

    model: str
    study: str
    series: tuple[SeriesRef, ...]
    site: str
    created: float
    wanted: tuple[Wanted, ...]
    known: Mapping[str, frozenset[str]]
    data_dir: str
    threads: int | None = None
    batch: str = ""
    removed: tuple[str, ...] = ()

    def missing(self, run_key: str) -> tuple[Wanted, ...]:
        """What a run has no results for yet: a destination that was added takes nothing from the others."""
        there = self.known.get(run_key, frozenset())
        return tuple(each for each in self.wanted if each.profile.digest not in there)

    def is_done(self, run_key: str) -> bool:
        """Whether a run is known and has all that is wanted of it, which for a reading in shadow is nothing."""
        return run_key in self.known and not self.missing(run_key)


@dataclass(frozen=True, slots=True)
class ResultPart:
    """A result file that the warm process wrote, still under ``incoming/``; ``profile`` is that profile's digest."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    profile: str
    part: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What comes back: no ``run_key`` where nothing was eligible, no ``reading`` where the run is known already.

    ``created`` (epoch seconds) is the one time in the results. ``notes`` say what could not be made of the reading.
    """

    passed_over: tuple[PassedOver, ...]
    run_key: str | None = None
    reading: Reading | None = None
    created: float = 0.0
    parts: tuple[ResultPart, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
