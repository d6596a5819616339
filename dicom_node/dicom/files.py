"""Which files are DICOM files (PS3.10 7.1), and what their file meta information says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node.errors import NodeError

_REQUIRED = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")


def dicom_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Every DICOM file among ``paths``, and in the folders among them, in order.

    Raises:
        NodeError: a path does not exist, or a file that was named is not a DICOM file.
    """
    for path in paths:
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if file.is_file() and _meta(file) is not None)
        else:
            read_meta(path)
            yield path


def read_meta(path: Path) -> FileMetaDataset:
    """The file meta information of a DICOM file, with at least its SOP Class, SOP Instance and Transfer Syntax UID.

    Raises:
        NodeError: the file does not exist, or is not a DICOM file.
    """
    meta = _meta(path)
    if meta is None:
        raise NodeError(f"{path}: is not a DICOM file" if path.exists() else f"{path}: there is no such file")
    return meta


def _meta(path: Path) -> FileMetaDataset | None:
    try:
        meta = read_file_meta_info(path)
    except (OSError, InvalidDicomError):
        return None
    return meta if all(name in meta for name in _REQUIRED) else None
