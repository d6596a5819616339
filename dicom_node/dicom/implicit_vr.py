"""Converts a file from Explicit VR Little Endian to Implicit VR Little Endian (PS3.5 annex A)."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian


def as_implicit(path: Path) -> Dataset:
    """Read a file in Explicit VR Little Endian as a data set that pydicom writes in Implicit VR Little Endian.

    For an AE that accepts no other transfer syntax.

    Raises:
        OSError: the file cannot be read.
        Exception: whatever pydicom raises if the file is damaged.
    """
    return made_implicit(dcmread(path))


def made_implicit(dataset: Dataset) -> Dataset:
    """A data set that was read in Explicit VR Little Endian, changed in place for Implicit VR Little Endian.

    Values keep their bytes. Only sequences are parsed, because the elements of their items have VRs of their own.
    """
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
