"""Which attributes of images are asked for, while they are read and while results are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset
from pydicom.tag import Tag

from ai.images.element_walk import Walk
from dicom_node.results.source_text import in_utf8


@contextmanager
def asked() -> Iterator[set[int]]:
    """The tags that are asked for inside, of the top level of data sets that were read from files.

    What is in a sequence belongs to the sequence. All that is listed to be read counts as asked for.
    """
    found: set[int] = set()

    paused: list[bool] = []

    def note(key: Any) -> None:
        if paused:
            return
        if isinstance(key, str):
            tag = tag_for_keyword(key)
            if tag is not None:
                found.add(int(tag))
        elif isinstance(key, slice):
            raise TypeError("a slice of a data set: say which attributes are read")
        else:
            found.add(int(Tag(key)))

    def noting(name: str) -> Callable[..., Any]:
        original = getattr(FileDataset, name)

        def noted(self: FileDataset, key: Any, *args: Any, **kwargs: Any) -> Any:
            note(key)
            return original(self, key, *args, **kwargs)

        return noted

    def all_of(name: str) -> Callable[..., Any]:
        def refused(self: FileDataset, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError(f"{name} of a whole data set: say which attributes are read")

        return refused

    read, walked = pydicom.dcmread, Walk.read

    def dcmread(*args: Any, **kwargs: Any) -> Any:
        for each in kwargs.get("specific_tags") or ():
            note(each)
        return read(*args, **kwargs)

    def walk(self: Walk, tags: Any, *args: Any, **kwargs: Any) -> Any:
        found.update(int(tag) for tag in tags)
        return walked(self, tags, *args, **kwargs)

    def converted(*args: Any) -> Any:
        paused.append(True)  # it copies everything, whoever needs it
        try:
            header = in_utf8(*args)
        finally:
            paused.pop()
        if header is not None:
            header.__class__ = FileDataset  # what is read of it is read of the image
        return header

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("dicom_node.results.encode"), "in_utf8", converted)
        for name in ("__getitem__", "get_item", "__contains__", "get", "__getattr__"):
            patch.setattr(FileDataset, name, noting(name))
        for name in ("walk", "iterall", "to_json", "to_json_dict", "elements", "group_dataset"):
            patch.setattr(FileDataset, name, all_of(name))
        patch.setattr(pydicom, "dcmread", dcmread)
        patch.setattr(Walk, "read", walk)
        yield found
