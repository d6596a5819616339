"""The form of the texts of one language (`Words`): a field for each text, a method for each that has places to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ai.contract import Code, Presence
from dicom_node.config.values import Language
from dicom_node.results.words import names, reasons


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language. The method with the name of a private field fills the ``{}`` places of that field."""

    language: Language
    locale: tuple[str, str]
    """Language of Content Item as RFC 5646 tag and its meaning (CID 5000), the meaning in English as all meanings."""
    not_for_diagnosis: str
    no_findings: str
    incomplete: str
    incomplete_without_findings: str
    no_negative_result: str
    other_reasons: str
    score: str
    threshold: str
    report: str
    finding: str
    side: str
    size: str
    verdict: str
    patient: str
    study: str
    see_report: str
    intended_use: str
    at_detector: str
    key_images: str
    light_captions: str
    no_picture: str
    presence: dict[Presence, str]
    operating_points: dict[str, str]
    not_assessed_class: str
    not_outlined_class: str
    not_looked_for_class: str
    failed_class: str
    models_compared: str
    models_failed: str
    agreement: dict[str, str]
    """By the name of a `summary.agreement.Kind`."""
    _findings: tuple[str, str]
    _unplaced: tuple[str, str]
    _also_unplaced: str
    _outlined: tuple[str, str, str]
    _parts: tuple[str, str]
    _failed: str
    _not_meant: str
    _read_at: str
    _image_of: str
    _slice: str
    _frame: str
    _none_here: str
    _not_read: str
    _read_by: str
    _replaces: str
    _heat_map: str
    _montage: str
    _axes: str
    _more: tuple[str, str]
    _unreadable: str
    _not_assessed: str
    _operating_point: str
    _not_looked_for: str
    _differential: str
    _chances: str
    _probability: str
    _ppv: str
    _ppv_other: str
    _npv: str
    _or: str
    _summary_of: str

    def name(self, code: Code, english: str) -> str:
        """The name of a coded concept."""
        return names.NAMES.get((code.value, code.scheme), {}).get(self.language, english)

    def notice(self, english: str) -> str:
        """A model's notice."""
        return names.NOTICES.get(english, {}).get(self.language, english)

    def use(self, english: str) -> str:
        """A model's intended use."""
        return names.INTENDED_USES.get(english, {}).get(self.language, english)

    def reason(self, english: str) -> str:
        """The reason why something was not read."""
        return reasons.translated(english, self.language)

    def findings(self, marked: int, unplaced: int) -> str:
        """How many findings are marked and how many have no place, not both 0, as a verdict without a full stop."""
        if not marked:
            return self._unplaced[unplaced > 1].format(unplaced)
        also = [self._also_unplaced.format(unplaced)] if unplaced else []
        return "; ".join([self._findings[marked > 1].format(marked), *also])

    def outlined(self, count: int) -> str:
        """The number of outlined structures, for a model that looks for no findings."""
        return self._outlined[min(count, 2)].format(count)

    def parts(self, count: int) -> str:
        """The number of parts that were passed over: a reading does not tell images from other objects and series."""
        return self._parts[count > 1].format(count)

    def unanswered(self, reason: str, *, tried: bool) -> str:
        """That nothing was read and why: it failed, or was not tried."""
        return (self._failed if tried else self._not_meant).format(reason)

    def read_at(self, time: str) -> str:
        """When the reading was made."""
        return self._read_at.format(time)

    def image_of(self, number: int, total: int) -> str:
        """The number of this image among the images read."""
        return self._image_of.format(number, total)

    def slice(self, number: int) -> str:
        """The instance number of a slice."""
        return self._slice.format(number)

    def frame(self, number: int) -> str:
        """The number of a frame."""
        return self._frame.format(number)

    def none_here(self, study: str) -> str:
        """That the verdict ``study`` holds for the study, and that nothing lies on this image."""
        return self._none_here.format(study)

    def not_read(self, count: int, why: str) -> str:
        """How much of the study was not read, and why."""
        return self._not_read.format(self.parts(count), why)

    def read_by(self, model: str, version: str, manufacturer: str) -> str:
        """The model that made the reading."""
        return self._read_by.format(model, version, manufacturer)

    def replaces(self, time: str) -> str:
        """That this report replaces an earlier one."""
        return self._replaces.format(time)

    def heat_map(self, classes: str) -> str:
        """What a heat map shows."""
        return self._heat_map.format(classes)

    def montage(self, shown: int, total: int) -> str:
        """How many of a series' slices a montage shows."""
        return self._montage.format(shown, total)

    def axes(self, long: str, short: str) -> str:
        """The two axes of a finding in mm."""
        return self._axes.format(long, short)

    def more_findings(self, count: int) -> str:
        """The number of findings on images that have no picture."""
        return self._more[count > 1].format(count)

    def unreadable(self, count: int, why: str) -> str:
        """How much of what should have been read could not be read, and why."""
        return self._unreadable.format(self.parts(count), why)

    def not_assessed(self, classes: Sequence[str]) -> str:
        """The classes that the model has but gives no verdict on."""
        return self._not_assessed.format(self._listed(classes))

    def operating_point(self, name: str) -> str:
        """The operating point by whose thresholds the classes were called."""
        return self._operating_point.format(self.operating_points.get(name, name))

    def not_looked_for(self, classes: Sequence[str]) -> str:
        """The classes that the model has and that were not looked for."""
        return self._not_looked_for.format(self._listed(classes))

    def differential(self, name: str, conditions: Sequence[str]) -> str:
        """The conditions that a class may stand for, since the model cannot tell them apart."""
        *first, last = (each[:1].lower() + each[1:] if self.language == "en" else each for each in conditions)
        return self._differential.format(name, f"{self._listed(first)}{self._or}{last}" if first else last)

    def probability(self, percent: str) -> str:
        """The probability of a class."""
        return self._probability.format(percent)

    def ppv(self, percent: str) -> str:
        """The positive predictive value of a class where all others are without findings."""
        return self._ppv.format(percent)

    def ppv_other(self, percent: str) -> str:
        """The positive predictive value of a class where all others have other findings; it follows `ppv`."""
        return self._ppv_other.format(percent)

    def npv(self, percent: str) -> str:
        """The negative predictive value of a class."""
        return self._npv.format(percent)

    def chances(self, name: str, figures: Sequence[str], prevalence: str) -> str:
        """What the verdict on a class means at a prevalence: `probability`, `ppv` and `npv`."""
        return self._chances.format(name, self._listed(figures), prevalence)

    def summary_of(self, models: Sequence[str]) -> str:
        """That this is the summary of what these models say."""
        return self._summary_of.format(self._listed(models))

    def _listed(self, parts: Sequence[str]) -> str:
        return ("、" if self.language == "ja" else ", ").join(parts)
