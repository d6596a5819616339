"""The folder of the bundle that a name on the command line means: installed, shipped, or a folder of that name."""

from __future__ import annotations

from pathlib import Path

from ai.bundle.pins import shipped_pins
from dicom_node.config.settings import Settings
from dicom_node.errors import ModelError, NodeError
from dicom_node.models.registry import Models


def bundle_folder(name: str, settings: Settings | None) -> Path:
    """The folder of the version of a model with which a node would read, its files unchanged since they were checked.

    ``settings`` is None if there is no node on this machine: then only the models that ship are known. A folder with
    this name in the current directory is taken if there is no such model, and is not checked.

    Raises:
        NodeError: there is neither a model nor a folder with this name.
        BundleError: a file of the model was changed.
    """
    if settings is None:
        shipped = shipped_pins()
        if name in shipped:
            shipped[name].check()
            return shipped[name].path
        if Path(name).is_dir():
            return Path(name)
        there = ", ".join(shipped) or "none"
        raise NodeError(f"there is no model {name!r}; there ship: {there}; for installed ones say --config FILE")
    try:
        pinned = Models(settings.node.data_dir).current(name).pinned()
    except ModelError:
        if Path(name).is_dir():
            return Path(name)
        raise
    pinned.check()
    return pinned.path
