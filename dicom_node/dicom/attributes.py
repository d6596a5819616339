"""Attributes of a data set that another AE sent: each value is checked before it is used."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset
from pydicom.uid import UID

LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage (PS3.3 A.51, Supplement 243); pydicom's dictionary does not know it yet."""

_MOST_ITEMS = 100_000  # of one sequence; a request of this node has some dozens
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def items(dataset: Dataset, name: str) -> list[Dataset]:
    """The items of a sequence; none if the data set has no such sequence.

    Raises:
        ValueError: the sequence has too many items.
        Exception: whatever pydicom raises on hostile bytes.
    """
    found = dataset.get(name)
    listed = list(found) if found is not None else []
    if len(listed) > _MOST_ITEMS:
        raise ValueError(f"{name} has {len(listed)} items; at most {_MOST_ITEMS} are accepted")
    return listed


def uid_of(dataset: Dataset, name: str) -> str:
    """The value of an attribute that must be a UID.

    Raises:
        ValueError: the value is not a UID.
        Exception: the attribute is missing, or pydicom cannot parse it.
    """
    value = str(getattr(dataset, name))
    if not is_uid(value):
        raise ValueError(f"{name} is not a UID")
    return value


def is_uid(text: str) -> bool:
    """Whether a text is a UID (PS3.5 9.1): components of digits between dots, at most 64 characters.

    Leading zeros of a component are accepted. The standard forbids them, and some devices send them: they do no harm,
    and a rejected image does.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None
