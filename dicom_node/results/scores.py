"""How scores are shown, and what a score means at a site: numbers without %, and percent only for a probability.

Start here for: the figure that is shown of a class or a finding (:func:`shown_score`, rounded by :mod:`ai.scores`), and
when a result may speak of a probability or a predictive value (:func:`chances`).

All objects round here, so that they show the same figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from ai import scores
from ai.contract import ClassResult, Finding, Presence, Reading
from dicom_node.config.settings import Profile


def shown_score(result: ClassResult) -> float:
    """A class's score with two decimals, on the side of the shown threshold that its presence says."""
    return scores.shown_score(result.score, result.threshold, reached=result.presence is Presence.PRESENT)


def shown_finding_score(reading: Reading, finding: Finding) -> float:
    """A finding's score with two decimals, never below the shown threshold of its class if it reaches that."""
    result = next((each for each in reading.classes if each.key == finding.key), None)
    if result is None:
        return round(finding.score, 2)
    return scores.shown_score(finding.score, result.threshold, reached=finding.score >= result.threshold)


@dataclass(frozen=True, slots=True)
class Chances:
    """What the verdict on a class means where a share ``prevalence`` of the patients have it; all from 0 to 1.

    ``probability`` is that of the class at this score. ``ppv`` is the share of those called present that have it, if
    all others have no finding at all; ``ppv_other`` if all others have other findings: the truth lies between. ``npv``
    is the share of those called absent that do not have it. Each is None where the model does not give its grounds; so
    is ``ppv`` for a class that is absent, and ``npv`` for one that is present.
    """

    prevalence: float
    probability: float | None
    ppv: float | None
    ppv_other: float | None
    npv: float | None


def chances(profile: Profile, result: ClassResult) -> Chances | None:
    """What the verdict on a class means at the prevalence that the profile states.

    None if it states none for the class, if the model gives no grounds, or if the class is undetermined.

    A calibrated score is the probability where half of the images have the class, so its odds are multiplied by those
    of the prevalence. The predictive values follow from sensitivity and specificity by Bayes' rule.
    """
    prevalence = dict(profile.prevalence).get(result.key)
    if prevalence is None or result.presence is Presence.UNDETERMINED:
        return None
    share, rest = prevalence, 1.0 - prevalence
    certain = probability(profile, result)
    ppv = other = npv = None
    if result.sensitivity is not None and result.specificity is not None:
        called = result.sensitivity * share
        if result.presence is Presence.ABSENT:
            npv = _share(result.specificity * rest, share - called)
        else:
            ppv = _share(called, (1.0 - result.specificity) * rest)
            if result.specificity_other is not None:
                other = _share(called, (1.0 - result.specificity_other) * rest)
    if certain is None and ppv is None and npv is None:
        return None
    return Chances(prevalence, certain, ppv, other, npv)


def probability(profile: Profile, result: ClassResult) -> float | None:
    """The probability of a class at its score; None if it is not calibrated or its prevalence not stated."""
    share = dict(profile.prevalence).get(result.key)
    if share is None or not result.calibrated:
        return None
    return _share(result.score * share, (1.0 - result.score) * (1.0 - share))


def _share(part: float, other: float) -> float | None:
    """A part of a whole; None if the whole is nothing."""
    return part / (part + other) if part + other > 0.0 else None


def percent(share: float) -> float:
    """A probability in percent, two significant digits below 10 % and one decimal above.

    It is 0.01 at least and 99.9 at most: no figure of a model is certain.
    """
    value = min(max(100.0 * share, 0.01), 99.9)
    return float(f"{value:.2g}") if value < 9.95 else round(value, 1)


def percent_text(share: float) -> str:
    """A probability in percent, as text."""
    return f"{percent(share):g} %"


def prevalence_text(share: float) -> str:
    """A prevalence in percent, as it was stated."""
    return f"{100.0 * share:.6g} %"
