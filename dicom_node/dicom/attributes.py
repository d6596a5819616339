"""Attributes of a data set that a stranger sent: each value is checked before it is used."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

_MOST_OBJECTS = 100_000  # of one answer; a run has some dozens


def items(dataset: Dataset, name: str) -> list[Dataset]:
    """The items of a sequence, none where it is missing.

    Raises:
        Exception: whatever pydicom raises on hostile bytes; ValueError: there are too many.
    """
    found = dataset.get(name)
    listed = list(found) if found is not None else []
    if len(listed) > _MOST_OBJECTS:
        raise ValueError("too many objects")
    return listed


def uid_of(dataset: Dataset, name: str) -> str:
    """The value of an attribute that has to be a UID.

    Raises:
        Exception: as in `items`; ValueError: it is none.
    """
    value = str(getattr(dataset, name))
    if not is_uid(value):
        raise ValueError(f"{name} is no UID")
    return value


_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(text: str) -> bool:
    """PS3.5 9.1: digits in components between dots, 64 characters at most.

    Leading zeros of a component, which the standard forbids and some devices send, are let through: they do no harm, a
    refused image does.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None
