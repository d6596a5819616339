"""How scores are shown to people: numbers with two decimals and no unit, on the side of the threshold that was meant.

A score (0 to 1) is no probability of disease at a site, so it has no %.
"""

from __future__ import annotations


def shown_threshold(threshold: float) -> float:
    """A threshold with two decimals; 0.01 at least, so that a score can be shown below it."""
    return max(1, round(100.0 * threshold)) / 100.0


def shown_score(score: float, threshold: float, *, reached: bool) -> float:
    """A score with two decimals, not below the shown threshold if it ``reached`` that, and below it otherwise.

    A score is rounded. Where rounding would lift one below its threshold to it, or drop one that reached it, the
    nearest figure on the right side is shown.
    """
    hundredths, limit = round(100.0 * score), round(100.0 * shown_threshold(threshold))
    return (max(hundredths, limit) if reached else min(hundredths, limit - 1)) / 100.0


def score_text(score: float) -> str:
    """A shown score or threshold as text."""
    return f"{score:.2f}"
