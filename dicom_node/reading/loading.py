"""Loads the models of a warm process at its start, and reports which could not be loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ai.bundle.files import BundleError
from ai.bundle.pins import Pinned, TamperedError
from ai.contract import BusyError, Model
from ai.engine import process
from ai.engine.devices import devices
from ai.engine.shelf import Loaded, Shelf, Title, out_of_memory
from ai.inference import bundle_model
from dicom_node.log import silence_libraries

_NICE = 10  # of 19: reading yields a busy processor to receiving, because a modality waits for that
_NICE_IN_BACKGROUND = 15  # a process in the background yields to reading


@dataclass(frozen=True, slots=True)
class Broken:
    """A bundle that could not be loaded, and why; ``path`` is None if its files differ from their pins."""

    path: Path | None
    reason: str


@dataclass(frozen=True, slots=True)
class Warm:
    """The state of a warm process: its models, and how loading each of them went."""

    models: dict[str, Model | Broken]
    bundles: Mapping[str, Pinned]
    shelf: Shelf
    complaint: str
    waiting: dict[str, str]


@dataclass(frozen=True, slots=True)
class Loads:
    """How loading went: ``loaded`` models with their device, ``failed`` and ``waiting`` ones with the reason.

    For a waiting model there is no memory beside the others; it is loaded when a study needs it. ``complaint`` is about
    the device that the configuration asks for, empty if there is none.
    """

    loaded: Mapping[str, str]
    waiting: Mapping[str, str]
    failed: Mapping[str, str]
    complaint: str


def load_models(bundles: Mapping[str, Pinned], device: str, *, background: bool = False) -> Warm:
    """Load every bundle that memory is free for, and all that encoding needs; runs in the warm process.

    A process in the ``background`` yields the processor to the other processes of the node.
    """
    os.nice(_NICE_IN_BACKGROUND if background else _NICE)
    import dicom_node.results  # noqa: PLC0415 - highdicom, torch and monai stay out of the receiver's process

    silence_libraries()
    dicom_node.results.warm_up()
    there, complaint = devices(device)
    titles: dict[str, Title] = {}
    models: dict[str, Model | Broken] = {}
    for name, pinned in bundles.items():
        try:
            titles[name] = _title(pinned)
        except BundleError as error:
            models[name] = broken_by(pinned, error)
    shelf = Shelf(titles, there, out_of_memory())
    waiting: dict[str, str] = {}
    for name in titles:  # one damaged bundle must not prevent the others from reading
        try:
            shelf.warm(name)
            models[name] = shelf[name]
        except BusyError as error:
            models[name] = shelf[name]
            waiting[name] = str(error)
        except BundleError as error:
            models[name] = broken_by(bundles[name], error)
    return Warm(models, bundles, shelf, complaint, waiting)


def _title(pinned: Pinned) -> Title:
    """The title of a bundle; its files are compared with their pins now and each time it is loaded."""
    pinned.check()
    title = bundle_model.title(pinned.path)
    return dataclasses.replace(title, load=partial(_load, pinned, title.load))


def _load(pinned: Pinned, load: Callable[[str], Loaded], device: str) -> Loaded:
    pinned.check()
    return load(device)


def broken_by(pinned: Pinned, error: BundleError) -> Broken:
    """The record of a bundle that cannot be loaded; of one that was tampered with no file is opened again."""
    return Broken(None if isinstance(error, TamperedError) else pinned.path, str(error))


def loads() -> Loads:
    """How loading went; runs in the warm process."""
    warm: Warm = process.state()
    failed = {name: model.reason for name, model in warm.models.items() if isinstance(model, Broken)}
    return Loads(warm.shelf.places(), warm.waiting, failed, warm.complaint)


def loader(bundles: Mapping[str, Pinned], device: str, *, background: bool = False) -> Callable[[], Warm]:
    """`load_models` with its arguments, as the picklable function that a warm process starts with."""
    return partial(load_models, dict(bundles), device, background=background)
