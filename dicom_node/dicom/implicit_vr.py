"""An Explicit VR Little Endian file as Implicit VR Little Endian."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian


def as_implicit(path: Path) -> Dataset:
    """The data set of an Explicit VR Little Endian file for an AE that takes Implicit VR Little Endian only.

    Values travel as the bytes that they are; only sequences are parsed, because their items hold VRs.
    """
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    _make_implicit(dataset)
    return dataset


def _make_implicit(dataset: Dataset) -> None:
    for tag in sorted(dataset.keys()):
        element = dataset.get_item(tag)
        if element.VR == "SQ":
            for item in dataset[tag].value:
                _make_implicit(item)
    dataset.set_original_encoding(True, True)
