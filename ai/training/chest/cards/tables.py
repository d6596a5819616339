"""Markdown tables and lists."""

from __future__ import annotations

from collections.abc import Sequence


def listed(parts: Sequence[str]) -> str:
    """Parts as in a sentence, with commas and an "and" before the last one."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
