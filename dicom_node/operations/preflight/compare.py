"""Comparison of what a PACS returned with what was sent: attribute by attribute, and element by element.

The values are those of test objects, so they may be shown. What the PACS returned may be of any type and length, and
pydicom may raise any error when it decodes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicom_node.log import printable

_SHOWN = 64
_LISTED = 8
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_TRAILING_PADDING = Tag("DataSetTrailingPadding")
_CANNOT = "(cannot be decoded)"


@dataclass(frozen=True, slots=True)
class Difference:
    """One attribute that did not come back as it was sent; ``path`` is its keywords and tag."""

    kind: Literal["altered", "removed", "added"]
    path: str
    sent: str = ""
    returned: str = ""

    def __str__(self) -> str:
        if self.kind == "altered":
            return f"{self.path} was sent as {self.sent} and came back as {self.returned}"
        if self.kind == "removed":
            return f"{self.path} was sent as {self.sent} and did not come back"
        return f"{self.path} was added: {self.returned}"


def told(differences: Sequence[Difference]) -> str:
    """Differences in one line, the first few of them in full."""
    more = f"; and {len(differences) - _LISTED} more" if len(differences) > _LISTED else ""
    return "; ".join(map(str, differences[:_LISTED])) + more


def answered(sent: Dataset, returned: Dataset, keywords: Sequence[str], required: Sequence[str]) -> list[Difference]:
    """Compare the attributes ``keywords`` of a C-FIND response with what was stored, each value in a normal form.

    An optional return key that is empty or absent is not supported (PS3.4 C.2.2.1.3) and not a difference. One of
    ``required`` is a difference.
    """
    found = []
    for keyword in keywords:
        tag = Tag(keyword)
        was, now = _plain(sent, tag), _plain(returned, tag)
        if was == now or (not now and keyword not in required):
            continue
        path = f"{keyword} {tag}"
        if not was:
            found.append(Difference("added", path, returned=_quoted(now)))
        elif not now:
            found.append(Difference("removed", path, sent=_quoted(was)))
        else:
            found.append(Difference("altered", path, _quoted(was), _quoted(now)))
    return found


def elements(sent: Dataset, returned: Dataset, within: str = "") -> Iterator[Difference]:
    """Compare two data sets element by element, sequences item by item; padding and group lengths do not count."""
    for tag in sorted(_tags(sent) | _tags(returned)):
        path = f"{within}{keyword_for_tag(tag) or 'private element'}"
        was, now = _value(sent, tag), _value(returned, tag)
        if now is None:
            yield Difference("removed", f"{path} {tag}", sent=_described(was))
        elif was is None:
            yield Difference("added", f"{path} {tag}", returned=_described(now))
        elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
            for number, (one, other) in enumerate(zip(was, now, strict=True), start=1):
                yield from elements(one, other, f"{path}[{number}].")
        elif was != now:
            yield Difference("altered", f"{path} {tag}", _described(was), _described(now))


def _tags(dataset: Dataset) -> set[BaseTag]:
    tags = dataset.keys()  # a loop over the data set itself would decode every element
    return {tag for tag in tags if tag.element and tag != _TRAILING_PADDING}


def _value(dataset: Dataset, tag: BaseTag) -> Any:
    """A value that can be compared: a list of items, bytes without padding, or text. None if it is absent."""
    if tag not in dataset:
        return None
    try:
        element = dataset[tag]
        value = element.value
        if element.VR == "SQ":
            return list(value)
        if isinstance(value, bytes):
            # In implicit VR, and where it is not known, an element of numbers or text may come back as bytes.
            return value.rstrip(b"\0") if element.VR in _BULK else _text(value.decode("latin-1"))
        return _text(value)
    except Exception:  # pydicom raises nearly any error on bytes that are not a value
        return _CANNOT


def _text(value: Any) -> str:
    if value is None:
        return ""
    parts = value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]
    return "\\".join(str(part).strip(" \0") for part in parts)


def _plain(dataset: Dataset, tag: BaseTag) -> str:
    """A C-FIND value in a normal form: numbers without leading zeros, times without fractions, names without ^^^."""
    value = _value(dataset, tag)
    text = "" if value is None else value if isinstance(value, str) else _described(value)
    vr = dictionary_VR(tag)
    if vr == "TM":
        return text.replace(":", "").partition(".")[0].ljust(6, "0") if text else ""
    if vr == "PN":
        return "=".join(group.rstrip("^ ") for group in text.split("=")).rstrip("=")
    if vr in {"IS", "US"} and text.strip("+").isdigit():
        return str(int(text))
    return text


def _described(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} item{'s' * (len(value) != 1)}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    return f"'{printable(text, _SHOWN)}'" if text else "empty"
